"""Semantic maps in the samples of a version: pixels summed by what becomes of them, and `seg.png`.

What the teacher says of a pixel is a class and a confidence, and so every pixel of an image with the same two has the
same fate: a table of at most 256 x 256 cells makes a sample's map of the stored one. Images are looked at one at a
time, and rows of levels a chunk at a time.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from builder.cut.kinds.kind import Checked, Kind, mixed
from builder.label.maps import kept_map, level, png, read_maps
from builder.rules.apply import decide
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Decision, Objects, Thresholds
from builder.rules.overruling import Overruled, overrule
from builder.rules.reasons import DROPPED, IGNORED, KEPT, OUTCOMES, REASONS
from builder.scan.pool import Chunk
from teachers.base import VOID

KEYS = ("category", "kept", "ignored", "dropped")
"""Of `pixels` in the label JSON: parallel lists, a class that the teacher saw in the image, and its pixels by what
became of them."""
COLUMNS = ("label", "outcome", "pixels")
"""Of labels.parquet."""


def summed(
    labelled: LabelledPool, chunks: Sequence[Chunk], thresholds: Thresholds
) -> tuple[Objects, Decision, list[str]]:
    """What rules make of these chunks' maps, one row for each image, class of the teacher and reason: with the sum of
    their pixels, and their mean score. Also each image's state."""
    parts: list[tuple[np.ndarray, ...]] = []
    states: list[str] = []
    sizes = []
    for chunk in chunks:
        objects, chunk_states = labelled.load([chunk])
        parts.append(_sums(objects, decide(objects, labelled.keep, thresholds, labelled.classes), len(states)))
        states += chunk_states
        sizes.append(objects.image_size)
    image, theirs, label, outcome, reason, pixels, score, calibrated = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    size = np.concatenate(sizes)
    boxes = np.concatenate([np.zeros((len(image), 2), np.float32), size[image].astype(np.float32)], axis=1)
    objects = Objects(
        image,
        label,
        score,
        boxes,
        size,
        [],
        calibrated=calibrated if labelled.calibrate else None,
        pixels=pixels,
        teacher_label=theirs if labelled.mapped else None,
    )
    return objects, Decision(outcome, reason), states


def _sums(objects: Objects, decision: Decision, start: int) -> tuple[np.ndarray, ...]:
    """Rows of levels added up: image (from `start` on), teacher's label, label, outcome, reason, pixels, mean score and
    mean calibrated score."""
    theirs = objects.label if objects.teacher_label is None else objects.teacher_label
    cell = (objects.image * (VOID + 1) + theirs) * len(REASONS) + decision.reason
    _, first, place = np.unique(cell, return_index=True, return_inverse=True)
    weight = np.zeros(len(place)) if objects.pixels is None else objects.pixels.astype(np.float64)
    pixels = np.bincount(place, weight, minlength=len(first))

    def mean(score: np.ndarray) -> np.ndarray:
        return (np.bincount(place, weight * score, minlength=len(first)) / np.maximum(pixels, 1)).astype(np.float32)

    return (
        objects.image[first] + start,
        theirs[first],
        objects.label[first],
        decision.outcome[first],
        decision.reason[first],
        pixels.astype(np.int32),
        mean(objects.score),
        mean(objects.confidence),
    )


def pixels_by_image(objects: Objects, decision: Decision, images: int) -> list[dict[str, Any]]:
    """For each image, the `pixels` of its label JSON (KEYS); category -1: classes that the class map sets aside."""
    cell = objects.image * (VOID + 2) + objects.label + 1
    there, place = np.unique(cell, return_inverse=True)
    columns: dict[str, np.ndarray] = {"category": (there % (VOID + 2) - 1).astype(np.int32)}
    weight = np.zeros(len(cell)) if objects.pixels is None else objects.pixels
    for name, outcome in zip(OUTCOMES, (KEPT, IGNORED, DROPPED), strict=True):
        columns[name] = np.bincount(place, weight * (decision.outcome == outcome), len(there)).astype(np.int32)
    cuts = np.searchsorted(there // (VOID + 2), np.arange(images + 1)).tolist()
    return [{name: column[a:b] for name, column in columns.items()} for a, b in pairwise(cuts)]


def taught_maps(
    labelled: LabelledPool, chunks: Sequence[Chunk], thresholds: Thresholds, places: Sequence[int]
) -> Iterator[bytes]:
    """`seg.png` of these images (positions among those of the chunks, rising): the version's class where it is kept,
    else 255. One image at a time."""
    start = 0
    for chunk in chunks:
        stop = start + len(chunk)
        mine = [place - start for place in places[bisect_left(places, start) : bisect_left(places, stop)]]
        start = stop
        if not mine:
            continue
        objects, _ = labelled.load([chunk])
        kept = np.flatnonzero(decide(objects, labelled.keep, thresholds, labelled.classes).outcome == KEPT)
        image, ours, levels = objects.image[kept], objects.label[kept], level(objects.score[kept])
        theirs = ours if objects.teacher_label is None else objects.teacher_label[kept]
        with read_maps(labelled.predictions / chunk.digest) as maps:
            for place in mine:
                rows = slice(*np.searchsorted(image, [place, place + 1]).tolist())
                yield png(kept_map(maps[place], theirs[rows], levels[rows], ours[rows]))


def _samples(
    labelled: LabelledPool, chunks: Sequence[Chunk], thresholds: Thresholds, made: Overruled, places: Sequence[int]
) -> Iterator[tuple[dict[str, Any], bytes]]:
    pixels = pixels_by_image(made.objects, made.decision, sum(map(len, chunks)))
    for place, png_bytes in zip(places, taught_maps(labelled, chunks, thresholds, places), strict=True):
        yield {"pixels": pixels[place]}, png_bytes


def _check(label: Mapping[str, Any], data: bytes, classes: int) -> str | Checked:
    """What is wrong with a sample's `pixels` and its map, or what is in them."""
    category, *counts = (np.array(label["pixels"][name], np.int64) for name in KEYS)
    try:
        with Image.open(io.BytesIO(data)) as file:
            plane = np.array(file)
    except (OSError, ValueError, SyntaxError) as error:
        return f"its map cannot be decoded ({error})"
    if plane.dtype != np.uint8 or plane.shape != (label["height"], label["width"]):
        return "its map is not 8-bit and of the image's size"
    expected = np.zeros(VOID + 1, np.int64)
    ours = category >= 0
    np.add.at(expected, category[ours], counts[KEPT][ours])
    counted = np.bincount(plane.ravel(), minlength=VOID + 1)
    expected[VOID] = counted[VOID]
    if not np.array_equal(expected, counted):
        return "its map does not hold the kept pixels of its label"
    if sum(int(column.sum()) for column in counts) > plane.size:
        return "its label has more pixels than the image"
    sums = [
        _sums_of(category, np.full(len(category), outcome), column)
        for outcome, column in zip((KEPT, IGNORED, DROPPED), counts, strict=True)
    ]
    total = np.concatenate(sums).sum(dtype=np.uint64)
    return Checked(int(counts[KEPT].sum()), int(counts[IGNORED].sum()), total)


def _row_sums(column: Mapping[str, np.ndarray]) -> np.ndarray:
    """What each row of labels.parquet (COLUMNS) adds to its image's checksum: uint64 (N,)."""
    outcome = np.select([column["outcome"] == name for name in OUTCOMES], range(len(OUTCOMES)))
    return _sums_of(column["label"], outcome, column["pixels"])


def _sums_of(label: np.ndarray, outcome: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """uint64 (N,), in proportion to the pixels, so that rows of one class and outcome may be added up."""
    return mixed([label.astype(np.int64) + 2, outcome]) * pixels.astype(np.uint64)


MAPS = Kind(
    decide=summed,
    overrule=overrule,
    samples=_samples,
    check=_check,
    columns=COLUMNS,
    row_sums=_row_sums,
)

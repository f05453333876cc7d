"""What the store holds of labelled images as evidence: a teacher's predictions of them, matched with their labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from builder.errors import BuildError
from builder.evidence.agreement import match_classes, match_maps
from builder.evidence.matching import SIZES, Matches, match_columns
from builder.kinds import kind_of
from builder.label.maps import read_maps
from builder.label.meta import read_meta
from builder.rules.apply import alive
from builder.rules.class_map import ASIDE
from builder.rules.keep import IOUS, Keep, version_classes
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Objects
from builder.scan.pool import OK as READABLE
from builder.scan.pool import Pool, PoolImage
from builder.truth.records import LabelledImage, Truth
from teachers.base import VOID, SemanticMap


def match_stored(
    truth: Truth,
    pool: Pool,
    predictions: Path,
    keep: Keep,
    ious: tuple[float, ...] = IOUS,
    area: tuple[float, float] = SIZES["all"],
) -> Matches:
    """Match what the store holds: the predictions, below the folder `predictions`, of the truth's images scanned as
    `pool`, after class map, NMS and cap of `keep` as everywhere before a threshold. area: see `match_images`.

    Raises BuildError if no labelled image has predictions, one is of another size than its labels were made for, or as
    `match_images`, `version_classes` and `LabelledPool.load` do.
    """
    description = read_meta(predictions)["description"]
    kind = kind_of(description["kind"])
    classes = version_classes(keep, description)
    labelled = LabelledPool(pool, predictions, classes, keep)
    place = {image.name: position for position, image in enumerate(truth.images)}
    parts: list[_Rows] = []
    stored: dict[int, tuple[Path, int]] = {}
    for chunk in pool.chunks():
        images = chunk.images
        where = np.array(
            [place.get(pooled.name, -1) if pooled.state == READABLE else -1 for pooled in images], np.int64
        )
        for pooled, position in zip(images, where.tolist(), strict=True):
            if position >= 0:
                _check_size(pooled, truth.images[position])
        folder = predictions / chunk.digest
        if (where < 0).all() or not folder.is_dir():
            continue
        objects, states = labelled.load([chunk])
        good = np.array([state == READABLE for state in states], bool) & (where >= 0)
        stored |= {int(where[n]): (folder, n) for n in np.flatnonzero(good).tolist()}
        if not kind.pixels:  # of maps the pixels themselves are looked at
            parts.append(_rows(objects, alive(objects, keep, len(classes)) & good[objects.image], where))
    if not stored:
        raise BuildError(
            f"none of the {len(place)} labelled images has predictions of {predictions.name[:12]}: "
            "let the same teacher label them first"
        )
    seen = sorted(stored)
    kept, left_out = replace(truth, images=[truth.images[n] for n in seen]), len(place) - len(seen)
    if kind.pixels:
        ours = np.full(VOID + 1, ASIDE, np.int16)
        ours[: len(description["classes"])] = labelled.mapped.label if labelled.mapped else np.arange(len(classes))
        return match_maps(classes, kept, _stored([stored[n] for n in seen]), ours, ious, left_out)
    rows = _Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    image = np.searchsorted(seen, rows.image)
    if kind.single:
        return match_classes(classes, kept, image, rows.label, rows.score, ious, left_out)
    codes = rows.rle if kind.outlines else None
    return match_columns(classes, kept, image, rows.label, rows.score, rows.boxes, ious, area, left_out, codes)


class _Rows(NamedTuple):
    """Predictions of labelled images; image: positions in the truth; rle: empty where there are no masks."""

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    rle: np.ndarray


def _rows(objects: Objects, mask: np.ndarray, where: np.ndarray) -> _Rows:
    """where: int64, the truth's image of each of theirs."""
    rows = np.flatnonzero(mask)
    rle = np.full(len(rows), b"", object) if objects.rle is None else objects.rle[rows]
    return _Rows(where[objects.image[rows]], objects.label[rows], objects.score[rows], objects.boxes[rows], rle)


def _stored(places: list[tuple[Path, int]]) -> Iterator[SemanticMap]:
    """Maps in the store: the chunk's folder and the position in it of each."""
    for folder, same in groupby(places, key=itemgetter(0)):
        with read_maps(folder) as maps:
            for _, position in same:
                yield maps[position]


def _check_size(image: PoolImage, truth: LabelledImage) -> None:
    """Raise BuildError if labels were made for an image of another size, since they then belong to other pixels."""
    if (image.width, image.height) != (truth.width, truth.height):
        raise BuildError(
            f"labelled image {image.name} is {image.width}x{image.height} upright, but its labels were made for "
            f"{truth.width}x{truth.height}: correct the labels (an EXIF rotation moves boxes)"
        )

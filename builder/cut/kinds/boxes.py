"""Boxes, and masks in them, in the label JSON of a sample: how they are written, and what may be wrong with them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from builder.cut.kinds.kind import HUMAN, SOURCES, Checked, Kind, mixed
from builder.label.predictions import BOX
from builder.rules.columns import mask_areas
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Decision, Objects, Thresholds
from builder.rules.overrides import Override
from builder.rules.overruling import Overruled, overrule
from builder.rules.reasons import DROPPED, IGNORED, KEPT, Reason
from builder.scan.pool import Chunk

KEYS = ("bbox", "category", "score", "ignore", "area")
"""Of `objects`; masks have `segmentation` beside them."""
COLUMNS = ("label", "score", *BOX, "outcome", "source")
"""Of labels.parquet; masks have `rle` beside them."""


def decided(
    labelled: LabelledPool, chunks: Sequence[Chunk], thresholds: Thresholds
) -> tuple[Objects, Decision, list[str]]:
    """The objects of these chunks' images, what rules make of each, and the images' states."""
    return labelled.decided(chunks, thresholds)


def _overrule_masks(
    objects: Objects, decision: Decision, overrides: Mapping[int, Sequence[Override]], classes: Sequence[str]
) -> Overruled:
    """What people drew is a box without an outline, which can teach no mask, and so an ignore region."""
    made = overrule(objects, decision, overrides, classes)
    drawn, rle = np.isin(made.decision.reason, (Reason.MOVED, Reason.ADDED)), made.objects.rle
    objects = made.objects if rle is None else replace(made.objects, rle=np.where(drawn, b"", rle))
    outcome = np.where(drawn & (made.decision.outcome == KEPT), IGNORED, made.decision.outcome).astype(np.uint8)
    return replace(made, objects=objects, decision=Decision(outcome, made.decision.reason))


def _samples(
    labelled: LabelledPool,
    chunks: Sequence[Chunk],
    thresholds: Thresholds,
    made: Overruled,
    places: Sequence[int],
    *,
    masks: bool,
) -> Iterator[tuple[dict[str, Any], bytes]]:
    objects = objects_by_image(made, sum(map(len, chunks)), masks)
    for place in places:
        yield {"objects": objects[place]}, b""


def objects_by_image(made: Overruled, images: int, masks: bool) -> list[dict[str, Any]]:
    """For each image, the `objects` of its label JSON: kept and ignored ones, boxes as COCO `xywh` pixels; masks: with
    COCO's run-length `counts` of each, "" for none, and their own area. Computed for all images at once: a slice costs
    a hundredth of what a selection of its own would."""
    objects, decision = made.objects, made.decision
    shown = np.flatnonzero(decision.outcome != DROPPED)
    boxes = objects.boxes[shown]
    size = boxes[:, 2:] - boxes[:, :2]
    area = size[:, 0] * size[:, 1]
    columns: dict[str, Any] = {
        "bbox": np.concatenate([boxes[:, :2], size], axis=1),
        "category": objects.label[shown],
        "score": objects.score[shown],
        **({} if objects.calibrated is None else {"calibrated": objects.calibrated[shown]}),
        "ignore": decision.outcome[shown] == IGNORED,
        "area": area,
        "source": np.array(SOURCES, object)[made.human[shown].astype(int)].tolist(),
    }
    if masks:
        codes = np.full(len(objects.score), b"", object) if objects.rle is None else objects.rle
        of_masks = mask_areas(objects)[shown] if objects.rle is not None else np.zeros(len(shown))
        columns["area"] = np.where(of_masks > 0, of_masks, area).astype(np.float32)
        columns["segmentation"] = [code.decode("ascii") for code in codes[shown]]
    cuts = np.searchsorted(objects.image[shown], np.arange(images + 1)).tolist()
    return [{name: column[a:b] for name, column in columns.items()} for a, b in pairwise(cuts)]


def _check(label: Mapping[str, Any], member: bytes, classes: int, *, masks: bool) -> str | Checked:
    """What is wrong with the `objects` of a label JSON, or what is in them."""
    width, height, objects = label["width"], label["height"], label["objects"]
    bbox, category, score, ignore, area = (objects[name] for name in KEYS)
    source = objects.get("source", ["teacher"] * len(ignore))
    codes = [code.encode("ascii") for code in objects["segmentation"]] if masks else None
    if not ignore:
        return Checked(0, 0, np.uint64(0))
    boxes = np.array(bbox, np.float64).reshape(-1, 4)
    slack = 1e-3 * max(width, height)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    if (low < -slack).any() or (high > np.array([width, height]) + slack).any() or (boxes[:, 2:] <= 0).any():
        return "a box is empty or reaches out of the image"
    if any(c < 0 and not i for c, i in zip(category, ignore, strict=True)):  # -1: of no class of ours
        return "a kept object has no class"
    true_area = boxes[:, 2] * boxes[:, 3]
    if codes is not None:
        if wrong := _wrong_mask(codes, ignore, width, height):
            return wrong
        true_area = _mask_areas(codes, true_area, width, height)
    if not np.allclose(area, true_area, rtol=1e-3):
        return "an area is not width times height" if codes is None else "an area is not that of its mask"
    ignored = np.array(ignore, bool)
    code = _codes(np.array(category), ignored, np.array(source) == HUMAN)
    sums = _checksums(boxes.astype(np.float32), np.array(score, np.float32), code, codes)
    return Checked(int((~ignored).sum()), int(ignored.sum()), sums.sum(dtype=np.uint64))


def _wrong_mask(codes: Sequence[bytes], ignore: Sequence[bool], width: int, height: int) -> str:
    from teachers.masks import covers

    for code, ignored in zip(codes, ignore, strict=True):
        if not code and not ignored:
            return "a kept object has no mask"
        if code and not covers(code, height, width):
            return "a mask is not of the image's size"
    return ""


def _mask_areas(codes: Sequence[bytes], boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Of the masks, in pixels; of the box where there is none, or nothing in it. float64 (N,)."""
    from teachers.masks import area

    areas = boxes.copy()
    there = [n for n, code in enumerate(codes) if code]
    of_masks = area([codes[n] for n in there], height, width)
    areas[there] = np.where(of_masks > 0, of_masks, areas[there])
    return areas


def _row_sums(column: Mapping[str, np.ndarray]) -> np.ndarray:
    """What each row of labels.parquet (COLUMNS) adds to its image's checksum: uint64 (N,), 0 for a dropped object."""
    sums = np.zeros(len(column["label"]), np.uint64)
    shown = column["outcome"] != "dropped"
    label, score, x1, y1, x2, y2, outcome, source = (column[name][shown] for name in COLUMNS)
    boxes = np.column_stack([x1, y1, x2 - x1, y2 - y1])
    codes = column["rle"][shown].tolist() if "rle" in column else None
    sums[shown] = _checksums(boxes, score, _codes(label, outcome == "ignored", source == HUMAN), codes)
    return sums


def _codes(label: np.ndarray, ignored: np.ndarray, human: np.ndarray) -> np.ndarray:
    """Class, outcome and source of kept and ignored objects as one number: uint32 (N,)."""
    return label.astype(np.uint32) * 4 + 2 * human + ignored


def _checksums(xywh: np.ndarray, score: np.ndarray, codes: np.ndarray, masks: Sequence[bytes] | None) -> np.ndarray:
    """uint64 (N,): of all that a label says of an object, to the bit; those of an image are summed, in any order."""
    floats = np.ascontiguousarray(np.column_stack([xywh, score]), np.float32) + np.float32(0)  # -0 is 0
    words = [*floats.view(np.uint32).T, codes]
    if masks is not None:
        words.append(np.array([zlib.crc32(code) for code in masks], np.uint32))
    return mixed(words)


BOXES = Kind(
    decide=decided,
    overrule=overrule,
    samples=partial(_samples, masks=False),
    check=partial(_check, masks=False),
    columns=COLUMNS,
    row_sums=_row_sums,
)
MASKS = Kind(
    decide=decided,
    overrule=_overrule_masks,
    samples=partial(_samples, masks=True),
    check=partial(_check, masks=True),
    columns=(*COLUMNS, "rle"),
    row_sums=_row_sums,
)

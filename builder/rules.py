"""What to keep, ignore and drop of a teacher's raw objects, and why: pure functions over columns.

Order: NMS → cap per image → threshold → `where` → size. Each object gets exactly one reason. An object above its
threshold that cap, `where` or size refuses becomes an ignore region (`refused: ignore`), since it is likely an object
and must not be taught as background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from builder import BuildError
from builder.where import Where
from teachers.boxes import nms

KEPT, IGNORED, DROPPED = 0, 1, 2
REASONS = ("kept", "below_threshold", "ignore_band", "nms", "cap", "where_false", "where_null", "size")
"""Why an object is what it is; positions are the codes in a Decision. `below_threshold` and `nms` are always dropped,
`ignore_band` is always ignored, those after `nms` as `refused` says."""
BELOW, BAND, NMS, CAP, WHERE_FALSE, WHERE_NULL, SIZE = range(1, len(REASONS))

Fraction = Annotated[float, Field(ge=0, le=1)]
EVERY_OTHER = "*"


class Keep(BaseModel):
    """The `keep` section of a recipe.

    score: keep at or above it; one number, or class name → number, where `"*"` stands for the classes not named.
    ignore: from here to the threshold objects are ignore regions; never above the class's threshold; `null`: none.
    nms: IoU above which the weaker box of the same class is dropped. max_per_image: the best so many boxes.
    min_size: pixels, the shorter side of a box. where: one SQL expression (builder.where). refused: see the module.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    score: Fraction | dict[str, Fraction] = 0.5
    ignore: Fraction | dict[str, Fraction] | None = 0.3
    nms: Fraction | None = None
    max_per_image: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    min_size: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    where: str | None = None
    refused: Literal["ignore", "drop"] = "ignore"

    @field_validator("where")
    @classmethod
    def _where_is_an_expression(cls, where: str | None) -> str | None:
        if where is not None:
            compiled(where)
        return where


@dataclass(frozen=True)
class Thresholds:
    """float32 (C,) each, by class position: an object is kept from `keep` on, ignored from `ignore` to it."""

    keep: np.ndarray
    ignore: np.ndarray


@dataclass(frozen=True)
class Objects:
    """Raw objects of several images as columns, in any order.

    image: int64 (N,), position in image_size and name. label: int16 (N,). score: float32 (N,). boxes: float32 (N, 4),
    xyxy pixels. image_size: int32 (I, 2), width and height. name: I paths.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    image_size: np.ndarray
    name: Sequence[str]


@dataclass(frozen=True)
class Decision:
    """outcome: uint8 (N,), KEPT, IGNORED or DROPPED; reason: uint8 (N,), a position in REASONS."""

    outcome: np.ndarray
    reason: np.ndarray


@cache
def compiled(expression: str) -> Where:
    return Where(expression)


def solve(keep: Keep, classes: Sequence[str], floor: float) -> Thresholds:
    """The thresholds a recipe asks for. Raises BuildError for an unknown class, a class without a threshold, or a
    threshold below the teacher's floor (nothing below it was stored)."""
    score = _per_class(keep.score, classes, "score")
    ignore = score if keep.ignore is None else np.minimum(_per_class(keep.ignore, classes, "ignore"), score)
    lowest = float(score.min(initial=1.0))
    if lowest < np.float32(floor):
        raise BuildError(
            f"keep.score {lowest:g} lies below the floor {floor:g} down to which the teacher's predictions "
            f"are stored: raise keep.score, or lower teacher.floor and label again"
        )
    return Thresholds(score, ignore)


def _per_class(value: float | Mapping[str, float], classes: Sequence[str], what: str) -> np.ndarray:
    if not isinstance(value, Mapping):
        return np.full(len(classes), value, np.float32)
    known = f"its classes are {', '.join(classes[:12])}{', …' if len(classes) > 12 else ''}"
    for name in value:
        if name not in classes and name != EVERY_OTHER:
            raise BuildError(f"keep.{what} names class {name!r}, which the teacher does not know: {known}")
    for name in classes:
        if name not in value and EVERY_OTHER not in value:
            raise BuildError(
                f"keep.{what} gives no number for class {name!r}: add it, or {EVERY_OTHER!r} for all others"
            )
    return np.array([value.get(name, value.get(EVERY_OTHER)) for name in classes], np.float32)


def decide(objects: Objects, keep: Keep, thresholds: Thresholds, classes: Sequence[str]) -> Decision:
    """One outcome and one reason per object. Independent of the order of rows."""
    reason = np.zeros(len(objects.score), np.uint8)
    if keep.nms is not None:
        group = objects.image * len(classes) + objects.label
        reason[~nms(objects.boxes, objects.score, group, keep.nms)] = NMS
    capped = np.zeros(len(reason), bool)
    if keep.max_per_image is not None:
        alive = np.flatnonzero(reason != NMS)
        capped[alive[_rank_in_image(objects, alive) >= keep.max_per_image]] = True
    alive = reason != NMS
    above = objects.score >= thresholds.keep[objects.label]
    reason[alive & ~above] = BELOW
    reason[alive & ~above & (objects.score >= thresholds.ignore[objects.label])] = BAND
    reason[alive & above & capped] = CAP
    if keep.where is not None:
        true, null = compiled(keep.where)(_sql_columns(objects, classes))
        reason[(reason == 0) & null] = WHERE_NULL
        reason[(reason == 0) & ~true] = WHERE_FALSE
    if keep.min_size is not None:
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        reason[(reason == 0) & (sides.min(axis=1, initial=np.inf) < keep.min_size)] = SIZE
    refused = IGNORED if keep.refused == "ignore" else DROPPED
    outcome = np.array([KEPT, DROPPED, IGNORED, DROPPED, refused, refused, refused, refused], np.uint8)
    return Decision(outcome[reason], reason)


def _rank_in_image(objects: Objects, rows: np.ndarray) -> np.ndarray:
    """Place of each row among its image's, by falling score, then by box and label, so that row order never matters."""
    columns = [objects.label[rows], *objects.boxes[rows].T, -objects.score[rows], objects.image[rows]]
    order = np.lexsort(columns)
    image = objects.image[rows][order]
    first = np.flatnonzero(np.r_[True, image[1:] != image[:-1]][: len(image)])
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
    return rank


def _sql_columns(objects: Objects, classes: Sequence[str]) -> dict[str, Any]:
    width, height = (objects.boxes[:, 2:] - objects.boxes[:, :2]).T
    x1, y1, x2, y2 = objects.boxes.T
    size = objects.image_size[objects.image]
    return {
        "class": pa.DictionaryArray.from_arrays(objects.label.astype(np.int32), pa.array(classes, pa.string())),
        "name": pa.DictionaryArray.from_arrays(objects.image.astype(np.int32), pa.array(objects.name, pa.string())),
        "score": objects.score,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "width": width,
        "height": height,
        "area": width * height,
        "aspect": width / height,
        "image_width": size[:, 0],
        "image_height": size[:, 1],
    }

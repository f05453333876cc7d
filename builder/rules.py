"""What to keep, ignore and drop of a teacher's raw objects, and why: pure functions over columns.

Order: NMS → cap per image → calibration → threshold → `where` → size → uncertainty. Each object gets exactly one
reason. An object above its threshold that cap, `where`, size or uncertainty refuses becomes an ignore region
(`refused: ignore`), since it is likely an object and must not be taught as background. Which threshold each class has
is solved before (builder.thresholds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from builder.certify import Group, Precision
from builder.where import Where
from teachers.boxes import nms

KEPT, IGNORED, DROPPED = 0, 1, 2
BY_RULE = ("kept", "below_threshold", "ignore_band", "nms", "cap", "where_false", "where_null", "size", "uncertain")
BY_PEOPLE = ("accepted", "relabelled", "moved", "added", "rejected", "superseded")
REASONS = (*BY_RULE, *BY_PEOPLE)
"""Why an object is what it is; positions are the codes in a Decision. `below_threshold` and `nms` are always dropped,
`ignore_band` is always ignored, those after `nms` as `refused` says. What people say comes after the rules
(builder.overruling): the last two are dropped, the others kept."""
BELOW, BAND, NMS, CAP, WHERE_FALSE, WHERE_NULL, SIZE, UNCERTAIN = range(1, len(BY_RULE))
ACCEPTED, RELABELLED, MOVED, ADDED, REJECTED, SUPERSEDED = range(len(BY_RULE), len(REASONS))

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
STRICT = ConfigDict(extra="forbid", frozen=True)
NUMBER, BY_CLASS = "(number)", "(by class)"
Scores = Annotated[
    Annotated[Fraction, Tag(NUMBER)] | Annotated[dict[str, Fraction], Tag(BY_CLASS)],
    Discriminator(lambda value: BY_CLASS if isinstance(value, dict) else NUMBER),
]
"""One number, or one by class. The tags stand in the places of pydantic's errors."""


class Density(BaseModel):
    """`keep.density` (LabelMatch, arXiv 2206.06608): per class the best `share` of as many boxes as the labels let
    expect are kept, the rest of that number are ignored; never below `min`."""

    model_config = STRICT
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    min: Fraction = 0.05


class Balance(BaseModel):
    """`keep.balance` (Noisy Student, arXiv 1911.04252): per class the threshold falls in steps of .01 until `images`
    images hold a box of the class, or `min` is reached."""

    model_config = STRICT
    images: Count
    min: Fraction = 0.3


class Mixture(BaseModel):
    """`keep.mixture` (Consistent-Teacher, arXiv 2209.01589): per class a mixture of two Gaussians over the scores; the
    threshold is the lowest score of the high one at or above its likeliest. `few`: what becomes of a class with fewer
    than 4 scores, or none in the high component."""

    model_config = STRICT
    few: Literal["fail", "drop"] = "drop"


RULES = ("score", "precision", "density", "balance", "mixture", "top_box")
"""Keys of `keep` of which one at most says where the thresholds come from."""


class Keep(BaseModel):
    """The `keep` section of a recipe. At most one of RULES; none means `score: 0.5`.

    score: keep at or above it; one number, or class name → number, where `"*"` stands for the classes not named.
    precision: solve thresholds for it on held-out labels. top_box (STAC, arXiv 2005.04757): the threshold, but at most
    the best score of the image. ignore: from here to the threshold objects are ignore regions; never above the class's
    threshold; `null`: none. calibration: thresholds act on scores that were calibrated on the labels.
    nms: IoU above which the weaker box of the same class is dropped. max_per_image: the best so many boxes.
    min_size: pixels, the shorter side of a box. uncertainty (Soft Teacher, arXiv 2106.09018): highest box uncertainty,
    where the teacher stores one. where: one SQL expression (builder.where). refused: see the module.
    """

    model_config = STRICT
    score: Scores | None = None
    precision: Precision | None = None
    density: Density | None = None
    balance: Balance | None = None
    mixture: Mixture | None = None
    top_box: Fraction | None = None
    ignore: Scores | None = 0.3
    calibration: Literal["none", "temperature", "isotonic"] = "none"
    nms: Fraction | None = None
    max_per_image: Count | None = None
    min_size: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    uncertainty: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    where: str | None = None
    refused: Literal["ignore", "drop"] = "ignore"

    @model_validator(mode="before")
    @classmethod
    def _one_rule(cls, value: Any) -> Any:
        if isinstance(value, dict):
            given = [name for name in RULES if value.get(name) is not None]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)} both set thresholds: give one of {', '.join(RULES)}")
            if not given:
                return value | {"score": 0.5}
        return value

    @classmethod
    def default(cls) -> Keep:
        """What a recipe without a `keep` section means."""
        return cls.model_validate({})

    @property
    def rule(self) -> str:
        return next(name for name in RULES if getattr(self, name) is not None)

    @field_validator("where")
    @classmethod
    def _where_is_an_expression(cls, where: str | None) -> str | None:
        if where is not None:
            compiled(where)
        return where


@dataclass(frozen=True)
class Thresholds:
    """float32 (C,) each, by class position: an object is kept from `keep` on, ignored from `ignore` to it; infinite
    where nothing is. groups: where they come from. top_box: whether an image's best score lowers its threshold."""

    keep: np.ndarray
    ignore: np.ndarray
    groups: tuple[Group, ...] = ()
    top_box: bool = False


@dataclass(frozen=True)
class Objects:
    """Raw objects of several images as columns, in any order.

    image: int64 (N,), position in image_size and name. label: int16 (N,). score: float32 (N,). boxes: float32 (N, 4),
    xyxy pixels. image_size: int32 (I, 2), width and height. name: I paths. calibrated: float32 (N,), on which the
    thresholds then act. uncertainty: float32 (N,), in shares of a box's size.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    image_size: np.ndarray
    name: Sequence[str]
    calibrated: np.ndarray | None = None
    uncertainty: np.ndarray | None = None

    @property
    def confidence(self) -> np.ndarray:
        """What thresholds act on; float32 (N,)."""
        return self.score if self.calibrated is None else self.calibrated


@dataclass(frozen=True)
class Decision:
    """outcome: uint8 (N,), KEPT, IGNORED or DROPPED; reason: uint8 (N,), a position in REASONS."""

    outcome: np.ndarray
    reason: np.ndarray


@cache
def compiled(expression: str) -> Where:
    return Where(expression)


def alive(objects: Objects, keep: Keep, classes: int) -> np.ndarray:
    """What NMS and the cap leave, bool (N,): what calibration and the pool's scores are made from."""
    suppressed, capped = _prefix(objects, keep, classes)
    return ~(suppressed | capped)


def _prefix(objects: Objects, keep: Keep, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """bool (N,) each: dropped by NMS, and refused by the cap."""
    suppressed = np.zeros(len(objects.score), bool)
    capped = np.zeros(len(objects.score), bool)
    if keep.nms is not None:
        group = objects.image * classes + objects.label
        suppressed = ~nms(objects.boxes, objects.score, group, keep.nms)
    if keep.max_per_image is not None:
        left = np.flatnonzero(~suppressed)
        capped[left[_rank_in_image(objects, left) >= keep.max_per_image]] = True
    return suppressed, capped


def decide(objects: Objects, keep: Keep, thresholds: Thresholds, classes: Sequence[str]) -> Decision:
    """One outcome and one reason per object. Independent of the order of rows."""
    suppressed, capped = _prefix(objects, keep, len(classes))
    confidence = objects.confidence
    threshold = thresholds.keep[objects.label]
    if thresholds.top_box:
        threshold = np.minimum(threshold, _best_of_image(objects, ~(suppressed | capped)))
    above = confidence >= threshold
    reason = np.zeros(len(confidence), np.uint8)
    reason[~above] = BELOW
    reason[~above & (confidence >= thresholds.ignore[objects.label])] = BAND
    reason[above & capped] = CAP
    reason[suppressed] = NMS
    if keep.where is not None:
        true, null = compiled(keep.where)(_sql_columns(objects, classes))
        reason[(reason == 0) & null] = WHERE_NULL
        reason[(reason == 0) & ~true] = WHERE_FALSE
    if keep.min_size is not None:
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        reason[(reason == 0) & (sides.min(axis=1, initial=np.inf) < keep.min_size)] = SIZE
    if keep.uncertainty is not None and objects.uncertainty is not None:
        reason[(reason == 0) & ~(objects.uncertainty <= keep.uncertainty)] = UNCERTAIN
    refused = IGNORED if keep.refused == "ignore" else DROPPED
    outcome = np.array([KEPT, DROPPED, IGNORED, DROPPED, *[refused] * 5], np.uint8)
    return Decision(outcome[reason], reason)


def _best_of_image(objects: Objects, among: np.ndarray) -> np.ndarray:
    """The best confidence on each object's image, of those `among`; float32 (N,)."""
    best = np.zeros(int(objects.image.max(initial=-1)) + 1, np.float32)
    np.maximum.at(best, objects.image[among], objects.confidence[among])
    return best[objects.image]


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

"""What to keep, ignore and drop of a teacher's raw objects, and why: pure functions over columns.

Order: class map → NMS → cap per image → calibration → threshold → `where` → size → uncertainty. Each object gets
exactly one reason; those whose class the map sets aside meet no other rule. An object above its threshold that cap,
`where`, size or uncertainty refuses becomes an ignore region (`refused: ignore`), since it is likely an object and must
not be taught as background. Which threshold each class has is solved before (builder.thresholds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from builder import BuildError
from builder.certify import Group, Precision
from builder.class_map import ClassMap, Mapped
from builder.columns import sql_columns
from builder.sections import Count, Fraction, Section
from builder.where import Where
from teachers.base import Kind
from teachers.boxes import nms

KEPT, IGNORED, DROPPED = 0, 1, 2
BY_RULE = (
    *("kept", "below_threshold", "ignore_band", "class_ignored", "class_dropped"),
    *("nms", "cap", "where_false", "where_null", "size", "uncertain", "thinned"),
)
BY_PEOPLE = ("accepted", "relabelled", "moved", "added", "rejected", "superseded")
REASONS = (*BY_RULE, *BY_PEOPLE)
"""Why an object is what it is; positions are the codes in a Decision. `below_threshold`, `class_dropped` and `nms` are
always dropped, `ignore_band` and `class_ignored` always ignored, those after `nms` as `refused` says; `thinned` images
of a class that has more than `balance` asks for are dropped after the rules (builder.label_classes). What people say
comes after the rules (builder.overruling): the last two are dropped, the others kept."""
BELOW, BAND, CLASS_IGNORED, CLASS_DROPPED, NMS, CAP, WHERE_FALSE, WHERE_NULL, SIZE, UNCERTAIN, THINNED = range(
    1, len(BY_RULE)
)
ACCEPTED, RELABELLED, MOVED, ADDED, REJECTED, SUPERSEDED = range(len(BY_RULE), len(REASONS))

NUMBER, BY_CLASS = "(number)", "(by class)"
Scores = Annotated[
    Annotated[Fraction, Tag(NUMBER)] | Annotated[dict[str, Fraction], Tag(BY_CLASS)],
    Discriminator(lambda value: BY_CLASS if isinstance(value, dict) else NUMBER),
]
"""One number, or one by class. The tags stand in the places of pydantic's errors."""


class Density(Section):
    """`keep.density` (LabelMatch, arXiv 2206.06608): per class the best `share` of as many boxes as the labels let
    expect are kept, the rest of that number are ignored; never below `min`."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    min: Fraction = 0.05


class Balance(Section):
    """`keep.balance` (Noisy Student, arXiv 1911.04252): per class the threshold falls in steps of .01 until `images`
    images hold a box of the class, or `min` is reached."""

    images: Count
    min: Fraction = 0.3


class Mixture(Section):
    """`keep.mixture` (Consistent-Teacher, arXiv 2209.01589): per class a mixture of two Gaussians over the scores; the
    threshold is the lowest score of the high one at or above its likeliest. `few`: what becomes of a class with fewer
    than 4 scores, or none in the high component."""

    few: Literal["fail", "drop"] = "drop"


NOUNS: dict[str, str] = {
    "detection": "boxes",
    "instance": "masks",
    "semantic": "pixels",
    "classification": "images",
}
"""Kind of prediction -> what is counted of it."""
WHOLE_IMAGE = ("nms", "max_per_image", "min_size", "uncertainty", "top_box")
"""Keys of `keep` that mean nothing where an object is a whole image, or pixels of it."""

RULES = ("score", "precision", "density", "balance", "mixture", "top_box")
"""Keys of `keep` of which one at most says where the thresholds come from."""


class Keep(Section):
    """The `keep` section of a recipe. At most one of RULES; none means `score: 0.5`.

    classes: see ClassMap; the other keys name the version's classes.
    score: keep at or above it; one number, or class name → number, where `"*"` stands for the classes not named.
    precision: solve thresholds for it on held-out labels. top_box (STAC, arXiv 2005.04757): the threshold, but at most
    the best score of the image. ignore: from here to the threshold objects are ignore regions; never above the class's
    threshold; `null`: none. calibration: thresholds act on scores that were calibrated on the labels.
    nms: IoU, of masks where there are any, above which the weaker object of the same class is dropped. max_per_image:
    the best so many boxes. min_size: pixels, the shorter side of a box. uncertainty (Soft Teacher, arXiv 2106.09018):
    highest box uncertainty, where the teacher stores one. where: one SQL expression (builder.where). refused: see the
    module.
    """

    classes: ClassMap | None = None
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


def version_classes(keep: Keep, description: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of a version that `keep` makes of the predictions of a teacher with this description.

    Raises BuildError for rules that mean nothing for what this teacher gives, and as `ClassMap.over` does.
    """
    kind: Kind = description["kind"]
    if kind in ("classification", "semantic"):
        wrong = [name for name in WHOLE_IMAGE if getattr(keep, name) is not None]
        if kind == "semantic" and keep.balance:
            wrong.append("balance")
        if wrong:
            raise BuildError(f"keep.{wrong[0]} means nothing for the {NOUNS[kind]} that this teacher labels: remove it")
    if kind == "semantic" and keep.precision and keep.precision.bound == "exact":
        raise BuildError(
            "keep.precision.bound exact bets on single objects, and these are pixels: set bound: clustered"
        )
    mapped = class_map(keep, description)
    return mapped.classes if mapped else tuple(description["classes"])


def class_map(keep: Keep, description: Mapping[str, Any]) -> Mapped | None:
    """`keep.classes` over the classes of a teacher with this description, None without one."""
    return keep.classes.over(description["classes"]) if keep.classes else None


@dataclass(frozen=True)
class Objects:
    """Raw objects of several images as columns, in any order.

    image: int64 (N,), position in image_size and name. label: int16 (N,). score: float32 (N,). boxes: float32 (N, 4),
    xyxy pixels. image_size: int32 (I, 2), width and height. name: I paths. calibrated: float32 (N,), on which the
    thresholds then act.
    Where there are any: rle, object (N,), quality, agree, uncertainty and pixels as in ChunkPredictions. With a class
    map: aside uint8 (N,), CLASS_IGNORED or CLASS_DROPPED for objects that it sets aside, whose label is -1, else 0;
    teacher_label int16 (N,), the teacher's own class of each.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    image_size: np.ndarray
    name: Sequence[str]
    calibrated: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    rle: np.ndarray | None = None
    quality: np.ndarray | None = None
    agree: np.ndarray | None = None
    pixels: np.ndarray | None = None
    aside: np.ndarray | None = None
    teacher_label: np.ndarray | None = None

    @property
    def confidence(self) -> np.ndarray:
        """What thresholds act on; float32 (N,)."""
        return self.score if self.calibrated is None else self.calibrated

    @property
    def ours(self) -> np.ndarray:
        """Which are of a class of the version, bool (N,)."""
        return np.ones(len(self.score), bool) if self.aside is None else self.aside == 0


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
    return objects.ours & ~(suppressed | capped)


def _prefix(objects: Objects, keep: Keep, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """bool (N,) each: dropped by NMS, and refused by the cap."""
    suppressed = np.zeros(len(objects.score), bool)
    capped = np.zeros(len(objects.score), bool)
    if keep.nms is not None:
        rows = np.flatnonzero(objects.ours)
        suppressed[rows] = ~_left_by_nms(objects, rows, classes, keep.nms)
    if keep.max_per_image is not None:
        left = np.flatnonzero(objects.ours & ~suppressed)
        capped[left[_rank_in_image(objects, left) >= keep.max_per_image]] = True
    return suppressed, capped


def _left_by_nms(objects: Objects, rows: np.ndarray, classes: int, iou: float) -> np.ndarray:
    """Which of these rows NMS leaves, bool: by masks where there are any, else by boxes."""
    boxes, score = objects.boxes[rows], objects.score[rows]
    group = objects.image[rows] * classes + objects.label[rows]
    if objects.rle is None:
        return nms(boxes, score, group, iou)
    from teachers import masks

    sizes = objects.image_size[objects.image[rows]][:, ::-1]
    return masks.nms(objects.rle[rows].tolist(), sizes, boxes, score, group, iou)


def decide(objects: Objects, keep: Keep, thresholds: Thresholds, classes: Sequence[str]) -> Decision:
    """One outcome and one reason per object. Independent of the order of rows."""
    suppressed, capped = _prefix(objects, keep, len(classes))
    confidence = objects.confidence
    threshold = thresholds.keep[objects.label]
    if thresholds.top_box:
        threshold = np.minimum(threshold, _best_of_image(objects, objects.ours & ~(suppressed | capped)))
    above = confidence >= threshold
    reason = np.zeros(len(confidence), np.uint8)
    reason[~above] = BELOW
    reason[~above & (confidence >= thresholds.ignore[objects.label])] = BAND
    reason[above & capped] = CAP
    reason[suppressed] = NMS
    if objects.aside is not None:
        reason = np.where(objects.ours, reason, objects.aside)
    if keep.where is not None:
        where = compiled(keep.where)
        true, null = where(sql_columns(objects, classes, where.optional))
        reason[(reason == 0) & null] = WHERE_NULL
        reason[(reason == 0) & ~true] = WHERE_FALSE
    if keep.min_size is not None:
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        reason[(reason == 0) & (sides.min(axis=1, initial=np.inf) < keep.min_size)] = SIZE
    if keep.uncertainty is not None and objects.uncertainty is not None:
        reason[(reason == 0) & ~(objects.uncertainty <= keep.uncertainty)] = UNCERTAIN
    refused = IGNORED if keep.refused == "ignore" else DROPPED
    outcome = np.array([KEPT, DROPPED, IGNORED, IGNORED, DROPPED, DROPPED, *[refused] * 5], np.uint8)
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

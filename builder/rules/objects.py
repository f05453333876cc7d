"""Records of the rules: the objects they look at, the thresholds they apply, and the reason each object gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builder.store.provenance import Group

KEPT, IGNORED, DROPPED = 0, 1, 2
BY_RULE = (
    *("kept", "below_threshold", "ignore_band", "class_ignored", "class_dropped"),
    *("nms", "cap", "where_false", "where_null", "size", "uncertain", "thinned"),
)
BY_PEOPLE = ("accepted", "relabelled", "moved", "added", "rejected", "superseded")
REASONS = (*BY_RULE, *BY_PEOPLE)
"""Why an object is what it is; positions are the codes in a Decision. `below_threshold`, `class_dropped` and `nms` are
always dropped, `ignore_band` and `class_ignored` always ignored, those after `nms` as `refused` says; `thinned` images
of a class that has more than `balance` asks for are dropped after the rules (builder.cut.kinds.classes). What people
say comes after the rules (builder.rules.overruling): the last two are dropped, the others kept."""
ACCEPTED, RELABELLED, MOVED, ADDED, REJECTED, SUPERSEDED = range(len(BY_RULE), len(REASONS))


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

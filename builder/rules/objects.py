"""Records of the rules: the objects they look at, the thresholds they apply, and the reason each object gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builder.store.provenance import Group


@dataclass(frozen=True)
class Thresholds:
    """float32 (C,) each, by class position: an object is kept from `keep` on, ignored from `ignore` to it; infinite
    where nothing is. groups: where they come from. top_box: whether an image's best score lowers its threshold."""

    keep: np.ndarray
    ignore: np.ndarray
    groups: tuple[Group, ...] = ()
    top_box: bool = False

    @property
    def kept_from(self) -> np.ndarray:
        """`keep`, to be read by people: float64 (C,), NaN where nothing is kept."""
        return np.where(np.isfinite(self.keep), self.keep, np.nan).astype(np.float64)

    @property
    def ignored_from(self) -> np.ndarray:
        """`ignore` in the same way: NaN where nothing is ignored for its score."""
        return np.where(self.ignore < self.keep, self.ignore, np.nan).astype(np.float64)


@dataclass(frozen=True)
class Objects:
    """Raw objects of several images as columns, in any order.

    image: int64 (N,), position in image_size and name. label: int16 (N,). score: float32 (N,). boxes: float32 (N, 4),
    xyxy pixels. image_size: int32 (I, 2), width and height. name: I paths. calibrated: float32 (N,), on which the
    thresholds then act.
    Where there are any: rle, object (N,), quality, agree, uncertainty and pixels as in ChunkPredictions. With a class
    map: aside uint8 (N,), Reason.CLASS_IGNORED or CLASS_DROPPED of objects that it sets aside, with label -1, else 0;
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
    """outcome: uint8 (N,), a position in OUTCOMES; reason: uint8 (N,), a Reason (builder.rules.reasons)."""

    outcome: np.ndarray
    reason: np.ndarray

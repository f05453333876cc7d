"""The scores of a whole pool as counts: all that thresholds need of it, in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 1 << 14
"""Cells of [0, 1): their edges k / BINS are exact in float32, so that a threshold on an edge counts exactly."""


@dataclass(frozen=True)
class PoolScores:
    """Scores of a pool's predictions, counted after NMS and cap.

    images: labelled images of the pool. objects: int64 (C, BINS + 1), predictions of class c with a score in
    [k, k + 1) / BINS (the last cell holds 1.0); of maps, their pixels. best: int64 (C, BINS + 1), images by the best
    score of class c on them. total: float64 (C,), sum of scores.
    """

    images: int
    objects: np.ndarray
    best: np.ndarray
    total: np.ndarray

    @property
    def per_image(self) -> float:
        """Predictions, of maps pixels, of an image."""
        return float(self.objects.sum()) / max(1, self.images)

    def above(self, labels: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64 (BINS + 1,): predictions of these classes with a score of at least k / BINS."""
        return np.cumsum(self.objects[np.asarray(labels, np.int64)].sum(axis=0)[::-1])[::-1]


def counted(place: np.ndarray, weight: np.ndarray | None, length: int) -> np.ndarray:
    """How often each of 0 … length - 1 occurs, or more, int64. weight: whole numbers, what each row counts for; None:
    one."""
    return np.bincount(place, weight, length).astype(np.int64)  # exact up to 2**53 in between


def cell(score: np.ndarray) -> np.ndarray:
    """The cell of each float32 score; int64."""
    return (score * np.float32(BINS)).astype(np.int64)


@dataclass(frozen=True)
class PoolSample:
    """Per image, float (I,): its predictions, the sum of their scores, and how many reach their threshold."""

    boxes: np.ndarray
    scores: np.ndarray
    above: np.ndarray

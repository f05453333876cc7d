"""What classifiers and segmenters are measured by: pure functions over columns and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

BINS = 15
"""Of the calibration error, as in Guo et al."""


class ClassMetrics(TypedDict):
    """accuracy: share of the labelled images whose likeliest class is right; ECE: see `calibration_error`; per_class:
    accuracy on the images of each class, -1 where there are none."""

    accuracy: float
    ECE: float
    per_class: dict[str, float]


class MapMetrics(TypedDict):
    """mIoU: mean of per_class; accuracy: share of the labelled pixels that are right; per_class: intersection over
    union of each class over all labelled pixels of all images, -1 where neither side has a pixel of it."""

    mIoU: float
    accuracy: float
    per_class: dict[str, float]


def class_metrics(truth: np.ndarray, label: np.ndarray, score: np.ndarray, classes: Sequence[str]) -> ClassMetrics:
    """truth, label: int (N,), positions in `classes`, -1 for a predicted class that is none of them; score: (N,), the
    probability of `label`. Without images all is -1."""
    right = truth == label
    images = np.bincount(truth, minlength=len(classes))
    hits = np.bincount(truth[right], minlength=len(classes))
    shares = np.divide(hits, images, out=np.full(len(classes), -1.0), where=images > 0)
    accuracy = float(right.mean()) if len(truth) else -1.0
    per_class = dict(zip(classes, shares.tolist(), strict=True))
    return ClassMetrics(accuracy=accuracy, ECE=calibration_error(right, score), per_class=per_class)


def calibration_error(right: np.ndarray, score: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al., arXiv 1706.04599, eq. 3): |share right - mean score| in bins of equal
    width of the score, weighted by their number of predictions; -1 without any."""
    if not len(score):
        return -1.0
    score = np.asarray(score, np.float64)
    place = np.clip(np.ceil(score * bins) - 1, 0, bins - 1).astype(np.int64)  # (0, 1/bins], ...
    gap = np.bincount(place, weights=right - score, minlength=bins)
    return float(np.abs(gap).sum() / len(score))


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by true and found class, int64 (classes, classes + 1), of two maps of equal shape; the last column is of
    any other value. Pixels whose true value is no class (VOID) are not counted."""
    known = truth < classes
    seen = np.minimum(found[known], classes).astype(np.int64)
    pairs = truth[known].astype(np.int64) * (classes + 1) + seen
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def map_metrics(counts: np.ndarray, classes: Sequence[str]) -> MapMetrics:
    """Of a sum of confusions. Without labelled pixels all is -1."""
    right = np.diagonal(counts)
    union = counts.sum(axis=1) + counts[:, :-1].sum(axis=0) - right
    iou = np.divide(right, union, out=np.full(len(classes), -1.0), where=union > 0)
    mean = float(iou[union > 0].mean()) if union.any() else -1.0
    total = counts.sum()
    accuracy = float(right.sum() / total) if total else -1.0
    return MapMetrics(mIoU=mean, accuracy=accuracy, per_class=dict(zip(classes, iou.tolist(), strict=True)))

"""Classes of images, measured by accuracy and expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from builder.truth.records import Truth
from students.evaluate.base import KindMeasure, Measured, Progress, predictions, shared_classes
from teachers.base import ClassProbabilities, Teacher

BINS = 15
"""Of the calibration error, as in Guo et al."""


class ClassMetrics(TypedDict):
    """accuracy: share of the labelled images whose likeliest class is right; ECE: see `calibration_error`; per_class:
    accuracy on the images of each class, -1 where there are none."""

    accuracy: float
    ECE: float
    per_class: dict[str, float]


def evaluate_classes(
    teacher: Teacher, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
) -> tuple[ClassMetrics, np.ndarray]:
    """How often a classifier's likeliest class is right, and how well its probability tells; and of each image with a
    label (the others are left out) whether it is right, bool (N,). Classes are matched by name.

    Raises TruthError or TeacherError for another kind, no class in common, or an image that cannot be used.
    """
    positions = shared_classes(teacher, truth, "classification")
    images = [image for image in truth.images if image.label is not None]
    labels, scores = [], []
    for _, answer in predictions(teacher, images, batch_size, progress):
        if isinstance(answer, ClassProbabilities):
            best = int(answer.probabilities.argmax())
            labels.append(int(positions[best]))
            scores.append(float(answer.probabilities[best]))
    wanted, label = np.array([image.label for image in images], np.int64), np.array(labels, np.int64)
    return class_metrics(wanted, label, np.array(scores), truth.classes), wanted == label


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


def _measure(teacher: Teacher, truth: Truth, batch_size: int | None, progress: Progress | None) -> Measured:
    metrics, right = evaluate_classes(teacher, truth, batch_size, progress)
    return Measured(metrics, right.tolist())


CLASSES = KindMeasure(metric="accuracy", of_class="accuracy", floor=None, measure=_measure)

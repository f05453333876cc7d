"""Classes of images, measured by accuracy and expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypedDict

import numpy as np

from builder.truth.records import Truth
from students.evaluate.base import Judged, KindMeasure, Measured, Progress, Source, predictions, shared_classes
from students.evaluate.scored import Confusion, Scored
from teachers.base import ClassProbabilities

BINS = 15
"""Of the calibration error, as in Guo et al."""


class ClassMetrics(TypedDict):
    """accuracy: share of the labelled images whose likeliest class is right; ECE: see `calibration_error`; per_class:
    accuracy on the images of each class, -1 where there are none."""

    accuracy: float
    ECE: float
    per_class: dict[str, float]


def evaluate_classes(
    teacher: Source, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
) -> tuple[ClassMetrics, np.ndarray]:
    """How often a classifier's likeliest class is right, and how well its probability tells; and of each image with a
    label (the others are left out) whether it is right, bool (N,). Classes are matched by name.

    Raises TruthError or TeacherError for another kind, no class in common, or an image that cannot be used.
    """
    wanted, label, score = _answers(teacher, truth, batch_size, progress)
    return class_metrics(wanted, label, score, truth.classes), wanted == label


def _answers(
    teacher: Source, truth: Truth, batch_size: int | None, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each image with a label: its class and the likeliest one, int64 (N,), -1 for one that the labels do not know,
    and the probability of this one, float64 (N,)."""
    positions = shared_classes(teacher, truth, "classification")
    images = [image for image in truth.images if image.label is not None]
    labels, scores = [], []
    for _, answer in predictions(teacher, images, batch_size, progress):
        if isinstance(answer, ClassProbabilities):
            best = int(answer.probabilities.argmax())
            labels.append(int(positions[best]))
            scores.append(float(answer.probabilities[best]))
    return np.array([image.label for image in images], np.int64), np.array(labels, np.int64), np.array(scores)


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


def _measure(teacher: Source, truth: Truth, batch_size: int | None, progress: Progress | None) -> Measured:
    wanted, label, score = _answers(teacher, truth, batch_size, progress)
    metrics = class_metrics(wanted, label, score, truth.classes)
    return Measured(metrics, (wanted == label).tolist(), partial(judge, wanted, label, score, truth.classes))


def judge(wanted: np.ndarray, label: np.ndarray, score: np.ndarray, classes: Sequence[str]) -> Judged:
    """Each image's likeliest class, as `class_metrics` takes them; one that no label knows is called "other"."""
    count = len(classes)
    scored = Scored(
        tuple(classes),
        label,
        score.astype(np.float32),
        wanted == label,
        np.ones(len(label), np.int64),
        np.bincount(wanted, minlength=count),
    )

    def confusion(least: float) -> Confusion:
        called = np.where(scored.score < np.float32(least), count + 1, np.where(label < 0, count, label))
        counts = np.bincount(wanted * (count + 2) + called, minlength=count * (count + 2)).reshape(count, count + 2)
        return Confusion(tuple(classes), counts, more_columns=("other", "no answer")).without_empty()

    return Judged(scored, confusion)


CLASSES = KindMeasure(metric="accuracy", of_class="accuracy", floor=None, noun="images", best=False, measure=_measure)

"""Maps of classes, measured by intersection over union and the share of right pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np

from builder.truth.masks import read_mask
from builder.truth.records import Truth
from students.evaluate.base import KindMeasure, Measured, Progress, predictions, shared_classes
from teachers.base import VOID, SemanticMap, Teacher, TeacherError


class MapMetrics(TypedDict):
    """mIoU: mean of per_class; accuracy: share of the labelled pixels that are right; per_class: intersection over
    union of each class over all labelled pixels of all images, -1 where neither side has a pixel of it."""

    mIoU: float
    accuracy: float
    per_class: dict[str, float]


class Overlap(NamedTuple):
    """Of one image, or of many: int64 (classes,) each, labelled pixels of a class that both maps have, and that one of
    them has."""

    intersection: np.ndarray
    union: np.ndarray


def evaluate_maps(
    teacher: Teacher, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
) -> tuple[MapMetrics, list[Overlap]]:
    """Intersection over union of a segmenter's classes, matched by name, over all labelled pixels; and of each image.
    Unlabelled pixels count for nothing, a class that the truth has not counts as wrong. One batch of maps is in memory.

    Raises TruthError or TeacherError for another kind, no class in common, an image that cannot be used or a map of
    another size than its image.
    """
    positions = shared_classes(teacher, truth, "semantic")
    table = np.full(VOID + 1, VOID, np.uint8)
    table[: len(positions)] = np.where(positions < 0, VOID, positions)
    counts = np.zeros((len(truth.classes), len(truth.classes) + 1), np.int64)
    overlaps = []
    for image, answer in predictions(teacher, truth.images, batch_size, progress):
        if isinstance(answer, SemanticMap):
            wanted = read_mask(image, len(truth.classes))
            if answer.labels.shape != wanted.shape:
                raise TeacherError(f"the teacher's map of {image.name} is {answer.labels.shape}, not {wanted.shape}")
            pixels = confusion(wanted, table[answer.labels], len(truth.classes))
            counts += pixels
            overlaps.append(overlap(pixels))
    return map_metrics(counts, truth.classes), overlaps


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by true and predicted class, int64 (classes, classes + 1), of two maps of equal shape; the last column is
    of any other value. Pixels whose true value is no class (VOID) are not counted."""
    known = truth < classes
    seen = np.minimum(predicted[known], classes).astype(np.int64)
    pairs = truth[known].astype(np.int64) * (classes + 1) + seen
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def overlap(counts: np.ndarray) -> Overlap:
    """Of a confusion, or a sum of them."""
    right = np.diagonal(counts)
    return Overlap(right, counts.sum(axis=1) + counts[:, :-1].sum(axis=0) - right)


def map_metrics(counts: np.ndarray, classes: Sequence[str]) -> MapMetrics:
    """Of a sum of confusions. Without labelled pixels all is -1."""
    right, union = overlap(counts)
    iou = np.divide(right, union, out=np.full(len(classes), -1.0), where=union > 0)
    mean = float(iou[union > 0].mean()) if union.any() else -1.0
    total = counts.sum()
    accuracy = float(right.sum() / total) if total else -1.0
    return MapMetrics(mIoU=mean, accuracy=accuracy, per_class=dict(zip(classes, iou.tolist(), strict=True)))


def _measure(teacher: Teacher, truth: Truth, batch_size: int | None, progress: Progress | None) -> Measured:
    return Measured(*evaluate_maps(teacher, truth, batch_size, progress))


MAPS = KindMeasure(metric="mIoU", of_class="IoU", floor=None, measure=_measure)

"""Maps of classes, measured by intersection over union and the share of right pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypedDict

import numpy as np

from builder.label.maps import LEVELS
from builder.truth.masks import read_mask
from builder.truth.records import Truth
from students.evaluate.base import Judged, KindMeasure, Measured, Progress, Source, predictions, shared_classes
from students.evaluate.scored import Confusion, Scored
from teachers.base import VOID, SemanticMap, TeacherError


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
    teacher: Source, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
) -> tuple[MapMetrics, list[Overlap]]:
    """Intersection over union of a segmenter's classes, matched by name, over all labelled pixels; and of each image.
    Unlabelled pixels count for nothing, a class that the truth has not counts as wrong. One batch of maps is in memory.

    Raises TruthError or TeacherError for another kind, no class in common, an image that cannot be used or a map of
    another size than its image.
    """
    levels, overlaps = _levels(teacher, truth, batch_size, progress)
    return map_metrics(levels.sum(axis=0), truth.classes), overlaps


def _levels(
    teacher: Source, truth: Truth, batch_size: int | None, progress: Progress | None
) -> tuple[np.ndarray, list[Overlap]]:
    """Pixels by confidence, true and predicted class, int64 (LEVELS, classes, classes + 1), see `confusion`; and of
    each image its Overlap."""
    positions = shared_classes(teacher, truth, "semantic")
    table = np.full(VOID + 1, VOID, np.uint8)
    table[: len(positions)] = np.where(positions < 0, VOID, positions)
    classes = len(truth.classes)
    levels = np.zeros((LEVELS, classes, classes + 1), np.int64)
    overlaps = []
    for image, answer in predictions(teacher, truth.images, batch_size, progress):
        if isinstance(answer, SemanticMap):
            wanted = read_mask(image, classes)
            if answer.labels.shape != wanted.shape:
                raise TeacherError(f"the teacher's map of {image.name} is {answer.labels.shape}, not {wanted.shape}")
            called = table[answer.labels]
            overlaps.append(overlap(confusion(wanted, called, classes)))
            known = wanted < classes
            seen = np.minimum(called[known], classes).astype(np.int64)
            cell = (answer.confidence[known].astype(np.int64) * classes + wanted[known]) * (classes + 1) + seen
            cells, pixels = np.unique(cell, return_counts=True)
            levels.reshape(-1)[cells] += pixels
    return levels, overlaps


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


def _measure(teacher: Source, truth: Truth, batch_size: int | None, progress: Progress | None) -> Measured:
    levels, overlaps = _levels(teacher, truth, batch_size, progress)
    return Measured(map_metrics(levels.sum(axis=0), truth.classes), overlaps, partial(judge, levels, truth.classes))


def judge(levels: np.ndarray, classes: Sequence[str]) -> Judged:
    """Every labelled pixel; levels: int64 (LEVELS, classes, classes + 1), by confidence, true and predicted class, the
    last of which is any other."""
    count = len(classes)
    called = levels[:, :, :count]
    right = np.einsum("ltt->lt", called)
    parts = [(right, True), (called.sum(axis=1) - right, False)]
    rows = [(*np.nonzero(pixels), pixels[pixels > 0], hit) for pixels, hit in parts]
    scored = Scored(
        tuple(classes),
        np.concatenate([label for _, label, _, _ in rows]),
        (np.concatenate([level for level, _, _, _ in rows]) / (LEVELS - 1)).astype(np.float32),
        np.concatenate([np.full(len(label), hit) for _, label, _, hit in rows]),
        np.concatenate([pixels for _, _, pixels, _ in rows]),
        levels.sum(axis=(0, 2)),
    )

    def confused(least: float) -> Confusion:
        from_here = (np.arange(LEVELS) / (LEVELS - 1)).astype(np.float32) >= np.float32(least)
        kept = levels[from_here].sum(axis=0)
        counts = np.concatenate([kept, (levels.sum(axis=(0, 2)) - kept.sum(axis=1))[:, None]], axis=1)
        return Confusion(tuple(classes), counts, more_columns=("other", "no answer")).without_empty()

    return Judged(scored, confused)


MAPS = KindMeasure(metric="mIoU", of_class="IoU", floor=None, noun="pixels", best=False, measure=_measure)

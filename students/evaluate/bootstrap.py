"""How sure a difference between two sets of predictions is: COCOeval's AP on resampled images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from builder.truth.records import Truth, TruthError
from students.evaluate.coco import MAX_DETECTIONS, ClassMatches, match_classes
from teachers.base import Detections

CHUNK = 1 << 22
"""Numbers of one array of the bootstrap: 32 MiB."""


def paired_bootstrap(
    truth: Truth, a: Sequence[Detections], b: Sequence[Detections], draws: int = 1000, seed: int = 0, level: float = 0.9
) -> tuple[float, float]:
    """Percentile interval of AP(b) - AP(a), resampling the truth's images with replacement, the same ones for a and b.

    AP is COCOeval's, exactly; an image drawn twice counts as two. The interval speaks of test images only, not of
    training seeds. Draws without any object have no AP and are left out. Raises TruthError if the truth has no objects.
    """
    thresholds = np.linspace(0.5, 0.95, 10)
    matches = [match_classes(truth, predictions, thresholds, MAX_DETECTIONS) for predictions in (a, b)]
    if not any(match.objects.any() for match in matches[0]):
        raise TruthError("the truth holds no objects: there is no AP to compare")
    count = len(truth.images)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    gain = average_precision(matches[1], weights) - average_precision(matches[0], weights)
    low, high = np.nanquantile(gain, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high


def average_precision(matches: Sequence[ClassMatches], weights: np.ndarray) -> np.ndarray:
    """COCOeval's AP over all areas, for each row of `weights`, int (draws, images): how often an image counts.

    float64 (draws,), NaN where no image with an object has a weight.
    """
    total = np.zeros(len(weights))
    classes = np.zeros(len(weights))
    for match in matches:
        step = max(1, CHUNK // max(1, len(match.image)))
        for first in range(0, len(weights), step):
            part = slice(first, first + step)
            objects = weights[part] @ match.objects
            total[part] += np.where(objects > 0, _class_average_precision(match, weights[part], objects), 0.0)
            classes[part] += objects > 0
    return np.divide(total, classes, out=np.full(len(weights), np.nan), where=classes > 0)


def _class_average_precision(match: ClassMatches, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """AP of one class, float64 (draws,); `objects`: int (draws,), the weighted number of true objects.

    Precision matters only where recall rises, so that it is worked out at right detections alone.
    """
    recalls = np.linspace(0.0, 1.0, 101)
    draws = np.arange(len(weights))[:, None]
    needed = _least_count(objects, recalls)
    weight = weights[:, match.image]  # (draws, D)
    average = np.zeros(len(weights))
    for right, counted in zip(match.right, match.counted, strict=True):
        places = np.flatnonzero(right)
        if not len(places):
            continue
        hits = np.cumsum(weight[:, places], axis=1)
        seen = np.cumsum(weight * counted, axis=1)[:, places]
        precision = hits / (seen + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # at this recall or a higher one
        # First place of each row where enough objects are found: one search in all rows, kept apart by an offset.
        apart = draws * (int(objects.max(initial=0)) + 2)
        reached_at = np.searchsorted((hits + apart).ravel(), (needed + apart).ravel()).reshape(needed.shape)
        reached_at -= draws * len(places)
        reached = reached_at < len(places)
        average += np.where(reached, precision[draws, np.minimum(reached_at, len(places) - 1)], 0.0).mean(axis=1)
    return average / len(match.right)


def _least_count(objects: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """The least n with n / objects >= recall, in the floating point COCOeval compares in; int (draws, recalls)."""
    total = np.maximum(objects, 1)[:, None]
    count = np.ceil(recalls * total)
    count -= (count - 1) / total >= recalls
    count += count / total < recalls
    return np.maximum(count, 0).astype(np.int64)

"""What each operating point would keep of a pool and how good it is on labelled images, before any shard is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builder.evidence.calibrate import iou_place
from builder.evidence.estimate import interval
from builder.evidence.matching import Matches
from builder.rules.scores import BINS, PoolScores, counted

LADDER = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
"""Scores that are looked at, beside the one at which the pool has as many boxes an image as the truth has objects."""
LEVEL = 0.9


@dataclass(frozen=True)
class Point:
    """Keeping what scores at least `threshold`, and what comes of it.

    pool_boxes, per_image: boxes kept in the pool, and for one of its images. kept, correct: on the labelled images,
    boxes that count and those that are right; precision, recall with their two-sided intervals (low, high) at fixed
    thresholds, over units; precision is None where nothing is kept, recall where nothing is to be found.
    objects_per_image: true objects on a labelled image. is_density: whether it was chosen by that number. Of maps all
    of these are pixels, and those of the labels are brought to the size of a pool image. miou: of maps, the mean over
    the classes of intersection over union, where pixels that are not kept are missed; None where no class occurs.
    """

    threshold: float
    pool_boxes: int
    per_image: float
    kept: int
    correct: int
    precision: float | None
    precision_low: float
    precision_high: float
    recall: float | None
    recall_low: float
    recall_high: float
    objects_per_image: float
    is_density: bool = False
    miou: float | None = None


def sweep(
    tune: Matches,
    pool: PoolScores,
    labels: Sequence[int] | None = None,
    *,
    ladder: Sequence[float] = LADDER,
    iou: float = 0.5,
    level: float = LEVEL,
) -> list[Point]:
    """Operating points by rising threshold, for these classes taken together (by default all that teacher and labels
    share). Thresholds are moved to the nearest multiple of 1 / BINS, so that the pool's boxes count exactly.

    Raises BuildError for an overlap that was not matched at.
    """
    row = iou_place(tune, iou)
    chosen = np.flatnonzero(tune.shared) if labels is None else np.asarray(labels, np.int64)
    above = pool.above(chosen)
    units = int(tune.unit.max(initial=-1)) + 1
    count = tune.counted[row] & np.isin(tune.label, chosen)
    to_find = tune.object_counts & np.isin(tune.object_label, chosen)
    object_unit = tune.unit[tune.object_image[to_find]]
    weight = tune.object_weights(to_find)
    objects = counted(object_unit, weight, units)
    object_score = tune.object_score[row][to_find]
    density = float(objects.sum()) / max(1, tune.images)
    if tune.weight is not None:  # of maps the same share of a pool image, which may have another size
        every = tune.object_weights(tune.object_counts)
        density = float(objects.sum()) / max(1, 0 if every is None else int(every.sum())) * pool.per_image
    steps = {round(threshold * BINS): False for threshold in ladder}
    if (same := density_step(above, density * pool.images)) is not None:
        steps[same] = True
    points = []
    for step, is_density in sorted(steps.items()):
        threshold = step / BINS
        rows = count & (tune.score >= np.float32(threshold))
        unit = tune.unit[tune.image]
        kept, correct = (
            counted(unit[chosen_rows], tune.weights(chosen_rows), units)
            for chosen_rows in (rows, rows & tune.right[row])
        )
        hit = object_score >= np.float32(threshold)  # NaN: not found
        hits = counted(object_unit[hit], None if weight is None else weight[hit], units)
        boxes = int(above[step])
        points.append(
            Point(
                threshold,
                boxes,
                boxes / max(1, pool.images),
                int(kept.sum()),
                int(correct.sum()),
                _share(correct, kept),
                *interval(kept, correct, level),
                _share(hits, objects),
                *interval(objects, hits, level),
                density,
                is_density,
                None if tune.weight is None else _mean_iou(tune, rows, rows & tune.right[row], to_find),
            )
        )
    return points


def _mean_iou(tune: Matches, kept: np.ndarray, right: np.ndarray, to_find: np.ndarray) -> float | None:
    """Over the classes of a map that are predicted or there."""
    classes = len(tune.classes)
    predicted, hits = (counted(tune.label[rows], tune.weights(rows), classes) for rows in (kept, right))
    there = counted(tune.object_label[to_find], tune.object_weights(to_find), classes)
    union = predicted + there - hits
    return float((hits[union > 0] / union[union > 0]).mean()) if union.any() else None


def density_step(above: np.ndarray, boxes: float) -> int | None:
    """The least k at which at most so many boxes of the pool score k / BINS or more; None if all of them are no more,
    or the truth has none. above: see PoolScores.above."""
    if boxes <= 0 or above[0] <= boxes:
        return None
    return int(np.argmax(above <= boxes)) if (above <= boxes).any() else BINS


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    return int(part.sum()) / int(whole.sum()) if whole.any() else None

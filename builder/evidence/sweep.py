"""What each operating point would keep of a pool and how good it is on labelled images, before any shard is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from builder.evidence.calibrate import iou_place
from builder.evidence.estimate import interval
from builder.evidence.matching import Matches
from builder.rules.scores import PoolScores, Tail, cell, cells_at, counted

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
    groups: Sequence[Sequence[int] | None] = (None,),
    *,
    ladder: Sequence[float] = LADDER,
    iou: float = 0.5,
    level: float = LEVEL,
) -> list[list[Point]]:
    """Operating points by rising threshold, for each of these groups of classes taken together (None: all that teacher
    and labels share). Thresholds are those of the ladder, and a score of the pool; both count as the rules compare.

    Raises BuildError for an overlap that was not matched at.
    """
    row = iou_place(tune, iou)
    chosen = [np.flatnonzero(tune.shared) if labels is None else np.asarray(labels, np.int64) for labels in groups]
    findable = [_Findable.of(tune, labels, row) for labels in chosen]
    densities = [_objects_per_image(tune, pool, these) for these in findable]
    boxes = [density * pool.images for density in densities]
    cells = [
        np.append(cell(np.array(ladder, np.float32)), cells_at(pool.above(labels), np.array([count])))
        for labels, count in zip(chosen, boxes, strict=True)
    ]
    tails = pool.tails(chosen, cells)
    return [
        _points(tune, pool, tail, labels, these, density, _thresholds(tail, ladder, count), row, level)
        for tail, labels, these, density, count in zip(tails, chosen, findable, densities, boxes, strict=True)
    ]


class _Findable(NamedTuple):
    """The objects of some classes that are there to be found. rows: bool (M,), of all; unit, score, weight: of these,
    as in Matches; objects: int64 (U,), by unit."""

    rows: np.ndarray
    unit: np.ndarray
    score: np.ndarray
    weight: np.ndarray | None
    objects: np.ndarray

    @classmethod
    def of(cls, tune: Matches, labels: np.ndarray, row: int) -> _Findable:
        rows = tune.object_counts & np.isin(tune.object_label, labels)
        unit, weight = tune.unit[tune.object_image[rows]], tune.object_weights(rows)
        return cls(rows, unit, tune.object_score[row][rows], weight, counted(unit, weight, _units(tune)))


def _units(tune: Matches) -> int:
    return int(tune.unit.max(initial=-1)) + 1


def _objects_per_image(tune: Matches, pool: PoolScores, these: _Findable) -> float:
    """True objects on a labelled image; of maps the same share of a pool image, which may have another size."""
    if tune.weight is None:
        return float(these.objects.sum()) / max(1, tune.images)
    every = tune.object_weights(tune.object_counts)
    return float(these.objects.sum()) / max(1, 0 if every is None else int(every.sum())) * pool.per_image


def _thresholds(tail: Tail, ladder: Sequence[float], boxes: float) -> dict[float, bool]:
    """By rising threshold, whether it is the least score of the pool that at most so many boxes reach. There is no such
    point where all the pool's boxes are no more, the truth has none, or the best score alone has more."""
    thresholds = {float(threshold): False for threshold in ladder}
    if 0 < boxes < tail.above[0] and (density := tail.lowest(boxes)) is not None:
        same = [threshold for threshold in thresholds if np.float32(threshold) == np.float32(density)]
        thresholds[same[0] if same else density] = True
    return dict(sorted(thresholds.items()))


def _points(
    tune: Matches,
    pool: PoolScores,
    tail: Tail,
    labels: np.ndarray,
    these: _Findable,
    density: float,
    thresholds: Mapping[float, bool],
    row: int,
    level: float,
) -> list[Point]:
    count, unit, units = tune.counted[row] & np.isin(tune.label, labels), tune.unit[tune.image], _units(tune)
    points = []
    for threshold, is_density in thresholds.items():
        rows = count & (tune.score >= np.float32(threshold))
        kept, correct = (
            counted(unit[chosen_rows], tune.weights(chosen_rows), units)
            for chosen_rows in (rows, rows & tune.right[row])
        )
        hit = these.score >= np.float32(threshold)  # NaN: not found
        hits = counted(these.unit[hit], None if these.weight is None else these.weight[hit], units)
        boxes = tail.reach(threshold)
        points.append(
            Point(
                threshold,
                boxes,
                boxes / max(1, pool.images),
                int(kept.sum()),
                int(correct.sum()),
                _share(correct, kept),
                *interval(kept, correct, level),
                _share(hits, these.objects),
                *interval(these.objects, hits, level),
                density,
                is_density,
                None if tune.weight is None else _mean_iou(tune, rows, rows & tune.right[row], these.rows),
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


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    return int(part.sum()) / int(whole.sum()) if whole.any() else None

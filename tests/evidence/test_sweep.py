"""Operating points: counts against plain sums, intervals against builder.evidence.estimate's inputs, density."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.evidence.estimate import interval
from builder.evidence.sweep import LADDER, _thresholds, sweep
from builder.rules.scores import BINS, PoolScores, Scored
from tests.helpers.matched import some_matches


def pool_of(seed: int, images: int = 500, boxes: int = 4000) -> tuple[PoolScores, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label, score = rng.integers(0, 3, boxes), rng.random(boxes, np.float32)
    return PoolScores.of(Scored(np.arange(boxes) % images, label, score), images, 3), label, score


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), iou=st.sampled_from([0.5, 0.75]), labels=st.sampled_from([None, [1], [0, 2]]))
def test_points_are_plain_counts(seed: int, iou: float, labels: list[int] | None) -> None:
    tune = some_matches(seed, grid=50)
    pool, label, score = pool_of(seed)
    mine = [0, 1, 2] if labels is None else labels
    row = tune.ious.index(iou)
    (points,) = sweep(tune, pool, [labels], iou=iou)
    objects = np.isin(tune.object_label, mine)
    assert [p.threshold for p in points] == sorted(p.threshold for p in points)
    density = [p.threshold for p in points if p.is_density]
    assert {p.threshold for p in points} == {*LADDER, *density}
    assert len(points) == len({p.threshold for p in points})
    for p in points:
        assert p.pool_boxes == (np.isin(label, mine) & (score >= np.float32(p.threshold))).sum()
        assert p.per_image == p.pool_boxes / 500
        rows = np.isin(tune.label, mine) & tune.counted[row] & (tune.score >= np.float32(p.threshold))
        assert (p.kept, p.correct) == (rows.sum(), (rows & tune.right[row]).sum())
        assert p.precision == (p.correct / p.kept if p.kept else None)
        assert p.recall == (tune.object_score[row][objects] >= np.float32(p.threshold)).sum() / objects.sum()
        kept, correct = (np.bincount(tune.unit[tune.image[r]], minlength=30) for r in (rows, rows & tune.right[row]))
        assert (p.precision_low, p.precision_high) == interval(kept, correct, 0.9)
        assert p.precision_low <= (p.precision if p.precision is not None else 0.5) <= p.precision_high
        assert p.recall_low <= p.recall <= p.recall_high
        assert p.objects_per_image == objects.sum() / 60


def test_the_density_point_is_the_lowest_score_with_no_more_boxes_than_objects() -> None:
    tune, (pool, _, score) = some_matches(3), pool_of(3)
    (point,) = [p for p in sweep(tune, pool)[0] if p.is_density]
    assert point.per_image <= point.objects_per_image
    next_lower = score[score < point.threshold].max()
    assert point.threshold in score and (score >= next_lower).sum() / 500 > point.objects_per_image


@pytest.mark.parametrize(("boxes", "threshold"), [(0, None), (1, 0.95), (2, 0.9), (2.9, 0.9), (4, 0.5), (5, None)])
def test_the_density_point_is_a_score_that_occurs(boxes: float, threshold: float | None) -> None:
    """Where all boxes of the pool are no more than the truth's objects there is none."""
    score = np.array([0.95, 0.9, 0.5, 0.5, 0.2], np.float32)
    tail = PoolScores.of(Scored(np.arange(5), np.zeros(5, np.int64), score), 1, 1).tails([[0]], [np.arange(BINS)])[0]
    chosen = [value for value, is_density in _thresholds(tail, LADDER, boxes).items() if is_density]
    assert chosen == ([] if threshold is None else [threshold])


def test_the_pool_may_be_empty() -> None:
    (points,) = sweep(some_matches(4), PoolScores.of(Scored(*np.zeros((3, 0), np.int64)), 0, 3), ladder=[0.5])
    assert [(p.threshold, p.pool_boxes, p.per_image, p.is_density) for p in points] == [(0.5, 0, 0, False)]


def test_without_predictions_or_objects_nothing_is_claimed() -> None:
    pool, *_ = pool_of(5)
    bare = some_matches(5, per_image=0)
    bare = replace(bare, object_counts=np.zeros_like(bare.object_counts))
    for point in sweep(bare, pool)[0]:
        assert point.precision is None and point.recall is None
        assert (point.precision_low, point.precision_high) == (0, 1)

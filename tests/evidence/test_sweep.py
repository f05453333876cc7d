"""Operating points: counts against plain sums, intervals against builder.evidence.estimate's inputs, density."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.evidence.estimate import interval
from builder.evidence.sweep import LADDER, density_step, sweep
from builder.rules.scores import BINS, PoolScores, cell
from tests.helpers.matched import some_matches


def pool_of(seed: int, images: int = 500, boxes: int = 4000) -> tuple[PoolScores, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label, score = rng.integers(0, 3, boxes), rng.random(boxes, np.float32)
    objects = np.zeros((3, BINS + 1), np.int64)
    np.add.at(objects, (label, cell(score)), 1)
    total = np.bincount(label, score, minlength=3)
    return PoolScores(images, objects, objects, total), label, score


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), iou=st.sampled_from([0.5, 0.75]), labels=st.sampled_from([None, [1], [0, 2]]))
def test_points_are_plain_counts(seed: int, iou: float, labels: list[int] | None) -> None:
    tune = some_matches(seed, grid=50)
    pool, label, score = pool_of(seed)
    mine = [0, 1, 2] if labels is None else labels
    row = tune.ious.index(iou)
    points = sweep(tune, pool, labels, iou=iou)
    objects = np.isin(tune.object_label, mine)
    assert [p.threshold for p in points] == sorted(p.threshold for p in points)
    density = [p.threshold for p in points if p.is_density]
    assert {p.threshold for p in points} == {round(t * BINS) / BINS for t in LADDER} | set(density)
    assert len(points) == len({p.threshold for p in points})
    for p in points:
        assert p.pool_boxes == (np.isin(label, mine) & (score >= p.threshold)).sum()
        assert p.per_image == p.pool_boxes / 500
        rows = np.isin(tune.label, mine) & tune.counted[row] & (tune.score >= p.threshold)
        assert (p.kept, p.correct) == (rows.sum(), (rows & tune.right[row]).sum())
        assert p.precision == (p.correct / p.kept if p.kept else None)
        assert p.recall == (tune.object_score[row][objects] >= p.threshold).sum() / objects.sum()
        kept, correct = (np.bincount(tune.unit[tune.image[r]], minlength=30) for r in (rows, rows & tune.right[row]))
        assert (p.precision_low, p.precision_high) == interval(kept, correct, 0.9)
        assert p.precision_low <= (p.precision if p.precision is not None else 0.5) <= p.precision_high
        assert p.recall_low <= p.recall <= p.recall_high
        assert p.objects_per_image == objects.sum() / 60


def test_the_density_point_is_the_lowest_score_with_no_more_boxes_than_objects() -> None:
    tune, (pool, _, score) = some_matches(3), pool_of(3)
    (point,) = [p for p in sweep(tune, pool) if p.is_density]
    assert point.per_image <= point.objects_per_image
    assert (score >= point.threshold - 1 / BINS).sum() / 500 > point.objects_per_image


@pytest.mark.parametrize(("boxes", "step"), [(0, None), (3, 2), (2, 4), (4, 1), (5, None), (9, None)])
def test_density_step(boxes: float, step: int | None) -> None:
    above = np.array([5, 4, 3, 3, 2, 0])
    assert density_step(above, boxes) == step


def test_ladders_meet_on_steps_and_the_pool_may_be_empty() -> None:
    tune, pool = some_matches(4), PoolScores(0, *(np.zeros((3, BINS + 1), np.int64) for _ in range(2)), np.zeros(3))
    points = sweep(tune, pool, ladder=[0.5, 0.5 + 0.1 / BINS])
    assert [(p.threshold, p.pool_boxes, p.per_image, p.is_density) for p in points] == [(0.5, 0, 0, False)]


def test_without_predictions_or_objects_nothing_is_claimed() -> None:
    pool, *_ = pool_of(5)
    bare = some_matches(5, per_image=0)
    bare = replace(bare, object_counts=np.zeros_like(bare.object_counts))
    for point in sweep(bare, pool):
        assert point.precision is None and point.recall is None
        assert (point.precision_low, point.precision_high) == (0, 1)

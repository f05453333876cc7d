"""The thresholds that a fixed sequence tries: scores of the pool, chosen by the pool alone, down to the floor."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.evidence.certify import STEP, sequences, share_out
from builder.rules.scores import PoolScores, Scored
from tests.helpers.matched import sequence_of, some_matches


def test_steps_are_the_highest_scores_that_keep_enough() -> None:
    score = np.random.default_rng(0).uniform(0.05, 1, 3000).astype(np.float32)
    thresholds = sequence_of(score, 0.2, expected=200.0, b=11, floor=0.05)
    assert thresholds.dtype == np.float32 and (np.diff(thresholds) < 0).all()
    assert thresholds[-1] == np.float32(0.05) and np.isin(thresholds[:-1], score).all()
    for step, threshold in enumerate(thresholds[:-1]):
        wanted = 33 * STEP**step / 0.2  # clip(200 / 3, 14.3, 33)
        assert (score >= threshold).sum() >= wanted * (1 - 1e-12) > (score > threshold).sum()


@pytest.mark.parametrize(("expected", "first"), [(1.0, 14.3), (60.0, 20.0), (1e6, 33.0)])
def test_first_step_lies_between_bounds(expected: float, first: float) -> None:
    score = np.linspace(0, 1, 5000, dtype=np.float32)
    thresholds = sequence_of(score, 1.0, expected, b=11, floor=0.0)
    assert (score >= thresholds[0]).sum() == math.ceil(first)


@pytest.mark.parametrize("objects", [0, 1, 12])
def test_a_small_pool_has_one_step(objects: int) -> None:
    assert sequence_of(np.full(objects, 0.7), 1.0, 5.0, 11, 0.05).tolist() == [np.float32(0.05)]


def test_scores_that_crowd_just_below_one_are_tried_apart() -> None:
    """As of a classifier that is too sure: most of its scores lie above 16383 / 16384."""
    score = (1 - np.random.default_rng(0).exponential(2e-5, 4000)).astype(np.float32)
    thresholds = sequence_of(score, 0.5, expected=2000.0, b=11, floor=0.0)
    crowded = thresholds[thresholds > 16383 / 16384]
    kept = [int((score >= threshold).sum()) for threshold in crowded]
    assert (score > 16383 / 16384).sum() > 3000 and len(crowded) > 25
    assert max(b / a for a, b in pairwise(kept)) < 1.25


def test_equal_scores_are_tried_together() -> None:
    score = np.repeat(np.array([0.9, 0.6, 0.3], np.float32), [40, 400, 4000])  # as isotonic calibration makes them
    assert sequence_of(score, 0.2, 100.0, 11, 0.1).tolist() == np.float32([0.6, 0.3, 0.1]).tolist()


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=20)
def test_what_is_tried_depends_on_the_pool_alone(seed: int) -> None:
    """Other scores of the truth, other boxes and other labels of it try the same: else a threshold would peek."""
    rng = np.random.default_rng(seed)
    rows = Scored(rng.integers(0, 500, 4000), rng.integers(0, 3, 4000), rng.random(4000, np.float32))
    scores = PoolScores.of(rows, 500, 3)
    truths = [some_matches(seed), some_matches(seed + 1, grid=20)]
    assert [truth.images for truth in truths] == [60, 60]
    shares = [share_out(truth, scores, "groups", 66) for truth in truths]
    assert shares[0] == shares[1]
    one, other = (sequences(truth, scores, shares[0], 11, 0.05) for truth in truths)
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    assert all(np.isin(tried[:-1], rows.score).all() for tried in one)

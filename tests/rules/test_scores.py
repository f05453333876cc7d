"""The scores of a pool as counts: exact wherever a threshold may lie, by plain sums over all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.rules.scores import BINS, PoolScores, Scored, Tail, cell, cells_at, joined, occurring

DECIMALS = [n / 100 for n in range(101)]
CROWDED = st.integers(0, 3000).map(lambda n: float(np.float32(1) - np.float32(n) * np.float32(2**-24)))
SCORES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 2), st.sampled_from(DECIMALS) | CROWDED | st.floats(0, 1, width=32)),
    min_size=1,
    max_size=60,
)


def rows_of(drawn: list[tuple[int, int, float]], weight: list[int] | None = None) -> Scored:
    image, label, score = (np.array(column) for column in zip(*drawn, strict=True))
    return Scored(image, label, score.astype(np.float32), None if weight is None else np.array(weight))


def everywhere(scores: PoolScores, labels: list[int], best: bool = False) -> Tail:
    return scores.tails([labels], [np.arange(BINS + 1)], best)[0]


@given(drawn=SCORES, labels=st.sampled_from([[0], [1, 2], [0, 1, 2]]), weigh=st.booleans())
def test_reach_counts_as_the_rules_compare(drawn: list[tuple[int, int, float]], labels: list[int], weigh: bool) -> None:
    weight = np.arange(len(drawn)) % 5 + 1 if weigh else np.ones(len(drawn), int)
    rows = rows_of(drawn, weight.tolist() if weigh else None)
    (tail,) = PoolScores.of(rows, 5, 3).tails([labels], [cell(np.array([*DECIMALS, *rows.score], np.float32))])
    mine = np.isin(rows.label, labels)
    for threshold in (*DECIMALS, *rows.score.tolist(), 2.0):
        assert tail.reach(threshold) == weight[mine & (rows.score >= np.float32(threshold))].sum()


@given(drawn=SCORES, share=st.floats(0, 1.5))
def test_a_count_is_reached_by_a_score_that_occurs(drawn: list[tuple[int, int, float]], share: float) -> None:
    rows = rows_of(drawn)
    scores, count = PoolScores.of(rows, 5, 3), share * len(drawn)
    (tail,) = scores.tails([[0, 1, 2]], [cells_at(scores.above([0, 1, 2]), np.array([count]))])
    there = sorted({*rows.score.tolist()})
    number = {score: int((rows.score >= np.float32(score)).sum()) for score in there}
    assert tail.lowest(count) == next((score for score in there if number[score] <= count), None)
    expected = [score for score in there[::-1] if number[score] >= count][:1] if count > 0 else []
    assert tail.highest(np.array([count])).tolist() == expected


@given(drawn=SCORES)
def test_the_best_of_an_image_count_once_for_each_class(drawn: list[tuple[int, int, float]]) -> None:
    rows = rows_of(drawn)
    tail = everywhere(PoolScores.of(rows, 5, 3), [1], best=True)
    best = {i: max(s for j, c, s in drawn if (j, c) == (i, 1)) for i, c, _ in drawn if c == 1}
    for threshold in (0.0, 0.5, *rows.score.tolist()):
        assert tail.reach(threshold) == sum(np.float32(score) >= np.float32(threshold) for score in best.values())


@given(drawn=SCORES, cut=st.integers(0, 60))
def test_parts_of_a_pool_add_up(drawn: list[tuple[int, int, float]], cut: int) -> None:
    wanted = np.ones((3, BINS + 1), bool)
    rows = rows_of(drawn)
    whole = occurring(rows, wanted)
    halves = [
        occurring(Scored(*(column[part] for column in rows[:3])), wanted) for part in (slice(cut), slice(cut, 99))
    ]
    assert all(np.array_equal(*columns) for columns in zip(whole, joined(*halves), strict=True))
    assert np.array_equal(np.unique(rows.score), np.unique(whole.score)) and whole.number.sum() == len(drawn)


def test_what_was_not_counted_is_not_guessed() -> None:
    (tail,) = PoolScores.of(rows_of([(0, 0, 0.3), (0, 0, 0.7)]), 1, 1).tails([[0]], [np.array([0])])
    assert tail.reach(0.5) == 1  # an edge
    with pytest.raises(ValueError, match="not counted"):
        tail.reach(0.7)

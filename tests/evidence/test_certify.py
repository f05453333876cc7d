"""Certified thresholds: the formulas against scipy and slow re-implementations, invariants, and how often they fail."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from builder.evidence.bounds import Bound, bets, effective_size, korn_graubard, needed
from builder.evidence.certify import solve, support
from builder.evidence.matching import Matches
from builder.rules.keep import Precision
from builder.rules.scores import PoolScores, Scored
from builder.store.provenance import Group
from tests.helpers.matched import sequence_of

TARGET, DELTA = 0.8, 0.1


def matches_of(
    image: Any, label: Any, score: Any, right: Any, *, images: int, classes: int = 1, unit: Any = None, **changes: Any
) -> Matches:
    """Matches of boxes; right at IoU .5, none at .75."""
    rows = len(image)
    fields: dict[str, Any] = {
        "classes": tuple(f"class {c}" for c in range(classes)),
        "shared": np.ones(classes, bool),
        "names": tuple(map(str, range(images))),
        "unit": np.arange(images) if unit is None else np.asarray(unit, np.int64),
        "image": np.asarray(image, np.int64),
        "label": np.asarray(label, np.int16),
        "score": np.asarray(score, np.float32),
        "area": np.ones(rows, np.float32),
        "right": np.stack([np.asarray(right, bool), np.zeros(rows, bool)]),
        "counted": np.ones((2, rows), bool),
        "object_image": np.zeros(0, np.int64),
        "object_label": np.zeros(0, np.int16),
        "object_area": np.zeros(0, np.float32),
        "object_counts": np.zeros(0, bool),
        "object_score": np.zeros((2, 0), np.float32),
    }
    return Matches(**(fields | changes))


class Pool:
    """Images with predictions, as their scores and as counts per image."""

    def __init__(self, image: np.ndarray, label: np.ndarray, score: np.ndarray, images: int, classes: int) -> None:
        self.scores = PoolScores.of(Scored(image, label.astype(np.int64), score), images, classes)
        self.image, self.label, self.score, self.images = image, label, score, images

    def kept(self, labels: Sequence[int] | np.ndarray, thresholds: np.ndarray) -> list[np.ndarray]:
        found = []
        for threshold in thresholds:
            mine = np.isin(self.label, labels) & (self.score >= threshold)
            found.append(np.bincount(np.bincount(self.image[mine], minlength=self.images)))
        return found


def draw(images: int, seed: int, *, classes: int = 1, boxes: float = 3.0, flat: float | None = None) -> Any:
    """image, label, score, right: precision rises steeply with the score, or is `flat`; half of the boxes of an image
    share its luck."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), rng.poisson(boxes, images))
    score = rng.uniform(0.05, 1, len(image)).astype(np.float32)
    luck = np.where(rng.random(len(image)) < 0.5, rng.random(images)[image], rng.random(len(image)))
    right = luck < (1 / (1 + np.exp(-10 * (score - 0.4))) if flat is None else flat)
    return image, rng.integers(0, classes, len(image)), score, right


def pool_of(images: int, seed: int, *, classes: int = 1, boxes: float = 3.0) -> Pool:
    image, label, score, _ = draw(images, seed, classes=classes, boxes=boxes)
    return Pool(image, label, score, images, classes)


def run(matches: Matches, pool: Pool, **options: Any) -> list[Group]:
    return solve(matches, pool.scores, Precision.model_validate({"target": TARGET} | options), 0.05, pool.kept)


def slow_korn_graubard(kept: list[int], correct: list[int], target: float, delta: float) -> tuple[float, float, float]:
    """The formulas of the method, one number at a time: n*, p-value, lower bound."""
    pairs = [(k, c) for k, c in zip(kept, correct, strict=True) if k > 0]
    m, total, right = len(pairs), sum(k for k, _ in pairs), sum(c for _, c in pairs)
    if m < 2:
        return 0.0, 1.0, 0.0
    p = right / total
    if m == total:
        effect, ratio = 1.0, 1.0
    else:
        if 0 < p < 1:
            variance = m / (m - 1) * sum((c - p * k) ** 2 for k, c in pairs) / total**2
            effect = max(1.0, variance * total / (p * (1 - p)))
        else:
            effect = sum(k * k for k, _ in pairs) / total
        ratio = stats.t.isf(delta, total - 1) / stats.t.isf(delta, m - 1)
    size = min(total, total / effect * ratio**2)
    x = p * size
    if x == 0:
        return size, 1.0, 0.0
    return size, stats.beta.cdf(target, x, size - x + 1), stats.beta.ppf(delta, x, size - x + 1)


UNITS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda kc: (kc[0], min(kc))), max_size=40)


@given(units=UNITS, target=st.sampled_from([0.5, 0.8, 0.95]), delta=st.sampled_from([1e-18, 1e-6, 0.01, 0.1, 0.3]))
@settings(deadline=None)
def test_bound_follows_the_formulas(units: list[tuple[int, int]], target: float, delta: float) -> None:
    kept, correct = ([unit[i] for unit in units] for i in (0, 1))
    bound = korn_graubard(np.array(kept, np.int64), np.array(correct, np.int64), target, delta)
    size, p_value, lower = slow_korn_graubard(kept, correct, target, delta)
    assert (bound.kept, bound.correct) == (sum(kept), sum(correct))
    assert bound.effective == pytest.approx(size)
    assert bound.p_value == pytest.approx(p_value)
    assert bound.lower == pytest.approx(lower)


@given(units=UNITS, data=st.data())
@settings(deadline=None)
def test_bound_does_not_depend_on_the_order_of_units(units: list[tuple[int, int]], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(units))))
    kept, correct = (np.array([unit[i] for unit in units], np.int64) for i in (0, 1))
    assert korn_graubard(kept, correct, 0.8, 0.1) == korn_graubard(kept[order], correct[order], 0.8, 0.1)


@given(units=UNITS, delta=st.sampled_from([0.01, 0.05, 0.1, 0.3]))
@settings(deadline=None)
def test_test_and_bound_agree(units: list[tuple[int, int]], delta: float) -> None:
    kept, correct = (np.array([unit[i] for unit in units], np.int64) for i in (0, 1))
    bound = korn_graubard(kept, correct, 0.8, delta)
    if abs(bound.p_value - delta) > 1e-9:
        assert (bound.p_value < delta) == (bound.lower > 0.8)
    assert 0 <= bound.lower <= (bound.correct / bound.kept if bound.kept else 0)


@given(rights=st.lists(st.booleans(), min_size=2, max_size=60), delta=st.sampled_from([0.05, 0.1]))
@settings(deadline=None)
def test_one_object_a_unit_is_the_exact_binomial(rights: list[bool], delta: float) -> None:
    bound = korn_graubard(np.ones(len(rights), np.int64), np.array(rights, np.int64), 0.8, delta)
    exact = stats.binomtest(sum(rights), len(rights), 0.8, alternative="greater")
    assert bound.effective == len(rights)
    assert bound.lower == pytest.approx(exact.proportion_ci(1 - delta, method="exact").low, abs=1e-9)
    assert bound.p_value == pytest.approx(exact.pvalue)


@pytest.mark.parametrize(
    ("kept", "correct"), [([], []), ([0, 0], [0, 0]), ([40], [40]), ([40, 0], [40, 0]), ([3, 3], [0, 0])]
)
def test_too_few_units_or_none_right_show_nothing(kept: list[int], correct: list[int]) -> None:
    bound = korn_graubard(np.array(kept, np.int64), np.array(correct, np.int64), 0.8, 0.1)
    assert (bound.p_value, bound.lower) == (1.0, 0.0)


def test_boxes_that_stand_or_fall_together_count_once() -> None:
    kept = np.full(40, 10)
    together, apart = np.repeat([10, 0], [32, 8]), np.full(40, 8)
    assert effective_size(kept, together, 0.1) == pytest.approx(40, rel=0.1)
    assert effective_size(kept, apart, 0.1) == pytest.approx(400, rel=0.05)


@pytest.mark.parametrize(("target", "delta", "b"), [(0.8, 0.1, 11), (0.9, 0.1, 22), (0.5, 0.1, 4), (0.1, 0.01, 2)])
def test_fewest_objects(target: float, delta: float, b: int) -> None:
    assert needed(target, delta) == b
    assert target**b <= delta * (1 + 1e-9) < target ** (b - 1)
    one = np.ones(b, np.int64)
    assert korn_graubard(one, one, target, delta).p_value <= delta * (1 + 1e-9)
    assert korn_graubard(one[1:], one[1:], target, delta).p_value > delta


# Bets


def slow_bets(images: list[tuple[int, int, int]], pool: list[int], target: float, delta: float) -> float:
    """1 / capital, one number at a time; `images`: unit, kept, correct."""
    count = sum(pool)
    mean = sum(k * n for k, n in enumerate(pool)) / count
    if mean == 0 or sum(k for _, k, _ in images) == 0:
        return 1.0
    most = next(
        m for m in range(len(pool)) if sum(max(k - m, 0) * n for k, n in enumerate(pool)) / count <= 0.02 * mean
    )
    slack = target * sum(max(k - most, 0) * n for k, n in enumerate(pool)) / count
    units = sorted({unit for unit, _, _ in images})
    largest = max(sum(unit == other for other, _, _ in images) for unit in units)
    capitals = []
    for c in (0.5, 1, 2):
        stake = c * math.sqrt(2 * math.log(1 / delta) / (1.5 * len(images) * target * (1 - target) * mean))
        stake = min(stake, 0.95 / (target * most + slack) / largest)
        capital = 1.0
        for unit in units:
            gain = sum(min(target * k - x, target * most) + slack for other, k, x in images if other == unit)
            capital *= 1 - stake * gain
        capitals.append(capital)
    return min(1.0, 1 / (sum(capitals) / 3))


@given(
    images=st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(0, 5)).map(lambda r: (r[0], r[1], min(r[1:]))),
        min_size=1,
        max_size=30,
    ),
    pool=st.lists(st.integers(0, 50), min_size=1, max_size=7).filter(lambda counts: sum(counts) > 0),
)
@settings(deadline=None)
def test_bets_follow_the_formulas(images: list[tuple[int, int, int]], pool: list[int]) -> None:
    unit, kept, correct = (np.array([row[i] for row in images], np.int64) for i in range(3))
    bound = bets(kept, correct, unit, np.array(pool), 0.8, 0.1)
    p_value = slow_bets(images, pool, 0.8, 0.1)
    assert bound.p_value == pytest.approx(p_value)
    assert bound.lower == (0.8 if bound.p_value <= 0.1 else 0.0)
    turned = bets(kept[::-1], correct[::-1], unit[::-1], np.array(pool), 0.8, 0.1)
    assert turned.p_value == pytest.approx(bound.p_value)


def test_bets_are_fair_on_average() -> None:
    """Under H0 the expected capital is at most 1, whatever the number of images: computed, not simulated."""
    pool = np.array([3, 4, 2, 1])  # the images' own distribution
    weights = [
        (k, x, n / 10 * math.comb(k, x) * 0.8**x * 0.2 ** (k - x)) for k, n in enumerate(pool) for x in range(k + 1)
    ]
    expected = 0.0
    for k1, x1, w1 in weights:
        for k2, x2, w2 in weights:
            p = slow_bets([(0, k1, x1), (1, k2, x2)], pool.tolist(), 0.8, 0.1)
            expected += w1 * w2 * (1 / p if p < 1 else 0)
    assert expected <= 1


# The fixed sequence


def slow_solve(matches: Matches, pool: Pool, delta: float = DELTA) -> tuple[float | None, int, int]:
    """The fixed sequence of one class, from scratch at each step: threshold, kept, correct."""
    expected = matches.images * float(pool.score.sum(dtype=np.float64)) / pool.images
    thresholds = sequence_of(pool.score, matches.images / pool.images, expected, needed(TARGET, delta), 0.05)
    found: tuple[float | None, int, int] = (None, 0, 0)
    for threshold in thresholds:
        units: dict[int, list[int]] = {}
        for image, score, right, counted in zip(
            matches.image, matches.score, matches.right[0], matches.counted[0], strict=True
        ):
            if counted and score >= threshold:
                unit = units.setdefault(int(matches.unit[image]), [0, 0])
                unit[0] += 1
                unit[1] += bool(right)
        kept, correct = ([unit[i] for unit in units.values()] for i in (0, 1))
        if slow_korn_graubard(kept, correct, TARGET, delta)[1] > delta:
            break
        found = float(threshold), sum(kept), sum(correct)
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("grouped", [False, True])
def test_solve_is_the_fixed_sequence(seed: int, grouped: bool) -> None:
    image, label, score, right = draw(120, seed)
    unit = np.arange(120) // 3 if grouped else None
    counted = np.ones((2, len(image)), bool)
    counted[0, ::7] = False
    matches = matches_of(image, label, score, right, images=120, unit=unit, counted=counted)
    pool = pool_of(2000, 100)
    (group,) = run(matches, pool, over="version")
    threshold, kept, correct = slow_solve(matches, pool)
    assert threshold is not None
    assert group.certified
    assert (group.threshold, group.kept, group.correct) == (threshold, kept, correct)
    assert group.units == (40 if grouped else 120)
    assert group.p_value is not None
    assert group.p_value <= DELTA
    assert group.lower is not None
    assert group.lower >= TARGET
    assert Group.model_validate_json(group.model_dump_json()) == group


@given(seed=st.integers(0, 10_000), bound=st.sampled_from(["clustered", "exact"]))
@settings(deadline=None, max_examples=20)
def test_row_order_decides_nothing(seed: int, bound: str) -> None:
    image, label, score, right = draw(80, seed, classes=3)
    score = np.round(score, 1)  # many ties
    pool = pool_of(500, 1, classes=3)
    order = np.random.default_rng(seed).permutation(len(image))
    a = matches_of(image, label, score, right, images=80, classes=3)
    b = matches_of(image[order], label[order], score[order], right[order], images=80, classes=3)
    assert run(a, pool, bound=bound) == run(b, pool, bound=bound)


@given(seed=st.integers(0, 10_000), deltas=st.tuples(st.floats(0.01, 0.4), st.floats(0.01, 0.4)).map(sorted))
@settings(deadline=None, max_examples=20)
def test_a_larger_delta_asks_for_less(seed: int, deltas: list[float]) -> None:
    image, _, score, right = draw(60, seed)
    mine = score >= 0.5
    kept, correct = (np.bincount(image[m], minlength=60) for m in (mine, mine & right))
    strict, loose = (korn_graubard(kept, correct, TARGET, delta) for delta in deltas)
    assert loose.lower >= strict.lower
    assert needed(TARGET, deltas[1]) <= needed(TARGET, deltas[0])


def test_ties_move_together() -> None:
    """All scores equal: everything is kept, or nothing."""
    image, label, _, right = draw(200, 0, flat=0.95)
    score = np.full(len(image), 0.5, np.float32)
    pool = Pool(image, label, score, 200, 1)
    (group,) = run(matches_of(image, label, score, right, images=200), pool, over="version")
    assert group.kept == len(image)
    assert group.threshold is not None
    assert group.threshold <= 0.5


def test_iou_chooses_the_row() -> None:
    image, label, score, right = draw(200, 0)
    matches = matches_of(image, label, score, right, images=200)
    pool = pool_of(500, 1)
    assert run(matches, pool, iou=0.5)[0].certified
    assert not run(matches, pool, iou=0.75)[0].certified


# Groups


def test_rich_classes_have_their_own_threshold() -> None:
    image, _, score, right = draw(300, 0)
    rng = np.random.default_rng(0)
    label = rng.choice(4, len(image), p=[0.6, 0.3, 0.07, 0.03])
    pool = Pool(image, label, score, 300, 4)
    matches = matches_of(image, label, score, right, images=300, classes=4)
    rows = label != 1
    matches = matches_of(
        image[rows], label[rows], score[rows], right[rows], images=300, classes=4,
        shared=np.array([True, False, True, True]),
    )  # fmt: skip
    groups = run(matches, pool)
    assert [group.classes for group in groups] == [["class 0"], ["class 2", "class 3"], ["class 1"]]
    assert (
        groups[0].support == pytest.approx(support(matches, pool.scores, [0])) == pytest.approx(score[label == 0].sum())
    )
    assert [group.certified for group in groups] == [True, groups[1].threshold is not None, False]
    assert groups[2].reason == "no human labels for it"
    assert groups[2].threshold is None
    for over, classes in (
        ("class", [["class 0"], ["class 2"], ["class 3"], ["class 1"]]),
        ("version", [["class 0", "class 2", "class 3"], ["class 1"]]),
    ):
        assert [group.classes for group in run(matches, pool, over=over)] == classes


def test_one_claim_for_all_groups_splits_delta() -> None:
    image, label, score, right = draw(400, 0, classes=4)
    matches, pool = matches_of(image, label, score, right, images=400, classes=4), pool_of(1000, 1, classes=4)
    each, every = run(matches, pool, over="class"), run(matches, pool, over="class", family="all")
    assert {group.delta for group in each} == {0.1}
    assert {group.delta for group in every} == {0.025}
    assert {group.needed for group in every} == {needed(TARGET, 0.025)}
    assert all(group.p_value is None or group.p_value <= 0.025 for group in every)


@pytest.mark.parametrize(
    ("images", "flat", "words"), [(3, 1.0, "at least 11 are needed"), (200, 0.5, "does not show a precision of 0.8")]
)
def test_what_cannot_be_certified_says_why(images: int, flat: float, words: str) -> None:
    (group,) = run(matches_of(*draw(images, 3, flat=flat), images=images), pool_of(500, 1))
    assert not group.certified
    assert group.threshold is None
    assert words in group.reason
    assert group.needed == 11
    assert group.units == images


@pytest.mark.parametrize(("bound", "function"), [("clustered", "korn_graubard"), ("exact", "bets")])
def test_what_is_not_a_number_certifies_nothing(bound: str, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    matches, pool = matches_of(*draw(400, 0), images=400), pool_of(1000, 1)
    monkeypatch.setattr(f"builder.evidence.certify.{function}", lambda *_: Bound(40, 40, None, math.nan, math.nan))
    (group,) = run(matches, pool, bound=bound)
    assert not group.certified and group.threshold is None


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_delta_that_has_no_quantile_gives_no_number() -> None:
    kept = np.full(40, 10)
    assert math.isnan(effective_size(kept, kept - 1, 0.0))


@pytest.mark.parametrize("bound", ["clustered", "exact"])
def test_no_predictions_at_all(bound: str) -> None:
    none = np.zeros(0)
    pool = Pool(none.astype(np.int64), none.astype(np.int64), none.astype(np.float32), 10, 2)
    groups = run(matches_of(none, none, none, none, images=10, classes=2), pool, bound=bound)
    assert [(group.classes, group.threshold) for group in groups] == [(["class 0", "class 1"], None)]


def test_exact_bound_needs_more() -> None:
    image, label, score, right = draw(600, 0)
    matches, pool = matches_of(image, label, score, right, images=600), pool_of(2000, 1)
    (clustered,), (exact,) = run(matches, pool), run(matches, pool, bound="exact")
    assert exact.certified
    assert clustered.threshold is not None
    assert exact.threshold is not None
    assert clustered.threshold < exact.threshold < 1
    assert (exact.bound, exact.effective, exact.lower) == ("exact", None, TARGET)


# The promise


@pytest.mark.parametrize("bound", ["clustered", "exact"])
def test_promise_on_a_precision_just_under_the_target(bound: str) -> None:
    """Whatever is certified at a flat .79 is a violation: at most delta of the draws, with room for 300 draws."""
    pool = pool_of(2000, 0)
    options = Precision.model_validate({"target": TARGET, "bound": bound, "over": "version"})
    seen: dict[float, np.ndarray] = {}

    def kept(labels: Sequence[int] | np.ndarray, thresholds: np.ndarray) -> list[np.ndarray]:
        for threshold in thresholds.tolist():
            if threshold not in seen:
                seen[threshold] = pool.kept(labels, np.array([threshold], np.float32))[0]
        return [seen[threshold] for threshold in thresholds.tolist()]

    violations = 0
    for seed in range(300):
        matches = matches_of(*draw(100, 1000 + seed, flat=0.79), images=100)
        violations += solve(matches, pool.scores, options, 0.05, kept)[0].certified
    assert violations / 300 <= DELTA + 0.03


def test_eighty_classes_are_fast() -> None:
    image, label, score, right = draw(5000, 0, classes=80, boxes=20.0)
    matches, pool = (
        matches_of(image, label, score, right, images=5000, classes=80),
        pool_of(5000, 1, classes=80, boxes=20),
    )
    start = time.perf_counter()
    groups = run(matches, pool, over="class")
    assert time.perf_counter() - start < 10  # about 1 s on an idle core
    assert sum(group.certified for group in groups) == 80


# Options


def test_a_number_is_the_target() -> None:
    assert Precision.model_validate(0.8) == Precision(target=0.8)
    assert Precision.model_validate({"target": 0.9, "iou": 0.75}).iou == 0.75


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0, "less than 1"),
        (0, "greater than 0"),
        (True, "valid dictionary"),
        ({}, "target"),
        ({"target": 0.8, "iou": 0.6}, "0.5 and 0.75, not 0.6"),
        ({"target": 0.8, "delta": 0.5}, "less than 0.5"),
        ({"target": 0.8, "delta": 1e-7}, "greater than or equal to 0.000001"),
        ({"target": 0.8, "over": "all"}, "over"),
        ({"target": 0.8, "levels": 1}, "levels"),
    ],
)
def test_wrong_options_are_refused(value: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Precision.model_validate(value)

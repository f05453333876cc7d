"""Intervals, audits and the test for shift: against scipy, slow re-implementations, and simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from builder.errors import BuildError
from builder.evidence.bounds import korn_graubard
from builder.evidence.estimate import Item, Stratum, audit, audit_items, interval, shift
from builder.rules.scores import PoolSample

UNITS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda kc: (kc[0], min(kc))), max_size=40)


# Intervals


@given(units=UNITS, level=st.sampled_from([0.8, 0.9, 0.95]))
@settings(deadline=None)
def test_interval_holds_the_measured_precision_and_agrees_with_the_bound(
    units: list[tuple[int, int]], level: float
) -> None:
    kept, correct = (np.array([unit[i] for unit in units], np.int64) for i in (0, 1))
    low, high = interval(kept, correct, level)
    assert 0 <= low <= high <= 1
    if np.count_nonzero(kept) < 2:
        assert (low, high) == (0.0, 1.0)
        return
    assert low <= correct.sum() / kept.sum() <= high
    assert low == pytest.approx(korn_graubard(kept, correct, 0.8, (1 - level) / 2).lower)
    wrong = interval(kept, kept - correct, level)  # what is wrong is as uncertain as what is right
    assert (1 - wrong[1], 1 - wrong[0]) == pytest.approx((low, high), abs=1e-9)


@given(rights=st.lists(st.booleans(), min_size=2, max_size=60), level=st.sampled_from([0.8, 0.9]))
@settings(deadline=None)
def test_interval_of_one_object_a_unit_is_clopper_pearson(rights: list[bool], level: float) -> None:
    exact = stats.binomtest(sum(rights), len(rights)).proportion_ci(level, method="exact")
    found = interval(np.ones(len(rights), np.int64), np.array(rights, np.int64), level)
    assert found == pytest.approx((exact.low, exact.high), abs=1e-9)


# Audits


def slow_audit(strata: list[Stratum], level: float) -> tuple[float, float, float]:
    """The formulas, one stratum at a time."""
    whole, n = sum(s.objects for s in strata), sum(s.audited for s in strata)
    precision = sum(s.objects / whole * s.right / s.audited for s in strata)
    smooth = [(s.right + 0.5) / (s.audited + 1) for s in strata]
    variance = sum(
        (s.objects / whole) ** 2 * (1 - s.audited / s.objects) * q * (1 - q) / (s.audited - 1)
        for s, q in zip(strata, smooth, strict=True)
    )
    z, t = stats.norm.ppf((1 + level) / 2), stats.t.ppf((1 + level) / 2, n - len(strata))
    size = precision * (1 - precision) / variance * (z / t) ** 2
    x = precision * size
    low, high = stats.beta.ppf((1 - level) / 2, x, size - x + 1), stats.beta.ppf((1 + level) / 2, x + 1, size - x)
    return precision, float(low), float(high)


STRATA = [
    [Stratum(5000, 100, 80)],
    [Stratum(5000, 20, 19), Stratum(300, 50, 20), Stratum(10_000, 30, 30)],
    [Stratum(100, 99, 50), Stratum(100, 2, 0)],
]


@pytest.mark.parametrize("strata", STRATA)
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_audit_follows_the_formulas(strata: list[Stratum], level: float) -> None:
    found = audit(strata, level)
    assert (found.precision, found.low, found.high) == pytest.approx(slow_audit(strata, level))
    assert (found.objects, found.audited) == (sum(s.objects for s in strata), sum(s.audited for s in strata))
    turned = audit(strata[::-1], level)
    assert (turned.low, turned.high) == pytest.approx((found.low, found.high))


def test_an_audit_without_a_wrong_object_still_has_a_width() -> None:
    found = audit([Stratum(10**6, 100, 100)])
    assert (found.precision, found.high) == (1.0, 1.0)
    exact = stats.binomtest(100, 100).proportion_ci(0.9, method="exact").low
    assert found.low == pytest.approx(exact, abs=0.003)
    assert found.low < exact
    none = audit([Stratum(10**6, 100, 0)])
    assert (none.low, none.high) == pytest.approx((0.0, 1 - found.low))


def test_an_audit_of_everything_is_certain() -> None:
    found = audit([Stratum(10, 10, 7), Stratum(1, 1, 1), Stratum(0, 0, 0)])
    assert (found.precision, found.low, found.high, found.effective) == (8 / 11, 8 / 11, 8 / 11, np.inf)
    almost = audit([Stratum(1000, 999, 700)])
    assert almost.high - almost.low < 0.003


@pytest.mark.parametrize(
    ("strata", "words"),
    [
        ([], "no kept objects"),
        ([Stratum(100, 50, 40), Stratum(10, 1, 1, "small")], "'small' were audited, and an estimate needs 2"),
        ([Stratum(100, 0, 0)], "'0' were audited"),
        ([Stratum(100, 101, 40)], "101 audited"),
        ([Stratum(100, 40, 41)], "41 right"),
    ],
)
def test_audits_that_say_nothing_are_refused(strata: list[Stratum], words: str) -> None:
    with pytest.raises(BuildError, match=words):
        audit(strata)


@pytest.mark.parametrize("precision", [0.8, 0.95])
def test_coverage_of_audits(precision: float) -> None:
    """400 draws: within .88 to .97 at a nominal .9, with room for chance."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        strata = []
        rights = rng.binomial(4000, [precision - 0.04, precision + 0.04])
        for right in rights:
            drawn = int(rng.hypergeometric(right, 4000 - right, 100))
            strata.append(Stratum(4000, 100, drawn))
        found = audit(strata)
        covered += found.low <= rights.sum() / 8000 <= found.high
    assert 0.87 <= covered / 400 <= 0.98


def items(stratum: str, count: int, right: int, probability: float | None) -> list[Item]:
    return [Item(stratum, n < right, probability) for n in range(count)]


def test_items_become_strata() -> None:
    found = audit_items(items("low", 40, 20, 0.04) + items("high", 20, 19, 0.01), {"high": 2000, "low": 1000})
    assert found == audit([Stratum(2000, 20, 19, "high"), Stratum(1000, 40, 20, "low")])


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (items("low", 1, 1, None), "borderline-first review"),
        (items("low", 1, 1, 0.0), "inclusion probability 0.0"),
        (items("low", 1, 1, float("nan")), "inclusion probability nan"),
        (items("low", 1, 1, 0.5), "probabilities 0.04 to 0.5"),
        (items("other", 1, 1, 0.04), "'other', which is none of high, low"),
    ],
)
def test_items_not_drawn_at_random_are_refused(extra: list[Item], words: str) -> None:
    drawn = items("low", 40, 20, 0.04) + items("high", 20, 19, 0.01)
    with pytest.raises(BuildError, match=words):
        audit_items(drawn + extra, {"high": 2000, "low": 1000})


# Shift


def sample(images: int, seed: int, *, boxes: float = 4.0, shape: float = 2.0) -> PoolSample:
    rng = np.random.default_rng(seed)
    count = rng.poisson(boxes, images)
    image = np.repeat(np.arange(images), count)
    score = rng.beta(shape, 2.0, len(image))
    return PoolSample(
        *(np.bincount(image, weights, minlength=images) for weights in (None, score, (score >= 0.5).astype(float)))
    )


def test_shift_measures_and_warns() -> None:
    pool = sample(3000, 0)
    same = shift(pool, sample(300, 1))
    assert not same.warn
    boxes, score, share = same.measures
    assert (boxes.name, score.name, share.name) == (
        "predictions per image",
        "mean score",
        "share above the threshold",
    )
    assert boxes.pool == pytest.approx(4.0, rel=0.05)
    assert score.truth == pytest.approx(0.5, rel=0.05)
    assert boxes.change == pytest.approx(boxes.truth / boxes.pool - 1)
    assert all(measure.p_value > 0.01 for measure in same.measures)
    fewer = shift(pool, sample(300, 2, boxes=3.0))
    assert [measure.warn for measure in fewer.measures] == [True, False, False]
    assert fewer.measures[0].p_value == 1 / 1000
    surer = shift(pool, sample(300, 3, shape=3.0))
    assert [measure.warn for measure in surer.measures] == [False, True, True]


def test_a_difference_that_is_real_but_small_is_no_alarm() -> None:
    (boxes, _, _) = shift(sample(20_000, 0), sample(20_000, 1, boxes=4.2), draws=199).measures
    assert boxes.p_value < 0.01
    assert not boxes.warn


def test_shift_counts_images_not_boxes() -> None:
    """50 boxes of an image that are all surer are one accident, not fifty."""
    rng = np.random.default_rng(0)

    def clustered(images: int) -> PoolSample:
        count = np.full(images, 50.0)
        return PoolSample(count, count * rng.uniform(0.2, 0.8, images), count * (rng.random(images) < 0.5))

    p_values = [m.p_value for _ in range(60) for m in shift(clustered(300), clustered(30), draws=99).measures[1:]]
    assert np.mean(np.array(p_values) <= 0.1) <= 0.2


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_shift_does_not_depend_on_the_order_of_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool, truth = sample(200, seed), sample(40, seed + 1)
    turned = []
    for side in (pool, truth):
        order = rng.permutation(len(side.boxes))
        turned.append(PoolSample(side.boxes[order], side.scores[order], side.above[order]))
    assert shift(pool, truth, draws=99) == shift(*turned, draws=99)


def test_permutation_p_value_is_that_of_all_permutations() -> None:
    """Against scipy's exact test of a difference of means, on samples small enough to list."""
    pool, truth = np.array([0.0, 1, 1, 2, 3, 5]), np.array([4.0, 5, 6])
    none = [np.ones(len(side)) for side in (pool, truth)]
    found = shift(PoolSample(pool, none[0], none[0]), PoolSample(truth, none[1], none[1]), draws=20_000)

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(a.mean(axis=axis) - b.mean(axis=axis))

    exact = stats.permutation_test(
        (truth, pool), difference, vectorized=True, alternative="greater", n_resamples=np.inf
    )
    assert found.measures[0].p_value == pytest.approx(exact.pvalue, abs=0.01)


def test_shift_without_predictions_or_images() -> None:
    nothing = PoolSample(*np.zeros((3, 20)))
    boxes, score, share = shift(sample(200, 0), nothing, draws=99).measures
    assert (boxes.truth, boxes.change) == (0.0, -1.0)
    assert boxes.p_value == 0.01
    assert np.isnan(score.truth)
    assert (score.warn, share.warn) == (False, False)
    assert score.p_value == 1.0
    assert shift(nothing, nothing, draws=9).measures[0].change == 0.0
    assert shift(sample(10, 0), PoolSample(*np.zeros((3, 0)))).measures == ()
    appeared = shift(nothing, sample(200, 0), draws=199).measures[0]
    assert appeared.change == np.inf
    assert appeared.warn

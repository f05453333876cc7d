"""Precision, recall, reliability and calibration of matched predictions, against scikit-learn and scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, precision_recall_curve

from builder.errors import BuildError
from builder.evidence.calibrate import (
    OWN_MAP,
    Curve,
    at,
    cross_validated,
    curve,
    fit,
    isotonic,
    outcomes,
    reliabilities,
    reliability,
)
from builder.evidence.matching import Matches
from builder.rules.calibrator import Calibrator, Isotonic
from tests.helpers.matched import CLASSES, some_matches


def shuffled(matches: Matches, seed: int) -> Matches:
    order = np.random.default_rng(seed).permutation(len(matches.score))
    rows = {name: getattr(matches, name)[order] for name in ("image", "label", "score", "area")}
    return replace(matches, **rows, right=matches.right[:, order], counted=matches.counted[:, order])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), grid=st.sampled_from([0, 5, 20]), iou=st.sampled_from([0.5, 0.75]))
def test_the_curve_is_scikit_learns(seed: int, grid: int, iou: float) -> None:
    matches = some_matches(seed, grid=grid)
    row = matches.ious.index(iou)
    points = curve(matches, iou)
    counted = matches.counted[row]
    precision, _, thresholds = precision_recall_curve(matches.right[row][counted], matches.score[counted])
    np.testing.assert_array_equal(points.threshold, thresholds[::-1])
    np.testing.assert_allclose(points.precision, precision[:-1][::-1])
    objects = matches.object_label >= 0
    assert points.objects == objects.sum()
    for threshold, recall, kept in zip(points.threshold, points.recall, points.kept, strict=True):
        assert recall == (matches.object_score[row][objects] >= threshold).sum() / objects.sum()
        assert kept == (counted & (matches.score >= threshold)).sum()


def test_a_curve_of_some_classes_and_the_values_between_its_points() -> None:
    matches = some_matches(1)
    points = curve(matches, labels=[1, 2])
    mine = np.isin(matches.label, [1, 2]) & matches.counted[0]
    assert points.kept[-1] == mine.sum()
    assert at(points, 2.0)[2] == 0 and np.isnan(at(points, 2.0)[0]) and at(points, 2.0)[1] == 0
    one = Curve(np.array([float(np.float32(0.7))]), np.ones(1), np.ones(1), np.ones(1, np.int64), 1)
    assert at(one, 0.7)[2] == 1  # float32(.7) lies below .7
    middle = (points.threshold[3] + points.threshold[4]) / 2
    assert at(points, middle) == (points.precision[3], points.recall[3], points.kept[3])
    assert at(points, points.threshold[3])[2] == points.kept[3]
    nothing = curve(matches, labels=[])
    assert len(nothing.threshold) == 0 and nothing.objects == 0
    with pytest.raises(BuildError, match=r"IoU 0\.6: choose one of 0\.5, 0\.75"):
        curve(matches, 0.6)


@pytest.mark.parametrize(("by", "strategy"), [("mass", "quantile"), ("width", "uniform")])
@pytest.mark.parametrize("grid", [0, 7])
def test_reliability_bins_are_scikit_learns(by: str, strategy: str, grid: int) -> None:
    score, right, _ = outcomes(some_matches(2, grid=grid), 0.5)
    bins = reliability(score, right, 15, by)  # type: ignore[arg-type]
    share, confidence = calibration_curve(right, score.astype(np.float64), n_bins=15, strategy=strategy)
    np.testing.assert_allclose(bins.right, share)
    np.testing.assert_allclose(bins.confidence, confidence)
    assert bins.count.sum() == len(score)


def test_the_error_is_the_weighted_gap() -> None:
    confidence = np.array([0.1, 0.1, 0.9, 0.9])
    right = np.array([False, False, True, False])
    assert reliability(confidence, right, 2, "width").error == pytest.approx((0.1 * 2 + 0.4 * 2) / 4)
    assert np.isnan(reliability(np.zeros(0), np.zeros(0, bool)).error)


def test_isotonic_is_scikit_learns() -> None:
    matches = some_matches(3, images=800)
    fitted = fit(matches, "isotonic")
    assert set(fitted.own) == {"cat", "dog"}  # birds are too few
    for label, name in enumerate(CLASSES):
        score, right, _ = outcomes(matches, 0.5, [label] if name in fitted.own else None)
        model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score, right)
        grid = np.linspace(0, 1, 301, dtype=np.float32)
        found = fitted(np.full(301, label, np.int16), grid)
        np.testing.assert_allclose(found, model.predict(grid), atol=1e-6)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.integers(1, 9)), min_size=1, max_size=60),
    grid=st.sampled_from([1, 4, 40]),
    weighted=st.booleans(),
    same=st.sampled_from([None, False, True]),
)
def test_isotonic_is_scikit_learns_to_the_bit(
    rows: list[tuple[int, bool, int]], grid: int, weighted: bool, same: bool | None
) -> None:
    """Equal scores (all of them on a grid of 1), weights, predictions that are all right or all wrong, scores outside
    those that were fitted; in any order of rows, and with the points that scikit-learn keeps."""
    score = np.float32([(place % grid + 1) / 50 for place, _, _ in rows])
    right = np.array([hit if same is None else same for _, hit, _ in rows])
    weight = np.array([count for _, _, count in rows]) if weighted else None
    fitted = isotonic(score, right, weight)
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    model.fit(score.astype(np.float64), right.astype(np.float64), sample_weight=weight)
    assert fitted == Isotonic(score=model.X_thresholds_.tolist(), right=model.y_thresholds_.tolist())
    points = np.linspace(-0.1, 1.1, 97)
    np.testing.assert_array_equal(fitted(points), model.predict(points))
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    assert isotonic(score[order], right[order], None if weight is None else weight[order]) == fitted


def test_a_class_without_predictions_is_calibrated_as_all_are() -> None:
    matches = some_matches(3, images=800)
    without = replace(matches, counted=matches.counted & (matches.label != 2))
    fitted = fit(without, "isotonic")
    score, right, _ = outcomes(without, 0.5)
    assert CLASSES[2] not in fitted.own and fitted.pooled == isotonic(score, right)
    points = np.linspace(0, 1, 11, dtype=np.float32)
    np.testing.assert_array_equal(fitted(np.full(11, 2, np.int16), points), fitted.pooled(points).astype(np.float32))


def test_temperature_minimises_the_log_loss_and_finds_the_true_one() -> None:
    rng = np.random.default_rng(4)
    matches = some_matches(4, images=4000)
    true = rng.random(len(matches.score)) * 0.98 + 0.01
    right = np.stack([rng.random(len(true)) < true] * 2)
    matches = replace(matches, score=expit(2.5 * logit(true)).astype(np.float32), right=right)
    fitted = fit(replace(matches, counted=np.ones_like(right)), "temperature")
    label, score = matches.label, matches.score
    assert fitted.own["cat"].temperature == pytest.approx(2.5, rel=0.05)  # type: ignore[union-attr]

    def loss(temperature: float) -> float:
        return log_loss(right[0], expit(logit(np.clip(score.astype(np.float64), 1e-6, 1 - 1e-6)) / temperature))

    best = minimize(lambda t: loss(t[0]), [1.0], method="Nelder-Mead", options={"xatol": 1e-5})
    assert fitted.pooled.temperature == pytest.approx(best.x[0], rel=1e-3)  # type: ignore[union-attr]
    np.testing.assert_allclose(fitted(label, score)[label == 0], true[label == 0], atol=0.05)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["temperature", "isotonic"]), grid=st.sampled_from([0, 10]))
def test_calibrators_rise_and_do_not_depend_on_row_order_and_survive_json(seed: int, kind: str, grid: int) -> None:
    matches = some_matches(seed, images=120, grid=grid)
    fitted = fit(matches, kind)  # type: ignore[arg-type]
    assert fit(shuffled(matches, seed), kind) == fitted  # type: ignore[arg-type]
    assert Calibrator.model_validate_json(fitted.model_dump_json()) == fitted
    score = np.sort(np.r_[np.random.default_rng(seed).random(200, np.float32), np.float32([0, 1])])
    for label in range(3):
        out = fitted(np.full(len(score), label, np.int16), score)
        assert out.dtype == np.float32
        assert out.min() >= 0 and out.max() <= 1
        assert (np.diff(out) >= 0).all()


def test_a_class_has_its_own_map_from_enough_support_on() -> None:
    matches = some_matches(5, images=400)
    for kind, need in OWN_MAP.items():
        own = fit(matches, kind).own  # type: ignore[arg-type]
        for label, name in enumerate(CLASSES):
            _, right, _ = outcomes(matches, 0.5, [label])
            assert (name in own) == (min(right.sum(), (~right).sum()) >= need)


def test_cross_validation_keeps_units_whole_and_is_honest() -> None:
    matches = some_matches(6, images=600)
    confidence = cross_validated(matches, "isotonic")
    np.testing.assert_array_equal(
        cross_validated(shuffled(matches, 0), "isotonic")[
            np.argsort(np.random.default_rng(0).permutation(len(matches.score)))
        ],
        confidence,
    )
    changed = replace(matches, right=np.where(matches.unit[matches.image] == 7, ~matches.right, matches.right))
    mine = matches.unit[matches.image] == 7
    np.testing.assert_array_equal(cross_validated(changed, "isotonic")[mine], confidence[mine])
    found = {name: bins.error for name, bins in reliabilities(matches).items()}
    assert found["isotonic"] < 0.05 < found["raw"]
    score, right, rows = outcomes(matches, 0.5)
    fitted = fit(matches, "isotonic")(matches.label[rows], score)
    assert reliability(fitted, right).error < found["isotonic"]  # what a figure on the fitted predictions would claim


def test_nothing_to_calibrate_on() -> None:
    matches = some_matches(7, images=3, per_image=0)
    with pytest.raises(BuildError, match="nothing to calibrate"):
        fit(matches, "isotonic")
    assert all(np.isnan(bins.error) for bins in reliabilities(matches).values())
    one_unit = replace(some_matches(8, images=4), unit=np.zeros(4, np.int64))
    assert np.isnan(reliabilities(one_unit)["isotonic"].error)


def test_predictions_that_are_all_right_or_all_wrong_still_calibrate() -> None:
    matches = some_matches(9)
    for right in (True, False):
        same = replace(matches, right=np.full_like(matches.right, right), counted=np.ones_like(matches.counted))
        for kind in ("temperature", "isotonic"):
            fitted = fit(same, kind)  # type: ignore[arg-type]
            out = fitted(np.int16([0, 0]), np.float32([0.2, 0.8]))
            assert np.isfinite(out).all() and out[0] <= out[1]

"""How far a teacher's scores can be believed: precision and recall at every threshold, reliability, and calibration.

All on predictions matched with human labels (builder.evidence.matching); those on crowds and difficult objects are left
out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from builder.errors import BuildError
from builder.evidence.matching import Matches
from builder.rules.calibrator import Calibrator, Isotonic, Kind, Temperature, logit_of
from builder.rules.scores import counted

KINDS: tuple[Kind, ...] = ("temperature", "isotonic")
BINS = 15
FOLDS = 5
OWN_MAP = {"temperature": 30, "isotonic": 100}
"""A class has its own map from so many right and so many wrong predictions on, of maps from so many images with such
pixels; the others share the pooled one."""


@dataclass(frozen=True)
class Curve:
    """Precision and recall of what is kept at `score >= threshold`, float64 (K,) each, for the K scores that occur,
    falling. kept: int64 (K,), predictions that count; objects: that are there to be found; pixels both, of maps. Recall
    is NaN without any.
    """

    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    kept: np.ndarray
    objects: int

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN), float64 (K,)."""
        return 2 * np.rint(self.precision * self.kept) / (self.kept + self.objects)


def curve(matches: Matches, iou: float = 0.5, labels: Sequence[int] | None = None) -> Curve:
    """The curve of these classes (positions in the teacher's), of all shared ones by default, taken together.

    Size buckets are curves of matches at an area range (`matching.SIZES`), so that they are COCOeval's.
    """
    score, right, rows = outcomes(matches, iou, labels)
    return curve_of(score, right, matches.weights(rows), _number(matches, labels))


def curve_of(score: np.ndarray, right: np.ndarray, weight: np.ndarray | None, objects: int) -> Curve:
    """The curve of predictions that were judged. score: float32 (N,); right: bool (N,); weight: int64 (N,), what each
    counts for, None: one; objects: that are there to be found."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)[: len(order)])  # equal scores move together
    weight = None if weight is None else weight[order]
    kept, hits = last + 1, np.cumsum(right[order] if weight is None else right[order] * weight)[last]
    if weight is not None:
        kept = np.cumsum(weight)[last]
    recall = hits / objects if objects else np.full(len(last), np.nan)
    return Curve(score[order][last].astype(np.float64), hits / kept, recall, kept, objects)


def at(points: Curve, threshold: float) -> tuple[float, float, int]:
    """Precision, recall and kept at a threshold; NaN, 0 and 0 where nothing is kept, recall NaN without objects."""
    least = float(np.float32(threshold))  # as the rules compare
    place = int(np.searchsorted(-points.threshold, -least, side="right")) - 1
    if place < 0:
        return np.nan, 0.0 if points.objects else np.nan, 0
    return float(points.precision[place]), float(points.recall[place]), int(points.kept[place])


def outcomes(
    matches: Matches, iou: float, labels: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score float32, right bool and row int64 of the predictions that count, of these classes. Raises BuildError for
    an overlap that was not matched at."""
    place = iou_place(matches, iou)
    mine = matches.counted[place]
    if labels is not None:
        mine = mine & np.isin(matches.label, labels)
    rows = np.flatnonzero(mine)
    return matches.score[rows], matches.right[place][rows], rows


def iou_place(matches: Matches, iou: float) -> int:
    if iou not in matches.ious:
        known = ", ".join(f"{value:g}" for value in matches.ious)
        raise BuildError(f"predictions were not matched at IoU {iou:g}: choose one of {known}")
    return matches.ious.index(iou)


def occurring(matches: Matches, iou: float) -> list[int]:
    """The classes with a prediction that counts or an object to be found, those with the most objects first."""
    count = len(matches.classes)
    known, mine = _objects(matches, None), matches.counted[iou_place(matches, iou)]
    objects = counted(matches.object_label[known], matches.object_weights(known), count)
    predicted = counted(matches.label[mine], matches.weights(mine), count)
    order = np.lexsort((np.arange(count), -objects))
    return order[(objects + predicted)[order] > 0].tolist()


def _objects(matches: Matches, labels: Sequence[int] | None) -> np.ndarray:
    """Which objects are there to be found: bool (M,). Classes that the teacher does not know are not."""
    known = matches.object_label >= 0 if labels is None else np.isin(matches.object_label, labels)
    return matches.object_counts & known


def _number(matches: Matches, labels: Sequence[int] | None) -> int:
    """How many objects, or of maps pixels, are there to be found."""
    known = _objects(matches, labels)
    weight = matches.object_weights(known)
    return int(known.sum() if weight is None else weight.sum())


@dataclass(frozen=True)
class Reliability:
    """Bins of predictions by confidence, those that are not empty. confidence, right: float64 (B,), mean confidence
    and share of right predictions; count: int64 (B,)."""

    confidence: np.ndarray
    right: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al., arXiv 1706.04599, eq. 3); NaN without predictions."""
        gap = np.abs(self.right - self.confidence)
        return float((gap * self.count).sum() / self.count.sum()) if self.count.any() else np.nan


def reliability(
    confidence: np.ndarray,
    right: np.ndarray,
    bins: int = BINS,
    by: Literal["mass", "width"] = "mass",
    weight: np.ndarray | None = None,
) -> Reliability:
    """confidence: (N,) in [0, 1]; right: bool (N,). Bins of about equal counts, split at quantiles so that equal
    confidences share a bin, or of equal width. weight: int64 (N,), what each counts for."""
    confidence = np.asarray(confidence, np.float64)
    steps = np.linspace(0, 1, bins + 1)
    edges = _quantiles(confidence, steps, weight) if by == "mass" and len(confidence) else steps
    place = np.searchsorted(edges[1:-1], confidence)
    count = counted(place, weight, bins)
    filled = count > 0
    # Sums of sorted values, so that the order of rows does not change the last bit.
    order = np.lexsort((right, confidence) if weight is None else (weight, right, confidence))
    each = confidence if weight is None else confidence * weight
    total = np.bincount(place[order], each[order], minlength=bins)
    hits = counted(place[right], None if weight is None else weight[right], bins)
    return Reliability(total[filled] / count[filled], hits[filled] / count[filled], count[filled])


def _quantiles(values: np.ndarray, shares: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    if weight is None:
        return np.percentile(values, 100 * shares)
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weight[order])
    return np.asarray(values[order][np.searchsorted(total, shares * total[-1])])


def fit(matches: Matches, kind: Kind, iou: float = 0.5) -> Calibrator:
    """A calibrator from these predictions; see Calibrator. Raises BuildError if there are none that count."""
    return _fit(matches, kind, iou, np.ones(len(matches.score), bool))


def _fit(matches: Matches, kind: Kind, iou: float, allowed: np.ndarray) -> Calibrator:
    score, right, rows = outcomes(matches, iou)
    used = allowed[rows]
    score, right, label = score[used], right[used], matches.label[rows][used]
    if not len(score):
        raise BuildError("no prediction of the labelled images counts: there is nothing to calibrate scores on")
    weight = matches.weights(rows)
    weight = None if weight is None else weight[used]
    need, count = OWN_MAP[kind], len(matches.classes)
    pairs = np.stack([label.astype(np.int64), matches.image[rows][used]])
    hits, misses = (
        np.bincount(label[side] if weight is None else np.unique(pairs[:, side], axis=1)[0], minlength=count)
        for side in (right, ~right)
    )

    def of(mine: np.ndarray) -> Temperature | Isotonic:
        return _map(score[mine], right[mine], kind, None if weight is None else weight[mine])

    rich = np.flatnonzero((hits >= need) & (misses >= need)).tolist()
    return Calibrator(
        kind=kind,
        iou=iou,
        classes=list(matches.classes),
        pooled=of(np.ones(len(score), bool)),
        own={matches.classes[n]: of(label == n) for n in rich},
    )


def _map(score: np.ndarray, right: np.ndarray, kind: Kind, weight: np.ndarray | None) -> Temperature | Isotonic:
    if kind == "isotonic":
        return isotonic(score, right, weight)
    # sums do not depend on the order of rows
    order = np.lexsort((right, score) if weight is None else (weight, right, score))
    weight = None if weight is None else weight[order].astype(np.float64)
    score, right = score[order].astype(np.float64), right[order].astype(np.float64)
    from scipy.optimize import minimize_scalar

    logit = logit_of(score)

    def loss(log_temperature: float) -> float:
        scaled = logit * np.exp(-log_temperature)
        return float(np.average(np.logaddexp(0, scaled) - right * scaled, weights=weight))

    best = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-6})
    return Temperature(temperature=float(np.exp(best.x)))


def isotonic(score: np.ndarray, right: np.ndarray, weight: np.ndarray | None = None) -> Isotonic:
    """The rising curve that is nearest, by least squares, to what is right at each score.

    score: (N,) of at least one prediction; right: bool (N,); weight: int64 (N,), at least 1, what each counts for.
    Equal scores are one point, their mean; of a level stretch only the ends are kept: the curve is straight between.
    """
    from scipy.optimize import isotonic_regression

    points, place = np.unique(score.astype(np.float64), return_inverse=True)
    total = counted(place, weight, len(points))
    hits = counted(place[right], None if weight is None else weight[right], len(points))
    level = isotonic_regression(hits / total, weights=total).x.clip(0, 1)
    ends = np.ones(len(points), bool)
    ends[1:-1] = (level[1:-1] != level[:-2]) | (level[1:-1] != level[2:])
    return Isotonic(score=points[ends].tolist(), right=level[ends].tolist())


def calibrated(matches: Matches, calibration: Calibrator) -> Matches:
    """The same matches with calibrated scores, also of the predictions that found the objects."""
    object_score = matches.object_score.copy()
    for row in object_score:
        there = ~np.isnan(row)
        row[there] = calibration(matches.object_label[there], row[there])
    return replace(matches, score=calibration(matches.label, matches.score), object_score=object_score)


def cross_validated(matches: Matches, kind: Kind, iou: float = 0.5, folds: int = FOLDS) -> np.ndarray:
    """Each prediction's confidence from a calibrator that was fitted without its unit; float32 (N,), NaN where the
    other units have no predictions. Folds go by a hash of the units' image names, whatever their order."""
    fold = _folds(matches, folds)[matches.image]
    confidence = np.full(len(matches.score), np.nan, np.float32)
    for n in range(folds):
        mine, others = fold == n, fold != n
        if mine.any() and (others & matches.counted[iou_place(matches, iou)]).any():
            fitted = _fit(matches, kind, iou, others)
            confidence[mine] = fitted(matches.label[mine], matches.score[mine])
    return confidence


def _folds(matches: Matches, folds: int) -> np.ndarray:
    """The fold of each image, int64 (I,): units dealt round in order of the smallest hash of their images' names."""
    keys = [hashlib.sha256(name.encode()).hexdigest() for name in matches.names]
    smallest: dict[int, str] = {}
    for unit, key in zip(matches.unit.tolist(), keys, strict=True):
        smallest[unit] = min(key, smallest.get(unit, key))
    place = {unit: n % folds for n, unit in enumerate(sorted(smallest, key=smallest.__getitem__))}
    return np.array([place[unit] for unit in matches.unit.tolist()], np.int64)


def reliabilities(matches: Matches, iou: float = 0.5, labels: Sequence[int] | None = None) -> dict[str, Reliability]:
    """Of `raw` scores, and of `temperature` and `isotonic` calibration on units that they were not fitted on."""
    score, right, rows = outcomes(matches, iou, labels)
    bins = {"raw": reliability(score, right, weight=matches.weights(rows))}
    for kind in KINDS:
        confidence = cross_validated(matches, kind, iou)[rows]
        known = np.isfinite(confidence)
        bins[kind] = reliability(confidence[known], right[known], weight=matches.weights(rows[known]))
    return bins


STEPS = np.linspace(0.05, 0.95, 19).round(2)
"""Thresholds at which `describe` gives curves."""


def describe(by_size: Mapping[str, Matches], iou: float, per_class: bool) -> dict[str, Any]:
    """All of it, JSON-ready: for every size (`matching.SIZES`), over all classes and, if asked for, for each class with
    an object or a prediction, support and precision and recall at STEPS; over all sizes reliability, expected
    calibration errors and both calibrators. null stands for "cannot be said"."""
    whole = by_size["all"]
    labels: list[int | None] = [None]
    if per_class:
        labels += occurring(whole, iou)
    groups = [_group(matches, size, label, iou) for label in labels for size, matches in by_size.items()]
    bins = reliabilities(whole, iou)
    any_counted = whole.counted[iou_place(whole, iou)].any()
    return {
        "groups": groups,
        "reliability": {
            name: {column: values.tolist() for column, values in vars(r).items()} for name, r in bins.items()
        },
        "expected_calibration_error": {name: finite(values.error) for name, values in bins.items()},
        "calibrators": {kind: fit(whole, kind, iou).model_dump() if any_counted else None for kind in KINDS},
    }


def _group(matches: Matches, size: str, label: int | None, iou: float) -> dict[str, Any]:
    points = curve(matches, iou, None if label is None else [label])
    precision, recall, kept = zip(*(at(points, float(step)) for step in STEPS), strict=True)
    return {
        "class": None if label is None else matches.classes[label],
        "size": size,
        "objects": points.objects,
        "predictions": int(points.kept[-1]) if len(points.kept) else 0,
        "right": round(points.precision[-1] * points.kept[-1]) if len(points.kept) else 0,
        "threshold": STEPS.tolist(),
        "precision": [finite(value) for value in precision],
        "recall": [finite(value) for value in recall],
        "kept": list(kept),
    }


def finite(value: float) -> float | None:
    """NaN, which JSON does not have, as None."""
    return float(value) if np.isfinite(value) else None

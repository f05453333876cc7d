"""What labels can be expected to certify, before they are asked: from `tune` and the pool's scores, never `certify`.

A group is certified if the first step of its fixed sequence passes (builder.evidence.certify). How likely that is with
N labelled images follows from what `tune` says of that step: how many objects it keeps on an image and in how many
units, their design effect, and their precision. The pool says where the step lies: the more images, the higher. With n*
objects in effect (builder.evidence.bounds) the test passes from c right ones on, I_target(c, n* - c + 1) = delta, so
with the chance I_p(c, n* - c + 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builder.evidence.bounds import effective_units, fewest_units, korn_graubard, needed
from builder.evidence.certify import OWN_THRESHOLD, first_step, share_out, support
from builder.evidence.matching import Matches
from builder.rules.keep import Precision
from builder.rules.scores import PoolScores, cells_at, counted
from builder.words import percent
from teachers.errors import warn

LIKELY = 0.8
"""The chance of being certified that a plan asks for."""
EVEN = 0.5
"""The chance below which it is unlikely."""
STEP, MOST = 1.1, 100
"""Numbers of images that are looked at: each so many times the one before, up to so many times what there is."""
FEW = 3
"""Labelled objects (of maps, images that show the class) in `tune`, with fewer of which no need is told."""
BELIEF = 4.0
"""Objects that what all classes show at a score is worth of a single one, of which `tune` may hold few."""
DRAWS = np.array([-1.6, -0.97, -0.59, -0.28, 0.0, 0.28, 0.59, 0.97, 1.6])
"""Deviations of how many objects the first step happens to keep, in roots of how many are expected: equally likely."""
LADDER = 1.25
"""Factor between the pool's objects at thresholds that are looked at."""


@dataclass(frozen=True)
class Need:
    """What may be expected of a group of classes.

    own: whether it is one class of a group of several, which is to have its own threshold: `over: groups` gives it one
    from a support of OWN_THRESHOLD times the fewest objects on. chance: that the certify half, as large as it is,
    certifies it. sure: whether `tune` holds enough of them to say that more will not do. images: that certify, with
    which the chance is LIKELY; None: no number is known, or will do. more_images, more_objects: than there are, of maps
    without the latter. precision: of the best-scored objects, of which the first step consists.
    """

    classes: tuple[str, ...]
    own: bool
    chance: float
    sure: bool
    images: int | None
    more_images: int
    more_objects: int | None
    precision: float

    @property
    def likely(self) -> bool:
        return self.chance >= LIKELY

    def advice(self, noun: str = "objects") -> str:
        """What would make it likely, as a clause; "" where it is, or that cannot be said. noun: what the labelled
        objects are."""
        if self.likely or (self.images is None and not self.sure):
            return ""
        if self.images is None:
            return "more labels alone will hardly do"
        more = f"{self.more_images} more images"
        objects = "" if self.more_objects is None else f"{self.more_objects} more {noun}, on "
        return f"about {objects}{more} to certify on would do"


def check_likely(needs: Sequence[Need], classes: Sequence[str], objects: np.ndarray, target: float) -> None:
    """Warn where the groups that are unlikely to be certified hold most of the labelled objects: whoever looks at the
    certify half uses it. needs: of the groups as they are shared out; objects: int (C,), of each class, on `tune`."""
    unlikely = [need for need in needs if need.chance < EVEN]
    names = {name for need in unlikely for name in need.classes}
    theirs = sum(int(number) for name, number in zip(classes, objects, strict=True) if name in names)
    if 2 * theirs > (total := int(objects.sum())):
        advised = [need for need in unlikely if need.advice()]
        listed = "; ".join(f"{first_names(need.classes)}: {need.advice()}" for need in advised[:3])
        more = "; …" if len(advised) > 3 else ""
        warn(
            f"a precision of {target:g} is unlikely to be certified for classes with {percent(theirs / total)} of the "
            f"labelled objects{f' ({listed}{more})' if listed else ''}; this look at the certify half is counted all "
            "the same, and `tutelage sweep RECIPE` shows the plan without one"
        )


def first_names(names: Sequence[str]) -> str:
    """The first three of these, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class _Steps:
    """What `tune` says of thresholds, falling; float64 (J,) each, for one labelled image. pool: predictions in the
    pool; kept: on `tune`; units: that keep any; equal: units of equal size that weigh as much; effect: design effect
    of what is kept; precision: falling with the threshold, since a higher score is to mean something; size: n* of
    `tune` itself."""

    pool: np.ndarray
    kept: np.ndarray
    units: np.ndarray
    equal: np.ndarray
    effect: np.ndarray
    precision: np.ndarray
    size: np.ndarray


def plan(tune: Matches, scores: PoolScores, options: Precision, images: int) -> list[Need]:
    """What `options` can be expected to certify on so many labelled images: for each group of classes as they would be
    shared out, and for each class of a group of several by itself.

    tune: the half that may be looked at, calibrated where thresholds act on calibrated scores.
    """
    b = needed(options.target, options.delta)
    scale = tune.images / max(1, images)
    shares = share_out(tune, scores, options.over, OWN_THRESHOLD * b * scale)
    delta = options.delta / max(1, len(shares)) if options.family == "all" else options.delta
    rest = [labels for labels in shares if len(labels) > 1] if options.over == "groups" else []
    alone = [[label] for labels in rest for label in labels]
    every = [*shares, *alone]
    above = [scores.above(labels) for labels in every]
    counts = [
        reach[0] / LADDER ** np.arange(max(0, math.ceil(math.log(max(1, reach[0]), LADDER))) + 1) for reach in above
    ]
    tails = scores.tails(every, [cells_at(*pair) for pair in zip(above, counts, strict=True)])
    needs = []
    for place, (labels, tail, wanted) in enumerate(zip(every, tails, counts, strict=True)):
        thresholds = np.unique(tail.highest(wanted))[::-1]
        pool = np.array([tail.reach(float(t)) for t in thresholds]) / max(1, scores.images)
        steps = _steps(tune, labels, thresholds, pool, options)
        own = place >= len(shares)
        per_image = support(tune, scores, labels) / max(1, tune.images)
        least = OWN_THRESHOLD * b if own else 0
        needs.append(_need(tune, labels, steps, per_image, options.target, delta, images, own, least))
    return needs


def _steps(
    tune: Matches, labels: Sequence[int], thresholds: np.ndarray, pool: np.ndarray, options: Precision
) -> _Steps:
    row = tune.ious.index(options.iou)
    usual = _precision_of_all(tune, row, thresholds)
    rows = np.flatnonzero(tune.counted[row] & np.isin(tune.label, labels))
    unit, right, score, weight = (
        tune.unit[tune.image[rows]],
        tune.right[row][rows],
        tune.score[rows],
        tune.weights(rows),
    )
    count = int(tune.unit.max(initial=-1)) + 1
    columns = []
    for threshold, of_all in zip(thresholds, usual, strict=True):
        chosen = score >= threshold
        kept, correct = (
            counted(unit[mask], None if weight is None else weight[mask], count) for mask in (chosen, chosen & right)
        )
        bound = korn_graubard(kept, correct, options.target, options.delta)
        size = max(bound.effective or 0.0, 0.0)
        share = bound.correct / bound.kept if bound.kept else 0.0
        precision = (size * share + BELIEF * of_all) / (size + BELIEF)
        effect = _effect(kept, correct)
        columns.append((bound.kept, np.count_nonzero(kept), effective_units(kept), effect, precision, size + BELIEF))
    total, units, equal, effects, precisions, sizes = np.array(columns, np.float64).reshape(-1, 6).T
    effects = np.where(np.isnan(effects), np.nanmax(effects, initial=1.0), effects)
    images, rising = max(1, tune.images), _rising(precisions, sizes)
    return _Steps(pool, total / images, units / images, equal / images, effects, rising, sizes - BELIEF)


def _precision_of_all(tune: Matches, row: int, thresholds: np.ndarray) -> np.ndarray:
    """The precision of all classes together from each threshold on, at least that of lower ones; float64 (J,)."""
    rows = np.flatnonzero(tune.counted[row])
    rows = rows[np.argsort(-tune.score[rows], kind="stable")]
    weight = np.ones(len(rows)) if tune.weight is None else tune.weight[rows].astype(np.float64)
    kept, right = (np.append(0.0, np.cumsum(each)) for each in (weight, weight * tune.right[row][rows]))
    ends = np.searchsorted(-tune.score[rows], -thresholds, side="right")
    return _rising((right[ends] + 0.5) / (kept[ends] + 1), kept[ends] + 1)


def _rising(precision: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The nearest that falls with falling thresholds, since a higher score is to mean something."""
    from scipy.optimize import isotonic_regression

    return (
        np.asarray(isotonic_regression(precision, weights=weight, increasing=False).x) if len(precision) else precision
    )


def _effect(kept: np.ndarray, correct: np.ndarray) -> float:
    """The design effect (builder.evidence.bounds.effective_size), without the correction for few units; NaN where fewer
    than two units keep anything."""
    units, total, right = int(np.count_nonzero(kept)), float(kept.sum()), float(correct.sum())
    if units < 2:
        return float("nan")
    if not 0 < right < total:
        return float((kept.astype(np.float64) ** 2).sum() / total)
    p = right / total
    squares = float(((correct - p * kept) ** 2).sum()) / total**2
    return max(1.0, units / (units - 1) * squares * total / (p * (1 - p)))


def _need(
    tune: Matches,
    labels: Sequence[int],
    steps: _Steps,
    per_image: float,
    target: float,
    delta: float,
    images: int,
    own: bool,
    least: float,
) -> Need:
    """least: support that the group is to have."""
    pixels = tune.weight is not None
    ladder = np.unique(np.ceil(images * STEP ** np.arange(math.ceil(math.log(MOST, STEP)) + 1)).astype(np.int64))
    chances = [
        _chance(steps, int(n), per_image, target, delta, pixels) if n * per_image >= least else (0.0, 0.0)
        for n in ladder
    ]
    known = tune.object_counts & np.isin(tune.object_label, labels)
    seen = int(known.sum()) >= FEW
    enough = next((int(n) for n, (chance, _) in zip(ladder, chances, strict=True) if chance >= LIKELY and seen), None)
    chance, precision = chances[0]
    if enough and not precision:
        precision = chances[ladder.tolist().index(enough)][1]
    more = 0 if enough is None else enough - images
    objects = None if pixels else math.ceil(more * int(known.sum()) / max(1, tune.images))
    sure = float(steps.size.max(initial=0.0)) >= 2 * needed(target, delta)
    return Need(tuple(tune.classes[label] for label in labels), own, chance, sure, enough, more, objects, precision)


def _chance(
    steps: _Steps, images: int, per_image: float, target: float, delta: float, pixels: bool
) -> tuple[float, float]:
    """That the first step passes, and its precision on `tune`."""
    if not len(steps.pool):
        return 0.0, 0.0
    enough = steps.pool * images >= first_step(images * per_image, needed(target, delta))
    if pixels:
        enough &= steps.equal * images >= fewest_units(target, delta)
    if not enough.any():
        return 0.0, float(steps.precision[-1])
    first = int(np.argmax(enough))
    precision, effect = float(steps.precision[first]), float(steps.effect[first])
    if pixels:
        size = _size(steps.kept[first] * images, steps.units[first] * images, effect, delta)
        return _passes(size, None, precision, target, delta), precision
    expected = steps.pool[first] * images  # `tune` may hold too few to count them
    units = max(steps.units[first] * images, expected / effect)
    drawn = np.unique(np.maximum(np.round(expected + DRAWS * math.sqrt(expected)), 0.0))
    chances = [
        _passes(_size(k, min(units * k / expected, k), effect, delta), int(k), precision, target, delta) for k in drawn
    ]
    return float(np.mean(chances)), precision


def _size(kept: float, units: float, effect: float, delta: float) -> float:
    """n* of so many kept objects in so many units (builder.evidence.bounds.effective_size)."""
    from scipy.special import stdtrit

    if units < 2 or kept < 2:
        return 0.0
    quantiles = float(stdtrit(kept - 1, delta) / stdtrit(units - 1, delta)) if units < kept else 1.0
    return float(min(kept, kept / effect * quantiles**2))


def _passes(size: float, kept: int | None, precision: float, target: float, delta: float) -> float:
    """The chance that n* = `size` objects in effect pass the test, if they are right with this precision. kept: whole
    objects, of which a whole number is right; None for pixels."""
    from scipy.special import betainc

    if size <= 0 or target**size > delta:
        return 0.0  # not even if all are right
    right = np.linspace(0, size, 201 if kept is None else kept + 1)[1:]
    enough = np.flatnonzero(betainc(right, size - right + 1, target) <= delta)
    if not len(enough):
        return 0.0
    least = float(right[enough[0]])
    return float(betainc(least, size - least + 1, precision))

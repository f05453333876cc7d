"""Thresholds for a precision one may stand behind: Korn-Graubard bounds along a fixed sequence, and exact bets.

Scanning thresholds for the lowest that looks good enough is peeking, and the boxes of an image are not independent.
Here the thresholds to try come from the pool's scores alone, are tried from high to low until the first failure, and
images (or declared units) are what is counted. H0 at a threshold: E[target K - C] >= 0 for the K kept and C correct
objects of a unit, that is: precision <= target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from builder.scores import BINS, PoolScores

if TYPE_CHECKING:  # matching needs rules, whose options are made of those here
    from builder.matching import Matches

STEP = 1.15
"""Factor from one expected support to the next along the fixed sequence."""
OWN_THRESHOLD = 6
"""A class has its own threshold from this many times the fewest objects that can pass."""
BETS = (0.5, 1.0, 2.0)
"""Multiples of the best bet for an average population; their capitals are averaged."""
CUT_OFF = 0.02
"""Share of the pool's kept objects that may lie beyond M in their images."""

PoolKept = Callable[[Sequence[int], np.ndarray], list[np.ndarray]]
"""(labels, float32 thresholds (J,)) -> J int arrays: at k, pool images with exactly k objects of these classes from
that threshold on."""


class Precision(BaseModel):
    """`keep.precision` of a recipe: thresholds are solved so that the precision of what is kept is at least `target`.

    iou: overlap that makes a box right. delta: how often the claim may fail. over: what shares a threshold (`groups`:
    classes too rare for their own share one). family: `all` splits delta over the groups, so that one claim holds for
    all of them; `each` makes a claim for each. bound: `clustered`, asymptotic; `exact`, for any number of images, pays
    off from about 500. on_low_support: what becomes of a group that cannot be certified; `fallback` keeps it, not
    certified, from the score `fallback` on. A plain number is the target.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    target: float = Field(gt=0, lt=1)
    iou: float = 0.5
    delta: float = Field(default=0.1, ge=1e-6, lt=0.5)
    over: Literal["groups", "class", "version"] = "groups"
    family: Literal["each", "all"] = "each"
    bound: Literal["clustered", "exact"] = "clustered"
    on_low_support: Literal["fail", "fallback", "drop"] = "fail"
    fallback: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _number_is_target(cls, value: Any) -> Any:
        return {"target": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("iou")
    @classmethod
    def _iou_is_matched(cls, iou: float) -> float:
        from builder.matching import IOUS

        if iou not in IOUS:
            raise ValueError(f"predictions are matched at an IoU of {' and '.join(map(str, IOUS))}, not {iou}")
        return iou


class Group(BaseModel):
    """Classes that share a threshold, and the evidence for it; part of a version's manifest.

    threshold: kept from here on; None: nothing is kept. units: n, truth images or declared units in `certify`; kept and
    correct: K and C at the threshold; effective: n*; p_value, lower: of the accepted step (1 - delta confidence).
    support: expected truth support of the group, from the pool's scores; needed: b. reason: why it is not certified.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    classes: list[str]
    rule: Literal["score", "precision", "density", "balance", "mixture", "top_box"]
    threshold: float | None
    ignore: float | None = None
    """Where the rule has its own threshold for ignore regions."""
    certified: bool = False
    reason: str = ""
    target: float | None = None
    delta: float | None = None
    iou: float | None = None
    bound: str | None = None
    units: int | None = None
    kept: int | None = None
    correct: int | None = None
    effective: float | None = None
    p_value: float | None = None
    lower: float | None = None
    support: float | None = None
    needed: int | None = None


@dataclass(frozen=True)
class Bound:
    """What is known of the precision at one threshold.

    kept, correct: K and C. effective: n*, objects that would say as much if they were independent; None for bets.
    p_value: of H0. lower: a bound that precision exceeds with confidence 1 - delta; for bets the target or, without
    acceptance, 0.
    """

    kept: int
    correct: int
    effective: float | None
    p_value: float
    lower: float


def needed(target: float, delta: float) -> int:
    """b: the fewest objects, all correct, that can show a precision of `target`: ceil(ln delta / ln target)."""
    return math.ceil(math.log(delta) / math.log(target) - 1e-9)  # .1 against .01 must give 2, not 3


def effective_size(kept: np.ndarray, correct: np.ndarray, delta: float) -> float:
    """n* (Korn and Graubard 1998): K over the design effect of the units, corrected for their number; 0 if fewer than
    two units keep anything. `kept`, `correct`: int (units,); delta below .5.

    Units with one object at most cannot be clustered: n* = K, and the bounds on it are Clopper and Pearson's.
    """
    from scipy.special import stdtrit

    units, total, right = int(np.count_nonzero(kept)), int(kept.sum()), int(correct.sum())
    if units < 2:
        return 0.0
    if units == total:
        return float(total)
    kept, correct = kept.astype(np.int64), correct.astype(np.int64)
    if 0 < right < total:
        # sum (C_i - C/K K_i)^2 in whole numbers: exact, whatever the order of the units
        sums = [int(a @ b) for a, b in ((correct, correct), (kept, correct), (kept, kept))]
        squares = (total**2 * sums[0] - 2 * total * right * sums[1] + right**2 * sums[2]) / total**4
        effect = max(1.0, units / (units - 1) * squares * total / (right / total * (1 - right / total)))
    else:
        effect = int(kept @ kept) / total
    quantiles = float(stdtrit(total - 1, delta) / stdtrit(units - 1, delta))  # lower tails: 1 - delta may round to 1
    return min(total / effect * quantiles**2, float(total))  # in this order NaN stays NaN, which certifies nothing


def korn_graubard(kept: np.ndarray, correct: np.ndarray, target: float, delta: float) -> Bound:
    """Test of precision <= target and lower bound of the precision, from int (units,) kept and correct objects.

    p-value I_target(x, n* - x + 1) and bound Beta(x, n* - x + 1) at delta, with x = n* C/K: Clopper and Pearson's on
    the effective size n*. Fewer than two units with a kept object show nothing: p-value 1, bound 0.
    """
    from scipy.special import betainc, betaincinv

    total, right = int(kept.sum()), int(correct.sum())
    size = effective_size(kept, correct, delta)
    x = size * right / total if total else 0.0
    if x == 0:
        return Bound(total, right, size, 1.0, 0.0)
    rest = size - x + 1
    return Bound(total, right, size, float(betainc(x, rest, target)), float(betaincinv(x, rest, delta)))


def bets(
    kept: np.ndarray, correct: np.ndarray, unit: np.ndarray, pool: np.ndarray, target: float, delta: float
) -> Bound:
    """The same test for any number of units, without asymptotics: the capital of bets against H0 reaches 1/delta.

    kept, correct, unit: int (I,), of each truth image. pool: int (k + 1,), pool images with exactly k kept objects; it
    bounds what the objects beyond M in an image can add. An image's gain target K - C is cut at target M; a unit's is
    the sum over its images, so that bets, averaged over BETS, are on independent units. Row order does not matter.
    """
    total, right = int(kept.sum()), int(correct.sum())
    numbers, images = np.arange(len(pool)), max(1, int(pool.sum()))
    mean = float(numbers @ pool) / images
    if mean == 0 or total == 0:
        return Bound(total, right, None, 1.0, 0.0)
    more = np.cumsum(pool[::-1])[::-1]  # pool images with at least k objects
    beyond = (np.cumsum(more[::-1])[::-1] - more) / images  # E(K - k)+ = sum over j > k of P(K >= j)
    most = int(np.argmax(beyond <= CUT_OFF * mean))
    slack = target * float(beyond[most])
    gain = np.minimum(target * kept - correct, target * most) + slack
    gains = np.bincount(unit, weights=gain)[np.bincount(unit) > 0]
    top = (target * most + slack) * int(np.bincount(unit).max())
    spread = 1.5 * len(kept) * target * (1 - target) * mean
    best = math.sqrt(2 * math.log(1 / delta) / spread)
    capitals = [float(np.log1p(-min(c * best, 0.95 / top) * np.sort(gains)).sum()) for c in BETS]
    capital = float(np.logaddexp.reduce(capitals)) - math.log(len(BETS))
    p_value = min(1.0, math.exp(-capital)) if capital > 0 else 1.0
    return Bound(total, right, None, p_value, target if p_value <= delta else 0.0)


def solve(matches: Matches, scores: PoolScores, options: Precision, floor: float, pool_kept: PoolKept) -> list[Group]:
    """Thresholds of all groups of classes, with their evidence; each class stands in one group.

    matches: of the certify half alone. scores: of the pool, after the same NMS and cap. floor: the teacher's, where the
    sequences end. pool_kept: asked for `bound: exact` alone. Groups: those with their own threshold in class order,
    then those that share one, then the classes without human labels. Nothing accepted: threshold None, with a reason.
    """
    b = needed(options.target, options.delta)
    shares = share_out(matches, scores, options.over, OWN_THRESHOLD * b)
    delta = options.delta / max(1, len(shares)) if options.family == "all" else options.delta
    table = np.full(len(matches.classes), -1)
    for position, labels in enumerate(shares):
        table[labels] = position
    rows = np.flatnonzero(matches.counted[matches.ious.index(options.iou)] & (table[matches.label] >= 0))
    group = table[matches.label[rows]]
    order = np.lexsort((-matches.score[rows], group))
    rows, ends = rows[order], np.searchsorted(group[order], np.arange(len(shares) + 1))
    found = []
    for position, labels in enumerate(shares):
        own = rows[ends[position] : ends[position + 1]]
        found.append(_solve_group(matches, own, scores, labels, options, delta, floor, pool_kept))
    unknown = [name for name, shared in zip(matches.classes, matches.shared, strict=True) if not shared]
    if unknown:
        found.append(_group(unknown, options, reason="no human labels for it"))
    return found


def share_out(matches: Matches, scores: PoolScores, over: str, enough: float) -> list[list[int]]:
    """Which of the classes with human labels share a threshold, from the pool's scores alone."""
    labels = np.flatnonzero(matches.shared).tolist()
    if over == "version":
        return [labels] if labels else []
    if over == "class":
        return [[label] for label in labels]
    rich = [label for label in labels if support(matches, scores, [label]) >= enough]
    rest = [label for label in labels if label not in set(rich)]
    return [[label] for label in rich] + ([rest] if rest else [])


def support(matches: Matches, scores: PoolScores, labels: Sequence[int]) -> float:
    """S: the correct objects of these classes to expect on the truth images, if scores are probabilities."""
    return matches.images * float(scores.total[list(labels)].sum()) / max(1, scores.images)


def sequence(above: np.ndarray, images: float, expected: float, b: int, floor: float) -> np.ndarray:
    """Thresholds to try, float32 (J,) falling, from the pool alone.

    above: int (BINS + 1,), pool objects from score k / BINS on. images: truth images over pool images. The j-th keeps
    k0 1.15^j objects of the truth in expectation, k0 = expected / 3 within [1.3 b, 3 b]; the last is the floor, the
    first edge at or above it.
    """
    last = min(BINS, math.ceil(np.float32(floor) * BINS))
    counts = above[last:] * images
    start = min(max(expected / 3, 1.3 * b), 3 * b)
    steps = max(0, math.ceil(math.log(counts[0] / start) / math.log(STEP))) if counts[0] > start else 0
    wanted = start * STEP ** np.arange(steps)
    reached = np.searchsorted(-counts, -wanted, side="right") - 1  # the highest edge that keeps so many
    edges = np.unique(np.append(np.maximum(reached, 0), 0))[::-1] + last
    return (edges / BINS).astype(np.float32)


def _solve_group(
    matches: Matches,
    rows: np.ndarray,
    scores: PoolScores,
    labels: list[int],
    options: Precision,
    delta: float,
    floor: float,
    pool_kept: PoolKept,
) -> Group:
    """The group of these classes; `rows`: its counted predictions by falling score."""
    b, expected = needed(options.target, delta), support(matches, scores, labels)
    thresholds = sequence(scores.above(labels), matches.images / max(1, scores.images), expected, b, floor)
    pool = pool_kept(labels, thresholds) if options.bound == "exact" else None
    threshold, bound = _walk(matches, rows, thresholds, pool, options, delta)
    names = [matches.classes[label] for label in labels]
    facts: dict[str, Any] = {"delta": delta, "units": len(np.unique(matches.unit)), "support": expected, "needed": b}
    if threshold is None:
        return _group(names, options, **facts, reason=_why_not(float(thresholds[0]), bound, b, delta, options.target))
    facts |= {"kept": bound.kept, "correct": bound.correct, "effective": bound.effective}
    facts |= {"p_value": bound.p_value, "lower": bound.lower, "certified": True}
    return _group(names, options, threshold, **facts)


def _walk(
    matches: Matches,
    rows: np.ndarray,
    thresholds: np.ndarray,
    pool: list[np.ndarray] | None,
    options: Precision,
    delta: float,
) -> tuple[float | None, Bound]:
    """The last accepted threshold of the fixed sequence and its bound; None and the first bound if it failed."""
    ends = np.searchsorted(-matches.score[rows], -thresholds, side="right").tolist()
    place, right = matches.image[rows], matches.right[matches.ious.index(options.iou), rows]
    if pool is None:
        present, place = np.unique(matches.unit[place], return_inverse=True)
    count = len(present) if pool is None else matches.images
    kept, correct = np.zeros(count, np.int64), np.zeros(count, np.int64)
    found: tuple[float | None, Bound] = None, Bound(0, 0, None, 1.0, 0.0)
    for step, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        kept += np.bincount(place[start:end], minlength=count)
        correct += np.bincount(place[start:end][right[start:end]], minlength=count)
        if pool is None:
            bound = korn_graubard(kept, correct, options.target, delta)
        else:
            bound = bets(kept, correct, matches.unit, pool[step], options.target, delta)
        if not bound.p_value <= delta:  # nor NaN
            return (None, bound) if step == 0 else found
        found = float(thresholds[step]), bound
    return found


def _group(names: list[str], options: Precision, threshold: float | None = None, **evidence: Any) -> Group:
    asked = {"delta": options.delta, "target": options.target, "iou": options.iou, "bound": options.bound}
    return Group(classes=names, rule="precision", threshold=threshold, **(asked | evidence))


def _why_not(threshold: float, bound: Bound, b: int, delta: float, target: float) -> str:
    seen = f"of {bound.kept} objects with a score of {threshold:.3f} or more {bound.correct} are right"
    if bound.kept < b:
        return f"{seen}, and at least {b} are needed"
    if bound.effective is not None and bound.effective < b:
        return f"{seen}, in units so few that they say as much as {bound.effective:.0f} alone, and {b} are needed"
    return f"{seen}, which does not show a precision of {target:g} (p-value {bound.p_value:.2g}, not below {delta:g})"

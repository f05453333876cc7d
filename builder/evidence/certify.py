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
from typing import Any

import numpy as np

from builder.evidence.bounds import Bound, bets, effective_units, fewest_units, korn_graubard, needed
from builder.evidence.matching import Matches
from builder.rules.keep import Precision
from builder.rules.scores import BINS, PoolScores, Tail, cells_at, counted
from builder.store.provenance import Group

STEP = 1.15
"""Factor from one expected support to the next along the fixed sequence."""
OWN_THRESHOLD = 6
"""A class has its own threshold from this many times the fewest objects that can pass."""
PoolKept = Callable[[Sequence[int], np.ndarray], list[np.ndarray]]
"""(labels, float32 thresholds (J,)) -> J int arrays: at k, pool images with exactly k objects of these classes from
that threshold on."""


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
    groups = []
    for position, (labels, thresholds) in enumerate(
        zip(shares, sequences(matches, scores, shares, needed(options.target, delta), floor), strict=True)
    ):
        rows_of = rows[ends[position] : ends[position + 1]]
        pool = pool_kept(labels, thresholds) if options.bound == "exact" else None
        groups.append(
            _solve_group(matches, rows_of, labels, thresholds, support(matches, scores, labels), options, delta, pool)
        )
    unknown = [name for name, shared in zip(matches.classes, matches.shared, strict=True) if not shared]
    if unknown:
        groups.append(_group(unknown, options, reason="no human labels for it"))
    return groups


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
    """S: the correct objects of these classes to expect on the truth images, if scores are probabilities; of maps, the
    images that show one of them, since pixels of an image are not worth more than it."""
    if matches.weight is not None:
        best = scores.best[list(labels)].sum(axis=0)
        shown = float(best @ (np.arange(BINS + 1) / BINS)) / max(1, scores.images)
        return matches.images * min(1.0, shown)
    return matches.images * float(scores.total[list(labels)].sum()) / max(1, scores.images)


def sequences(
    matches: Matches, scores: PoolScores, shares: Sequence[list[int]], b: int, floor: float
) -> list[np.ndarray]:
    """The fixed sequence of each group, float32 (J,) falling: from the pool's scores alone. Of the labels only the
    number of images counts."""
    images = matches.images / max(1, scores.images)
    counts = [steps(int(scores.above(labels)[0]), images, support(matches, scores, labels), b) for labels in shares]
    cells = [cells_at(scores.above(labels), wanted) for labels, wanted in zip(shares, counts, strict=True)]
    tails = scores.tails(shares, cells)
    return [sequence(tail, wanted, floor) for tail, wanted in zip(tails, counts, strict=True)]


def steps(number: int, images: float, expected: float, b: int) -> np.ndarray:
    """How many of the pool's objects the steps of a fixed sequence are to keep, float64 (J,) rising, from the pool
    alone; the step that keeps all comes after them.

    number: of the pool's objects; images: truth images over pool images. The j-th step keeps k0 1.15^j objects of the
    truth in expectation, k0 = expected / 3 within [1.3 b, 3 b].
    """
    start, most = first_step(expected, b), number * images
    count = max(0, math.ceil(math.log(most / start) / math.log(STEP))) if most > start else 0
    return start * STEP ** np.arange(count) / images if images else np.zeros(0)


def first_step(expected: float, b: int) -> float:
    """k0: how many objects of the truth the first step is to keep."""
    return min(max(expected / 3, 1.3 * b), 3 * b)


def sequence(tail: Tail, counts: np.ndarray, floor: float) -> np.ndarray:
    """Thresholds to try, float32 (J,) falling: the highest scores of the pool that so many reach (`steps`), and last
    the floor, where all are kept. tail: exact where these counts are reached."""
    return np.unique(np.append(np.maximum(tail.highest(counts), np.float32(floor)), np.float32(floor)))[::-1]


def _solve_group(
    matches: Matches,
    rows: np.ndarray,
    labels: list[int],
    thresholds: np.ndarray,
    expected: float,
    options: Precision,
    delta: float,
    pool: list[np.ndarray] | None,
) -> Group:
    """The group of these classes; `rows`: its counted predictions by falling score. pool: for bets, what PoolKept says
    of these thresholds."""
    b = needed(options.target, delta)
    walked = _walk(matches, rows, thresholds, pool, options, delta)
    names = [matches.classes[label] for label in labels]
    facts: dict[str, Any] = {"delta": delta, "units": len(np.unique(matches.unit)), "support": expected, "needed": b}
    bound = walked.bound
    if not walked.accepted:
        noun = "objects" if matches.weight is None else "pixels"
        reason = _why_not(noun, walked.threshold, bound, b, delta, options.target)
        return _group(names, options, **facts, reason=reason)
    facts |= {"kept": bound.kept, "correct": bound.correct, "effective": bound.effective}
    facts |= {"p_value": bound.p_value, "lower": bound.lower, "certified": True}
    return _group(names, options, walked.threshold, **facts)


@dataclass(frozen=True)
class _Step:
    """Where a walk along a fixed sequence ended: the last step accepted, or, if none was, the one that failed."""

    accepted: bool
    threshold: float
    bound: Bound


def _walk(
    matches: Matches,
    rows: np.ndarray,
    thresholds: np.ndarray,
    pool: list[np.ndarray] | None,
    options: Precision,
    delta: float,
) -> _Step:
    """Along the fixed sequence up to the first failure. First steps at which the units of a map are too few are passed
    over, which depends on what is kept alone, not on what is right."""
    ends = np.searchsorted(-matches.score[rows], -thresholds, side="right").tolist()
    place, right = matches.image[rows], matches.right[matches.ious.index(options.iou), rows]
    if pool is None:
        present, place = np.unique(matches.unit[place], return_inverse=True)
    count = len(present) if pool is None else matches.images
    kept, correct = np.zeros(count, np.int64), np.zeros(count, np.int64)
    weight, fewest = matches.weights(rows), fewest_units(options.target, delta)
    last = _Step(False, float(thresholds[0]), Bound(0, 0, None, 1.0, 0.0))
    for step, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        new = slice(start, end)
        hit = right[new]
        kept += counted(place[new], None if weight is None else weight[new], count)
        correct += counted(place[new][hit], None if weight is None else weight[new][hit], count)
        if weight is not None and (units := effective_units(kept)) < fewest:
            if last.accepted:
                return last
            few = Bound(int(kept.sum()), int(correct.sum()), units, 1.0, 0.0)
            last = _Step(False, float(thresholds[step]), few)
            continue
        if pool is None:
            bound = korn_graubard(kept, correct, options.target, delta)
        else:
            bound = bets(kept, correct, matches.unit, pool[step], options.target, delta)
        if not bound.p_value <= delta:  # nor NaN
            return last if last.accepted else _Step(False, float(thresholds[step]), bound)
        last = _Step(True, float(thresholds[step]), bound)
    return last


def _group(names: list[str], options: Precision, threshold: float | None = None, **evidence: Any) -> Group:
    asked = {"delta": options.delta, "target": options.target, "iou": options.iou, "bound": options.bound}
    return Group(classes=names, rule="precision", threshold=threshold, **(asked | evidence))


def _why_not(noun: str, threshold: float, bound: Bound, b: int, delta: float, target: float) -> str:
    scored = f" with a score of {threshold:.3f} or more" if threshold > 0 else ""
    seen = f"of {bound.kept} {noun}{scored} {bound.correct} are right"
    if bound.kept < b or not bound.correct:
        return f"{seen}, and at least {b} are needed"
    ones, least = ("equal images", fewest_units(target, delta)) if noun == "pixels" else ("independent ones", b)
    if bound.effective is not None and bound.effective < least:
        worth = f"count as {bound.effective:.1f} {ones}, and {least} are needed"
        return f"{seen}, but those of one image or group are alike: they {worth}"
    return f"{seen}, which does not show a precision of {target:g} (p-value {bound.p_value:.2g}, not below {delta:g})"

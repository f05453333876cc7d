"""Where thresholds come from: the rules of self-training's papers, each a pure function of the same evidence.

Which of them a recipe uses is `Keep.rule`. All act on confidences, that is on calibrated scores where the recipe asks
for calibration. Thresholds are scores that occur in the pool, or numbers of the recipe: float32, as the rules compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from builder.engine import run
from builder.errors import BuildError
from builder.evidence.certify import solve as certify
from builder.evidence.matching import Matches
from builder.evidence.planning import Need, first_names
from builder.rules.keep import Density, Keep, Mixture
from builder.rules.limits import per_class
from builder.rules.objects import Thresholds
from builder.rules.scores import BINS, PoolScores, Tail, cell, cells_at
from builder.store.provenance import Group
from builder.words import percent

STEP = 0.01
"""Of Noisy Student's walk down."""
USUAL_IGNORE = 0.3
"""From here on objects of a class without a threshold are ignored where `keep.ignore` is null: they may be objects, and
background would teach that they are none."""
FEW = 4
"""Scores below which Consistent-Teacher fits no mixture."""
ROUNDS = 200
"""Of expectation maximisation, at most."""


@dataclass(frozen=True)
class Evidence:
    """What rules may look at. classes: the version's; floor: the teacher's. scores: of the whole pool. per_image:
    float64 (C,), objects of each class on a labelled image, NaN for a class the labels do not know; of maps, its pixels
    on a pool image (builder.evidence.holdout.Halves.per_image).
    certify: predictions on the half of the labels that thresholds are certified on; needs: what it was expected to
    certify. pool_kept: see
    builder.evidence.certify.solve."""

    classes: tuple[str, ...]
    floor: float
    scores: PoolScores | None = None
    per_image: np.ndarray | None = None
    certify: Matches | None = None
    needs: Sequence[Need] = ()
    pool_kept: Callable[[Sequence[int], np.ndarray], list[np.ndarray]] | None = None


def solve(keep: Keep, evidence: Evidence) -> Thresholds:
    """The thresholds a recipe asks for. Raises BuildError for an unknown class, a class without a threshold, one below
    the teacher's floor (nothing below it was stored), and a precision that cannot be certified."""
    match keep.rule:
        case "score":
            groups = fixed(keep, evidence)
        case "precision":
            groups = precision(keep, evidence)
        case "density":
            groups = density(keep, evidence)
        case "balance":
            groups = balance(keep, evidence)
        case "mixture":
            groups = mixture(keep, evidence)
        case _:
            groups = top_box(keep, evidence)
    return keep.limits([_left(group, keep) for group in groups], evidence.classes)


def _left(group: Group, keep: Keep) -> Group:
    """The group with what becomes of the objects of classes of which nothing is kept: ignore regions from `keep.ignore`
    on, or where that is null from USUAL_IGNORE, unless the recipe says that they are background."""
    if group.threshold is not None:
        return group
    told = {"precision": keep.precision and keep.precision.on_low_support, "mixture": keep.mixture and keep.mixture.few}
    if told.get(group.rule) == "drop":
        return group.model_copy(update={"background": True})
    usual = group.ignore is None and keep.ignore is None
    return group.model_copy(update={"ignore": USUAL_IGNORE}) if usual else group


def fixed(keep: Keep, evidence: Evidence) -> list[Group]:
    """`score`: set by hand (Zoph et al. .5, Unbiased Teacher .7, Soft Teacher .9)."""
    score = per_class(keep.score or 0.0, evidence.classes, "score")
    lowest = float(score.min(initial=1.0))
    if lowest < np.float32(evidence.floor):
        raise BuildError(
            f"keep.score {lowest:g} lies below the floor {evidence.floor:g} down to which the teacher's predictions "
            f"are stored: raise keep.score, or lower teacher.floor and label again"
        )
    return [
        Group(classes=[name for name, threshold in zip(evidence.classes, score, strict=True) if threshold == value],
              rule="score", threshold=float(value))
        for value in np.unique(score)
    ]  # fmt: skip


def top_box(keep: Keep, evidence: Evidence) -> list[Group]:
    """`top_box` (STAC, arXiv 2005.04757): min(threshold, best score of the image), so that no image with a prediction
    stays without a box; promises nothing about their precision."""
    return [Group(classes=list(evidence.classes), rule="top_box", threshold=_float32(keep.top_box or 0.0))]


def precision(keep: Keep, evidence: Evidence) -> list[Group]:
    """`precision`: the lowest threshold along a fixed sequence that certifies it (builder.evidence.certify)."""
    options = keep.precision
    if options is None or evidence.certify is None or evidence.scores is None or evidence.pool_kept is None:
        raise BuildError(
            "keep.precision is solved on held-out labels, and there are none: add truth: LABELS, or set keep.score"
        )
    groups = certify(evidence.certify, evidence.scores, options, evidence.floor, evidence.pool_kept)
    advice = {need.classes: need.advice() for need in evidence.needs}
    groups = [_advised(group, advice.get(tuple(group.classes), "")) for group in groups]
    if options.on_low_support == "fail" and (missed := [group for group in groups if not group.certified]):
        raise BuildError(
            f"{not_certified(missed, len(evidence.classes), options.target)}: add labelled images, lower "
            "keep.precision.target, or say with keep.precision.on_low_support what becomes of them: ignore, drop, or "
            "fallback (to a score)"
        )
    if options.on_low_support == "fallback":
        score = max(options.fallback, evidence.floor)
        return [g if g.certified else g.model_copy(update={"threshold": _float32(score)}) for g in groups]
    return groups


def _advised(group: Group, advice: str) -> Group:
    """The group with what would make it likely to be certified, where it is not."""
    if group.certified or not advice:
        return group
    return group.model_copy(update={"reason": f"{group.reason}; {advice}"})


def not_certified(missed: Sequence[Group], classes: int, target: float, share: str = "") -> str:
    """Which groups were not certified and why, as the beginning of a sentence. classes: of the version; share: what
    more to say of them."""
    listed = "; ".join(f"{first_names(group.classes)}: {group.reason}" for group in missed[:3])
    number = sum(len(group.classes) for group in missed)
    more = "; …" if len(missed) > 3 else ""
    return f"a precision of {target:g} cannot be certified for {number} of {classes} classes{share} ({listed}{more})"


def check_partial(keep: Keep, groups: Sequence[Group], classes: Sequence[str], objects: np.ndarray) -> None:
    """Raise BuildError where the classes that `keep.precision` could not certify, and of which so nothing is kept, hold
    most of the labelled objects. objects: int (C,), of each class, in the labels that may be looked at."""
    missed = [group for group in groups if not group.certified and group.threshold is None]
    if not keep.precision or not missed:
        return
    names = {name for group in missed for name in group.classes}
    theirs = sum(int(number) for name, number in zip(classes, objects, strict=True) if name in names)
    if 2 * theirs <= (total := int(objects.sum())):
        return
    held = f", which hold {percent(theirs / total)} of the labelled objects"
    raise BuildError(
        f"{not_certified(missed, len(classes), keep.precision.target, held)}: add labelled images (as truth.certify: "
        "NEW_LABELS they keep the guarantee), give --allow-partial (allow_partial=True) to build without them, or set "
        "keep.precision.on_low_support: fallback (to a score, not certified) or a lower keep.precision.target (another "
        "use of the certify half, so without a guarantee)"
    )


def density(keep: Keep, evidence: Evidence) -> list[Group]:
    """`density` (LabelMatch, arXiv 2206.06608): N_c, the boxes that the labels' density lets expect on the pool; kept
    are the best `share` of N_c, ignored the rest of N_c. Of image classes these are images, of maps pixels."""
    options, scores = keep.density or Density(), _scores(evidence, "density")
    if evidence.per_image is None:
        raise BuildError("keep.density takes its counts from labels, and the recipe names none: add truth: LABELS")
    low = max(options.min, evidence.floor)
    wanted = np.nan_to_num(evidence.per_image) * scores.images
    counts = np.stack([options.share * wanted, wanted], axis=1)
    single = [[label] for label in range(len(evidence.classes))]
    cells = [cells_at(scores.above(labels), count) for labels, count in zip(single, counts, strict=True)]
    groups = []
    for label, tail in enumerate(scores.tails(single, cells)):
        name, expected = evidence.classes[label], evidence.per_image[label] * scores.images
        if not expected > 0:
            why = "no human labels for it" if np.isnan(expected) else "the labels hold no such object"
            groups.append(Group(classes=[name], rule="density", threshold=None, reason=why))
            continue
        threshold, ignore = (_at_count(tail, count, low) for count in counts[label])
        few = f"its best {tail.number[:1].sum()} score the same, and {counts[label][0]:.1f} are to be kept"
        reason = few if threshold is None else ""
        group = Group(classes=[name], rule="density", threshold=threshold, ignore=ignore, reason=reason)
        groups.append(group.model_copy(update={"support": float(expected)}))
    return groups


def balance(keep: Keep, evidence: Evidence) -> list[Group]:
    """`balance` (Noisy Student, arXiv 1911.04252): the threshold walks down in steps of .01 until enough images hold a
    box of the class, or show it. Copies of rare ones are made where a sample has one label (builder.cut.balance)."""
    options, scores = keep.balance, _scores(evidence, "balance")
    if options is None:
        raise BuildError("keep.balance.images is missing: say how many images a class needs")
    lowest = max(options.min, evidence.floor)
    steps = np.arange(round(1 / STEP), int(np.floor(lowest / STEP)) - 1, -1) / round(1 / STEP)
    walk = np.unique(np.maximum(steps, lowest).astype(np.float32))[::-1]
    single = [[label] for label in range(len(evidence.classes))]
    groups = []
    for name, tail in zip(evidence.classes, scores.tails(single, [cell(walk)] * len(single), best=True), strict=True):
        images = np.array([tail.reach(threshold) for threshold in walk])
        enough = np.flatnonzero(images >= options.images)
        place = enough[0] if len(enough) else len(walk) - 1
        reason = "" if len(enough) else f"{images[place]} of {options.images} images at the lowest threshold"
        groups.append(Group(classes=[name], rule="balance", threshold=float(walk[place]), reason=reason))
    return groups


def mixture(keep: Keep, evidence: Evidence) -> list[Group]:
    """`mixture` (Consistent-Teacher, arXiv 2209.01589): two Gaussians over a class's scores."""
    options, scores = keep.mixture or Mixture(), _scores(evidence, "mixture")
    edges = list(run(lambda counts, stop: high_component(counts), list(scores.objects)))
    cells = [np.array([] if edge is None else [edge]) for edge in edges]
    tails = scores.tails([[label] for label in range(len(edges))], cells)
    groups = []
    for label, (name, edge, tail) in enumerate(zip(evidence.classes, edges, tails, strict=True)):
        if edge is None and options.few == "fail":
            raise BuildError(
                f"keep.mixture finds no two components in the {scores.objects[label].sum()} scores of class {name!r}: "
                "give keep.score for it, or set keep.mixture.few=ignore"
            )
        threshold = None if edge is None else max(float(tail.score[-1]), _float32(evidence.floor))
        reason = "too few scores for two components" if edge is None else ""
        groups.append(Group(classes=[name], rule="mixture", threshold=threshold, reason=reason))
    return groups


def high_component(counts: np.ndarray) -> int | None:
    """Consistent-Teacher's threshold over a histogram of scores, int64 (BINS + 1,): the lowest cell that belongs to the
    higher of two Gaussians and lies at or above the cell where that one is likeliest; None for fewer than 4 scores, or
    scores that are all one.

    Expectation maximisation from means at the lowest and highest score, equal weights, and the variance of all.
    """
    cells = np.flatnonzero(counts)
    weight = counts[cells].astype(np.float64)
    x = (cells + 0.5) / BINS
    if weight.sum() < FEW or len(cells) < 2:
        return None
    mean, share = np.array([x[0], x[-1]]), np.array([0.5, 0.5])
    variance = np.full(2, max(np.average((x - np.average(x, weights=weight)) ** 2, weights=weight), 1e-6))
    belongs = np.zeros((2, len(x)))
    for _ in range(ROUNDS):
        density = share[:, None] / np.sqrt(variance)[:, None]
        density = density * np.exp(-((x - mean[:, None]) ** 2) / (2 * variance[:, None])) + 1e-300
        before, belongs = belongs, density / density.sum(axis=0)
        mass = belongs @ weight
        mean = (belongs @ (weight * x)) / mass
        variance = np.maximum((belongs * (x - mean[:, None]) ** 2) @ weight / mass, 1e-6)
        share = mass / mass.sum()
        if np.abs(belongs - before).max() < 1e-6:
            break
    high = int(mean.argmax())
    likeliest = cells[np.abs(x - mean[high]).argmin()]
    members = cells[(belongs[high] > 0.5) & (cells >= likeliest)]
    return int(members[0]) if len(members) else None


def _scores(evidence: Evidence, rule: str) -> PoolScores:
    if evidence.scores is None:
        raise BuildError(f"keep.{rule} needs the pool's scores: label the pool first")
    return evidence.scores


def _at_count(tail: Tail, count: float, low: float) -> float | None:
    """The lowest score of the pool, but not below `low`, that at most `count` predictions reach; equal scores stay
    together, so that none may be left."""
    lowest = _float32(low) if tail.above[0] <= count else tail.lowest(count)
    return None if lowest is None else max(lowest, _float32(low))


def _float32(value: float) -> float:
    return float(np.float32(value))

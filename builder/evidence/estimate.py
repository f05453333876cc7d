"""What a sample says of a whole: precision at fixed thresholds, audits of kept objects, shift between truth and pool.

At a threshold that was solved on the same images the measured precision is optimistic: there the certified target is
what may be reported (builder.evidence.certify), and an audit of what was kept is what estimates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from builder.errors import BuildError
from builder.evidence.bounds import effective_size
from builder.rules.scores import PoolSample

SIGNIFICANT = 0.01
"""p-value below which a difference between truth and pool may be no accident …"""
RELEVANT = 0.1
"""… and relative change above which it matters."""


@dataclass(frozen=True)
class Stratum:
    """Kept objects that were drawn from together: how many there are, were audited and were right."""

    objects: int
    audited: int
    right: int
    name: str = ""


@dataclass(frozen=True)
class Item:
    """An audited object. probability: with which it was drawn from its stratum, as recorded then; None: not recorded,
    as where a person looked at the most doubtful ones first."""

    stratum: str
    right: bool
    probability: float | None


@dataclass(frozen=True)
class Estimate:
    """A precision with its interval. objects: that it speaks of; audited: that were looked at; effective: n*, the
    audited objects that would say as much if they were drawn at random from many; infinite if all were looked at."""

    precision: float
    low: float
    high: float
    objects: int
    audited: int
    effective: float


def interval(kept: np.ndarray, correct: np.ndarray, level: float = 0.9) -> tuple[float, float]:
    """Two-sided Korn-Graubard interval of the precision at a threshold that was fixed beforehand.

    kept, correct: int (units,), of each image or declared unit. (0, 1) if fewer than two units keep anything.
    """
    tail = (1 - level) / 2
    size = effective_size(kept, correct, tail)
    if size == 0:
        return 0.0, 1.0
    return _beta_limits(int(correct.sum()) / int(kept.sum()), size, tail)


def audit(strata: Sequence[Stratum], level: float = 0.9) -> Estimate:
    """The precision of all kept objects, from a random sample of each stratum without replacement.

    p = sum W_h p_h; V = sum W_h^2 (1 - n_h/N_h) q_h (1 - q_h) / (n_h - 1) with q_h = (x_h + .5) / (n_h + 1);
    n* = p (1 - p) / V (z / t_{n-H})^2, then Beta limits as of n* independent objects. Where all audited are right, or
    all wrong, sum W_h q_h stands for p in n*. Valid whatever the shift between truth and pool. Raises BuildError for a
    stratum of which too little was audited.
    """
    from scipy.special import ndtri, stdtrit

    strata = [stratum for stratum in strata if stratum.objects]
    for position, stratum in enumerate(strata):
        _check(stratum, stratum.name or str(position))
    if not strata:
        raise BuildError("there are no kept objects to audit: lower the thresholds")
    objects, audited, right = (
        np.array([getattr(stratum, name) for stratum in strata], np.float64) for name in ("objects", "audited", "right")
    )
    weight, smooth = objects / objects.sum(), (right + 0.5) / (audited + 1)
    precision = float(weight @ (right / audited))
    share = precision if 0 < right.sum() < audited.sum() else float(weight @ smooth)
    each = (1 - audited / objects) * smooth * (1 - smooth) / np.maximum(audited - 1, 1)
    variance, tail = float(np.square(weight) @ each), (1 - level) / 2
    counts = int(objects.sum()), int(audited.sum())
    if variance == 0:
        return Estimate(precision, precision, precision, *counts, np.inf)
    quantiles = ndtri(1 - tail) / stdtrit(audited.sum() - len(strata), 1 - tail)
    size = share * (1 - share) / variance * float(quantiles) ** 2
    return Estimate(precision, *_beta_limits(precision, size, tail), *counts, size)


def audit_items(items: Iterable[Item], strata: Mapping[str, int], level: float = 0.9) -> Estimate:
    """`audit` of single objects. strata: name -> kept objects in it.

    Raises BuildError for an item without a recorded inclusion probability, one of an unknown stratum, and a stratum
    whose items were drawn with different probabilities.
    """
    drawn: dict[str, set[float]] = {}
    audited, right = dict.fromkeys(strata, 0), dict.fromkeys(strata, 0)
    for item in items:
        if item.stratum not in strata:
            raise BuildError(
                f"an audited object is of stratum {item.stratum!r}, which is none of {', '.join(strata)}: correct it"
            )
        if item.probability is None or not 0 < item.probability <= 1:
            raise BuildError(
                f"an audited object of stratum {item.stratum!r} has the inclusion probability {item.probability}, and "
                "only objects drawn at random with a recorded one can enter an estimate (a borderline-first review "
                "looks at the doubtful ones): leave it out and draw an audit sample"
            )
        drawn.setdefault(item.stratum, set()).add(item.probability)
        audited[item.stratum] += 1
        right[item.stratum] += item.right
    for name, probabilities in drawn.items():
        if len(probabilities) > 1:
            raise BuildError(
                f"objects of stratum {name!r} were drawn with the probabilities {min(probabilities):g} to "
                f"{max(probabilities):g}: make a stratum of each, since within one all must be as likely"
            )
    return audit([Stratum(strata[name], audited[name], right[name], name) for name in strata], level)


@dataclass(frozen=True)
class Measure:
    """One comparison. pool, truth: its value on either, NaN without predictions; change: truth over pool, less 1;
    p_value: how often images at random differ as much or more."""

    name: str
    pool: float
    truth: float
    change: float
    p_value: float

    @property
    def warn(self) -> bool:
        return self.p_value < SIGNIFICANT and abs(self.change) > RELEVANT


@dataclass(frozen=True)
class Shift:
    """Whether truth looks drawn from the pool. No warning is no evidence of that: a change in how often a score is
    right shows only in an audit."""

    measures: tuple[Measure, ...]

    @property
    def warn(self) -> bool:
        return any(measure.warn for measure in self.measures)


def shift(pool: PoolSample, truth: PoolSample, draws: int = 999, seed: int = 0) -> Shift:
    """Permutation tests over images, since the boxes of one are not independent: predictions per image, their mean
    score, and the share of them that reaches its threshold. The order of images does not matter.

    p-values are (1 + permutations that differ at least as much) / (1 + draws), two-sided.
    """
    sides = [np.stack([side.boxes, side.scores, side.above], axis=1).astype(np.float64) for side in (pool, truth)]
    sides = [side[np.lexsort(side.T)] for side in sides]
    images = np.concatenate(sides)
    images = images[np.lexsort(images.T)]
    counts = np.array([len(side) for side in sides])
    if not counts.all():
        return Shift(())
    whole, few = images.sum(axis=0), int(counts.min())
    rng = np.random.default_rng(seed)
    chosen = np.stack(
        [images[rng.choice(len(images), few, replace=False, shuffle=False)].sum(axis=0) for _ in range(draws)]
    )
    values = [_measures(side.sum(axis=0), len(side)) for side in sides]
    permuted = np.abs(_measures(chosen, few) - _measures(whole - chosen, len(images) - few))
    observed = np.abs(values[1] - values[0])
    # Rounding must not make a permutation that differs as much look as if it differed less.
    extreme = ~(permuted < observed * (1 - 1e-9))
    p_values = (1 + extreme.sum(axis=0)) / (1 + draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.where(values[0] == values[1], 0.0, values[1] / values[0] - 1)
    names = ("predictions per image", "mean score", "share above the threshold")
    columns = zip(names, values[0].tolist(), values[1].tolist(), change.tolist(), p_values.tolist(), strict=True)
    return Shift(tuple(Measure(*values) for values in columns))


def _measures(sums: np.ndarray, images: int) -> np.ndarray:
    """float64 (..., 3) from the sums of boxes, scores and boxes above the threshold over so many images."""
    boxes, scores, above = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([boxes / images, scores / boxes, above / boxes], axis=-1)


def _beta_limits(precision: float, size: float, tail: float) -> tuple[float, float]:
    """Clopper and Pearson's limits for a share of `size` independent objects, `tail` of error on either side."""
    from scipy.special import betaincinv

    x = precision * size
    low = float(betaincinv(x, size - x + 1, tail)) if x > 0 else 0.0
    high = float(betaincinv(x + 1, size - x, 1 - tail)) if x < size else 1.0
    return low, high


def _check(stratum: Stratum, name: str) -> None:
    if not stratum.right <= stratum.audited <= stratum.objects:
        raise BuildError(
            f"stratum {name!r} has {stratum.objects} objects, {stratum.audited} audited and {stratum.right} right: "
            "correct the counts"
        )
    if stratum.audited < min(2, stratum.objects):
        raise BuildError(
            f"{stratum.audited} of the {stratum.objects} objects of stratum {name!r} were audited, and an estimate "
            "needs 2 of each: audit more, or join strata before drawing"
        )

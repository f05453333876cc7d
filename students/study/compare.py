"""Which arm does better, and how sure that is: paired over seeds, and apart from it over test images.

Two intervals that answer two questions. Over seeds: would other subsets, starts and orders give the same sign? Paired
t-intervals, for a claim only from LEAST pairs on. Over test images: would other test images, for these very networks?
A paired percentile bootstrap (Efron and Tibshirani 1993, ch. 13), never a claim about training again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import BuildError
from students.study.axes import Cells, Setting, described, partner
from students.study.kinds.choose import read_outcomes
from students.study.results import CellResult, in_order

LEVEL = 0.95
"""Of every interval."""
LEAST = 5
"""Pairs that a claim takes; fewer show a direction only."""
DRAWS = 1000
"""Of the bootstrap over test images."""
BLOCK = 100
"""Draws at a time, so that memory stays flat in DRAWS."""


@dataclass(frozen=True)
class Contrast:
    """What is compared: a sum of the metrics of cells of one seed, whose weights add up to 0. (1, a), (-1, b) is how
    much better a is than b; four terms compare two such differences."""

    name: str
    terms: tuple[tuple[float, Setting], ...]


@dataclass(frozen=True)
class Spread:
    """A mean over n values with its t-interval at LEVEL and the two-sided p-value of "the mean is 0".

    least, most: of the values. low, high, p: NaN below LEAST values; low and high are NaN, too, for values that are all
    equal: a t-interval of no width would claim to be certain.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    least: float
    most: float


@dataclass(frozen=True)
class Comparison:
    """seeds: those with all cells of the contrast; lost: those where at least one is missing or failed, left out.
    by_seed: the difference of each of `seeds`. adjusted: p-value after Holm, within the family it was compared in."""

    contrast: Contrast
    seeds: tuple[int, ...]
    lost: tuple[int, ...]
    by_seed: tuple[float, ...]
    spread: Spread
    adjusted: float = math.nan

    @property
    def sign(self) -> int:
        """1: higher, and shown; -1: lower, and shown; 0: not shown."""
        return int(np.sign(self.spread.mean)) if self.adjusted < 1 - LEVEL else 0


def spread(values: Sequence[float]) -> Spread:
    """See Spread. Values that are all equal, and not 0, have the p-value of the exact sign test, 2 / 2^n."""
    from scipy.special import stdtr, stdtrit

    figures = np.array(values, np.float64)
    n = len(figures)
    if not n:
        return Spread(0, *[math.nan] * 6)
    mean, least, most = float(figures.mean()), float(figures.min()), float(figures.max())
    low = high = p = math.nan
    if n >= LEAST:
        if most - least > 1e-12:  # less is what rounding leaves of equal differences
            error = float(figures.std(ddof=1)) / math.sqrt(n)
            reach = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * error
            low, high, p = mean - reach, mean + reach, 2 * float(stdtr(n - 1, -abs(mean) / error))
        else:
            p = 1.0 if abs(mean) <= 1e-12 else 2.0 ** (1 - n)
    return Spread(n, mean, low, high, p, least, most)


def compare(contrast: Contrast, cells: Cells) -> Comparison:
    """The contrast over the seeds that have all its cells."""
    of = [(weight, cells.get(setting, {})) for weight, setting in contrast.terms]
    every = sorted(set().union(*(seeds for _, seeds in of)))
    whole = [s for s in every if all(s in seeds and seeds[s].done for _, seeds in of)]
    values = [math.fsum(weight * seeds[s].value for weight, seeds in of) for s in whole]
    lost = tuple(s for s in every if s not in whole)
    return Comparison(contrast, tuple(whole), lost, tuple(values), spread(values))


def compare_all(contrasts: Sequence[Contrast], cells: Cells) -> list[Comparison]:
    """Compare a family of contrasts, with Holm's p-values over all of them; one that has no p-value still counts as a
    test, so that a failed cell makes no other one look surer."""
    comparisons = [compare(contrast, cells) for contrast in contrasts]
    adjusted = holm(np.array([comparison.spread.p for comparison in comparisons]))
    return [replace(comparison, adjusted=float(p)) for comparison, p in zip(comparisons, adjusted, strict=True)]


def average(contrasts: Sequence[Contrast]) -> Contrast:
    """The mean of some contrasts as one."""
    terms = [(weight / len(contrasts), setting) for contrast in contrasts for weight, setting in contrast.terms]
    return Contrast(f"average of these {len(contrasts)}", tuple(terms))


def ratio(part: Comparison, whole: Comparison) -> tuple[float, float, float]:
    """How much of `whole` is `part`, over the seeds of both: the ratio of their means with its interval at LEVEL, all r
    for which "part is r times whole" is not refused (Fieller 1954). All NaN below LEAST seeds, and unless the interval
    of `whole` lies above 0; the ends also where they would be equal."""
    from scipy.special import stdtrit

    seeds = [seed for seed in part.seeds if seed in whole.seeds]
    n = len(seeds)
    if n < LEAST:
        return math.nan, math.nan, math.nan
    values = np.array([[dict(zip(c.seeds, c.by_seed, strict=True))[s] for s in seeds] for c in (part, whole)])
    (a, b), reach = values.mean(1), float(stdtrit(n - 1, (1 + LEVEL) / 2)) ** 2
    (aa, ab), (_, bb) = np.outer((a, b), (a, b)) - reach * np.cov(values) / n
    if b <= 0 or bb <= 1e-12:
        return math.nan, math.nan, math.nan
    width = math.sqrt(max(0.0, ab**2 - aa * bb)) / bb
    if width < 1e-6:
        return float(a / b), math.nan, math.nan
    return float(a / b), float(ab / bb - width), float(ab / bb + width)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values of a family (Holm 1979, step-down Bonferroni), float64 (tests,); NaN counts and stays NaN."""
    order = np.argsort(p, kind="stable")  # NaN last
    steps = np.minimum(1.0, p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def arms_compared(cells: Cells, arm: str, against: str, where: Mapping[Any, object]) -> list[Contrast]:
    """`arm` less `against` at every setting of the study that agrees with `where` (names and values of Setting): one
    contrast each. Empty if the study has none."""
    contrasts = []
    for setting in cells:
        if setting.arm == arm and all(getattr(setting, name) == value for name, value in where.items()):
            other = partner(setting, cells, against)
            if other is not None:
                name = f"{arm} - {against}, {described(setting, cells)}"
                contrasts.append(Contrast(name, ((1, setting), (-1, other))))
    return contrasts


def redraw(results: Sequence[CellResult], folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """The metric of each cell on DRAWS choices of test images with replacement, the same choices for every cell;
    float64 (DRAWS,) by the cell's digest, without cells that kept no outcomes. folder: of the results.

    Raises BuildError if outcomes cannot be read, are of other images than another cell's, or disagree with the result.
    """
    drawn: dict[str, np.ndarray] = {}
    names: tuple[str, ...] | None = None
    for result in in_order(results):
        if not result.done or not result.per_image:
            continue
        outcomes = read_outcomes(folder / result.per_image)
        names = names or outcomes.names
        if outcomes.names != names:
            raise BuildError(f"cell {result.cell[:12]} was tested on other images than the rest: run it again")
        count = len(names)
        whole = float(outcomes.metric(np.ones((1, count), np.int64))[0])
        if not abs(whole - result.value) < 1e-6:
            raise BuildError(
                f"the outcomes of cell {result.cell[:12]} give {result.metric} {whole:.4f}, its result says "
                f"{result.value:.4f}: run it again"
            )
        rng = np.random.default_rng(seed)
        blocks = (rng.multinomial(count, np.full(count, 1 / count), size=BLOCK) for _ in range(DRAWS // BLOCK))
        drawn[result.cell] = np.concatenate([outcomes.metric(weights) for weights in blocks])
    return drawn


def image_interval(comparison: Comparison, cells: Cells, drawn: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Percentile interval at LEVEL of the mean over the comparison's seeds, over the draws of test images; NaN if a
    cell kept no outcomes."""
    total = np.zeros(DRAWS)
    for weight, setting in comparison.contrast.terms:
        for seed in comparison.seeds:
            total += weight * drawn.get(cells[setting][seed].cell, np.full(DRAWS, np.nan))
    known = total[~np.isnan(total)] / max(1, len(comparison.seeds))
    if not comparison.seeds or not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high

"""What is known of a precision at one threshold: Korn and Graubard's bounds for clustered objects, and exact bets.

Pixels of maps are counted the same way, whole images or units at a time. Hardly any image has none wrong, so that few
images alike look sure by chance: a step counts only if the units weigh as much as `fewest_units` of equal size
(`effective_units`). Without that, 3 to 13 images certify a precision of .79 as .8 in 10 to 45 % of the draws at a
nominal 10 %; with half of it 15 images still do in 21 % (benchmarks/promise_maps.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BETS = (0.5, 1.0, 2.0)
"""Multiples of the best bet for an average population; their capitals are averaged."""
CUT_OFF = 0.02
"""Share of the pool's kept objects that may lie beyond M in their images."""


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


def fewest_units(target: float, delta: float) -> int:
    """Units of equal size that pixels of maps must come from: twice `needed`, the objects that could show the target
    if all were right. Ours: chosen by simulation, not derived."""
    return 2 * needed(target, delta)


def effective_units(kept: np.ndarray) -> float:
    """Units of equal size that weigh as much as these, of which each keeps int (units,) objects: at most as many as
    keep any."""
    size = kept.astype(np.float64)
    return float(size.sum() ** 2 / max(1.0, size @ size))


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
    # of pixels, squares may not fit into 64 bits
    whole: type = np.int64 if total * int(kept.max()) < 2**62 else object
    kept, correct = kept.astype(whole), correct.astype(whole)
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

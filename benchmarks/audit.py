"""How often do the intervals cover the truth? Simulated audits of kept objects, and precision at a fixed threshold.

An audit draws from strata of equal size by score, equally many from each, without replacement; precision curves are
known. Beside it, a review that starts with the objects nearest the threshold, treated as if drawn at random. Then the
interval over images at a threshold fixed beforehand, beside Wilson's over boxes, on the populations of promise.py.
Nominal 90 % throughout; an audit's coverage is to lie within .88 and .97. Prints Markdown tables for docs/log.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import product

import numpy as np
from _compare import machine
from promise import FLOOR, Population, flat, steep

from builder.evidence.estimate import Stratum, audit, interval

KEPT, THRESHOLD, AIM = 20_000, 0.5, (0.88, 0.97)
"""Kept objects, the score they were kept from on, and what coverage is to lie between."""
CURVES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "steep, .5 to 1": lambda s: 1 / (1 + np.exp(-12 * (s - 0.5))),
    "straight, .6 to .95": lambda s: 0.6 + 0.7 * (s - 0.5),
    "flat at .8": lambda s: np.full(len(s), 0.8),
    "flat at .95": lambda s: np.full(len(s), 0.95),
    "nearly perfect, .97 to 1": lambda s: 0.97 + 0.06 * (s - 0.5),
    "overconfident, .3 to .6": lambda s: 0.3 + 0.6 * (s - 0.5),
}
Z2 = 1.6448536269514722**2


def audits(draws: int, strata_count: int, rng: np.random.Generator) -> None:
    """Coverage and mean width of audits, and of reviews that begin at the threshold."""
    print("| precision from the threshold to 1 | audited | coverage | width | borderline first, as if random |")
    print("|---|---:|---:|---:|---:|")
    missed = []
    for (name, curve), count in product(CURVES.items(), (100, 300, 1000)):
        covered = width = fooled = 0.0
        for _ in range(draws):
            score = np.sort(THRESHOLD + (1 - THRESHOLD) * rng.beta(1.5, 1.0, KEPT))
            right = rng.random(KEPT) < curve(score)
            strata = []
            for part in np.array_split(right, strata_count):
                drawn = rng.hypergeometric(part.sum(), len(part) - part.sum(), count // strata_count)
                strata.append(Stratum(len(part), count // strata_count, int(drawn)))
            found, wrong = audit(strata), audit([Stratum(KEPT, count, int(right[:count].sum()))])
            covered += (found.low <= right.mean() <= found.high) / draws
            fooled += (wrong.low <= right.mean() <= wrong.high) / draws
            width += (found.high - found.low) / draws
        print(f"| {name} | {count} | {covered:.3f} | {width:.3f} | {fooled:.3f} |", flush=True)
        if not AIM[0] <= covered <= AIM[1]:
            missed.append(f"{name}, {count}: {covered:.3f}")
    print(f"\nOutside {AIM[0]} to {AIM[1]}: {'; '.join(missed) or 'none'}\n")


def wilson(kept: int, right: int) -> tuple[float, float]:
    """Wilson's interval over boxes."""
    if not kept:
        return 0.0, 1.0
    p = right / kept
    middle, spread = p + Z2 / (2 * kept), np.sqrt(Z2 * p * (1 - p) / kept + Z2**2 / (4 * kept**2))
    return (middle - spread) / (1 + Z2 / kept), (middle + spread) / (1 + Z2 / kept)


def fixed(draws: int, rng: np.random.Generator) -> None:
    """Coverage of the interval at a threshold fixed beforehand."""
    print("| population, threshold | images | over images | over boxes (Wilson) |\n|---|---:|---:|---:|")
    cases = product((("steep", steep, 0.6), ("flat", flat, FLOOR)), ((0.0, 2.0, False), (0.4, 8.0, True)))
    for (name, curve, threshold), (correlation, mean, uneven) in cases:
        population = Population(curve, correlation, mean, uneven)
        correct, precision = population.truth()
        truth = precision[int(np.ceil(threshold * (len(correct) - 1)))]
        for images in (50, 200, 1000):
            covered = [0.0, 0.0]
            for _ in range(draws):
                image, score, right = population.draw(images, rng)
                mine = score >= threshold
                kept, good = (np.bincount(image[m], minlength=images) for m in (mine, mine & right))
                for place, (low, high) in enumerate((interval(kept, good), wilson(kept.sum(), good.sum()))):
                    covered[place] += float(low <= truth <= high) / draws
            full = f"{name}, {threshold:g}, correlation {correlation}, {mean:g} boxes{', uneven' if uneven else ''}"
            print(f"| {full} | {images} | {covered[0]:.3f} | {covered[1]:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--strata", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    print(f"{machine()}, {options.draws} draws, {options.strata} strata\n")
    audits(options.draws, options.strata, np.random.default_rng([options.seed, 0]))
    fixed(options.draws, np.random.default_rng([options.seed, 1]))
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

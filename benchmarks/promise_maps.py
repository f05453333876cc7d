"""Does the promise hold for pixels? How often a solved threshold of semantic maps misses its target, by simulation.

The pixels of an image are nothing like independent: with probability sqrt(correlation) all pixels of a score share the
luck of their image, and images differ in how many of their pixels are of the class. The precision at each threshold is
known. Prints a Markdown table for docs/log.md. Rules: ours (builder.evidence.certify.solve), and the two of promise.py
that take each pixel for an observation.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import product

import numpy as np
from _compare import machine
from promise import DELTA, FLOOR, TARGET, Curve, Z, flat, matches_of, steep

from builder.evidence.certify import solve
from builder.evidence.matching import Matches
from builder.rules.keep import Precision
from builder.rules.scores import PoolScores, Scored

LEVELS = (np.arange(16) + 0.5) / 16 * (1 - FLOOR) + FLOOR
"""Scores that occur."""
PIXELS = 5_000
"""Of the class in an image, in the mean."""
POOL = 2_000
RULES = ("clustered", "lowest Wilson", "point estimate")


def shares() -> np.ndarray:
    """Of pixels by score: many are sure."""
    mass = LEVELS**2
    return mass / mass.sum()


def draw(curve: Curve, correlation: float, spread: float, images: int, rng: np.random.Generator) -> Matches:
    """Maps of so many labelled images, right and wrong pixels of each score in rows with a weight. spread: of the
    logarithm of an image's pixels."""
    size = rng.lognormal(-(spread**2) / 2, spread, images) * PIXELS
    pixels = rng.poisson(size[:, None] * shares())
    p = curve(LEVELS)
    together = rng.random(images)[:, None] < p
    shared = rng.random(pixels.shape) < np.sqrt(correlation)
    right = np.where(shared, pixels * together, rng.binomial(pixels, p))
    weight = np.stack([right, pixels - right], axis=2).ravel()
    image = np.repeat(np.arange(images), 2 * len(LEVELS))
    score = np.tile(np.repeat(LEVELS, 2), images).astype(np.float32)
    hit, there = np.tile([True, False], images * len(LEVELS)), weight > 0
    found = matches_of(image[there], score[there], hit[there], images)
    return replace(found, weight=weight[there], object_weight=np.zeros(0, np.int64))


def pool_of(spread: float, rng: np.random.Generator) -> PoolScores:
    """Of POOL images of the same population."""
    pixels = rng.poisson((rng.lognormal(-(spread**2) / 2, spread, POOL) * PIXELS)[:, None] * shares())
    image, level = np.nonzero(pixels)
    score = LEVELS[level].astype(np.float32)
    return PoolScores.of(Scored(image, np.zeros(len(image), np.int64), score, pixels[image, level]), POOL, 1)


def thresholds_of(matches: Matches, scores: PoolScores) -> dict[str, float]:
    """By each rule, infinite where nothing is kept."""
    options = Precision(target=TARGET, delta=DELTA, over="version")
    (group,) = solve(matches, scores, options, FLOOR, lambda labels, thresholds: [])
    found = {RULES[0]: np.inf if group.threshold is None else group.threshold}
    weight = np.zeros(0) if matches.weight is None else matches.weight
    levels, place = np.unique(matches.score, return_inverse=True)
    every, right = (np.bincount(place, weight * rows, len(levels)) for rows in (1, matches.right[0]))
    kept = np.cumsum(every[::-1])[::-1]
    p = np.cumsum(right[::-1])[::-1] / kept
    spread = Z * np.sqrt(p * (1 - p) / kept + Z**2 / (4 * kept**2))
    bounds = (p + Z**2 / (2 * kept) - spread) / (1 + Z**2 / kept), p
    for rule, bound in zip(RULES[1:], bounds, strict=True):
        good = np.flatnonzero(bound >= TARGET)
        found[rule] = float(levels[good[0]]) if len(good) else np.inf
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    print(f"{machine()}\n\n| population | images | " + " | ".join(RULES) + " |\n|---|---:|" + "---:|" * len(RULES))
    above: list[str] = []
    for (name, curve), correlation, spread in product(
        (("steep", steep), ("flat at .79", flat)), (0.1, 0.6), (0.3, 1.0)
    ):
        p, rng = curve(LEVELS), np.random.default_rng([options.seed, curve is flat, int(10 * correlation), int(spread)])
        truth = np.cumsum((shares() * p)[::-1])[::-1] / np.cumsum(shares()[::-1])[::-1]
        scores = pool_of(spread, rng)
        for images in (15, 50, 200):
            missed, solved = (dict.fromkeys(RULES, 0.0) for _ in range(2))
            for _ in range(options.draws):
                drawn = draw(curve, correlation, spread, images, rng)
                for rule, threshold in thresholds_of(drawn, scores).items():
                    if np.isfinite(threshold):
                        first = int(np.searchsorted(LEVELS.astype(np.float32), np.float32(threshold)))
                        solved[rule] += 1 / options.draws
                        missed[rule] += float(truth[min(first, len(LEVELS) - 1)] < TARGET) / options.draws
            full = f"{name}, correlation {correlation:g}, spread {spread:g}"
            cells = " | ".join(f"{missed[rule]:.3f} / {solved[rule]:.2f}" for rule in RULES)
            print(f"| {full} | {images} | {cells} |", flush=True)
            if missed[RULES[0]] > DELTA + 0.03:
                above.append(f"{full}, {images} images: violation {missed[RULES[0]]:.3f} above {DELTA + 0.03:g}")
    print(
        "\nCells: share of draws whose true precision lies below the target / share in which a threshold was found.\n"
    )
    print("\n".join(f"- {line}" for line in above) or "No violation above the aim.")
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

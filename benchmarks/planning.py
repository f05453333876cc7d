"""Whether the plan of `sweep` agrees with the solver: on a part of real labels it says how likely each group is to be
certified, and how many images that would take; then images are drawn with repeats from all labels, and certified.

    python benchmarks/planning.py RECIPE.yaml --tune 300 [--over class] [--target 0.8] [--store DIR]

The recipe's pool and truth must be labelled (`tutelage build RECIPE.yaml --only label`). The labelled images serve as
the pool, too, so that nothing but chance lies between the two.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import pairwise

import numpy as np

from builder.evidence.certify import solve
from builder.evidence.matching import Matches
from builder.evidence.planning import Need, plan
from builder.evidence.stored import match_stored
from builder.measure import USUAL, open_tune_half
from builder.rules.keep import Precision
from builder.rules.scores import PoolScores, Scored
from builder.store.store import Store

BANDS = (0.0, 0.2, 0.5, 0.8, 1.01)


def of_images(matches: Matches, images: np.ndarray, labels: list[int]) -> Matches:
    """The rows of these classes on these images, which may repeat; every image its own unit."""
    columns: dict[str, np.ndarray] = {}
    mine, theirs = np.isin(matches.label, labels), np.isin(matches.object_label, labels)
    for prefix, of_image, wanted in (("", matches.image, mine), ("object_", matches.object_image, theirs)):
        order = np.flatnonzero(wanted)[np.argsort(of_image[wanted], kind="stable")]
        starts = np.searchsorted(of_image[order], np.arange(matches.images + 1))
        counts = np.diff(starts)[images]
        rows = (
            order[np.concatenate([np.arange(starts[n], starts[n + 1]) for n in images])] if counts.any() else order[:0]
        )
        columns[f"{prefix}image"] = np.repeat(np.arange(len(images)), counts)
        names = ("label", "score", "area", "weight") if not prefix else ("label", "area", "counts", "weight")
        for name in names:
            if (column := getattr(matches, prefix + name)) is not None:
                columns[prefix + name] = column[rows]
        for name in ("right", "counted") if not prefix else ("object_score",):
            columns[name] = getattr(matches, name)[:, rows]
    shared = np.isin(np.arange(len(matches.classes)), labels)
    names = tuple(map(str, range(len(images))))
    return replace(matches, names=names, unit=np.arange(len(images)), shared=shared, **columns)


def rate(matches: Matches, pool: PoolScores, need: Need, images: int, target: float, rng: np.random.Generator) -> float:
    """How often the solver certifies the classes of a need, tested together, on so many images."""
    labels, hits, draws = [matches.classes.index(name) for name in need.classes], 0, 20
    for _ in range(draws):
        drawn = of_images(matches, rng.integers(0, matches.images, images), labels)
        groups = solve(drawn, pool, Precision(target=target, over="version"), 0.0, lambda names, thresholds: [])
        hits += groups[0].certified
    return hits / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--tune", type=int, required=True)
    parser.add_argument("--over", default="class")
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--store", default="store")
    given = parser.parse_args()
    half = open_tune_half(given.recipe, Store(given.store), USUAL)
    matches = match_stored(half.labels.truth, half.labels.pool, half.folder, half.keep, (0.5,))
    rows = Scored(matches.image, matches.label.astype(np.int64), matches.score, matches.weight)
    pool, rng = PoolScores.of(rows, matches.images, len(matches.classes)), np.random.default_rng(0)
    options, everything = Precision(target=given.target, over=given.over), np.flatnonzero(matches.shared).tolist()
    now: list[tuple[float, float]] = []
    then: list[tuple[int, float]] = []
    hardly = unknown = 0
    for _ in range(given.repeats):
        tune = of_images(matches, rng.choice(matches.images, given.tune, replace=False), everything)
        for need in plan(tune, pool, options, given.tune):
            now.append((need.chance, rate(matches, pool, need, given.tune, given.target, rng)))
            if need.images and not need.likely:
                then.append((need.images, rate(matches, pool, need, need.images, given.target, rng)))
            hardly += need.images is None and need.sure
            unknown += need.images is None and not need.sure
    print(f"{matches.images} labelled images, {given.tune} of them as tune, over {given.over}, target {given.target:g}")
    chance, seen = np.array(now).T
    for low, high in pairwise(BANDS):
        if (band := (chance >= low) & (chance < high)).any():
            print(f"chance {low:.1f} to {min(high, 1):.1f}: {band.sum()} groups, the solver {seen[band].mean():.2f}")
    if then:
        images, reached = np.array(then).T
        told = f"need told for {len(then)}, median {np.median(images):.0f} images"
        print(f"{told}: with them the solver {reached.mean():.2f}")
    print(f"more will hardly do: {hardly}; too few on tune to say: {unknown}")


if __name__ == "__main__":
    main()

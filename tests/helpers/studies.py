"""Small studies, and results of theirs, made up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from builder.store.files import digest
from students.study.recipe import StudyRecipe
from students.study.results import CellResult

ARMS = ("supervised", "longer", "self-training")


def result(arm: str, seed: int, value: float, **more: Any) -> CellResult:
    given: dict[str, Any] = {
        "augment": "S1",
        "init": "random",
        "fraction": 1.0,
        "alpha": 0.0 if arm in ARMS[:2] else 1.0,
    }
    given |= {
        "study": "toy",
        "arm": arm,
        "labelled": 100,
        "round": 1,
        "seed": seed,
        "metric": "accuracy",
        "value": value,
    }
    given |= more
    named = [str(given[name]) for name in ("arm", "augment", "init", "fraction", "alpha", "round", "seed")]
    return CellResult(**{"cell": digest(named), **given})


def grid(
    value: Callable[[str, str, str, float], float],
    *,
    seeds: int = 5,
    arms: Sequence[str] = ARMS,
    augments: Sequence[str] = ("S1", "S4"),
    inits: Sequence[str] = ("random",),
    fractions: Sequence[float] = (0.25, 1.0),
    noise: float = 0.004,
) -> list[CellResult]:
    """A cell of each, whose figures are value(arm, augment, init, fraction), a bit of each seed's own, and noise."""
    rng = np.random.default_rng(0)
    own = rng.normal(0, 0.02, seeds)
    return [
        result(arm, seed, value(arm, a, i, f) + own[seed] + rng.normal(0, noise), augment=a, init=i, fraction=f)
        for seed, a, i, f, arm in itertools.product(range(seeds), augments, inits, fractions, arms)
    ]


def study(**sections: Any) -> StudyRecipe:
    given: dict[str, Any] = {"name": "toy", "labelled": "labels", "test": "test", "pool": "pool", "pool_truth": "truth"}
    given |= {"others": ["more"], "train": {"steps": 10}, "teacher": {"steps": 5}}
    given["grid"] = {"augment": ["S1", "S4"], "fractions": [0.25, 1], "arms": [*ARMS]}
    return StudyRecipe.model_validate(given | sections)

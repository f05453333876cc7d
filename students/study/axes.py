"""The grid of a study as its results have it: what was varied, in the order of its tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from builder.errors import BuildError
from students.study.results import ARMS, CellResult, in_order


@dataclass(frozen=True)
class Setting:
    """All that decides a cell but its seed, as in CellResult."""

    arm: str
    augment: str
    init: str
    fraction: float
    alpha: float
    round: int


Cells = Mapping[Setting, Mapping[int, CellResult]]
"""The cells by setting and seed, failed ones included."""


@dataclass(frozen=True)
class Axes:
    """The values that were varied. augments: weak to strong; inits: random first, if it is there; fractions: rising;
    arms: as in ARMS; seeds: of any cell. metric: its name; images: the set it was measured on, `test` or `val`."""

    augments: tuple[str, ...]
    inits: tuple[str, ...]
    fractions: tuple[float, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: str
    images: str


def index(results: Sequence[CellResult], planned: Sequence[Setting] = ()) -> dict[Setting, dict[int, CellResult]]:
    """Cells by setting, then seed: the planned settings in their order, with or without results, then any others in
    the order of `in_order`. Raises BuildError if two rows are of the same cell, or of different studies or metrics."""
    cells: dict[Setting, dict[int, CellResult]] = {setting: {} for setting in planned}
    for result in in_order(results):
        setting = Setting(result.arm, result.augment, result.init, result.fraction, result.alpha, result.round)
        seeds = cells.setdefault(setting, {})
        if result.seed in seeds:
            raise BuildError(f"the results hold {result.arm} of seed {result.seed} twice: give those of one study only")
        seeds[result.seed] = result
    kinds = {(result.study, result.metric) for result in results}
    if len(kinds) > 1:
        listed = ", ".join(sorted(f"{metric} of {study}" for study, metric in kinds))
        raise BuildError(f"the results are of several studies or metrics ({listed}): give those of one only")
    return cells


def axes(cells: Cells, augments: Sequence[str], inits: Sequence[str], images: str) -> Axes:
    """augments, inits: in the order of the study's recipe, which is taken to be from weak to strong; S1 to S4 are in
    theirs however they are listed."""
    present = {setting.augment for setting in cells}
    ranked = sorted(augments) if present <= {"S1", "S2", "S3", "S4"} else augments
    arms = {setting.arm for setting in cells}
    used = {setting.init for setting in cells}
    return Axes(
        tuple(augment for augment in ranked if augment in present),
        tuple(init for init in inits if init in used),
        tuple(sorted({setting.fraction for setting in cells})),
        tuple(arm for arm in ARMS if arm in arms),
        tuple(sorted({seed for seeds in cells.values() for seed in seeds})),
        next((result.metric for seeds in cells.values() for result in seeds.values()), ""),
        images,
    )


def base_arm(axes: Axes) -> str | None:
    """The arm that self-training is held against: equal budget, where it was run."""
    return next((arm for arm in ("longer", "supervised") if arm in axes.arms), None)


def find(cells: Cells, arm: str, augment: str, init: str, fraction: float) -> Setting | None:
    """The arm's setting there; of several, the one of the first round whose alpha is nearest to the usual 1: never one
    chosen by its figures."""
    where = (arm, augment, init, fraction)
    settings = [setting for setting in cells if (setting.arm, setting.augment, setting.init, setting.fraction) == where]
    return min(settings, key=lambda setting: (setting.round, abs(setting.alpha - 1), setting.alpha), default=None)


def partner(setting: Setting, cells: Cells, arm: str, init: str | None = None) -> Setting | None:
    """The setting of another arm (or start) to compare with: equal in augmentation and labels, and in alpha and round
    where that arm has several; None if there is none."""
    same = [
        other
        for other in cells
        if (other.arm, other.init) == (arm, init or setting.init)
        and (other.augment, other.fraction) == (setting.augment, setting.fraction)
    ]
    exact = [other for other in same if (other.alpha, other.round) == (setting.alpha, setting.round)]
    return exact[0] if exact else same[0] if len(same) == 1 else None


def described(setting: Setting, cells: Cells) -> str:
    """The setting in words, without its arm and what is the same in all of that arm's."""
    words = (
        ("augment", setting.augment),
        ("init", f"{setting.init} init"),
        ("fraction", share(setting.fraction)),
        ("alpha", f"alpha {setting.alpha:g}"),
        ("round", f"round {setting.round}"),
    )
    same = [other for other in cells if other.arm == setting.arm]
    differing = [phrase for name, phrase in words if len({getattr(other, name) for other in same}) > 1]
    return ", ".join(differing) or setting.augment


def share(fraction: float) -> str:
    """A label fraction in words."""
    return f"{100 * fraction:.3g} % of the labels"


def shares(fractions: Sequence[float]) -> str:
    """Several label fractions in words."""
    *first, last = [f"{100 * fraction:.3g}" for fraction in fractions]
    return f"{' and '.join([', '.join(first), last] if first else [last])} % of the labels"

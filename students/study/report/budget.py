"""What a study spent, and what it is still missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from builder.words import count, duration
from students.study.axes import Axes, Cells, described
from students.study.report.tables import NONE, Table
from students.study.results import CellResult


def budget_table(cells: Cells, axes: Axes) -> Table:
    """Means over the finished cells of an arm, round and label fraction: what the network cost, and its teacher and
    labels."""
    rows = []
    rounds = sorted({(axes.arms.index(setting.arm), setting.round) for setting in cells})
    for fraction in axes.fractions:
        for place, number in rounds:
            arm = axes.arms[place]
            done = [
                result
                for setting, seeds in cells.items()
                if (setting.arm, setting.round, setting.fraction) == (arm, number, fraction)
                for result in seeds.values()
                if result.done
            ]
            if done:
                where = (f"{100 * fraction:.3g} %",) if len(axes.fractions) > 1 else ()
                rows.append((arm if number == 1 else f"{arm}, round {number}", *where, *_costs(done)))
    where = ("labels",) if len(axes.fractions) > 1 else ()
    figures = ("cells", "labelled", "steps", "batch", "teacher steps", "steps in all", "pool", "kept")
    columns = ("arm", *where, *figures, "training", "teacher", "labelling", f"teacher {axes.metric}")
    note = (
        "Means over the finished cells. Arms with equal steps and batch saw equally many images; longer has the steps "
        "of a teacher and its student together. Time is of the machine the study ran on; a teacher that "
        "several students share is counted in full for each, and a round has the cost of all before it. "
        "Pre-training is not counted."
    )
    return Table("Budget", note, columns, tuple(rows))


def _costs(done: Sequence[CellResult]) -> tuple[str, ...]:
    kept, teacher = _mean(result.kept for result in done), _mean(result.teacher_value for result in done)
    labelled, steps, batch, before, pool = (
        _mean(getattr(result, name) for result in done)
        for name in ("labelled", "steps", "batch", "teacher_steps", "pool")
    )
    seconds = [_mean(getattr(result, f"{name}_seconds") for result in done) for name in ("train", "teacher", "label")]
    return (
        str(len(done)),
        *map(count, (labelled, steps, batch, before, steps + before, pool)),
        NONE if math.isnan(kept) else f"{kept:.3g}" if kept < 1 else count(kept),
        *map(lasting, seconds),
        NONE if math.isnan(teacher) else f"{100 * teacher:.1f}",
    )


def _mean(values: Iterable[float]) -> float:
    """Of the values that are there; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def lasting(seconds: float) -> str:
    """A time as people say it."""
    if math.isnan(seconds) or seconds == 0:
        return NONE
    return duration(seconds)


def missing_table(cells: Cells, axes: Axes) -> Table:
    """Cells that failed or have not been run; no rows where all is done."""
    rows = []
    for setting, seeds in cells.items():
        lost: dict[str, list[str]] = {}
        for seed in axes.seeds:
            result = seeds.get(seed)
            if result is None or not result.done:
                why = "not run yet" if result is None else result.error or "it has no figure"
                lost.setdefault(why, []).append(str(seed))
        rows += [(setting.arm, described(setting, cells), ", ".join(those), why) for why, those in lost.items()]
    note = (
        "They are in no mean; failed ones are rows of results.parquet. A comparison leaves out their seed on both "
        "sides; where a method fails more often than another, what is left may flatter it."
    )
    return Table("Missing cells", note, ("arm", "setting", "seeds", "why"), tuple(rows), names=4)

"""What a study would run: its cells, what each arm costs, and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.scan.entries import Listing
from builder.scan.scanner import list_size
from builder.store.store import Store
from students.study.data import check_folds, read_sets
from students.study.grid import Budget, Cell, budget, cells, choose
from students.study.recipe import StudyRecipe
from students.study.run import Estimate, estimate


@dataclass(frozen=True)
class StudyPlan:
    """cells: those of the grid that were chosen. budget: what each arm costs. estimate: steps, and time as far as it is
    known from cells that were run."""

    cells: Sequence[Cell]
    budget: Sequence[Budget]
    estimate: Estimate


def plan_study(study: StudyRecipe, out: Path, only: Sequence[str] = ()) -> StudyPlan:
    """Work out what a study would run. Nothing is written.

    Args:
        study: its recipe.
        out: its folder, in which cells may have run already.
        only: `key=value` conditions on cells, such as `arm=supervised`.

    Returns:
        The plan.

    Raises:
        BuildError: a condition that fits no cell, or a pool or labels that cannot be read.
    """
    chosen = choose(cells(study), only)
    images = 0
    if pool := study.pool:
        folder = Path(pool.images) if pool.images else None
        images, _ = list_size(pool.source, Store(out / "store"), folder, pool.limit, Listing(pool.member))
    labelled = len(read_sets(study)["labelled"].images)
    check_folds(study, labelled)
    return StudyPlan(chosen, budget(study, chosen, images, labelled), estimate(study, out, chosen))

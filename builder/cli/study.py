"""`tutelage study`: teachers, students and baselines over a grid, with tables and intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.options import json_option, sentences
from builder.cli.output import ROOMY, bar, emit, rows, say, table

if TYPE_CHECKING:
    from students.study.plan import StudyPlan
    from students.study.recipe import StudyRecipe


@click.command()
@click.argument("recipe", metavar="STUDY.yaml", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the study.  [default: runs/studies/NAME]",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Cells to run at a time, a process each.  [default: one per GPU, else one per core]",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. --set seeds=1.")
@click.option(
    "--only",
    multiple=True,
    metavar="KEY=VALUE",
    help="Run only these cells, e.g. --only arm=supervised --only seed=0,1.",
)
@json_option
@click.option(
    "--dry-run", is_flag=True, help="Only show the grid, the cost of each arm, and the time once a cell has run."
)
def study(
    recipe: Path,
    out: Path | None,
    workers: int | None,
    overrides: tuple[str, ...],
    only: tuple[str, ...],
    as_json: bool,
    dry_run: bool,
) -> None:
    """Run a study: a grid of trainings, compared in tables.

    The grid is augmentation x initialisation x label fraction x arm x seed, as in the paper. Every cell is trained once
    and measured once, with its last weights. Finished cells are skipped, so the same command continues a study that was
    interrupted, and tries failed cells again. The folder gets results.parquet, tables.md, plots and index.html.
    """
    with sentences():
        from students.study.recipe import load_study

        loaded = load_study(recipe, overrides)
        out = out or Path("runs/studies") / loaded.name
        if dry_run:
            from students.study.plan import plan_study

            plan = plan_study(loaded, out, only)
            if as_json:
                emit(True, _plan_json(plan), "")
            else:
                _show_plan(loaded, out, plan)
            return
        from builder.errors import BuildError
        from students.study.run import run_study

        ran = run_study(loaded, out, workers=workers, only=only, tell=lambda line: say(line, err=True), track=bar)
        value = {"out": str(out), "done": ran.done, "failed": dict(ran.failed), "waiting": ran.waiting}
        value |= {"cells": sum(result.done for result in ran.results)}
        page = out / "index.html"
        shown = [("study", out), ("cells", f"{value['cells']} with a result, {ran.waiting} not run yet")]
        emit(as_json, value, rows(*shown, *([("page", page)] if ran.results else [])))
        if ran.failed:
            job, reason = next(iter(ran.failed.items()))
            raise BuildError(
                f"{len(ran.failed)} jobs failed ({job}: {reason}): fix this and run the same command again, "
                "which runs only what is missing"
            )


def _plan_json(plan: StudyPlan) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "cells": len(plan.cells),
        "steps": plan.estimate.steps,
        "teacher_steps": plan.estimate.teacher_steps,
        "core_seconds": plan.estimate.seconds,
        "budget": [asdict(cost) | {"total": cost.total} for cost in plan.budget],
        "grid": [asdict(cell) for cell in plan.cells],
    }


def _show_plan(loaded: StudyRecipe, out: Path, plan: StudyPlan) -> None:
    grid, estimate = loaded.grid, plan.estimate
    minutes = "unknown until a first cell has run (--only seed=0 --only arm=supervised)"
    if estimate.seconds is not None:
        minutes = f"{estimate.seconds / 60:.0f} minutes of one core or GPU, without labelling"
    teachers = f"{estimate.teacher_steps} of their teachers and pre-trainings"
    say(
        rows(
            ("folder", out),
            ("augment", ", ".join(grid.augment)),
            ("init", ", ".join(grid.init)),
            ("fractions", ", ".join(f"{fraction:g}" for fraction in grid.fractions)),
            ("alpha", ", ".join(f"{alpha:g}" for alpha in grid.alpha)),
            ("seeds", loaded.seeds),
            ("measured on", f"{loaded.measure}, with the last weights"),
            ("cells", f"{len(plan.cells)}, {estimate.steps} steps, and {teachers}"),
            ("time", minutes),
        )
    )
    columns = ("arm", "cells", "steps", "teacher's", "steps in all", "human/step", "beside/step", "labelled by teacher")
    lines = [
        (
            cost.arm,
            cost.networks,
            cost.steps,
            cost.teacher_steps,
            cost.total,
            cost.human,
            cost.beside,
            cost.labelled_by_teacher,
        )
        for cost in plan.budget
    ]
    table(columns, lines, width=ROOMY)
    say("equal in all arms: images per step, resolution, augmentation, schedule, checkpoint rule; nothing written")

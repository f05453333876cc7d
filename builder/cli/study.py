"""`tutelage study`: teachers, students and baselines over a grid, and `tutelage doctor`: why a student is no better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.options import json_option, open_store, sentences, store_option, trust_option
from builder.cli.output import ROOMY, bar, emit, rows, say, table

if TYPE_CHECKING:
    from builder.truth.records import Truth
    from students.doctor.records import Diagnosis
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


@click.command()
@click.argument("folder", metavar="RUN|STUDY", type=click.Path(path_type=Path))
@click.option("--truth", help="Human labels of images of the pool, to see how many pseudo-labels are right.")
@click.option("--test", help="Labels of images that a run must not have learned from.")
@click.option(
    "--images", type=click.Path(path_type=Path), help="Folder of the images, if they are not beside the labels."
)
@trust_option
@store_option
@json_option
def doctor(
    folder: Path, truth: str | None, test: str | None, images: Path | None, trust: bool, store_root: str, as_json: bool
) -> None:
    """Find out why a student is no better.

    Give the folder of a run (what `tutelage train` wrote; --store has the versions it learned from) or of a study. Each
    finding is a sentence with the figure that shows it and what to change, the most telling first: training that broke,
    too few steps, a ceiling that true labels do not lift, what half of every batch costs, a teacher that stopped early,
    a selection that filters nothing, keeps nothing, loses classes or is wrong, the ratio of the joint loss,
    overfitting, leaks, too few seeds. Where self-training won, only leaks are faults, and a gain that placebo (the
    labelled images in the pool's place) has, too. The log of a run's teacher is read where the version has it from, or
    beside the run. What could not be looked at is listed.
    """
    with sentences():
        from students.doctor.diagnose import doctor as diagnose

        labels = [_labels(source, images) for source in (truth, test)]
        diagnosis = diagnose(folder, open_store(store_root, trust), *labels)
        if as_json:
            emit(True, _diagnosis_json(diagnosis), "")
        else:
            _show_diagnosis(diagnosis)


def _labels(source: str | None, images: Path | None) -> Truth | None:
    from builder.truth.read import read_truth

    return None if source is None else read_truth(source, images)


def _diagnosis_json(diagnosis: Diagnosis) -> dict[str, Any]:
    findings = [
        {
            "name": found.name,
            "sentence": str(found),
            "where": list(found.where),
            "figures": {name: None if figure != figure else figure for name, figure in found.figures.items()},  # NaN
        }
        for found in diagnosis.findings
    ]
    value = {"subject": diagnosis.subject, "verdict": diagnosis.verdict, "won": diagnosis.won, "findings": findings}
    return {**value, "looked_at": list(diagnosis.looked), "not_looked_at": list(diagnosis.blind)}


def _show_diagnosis(diagnosis: Diagnosis) -> None:
    if diagnosis.verdict:
        say(f"{diagnosis.subject}: {diagnosis.verdict}")
    if not diagnosis.findings and not diagnosis.won:
        say(f"{diagnosis.subject}: nothing found in {'; '.join(diagnosis.looked)}")
    for number, finding in enumerate(diagnosis.findings, 1):
        say(f"{number}. {finding}")
    if diagnosis.blind:
        say(f"not looked at: {'; '.join(diagnosis.blind)}")

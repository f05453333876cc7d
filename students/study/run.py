"""Run a study: its jobs on workers, skipping what is done, and its report."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from builder.engine import Track, silent
from builder.evidence.holdout import Labels
from builder.recipe.recipe import PoolOptions
from builder.store.files import canonical_json, digest, locked, write_file
from builder.store.store import Store
from builder.truth.records import Truth
from builder.words import duration
from students.evaluate.measure import kind_measure
from students.study.data import (
    ALIKE,
    POOL,
    Data,
    check_folds,
    fold,
    fold_folders,
    image_root,
    label_name,
    likenesses,
    load_data,
    nested,
    pairs,
    read_labelled,
    subset_folder,
    write_subset,
)
from students.study.declared import declare
from students.study.grid import CELLS, RESULT, STORE, TOLD, Cell, Job, cells, choose, jobs, steps_of, teachers_of
from students.study.recipe import WITH_FOLDS, WITH_OTHERS, WITH_TEACHER, LabelSet, StudyRecipe
from students.study.results import CellResult
from students.study.versions import Made, human_version
from students.study.worker import RECIPE
from students.study.workers import run_jobs

ERROR = "error.json"
Tell = Callable[[str], None]
"""Called with a line for people whenever a job has ended."""


@dataclass(frozen=True)
class Ran:
    """results: of all cells of the grid that ended, now or before. failed: of the jobs of this run, with their reason.
    done: jobs of this run that ended well; waiting: cells of the grid that have not run."""

    results: tuple[CellResult, ...]
    failed: Mapping[str, str]
    done: int
    waiting: int


def run_study(
    study: StudyRecipe,
    out: Path,
    *,
    workers: int | None = None,
    only: Sequence[str] = (),
    tell: Tell = lambda line: None,
    track: Track = silent,
) -> Ran:
    """Make the cells that are not done, those that agree with `only` (`students.study.grid.choose`), on this many
    workers, by default one for each GPU, or core; then write the report of all that is done.

    A failed cell is kept as one, and tried again by the next call. A call that is broken off, even killed, is gone on
    with by the next one, to the same figures. Raises BuildError for a study that cannot start.
    """
    chosen = choose(cells(study), only)
    out = Path(os.path.abspath(out))
    with locked(out / ".lock", f"study {out}", sweep=[out, out / "subsets"]):
        store = Store(out / STORE)
        data = load_data(study, store, track=track)
        grid, mine = (jobs(study, data, part) for part in (cells(study), chosen))
        in_grid = [job for job in grid if job.folder.startswith(CELLS)]
        declare(study, out, begun=any(is_done(out, job.folder) for job in in_grid))
        write_file(out / RECIPE, study.model_dump_json(indent=2).encode())
        prepare(study, out, data, store)
        alike = likenesses(study, data)
        write_file(out / ALIKE, canonical_json(alike))
        if alike:
            tell(f"images to learn from that look like one of {study.measure}: {len(alike)} ({alike[0]}); see the page")
        pending = [job for job in mine if not is_done(out, job.folder)]
        failed = _run(study, out, pending, workers, tell, track) if pending else {}
        results = tuple(result for job in in_grid if (result := _result(study, out, job, data)))
        if results:
            from students.study.report.page import write_report

            write_report(results, study, out, alike)
    return Ran(results, failed, len(pending) - len(failed), len(in_grid) - len(results))


def is_done(out: Path, folder: str) -> bool:
    """Whether the job of this folder, relative to `out`, is complete."""
    return (out / folder / RESULT).is_file()


def prepare(study: StudyRecipe, out: Path, data: Data, store: Store) -> None:
    """Write what workers read: each replicate's share of the labels, and the versions that say what people said."""
    whole = read_labelled(study.labelled, study.outlines)
    check_folds(study, len(whole.images))
    for seed in study.replicates:
        for fraction in study.grid.fractions:
            folder = subset_folder(out, label_name(study, data.labelled), fraction, seed)
            write_subset(whole, partial(nested, whole, fraction, seed), folder)
            if WITH_FOLDS.intersection(study.grid.arms):
                _write_folds(study, out, whole, label_name(study, data.labelled), fraction, seed)
    human: dict[str, Any] = {}
    if study.pool and data.pool and data.pool_truth and "ceiling" in study.grid.arms:
        labels = _with_outlines(study, study.pool_truth, data.pool_truth)
        name = f"ceiling-{digest([label_name(study, labels), data.pool.id])[:16]}"
        ceiling = human_version(name, labels.truth, pairs(data.pool, labels), study.pool, store)
        human["ceiling"] = asdict(ceiling)
    if WITH_OTHERS.intersection(study.grid.arms):
        sets = zip(study.others, data.others, strict=True)
        human["others"] = [asdict(_other(study, _with_outlines(study, *labels_of), out, store)) for labels_of in sets]
    write_file(out / TOLD, canonical_json(human))


def _write_folds(study: StudyRecipe, out: Path, whole: Truth, labelled: str, fraction: float, seed: int) -> None:
    """The folds of a replicate's share, and the share without each."""
    folds = study.teacher.folds
    for number in range(1, folds + 1):
        folders = fold_folders(out, labelled, fraction, seed, number, folds)
        if not all(folder.is_dir() for folder in folders):
            parts = fold(nested(whole, fraction, seed), number, folds, seed)
            for part, folder in zip(parts, folders, strict=True):
                write_subset(whole, partial(replace, part), folder)


def _with_outlines(study: StudyRecipe, section: LabelSet | None, labels: Labels) -> Labels:
    return replace(labels, truth=read_labelled(section, True)) if section and study.outlines else labels


def _other(study: StudyRecipe, labels: Labels, out: Path, store: Store) -> Made:
    """A further labelled set as a version."""
    name = f"other-{label_name(study, labels)}"
    folder = out / "subsets" / name
    write_subset(labels.truth, lambda: labels.truth, folder)
    root = image_root(labels.truth)
    pool = PoolOptions(source=str(folder / POOL), images=str(root))
    named = [(image, os.path.relpath(image.path.absolute(), root)) for image in labels.truth.images]
    return human_version(name, labels.truth, named, pool, store)


def _run(
    study: StudyRecipe, out: Path, pending: Sequence[Job], workers: int | None, tell: Tell, track: Track
) -> dict[str, str]:
    """The jobs that failed, cells and others, and why. Tells how long the rest will take, by steps done until then."""
    failed: dict[str, str] = {}
    total, number, done, began = len(pending), 0, 0, time.monotonic()
    steps = sum(steps_of(study, job.cell) for job in pending)
    for job in pending:
        (out / job.folder / ERROR).unlink(missing_ok=True)

    def ended(job: Job, error: str) -> None:
        nonlocal number, done
        number, done = number + 1, done + steps_of(study, job.cell)
        advance(steps_of(study, job.cell))
        if error:
            failed[str(job)] = error
            write_file(out / job.folder / ERROR, canonical_json({"error": error}))
        left = duration((time.monotonic() - began) * (steps - done) / done)
        tell(f"[{number}/{total}] {job}: {error or _figures(out, job)}" + f", {left} left" * (number < total))

    with track("steps", steps) as advance:
        run_jobs(pending, out, lambda folder: is_done(out, folder), ended, workers)
    return failed


def _figures(out: Path, job: Job) -> str:
    """What a job came to, for people."""
    result = orjson.loads((out / job.folder / RESULT).read_bytes())
    figures = [f"{result['metric']} {result['value']:.4f}"] if "metric" in result else []
    if result.get("teacher_value") is not None:
        figures.append(f"(its teacher {result['teacher_value']:.4f})")
    return " ".join([*figures, f"{result['train_seconds']:.0f} s"])


def _result(study: StudyRecipe, out: Path, job: Job, data: Data) -> CellResult | None:
    """The row of a cell that has ended."""
    folder = out / job.folder
    if is_done(out, job.folder):
        row: dict[str, Any] = orjson.loads((folder / RESULT).read_bytes())
        row = {name: math.nan if value is None else value for name, value in row.items()}
        return CellResult(**{**row, "study": study.name})
    if not (folder / ERROR).is_file():
        return None
    error = orjson.loads((folder / ERROR).read_bytes())["error"]
    listed = subset_folder(out, job.labelled, job.cell.fraction, job.cell.seed) / POOL
    count = len(orjson.loads(listed.read_bytes())["images"])
    metric = kind_measure(data.labelled.truth.kind).metric
    cell: dict[str, Any] = asdict(job.cell)
    failure: dict[str, Any] = {"labelled": count, "metric": metric, "value": math.nan, "error": error}
    return CellResult(study=study.name, cell=job.digest, **cell, **failure)


@dataclass(frozen=True)
class Estimate:
    """seconds: of one core or GPU, for a whole run from the start; None until a job of the study has ended. steps: of
    all networks, those of teachers and pre-trainings apart."""

    steps: int
    teacher_steps: int
    seconds: float | None


def estimate(study: StudyRecipe, out: Path, chosen: Sequence[Cell]) -> Estimate:
    """What these cells and their teachers take, by the mean time of a step in the jobs that lie in `out`."""
    students = sum(steps_of(study, cell) for cell in chosen)
    taught = [cell for cell in chosen if cell.arm in WITH_TEACHER]
    # each teacher once, whatever arms have it: 0 is the one of all labels
    shared = {
        (fold, "" if study.teacher.augment else c.augment, c.init, c.fraction, c.seed)
        for c in taught
        for fold in range(teachers_of(study, c.arm))
    }
    starts = {(c.init, c.seed) for c in chosen if study.grid.init[c.init].pretrain is not None}
    teachers = len(shared) * study.teacher.steps + sum(study.pretraining(*start).steps for start in starts)
    done = [orjson.loads(path.read_bytes()) for path in out.glob(f"*/*/{RESULT}")]
    steps = sum(result.get("steps", 0) for result in done)
    seconds = sum(result.get("train_seconds") or 0 for result in done)
    return Estimate(students, teachers, (students + teachers) * seconds / steps if steps else None)

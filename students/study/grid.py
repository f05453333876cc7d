"""The cells of a study, the jobs that make them, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from builder.errors import BuildError
from builder.evidence.holdout import Labels
from builder.scan.pool import Pool
from builder.store.files import digest, sha256_file
from students.study.data import Data, label_name
from students.study.recipe import (
    LABELLED_BY_TEACHER,
    SUPERVISED,
    TEACHER,
    WITH_FOLDS,
    WITH_OTHERS,
    WITH_TEACHER,
    Start,
    StudyRecipe,
)
from students.tasks.choose import usual_clip
from teachers.networks.backbones import DEFAULT
from teachers.networks.meta import read_meta

RESULT, TOLD, STORE = "result.json", "told.json", "store"
"""In a study's folder: what a job came to, in its own; the versions that say what people said; the store."""
PRETRAIN = "pretrain"
FOLDERS = {TEACHER: "teachers", PRETRAIN: "pretrained"}
"""Jobs that are no cells -> where they lie in the study's folder; cells lie in `cells`."""
CELLS = "cells"
UNMOVED = ("workers", "save_every")
"""Keys of a training that do not change its weights."""
JOINT = ("alpha_ramp", "decay", "clip", "per_term", "normalise", "soft")
"""Keys of a training that change nothing where it has human labels alone."""
KEYS = ("arm", "augment", "init", "fraction", "alpha", "round", "seed")


@dataclass(frozen=True)
class Cell:
    """One network of the grid. alpha: 0 for arms without a second stream. round: from 1. seed: the replicate.
    arm: also `teacher`, or `pretrain`, whose augment and fraction say nothing."""

    arm: str
    augment: str
    init: str
    fraction: float
    alpha: float
    round: int
    seed: int

    def __str__(self) -> str:
        alpha = f" alpha {self.alpha:g}" if self.alpha else ""
        later = f" round {self.round}" if self.round > 1 else ""
        return f"{self.arm} {self.augment} {self.init} {self.fraction:g}{alpha}{later} seed {self.seed}"


@dataclass(frozen=True)
class Job:
    """A piece of work with a folder of its own, `folder`, relative to the study's. digest: of all that decides it.
    labelled: name of the labelled set (`label_name`).
    teacher, start: folders of the jobs that make its teacher and its backbone's weights, "" for none. folds: those of
    the teachers that each have not learned from a fold. fold: of such a teacher, from 1; 0 for all other jobs."""

    cell: Cell
    digest: str
    labelled: str
    teacher: str = ""
    start: str = ""
    folds: tuple[str, ...] = ()
    fold: int = 0

    def __str__(self) -> str:
        return f"{self.cell} without fold {self.fold}" if self.fold else str(self.cell)

    @property
    def folder(self) -> str:
        return f"{FOLDERS.get(self.cell.arm, CELLS)}/{self.digest[:16]}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Folders of the jobs that come first."""
        return tuple(folder for folder in (self.teacher, self.start, *self.folds) if folder)


def cells(study: StudyRecipe) -> list[Cell]:
    """All cells, seed by seed, so that a study that is broken off has whole replicates."""
    grid, made = study.grid, []
    for seed in study.replicates:
        for augment in grid.augment:
            for init in grid.init:
                for fraction in grid.fractions:
                    for arm in grid.arms:
                        for alpha in (0.0,) if arm in SUPERVISED else grid.alpha:
                            for number in range(1, (grid.rounds if arm == "self-training" else 1) + 1):
                                made.append(Cell(arm, augment, init, fraction, alpha, number, seed))
    return made


def choose(chosen: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that agree with all of `only`, `KEY=VALUE[,VALUE]` of the fields of Cell. Raises BuildError."""
    for text in only:
        key, equals, values = text.partition("=")
        if not equals or key not in KEYS:
            raise BuildError(
                f"--only {text!r} must be KEY=VALUE with a key of {', '.join(KEYS)}, such as arm=supervised"
            )
        wanted = values.split(",")
        known = {_shown(getattr(cell, key)) for cell in chosen}
        if unknown := [value for value in wanted if _plain(value) not in known]:
            raise BuildError(f"--only {text!r}: no cell left has {key} {unknown[0]}: give {', '.join(sorted(known))}")
        chosen = [cell for cell in chosen if _shown(getattr(cell, key)) in set(map(_plain, wanted))]
    return list(chosen)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: str) -> str:
    """A number as `_shown` writes it."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def jobs(study: StudyRecipe, data: Data, chosen: Sequence[Cell]) -> list[Job]:
    """The jobs that make these cells, each after those it needs."""
    jobs_by_folder: dict[str, Job] = {}
    starts = {name: _start(start) for name, start in study.grid.init.items()}
    for cell in chosen:
        for job in _with_needs(study, data, cell, starts):
            jobs_by_folder.setdefault(job.folder, job)
    return list(jobs_by_folder.values())


def _with_needs(study: StudyRecipe, data: Data, cell: Cell, starts: Mapping[str, Any]) -> list[Job]:
    before: list[Job] = []
    start, labelled = "", label_name(study, data.labelled)
    if study.grid.init[cell.init].pretrain is not None:
        assert data.pool is not None
        decides = {
            "init": starts[cell.init],
            "pool": data.pool.id,
            "network": study.train.get("network"),
            "seed": cell.seed,
        }
        blank = Cell(PRETRAIN, "-", cell.init, 1.0, 0.0, 1, cell.seed)
        before.append(Job(blank, digest({"job": PRETRAIN, **decides}), labelled))
        start = before[0].folder
    shared = _shared(study, data, cell, starts)
    if cell.arm not in WITH_TEACHER:
        return [*before, Job(cell, digest({**shared, **_facts_of(study, data, cell)}), labelled, start=start)]
    teacher = replace(cell, arm=TEACHER, alpha=0.0, round=1)
    own = {"job": TEACHER, "steps": study.teacher.steps, "augment": study.augment_of(TEACHER, cell.augment)}
    taught = {**_shared(study, data, teacher, starts), **own}
    count = study.teacher.folds if cell.arm in WITH_FOLDS else 0
    folds = [
        Job(teacher, digest({**taught, "folds": count, "fold": n}), labelled, start=start, fold=n)
        for n in range(1, count + 1)
    ]
    before += [*folds, Job(teacher, digest(taught), labelled, start=start)]
    others = {"folds": [job.digest for job in folds]} if folds else {}
    for number in range(1, cell.round + 1):
        earlier = replace(cell, round=number)
        decided = digest({**shared, **_facts_of(study, data, earlier), "teacher": before[-1].digest, **others})
        before.append(Job(earlier, decided, labelled, before[-1].folder, start, tuple(job.folder for job in folds)))
    return before


def _shared(study: StudyRecipe, data: Data, cell: Cell, starts: Mapping[str, Any]) -> dict[str, Any]:
    """What decides every network of a replicate."""
    alone = cell.arm in (TEACHER, *SUPERVISED)
    train = {key: value for key, value in study.train.items() if key not in (*UNMOVED, *(JOINT if alone else ()))}
    return {
        "train": train,
        "augment": study.grid.augment[cell.augment],
        "init": starts[cell.init],
        "labelled": data.labelled.digest,
        "fraction": cell.fraction,
        "measured": data.measured.digest,
        "seed": cell.seed,
    }


def _facts_of(study: StudyRecipe, data: Data, cell: Cell) -> dict[str, Any]:
    """What decides a cell beside that: its arm, and the labels it learns beside the human ones."""
    facts: dict[str, Any] = {"arm": cell.arm, "alpha": cell.alpha}
    if cell.arm == "longer":
        facts["teacher_steps"] = study.teacher.steps
    if cell.arm in LABELLED_BY_TEACHER:
        facts["build"] = study.build.model_dump(mode="json", exclude={"truth"})
        facts["truth"] = data.solved_on and data.solved_on.digest
    if cell.arm in WITH_OTHERS:
        facts["others"] = [labels.digest for labels in data.others]
    if cell.arm == "ceiling":
        facts["pool_truth"] = _digest(data.pool_truth)
    if cell.arm not in SUPERVISED and cell.arm not in ("joint", "placebo"):
        facts["pool"] = _digest(data.pool)
    if cell.arm not in SUPERVISED and not study.train.get("clip") and (clip := usual_clip(data.labelled.truth.kind)):
        facts["clip"] = clip
    return facts


def _digest(source: Labels | Pool | None) -> str:
    assert source is not None  # or the recipe would have been refused
    return source.digest if isinstance(source, Labels) else source.id


def _start(start: Start) -> Any:
    """What decides the weights that a training begins with."""
    if start.pretrained not in (None, DEFAULT):
        path = Path(str(start.pretrained))
        if not path.is_file():
            raise BuildError(f"grid.init: weights {path} do not exist: give a file, or DEFAULT")
        return {"pretrained": sha256_file(path)}
    if start.checkpoint is not None:
        return {"checkpoint": read_meta(start.checkpoint).weights.sha256}
    return start.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class Budget:
    """What the networks of an arm cost: optimiser steps, of its own and of its teacher, or of all that it has; images
    in a step, human and beside; images that these label."""

    arm: str
    networks: int
    steps: int
    teacher_steps: int
    human: int
    beside: int
    labelled_by_teacher: int

    @property
    def total(self) -> int:
        """Steps of the network and its teachers."""
        return self.steps + self.teacher_steps


def budget(study: StudyRecipe, chosen: Sequence[Cell], pool_images: int, labelled: int) -> list[Budget]:
    """A row for each arm among these cells: equal steps, images per step, and all else of the training, so that what
    differs stands here. `longer` has the steps of teacher and student (round 1)."""
    recipe = study.training(Path("labels"))
    rows = []
    for arm in dict.fromkeys(cell.arm for cell in chosen):
        beside = 0 if arm in SUPERVISED else recipe.batch // 2
        teacher = study.teacher.steps * teachers_of(study, arm)
        steps = recipe.steps + (study.teacher.steps if arm == "longer" else 0)
        images = {"placebo": labelled}.get(arm, pool_images) if arm in LABELLED_BY_TEACHER else 0
        images += labelled if arm in WITH_FOLDS else 0
        count = sum(cell.arm == arm for cell in chosen)
        rows.append(Budget(arm, count, steps, teacher, recipe.batch - beside, beside, images))
    return rows


def teachers_of(study: StudyRecipe, arm: str) -> int:
    """How many networks are trained to label for one of this arm."""
    return (arm in WITH_TEACHER) + (study.teacher.folds if arm in WITH_FOLDS else 0)


def steps_of(study: StudyRecipe, cell: Cell) -> int:
    """Optimiser steps of a job."""
    if cell.arm == PRETRAIN:
        return study.pretraining(cell.init, cell.seed).steps
    if cell.arm == TEACHER:
        return study.teacher.steps
    return study.training(Path("labels")).steps + (study.teacher.steps if cell.arm == "longer" else 0)


def as_json(job: Job) -> dict[str, Any]:
    """A job as a worker reads it."""
    return asdict(job)


def from_json(content: Mapping[str, Any]) -> Job:
    """Inverse of `as_json`."""
    return Job(**{**content, "cell": Cell(**content["cell"]), "folds": tuple(content["folds"])})

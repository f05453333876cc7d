"""One job of a study, from labels to a figure: a pre-training, a teacher or a cell. Run by a worker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from builder.recipe.recipe import PoolOptions
from builder.store.files import write_file
from builder.store.store import Store
from builder.truth.options import Part
from builder.truth.records import Truth
from students.evaluate.measure import kind_measure
from students.study.data import POOL, fold_folders, image_root, read_labelled, subset_folder, subset_labels
from students.study.grid import PRETRAIN, RESULT, STORE, TOLD, Job
from students.study.kinds.choose import study_kind
from students.study.recipe import CONTINUED, LABELLED_BY_TEACHER, TEACHER, WITH_OTHERS, LabelSet, StudyRecipe
from students.study.results import CellResult
from students.study.versions import Made, make
from students.train.loop import train
from students.train.recipe import TrainRecipe
from students.train.run import read_log
from students.train.state import STATE
from teachers.from_checkpoint import CheckpointTeacher
from teachers.networks.weights import BACKBONE

PER_IMAGE, RUN = "per_image.parquet", "run"
CEILING, PLACEBO = "ceiling", "placebo"
OTHER_SEED = 1_000_000
"""A teacher's seed is the replicate's plus this: with the same, its students would begin as its copies."""


def run_job(study: StudyRecipe, out: Path, job: Job) -> None:
    """Do a job whose needs are done; `result.json` in its folder comes last. Raises BuildError or TeacherError."""
    folder = out / job.folder
    if job.cell.arm == PRETRAIN:
        result = _pretrain(study, out, job)
    elif job.cell.arm == TEACHER:
        result = _train(study, out, job, [])
    else:
        result = _cell(study, out, job)
    write_file(folder / RESULT, orjson.dumps(result, option=orjson.OPT_INDENT_2))


def _pretrain(study: StudyRecipe, out: Path, job: Job) -> dict[str, Any]:
    from students.pretrain.loop import pretrain

    recipe = study.pretraining(job.cell.init, job.cell.seed)
    run = pretrain(recipe, out / job.folder / RUN, Store(out / STORE))
    return {"steps": recipe.steps, "train_seconds": _finished(run, recipe.batch)}


def _cell(study: StudyRecipe, out: Path, job: Job) -> dict[str, Any]:
    """A CellResult as JSON; NaN is null."""
    beside, claimed = _beside(study, out, job), _claimed(study, out, job)
    trained = _train(study, out, job, beside, claimed)
    taught = read_result(out / job.teacher) if job.teacher else {}
    more = [read_result(out / folder) for folder in job.folds]
    labelling = sum(v.seconds for v in (*beside, *claimed)) if job.cell.arm in LABELLED_BY_TEACHER else math.nan
    listed = orjson.loads((_share(out, job) / POOL).read_bytes())
    result = CellResult(
        study=study.name,
        cell=job.digest,
        **{name: getattr(job.cell, name) for name in ("arm", "augment", "init", "fraction", "alpha", "round", "seed")},
        labelled=len(listed["images"]),
        metric=trained["metric"],
        value=trained["value"],
        teacher_value=taught.get("value", math.nan),
        steps=trained["steps"],
        teacher_steps=taught.get("steps", 0) + taught.get("teacher_steps", 0) + sum(each["steps"] for each in more),
        batch=trained["batch"],
        train_seconds=trained["train_seconds"],
        teacher_seconds=taught.get("train_seconds", math.nan)
        + (taught.get("teacher_seconds") or 0)
        + sum(each["train_seconds"] for each in more),
        label_seconds=labelling + (taught.get("label_seconds") or 0),
        pool=sum(version.images for version in beside),
        kept=sum(version.kept for version in beside) if beside else math.nan,
        per_image=f"{job.folder}/{PER_IMAGE}",
    )
    return asdict(result)


def read_result(folder: Path) -> dict[str, Any]:
    """The `result.json` of a job's folder."""
    content: dict[str, Any] = orjson.loads((folder / RESULT).read_bytes())
    return content


def _labels(study: StudyRecipe, out: Path, job: Job) -> LabelSet:
    """The replicate's share of the labels, of a fold's teacher without that fold."""
    whole = _truth(study.labelled, "labelled", study.outlines)
    share = _fold_folders(study, out, job, job.fold)[1] if job.fold else _share(out, job)
    return LabelSet(path=subset_labels(share, whole.kind), images=image_root(whole))


def _share(out: Path, job: Job) -> Path:
    return subset_folder(out, job.labelled, job.cell.fraction, job.cell.seed)


def _fold_folders(study: StudyRecipe, out: Path, job: Job, number: int) -> tuple[Path, Path]:
    return fold_folders(out, job.labelled, job.cell.fraction, job.cell.seed, number, study.teacher.folds)


def _train(
    study: StudyRecipe, out: Path, job: Job, beside: Sequence[Made], claimed: Sequence[Made] = ()
) -> dict[str, Any]:
    """Train the network of a job, unless that is done, and measure its last weights."""
    folder = out / job.folder
    recipe = _recipe(study, out, job, beside, claimed)
    run = train(recipe, folder / RUN, Store(out / STORE))
    metric, value = measure_run(run, _truth(study.measured, study.measured_as, False), folder / PER_IMAGE)
    result = {"metric": metric, "value": value, "steps": recipe.steps, "batch": recipe.batch}
    return {**result, "train_seconds": _finished(run, recipe.batch)}


def _finished(run: Path, batch: int) -> float:
    """Seconds that the steps of a run took, in all its parts; it can be resumed no more."""
    (run / STATE).unlink(missing_ok=True)
    return float(sum(batch / record["images_per_s"] for record in read_log(run)))


def _recipe(study: StudyRecipe, out: Path, job: Job, beside: Sequence[Made], claimed: Sequence[Made]) -> TrainRecipe:
    cell, start = job.cell, study.grid.init[job.cell.init]
    labels = _labels(study, out, job)
    more: dict[str, Any] = {"augment": study.augment_of(cell.arm, cell.augment), "seed": cell.seed}
    pretrained = str(out / job.start / RUN / BACKBONE) if job.start else start.pretrained
    if pretrained:
        more["network"] = {**study.train.get("network", {}), "pretrained": pretrained}
    if begin := out / job.teacher / RUN if cell.arm in CONTINUED else start.checkpoint:
        more["init"] = f"checkpoint:{begin}"
    if beside:
        more |= {"pseudo": [version.folder for version in beside], "alpha": cell.alpha}
    if claimed:
        more["doubly_robust"] = [version.folder for version in claimed]
    if cell.arm == TEACHER:
        more |= {"steps": study.teacher.steps, "seed": cell.seed + OTHER_SEED}
    if cell.arm == "longer":
        more["steps"] = study.training(labels.path).steps + study.teacher.steps
    return study.training(labels.path, labels.images, **more)


def _beside(study: StudyRecipe, out: Path, job: Job) -> list[Made]:
    """What the arm learns beside human labels."""
    cell, versions = job.cell, []
    if cell.arm in LABELLED_BY_TEACHER:
        name = f"{cell.arm if cell.arm == PLACEBO else 'pool'}-{job.teacher.replace('/', '-')}"
        pool = study.pool
        if cell.arm == PLACEBO:
            pool = _listed(study, _share(out, job))
        assert pool is not None  # or the recipe would have been refused
        recipe = study.recipe(name, pool, f"checkpoint:{out / job.teacher / RUN}")
        versions.append(make(recipe, Store(out / STORE)))
    human = orjson.loads((out / TOLD).read_bytes())
    if cell.arm == CEILING:
        versions.append(Made(**human[CEILING]))
    if cell.arm in WITH_OTHERS:
        versions += [Made(**version) for version in human["others"]]
    return versions


def _claimed(study: StudyRecipe, out: Path, job: Job) -> list[Made]:
    """What the teachers of the folds say of these, by the rules of the build."""
    versions = []
    for number, teacher in enumerate(job.folds, 1):
        inside, _ = _fold_folders(study, out, job, number)
        name = f"fold-{teacher.replace('/', '-')}"
        recipe = study.recipe(name, _listed(study, inside), f"checkpoint:{out / teacher / RUN}")
        versions.append(make(recipe, Store(out / STORE)))
    return versions


def _listed(study: StudyRecipe, subset: Path) -> PoolOptions:
    """Some of the labelled images as a pool."""
    root = image_root(_truth(study.labelled, "labelled", study.outlines))
    return PoolOptions(source=str(subset / POOL), images=str(root))


def measure_run(run: Path, truth: Truth, per_image: Path) -> tuple[str, float]:
    """The metric of a run on labelled images, by its name, and what became of each image as a Parquet."""
    kind = kind_measure(truth.kind)
    metrics, outcomes, _ = kind.measure(CheckpointTeacher(run, kind.options), truth, None, None)
    study_kind(truth.kind).write_outcomes(per_image, truth, outcomes)
    return kind.metric, metrics[kind.metric]


@cache
def _truth(section: LabelSet, part: Part, outlines: bool) -> Truth:
    return read_labelled(section, outlines, part)

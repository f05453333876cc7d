"""`build-pseudo`: every stage of a recipe that is not already done."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Literal

from builder import BuildError
from builder.cut import Cut, cut
from builder.engine import Track, default_workers, silent
from builder.holdout import Labels, load_labels, with_outlines
from builder.label import Labelled, Labeller, ModelLabeller, label, pending_chunks
from builder.overrides import read_overrides
from builder.parent import find_parent
from builder.plan import Basis
from builder.pool import Pool, scan
from builder.recipe import PoolOptions, Recipe
from builder.store import Store
from builder.teacher_section import TeacherSection
from teachers.base import Teacher


@dataclass(frozen=True)
class Built:
    """What a build did, stage by stage; None for a stage that was not asked for."""

    pool: Pool
    labelled: Labelled | None = None
    cut: Cut | None = None


class TooManyFailures(BuildError):
    """More images than allowed cannot be read. What is done is kept."""


def build(
    recipe: Recipe,
    store: Store,
    *,
    root: Path = Path(),
    only: Literal["scan", "label", "cut"] | None = None,
    retry_failures: bool = False,
    workers: int | None = None,
    report: bool = True,
    allow_code: bool = False,
    track: Track = silent,
) -> Built:
    """Scan, label, cut; `only` stops after scan or label, and for `cut` refuses to call the teacher.
    `retry_failures` labels again the chunks with images that could not be read.

    root: the folder that the recipe's paths are relative to. allow_code: see load_teacher. Raises BuildError or
    TeacherError; finished chunks and shards stay for the next call.
    """
    with store.in_use():
        workers = workers or default_workers()
        return _build(recipe, store, root, only, retry_failures, workers, report, allow_code, track)


def _build(
    recipe: Recipe,
    store: Store,
    root: Path,
    only: Literal["scan", "label", "cut"] | None,
    retry_failures: bool,
    workers: int,
    report: bool,
    allow_code: bool,
    track: Track,
) -> Built:
    written, recipe = recipe, recipe.rooted(root)
    pool = scan_recipe(recipe.pool, store, workers, track)
    if only == "scan":
        return Built(pool)
    references = load_references(recipe, written, store, workers, track)
    labeller = load_labeller(recipe.teacher, workers, allow_code)
    truth = references.get("truth")
    if truth and recipe.truth:
        truth = with_outlines(truth, recipe.truth, labeller.description["kind"])
    pools = [pool, truth.pool] if truth else [pool]
    if only == "cut":
        for each in pools:
            if pending := pending_chunks(each, labeller, store, retry_failures):
                raise BuildError(
                    f"{len(pending)} chunks of {each.source} are not labelled yet: run the build without --only cut"
                )
    runs = [
        label(
            each,
            labeller,
            store,
            spec=written.teacher.name,
            license=recipe.teacher.license,
            retry_failures=retry_failures,
            track=track,
        )
        for each in pools
    ]
    labelled = runs[0]
    check_failures(labelled, recipe.max_failure_rate)
    if only == "label":
        return Built(pool, labelled)
    basis = Basis(
        pool,
        store.predictions / labelled.predictions,
        recipe,
        written.teacher.name,
        truth=truth,
        references={name: labels.pool for name, labels in references.items()},
        parent=find_parent(recipe.parent, store) if recipe.parent else None,
        trained_on=frozenset(getattr(getattr(labeller, "teacher", None), "trained_on", ())),
        overrides=tuple(read_overrides(store, recipe.name) if recipe.review else ()),
    )
    provenance = {"tool": f"tutelage {installed_version('tutelage')}", "recipe": written.model_dump(mode="json")}
    done = cut(basis, store, name=recipe.name, provenance=provenance, workers=workers, report=report, track=track)
    return Built(pool, labelled, done)


def load_references(recipe: Recipe, written: Recipe, store: Store, workers: int, track: Track) -> dict[str, Labels]:
    """The recipe's truth, test and labelled sets, scanned. Raises BuildError if two of them share an image."""
    found = {
        name: load_labels(section, store, written=getattr(written, name).source, workers=workers, track=track)
        for name in ("truth", "test", "labelled")
        if (section := getattr(recipe, name)) is not None
    }
    if len(found) > 1:
        from builder.duplicates import shared

        if common := shared({name: labels.pool for name, labels in found.items()}):
            some = "; ".join(common[:3])
            raise BuildError(f"{len(common)} images are in two of labelled, truth and test: keep each in one ({some})")
    return found


def scan_recipe(options: PoolOptions, store: Store, workers: int, track: Track) -> Pool:
    images = Path(options.images) if options.images else None
    return scan(
        options.source,
        store,
        images=images,
        limit=options.limit,
        chunk_size=options.chunk,
        workers=workers,
        track=track,
    )


def load_labeller(teacher: TeacherSection, workers: int | None = None, allow_code: bool = False) -> Labeller:
    """The model or the replay that a teacher section names. allow_code: see load_teacher."""
    family, _, argument = (teacher.spec or "").partition(":")
    if family == "replay" and argument:
        from builder.replay import Replay

        return Replay(Path(argument), Path(teacher.images) if teacher.images else None, teacher.options, workers)
    if teacher.images is not None:
        raise BuildError(f"teacher.images = {teacher.images!r} is for replay: teachers only: remove it")
    return ModelLabeller(load_model(teacher, allow_code), workers)


def load_model(teacher: TeacherSection, allow_code: bool = False) -> Teacher:
    """The model, or the ensemble of models, that a teacher section names. Raises TeacherError."""
    from teachers import load_teacher

    if teacher.ensemble is None:
        return load_teacher(teacher.name, teacher.options, allow_code=allow_code)
    from teachers.ensemble import IOU, EnsembleTeacher, Member

    members = [
        Member(load_teacher(member.spec, member.options, allow_code=allow_code), member.weight, member.classes)
        for member in teacher.ensemble
    ]
    options = teacher.options
    boxes = members[0].teacher.description["kind"] in ("detection", "instance")  # the rest is stored whole
    floor = options.floor if boxes else None
    fused = EnsembleTeacher(members, teacher.iou or IOU, floor, options.max_detections)
    if options.tta is None:
        return fused
    from teachers.views import ViewsTeacher

    return ViewsTeacher(fused, options.tta, options.max_detections)


def check_failures(labelled: Labelled, max_failure_rate: float) -> None:
    """Raise TooManyFailures if more than that share of the images could not be read."""
    if labelled.failure_rate > max_failure_rate:
        some = "; ".join(labelled.failures[:3]) + ("; …" if labelled.failed > 3 else "")
        raise TooManyFailures(
            f"{labelled.failed} of {labelled.images} images cannot be read "
            f"({labelled.failure_rate:.1%}, allowed {max_failure_rate:.1%}): mend them and "
            f"--retry-failures, or raise --max-failure-rate ({some})"
        )

"""`build-pseudo`: every stage of a recipe that is not already done."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Literal

from builder import BuildError
from builder.cut import Cut, cut
from builder.engine import Track, default_workers, silent
from builder.label import Labelled, Labeller, ModelLabeller, label, pending_chunks
from builder.pool import Pool, scan
from builder.recipe import PoolOptions, Recipe, TeacherSection
from builder.store import Store


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
    track: Track = silent,
) -> Built:
    """Scan, label, cut; `only` stops after scan or label, and for `cut` refuses to call the teacher.
    `retry_failures` labels again the chunks with images that could not be read.

    root: the folder that the recipe's paths are relative to. Raises BuildError or TeacherError; finished chunks and
    shards stay for the next call.
    """
    workers = workers or default_workers()
    written, recipe = recipe, recipe.rooted(root)
    pool = scan_recipe(recipe.pool, store, workers, track)
    if only == "scan":
        return Built(pool)
    labeller = load_labeller(recipe.teacher, workers)
    if only == "cut" and (pending := pending_chunks(pool, labeller, store, retry_failures)):
        raise BuildError(
            f"{len(pending)} chunks of {recipe.pool.source} are not labelled yet: run the build without --only cut"
        )
    labelled = label(
        pool,
        labeller,
        store,
        spec=written.teacher.spec,
        license=recipe.teacher.license,
        retry_failures=retry_failures,
        track=track,
    )
    check_failures(labelled, recipe.max_failure_rate)
    if only == "label":
        return Built(pool, labelled)
    provenance = {"tool": f"tutelage {installed_version('tutelage')}", "recipe": written.model_dump(mode="json")}
    done = cut(
        pool,
        labelled.predictions,
        store,
        name=recipe.name,
        keep=recipe.keep,
        images=recipe.images,
        shards=recipe.shards,
        spec=written.teacher.spec,
        license=written.teacher.license,
        provenance=provenance,
        workers=workers,
        track=track,
    )
    return Built(pool, labelled, done)


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


def load_labeller(teacher: TeacherSection, workers: int | None = None) -> Labeller:
    """The model or the replay that a teacher section names."""
    family, _, argument = teacher.spec.partition(":")
    if family == "replay" and argument:
        from builder.replay import Replay

        return Replay(Path(argument), Path(teacher.images) if teacher.images else None, teacher.options, workers)
    if teacher.images is not None:
        raise BuildError(f"teacher.images = {teacher.images!r} is for replay: teachers only: remove it")
    from teachers import load_teacher

    return ModelLabeller(load_teacher(teacher.spec, teacher.options), workers)


def check_failures(labelled: Labelled, max_failure_rate: float) -> None:
    """Raise TooManyFailures if more than that share of the images could not be read."""
    if labelled.failure_rate > max_failure_rate:
        some = "; ".join(labelled.failures[:3]) + ("; …" if len(labelled.failures) > 3 else "")
        raise TooManyFailures(
            f"{len(labelled.failures)} of {labelled.images} images cannot be read "
            f"({labelled.failure_rate:.1%}, allowed {max_failure_rate:.1%}): mend them and "
            f"--retry-failures, or raise --max-failure-rate ({some})"
        )

"""`build-pseudo`: every stage of a recipe that is not already done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from builder.cluster import Cluster
from builder.cut.basis import Basis, overrides_in_force
from builder.cut.parent import find_parent
from builder.cut.version import Cut, cut_version
from builder.engine import Track, silent
from builder.errors import BuildError, brief
from builder.evidence.holdout import EVIDENCE, Labels, load_references, with_outlines
from builder.evidence.on_truth import check_independent
from builder.label.labeller import Labeller
from builder.label.labelling import Labelled, check_failures, check_labelled, label_pools
from builder.label.load import load_labeller
from builder.label.profile import Profile
from builder.recipe.recipe import Recipe
from builder.scan.pool import Pool
from builder.store.store import Store, check_store

Stage = Literal["scan", "label", "cut"]


@dataclass(frozen=True)
class Built:
    """What a build did, stage by stage; None for a stage that was not asked for."""

    pool: Pool
    labelled: Labelled | None = None
    cut: Cut | None = None


def build_pseudo(
    recipe: Recipe,
    store: Store,
    *,
    root: Path | str = Path(),
    only: Stage | None = None,
    retry_failures: bool = False,
    workers: int | None = None,
    report: bool = True,
    allow_empty: bool = False,
    allow_partial: bool = False,
    allow_code: bool = False,
    message: str = "",
    track: Track = silent,
    profile: Profile | None = None,
    cluster: Cluster | None = None,
) -> Built:
    """Scan, label, cut: every stage of a recipe that is not already done.

    Args:
        recipe: as written.
        store, root: gets pool, predictions and version; the folder that the recipe's paths are relative to.
        only: stop after scan or label; `cut` refuses to call the teacher.
        retry_failures: label chunks with images that could not be read once more.
        workers: threads; None for one a core. No result depends on it.
        report: write the report page into the version.
        allow_empty, allow_partial: also where nothing is kept, or most labelled objects' classes are not certified.
        allow_code: see teachers.load_teacher.
        message: what the version is for, in the store's history.
        track, profile: report progress, and where the time of labelling goes.
        cluster: whose nodes scan and label (`with Cluster("host:6379") as cluster`); None for this machine alone.

    Returns:
        What was done: `.pool`, `.labelled` and `.cut`, the version with its `folder` and `manifest`.

    Raises:
        BuildError: the recipe does not fit, too many images are unreadable, a gate failed, or nothing would be kept.
        TeacherError: the teacher failed. Finished chunks and shards stay for the next call.
    """
    _check(recipe, store, only)
    with store.in_use():
        rooted = recipe.rooted(Path(root))
        pool = rooted.pool.scan(store, workers=workers, track=track, cluster=cluster)
        if only == "scan":
            return Built(pool)
        references = _references(recipe, rooted, store, workers, track)
        labeller = load_labeller(rooted.teacher, workers, allow_code, recipe.images.reading, profile, cluster)
        if rooted.truth:
            references["truth"] = with_outlines(references["truth"], rooted.truth, labeller.description["kind"])
        labelled = _label(pool, references, labeller, store, recipe, only, retry_failures, track, profile)
        if only == "label":
            return Built(pool, labelled)
        cut = cut_version(
            _basis(recipe, rooted, store, pool, references, labelled, labeller.trained_on),
            store,
            name=recipe.name,
            written=recipe,
            workers=workers,
            report=report,
            allow_empty=allow_empty,
            allow_partial=allow_partial,
            message=message,
            track=track,
        )
        return Built(pool, labelled, cut)


def _references(recipe: Recipe, rooted: Recipe, store: Store, workers: int | None, track: Track) -> dict[str, Labels]:
    """The recipe's labelled, truth and test sets, scanned."""
    most, written = rooted.pool.max_pixels, recipe.references
    references = load_references(rooted.references, written, store, max_pixels=most, workers=workers, track=track)
    if recipe.truth:
        solved = recipe.parent is None or recipe.resolve
        check_independent(references["truth"], recipe.truth, recipe.keep.precision is not None and solved)
    return references


def _label(
    pool: Pool,
    references: Mapping[str, Labels],
    labeller: Labeller,
    store: Store,
    recipe: Recipe,
    only: Stage | None,
    retry_failures: bool,
    track: Track,
    profile: Profile | None,
) -> Labelled:
    """What was labelled of the pool; the labelled sets that are evidence are labelled, too."""
    pools = [pool, *(references[name].pool for name in EVIDENCE if name in references)]
    if only == "cut":
        check_labelled(pools, labeller, store, retry_failures)
    labelled, *evidence = label_pools(pools, labeller, store, recipe.teacher, retry_failures, track, profile)
    check_failures(labelled, recipe.max_failure_rate)
    for labels in evidence:
        check_failures(labels, recipe.max_failure_rate, "labelled images")
    return labelled


def _basis(
    recipe: Recipe,
    rooted: Recipe,
    store: Store,
    pool: Pool,
    references: Mapping[str, Labels],
    labelled: Labelled,
    trained_on: frozenset[str],
) -> Basis:
    """What the version is made from. rooted: the recipe with paths that lead from here."""
    return Basis(
        pool,
        store.predictions / labelled.predictions,
        rooted,
        recipe.teacher.published().name,
        truth=references.get("truth"),
        references={name: labels.pool for name, labels in references.items()},
        parent=find_parent(recipe.parent, store) if recipe.parent else None,
        trained_on=trained_on,
        overrides=overrides_in_force(store, recipe.name) if recipe.review else (),
    )


def _check(recipe: object, store: object, only: object) -> None:
    if not isinstance(recipe, Recipe):
        raise TypeError(f"{brief(repr(recipe))} is no Recipe: give a Recipe: load_recipe(PATH)")
    check_store(store)
    if only is not None and only not in get_args(Stage):
        raise BuildError(f"only = {only!r} is none of {', '.join(get_args(Stage))}: leave it out for all stages")

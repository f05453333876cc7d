"""`build-pseudo`: every stage of a recipe that is not already done."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Literal

from builder.cut.parent import find_parent
from builder.cut.plan import Basis
from builder.cut.version import Cut, cut_version
from builder.engine import Track, silent
from builder.errors import BuildError
from builder.evidence.holdout import Labels, load_labels, with_outlines
from builder.label.labelling import Labelled, check_failures, label_pool, pending_chunks
from builder.label.load import load_labeller
from builder.recipe.recipe import PoolOptions, Recipe
from builder.rules.overrides import read_overrides
from builder.scan.pool import Pool
from builder.scan.scanner import scan_pool
from builder.store.store import Store


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
        return _build(recipe, store, root, only, retry_failures, workers, report, allow_code, track)


def _build(
    recipe: Recipe,
    store: Store,
    root: Path,
    only: Literal["scan", "label", "cut"] | None,
    retry_failures: bool,
    workers: int | None,
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
        label_pool(
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
    done = cut_version(
        basis, store, name=recipe.name, provenance=provenance, workers=workers, report=report, track=track
    )
    return Built(pool, labelled, done)


def load_references(
    recipe: Recipe, written: Recipe, store: Store, workers: int | None, track: Track
) -> dict[str, Labels]:
    """The recipe's truth, test and labelled sets, scanned. Raises BuildError if two of them share an image."""
    found = {
        name: load_labels(section, store, written=getattr(written, name).source, workers=workers, track=track)
        for name in ("truth", "test", "labelled")
        if (section := getattr(recipe, name)) is not None
    }
    if len(found) > 1:
        from builder.scan.duplicates import shared

        if common := shared({name: labels.pool for name, labels in found.items()}):
            some = "; ".join(common[:3])
            raise BuildError(f"{len(common)} images are in two of labelled, truth and test: keep each in one ({some})")
    return found


def scan_recipe(options: PoolOptions, store: Store, workers: int | None, track: Track) -> Pool:
    images = Path(options.images) if options.images else None
    return scan_pool(
        options.source,
        store,
        images=images,
        limit=options.limit,
        chunk_size=options.chunk,
        workers=workers,
        track=track,
    )

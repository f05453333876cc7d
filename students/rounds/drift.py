"""How pseudo-labels of a pool change from one teacher to the next, and how good they are."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from builder.cut.recall import made_by
from builder.engine import silent
from builder.errors import BuildError
from builder.evidence.holdout import halves, load_truth, measure, with_outlines
from builder.kinds import kind_of
from builder.label.maps import read_maps
from builder.label.meta import read_meta
from builder.label.predictions import BOX, OK, read_chunk
from builder.recipe.recipe import Recipe
from builder.rules.keep import IOUS, class_map, keep_of
from builder.scan.pool import read_pool
from builder.store.labels import checked_table
from builder.store.manifest import Manifest
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.pairing import Rows, pair
from teachers.base import VOID

BLOCK = 200_000
"""Kept objects, about, that are paired at a time."""


def agreement(before: Version, now: Version, store: Store) -> float | None:
    """How far two versions of one pool agree, 0 to 1; None where there is nothing to compare. Classes go by name.

    Boxes and masks: 2 * pairs / (objects of both), where a pair are kept objects of a class on an image with an IoU of
    at least .5. Classes of images: the share of images, whether kept or not, of which both teachers say the same. Maps:
    the same of pixels. Raises BuildError for versions of two kinds, or if labels or predictions are gone.
    """
    sides = before.manifest, now.manifest
    if sides[0].kind != sides[1].kind:
        raise BuildError(
            f"{before.folder} holds {sides[0].kind} labels and {now.folder} {sides[1].kind} labels: compare one kind"
        )
    kind = kind_of(sides[0].kind)
    if kind.pixels:
        same, total = _of_maps(sides, store)
        return same / total if total else None
    with duckdb.connect(":memory:") as database:
        tables = [_labels(database, version, _names(sides)) for version in (before, now)]
        return _of_images(*tables) if kind.single else _of_objects(*tables)


def precision(version: Version, recipe: Recipe, store: Store) -> dict[str, Any] | None:
    """What `builder.evidence.holdout.measure` says of a version's thresholds on the `tune` half of its recipe's truth,
    which no threshold is solved on; None without truth. recipe: rooted."""
    if recipe.truth is None:
        return None
    manifest = version.manifest
    labels = load_truth(recipe.truth, recipe.truth, store, workers=None, track=silent)
    labels = with_outlines(labels, recipe.truth, manifest.kind)
    made = made_by(manifest, store)
    split = halves(labels, made.predictions, made.keep)
    if made.calibrate:
        split = split.calibrated(made.calibrate)
    return measure(split.tune, made.thresholds, IOUS[0]).stored()


def _names(sides: Sequence[Manifest]) -> list[str]:
    """The classes of all versions, without repeats, sorted."""
    return sorted({name for manifest in sides for name in manifest.classes})


def _labels(database: duckdb.DuckDBPyConnection, version: Version, names: Sequence[str]) -> duckdb.DuckDBPyRelation:
    """The labels of a version that have a class, as they stand in it, and the class's position in `names`."""
    table = database.read_parquet(glob.escape(str(checked_table(version)))).filter("label >= 0")
    codes = [names.index(name) for name in version.manifest.classes]
    return table.project(f"*, ({codes}::INTEGER[])[label + 1] AS class")


def _of_images(before: duckdb.DuckDBPyRelation, now: duckdb.DuckDBPyRelation) -> float | None:
    both = before.project("key, class AS was").join(now.project("key, class"), "key")
    share: float | None = both.aggregate("avg((was = class)::INTEGER)").fetchall()[0][0]
    return share


def _of_objects(before: duckdb.DuckDBPyRelation, now: duckdb.DuckDBPyRelation) -> float | None:
    """Objects are looked at in blocks of images, so that memory does not grow with the versions."""
    masks = ", rle" if "rle" in before.columns and "rle" in now.columns else ""
    kept = [
        table.filter("outcome = 'kept'").project(f"key, class, score, x1, y1, x2, y2, {side} AS second{masks}")
        for side, table in (("false", before), ("true", now))
    ]
    both = kept[0].union(kept[1])
    total = both.aggregate("count(*)").fetchall()[0][0]
    blocks = -(-total // BLOCK)
    parts = (both.filter(f"hash(key) % {blocks} = {block}").to_arrow_table() for block in range(blocks))
    pairs = sum(len(pair(_rows(part))[0]) for part in parts)
    return 2 * pairs / total if total else None


def _rows(table: pa.Table) -> Rows:
    return Rows(
        image=table["key"].combine_chunks().dictionary_encode().indices.to_numpy(),
        label=table["class"].to_numpy(),
        boxes=np.stack([table[side].to_numpy() for side in BOX], axis=1),
        score=table["score"].to_numpy(),
        calibrated=np.full(len(table), -1, np.float32),
        ignored=np.zeros(len(table), bool),
        second=table["second"].to_numpy(),
        common=np.ones(len(table), bool),
        rle=np.array(table["rle"].to_pylist(), object) if "rle" in table.column_names else None,
    )


def _of_maps(sides: Sequence[Manifest], store: Store) -> tuple[int, int]:
    """Pixels of which both say the same class, and those of which both say one, over the chunks of the pool that both
    teachers have labelled."""
    predictions = [store.predictions / manifest.provenance.inputs.predictions for manifest in sides]
    tables = [_table(*side, _names(sides)) for side in zip(predictions, sides, strict=True)]
    counts = np.zeros(2, np.int64)
    for chunk in read_pool(store, sides[1].provenance.inputs.pool).chunks():
        folders = [folder / chunk.digest for folder in predictions]
        if not all(folder.is_dir() for folder in folders):
            continue
        status = [read_chunk(folder, ("label",)).status for folder in folders]
        both = [n for n, pair_of in enumerate(zip(*status, strict=True)) if pair_of == (OK, OK)]
        with ExitStack() as open_files:
            maps = [open_files.enter_context(read_maps(folder)) for folder in folders if both]
            for position in both:
                labels = [table[maps_of[position].labels] for table, maps_of in zip(tables, maps, strict=True)]
                known = (labels[0] >= 0) & (labels[1] >= 0)
                counts += (int((labels[0] == labels[1])[known].sum()), int(known.sum()))
    return int(counts[0]), int(counts[1])


def _table(predictions: Path, manifest: Manifest, names: Sequence[str]) -> np.ndarray:
    """int64 (256,): where each label of a teacher's maps stands in `names`, by the version's class map; -1: nowhere."""
    description = read_meta(predictions)["description"]
    mapped = class_map(keep_of(manifest), description)
    label = mapped.label if mapped else np.arange(len(description["classes"]))
    table = np.full(VOID + 1, -1, np.int64)
    for place, version in enumerate(label.tolist()):
        table[place] = names.index(manifest.classes[version]) if version >= 0 else -1
    return table

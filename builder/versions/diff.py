"""What changed between two versions: objects by class and images, told apart by box and class name.

Equal objects are cancelled by an aggregation in DuckDB, which spills to disk; only what is left is paired here, in
blocks of whole images. Memory does not grow with the versions.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from builder.errors import BuildError
from builder.kinds import kind_of
from builder.report.headline import headline
from builder.store.keys import is_copy
from builder.store.labels import checked_table
from builder.store.shards import ShardError
from builder.store.version import Version, check_version
from builder.versions.changes import NAMES, Changes, Diff, Side, both_sides, labels_table
from builder.versions.pairing import Rows, pair

BLOCK = 200_000
"""Rows left over that are paired at a time, rounded up to whole images."""
KEYS = 50_000


def diff(a: Version, b: Version, *, limit: int = 10) -> Diff:
    """Compare two versions: their images, and what became of every object. Tombstoned images count as not there, and
    copies are not told apart.

    Args:
        a: the version before.
        b: the version after.
        limit: how many images are listed.

    Returns:
        What B has otherwise than A.

    Raises:
        BuildError: the two hold labels of different kinds, or labels or shards cannot be read; for a limit below 0.
    """
    check_version(a)
    check_version(b)
    if limit < 0:
        raise BuildError(f"limit = {limit}: give at least 0")
    kind, other = a.manifest.kind, b.manifest.kind
    if kind != other:
        raise BuildError(f"{a.folder} holds {kind} labels and {b.folder} {other} labels: compare versions of one kind")
    try:
        if kind_of(kind).pixels:
            from builder.versions.diff_maps import compare_maps

            difference = compare_maps(_side(a), _side(b), limit=limit)
        else:
            difference = compare(_side(a), _side(b), limit=limit)
    except (duckdb.Error, OSError, ShardError) as error:
        reason = str(error).partition("\n")[0]
        raise BuildError(
            f"{a.folder} and {b.folder} cannot be compared ({reason}): run `tutelage verify` on both"
        ) from None
    return replace(difference, quality=(headline(a.manifest), headline(b.manifest)))


def _side(version: Version) -> Side:
    return Side(checked_table(version), version.manifest.classes, _keys(version), version)


def _keys(version: Version) -> Iterator[list[str]]:
    """The keys of a version's images, without tombstones."""
    gone = set(version.manifest.tombstones)
    every = (key for shard in version.manifest.shards for key in version.keys(shard))
    keys = (key for key in every if key not in gone and not is_copy(key))
    while batch := list(islice(keys, KEYS)):
        yield batch


def compare(a: Side, b: Side, *, limit: int = 10) -> Diff:
    """See `diff`. Independent of the order of rows; `compare(b, a)` is `compare(a, b).mirrored()`."""
    names = sorted({*a.classes, *b.classes})
    with both_sides(a, b, limit) as (database, only, common):
        people = [_people(database, name, side) for name, side in (("a", a), ("b", b))]
        counts = np.zeros((len(names), len(NAMES)), np.int64)
        best: list[tuple[Any, ...]] = []
        changed = 0
        for rows, keys in _left_over(database, a, b, names):
            flags, per_image = _changes(rows, len(keys))
            for column in range(len(NAMES)):
                counts[:, column] += np.bincount(rows.label, flags[:, column], minlength=len(names)).astype(np.int64)
            shared = np.zeros(len(keys), bool)
            shared[rows.image[rows.common]] = True
            changed += int((shared & per_image.any(axis=1)).sum())
            changes_by_image = ((keys[n], Changes(*per_image[n].tolist())) for n in np.flatnonzero(shared))
            best = heapq.nsmallest(limit, [*best, *((*_falling(c), key, c) for key, c in changes_by_image)])
    classes = {name: Changes(*row) for name, row in zip(names, counts.tolist(), strict=True) if any(row)}
    return Diff(
        sum(classes.values(), Changes()),
        classes,
        {"added": only["b"][0], "removed": only["a"][0], "common": common, "changed": changed},
        only["b"][1],
        only["a"][1],
        {key: changes for _, _, key, changes in best},
        {reason: (people[0].get(reason, 0), people[1].get(reason, 0)) for reason in sorted({*people[0], *people[1]})},
    )


def _people(database: duckdb.DuckDBPyConnection, name: str, side: Side) -> dict[str, int]:
    """How many of one side's objects that count have each reason that people gave."""
    path, known = labels_table(database, side)
    query = f"FROM {path} WHERE source = 'human' AND key IN (FROM images_{name}) GROUP BY reason"
    return dict(database.execute(f"SELECT reason, count(*) {query}").fetchall()) if "source" in known else {}


def _falling(changes: Changes) -> tuple[int, int]:
    first, second = changes.weight
    return -first, -second


def _left_over(
    database: duckdb.DuckDBPyConnection, a: Side, b: Side, names: Sequence[str]
) -> Iterator[tuple[Rows, list[str]]]:
    """The objects that are not equal on both sides, as blocks of whole images, with the images' keys."""
    sides = [_select(database, name, side, names) for name, side in (("a", a), ("b", b))]
    masks = all("rle" in labels_table(database, side)[1] for side in (a, b))
    columns = "key, class, x1, y1, x2, y2, score, calibrated, ignored" + (", rle" if masks else "")
    query = f"""
        WITH differing AS (
            SELECT {columns}, sum(n) AS n FROM ({sides[0]} UNION ALL BY NAME {sides[1]})
            GROUP BY {columns} HAVING sum(n) <> 0
        )
        SELECT {columns}, n::INTEGER AS n,
            key IN (FROM images_a) AND key IN (FROM images_b) AS common
        FROM differing ORDER BY key
    """
    tables: list[pa.Table] = []
    for batch in database.sql(query).to_arrow_reader(BLOCK):
        table = pa.Table.from_batches([batch])
        whole = _whole_images(table)
        tables.append(table.slice(0, whole))
        if whole and sum(t.num_rows for t in tables) >= BLOCK:
            yield _rows(pa.concat_tables(tables))
            tables = []
        tables.append(table.slice(whole))
    if any(t.num_rows for t in tables):
        yield _rows(pa.concat_tables(tables))


def _whole_images(table: pa.Table) -> int:
    """Rows, of a table sorted by key, before those of its last key."""
    keys = table["key"].to_numpy(zero_copy_only=False)
    return int(np.searchsorted(keys, keys[-1])) if len(keys) else 0


def _select(database: duckdb.DuckDBPyConnection, name: str, side: Side, names: Sequence[str]) -> str:
    """The query of one side's objects that count; `n` is 1 for A and -1 for B."""
    place = {n: position for position, n in enumerate(names)}
    codes = [place[n] for n in side.classes]
    table, known = labels_table(database, side)
    return f"""
        SELECT key, ({codes}::INTEGER[])[label + 1] AS class, x1, y1, x2, y2, score,
            {"coalesce(calibrated, -1)" if "calibrated" in known else "-1"}::FLOAT AS calibrated,
            outcome = 'ignored' AS ignored, {1 if name == "a" else -1} AS n
            {", rle" if "rle" in known else ""}
        FROM {table} WHERE outcome <> 'dropped' AND label >= 0 AND key IN (FROM images_{name})
    """


def _rows(table: pa.Table) -> tuple[Rows, list[str]]:
    keys = table["key"].combine_chunks().dictionary_encode()
    column = {name: table[name].to_numpy() for name in table.column_names if name not in ("key", "rle")}
    copies = np.abs(column["n"])
    boxes = np.stack([column[side] for side in ("x1", "y1", "x2", "y2")], axis=1)
    rows = Rows(
        image=keys.indices.to_numpy(),
        label=column["class"],
        boxes=boxes,
        score=column["score"],
        calibrated=column["calibrated"],
        ignored=column["ignored"],
        second=column["n"] < 0,
        common=column["common"],
        rle=np.array(table["rle"].to_pylist(), object) if "rle" in table.column_names else None,
    )
    return rows.take(np.repeat(np.arange(len(copies)), copies)), keys.dictionary.to_pylist()


def _changes(rows: Rows, images: int) -> tuple[np.ndarray, np.ndarray]:
    """bool (N, 8) by row, and int64 (images, 8) by image: what NAMES count. A pair counts at its row of A."""
    first, second = pair(rows)
    flags = np.zeros((len(rows.image), len(NAMES)), bool)
    alone = np.ones(len(rows.image), bool)
    alone[first] = alone[second] = False
    same_box = (rows.boxes[first] == rows.boxes[second]).all(axis=1)
    if rows.rle is not None:
        same_box &= rows.rle[first] == rows.rle[second]
    same_score = (rows.score[first] == rows.score[second]) & (rows.calibrated[first] == rows.calibrated[second])
    column = {name: flags[:, n] for n, name in enumerate(NAMES)}
    column["added"][:] = alone & rows.second
    column["removed"][:] = alone & ~rows.second
    column["moved"][first] = ~same_box
    column["rescored"][first] = same_box & ~same_score
    column["kept_to_ignored"][first] = ~rows.ignored[first] & rows.ignored[second]
    column["ignored_to_kept"][first] = rows.ignored[first] & ~rows.ignored[second]
    column["on_new_images"][:] = column["added"] & ~rows.common
    column["on_gone_images"][:] = column["removed"] & ~rows.common
    per_image = np.stack([np.bincount(rows.image, flags[:, n], minlength=images) for n in range(len(NAMES))], axis=1)
    return flags, per_image.astype(np.int64)

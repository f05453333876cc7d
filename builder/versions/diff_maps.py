"""What changed between two versions of semantic maps, in pixels.

How many pixels of each class are kept on each image is summed in both; of the images with the greatest differences the
maps themselves are compared. An image whose maps differ while these sums are equal counts as unchanged.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence

import duckdb
import numpy as np
from PIL import Image

from builder.kinds import SEMANTIC
from builder.versions.changes import Changes, Diff, Side, both_sides, labels_table
from teachers.base import VOID


def compare_maps(a: Side, b: Side, *, limit: int = 10) -> Diff:
    """See builder.versions.diff.diff. By class, added and removed are pixels that are more, or fewer, on an image. Of
    the most changed images: added, of a class now and void before; removed, the other way; moved, of another class
    now."""
    names = sorted({*a.classes, *b.classes})
    with both_sides(a, b, limit) as (database, only, common):
        sums = " UNION ALL ".join(_select(database, name, side, names) for name, side in (("a", a), ("b", b)))
        database.execute(
            f"""CREATE TABLE differing AS
            SELECT key, class, sum(a)::BIGINT AS a, sum(b)::BIGINT AS b,
                key IN (FROM images_a) AS old, key IN (FROM images_b) AS new
            FROM ({sums}) GROUP BY key, class HAVING sum(a) <> sum(b)"""
        )
        by_class = database.execute(
            """SELECT class, sum(greatest(b - a, 0)), sum(greatest(a - b, 0)),
                coalesce(sum(b) FILTER (NOT old), 0), coalesce(sum(a) FILTER (NOT new), 0)
            FROM differing GROUP BY class ORDER BY class"""
        ).fetchall()
        shared = "FROM differing WHERE old AND new"
        changed = database.execute(f"SELECT count(DISTINCT key) {shared}").fetchall()[0][0]
        most = database.execute(
            f"SELECT key {shared} GROUP BY key ORDER BY sum(abs(b - a)) DESC, key LIMIT {limit}"
        ).fetchall()
    classes = {
        names[n]: Changes(int(added), int(removed), on_new_images=int(new), on_gone_images=int(gone))
        for n, added, removed, new, gone in by_class
    }
    keys = [key for (key,) in most]
    before, now = (_maps(side, keys, names) for side in (a, b))
    return Diff(
        sum(classes.values(), Changes()),
        classes,
        {"added": only["b"][0], "removed": only["a"][0], "common": common, "changed": changed},
        only["b"][1],
        only["a"][1],
        {key: _changes(before[key], now[key]) for key in keys if key in before and key in now},
        {},
    )


def _select(database: duckdb.DuckDBPyConnection, name: str, side: Side, names: Sequence[str]) -> str:
    """The query of one side's kept pixels, in a column of its name."""
    codes = [names.index(class_name) for class_name in side.classes]
    columns = "pixels AS a, 0 AS b" if name == "a" else "0 AS a, pixels AS b"
    return f"""
        SELECT key, ({codes}::INTEGER[])[label + 1] AS class, {columns}
        FROM {labels_table(database, side)[0]} WHERE outcome = 'kept' AND key IN (FROM images_{name})
    """


def _maps(side: Side, keys: Collection[str], names: Sequence[str]) -> dict[str, np.ndarray]:
    """`seg.png` of these images: int16 (H, W), positions in `names`, -1 for void."""
    ours = np.full(VOID + 1, -1, np.int16)
    ours[: len(side.classes)] = [names.index(name) for name in side.classes]
    maps: dict[str, np.ndarray] = {}
    if side.version is None or not keys:
        return maps
    for shard in side.version.manifest.shards:
        for sample in side.version.samples(shard):
            if sample.key in keys:
                with Image.open(io.BytesIO(sample.read(SEMANTIC.member))) as file:
                    maps[sample.key] = ours[np.array(file)]
    return maps


def _changes(before: np.ndarray, now: np.ndarray) -> Changes:
    if before.shape != now.shape:
        return Changes(added=int((now >= 0).sum()), removed=int((before >= 0).sum()))
    return Changes(
        added=int(((before < 0) & (now >= 0)).sum()),
        removed=int(((before >= 0) & (now < 0)).sum()),
        moved=int(((before >= 0) & (now >= 0) & (before != now)).sum()),
    )

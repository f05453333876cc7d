"""What there is to see of a version: its images with everything the teacher said of them, what became of it and why.

Images of the shards, and those that were left out and are still where they came from. Rows are joined with images in
DuckDB, which spills to disk: memory does not grow with the version. Labelled images: builder.browse.truth.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builder.browse.pictures import Columns, Evidence, Media, Picture, likeliest, pictures_of
from builder.buckets.address import is_remote
from builder.cut.left_out import read_left_out
from builder.cut.samples import EMPTY, WRITTEN
from builder.errors import BuildError
from builder.kinds import kind_of
from builder.scan.entries import mtime_of
from builder.scan.pool import OK, read_pool
from builder.store.labels import checked_table, parse_label
from builder.store.manifest import Manifest
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.media import ShardImage, images_of
from teachers.errors import warn

BLOCK = 20_000
"""Rows that are turned into objects at a time, rounded up to whole images."""
MEMORY = "512MB"
"""Of DuckDB; beyond it, it goes to disk."""
FIELDS = ("key", "name", "sha256", "path", "width", "height", "state", "shard", "why", "likely")
POOL = ("key", "name", "sha256", "uri", "offset", "bytes", "mtime_ns", "width", "height", "state")
OPTIONAL = ("source", "agree", "quality", "uncertainty", "rle", "pixels")
"""Columns of labels.parquet that not every version has."""


def pictures(
    store: Store,
    version: Version,
    files: Mapping[str, Path],
    limit: int | None = None,
) -> Iterator[list[Picture]]:
    """The images of a version in the order of its shards, then those that were left out, in blocks.

    files: image files by key (builder.versions.media.extracted). limit: so many images, evenly spread. Raises
    BuildError if shards or labels cannot be read.
    """
    manifest = version.manifest
    evidence, total = Evidence(manifest), manifest.distinct
    shown: Iterable[ShardImage] = images_of(version)
    if limit is not None and limit < total:
        shown = (image for n, image in enumerate(shown) if n * limit // total != (n - 1) * limit // total)
    try:
        with _joined() as sql:
            _put(sql, (_media(image, files, manifest) for image in shown))
            _put_left_out(sql, store, version, limit)
            for rows, columns in _blocks(sql, checked_table(version)):
                yield pictures_of(rows, columns, evidence)
    except (duckdb.Error, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise BuildError(f"{version.folder} cannot be shown ({reason}): run `tutelage verify` on it") from None


def _media(image: ShardImage, files: Mapping[str, Path], manifest: Manifest) -> Media:
    path, likely = str(files[image.key].absolute()), None
    if kind_of(manifest.kind).single:
        label = parse_label(image.label.read(), image.label.file, image.key, manifest)
        places = label.get("top_label", range(len(manifest.classes)))
        likely = likeliest(manifest.classes, places, label.get("top_probability") or label["probabilities"])
    return Media(
        image.key, image.name, image.sha256, path, image.width, image.height, WRITTEN, image.shard, likely=likely
    )


@contextmanager
def _joined() -> Iterator[duckdb.DuckDBPyConnection]:
    with tempfile.TemporaryDirectory() as spill:
        config: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": spill}
        with duckdb.connect(f"{spill}/images.duckdb", config=config) as sql:
            columns = ", ".join(f"{f} {'INTEGER' if f in ('width', 'height') else 'VARCHAR'}" for f in FIELDS)
            sql.execute("CREATE SEQUENCE place MINVALUE 0 START 0")
            sql.execute(f"CREATE TABLE images (position BIGINT DEFAULT nextval('place'), {columns})")
            yield sql


def _put(sql: duckdb.DuckDBPyConnection, media: Iterable[Media]) -> None:
    rest = iter(media)
    while batch := list(islice(rest, BLOCK)):
        types = {name: pa.int32() if name in ("width", "height") else pa.string() for name in FIELDS}
        table = pa.table({name: pa.array([getattr(m, name) for m in batch], types[name]) for name in FIELDS})
        sql.register("batch", table)
        sql.execute(f"INSERT INTO images ({', '.join(FIELDS)}) SELECT {', '.join(FIELDS)} FROM batch")
        sql.unregister("batch")


def _put_left_out(sql: duckdb.DuckDBPyConnection, store: Store, version: Version, limit: int | None) -> None:
    """Images that are in no shard, from where the pool was scanned, as far as they are there, unchanged."""
    manifest = version.manifest
    left_out = read_left_out(version.left_out) if version.left_out.is_file() else None
    try:
        pool = read_pool(store, manifest.provenance.inputs.pool)
    except BuildError:
        return
    if not left_out and not manifest.images.get(EMPTY):
        return
    why = left_out.why if left_out else {}
    states = left_out.states if left_out else {}
    labels = _quoted(version.labels)
    room, remote = limit, False
    for table in pool.tables(POOL):
        rows = [row for row in table.to_pylist() if row["state"] == OK and row["offset"] == 0]
        sql.register("listed", pa.table({"key": pa.array([row["key"] for row in rows], pa.string())}))
        # an image of which nothing was predicted is not told from one that the teacher could not read
        kept = f"(SELECT key FROM {labels} WHERE outcome = 'kept')"
        query = f"FROM listed ANTI JOIN {kept} USING (key) SEMI JOIN {labels} USING (key)"
        dropped = (
            {key for (key,) in sql.execute(f"SELECT key {query}").fetchall()} if manifest.images.get(EMPTY) else ()
        )
        sql.unregister("listed")
        wanted = [row for row in rows if row["sha256"] in states or row["key"] in dropped]
        remote = remote or any(is_remote(row["uri"]) for row in wanted)
        present = [
            r | {"state": states.get(r["sha256"], EMPTY), "path": r["uri"], "why": why.get(r["sha256"])}
            for r in wanted
            if _is_unchanged(r)
        ][:room]
        room = None if room is None else room - len(present)
        _put(sql, (Media(**{name: row.get(name) for name in FIELDS}) for row in present))
    if remote:
        warn(f"images that {version.ref} left out lie in {pool.source}, and are not shown: FiftyOne shows files only")


def _is_unchanged(row: Mapping[str, Any]) -> bool:
    if is_remote(row["uri"]):
        return False
    try:
        status = os.stat(row["uri"])
    except OSError:
        return False
    return (status.st_size, mtime_of(status)) == (row["bytes"], row["mtime_ns"])


def _quoted(path: Path) -> str:
    """A file as DuckDB reads it, whatever is in its name."""
    return "read_parquet('" + glob.escape(str(path)).replace("'", "''") + "', file_row_number = true)"


def _blocks(sql: duckdb.DuckDBPyConnection, labels: Path) -> Iterator[tuple[list[Media], Columns]]:
    """All images with their rows, in blocks of whole images."""
    source = _quoted(labels)
    known = {row[0] for row in sql.execute(f"DESCRIBE FROM {source}").fetchall()}
    optional = [name for name in OPTIONAL if name in known]
    if "agree" in known and not sql.sql(f"SELECT count(agree) FROM {source}").fetchall()[0][0]:
        optional.remove("agree")  # one teacher alone
    names = ["label", "score", "calibrated", "x1", "y1", "x2", "y2", "outcome", "reason", *optional]
    columns = {name: f"l.{name}" if name in known else f"NULL AS {name}" for name in names}
    columns |= {"agree": "nullif(l.agree, 0) AS agree"} if "agree" in optional else {}  # 0: a person's own
    chosen = ", ".join(columns.values())
    fields = ", ".join(f"i.{name} AS image_{name}" for name in FIELDS)
    query = f"""
        SELECT i.position, {fields}, {chosen}, l.key IS NOT NULL AS real
        FROM images i LEFT JOIN {source} l USING (key) ORDER BY i.position, l.file_row_number
    """
    waiting: list[pa.Table] = []
    for batch in sql.sql(query).to_arrow_reader(BLOCK):
        table = pa.Table.from_batches([batch])
        place = table["position"].to_numpy()
        whole = int(np.searchsorted(place, place[-1])) if len(place) else 0
        waiting.append(table.slice(0, whole))
        if whole:
            yield _columns(pa.concat_tables(waiting), optional)
            waiting = []
        waiting.append(table.slice(whole))
    if any(table.num_rows for table in waiting):
        yield _columns(pa.concat_tables(waiting), optional)


def _columns(table: pa.Table, optional: Sequence[str]) -> tuple[list[Media], Columns]:
    place = table["position"].to_numpy()
    first = np.r_[True, place[1:] != place[:-1]]
    heads = table.filter(pa.array(first))
    media = [Media(*row) for row in zip(*(heads[f"image_{name}"].to_pylist() for name in FIELDS), strict=True)]
    real = table["real"].to_numpy()
    image = (np.cumsum(first) - 1)[real]
    rows = table.filter(pa.array(real))
    score, calibrated = rows["score"].to_numpy(), None
    if rows["calibrated"].null_count < len(rows):  # an object that a person added has none of its own
        calibrated = pc.coalesce(rows["calibrated"].cast(pa.float32()), rows["score"]).to_numpy()
    return media, Columns(
        image,
        rows["label"].to_numpy(),
        score,
        calibrated,
        np.stack([rows[side].to_numpy() for side in ("x1", "y1", "x2", "y2")], axis=1),
        rows["outcome"].to_numpy(zero_copy_only=False),
        rows["reason"].to_numpy(zero_copy_only=False),
        {name: rows[name].to_pylist() for name in optional},
    )

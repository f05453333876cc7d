"""What there is to see of a version: its images with everything the teacher said of them, what became of it and why.

Images of the shards, and those that were left out and are still where they came from. Rows are joined with images in
DuckDB, which spills to disk: memory does not grow with the version. Labelled images: builder.browse_truth.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builder import BuildError
from builder.left_out import FILE as LEFT_OUT
from builder.left_out import read_left_out
from builder.manifest import Manifest
from builder.media import ShardImage, images_of
from builder.pool import OK, read_pool
from builder.quality import groups, limits
from builder.samples import EMPTY, WRITTEN
from builder.store import Store

BLOCK = 20_000
"""Rows that are turned into objects at a time, rounded up to whole images."""
MEMORY = "512MB"
"""Of DuckDB; beyond it, it goes to disk."""
FIELDS = ("key", "name", "sha256", "path", "width", "height", "state", "shard", "why")
POOL = ("key", "name", "sha256", "uri", "offset", "bytes", "mtime_ns", "width", "height", "state")
OPTIONAL = ("source", "agree", "uncertainty")
"""Columns of labels.parquet that not every version has."""


@dataclass(frozen=True)
class Media:
    """An image file. state: written (it is in a shard), empty, near_duplicate or leak (left out), or truth; why: what
    left it out. width, height: upright pixels."""

    key: str
    name: str
    sha256: str
    path: str
    width: int
    height: int
    state: str
    shard: str | None = None
    why: str | None = None


@dataclass(frozen=True)
class Objects:
    """The raw objects of one image, a list a column. box: xywh, shares of the image's sides; outcome, reason: see
    builder.rules; optional: of OPTIONAL, those that the version has."""

    label: list[str]
    box: list[list[float]]
    score: list[float]
    calibrated: list[float] | None
    outcome: list[str]
    reason: list[str]
    optional: Mapping[str, list[Any]]


@dataclass(frozen=True)
class Picture:
    """An image with its objects. reasons: why objects are not kept; highest: score of all objects; lowest: of the kept
    ones; expected_precision: of the kept ones, mean calibrated score, else what certification saw of their groups;
    distance: of the object closest to its threshold, in score; agreement: the lowest of any object."""

    media: Media
    objects: Objects
    reasons: list[str]
    highest: float | None
    lowest: float | None
    expected_precision: float | None
    distance: float | None
    agreement: float | None


@dataclass(frozen=True)
class Columns:
    """Raw objects of several images. image: int64 (N,), position of each one's image, not falling; label: int16 (N,);
    score, calibrated: float32 (N,); boxes: float32 (N, 4), xyxy pixels; outcome, reason: N strings."""

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    calibrated: np.ndarray | None
    boxes: np.ndarray
    outcome: np.ndarray
    reason: np.ndarray
    optional: Mapping[str, list[Any]]


class Evidence:
    """What a version's manifest says of its classes. classes: names; threshold: float64 (C,), NaN where nothing is
    kept; precision: float64 (C,), right by kept on the certify half, NaN where that is not known."""

    def __init__(self, manifest: Manifest) -> None:
        self.classes = np.array(manifest.classes, object)
        self.threshold, _ = limits(manifest)
        seen = {
            name: group.correct / group.kept
            for group in groups(manifest)
            if group.certified and group.kept and group.correct is not None
            for name in group.classes
        }
        self.precision = np.array([seen.get(name, np.nan) for name in manifest.classes])


def pictures(
    store: Store,
    folder: Path,
    manifest: Manifest,
    files: Mapping[str, Path],
    images: Iterable[ShardImage] | None = None,
    limit: int | None = None,
) -> Iterator[list[Picture]]:
    """The images of a version in the order of its shards, then those that were left out, in blocks.

    files: image files by key (builder.media.extracted). limit: so many images, evenly spread. Raises BuildError if
    shards or labels cannot be read.
    """
    evidence = Evidence(manifest)
    total = manifest.samples - len(manifest.tombstones)
    shown = images_of(folder, manifest) if images is None else images
    if limit is not None and limit < total:
        shown = (image for n, image in enumerate(shown) if n * limit // total != (n - 1) * limit // total)
    try:
        with _joined() as sql:
            _put(sql, (_media(image, files) for image in shown))
            _put_left_out(sql, store, folder, manifest, limit)
            for rows, columns in _blocks(sql, folder / "labels.parquet"):
                yield pictures_of(rows, columns, evidence)
    except (duckdb.Error, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise BuildError(f"{folder} cannot be shown ({reason}): run `tutelage verify` on it") from None


def pictures_of(media: Sequence[Media], columns: Columns, evidence: Evidence) -> list[Picture]:
    """Images with their objects, and what is to be said of each."""
    count, image = len(media), columns.image
    kept = columns.outcome == "kept"
    highest, lowest = (
        _extreme(np.fmax, image, columns.score, count),
        _extreme(np.fmin, image[kept], columns.score[kept], count),
    )
    confidence = columns.score if columns.calibrated is None else columns.calibrated
    near = kept | (columns.reason == "ignore_band")
    margin = np.abs(confidence[near] - evidence.threshold[columns.label[near]])
    distance = _extreme(np.fmin, image[near], margin, count)
    expected = evidence.precision[columns.label[kept]] if columns.calibrated is None else columns.calibrated[kept]
    numbers = np.bincount(image[kept], minlength=count)
    with np.errstate(invalid="ignore"):
        precision = np.bincount(image[kept], expected, minlength=count) / numbers
    agree = columns.optional.get("agree")
    agreement = _extreme(np.fmin, image, np.array(agree, float), count) if agree else np.full(count, np.nan)
    summary = zip(*(_listed(v) for v in (highest, lowest, precision, distance, agreement)), strict=True)
    return [
        Picture(one, objects, sorted({r for r in objects.reason if r != "kept"}), *figures)
        for one, objects, figures in zip(media, _objects(media, columns, evidence.classes), summary, strict=True)
    ]


def _extreme(how: np.ufunc, image: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    found = np.full(count, np.nan)
    how.at(found, image, values)
    return found


def _listed(values: np.ndarray) -> list[float | None]:
    return [value if value == value else None for value in values.tolist()]


def _objects(media: Sequence[Media], columns: Columns, classes: np.ndarray) -> Iterator[Objects]:
    """The columns image by image. Lists are made of all at once: far quicker than of each image."""
    sides = np.array([(one.width, one.height) for one in media], np.float64).reshape(-1, 2)[columns.image]
    corner, size = columns.boxes[:, :2] / sides, (columns.boxes[:, 2:] - columns.boxes[:, :2]) / sides
    label, box = classes[columns.label].tolist(), np.concatenate([corner, size], axis=1).tolist()
    score, calibrated = columns.score.tolist(), None if columns.calibrated is None else columns.calibrated.tolist()
    outcome, reason = columns.outcome.tolist(), columns.reason.tolist()
    for a, b in pairwise(np.searchsorted(columns.image, np.arange(len(media) + 1)).tolist()):
        optional = {name: values[a:b] for name, values in columns.optional.items()}
        own = None if calibrated is None else calibrated[a:b]
        yield Objects(label[a:b], box[a:b], score[a:b], own, outcome[a:b], reason[a:b], optional)


def _media(image: ShardImage, files: Mapping[str, Path]) -> Media:
    path = str(files[image.key].absolute())
    return Media(image.key, image.name, image.sha256, path, image.width, image.height, WRITTEN, image.shard.name)


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


def _put_left_out(
    sql: duckdb.DuckDBPyConnection, store: Store, folder: Path, manifest: Manifest, limit: int | None
) -> None:
    """Images that are in no shard, from where the pool was scanned, as far as they are there, unchanged."""
    path = folder / LEFT_OUT
    left_out = read_left_out(path) if path.is_file() else None
    try:
        pool = read_pool(store, (manifest.provenance.get("inputs") or {}).get("pool", ""))
    except BuildError:
        return
    if not left_out and not manifest.images.get(EMPTY):
        return
    why = {**left_out.near_duplicates, **left_out.leaks} if left_out else {}
    states = left_out.states if left_out else {}
    labels = _quoted(folder / "labels.parquet")
    room = limit
    for table in pool.tables(POOL):
        rows = [row for row in table.to_pylist() if row["state"] == OK and row["offset"] == 0]
        sql.register("listed", pa.table({"key": pa.array([row["key"] for row in rows], pa.string())}))
        # an image of which nothing was predicted is not told from one that the teacher could not read
        query = f"FROM listed ANTI JOIN images USING (key) SEMI JOIN {labels} USING (key)"
        dropped = (
            {key for (key,) in sql.execute(f"SELECT key {query}").fetchall()} if manifest.images.get(EMPTY) else ()
        )
        sql.unregister("listed")
        found = [
            r | {"state": states.get(r["sha256"], EMPTY), "path": r["uri"], "why": why.get(r["sha256"])}
            for r in rows
            if (r["sha256"] in states or r["key"] in dropped) and _is_unchanged(r)
        ][:room]
        room = None if room is None else room - len(found)
        _put(sql, (Media(**{name: row.get(name) for name in FIELDS}) for row in found))


def _is_unchanged(row: Mapping[str, Any]) -> bool:
    try:
        status = os.stat(row["uri"])
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (row["bytes"], row["mtime_ns"])


def _quoted(path: Path) -> str:
    """A file as DuckDB reads it, whatever is in its name."""
    return "read_parquet('" + glob.escape(str(path)).replace("'", "''") + "', file_row_number = true)"


def _blocks(sql: duckdb.DuckDBPyConnection, labels: Path) -> Iterator[tuple[list[Media], Columns]]:
    """All images with their rows, in blocks of whole images."""
    source = _quoted(labels)
    known = {row[0] for row in sql.execute(f"DESCRIBE FROM {source}").fetchall()}
    optional = [name for name in OPTIONAL if name in known]
    names = ["label", "score", "calibrated", "x1", "y1", "x2", "y2", "outcome", "reason", *optional]
    chosen = ", ".join(f"l.{name}" if name in known else f"NULL AS {name}" for name in names)
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

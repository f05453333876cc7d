"""Scan a source of images into a pool: a stable, hashed list with safe keys, cut into chunks.

A re-scan reads only files whose size or time changed, keeps every old chunk as it was and appends new images in new
chunks; images that are gone stay as rows with state `removed`, so that a chunk's digest, and with it the teacher's work
on it, never changes.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from builder import BuildError
from builder.engine import Track, default_workers, silent
from builder.files import canonical_json, digest, locked, new_file, write_file
from builder.sources import Entry, list_source, read_entry
from builder.store import Store
from teachers.images import ImageError, read_header

CHUNK_SIZE = 512
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("name", pa.string()),
        ("sha256", pa.string()),
        ("uri", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("orientation", pa.int8()),
        ("chunk", pa.int32()),
        ("state", pa.string()),
        ("error", pa.string()),
    ]
)
OK, UNREADABLE, DUPLICATE, REMOVED = "ok", "unreadable", "duplicate", "removed"


@dataclass(frozen=True)
class PoolImage:
    """One row of a pool.

    key: name in shards. name: path relative to the source, NFC. sha256: hex, of the bytes as they came ("" if not
    readable). uri, offset, bytes, mtime_ns: the file, and where in it (a tar member starts past 0). width, height:
    upright pixels (0 if unreadable). format: extension of teachers.images.FORMATS. orientation: EXIF. chunk: -1 outside
    all chunks. state: ok, unreadable (with error), duplicate (of an earlier sha256) or removed.
    """

    key: str
    name: str
    sha256: str
    uri: str
    offset: int
    bytes: int
    mtime_ns: int
    width: int = 0
    height: int = 0
    format: str = ""
    orientation: int = 1
    chunk: int = -1
    state: str = OK
    error: str = ""

    @property
    def entry(self) -> Entry:
        return Entry(self.name, self.uri, self.offset, self.bytes, self.mtime_ns)


@dataclass(frozen=True)
class Chunk:
    """The unit of labelling and of resume. `digest`: SHA-256 over the images' SHA-256s in order."""

    index: int
    digest: str
    images: tuple[PoolImage, ...]


@dataclass(frozen=True)
class Pool:
    """A scanned pool. `images` are in order of chunks; those outside all chunks come last."""

    id: str
    source: str
    images: Sequence[PoolImage]

    def chunks(self) -> Iterator[Chunk]:
        for index, group in groupby((i for i in self.images if i.chunk >= 0), key=lambda image: image.chunk):
            images = tuple(group)
            yield Chunk(index, hashlib.sha256("\n".join(i.sha256 for i in images).encode()).hexdigest(), images)

    def count(self, state: str) -> int:
        return sum(image.state == state for image in self.images)


def make_key(name: str) -> str:
    """The shard key of an image: a slug of its relative path, `-`, 12 hex of the SHA-256 of that path (NFC).

    Only `[A-Za-z0-9_/-]`, at most 90 characters, no doubled `_` or `/` (webdataset skips members named `__x__/…`).
    """
    name = unicodedata.normalize("NFC", name)
    suffix = hashlib.sha256(name.encode()).hexdigest()[:12]
    stem = name.rpartition(".")[0] or name
    slug = re.sub(r"_*/[_/]*", "/", re.sub(r"[^A-Za-z0-9/-]+", "_", stem))[-77:].strip("/-_")
    return f"{slug or 'image'}-{suffix}"


def scan(
    source: str,
    store: Store,
    *,
    images: Path | None = None,
    limit: int | None = None,
    chunk_size: int = CHUNK_SIZE,
    workers: int | None = None,
    track: Track = silent,
) -> Pool:
    """Read a source (folder, glob, list, COCO JSON, tars) into the store's pools and return the pool.

    `images`: where a COCO JSON's files lie. `limit`: only that many images, those with the smallest hash of their name:
    an unbiased sample, nested for growing limits, with an id of its own. `chunk_size`: images in a
    new chunk. Raises BuildError for an empty source.
    """
    entries = limited(list_source(source, images, store.root), limit)
    if not entries:
        raise BuildError(f"no images in {source}: give a folder, a glob, a list (.txt), a COCO JSON or tars")
    scanned = {"source": os.path.abspath(source), "images": images and os.path.abspath(images), "limit": limit}
    pointer = store.pools / "sources" / f"{digest(scanned)}.json"
    before = _before(store, pointer)
    known = {(i.uri, i.offset): i for i in before if i.state in (OK, UNREADABLE) and i.sha256}
    rows: list[PoolImage] = []
    with track("scan", len(entries)) as advance, ThreadPoolExecutor(workers or default_workers()) as threads:
        for row in threads.map(partial(_row, known=known), entries):
            rows.append(row)
            advance(1)
    ordered = _into_chunks(rows, before, chunk_size)
    pool = Pool(digest([[i.key, i.sha256, i.chunk, i.state] for i in ordered]), source, ordered)
    with locked(store.pools / ".lock", "the pools", sweep=[store.pools / pool.id, pointer.parent], wait=True):
        _write(store, pool)
        write_file(pointer, canonical_json({**scanned, "pool": pool.id}))
    return pool


def limited(entries: list[Entry], limit: int | None) -> list[Entry]:
    """The `limit` entries with the smallest hash of their name, in order; all without a limit."""
    if limit is None:
        return entries
    return sorted(sorted(entries, key=lambda entry: hashlib.sha256(entry.name.encode()).digest())[:limit])


def _before(store: Store, pointer: Path) -> Sequence[PoolImage]:
    """What the last scan of this source found; nothing if there was none, or its pool is damaged."""
    try:
        return read_pool(store, orjson.loads(pointer.read_bytes())["pool"]).images
    except (FileNotFoundError, BuildError):
        return ()


def _row(entry: Entry, known: Mapping[tuple[str, int], PoolImage]) -> PoolImage:
    old = known.get((entry.uri, entry.offset))
    if old and (old.name, old.bytes, old.mtime_ns) == (entry.name, entry.bytes, entry.mtime_ns):
        return old
    row = PoolImage(make_key(entry.name), **asdict(entry), sha256="")
    try:
        data = read_entry(entry)
    except OSError as error:
        return replace(row, state=UNREADABLE, error=error.strerror or str(error))
    row = replace(row, sha256=hashlib.sha256(data).hexdigest())
    try:
        head = read_header(data)
    except ImageError as error:
        return replace(row, state=UNREADABLE, error=str(error))
    return replace(row, width=head.width, height=head.height, format=head.format, orientation=head.orientation)


def _into_chunks(rows: Sequence[PoolImage], before: Sequence[PoolImage], chunk_size: int) -> list[PoolImage]:
    """Old chunks in their old order (gone images as `removed`), then new images in new chunks, then the chunkless."""
    first: dict[str, PoolImage] = {}
    rest: list[PoolImage] = []
    previous = {image.sha256: image.key for image in before if image.chunk >= 0 and image.state != REMOVED}
    for row in sorted(rows, key=lambda r: (previous.get(r.sha256) != r.key, r.name)):  # a known holder stays the holder
        if not row.sha256 or (row.sha256 in first and row.state == UNREADABLE):
            rest.append(replace(row, chunk=-1))
        elif row.sha256 in first:
            rest.append(replace(row, chunk=-1, state=DUPLICATE, error=f"same bytes as {first[row.sha256].name}"))
        else:
            first[row.sha256] = row
    ordered: list[PoolImage] = []
    for old in before:
        if old.chunk >= 0:
            now = first.pop(old.sha256, None)
            ordered.append(replace(now, chunk=old.chunk) if now else replace(old, state=REMOVED, error=""))
    start = ordered[-1].chunk + 1 if ordered else 0
    new = sorted(first.values(), key=lambda row: row.name)
    ordered += (replace(row, chunk=start + n // chunk_size) for n, row in enumerate(new))
    return ordered + sorted(rest, key=lambda row: row.name)


def _write(store: Store, pool: Pool) -> None:
    folder = store.pools / pool.id
    columns = {name: [getattr(image, name) for image in pool.images] for name in SCHEMA.names}
    table = pa.table(columns, schema=SCHEMA.with_metadata({"source": pool.source}))
    with new_file(folder / "pool.parquet") as file:
        pq.write_table(table, file, compression="zstd")


def read_pool(store: Store, id: str) -> Pool:
    """The pool of this full id. Raises BuildError if it is not in the store or damaged."""
    path = store.pools / id / "pool.parquet"
    try:
        table = pq.read_table(path, partitioning=None)
        columns = [table[name].to_pylist() for name in SCHEMA.names]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise BuildError(f"pool {id[:12]} cannot be read ({error}): scan its source again") from None
    source = (table.schema.metadata or {}).get(b"source", b"").decode()
    return Pool(id, source, [PoolImage(*row) for row in zip(*columns, strict=True)])


def describe(pool: Pool) -> dict[str, Any]:
    """Counts of a pool, and of what cannot be used of it, with the first few reasons."""
    errors = [f"{image.name}: {image.error}" for image in pool.images if image.state == UNREADABLE]
    counts = {state: pool.count(state) for state in (OK, UNREADABLE, DUPLICATE, REMOVED)}
    value = {
        "pool": pool.id,
        "source": pool.source,
        "images": len(pool.images),
        "chunks": sum(1 for _ in pool.chunks()),
    }
    return value | counts | ({"errors": errors[:20]} if errors else {})


def find_pool(store: Store, name: str) -> Pool:
    """A pool by id prefix, or by the source it was scanned from."""
    matches = store.match(store.pools, name)
    if len(matches) == 1:
        return read_pool(store, matches[0])
    if len(matches) > 1:
        raise BuildError(f"pool {name!r} is ambiguous ({', '.join(m[:12] for m in matches)}): give more of the id")
    pointers = [orjson.loads(path.read_bytes()) for path in sorted((store.pools / "sources").glob("*.json"))]
    scans = [pointer for pointer in pointers if pointer["source"] == os.path.abspath(name)]
    scans = [pointer for pointer in scans if pointer["limit"] is None] or scans
    if len(scans) == 1:
        return read_pool(store, scans[0]["pool"])
    if scans:
        raise BuildError(
            f"{name!r} was scanned in several ways: give one of {', '.join(s['pool'][:12] for s in scans)}"
        )
    raise BuildError(f"no pool {name!r} in {store.root}: run `tutelage scan {name}` first")

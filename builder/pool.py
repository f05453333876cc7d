"""Scan a source of images into a pool: a stable, hashed list with safe keys, cut into chunks.

A re-scan reads only files whose size or time changed, keeps every old chunk as it was and appends new images in new
chunks; images that are gone stay as rows with state `removed`, so that a chunk's digest, and with it the teacher's work
on it, never changes. A pool is a file that is read as a stream: memory does not grow with the number of its images.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from builder import BuildError
from builder.census import DUPLICATE as DUPLICATE
from builder.census import FIELDS, Census, Row
from builder.census import OK as OK
from builder.census import REMOVED as REMOVED
from builder.census import UNREADABLE as UNREADABLE
from builder.dhash import dhash
from builder.engine import Track, default_workers, in_order, silent
from builder.files import canonical_json, digest, locked, new_file, write_file
from builder.sources import Entry, list_source, read_entry
from builder.store import Store
from teachers.images import ImageError, read_header

CHUNK_SIZE = 512
ROWS = 4096
"""Rows, at least, in a row group of pool.parquet, which holds whole chunks: what is read at a time."""
NUMBERS = {"orientation": pa.int8(), "width": pa.int32(), "height": pa.int32(), "chunk": pa.int32()}
NUMBERS |= dict.fromkeys(("offset", "bytes", "mtime_ns"), pa.int64())
SCHEMA = pa.schema([(name, NUMBERS.get(name, pa.string())) for name in FIELDS])
SUMMARY = "summary"
"""Where the file's own metadata keep what is said about chunks, formats and counts, as JSON."""


class ImageChanged(BuildError):
    """An image is no longer what was scanned. reason: why, without the image's name."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class PoolImage:
    """One row of a pool.

    key: name in shards. name: path relative to the source, NFC. sha256: hex, of the bytes as they came ("" if not
    readable). uri, offset, bytes, mtime_ns: the file, and where in it (a tar member starts past 0). width, height:
    upright pixels (0 if unreadable). format: extension of teachers.images.FORMATS. orientation: EXIF. dhash: hex, see
    builder.dhash ("" if there is none). chunk: -1 outside all chunks. state: ok, unreadable (with error), duplicate (of
    an earlier sha256) or removed.
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
    dhash: str = ""
    chunk: int = -1
    state: str = OK
    error: str = ""

    def read(self) -> builtins.bytes:
        """The image's bytes, as they were scanned. The hash is computed again only if the file's size or time is not
        that of the scan. Raises ImageChanged."""
        try:
            with open(self.uri, "rb", buffering=0) as file:  # unbuffered: half the time of opening a small file
                status = os.fstat(file.fileno())
                data = os.pread(file.fileno(), self.bytes, self.offset)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ImageChanged(
                f"image {self.uri} can no longer be read ({reason}): restore it, or scan again", reason
            ) from None
        same_time = status.st_mtime_ns == self.mtime_ns
        same_size = len(data) == self.bytes and self.offset + self.bytes <= status.st_size
        if self.offset == 0:  # a whole file; a tar's members start behind a header
            same_size = status.st_size == self.bytes
        if not same_size or (not same_time and hashlib.sha256(data).hexdigest() != self.sha256):
            raise ImageChanged(
                f"image {self.uri} changed since it was scanned: scan its source again",
                "changed since it was scanned: scan again",
            )
        return data


@dataclass(frozen=True)
class Chunk:
    """The unit of labelling and of resume. `digest`: SHA-256 over the images' SHA-256s in order. `rows`: SCHEMA."""

    index: int
    digest: str
    rows: pa.Table

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @cached_property
    def images(self) -> tuple[PoolImage, ...]:
        return tuple(_images(self.rows))


@dataclass(frozen=True)
class ChunkFacts:
    """What is known of a chunk without reading it. images: removed ones included. bytes: of all its images' files."""

    digest: str
    images: int
    bytes: int


@dataclass(frozen=True)
class Pool:
    """A scanned pool: a handle on `path`, whose rows are in order of chunks; those outside all chunks come last.

    counts: images by state. index: of each chunk, in order. formats: of the readable images, removed ones left out:
    (format, whether the EXIF orientation is another than 1). lost: unreadable images that are in no chunk.
    """

    id: str
    source: str
    path: Path
    counts: Mapping[str, int]
    index: tuple[ChunkFacts, ...] = field(repr=False)
    formats: frozenset[tuple[str, bool]]
    lost: int

    def __len__(self) -> int:
        return sum(self.counts.values())

    def count(self, state: str) -> int:
        return self.counts.get(state, 0)

    def chunks(self, first: int = 0, last: int | None = None) -> Iterator[Chunk]:
        """The chunks from `first` up to, but not including, `last`."""
        return self.pick(range(first, len(self.index) if last is None else min(last, len(self.index))))

    def pick(self, chunks: Iterable[int]) -> Iterator[Chunk]:
        """The chunks of these numbers, which rise."""
        starts = list(accumulate((facts.images for facts in self.index), initial=0))
        with self._opened() as file:
            groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            ends = list(accumulate(groups))
            group, rows = -1, SCHEMA.empty_table()
            for number in chunks:
                wanted = group
                while wanted < 0 or ends[wanted] <= starts[number]:
                    wanted += 1
                if wanted != group:
                    group, rows = wanted, self._group(file, wanted)
                place = starts[number] - (ends[group] - groups[group])
                facts = self.index[number]
                yield Chunk(number, facts.digest, rows.slice(place, facts.images))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows (these columns of them) in order, a few thousand at a time."""
        with self._opened() as file:
            for group in range(file.num_row_groups):
                yield self._group(file, group, columns)

    def images(self) -> Iterator[PoolImage]:
        """All rows in order."""
        for table in self.tables():
            yield from _images(table)

    def _opened(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.id, error) from None

    def _group(self, file: pq.ParquetFile, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        try:
            return file.read_row_group(number, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.id, error) from None


def _images(table: pa.Table) -> Iterator[PoolImage]:
    return map(PoolImage, *(table[name].to_pylist() for name in FIELDS))


def _unreadable(id: str, error: object) -> BuildError:
    return BuildError(f"pool {id[:12]} cannot be read ({error}): scan its source again")


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
    new chunk. Raises BuildError for an empty source, or one in which two images share a name.
    """
    key = {"source": os.path.abspath(source), "images": images and os.path.abspath(images), "limit": limit}
    entries = list_source(source, images, store.root)
    return scan_entries(
        entries, key, store, source=source, limit=limit, chunk_size=chunk_size, workers=workers, track=track
    )


def scan_entries(
    entries: Iterable[Entry],
    pointer_key: Mapping[str, Any],
    store: Store,
    *,
    source: str,
    limit: int | None = None,
    chunk_size: int = CHUNK_SIZE,
    workers: int | None = None,
    track: Track = silent,
) -> Pool:
    """`scan` of the images that someone listed. `pointer_key`: JSON values that name the listing, so that the next scan
    with an equal key builds on this one; `source`: what to call it in messages."""
    pointer = store.pools / "sources" / f"{digest(pointer_key)}.json"
    workers = workers or default_workers()
    with store.in_use(), closing(Census()) as census:
        total = census.enlist(entries, source, limit)
        if not total:
            raise BuildError(f"no images in {source}: give a folder, a glob, a list (.txt), a COCO JSON or tars")
        before = _before(store, pointer, census)
        with track("scan", total) as advance:
            advance(census.known())
            for row in in_order(_row, census.unread(), workers, 4 * workers):
                census.add([row])
                advance(1)
        if before and before.source == source and census.is_unchanged():
            with _alone(store, before.path.parent, pointer):
                return before
        census.arrange(chunk_size)
        return _write(census, store, pointer, pointer_key, source)


def list_size(source: str, store: Store, images: Path | None = None, limit: int | None = None) -> tuple[int, int]:
    """How many images a scan would find, and their bytes; nothing is read of them. Raises BuildError as `scan` does."""
    with closing(Census()) as census:
        return census.enlist(list_source(source, images, store.root), source, limit), census.size


def _before(store: Store, pointer: Path, census: Census) -> Pool | None:
    """Tell the census what the last scan of this source found: nothing if there was none, or its pool is damaged. A
    pool without hashes, of an older Tutelage, keeps its chunks; its images are read again."""
    try:
        id = str(orjson.loads(pointer.read_bytes())["pool"])
        with pq.ParquetFile(store.pools / id / "pool.parquet") as file:
            old = "dhash" not in file.schema_arrow.names
            columns = [name for name in FIELDS if name != "dhash" or not old]
            parts = (file.read_row_group(n, columns=columns, use_threads=False) for n in range(file.num_row_groups))
            census.remember(chain.from_iterable(map(_rows, parts)))
    except (OSError, orjson.JSONDecodeError, pa.ArrowException, KeyError):
        census.forget()
        return None
    try:
        return read_pool(store, id)
    except BuildError:
        return None


def _rows(table: pa.Table) -> Iterator[Row]:
    none = [None] * table.num_rows
    return zip(*(table[name].to_pylist() if name in table.column_names else none for name in FIELDS), strict=True)


def _row(entry: Entry) -> Row:
    row = PoolImage(make_key(entry.name), **asdict(entry), sha256="")
    try:
        data = read_entry(entry)
    except OSError as error:
        return astuple(replace(row, state=UNREADABLE, error=error.strerror or str(error)))
    row = replace(row, sha256=hashlib.sha256(data).hexdigest())
    try:
        head = read_header(data)
    except ImageError as error:
        return astuple(replace(row, state=UNREADABLE, error=str(error)))
    size = replace(row, width=head.width, height=head.height, format=head.format, orientation=head.orientation)
    return astuple(replace(size, dhash=dhash(data, head.orientation)))


def _write(census: Census, store: Store, pointer: Path, pointer_key: Mapping[str, Any], source: str) -> Pool:
    id, summary = census.summary()
    folder = store.pools / id
    schema = SCHEMA.with_metadata({"source": source, SUMMARY: canonical_json(summary)})
    with _alone(store, folder, pointer):
        with (
            new_file(folder / "pool.parquet") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for rows in census.groups([images for _, images, _ in summary["chunks"]], ROWS):
                columns = dict(zip(FIELDS, zip(*rows, strict=True), strict=True))
                writer.write_table(pa.table(columns, schema=SCHEMA))
        write_file(pointer, canonical_json({**pointer_key, "pool": id}))
    return read_pool(store, id)


def _alone(store: Store, folder: Path, pointer: Path) -> AbstractContextManager[None]:
    return locked(store.pools / ".lock", "the pools", sweep=[folder, pointer.parent], wait=True)


def read_pool(store: Store, id: str) -> Pool:
    """The pool of this full id. Raises BuildError if it is not in the store or damaged."""
    path = store.pools / id / "pool.parquet"
    try:
        with pq.ParquetFile(path) as file:
            metadata, names = file.metadata.metadata or {}, file.schema_arrow.names
        if SUMMARY.encode() not in metadata or list(FIELDS) != names:
            raise _unreadable(id, "it is of another version of Tutelage")
        summary = orjson.loads(metadata[SUMMARY.encode()])
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(id, error) from None
    return Pool(
        id,
        metadata.get(b"source", b"").decode(),
        path,
        {state: summary["counts"].get(state, 0) for state in (OK, UNREADABLE, DUPLICATE, REMOVED)},
        tuple(ChunkFacts(*facts) for facts in summary["chunks"]),
        frozenset((format, rotated) for format, rotated in summary["formats"]),
        summary["lost"],
    )


def describe(pool: Pool) -> dict[str, Any]:
    """Counts of a pool, and of what cannot be used of it, with the first few reasons."""
    value: dict[str, Any] = {"pool": pool.id, "source": pool.source, "images": len(pool), "chunks": len(pool.index)}
    value |= pool.counts
    if pool.count(UNREADABLE):
        rows = (
            row
            for table in pool.tables(("name", "state", "error"))
            for row in zip(*(column.to_pylist() for column in table.columns), strict=True)
        )
        errors = (f"{name}: {error}" for name, state, error in rows if state == UNREADABLE)
        value["errors"] = list(islice(errors, 20))
    return value


def find_pool(store: Store, name: str) -> Pool:
    """A pool by id prefix, or by the source it was scanned from."""
    matches = store.match(store.pools, name)
    if len(matches) == 1:
        return read_pool(store, matches[0])
    if len(matches) > 1:
        raise BuildError(f"pool {name!r} is ambiguous ({', '.join(m[:12] for m in matches)}): give more of the id")
    pointers = [orjson.loads(path.read_bytes()) for path in sorted((store.pools / "sources").glob("*.json"))]
    scans = [pointer for pointer in pointers if pointer.get("source") == os.path.abspath(name)]
    scans = [pointer for pointer in scans if pointer.get("limit") is None] or scans
    if len(scans) == 1:
        return read_pool(store, scans[0]["pool"])
    if scans:
        raise BuildError(
            f"{name!r} was scanned in several ways: give one of {', '.join(s['pool'][:12] for s in scans)}"
        )
    raise BuildError(f"no pool {name!r} in {store.root}: run `tutelage scan {name}` first")

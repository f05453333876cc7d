"""Scan a source of images into a pool: a stable, hashed list with safe keys, cut into chunks.

A re-scan reads only files whose size or time changed, keeps every old chunk as it was and appends new images in new
chunks; images that are gone stay as rows with state `removed`, so that a chunk's digest, and with it the teacher's work
on it, never changes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from builder.buckets.address import absolute, is_remote
from builder.buckets.files import in_flight
from builder.cluster import Cluster
from builder.engine import Track, in_order, silent, worker_count
from builder.errors import BuildError
from builder.scan.census import ENTRY, Census, Row
from builder.scan.dhash import look
from builder.scan.entries import Entry, Listing, passed_over_text, read_entry
from builder.scan.image import AHEAD
from builder.scan.pool import (
    CHUNK_SIZE,
    COLUMNS,
    FILE,
    FILE_SCHEMA,
    ROWS,
    SUMMARY,
    UNREADABLE,
    OlderPool,
    Pool,
    PoolImage,
    pointer_path,
    read_pointer,
    read_pool,
)
from builder.scan.sources import list_source
from builder.store.files import canonical_json, locked, seal, write_file
from builder.store.keys import make_key
from builder.store.store import Store, check_store
from builder.store.sums import new_summed_file
from teachers.images import ImageError, check_pixels, read_header
from teachers.limits import MAX_BYTES, MAX_PIXELS, MAX_SIDE

GROUP = 64
"""Images that a process of a cluster reads at a time."""
READER = 1
"""Raised when images are read in another way than by an older scan."""


def scan_pool(
    source: Path | str,
    store: Store,
    *,
    images: Path | str | None = None,
    limit: int | None = None,
    member: str | None = None,
    max_pixels: int = MAX_PIXELS,
    chunk_size: int = CHUNK_SIZE,
    workers: int | None = None,
    track: Track = silent,
    cluster: Cluster | None = None,
) -> Pool:
    """Read a source of images into the store's pools. Files that have not changed since the last scan are not read.

    Args:
        source: a folder, a glob, a list (.txt), a COCO JSON or tars, as a path or as an address (s3://BUCKET/PREFIX).
        store: where the pool is put.
        images: the folder of a COCO JSON's files, where it is elsewhere.
        limit: only that many images, those with the smallest hash of their name: an unbiased sample, nested for growing
            limits, as a pool of its own.
        member: which member of a sample in a tar is the image, by its extension (`jpg`, `image.png`), or `all` images;
            recognised by default.
        max_pixels: an image with more is unreadable; nothing of it is decoded.
        chunk_size: images in a new chunk.
        workers: threads that read; all cores by default, and as many as the network bears (builder.buckets.files) of
            remote files. They change nothing in the pool.
        track: shows how far it is (builder.engine.Track).
        cluster: whose nodes read the images, in place of this machine's threads; they change nothing in the pool.

    Returns:
        The pool. Its id is a hash of the images and their order.

    Raises:
        BuildError: for a source that is missing, empty or of no known kind, or in which two images share a name; for
            a tar that is cut, or in which nobody can tell which members are images; for a limit, number of pixels,
            chunk size or number of workers below 1.
    """
    check_store(store)
    source = os.fspath(source)
    listing = Listing(member)
    return scan_entries(
        list_source(source, images, store.root, listing),
        _pointer_key(source, images, limit, member),
        store,
        source=source,
        limit=limit,
        max_pixels=max_pixels,
        passed_over=listing.passed_over,
        chunk_size=chunk_size,
        workers=workers,
        track=track,
        cluster=cluster,
    )


def scan_entries(
    entries: Iterable[Entry],
    pointer_key: Mapping[str, Any],
    store: Store,
    *,
    source: str,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    passed_over: Mapping[str, int] | None = None,
    chunk_size: int = CHUNK_SIZE,
    workers: int | None = None,
    track: Track = silent,
    cluster: Cluster | None = None,
) -> Pool:
    """`scan` of the images that someone listed. `pointer_key`: JSON values that name the listing, so that the next scan
    with an equal key builds on this one; `source`: what to call it in messages; `passed_over`: what the listing counts
    while `entries` are taken."""
    for name, value in (("limit", limit), ("max_pixels", max_pixels), ("chunk_size", chunk_size)):
        if value is not None and value < 1:
            raise BuildError(f"{name} = {value}: give at least 1")
    pointer = pointer_path(store, pointer_key)
    threads = worker_count(workers)
    with store.in_use(), closing(Census(max_pixels)) as census:
        total = census.enlist(entries, source, limit)
        if census.is_remote:
            threads = in_flight(workers)
        others = dict(sorted((passed_over or {}).items()))
        if not total:
            raise _no_images(source, others)
        before, damaged = _before(store, pointer, census)
        with track("scan", total) as advance:
            advance(census.known())
            for row in _read(partial(_row, max_pixels), census.unread(), threads, cluster):
                census.add([row])
                advance(1)
        if before and (before.source, before.passed_over) == (source, others) and census.is_unchanged():
            with _alone(store, before.path.parent, pointer):
                return before
        census.arrange(chunk_size)
        id, summary = census.summary()
        if damaged and damaged != id:
            raise BuildError(
                f"pool {damaged[:12]} of {source} is damaged, and its images or their chunks are others by now, so "
                f"that it cannot be made again: restore {store.pools / damaged} from a copy, or remove that folder to "
                "scan from the beginning"
            )
        return _write(
            census, id, {**summary, "passed_over": others, "reader": READER}, store, pointer, pointer_key, source
        )


@dataclass(frozen=True)
class Foreseen:
    """What a scan would find. images, bytes: of the source; unread: images that it would read, since they are new or
    changed; first: some of the images; before: the pool of the last scan, if there is one."""

    images: int
    bytes: int
    unread: int
    first: tuple[Entry, ...]
    before: Pool | None


def foresee_scan(
    source: str,
    store: Store,
    images: Path | str | None = None,
    limit: int | None = None,
    member: str | None = None,
    first: int = 0,
) -> Foreseen:
    """What `scan_pool` would find, from names, sizes and times alone; nothing is read of an image, and nothing written.
    first: how many of its images are named. Raises BuildError as `scan_pool` does."""
    listing = Listing(member)
    with closing(Census()) as census:
        entries = list_source(source, images, store.root, listing)
        total = census.enlist(entries, source, limit)
        if not total:
            raise _no_images(source, listing.passed_over)
        some = tuple(islice(census.unread(), first))
        before, _ = _before(store, pointer_path(store, _pointer_key(source, images, limit, member)), census)
        return Foreseen(total, census.size, total - census.known(), some, before)


def _pointer_key(source: str, images: Path | str | None, limit: int | None, member: str | None) -> dict[str, Any]:
    """What names a source, so that the next scan of it goes on from this one."""
    key = {"source": absolute(source), "images": images and absolute(os.fspath(images)), "limit": limit}
    return key if member is None else {**key, "member": member}


def list_size(
    source: str,
    store: Store,
    images: Path | str | None = None,
    limit: int | None = None,
    listing: Listing | None = None,
) -> tuple[int, int]:
    """How many images a scan would find, and their bytes; nothing is read of them. Raises BuildError as `scan` does."""
    listing = listing or Listing()
    with closing(Census()) as census:
        count = census.enlist(list_source(source, images, store.root, listing), source, limit)
        if not count:
            raise _no_images(source, listing.passed_over)
        return count, census.size


def _no_images(source: str, passed_over: Mapping[str, int]) -> BuildError:
    instead = f", but {passed_over_text(passed_over)}" if passed_over else ""
    return BuildError(f"no images in {source}{instead}: give a folder, a glob, a list (.txt), a COCO JSON or tars")


def _before(store: Store, pointer: Path, census: Census) -> tuple[Pool | None, str]:
    """Tell the census what the last scan of this source found, and return its pool: nothing if there was none, it was
    removed, or it is of another Tutelage; of one that is damaged the id alone. A pool without thumbnails, of an older
    Tutelage, keeps its chunks; its images are read again. Raises BuildError where nobody knows which pool it was."""
    if (last := read_pointer(pointer)) is None or not (store.pools / last["pool"] / FILE).exists():
        return None, ""
    id = str(last["pool"])
    pool, damaged = None, id
    try:
        try:
            pool = read_pool(store, id)
        except OlderPool:
            damaged = ""
        with pq.ParquetFile(store.pools / id / FILE) as file:
            old = "thumb" not in file.schema_arrow.names
            columns = [name for name in COLUMNS if not old or name not in ("dhash", "thumb")]
            parts = (file.read_row_group(n, columns=columns, use_threads=False) for n in range(file.num_row_groups))
            census.remember(chain.from_iterable(map(_rows, parts)))
        if pool is None or pool.reader < READER:
            census.doubt_turned_tiffs()
    except (BuildError, OSError, pa.ArrowException, KeyError):
        census.forget()
        return None, damaged
    return pool, ""


def _rows(table: pa.Table) -> Iterator[Row]:
    none = [None] * table.num_rows
    return zip(*(table[name].to_pylist() if name in table.column_names else none for name in COLUMNS), strict=True)


def _read(
    read: Callable[[Entry], Row], entries: Iterable[Entry], threads: int, cluster: Cluster | None
) -> Iterator[Row]:
    """The rows of these entries, in order. Raises BuildError where a node of the cluster cannot read what can be read
    here."""
    if cluster is None:
        yield from in_order(read, entries, threads, 4 * threads, _fetched, AHEAD)
        return
    for row in cluster.map(read, entries, GROUP):
        facts = dict(zip(COLUMNS, row, strict=True))
        if facts["state"] == UNREADABLE and read(Entry(*(facts[name] for name in ENTRY))) != row:
            raise BuildError(
                f"a node of the cluster could not read {facts['uri']} ({facts['error']}), which can be read here: put "
                "the images where every node sees them under the same path, or into an object store"
            )
        yield row


def _fetched(entry: Entry) -> int:
    """Bytes that an image takes while it is on its way here."""
    return entry.bytes if is_remote(entry.uri) else 0


def _row(max_pixels: int, entry: Entry) -> Row:
    row = PoolImage(make_key(entry.name), **asdict(entry), sha256="")
    if entry.bytes > MAX_BYTES:
        return _unreadable(row, f"has {entry.bytes} bytes, more than {MAX_BYTES}")
    try:
        data = read_entry(entry)
    except OSError as error:
        return _unreadable(row, error.strerror or str(error))
    row = replace(row, sha256=hashlib.sha256(data).hexdigest())
    try:
        head = read_header(data)
    except ImageError as error:
        return _unreadable(row, str(error))
    try:
        check_pixels(head.width, head.height, max_pixels)
        if max(head.width, head.height) > MAX_SIDE:
            raise ImageError(f"has {head.width} x {head.height} pixels, and no side may have more than {MAX_SIDE}")
    except ImageError as error:  # without its hash, so that it is read again when the limit is another one
        return _unreadable(replace(row, sha256=""), str(error))
    size = replace(row, width=head.width, height=head.height, format=head.format, orientation=head.orientation)
    hash, thumb = look(data, head.orientation, size.pixels)
    return *astuple(replace(size, dhash=hash)), thumb


def _unreadable(row: PoolImage, error: str) -> Row:
    return *astuple(replace(row, state=UNREADABLE, error=error)), b""


def _write(
    census: Census,
    id: str,
    summary: Mapping[str, Any],
    store: Store,
    pointer: Path,
    pointer_key: Mapping[str, Any],
    source: str,
) -> Pool:
    folder = store.pools / id
    schema = FILE_SCHEMA.with_metadata({"source": source, SUMMARY: canonical_json(summary)})
    with _alone(store, folder, pointer):
        with (
            new_summed_file(folder / FILE) as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for rows in census.groups([images for _, images, _ in summary["chunks"]], ROWS):
                columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
                writer.write_table(pa.table(columns, schema=FILE_SCHEMA))
        write_file(pointer, canonical_json(seal({**pointer_key, "pool": id})))
    return read_pool(store, id)


def _alone(store: Store, folder: Path, pointer: Path) -> AbstractContextManager[None]:
    return locked(store.pools / ".lock", "the pools", sweep=[folder, pointer.parent], wait=True)

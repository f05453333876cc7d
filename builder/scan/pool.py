"""A pool: a stable, hashed list of images, cut into chunks. It is a file that is read as a stream: memory does not grow
with the number of its images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, ValidationError

from builder.buckets.address import absolute
from builder.errors import BuildError, brief
from builder.scan.image import DUPLICATE as DUPLICATE
from builder.scan.image import OK as OK
from builder.scan.image import REMOVED as REMOVED
from builder.scan.image import UNREADABLE as UNREADABLE
from builder.scan.image import ImageChanged as ImageChanged
from builder.scan.image import PoolImage as PoolImage
from builder.sections import Section, complaint
from builder.store.files import digest, read_stored, unseal
from builder.store.store import Store
from builder.store.sums import check_sum

CHUNK_SIZE = 512
ROWS = 4096
"""Rows, at least, in a row group of pool.parquet, which holds whole chunks: what is read at a time."""
FIELDS = (
    *("key", "name", "sha256", "uri", "offset", "bytes", "mtime_ns", "width", "height", "format", "orientation"),
    *("dhash", "chunk", "state", "error"),
)
"""What is known of an image, in order: the fields of PoolImage."""
COLUMNS = (*FIELDS, "thumb")
"""The columns of a pool's file: its grey thumbnail too (builder.scan.dhash.look), which no PoolImage carries."""
NUMBERS = {"orientation": pa.int8(), "width": pa.int32(), "height": pa.int32(), "chunk": pa.int32()}
NUMBERS |= dict.fromkeys(("offset", "bytes", "mtime_ns"), pa.int64())
SCHEMA = pa.schema([(name, NUMBERS.get(name, pa.string())) for name in FIELDS])
FILE_SCHEMA = SCHEMA.append(pa.field("thumb", pa.binary()))
SUMMARY = "summary"
"""Where the file's own metadata keep what is said about chunks, formats and counts, as JSON."""
FILE, SOURCES = "pool.parquet", "sources"
MEND = "run `tutelage fsck --repair`, or scan its source again"
"""What is to be done about a damaged pool."""


class Summary(Section):
    """What a pool's file says of all its rows; see Pool. reader: builder.scan.scanner.READER when it was scanned."""

    chunks: list[tuple[str, NonNegativeInt, NonNegativeInt]]
    counts: dict[str, NonNegativeInt]
    formats: list[tuple[str, bool]]
    lost: NonNegativeInt
    passed_over: dict[str, NonNegativeInt] = Field(default_factory=dict)
    reader: int = 0


class OlderPool(BuildError):
    """A pool whose file has not the columns that are known here."""


class FirstPool(OlderPool):
    """A pool of the first Tutelage, which wrote neither hashes of pictures nor a summary. pool: its rows and its id."""

    def __init__(self, message: str, pool: Pool) -> None:
        super().__init__(message)
        self.pool = pool


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
    """A scanned pool. It is a handle on a file, read as a stream: memory does not grow with the number of images.

    Attributes:
        id: a hash of its images and their order.
        source: what was scanned, as it was written.
        path: the file; its rows are in order of chunks, those outside all chunks last.
        counts: images by state.
        index: what is known of each chunk, in order.
        formats: of the readable images, removed ones left out: (format, whether its EXIF orientation is not 1).
        lost: unreadable images that are in no chunk.
        passed_over: files of the source that were not taken for images, by what their names end in.
        reader: how its images were read (builder.scan.scanner.READER).
    """

    id: str
    source: str
    path: Path
    counts: Mapping[str, int]
    index: tuple[ChunkFacts, ...] = field(repr=False)
    formats: frozenset[tuple[str, bool]]
    lost: int
    passed_over: Mapping[str, int] = field(default_factory=dict)
    reader: int = field(default=0, compare=False, repr=False)

    def __len__(self) -> int:
        return sum(self.counts.values())

    def count(self, state: str) -> int:
        return self.counts.get(state, 0)

    def chunks(self, first: int = 0, last: int | None = None, columns: Sequence[str] | None = None) -> Iterator[Chunk]:
        """The chunks from `first` up to, but not including, `last`. columns: as of `pick`."""
        return self.pick(range(first, len(self.index) if last is None else min(last, len(self.index))), columns)

    def pick(self, chunks: Iterable[int], columns: Sequence[str] | None = None) -> Iterator[Chunk]:
        """The chunks of these numbers, which rise. columns: only these of their rows, which is quicker, where nobody
        asks a chunk for its images."""
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
                    group, rows = wanted, self._group(file, wanted, columns)
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
            check_sum(self.path, MEND)
            return pq.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.id, error) from None

    def _group(self, file: pq.ParquetFile, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        try:
            return file.read_row_group(number, columns=columns or FIELDS, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.id, error) from None


def _images(table: pa.Table) -> Iterator[PoolImage]:
    return map(PoolImage, *(table[name].to_pylist() for name in FIELDS))


def _unreadable(id: str, error: object) -> BuildError:
    return BuildError(f"pool {id[:12]} cannot be read ({brief(error)}): {MEND}")


def read_pool(store: Store, id: str) -> Pool:
    """The pool of this full id. Raises BuildError if it is not in the store or damaged."""
    path = store.pools / id / FILE
    try:
        check_sum(path, MEND)
        with pq.ParquetFile(path) as file:
            metadata, names = file.metadata.metadata or {}, file.schema_arrow.names
        if SUMMARY.encode() not in metadata or tuple(names) not in (FIELDS, COLUMNS):
            message = f"pool {id[:12]} is of another version of Tutelage: scan its source again"
            if SUMMARY.encode() not in metadata and names == [name for name in FIELDS if name != "dhash"]:
                raise FirstPool(message, Pool(id, "", path, {}, (), frozenset(), 0))
            raise OlderPool(message)
        summary = Summary.model_validate(orjson.loads(metadata[SUMMARY.encode()]))
        source = metadata.get(b"source", b"").decode()
    except ValidationError as error:
        raise _unreadable(id, f"its summary is damaged, {complaint(error)}") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(id, error) from None
    return Pool(
        id,
        source,
        path,
        {state: summary.counts.get(state, 0) for state in (OK, UNREADABLE, DUPLICATE, REMOVED)},
        tuple(ChunkFacts(*facts) for facts in summary.chunks),
        frozenset(summary.formats),
        summary.lost,
        summary.passed_over,
        summary.reader,
    )


def pointer_path(store: Store, key: Mapping[str, Any]) -> Path:
    """The file that says which pool the last scan of a source made. key: JSON values that name the source."""
    return store.pools / SOURCES / f"{digest(key)}.json"


def read_pointer(path: Path) -> dict[str, Any] | None:
    """What such a file says: the key that names its source, and `pool`, an id; None if there is none. Raises BuildError
    if it is damaged: without it nobody knows which images were in which chunk, and a scan would begin anew."""
    mend = "run `tutelage fsck --repair`, or remove it to scan that source from the beginning, in other chunks perhaps"
    try:
        pointer = unseal(read_stored(path), path, mend)
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise BuildError(f"{path} cannot be read ({brief(error)}): {mend}") from None
    key = {name: value for name, value in pointer.items() if name != "pool"}
    if not isinstance(pointer.get("pool"), str) or digest(key) != path.stem:
        raise BuildError(f"{path} is damaged (it is about another source): {mend}")
    return pointer


def pointers(store: Store) -> list[dict[str, Any]]:
    """What the last scan of each source made. Raises BuildError as `read_pointer`."""
    paths = sorted((store.pools / SOURCES).glob("*.json"))
    return [pointer for pointer in map(read_pointer, paths) if pointer is not None]


def describe(pool: Pool) -> dict[str, Any]:
    """Counts of a pool, and of what cannot be used of it, with the first few reasons."""
    value: dict[str, Any] = {"pool": pool.id, "source": pool.source, "images": len(pool), "chunks": len(pool.index)}
    value |= pool.counts
    if pool.passed_over:
        value["passed_over"] = dict(pool.passed_over)
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
    scans = [pointer for pointer in pointers(store) if pointer.get("source") == absolute(name)]
    scans = [pointer for pointer in scans if pointer.get("limit") is None] or scans
    if len(scans) == 1:
        return read_pool(store, scans[0]["pool"])
    if scans:
        raise BuildError(
            f"{name!r} was scanned in several ways: give one of {', '.join(s['pool'][:12] for s in scans)}"
        )
    raise BuildError(f"no pool {name!r} in {store.root}: run `tutelage scan {name}` first")

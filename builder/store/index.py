"""index.parquet: every sample of a version, where it lies in its shard, and the SHA-256 of each of its members.

A row group a shard, in the order of the manifest. The id of a version is made of what stands here: `contents_of` a
shard is what the manifest calls its contents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from builder.errors import BuildError
from builder.store.files import new_file
from builder.store.manifest import Manifest
from builder.store.shards import BLOCK, END, SampleRow, read_samples

SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "shard": pa.int32(),
        "offset": pa.int64(),
        "bytes": pa.list_(pa.int64()),
        "sha256": pa.list_(pa.string()),
    }
)
"""shard: position in the manifest's `shards`; offset: of the header of the sample's first member in the tar; bytes,
sha256: of its members, in the order of the manifest's `features`."""


def contents_of(rows: Iterable[SampleRow]) -> str:
    """SHA-256 over `KEY.EXTENSION BYTES SHA256` of a shard's members in order, a line each."""
    hashed = hashlib.sha256()
    for row in rows:
        for extension, size, sha256 in zip(row.extensions, row.bytes, row.sha256, strict=True):
            hashed.update(f"{row.key}.{extension} {size} {sha256}\n".encode())
    return hashed.hexdigest()


def rows_of_shard(path: Path) -> list[SampleRow]:
    """The rows of a shard, from the tar itself. Raises ShardError and OSError."""
    return [
        sample.row(tuple(hashlib.sha256(member.read()).hexdigest() for member in sample.members.values()))
        for sample in read_samples(path)
    ]


def follow(rows: Sequence[SampleRow], size: int) -> bool:
    """Whether the samples of these rows lie one behind the other in a shard of this size, as they are written."""
    place = 0
    for row in rows:
        if row.offset != place:
            return False
        place += sum(BLOCK + size + -size % BLOCK for size in row.bytes)
    return place + len(END) == size


def write_part(path: Path, rows: Sequence[SampleRow]) -> None:
    """The part of an index that is about one shard."""
    columns = {
        "key": [row.key for row in rows],
        "shard": [0] * len(rows),
        "offset": [row.offset for row in rows],
        "bytes": [row.bytes for row in rows],
        "sha256": [row.sha256 for row in rows],
    }
    with new_file(path) as file, _writer(file) as writer:
        writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=max(1, len(rows)))


def join_index(path: Path, parts: Sequence[Path]) -> None:
    """The index of a version, of the parts of its shards in their order; equal parts give equal bytes."""
    place = SCHEMA.get_field_index("shard")
    with new_file(path) as file, _writer(file) as writer:
        for number, part in enumerate(parts):
            table = pq.read_table(part)
            table = table.set_column(place, SCHEMA.field(place), pa.array([number] * len(table), pa.int32()))
            writer.write_table(table, row_group_size=max(1, len(table)))


def _writer(file: object) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=False)


def read_index(path: Path, manifest: Manifest, number: int, ref: str) -> list[SampleRow]:
    """The rows of a version's shard, which is told by its position in the manifest. path: of the index; ref: what
    messages call the version. Raises BuildError if it cannot be read, or has not as many rows and members as the
    manifest says."""
    features = tuple(manifest.features)
    with _opened(path, manifest, ref) as file:
        table = file.read_row_group(number, use_threads=False)
        columns = [table[name].to_pylist() for name in ("key", "shard", "offset", "bytes", "sha256")]
    rows = [
        SampleRow(key, offset, features, tuple(sizes), tuple(hashes))
        for key, shard, offset, sizes, hashes in zip(*columns, strict=True)
        if shard == number and len(sizes) == len(hashes) == len(features)
    ]
    if len(rows) != manifest.shards[number].samples or len(rows) != len(table):
        raise _unreadable(path, ref)
    return rows


def read_keys(path: Path, manifest: Manifest, number: int, ref: str) -> list[str]:
    """The keys of a shard's samples in order, and nothing else of them. Raises as `read_index`."""
    with _opened(path, manifest, ref) as file:
        keys: list[str] = file.read_row_group(number, columns=["key"], use_threads=False)["key"].to_pylist()
    if len(keys) != manifest.shards[number].samples or None in keys:
        raise _unreadable(path, ref)
    return keys


@contextmanager
def _opened(path: Path, manifest: Manifest, ref: str) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            if file.num_row_groups != len(manifest.shards) or file.schema_arrow != SCHEMA:
                raise _unreadable(path, ref)
            yield file
    except (OSError, pa.ArrowException, ValueError, TypeError):
        raise _unreadable(path, ref) from None


def _unreadable(path: Path, ref: str) -> BuildError:
    return BuildError(f"{path} cannot be read: run `tutelage verify --repair {ref}`")

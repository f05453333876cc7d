"""The images and the labels that a version was cut from, as far as it holds them itself: for corrections of one that
was pulled, where neither its pool nor the teacher's predictions are.

Its shards hold the images as they are to be written again, and labels.parquet every object of its chunks: what the
teacher said of it, and what rules made of that before people did (builder.cut.label_table.BEFORE). What is not there
are the pictures of images on which nothing is kept, where these are left out (`images.drop_empty`, image classes), and
of maps what the teacher said of each pixel. A chunk here is the same share of a shard as in the pool, so that memory
stays as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builder.cut.images import not_here
from builder.cut.left_out import LeftOut
from builder.cut.samples import EMPTY
from builder.engine import in_order, worker_count
from builder.errors import BuildError
from builder.kinds import kind_of
from builder.rules.overrides import load_keys
from builder.scan.entries import mtime_of
from builder.scan.pool import (
    DUPLICATE,
    FIELDS,
    OK,
    REMOVED,
    ROWS,
    SCHEMA,
    UNREADABLE,
    Chunk,
    ChunkFacts,
    Pool,
    PoolImage,
)
from builder.store.files import digest, new_file
from builder.store.keys import is_copy
from builder.store.labels import SOFT_BEFORE, checked_table, read_label
from builder.store.shards import ShardError, ShardRecord, shard_name
from builder.store.version import LABELS, OVERRIDES, Version

GROUP = 1 << 20
"""Rows of a row group that is not the last of its shard."""


@dataclass(frozen=True)
class Restored:
    """What a version was cut from. rows: of labels.parquet, first and past the last, of each chunk of the pool."""

    version: Version
    pool: Pool
    rows: tuple[tuple[int, int], ...] = field(repr=False)

    def labels(self, chunks: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of labels.parquet of these chunks, which follow one another. columns: those that are wanted, as far
        as they are there; None: all."""
        first, last = (self.rows[chunks[0]][0], self.rows[chunks[-1]][1]) if chunks else (0, 0)
        with _opened(self.version) as file:
            starts = list(
                accumulate((file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)), initial=0)
            )
            groups = [n for n in range(file.num_row_groups) if starts[n] < last and starts[n + 1] > first]
            table = file.read_row_groups(groups, columns=columns and list(columns), use_threads=False)
        return table.slice(first - starts[groups[0]] if groups else 0, last - first).combine_chunks()

    def probabilities(self, chunk: Chunk, positions: Sequence[int]) -> np.ndarray:
        """The probabilities of the version's classes that the teacher gave these images: float32 (N, C). Raises
        BuildError for an image that is in no shard."""
        classes = len(self.version.manifest.classes)
        wanted = {chunk.images[n].key: chunk.images[n] for n in positions}
        soft = self._soft_before([chunk.index], wanted, classes)
        if lacking := next((image for image in wanted.values() if not image.bytes and image.key not in soft), None):
            raise not_here(lacking.key, self.version.ref)
        for record in self.version.manifest.shards:
            if record.name == self._shard_of(chunk):
                for sample in self.version.samples(record):
                    if sample.key in wanted and sample.key not in soft:
                        soft[sample.key] = _soft(read_label(sample, self.version.manifest), classes)
        return np.array([soft[key] for key in wanted], np.float32).reshape(-1, classes)

    def _shard_of(self, chunk: Chunk) -> str:
        """The name of the shard that holds a chunk."""
        plan = self.version.manifest.provenance.plan or ()
        return next(shard_name(n) for n, (first, stop) in enumerate(plan) if first <= chunk.index < stop)

    def _soft_before(self, chunks: Sequence[int], keys: Collection[str], classes: int) -> dict[str, np.ndarray]:
        """Those of images whose class people named, by key: their samples say what people said."""
        table = self.labels(chunks, ["key", SOFT_BEFORE])
        if SOFT_BEFORE not in table.column_names:
            return {}
        there = table.filter(pc.is_valid(table[SOFT_BEFORE]))
        rows = zip(there["key"].to_pylist(), there[SOFT_BEFORE].to_pylist(), strict=True)
        return {key: np.array(soft, np.float32) for key, soft in rows if key in keys}


def check_restorable(version: Version) -> None:
    """Raise BuildError for a version whose corrections cannot be cut from it alone, saying why."""
    manifest = version.manifest
    at_home = "correct it in the store that it was built in"
    if kind_of(manifest.kind).pixels:
        raise BuildError(
            f"{version.ref} holds maps, and not what the teacher said of each pixel: only the store that it was built "
            "in can cut it again"
        )
    if not manifest.provenance.plan or not all(shard.inputs for shard in manifest.shards):
        raise BuildError(
            f"{version.ref} was built by an older Tutelage, which does not say what it was cut from: {at_home}"
        )
    try:
        names = pq.read_schema(checked_table(version)).names
    except (OSError, pa.ArrowException):
        raise _unreadable(version) from None
    overrides = manifest.provenance.overrides
    if overrides and overrides.applied and "reason_before" not in names:
        raise BuildError(
            f"{version.ref} holds corrections of an older Tutelage, which does not say what the teacher said before: "
            f"{at_home}, or build and publish it there again"
        )


def restore(version: Version, left_out: LeftOut, folder: Path, workers: int | None = None) -> Restored:
    """Find what a version was cut from, in one pass over its shards and its labels; the pool comes to lie in `folder`.
    Raises BuildError as `check_restorable`, and for a version that cannot be read."""
    check_restorable(version)
    manifest = version.manifest
    records = {shard.name: shard for shard in manifest.shards}
    plan = manifest.provenance.plan
    known = {key: sha256 for sha256, key in load_keys(version.overrides).items()} if version.has(OVERRIDES) else {}
    with _opened(version) as file:
        groups = _parts([file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)], len(plan), version)
    jobs = [(n, records.get(shard_name(n)), groups[n]) for n in range(len(plan))]
    work = partial(_shard_images, version, known)
    threads = worker_count(workers)
    index, rows, start = list[ChunkFacts](), list[tuple[int, int]](), 0
    counted = Counter[str]()
    path = folder / "pool.parquet"
    with new_file(path) as out, pq.ParquetWriter(out, SCHEMA, compression="zstd") as writer:
        waiting: list[PoolImage] = []
        for (number, _, _), images in zip(jobs, in_order(work, jobs, threads, 2 * threads), strict=True):
            counted.update(EMPTY if image.bytes == 0 else "here" for image, _ in images)
            if number == len(plan) - 1:
                images += [(image, 0) for image in _others(version, left_out, counted[EMPTY])]
            first, stop = plan[number]
            for part in np.array_split(np.arange(len(images)), stop - first):
                mine = [images[n] for n in part]
                stops = start + sum(count for _, count in mine)
                rows.append((start, stops))
                start = stops
                sha256s = [image.sha256 or image.key for image, _ in mine]
                index.append(ChunkFacts(digest(sha256s), len(mine), sum(image.bytes for image, _ in mine)))
                waiting += [replace(image, chunk=len(index) - 1) for image, _ in mine]
                if len(waiting) >= ROWS:
                    writer.write_table(_table(waiting))
                    waiting = []
        writer.write_table(_table(waiting))
    counts = {DUPLICATE: manifest.images.get(DUPLICATE, 0), UNREADABLE: manifest.images.get(UNREADABLE, 0)}
    counts[OK] = manifest.images["pool"] - sum(counts.values())
    pool = Pool(
        manifest.provenance.inputs.pool,
        f"the shards of {version.ref}",
        path,
        counts,
        tuple(index),
        frozenset({(manifest.features[0], False)}),
        counts[UNREADABLE],
    )
    return Restored(version, pool, tuple(rows))


def _table(images: Sequence[PoolImage]) -> pa.Table:
    columns = zip(*map(astuple, images), strict=True) if images else [()] * len(FIELDS)
    return pa.table(dict(zip(FIELDS, columns, strict=True)), schema=SCHEMA)


def _opened(version: Version) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(checked_table(version), read_dictionary=["key"])
    except (OSError, pa.ArrowException):
        raise _unreadable(version) from None


def _unreadable(version: Version) -> BuildError:
    return BuildError(f"{version.folder} cannot be read: put {version.ref} there again from where it came")


def _parts(sizes: Sequence[int], count: int, version: Version) -> list[range]:
    """The row groups of each shard's part of labels.parquet, of which each has at least one, and all but the last of a
    part have GROUP rows."""
    parts, first = list[range](), 0
    for n, size in enumerate(sizes):
        if size != GROUP:
            parts.append(range(first, n + 1))
            first = n + 1
    if len(parts) != count or first != len(sizes):
        raise BuildError(
            f"{version.folder / LABELS} is not in as many parts as {version.ref} has shards: correct it in the store "
            "that it was built in"
        )
    return parts


def _shard_images(
    version: Version, known: Mapping[str, str], job: tuple[int, ShardRecord | None, range]
) -> list[tuple[PoolImage, int]]:
    """The images of a shard, those without a sample in it too, in their order; and how many rows each has. known:
    SHA-256 of some of the latter, by key."""
    _, record, groups = job
    with _opened(version) as file:
        keys = file.read_row_groups(list(groups), columns=["key"], use_threads=False)["key"].combine_chunks()
    counts = dict[str, int]()
    if len(keys):
        codes = keys.indices.to_numpy()
        cuts = np.r_[0, np.flatnonzero(np.diff(codes)) + 1, len(codes)]
        names = keys.dictionary.to_pylist()
        counts = {names[codes[a]]: int(b - a) for a, b in pairwise(cuts)}
        if sum(counts.values()) != len(codes):
            raise _unreadable(version)
    written = _written(version, record) if record else {}
    images, place = list[PoolImage](), 0
    order = list(written)
    position = {key: n for n, key in enumerate(order)}
    for key in counts:
        if key in position:
            images += [written[each] for each in order[place : position[key] + 1]]
            place = position[key] + 1
        else:
            images.append(PoolImage(key, "", known.get(key, ""), "", 0, 0, 0))
    images += [written[each] for each in order[place:]]
    if len(images) != len(written.keys() | counts.keys()):
        raise _unreadable(version)
    return [(image, counts.get(image.key, 0)) for image in images]


def _written(version: Version, record: ShardRecord) -> dict[str, PoolImage]:
    """The images of a shard's samples, by key; where their bytes are, they are as they are to be written."""
    extension = version.manifest.features[0]
    gone, images = set(version.manifest.tombstones), dict[str, PoolImage]()
    try:
        mtimes = {file: mtime_of(file.stat()) for file in version.files(record)}
        for sample in version.samples(record):
            if is_copy(sample.key):
                continue
            label, member = read_label(sample, version.manifest), sample.members[extension]
            images[sample.key] = PoolImage(
                sample.key,
                label["name"],
                label["sha256"],
                str(member.file),
                member.offset,
                member.size,
                mtimes[member.file],
                label["width"],
                label["height"],
                "" if label["reencoded"] == "format" else extension,  # what it was is not said, and not asked for
                0 if label["reencoded"] == "upright" else 1,
                state=REMOVED if sample.key in gone else OK,
            )
    except (OSError, ShardError, KeyError):
        raise _unreadable(version) from None
    return images


def _others(version: Version, left_out: LeftOut, absent: int) -> Iterator[PoolImage]:
    """A row for each image of the pool of which the version says nothing but that it is not there, so that the next
    version counts it, too. absent: images of EMPTY that are known."""
    counts = version.manifest.images
    for state, among in left_out.by_state.items():
        yield from (_unknown(f"{state}-{n}", sha256) for n, sha256 in enumerate(sorted(among)[: counts.get(state, 0)]))
    yield from (_unknown(f"{EMPTY}-{n}") for n in range(counts.get(EMPTY, 0) - absent))
    yield from (replace(_unknown(f"{REMOVED}-{n}"), state=REMOVED) for n in range(counts.get(REMOVED, 0)))


def _unknown(key: str, sha256: str = "") -> PoolImage:
    return PoolImage(key, "", sha256, "", 0, 0, 0)


def _soft(label: Mapping[str, Any], classes: int) -> np.ndarray:
    if "probabilities" in label:
        return np.array(label["probabilities"], np.float32)
    soft = np.zeros(classes, np.float32)
    soft[label["top_label"]] = label["top_probability"]
    return soft

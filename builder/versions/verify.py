"""Re-read a whole version and say what is wrong with it, and with which shards.

Shards are checked on their own; of each image only three numbers are kept (key, shard, and a checksum of its labels),
which are then held against labels.parquet: 20 bytes an image, whatever is on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from builder.cut.kinds.choose import cut_kind
from builder.cut.kinds.kind import Checked, Kind
from builder.engine import Track, run, silent, until
from builder.kinds import LabelKind, kind_of
from builder.store.files import sha256_file
from builder.store.manifest import MANIFEST, ShardRecord
from builder.store.shards import Sample, ShardError, read_bytes, read_samples
from builder.store.version import CLAIM, DATA, LABELS, Version
from teachers.images import ImageError, decode_rgb

MOST = 20
"""Problems told of one shard; the rest are counted."""
ROWS = 1 << 14
"""Rows of labels.parquet looked at together."""


@dataclass(frozen=True)
class Problem:
    """what: in words, beginning with the file. shard: the name of the shard that is bad, "" if it is another file.
    stray: a file that belongs to no version, which nothing can rebuild."""

    what: str
    shard: str = ""
    stray: bool = False


@dataclass(frozen=True)
class _Job:
    path: Path
    shard: ShardRecord
    features: tuple[str, ...]
    classes: int
    kind: LabelKind


@dataclass(frozen=True)
class _Checked:
    """problems; samples read; key, checksum: uint64 (samples,) each, see `_hash` and
    builder.cut.kinds.kind.Checked."""

    problems: list[str]
    samples: int
    key: np.ndarray
    checksum: np.ndarray


def problems(version: Version, *, workers: int | None = None, track: Track = silent) -> list[Problem]:
    """What is wrong with a version, empty if nothing is: every byte is hashed, every image decoded, every label checked
    against its shard, the manifest and labels.parquet."""
    manifest = version.manifest
    faults = list(_other_files(version))
    kind, features = kind_of(manifest.kind), tuple(manifest.features)
    jobs = [_Job(version.shard(shard), shard, features, len(manifest.classes), kind) for shard in manifest.shards]
    none = np.zeros(0, np.uint64)
    keys, checksums, lengths = [none], [none], []
    with track("verify", manifest.stored) as advance:
        for job, checked in zip(jobs, run(_check_shard, jobs, workers), strict=True):
            faults += (Problem(what, job.shard.name) for what in checked.problems)
            keys.append(checked.key)
            checksums.append(checked.checksum)
            lengths.append(len(checked.key))
            advance(checked.samples)
    key, checksum = np.concatenate(keys), np.concatenate(checksums)
    shard = np.repeat(np.arange(len(jobs), dtype=np.int32), lengths)
    faults += _repeated(version, key, shard)
    if not faults:
        faults += _compare_labels(version, key, checksum, shard)
    return faults


def bad_shards(faults: Sequence[Problem]) -> list[int]:
    """The numbers of the shards to build again, in order."""
    return sorted({int(problem.shard.removesuffix(".tar").rpartition("-")[2]) for problem in faults if problem.shard})


def _other_files(version: Version) -> Iterator[Problem]:
    folder, manifest = version.folder, version.manifest
    for name in manifest.files:
        if not (folder / name).is_file():
            yield Problem(f"{name}: missing")
        elif not version.is_intact(name):
            yield Problem(f"{name}: its bytes are not those of the manifest")
    known = {MANIFEST, CLAIM, *manifest.files, *(f"{DATA}/{shard.name}" for shard in manifest.shards)}
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in below.parts)
        if not (hidden or path.is_dir() or below.as_posix() in known):
            yield Problem(f"{below}: not in the manifest: move it out of the version", stray=True)


def _check_shard(job: _Job, stop: Event) -> _Checked:
    path, shard = job.path, job.shard
    none = np.zeros(0, np.uint64)
    if not path.is_file():
        return _Checked([f"data/{shard.name}: missing"], 0, none, none)
    problems: list[str] = []
    keys: list[int] = []
    checksums: list[np.uint64] = []
    kept = ignored = 0
    if path.stat().st_size != shard.bytes:
        problems.append(f"data/{shard.name}: {path.stat().st_size} bytes, the manifest says {shard.bytes}")
    elif sha256_file(path) != shard.sha256:
        problems.append(f"data/{shard.name}: its SHA-256 is not the manifest's")
    try:
        for sample in until(stop, read_samples(path)):
            keys.append(_hash(sample.key))
            checked = _check_sample(path, sample, job)
            checksums.append(np.uint64(0) if isinstance(checked, str) else checked.checksum)
            if isinstance(checked, str):
                problems.append(f"data/{shard.name}: sample {sample.key}: {checked}")
            else:
                kept, ignored = kept + checked.kept, ignored + checked.ignored
    except ShardError as error:
        problems.append(f"data/{error}")
    if not problems and (len(keys), kept, ignored) != (shard.samples, shard.kept, shard.ignored):
        stated = f"{shard.samples} samples, {shard.kept} kept, {shard.ignored} ignored"
        problems.append(
            f"data/{shard.name}: {len(keys)} samples, {kept} kept, {ignored} ignored; the manifest says {stated}"
        )
    more = [f"data/{shard.name}: {len(problems) - MOST} more problems"] if len(problems) > MOST else []
    listed = [*islice(problems, MOST), *more]
    return _Checked(listed, len(keys), np.array(keys, np.uint64), np.array(checksums, np.uint64))


def _check_sample(path: Path, sample: Sample, job: _Job) -> str | Checked:
    """What is wrong with a sample, or what is in it."""
    if tuple(sample.members) != job.features:
        return f"its members are {', '.join(sample.members)}, not {', '.join(job.features)}"
    try:
        image = read_bytes(path, sample.members[job.features[0]])
        label = orjson.loads(read_bytes(path, sample.members["json"]))
        height, width, _ = decode_rgb(image, label["width"] * label["height"]).shape
        if label["key"] != sample.key:
            return f"its label JSON is that of {label['key']}"
        if (label["width"], label["height"]) != (width, height):
            return f"its image is {width}x{height}, its label says {label['width']}x{label['height']}"
        if label["reencoded"] == "none" and hashlib.sha256(image).hexdigest() != label["sha256"]:
            return "its image bytes are not those of the SHA-256 in its label"
        rest = read_bytes(path, sample.members[job.kind.member]) if job.kind.member else b""
        return cut_kind(job.kind.name).check(label, rest, job.classes)
    except ImageError as error:
        return f"its image {error}"
    except (ValueError, KeyError, TypeError) as error:
        return f"its label JSON is damaged ({error!r})"


def _hash(key: str) -> int:
    """64 bits of a key: among a million keys, two are alike once in thirty million versions."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def _repeated(version: Version, key: np.ndarray, shard: np.ndarray) -> Iterator[Problem]:
    """Keys that stand in several samples; they are no shard's own fault. Only the shards they are in are read again."""
    values, counts = np.unique(key, return_counts=True)
    twice = values[counts > 1]
    for number in np.unique(shard[np.isin(key, twice)]):
        record = version.manifest.shards[number]
        keys: list[str] = []
        with suppress(ShardError):  # told before
            keys += (s.key for s in read_samples(version.shard(record)) if _hash(s.key) in twice)
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        yield Problem(f"data/{record.name}: key {keys[0]}{more} stands in another sample too")


def _compare_labels(version: Version, key: np.ndarray, checksum: np.ndarray, shard: np.ndarray) -> Iterator[Problem]:
    """Where labels.parquet and the shards tell different objects: each object of the table is taken off its image's
    checksum, which must leave nothing. Rows of images that are not in the version do not count."""
    manifest, order = version.manifest, np.argsort(key)
    ordered, left = key[order], checksum[order]
    kind = cut_kind(manifest.kind)
    try:
        with pq.ParquetFile(version.labels, read_dictionary=["key"]) as file:
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(ROWS, [group], ["key", *kind.columns], use_threads=False):
                    _take_off(batch, ordered, left, kind)
    except (OSError, pa.ArrowException, KeyError) as error:
        yield Problem(f"{LABELS}: cannot be read ({str(error).splitlines()[0]})")
        return
    gone = np.array([_hash(k) for k in manifest.tombstones], np.uint64)
    wrong = order[(left != 0) & ~np.isin(ordered, gone)]
    for number, images in zip(*np.unique(shard[wrong], return_counts=True), strict=True):
        yield Problem(f"{LABELS}: the objects of {images} images are not those of data/{manifest.shards[number].name}")


def _take_off(batch: pa.RecordBatch, ordered: np.ndarray, left: np.ndarray, kind: Kind) -> None:
    if not len(ordered):
        return
    column = {name: batch[name] for name in batch.schema.names}
    hashes = np.array([_hash(k) for k in column["key"].dictionary.to_pylist()], np.uint64)
    hashed = hashes[column.pop("key").indices.to_numpy()]
    place = np.minimum(np.searchsorted(ordered, hashed), len(ordered) - 1)
    counts = ordered[place] == hashed
    rows = {name: values.to_numpy(zero_copy_only=False)[counts] for name, values in column.items()}
    np.subtract.at(left, place[counts], kind.row_sums(rows))

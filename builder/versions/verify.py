"""Re-read a whole version and say what is wrong with it, and with which shards.

Shards are checked on their own, against their part of index.parquet; of each image only three numbers are kept (key,
shard, and a checksum of its labels), which are then held against labels.parquet: 20 bytes an image, whatever is on it.
All that the manifest counts is counted again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from threading import Event

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builder.cut.kinds.choose import cut_kind
from builder.cut.kinds.kind import Checked, Kind
from builder.cut.left_out import read_left_out
from builder.engine import Track, run, silent, until
from builder.errors import BuildError
from builder.kinds import LabelKind, kind_of
from builder.rules.apply import outcomes
from builder.rules.keep import keep_of
from builder.rules.reasons import BY_KEY, OUTCOMES, Reason
from builder.store.files import sha256_file
from builder.store.index import contents_of
from builder.store.keys import is_copy
from builder.store.labels import checked_table, fields_of
from builder.store.manifest import CLAIM, MANIFEST, other_claim
from builder.store.shards import Sample, SampleRow, ShardError, ShardRecord, TarRecord, read_samples
from builder.store.shared.tars import padded
from builder.store.version import DATA, INDEX, LABELS, LEFT_OUT, Version
from teachers.images import ImageError, decode_rgb

MOST = 20
"""Problems told of one shard; the rest are counted."""
MISSING = ": missing"
COUNTED = ("samples", "kept", "ignored", "tombstones", "skipped_kept", "skipped_ignored")
"""Of each shard; what comes after the third was not recorded at first."""
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
    """A shard by its position in the manifest; gone: keys of samples that are to be skipped."""

    version: Version
    number: int
    gone: frozenset[str]
    kind: LabelKind

    @property
    def shard(self) -> ShardRecord:
        return self.version.manifest.shards[self.number]

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.version.manifest.features)


@dataclass(frozen=True)
class _Checked:
    """problems; key, checksum: uint64 (samples,) each, see `_hash` and builder.cut.kinds.kind.Checked. images: number
    of those that are in it, without copies and what is to be skipped."""

    problems: list[str]
    key: np.ndarray
    checksum: np.ndarray
    images: int = 0


def problems(
    version: Version, *, quick: bool = False, workers: int | None = None, track: Track = silent
) -> list[Problem]:
    """What is wrong with a version, empty if nothing is: every byte is hashed, every image decoded, every label checked
    against its shard, the manifest and labels.parquet. quick: the files' hashes alone."""
    version = replace(version, trust=None)  # all is hashed here and now
    manifest = version.manifest
    faults, gone = list(_other_files(version)), frozenset(manifest.tombstones)
    jobs = [_Job(version, number, gone, kind_of(manifest.kind)) for number in range(len(manifest.shards))]
    if quick:
        return faults + _wrong_hashes(jobs, workers, track)
    none = np.zeros(0, np.uint64)
    keys, checksums, lengths, images = [none], [none], list[int](), 0
    with track("verify", manifest.stored) as advance:
        for job, checked in zip(jobs, run(_check_shard, jobs, workers), strict=True):
            faults += (Problem(what, job.shard.name) for what in checked.problems)
            keys.append(checked.key)
            checksums.append(checked.checksum)
            lengths.append(len(checked.key))
            images += checked.images
            advance(len(checked.key))
    key, checksum = np.concatenate(keys), np.concatenate(checksums)
    shard = np.repeat(np.arange(len(jobs), dtype=np.int32), lengths)
    faults += _repeated(version, key, shard)
    if not faults:
        faults += _compare_labels(version, key, checksum, shard)
    if manifest.format > 1 and not faults:
        faults += _recounted(version, images)
    return faults


def _other_files(version: Version) -> Iterator[Problem]:
    folder, manifest = version.folder, version.manifest
    for name in manifest.files:
        if not (folder / name).is_file():
            yield Problem(f"{name}: missing")
        elif not version.is_intact(name):
            yield Problem(f"{name}: its bytes are not those of the manifest")
    if wrong := other_claim(folder, manifest):
        yield Problem(wrong)
    known = {MANIFEST, CLAIM, *manifest.files, *(f"{DATA}/{tar.name}" for _, tar in manifest.tars)}
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in below.parts)
        if not (hidden or path.is_dir() or below.as_posix() in known):
            yield Problem(f"{below}: not in the manifest: move it out of the version", stray=True)


def _check_shard(job: _Job, stop: Event) -> _Checked:
    shard, none = job.shard, np.zeros(0, np.uint64)
    problems = list(_wrong_files(job))
    if any(problem.endswith(MISSING) for problem in problems):
        return _Checked(problems, none, none)
    if shard.labels and not job.version.is_intact(INDEX):  # told as a file; without it nothing can be read
        return _Checked(problems, none, none)
    rows: list[SampleRow] = []
    checksums: list[np.uint64] = []
    counts = Counter[str]()
    place = 0
    try:
        for sample in until(stop, read_samples(job.version.shard(shard)) if not shard.labels else _joined(job)):
            members = {extension: member.read() for extension, member in sample.members.items()}
            hashes = {extension: hashlib.sha256(contents).hexdigest() for extension, contents in members.items()}
            row = sample.row(tuple(hashes.values()))
            rows.append(row._replace(offset=place) if shard.labels else row)
            place += sum(map(padded, row.bytes))
            checked = _check_sample(sample.key, members, hashes, job)
            checksums.append(np.uint64(0) if isinstance(checked, str) else checked.checksum)
            if isinstance(checked, str):
                problems.append(f"data/{shard.name}: sample {sample.key}: {checked}")
            else:
                counts.update(kept=checked.kept, ignored=checked.ignored)
                if sample.key in job.gone:
                    counts.update(tombstones=1, skipped_kept=checked.kept, skipped_ignored=checked.ignored)
    except ShardError as error:
        problems.append(f"data/{error}")
    problems += [] if problems else _against_manifest(job, rows, counts)
    more = [f"data/{shard.name}: {len(problems) - MOST} more problems"] if len(problems) > MOST else []
    return _Checked(
        [*islice(problems, MOST), *more],
        np.array([_hash(row.key) for row in rows], np.uint64),
        np.array(checksums, np.uint64),
        sum(not is_copy(row.key) and row.key not in job.gone for row in rows),
    )


def _joined(job: _Job) -> Iterator[Sample]:
    """The samples of a shard of labels. Raises ShardError."""
    try:
        yield from job.version.samples(job.shard)
    except ShardError:
        raise
    except BuildError as error:
        raise ShardError(f"{job.shard.name}: {error}") from None


def _wrong_hashes(jobs: Sequence[_Job], workers: int | None, track: Track) -> list[Problem]:
    """What is wrong with the shards by the hashes of their files."""
    faults: list[Problem] = []
    with track("verify", sum(job.shard.samples for job in jobs)) as advance:
        for job, wrong in zip(jobs, run(lambda job, stop: list(_wrong_files(job)), jobs, workers), strict=True):
            faults += (Problem(what, job.shard.name) for what in wrong)
            advance(job.shard.samples)
    return faults


def _wrong_files(job: _Job) -> Iterator[str]:
    """What is wrong with the files that a shard's members lie in."""
    tar = job.shard.labels or TarRecord(name=job.shard.name, bytes=job.shard.bytes, sha256=job.shard.sha256)
    files = [(f"data/{tar.name}", job.version.data / tar.name, tar)]
    files += [(f"images/{one.name[:12]}", job.version.image_tars.path(one.name), one) for one in job.shard.images]
    for name, path, stated in files:
        if not path.is_file():
            yield f"{name}{MISSING}"
        elif path.stat().st_size != stated.bytes:
            yield f"{name}: {path.stat().st_size} bytes, the manifest says {stated.bytes}"
        elif sha256_file(path) != stated.sha256:
            yield f"{name}: its SHA-256 is not the manifest's"


def _against_manifest(job: _Job, rows: list[SampleRow], counts: Mapping[str, int]) -> Iterator[str]:
    """Where a shard that is whole is not what the manifest and the index say of it."""
    shard, now = job.shard, job.version.manifest.format > 1
    for name in COUNTED if now else COUNTED[:3]:
        number = len(rows) if name == "samples" else counts[name]
        if number != getattr(shard, name):
            yield f"data/{shard.name}: {number} {name.replace('_', ' ')}; the manifest says {getattr(shard, name)}"
    if not now:
        return
    if contents_of(rows) != shard.contents:
        yield f"data/{shard.name}: its members are not those of the manifest's contents"
    with suppress(BuildError):  # one that cannot be read is told as a file
        if job.version.rows(shard) != rows:
            yield f"data/{shard.name}: {INDEX} says something else of its samples"


def _check_sample(key: str, members: Mapping[str, bytes], hashes: Mapping[str, str], job: _Job) -> str | Checked:
    """What is wrong with a sample, or what is in it."""
    if tuple(members) != job.features:
        return f"its members are {', '.join(members)}, not {', '.join(job.features)}"
    try:
        label = fields_of(members["json"], key, job.version.manifest)
        if isinstance(label, str):
            return f"its label JSON is damaged ({label})"
        height, width, _ = decode_rgb(members[job.features[0]], label["width"] * label["height"]).shape
        if (label["width"], label["height"]) != (width, height):
            return f"its image is {width}x{height}, its label says {label['width']}x{label['height']}"
        if label["reencoded"] == "none" and hashes[job.features[0]] != label["sha256"]:
            return "its image bytes are not those of the SHA-256 in its label"
        rest = members[job.kind.member] if job.kind.member else b""
        return cut_kind(job.kind.name).check(label, rest, len(job.version.manifest.classes))
    except ImageError as error:
        return f"its image {error}"


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
            keys += (s.key for s in version.samples(record) if _hash(s.key) in twice)
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        yield Problem(f"data/{record.name}: key {keys[0]}{more} stands in another sample too")


def _compare_labels(version: Version, key: np.ndarray, checksum: np.ndarray, shard: np.ndarray) -> Iterator[Problem]:
    """Where labels.parquet and the shards tell different objects: each object of the table is taken off its image's
    checksum, which must leave nothing. Rows of images that are not in the version do not count."""
    manifest, order = version.manifest, np.argsort(key)
    ordered, left = key[order], checksum[order]
    kind = cut_kind(manifest.kind)
    try:
        with pq.ParquetFile(checked_table(version), read_dictionary=["key"]) as file:
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(ROWS, [group], ["key", *kind.columns], use_threads=False):
                    _take_off(batch, ordered, left, kind)
    except BuildError as error:
        yield Problem(str(error).replace(str(version.place(LABELS)), LABELS).partition(": run")[0])
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
    rows.setdefault("source", np.full(int(counts.sum()), "teacher", object))  # of before there were corrections
    np.subtract.at(left, place[counts], kind.row_sums(rows))


def _recounted(version: Version, images: int) -> Iterator[Problem]:
    """Where the manifest counts other images, objects and classes than the shards and labels.parquet hold. images:
    those that are in the shards, without copies and tombstones."""
    manifest, kind = version.manifest, kind_of(version.manifest.kind)
    try:
        keep, rows = keep_of(manifest), _rows_by_fate(version, kind)
    except BuildError as error:
        yield Problem(f"{MANIFEST}: {error}", stray=True)
        return
    objects, per_class = Counter[str](), {outcome: Counter[int]() for outcome in ("predicted", "kept", "ignored")}
    for (reason, outcome, label, before), number in rows.items():
        expected = OUTCOMES[outcomes(np.array([BY_KEY[reason]], np.uint8), keep)[0]] if reason in BY_KEY else ""
        drawn = kind.outlines and BY_KEY.get(reason) in (Reason.MOVED, Reason.ADDED)  # a box without an outline
        if outcome != ("ignored" if drawn and expected == "kept" else expected):
            yield Problem(
                f"{LABELS}: {number} objects are {outcome} for the reason {reason!r}, which makes them {expected}"
            )
        objects[reason] += number
        if reason != Reason.ADDED.key:
            objects["predicted"] += number
            per_class["predicted"][label if before is None else before] += number
        if outcome in per_class:
            per_class[outcome][label] += number
    wrong = [f"objects.{name}" for name, n in manifest.objects.items() if objects[name] != n]
    for outcome, numbers in per_class.items():
        stated = {n: manifest.per_class[name][outcome] for n, name in enumerate(manifest.classes)}
        wrong += [f"per_class.{manifest.classes[n]}.{outcome}" for n in stated if stated[n] != numbers[n]]
    wrong += ["images.written"] if manifest.images.get("written", 0) != images else []
    left_out = read_left_out(version.left_out).by_state if version.has(LEFT_OUT) else {}
    for state, listed in left_out.items():
        wrong += [f"images.{state}"] if manifest.images.get(state, 0) > len(listed) else []
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        yield Problem(f"{MANIFEST}: {wrong[0]}{more} is not what the shards and {LABELS} hold", stray=True)


def _rows_by_fate(version: Version, kind: LabelKind) -> Counter[tuple[str, str, int, int | None]]:
    """Objects of labels.parquet, of maps pixels, by reason, outcome, class, and the class that the teacher gave where
    people changed it; those of images that are to be skipped left out."""
    rows, by = Counter[tuple[str, str, int, int | None]](), ["reason", "outcome", "label", "label_before"]
    gone = pa.array(version.manifest.tombstones, pa.string())
    with pq.ParquetFile(version.labels, read_dictionary=["reason", "outcome"]) as file:
        there = [name for name in ("key", *by, "pixels") if name in file.schema_arrow.names]
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(ROWS, [group], there, use_threads=False):
                table = pa.Table.from_batches([batch])
                if len(gone):
                    table = table.filter(pc.invert(pc.is_in(table["key"], gone)))
                if "label_before" not in there:
                    table = table.append_column("label_before", pa.nulls(len(table), pa.int16()))
                summed = table.group_by(by).aggregate([("pixels", "sum") if kind.pixels else ([], "count_all")])
                number = summed["pixels_sum" if kind.pixels else "count_all"].to_pylist()
                fates = zip(*(summed[name].to_pylist() for name in by), strict=True)
                rows.update(dict(zip(fates, number, strict=True)))
    return rows

"""One shard of a version: predictions and rules to samples, their tar, and what happened to every object."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from builder import BuildError
from builder.engine import until
from builder.files import digest, new_file, sha256_file, write_file
from builder.labelled import LabelledPool
from builder.manifest import ShardRecord
from builder.pool import OK, REMOVED, Chunk, Pool, PoolImage
from builder.predictions import BOX
from builder.rules import DROPPED, IGNORED, KEPT, REASONS, RULES, Decision, Objects, Thresholds, decide
from builder.shards import ShardFile, write_shard
from teachers.images import ImageError, encode_upright

FORMAT = 2
"""Raised whenever the same inputs would give other bytes, so that an old claim is not taken for a new build."""
OUTCOMES = ("kept", "ignored", "dropped")
WRITTEN, EMPTY, TOMBSTONE = "written", "empty", "tombstone"
LABELS = pa.schema(
    [("key", pa.string()), ("label", pa.int16()), ("score", pa.float32()), ("calibrated", pa.float32())]
    + [(side, pa.float32()) for side in BOX]
    + [("outcome", pa.string()), ("reason", pa.string())]
)
REPEATED = ["key", "label", "outcome", "reason"]
"""Columns worth a dictionary: for the other numbers, hardly ever equal, looking for one takes most of the writing."""


@dataclass(frozen=True)
class Parent:
    """The version that this one goes on from: its folder, pool, and shards by name. renewed: keys of images whose bytes
    changed since, so that the key stands for another image now and the old sample may not stay."""

    folder: Path
    pool: Pool
    shards: Mapping[str, ShardRecord]
    renewed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Writing:
    """What all shards of a version share. folder: of the version. labelled: the pool, with its calibration and the
    images to leave out. extension: of its images."""

    folder: Path
    labelled: LabelledPool
    thresholds: Thresholds
    drop_empty: bool
    extension: str
    parent: Parent | None = None

    @cached_property
    def rules(self) -> str:
        """Digest of what, beside the images, decides what is written of them."""
        keep = self.labelled.keep.model_dump(exclude={*RULES, "ignore", "calibration"})
        calibrate = self.labelled.calibrate
        sides = [
            np.where(np.isfinite(side), side, -1).tolist() for side in (self.thresholds.keep, self.thresholds.ignore)
        ]
        told = [FORMAT, self.labelled.predictions.name, keep, sides, self.thresholds.top_box, self.drop_empty]
        return digest([*told, self.extension, calibrate.model_dump() if calibrate else None])


@dataclass(frozen=True)
class ShardJob:
    """All that one worker needs to write one shard. chunks: of the pool."""

    number: int
    chunks: range
    writing: Writing

    @property
    def name(self) -> str:
        return f"train-{self.number:06d}.tar"

    @property
    def record(self) -> Path:
        """Says, once it is there, that the shard is complete, and what is in it."""
        return self.writing.folder / ".work" / f"{self.number:06d}.json"

    @property
    def labels(self) -> Path:
        """This shard's part of labels.parquet."""
        return self.record.with_suffix(".parquet")


def write_job(job: ShardJob, stop: Event) -> int:
    """Write a shard, its part of labels.parquet and, last, the record that says so. Returns its images.

    If the parent version has the same shard, its file is taken as it is, with images that were removed since: their
    keys become tombstones.
    """
    writing, labelled = job.writing, job.writing.labelled
    chunks = list(labelled.pool.chunks(job.chunks.start, job.chunks.stop))
    taken = _from_parent(job, chunks)
    gone = taken.removed if taken else frozenset[str]()
    objects, states = replace(labelled, revived=gone).load(chunks)
    decision = decide(objects, labelled.keep, writing.thresholds, labelled.classes)
    is_kept = decision.outcome == KEPT
    kept = np.bincount(objects.image[is_kept], minlength=len(states))
    fate = [EMPTY if state == OK and writing.drop_empty and not kept[n] else state for n, state in enumerate(states)]
    chosen = [n for n, state in enumerate(fate) if state == OK]
    written = taken.file if taken else None
    images = [image for chunk in chunks for image in chunk.images]
    if chosen and not taken:
        labels = _objects_by_image(objects, decision, len(images))
        samples = (_sample(images[n], writing.extension, labels[n]) for n in chosen)
        written = write_shard(writing.folder / "data" / job.name, until(stop, samples))
    _write_labels(job, images, objects, decision)
    record = {
        "shard": _shard_record(job, written, objects, decision, chosen, _inputs(job, chunks, gone))
        if written
        else None,
        "tombstones": [images[n].key for n in chosen if images[n].sha256 in gone],
        "images": Counter(
            state if state != OK else TOMBSTONE if image.sha256 in gone else WRITTEN
            for image, state in zip(images, fate, strict=True)
        ),
        "reasons": np.bincount(decision.reason, minlength=len(REASONS)),
        "per_class": {
            name: np.bincount(objects.label[mask], minlength=len(job.writing.labelled.classes))
            for name, mask in (("predicted", slice(None)), ("kept", is_kept), ("ignored", decision.outcome == IGNORED))
        },
    }
    write_file(job.record, orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY))
    return len(images)


@dataclass(frozen=True)
class _Taken:
    """A shard of the parent that serves. removed: SHA-256 of images that left the pool since."""

    file: ShardFile
    removed: frozenset[str]


def _from_parent(job: ShardJob, chunks: Sequence[Chunk]) -> _Taken | None:
    """The parent's shard of this name, linked into place, if all that decides its bytes is the same."""
    record = job.writing.parent.shards.get(job.name) if job.writing.parent else None
    if job.writing.parent is None or record is None or record.chunks != (job.chunks.start, job.chunks.stop):
        return None
    before = {
        row.sha256: row.state for chunk in job.writing.parent.pool.chunks(*record.chunks) for row in chunk.images
    }  # a parent's pool is an older scan: the same images in the same chunks
    gone = frozenset(
        image.sha256
        for chunk in chunks
        for image in chunk.images
        if image.state == REMOVED and before.get(image.sha256) == OK
    )
    if any(image.key in job.writing.parent.renewed for chunk in chunks for image in chunk.images):
        return None
    source, target = job.writing.parent.folder / "data" / job.name, job.writing.folder / "data" / job.name
    if _inputs(job, chunks, gone) != record.inputs or not source.is_file() or sha256_file(source) != record.sha256:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)  # versions never change: both may be the same file
    except OSError:
        shutil.copyfile(source, target)
    return _Taken(ShardFile(record.samples, record.bytes, record.sha256), gone)


def _inputs(job: ShardJob, chunks: Sequence[Chunk], revived: frozenset[str]) -> str:
    """Digest of all that decides a shard's bytes."""
    labelled = replace(job.writing.labelled, revived=revived)
    found = hashlib.sha256(job.writing.rules.encode())
    for chunk in chunks:
        columns = [chunk.rows[name].to_pylist() for name in ("key", "name", "sha256")]
        found.update(orjson.dumps([*columns, labelled.states(chunk)]))
    return found.hexdigest()


def _shard_record(
    job: ShardJob, written: ShardFile, objects: Objects, decision: Decision, chosen: Sequence[int], inputs: str
) -> dict[str, Any]:
    outcome = decision.outcome[np.isin(objects.image, chosen)]
    kept, ignored = (int((outcome == code).sum()) for code in (KEPT, IGNORED))
    return ShardRecord(
        name=job.name,
        bytes=written.bytes,
        sha256=written.sha256,
        samples=written.samples,
        kept=kept,
        ignored=ignored,
        chunks=(job.chunks.start, job.chunks.stop),
        inputs=inputs,
    ).model_dump()


def _objects_by_image(objects: Objects, decision: Decision, images: int) -> list[dict[str, np.ndarray]]:
    """For each image, the `objects` of its label JSON: kept and ignored ones, boxes as COCO `xywh` pixels. Computed for
    all images at once: a slice costs a hundredth of what a selection of its own would."""
    shown = np.flatnonzero(decision.outcome != DROPPED)
    boxes = objects.boxes[shown]
    size = boxes[:, 2:] - boxes[:, :2]
    columns = {
        "bbox": np.concatenate([boxes[:, :2], size], axis=1),
        "category": objects.label[shown],
        "score": objects.score[shown],
        **({} if objects.calibrated is None else {"calibrated": objects.calibrated[shown]}),
        "ignore": decision.outcome[shown] == IGNORED,
        "area": size[:, 0] * size[:, 1],
    }
    cuts = np.searchsorted(objects.image[shown], np.arange(images + 1)).tolist()
    return [{name: column[a:b] for name, column in columns.items()} for a, b in pairwise(cuts)]


def _sample(image: PoolImage, extension: str, objects: Mapping[str, np.ndarray]) -> tuple[str, list[tuple[str, bytes]]]:
    """The members of one image: its bytes and its label JSON."""
    data = _read_unchanged(image)
    reencoded = "format" if image.format != extension else "upright" if image.orientation != 1 else "none"
    if reencoded != "none":
        try:
            data = encode_upright(data, extension)
        except ImageError as error:
            raise BuildError(f"{image.uri} cannot be re-encoded: it {error}") from None
    label = {
        "key": image.key,
        "name": image.name,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "reencoded": reencoded,
        "objects": objects,
    }
    return image.key, [(extension, data), ("json", orjson.dumps(label, option=orjson.OPT_SERIALIZE_NUMPY))]


def _read_unchanged(image: PoolImage) -> bytes:
    """An image's bytes. The hash is computed again only if the file's size or time is not that of the scan."""
    try:
        with open(image.uri, "rb", buffering=0) as file:  # unbuffered: half the time of opening a small file
            status = os.fstat(file.fileno())
            data = os.pread(file.fileno(), image.bytes, image.offset)
    except OSError as error:
        raise BuildError(
            f"image {image.uri} can no longer be read ({error.strerror or error}): restore it, or scan again"
        ) from None
    same_time = status.st_mtime_ns == image.mtime_ns
    same_size = len(data) == image.bytes and image.offset + image.bytes <= status.st_size
    if image.offset == 0:  # a whole file; a tar's members start behind a header
        same_size = status.st_size == image.bytes
    if not same_size or (not same_time and hashlib.sha256(data).hexdigest() != image.sha256):
        raise BuildError(f"image {image.uri} changed since it was scanned: scan its source again")
    return data


def _write_labels(job: ShardJob, images: Sequence[PoolImage], objects: Objects, decision: Decision) -> None:
    keys = pa.array([image.key for image in images], pa.string())
    boxes = {side: np.ascontiguousarray(objects.boxes[:, n]) for n, side in enumerate(BOX)}
    table = pa.table(
        {
            "key": keys.take(pa.array(objects.image)),
            "label": objects.label,
            "score": objects.score,
            "calibrated": pa.nulls(len(objects.score), pa.float32())
            if objects.calibrated is None
            else objects.calibrated,
            **boxes,
            "outcome": pa.array(OUTCOMES).take(pa.array(decision.outcome)),
            "reason": pa.array(REASONS).take(pa.array(decision.reason)),
        },
        schema=LABELS,
    )
    with new_file(job.labels) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=REPEATED)

"""One shard of a version: predictions and rules to samples, their tar, and what happened to every object."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from builder.files import digest, new_file, sha256_file, sync_folder, write_file
from builder.labelled import LabelledPool
from builder.manifest import ShardRecord
from builder.overrides import Override
from builder.overruling import Overruled, overrule
from builder.pool import OK, REMOVED, Chunk, PoolImage
from builder.predictions import BOX
from builder.rules import DROPPED, IGNORED, KEPT, REASONS, RULES, Thresholds, decide
from builder.shards import ShardError, ShardFile, read_samples, write_shard
from teachers.images import ImageError, encode_upright

FORMAT = 4
"""Raised whenever the same inputs would give other bytes, so that an old claim is not taken for a new build."""
OUTCOMES = ("kept", "ignored", "dropped")
SOURCES = ("teacher", "human")
"""Who decided what becomes of an object."""
WRITTEN, EMPTY, TOMBSTONE = "written", "empty", "tombstone"
LABELS = pa.schema(
    [("key", pa.string()), ("label", pa.int16()), ("score", pa.float32()), ("calibrated", pa.float32())]
    + [(side, pa.float32()) for side in BOX]
    + [("outcome", pa.string()), ("reason", pa.string()), ("source", pa.string())]
)
REPEATED = ["key", "label", "outcome", "reason", "source"]
"""Columns worth a dictionary: for the other numbers, hardly ever equal, looking for one takes most of the writing."""


@dataclass(frozen=True)
class Parent:
    """A version whose shards may serve again: its folder, and its shards by name. renewed: keys of images whose bytes
    changed since, so that the key stands for another image now and the old sample may not stay."""

    folder: Path
    shards: Mapping[str, ShardRecord]
    renewed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Writing:
    """What all shards of a version share. folder: of the version. labelled: the pool, with its calibration and the
    images to leave out. extension: of its images. parents: whose shards are looked at in turn. tombstones: keys of
    removed images that are written all the same, for a repair. overrides: by SHA-256 of their image."""

    folder: Path
    labelled: LabelledPool
    thresholds: Thresholds
    drop_empty: bool
    extension: str
    parents: tuple[Parent, ...] = ()
    tombstones: frozenset[str] = frozenset()
    overrides: Mapping[str, Sequence[Override]] = field(default_factory=dict)

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
    writing = job.writing
    chunks = list(writing.labelled.pool.chunks(job.chunks.start, job.chunks.stop))
    images = [image for chunk in chunks for image in chunk.images]
    written: ShardFile | None = None
    chosen = _choose(writing, chunks, images, frozenset(i.sha256 for i in images if i.key in writing.tombstones))
    for parent in writing.parents:
        shard = parent.shards.get(job.name)
        if shard is None or shard.chunks != (job.chunks.start, job.chunks.stop):
            continue
        gone = _still_there(parent, job, images)
        with_gone = chosen if gone == chosen.gone else _choose(writing, chunks, images, gone)
        if with_gone.inputs == shard.inputs and _take(parent, job, shard):
            chosen, written = with_gone, ShardFile(shard.samples, shard.bytes, shard.sha256)
            break
    if chosen.places and not written:
        labels = _objects_by_image(chosen.made, len(images))
        samples = (_sample(images[n], writing.extension, labels[n]) for n in chosen.places)
        written = write_shard(writing.folder / "data" / job.name, until(stop, samples))
    _write_labels(job, images, chosen.made)
    record = {
        "shard": _shard_record(job, written, chosen) if written else None,
        "tombstones": [images[n].key for n in chosen.tombstones],
        "images": Counter(chosen.fate),
        "overrides": [[asdict(one), state] for one, state in _settled(chosen, images)],
        **_counts(chosen, len(writing.labelled.classes)),
    }
    write_file(job.record, orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY))
    return len(images)


@dataclass(frozen=True)
class _Chosen:
    """What rules and people make of a shard's images. labels: of the teacher's objects, with `image`, before anybody
    changed them. gone: SHA-256 of removed images that count as if they were there. fate: what becomes of each image.
    places: of those that are written. inputs: digest of all that decides the bytes."""

    made: Overruled
    label: np.ndarray
    image: np.ndarray
    gone: frozenset[str]
    fate: list[str]
    places: list[int]
    inputs: str

    @property
    def tombstones(self) -> list[int]:
        return [n for n in self.places if self.fate[n] == TOMBSTONE]


def _choose(writing: Writing, chunks: Sequence[Chunk], images: Sequence[PoolImage], gone: frozenset[str]) -> _Chosen:
    labelled = replace(writing.labelled, revived=gone)
    objects, states = labelled.load(chunks)
    decision = decide(objects, labelled.keep, writing.thresholds, labelled.classes)
    said = {
        n: writing.overrides[image.sha256]
        for n, image in enumerate(images if writing.overrides else ())
        if states[n] == OK and image.sha256 in writing.overrides
    }
    made = overrule(objects, decision, said, labelled.classes)
    kept = np.bincount(made.objects.image[made.decision.outcome == KEPT], minlength=len(states))
    places = [n for n, state in enumerate(states) if state == OK and (kept[n] or not writing.drop_empty)]
    written = set(places)
    fate = [
        state if state != OK else REMOVED if image.state == REMOVED else EMPTY
        for state, image in zip(states, images, strict=True)
    ]
    for n in written:
        fate[n] = TOMBSTONE if images[n].state == REMOVED else WRITTEN
    told = [[images[n].key, images[n].name, images[n].sha256, *map(asdict, said.get(n, ()))] for n in places]
    inputs = hashlib.sha256(writing.rules.encode() + orjson.dumps(told)).hexdigest()
    return _Chosen(made, objects.label, objects.image, gone, fate, places, inputs)


def _settled(chosen: _Chosen, images: Sequence[PoolImage]) -> list[tuple[Override, str]]:
    """What became of the overrides of these images, tombstoned ones left out."""
    gone = {images[n].sha256 for n in chosen.tombstones}
    return [(one, state) for one, state in chosen.made.states.items() if one.sha256 not in gone]


def _still_there(parent: Parent, job: ShardJob, images: Sequence[PoolImage]) -> frozenset[str]:
    """SHA-256 of removed images whose samples lie in the parent's shard of this name."""
    removed = {image.key: image.sha256 for image in images if image.state == REMOVED}
    if not removed:
        return frozenset()
    try:
        keys = [sample.key for sample in read_samples(parent.folder / "data" / job.name)]
    except (ShardError, OSError):
        return frozenset()  # damaged: `_take` will not have it
    return frozenset(removed[key] for key in keys if key in removed and key not in parent.renewed)


def _take(parent: Parent, job: ShardJob, record: ShardRecord) -> bool:
    """Link the parent's shard into place; False if it is not what its manifest says."""
    source, target = parent.folder / "data" / job.name, job.writing.folder / "data" / job.name
    if not source.is_file() or sha256_file(source) != record.sha256:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)  # versions never change: both may be the same file
    except OSError:
        with open(source, "rb") as old, new_file(target) as file:
            shutil.copyfileobj(old, file)
    sync_folder(target.parent)  # before the record says that it is there
    return True


def _counts(chosen: _Chosen, classes: int) -> dict[str, Any]:
    """Objects by reason and by class and outcome, without those of tombstoned images, which nobody is to read."""
    objects, decision = chosen.made.objects, chosen.made.decision
    there = ~np.isin(objects.image, chosen.tombstones)
    labels = {
        "predicted": chosen.label[~np.isin(chosen.image, chosen.tombstones)],
        "kept": objects.label[there & (decision.outcome == KEPT)],
        "ignored": objects.label[there & (decision.outcome == IGNORED)],
    }
    return {
        "reasons": np.bincount(decision.reason[there], minlength=len(REASONS)),
        "per_class": {name: np.bincount(label[label >= 0], minlength=classes) for name, label in labels.items()},
    }


def _shard_record(job: ShardJob, written: ShardFile, chosen: _Chosen) -> dict[str, Any]:
    def count(places: Sequence[int], code: int) -> int:
        return int((chosen.made.decision.outcome[np.isin(chosen.made.objects.image, places)] == code).sum())

    return ShardRecord(
        name=job.name,
        bytes=written.bytes,
        sha256=written.sha256,
        samples=written.samples,
        kept=count(chosen.places, KEPT),
        ignored=count(chosen.places, IGNORED),
        tombstones=len(chosen.tombstones),
        skipped_kept=count(chosen.tombstones, KEPT),
        skipped_ignored=count(chosen.tombstones, IGNORED),
        chunks=(job.chunks.start, job.chunks.stop),
        inputs=chosen.inputs,
    ).model_dump()


def _objects_by_image(made: Overruled, images: int) -> list[dict[str, Any]]:
    """For each image, the `objects` of its label JSON: kept and ignored ones, boxes as COCO `xywh` pixels. Computed for
    all images at once: a slice costs a hundredth of what a selection of its own would."""
    objects, decision = made.objects, made.decision
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
        "source": np.array(SOURCES, object)[made.human[shown].astype(int)].tolist(),
    }
    cuts = np.searchsorted(objects.image[shown], np.arange(images + 1)).tolist()
    return [{name: column[a:b] for name, column in columns.items()} for a, b in pairwise(cuts)]


def _sample(image: PoolImage, extension: str, objects: Mapping[str, Any]) -> tuple[str, list[tuple[str, bytes]]]:
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


def _write_labels(job: ShardJob, images: Sequence[PoolImage], made: Overruled) -> None:
    objects, decision = made.objects, made.decision
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
            "source": pa.array(SOURCES).take(pa.array(made.human.astype(np.int8))),
        },
        schema=LABELS,
    )
    with new_file(job.labels) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=REPEATED)

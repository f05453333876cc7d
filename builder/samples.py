"""One shard of a version: predictions and rules to samples, their tar, and what happened to every object."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from builder.files import new_file, write_file
from builder.manifest import ShardRecord
from builder.pool import OK, UNREADABLE, Chunk, PoolImage
from builder.predictions import BOX, read_chunk
from builder.rules import DROPPED, IGNORED, KEPT, REASONS, Decision, Keep, Objects, decide, solve
from builder.shards import ShardFile, write_shard
from teachers.images import ImageError, encode_upright

OUTCOMES = ("kept", "ignored", "dropped")
WRITTEN, EMPTY = "written", "empty"
LABELS = pa.schema(
    [("key", pa.string()), ("label", pa.int16()), ("score", pa.float32())]
    + [(side, pa.float32()) for side in BOX]
    + [("outcome", pa.string()), ("reason", pa.string())]
)
REPEATED = ["key", "label", "outcome", "reason"]
"""Columns worth a dictionary: for the other numbers, hardly ever equal, looking for one takes most of the writing."""


@dataclass(frozen=True)
class ShardJob:
    """All that one worker needs to write one shard."""

    number: int
    chunks: tuple[Chunk, ...]
    version: Path
    predictions: Path
    classes: tuple[str, ...]
    floor: float
    keep: Keep
    drop_empty: bool
    extension: str

    @property
    def name(self) -> str:
        return f"train-{self.number:06d}.tar"

    @property
    def record(self) -> Path:
        """Says, once it is there, that the shard is complete, and what is in it."""
        return self.version / ".work" / f"{self.number:06d}.json"

    @property
    def labels(self) -> Path:
        """This shard's part of labels.parquet."""
        return self.record.with_suffix(".parquet")


def write_job(job: ShardJob, stop: Event) -> int:
    """Write a shard, its part of labels.parquet and, last, the record that says so. Returns its images."""
    images = [image for chunk in job.chunks for image in chunk.images]
    objects, states = _load(job, images)
    decision = decide(objects, job.keep, solve(job.keep, job.classes, job.floor), job.classes)
    is_kept = decision.outcome == KEPT
    kept = np.bincount(objects.image[is_kept], minlength=len(images))
    fate = [EMPTY if state == OK and job.drop_empty and not kept[n] else state for n, state in enumerate(states)]
    chosen = [n for n, state in enumerate(fate) if state == OK]
    written = None
    if chosen:
        labels = _objects_by_image(objects, decision, len(images))
        samples = (_sample(images[n], job.extension, labels[n]) for n in chosen)
        written = write_shard(job.version / "data" / job.name, until(stop, samples))
    _write_labels(job, images, objects, decision)
    record = {
        "shard": _shard_record(job, written, objects, decision, chosen) if written else None,
        "images": Counter(WRITTEN if state == OK else state for state in fate),
        "reasons": np.bincount(decision.reason, minlength=len(REASONS)),
        "per_class": {
            name: np.bincount(objects.label[mask], minlength=len(job.classes))
            for name, mask in (("predicted", slice(None)), ("kept", is_kept), ("ignored", decision.outcome == IGNORED))
        },
    }
    write_file(job.record, orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY))
    return len(images)


def _shard_record(
    job: ShardJob, written: ShardFile, objects: Objects, decision: Decision, chosen: Sequence[int]
) -> dict[str, Any]:
    outcome = decision.outcome[np.isin(objects.image, chosen)]
    kept, ignored = (int((outcome == code).sum()) for code in (KEPT, IGNORED))
    return ShardRecord(
        name=job.name, bytes=written.bytes, sha256=written.sha256, samples=written.samples, kept=kept, ignored=ignored
    ).model_dump()


def _load(job: ShardJob, images: Sequence[PoolImage]) -> tuple[Objects, list[str]]:
    """The raw objects of all chunks of a shard, those of usable images only, and each image's state."""
    parts = [read_chunk(job.predictions / chunk.digest) for chunk in job.chunks]
    states = [
        image.state if image.state != OK else OK if status == "ok" else UNREADABLE
        for image, status in zip(images, (s for part in parts for s in part.status), strict=True)
    ]
    starts = np.cumsum([0] + [len(chunk.images) for chunk in job.chunks])
    image = np.concatenate([part.image + start for part, start in zip(parts, starts, strict=False)])
    usable = np.array([state == OK for state in states], bool)[image]
    sizes = np.array([(i.width, i.height) for i in images], np.int32).reshape(-1, 2)
    label, score, boxes = (
        np.concatenate([getattr(part, name) for part in parts])[usable] for name in ("label", "score", "boxes")
    )
    return Objects(image[usable], label, score, boxes, sizes, [i.name for i in images]), states


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
            **boxes,
            "outcome": pa.array(OUTCOMES).take(pa.array(decision.outcome)),
            "reason": pa.array(REASONS).take(pa.array(decision.reason)),
        },
        schema=LABELS,
    )
    with new_file(job.labels) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=REPEATED)

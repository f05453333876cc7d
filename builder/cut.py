"""Cut a version: pool + predictions + rules → shards, labels.parquet, card, manifest.

The shard is the unit of work and of resume. Its samples depend on the pool alone (whole chunks, up to `max_mb` of image
bytes), so a threshold never moves an image to another shard. What is finished lies in `.work/` until the manifest is
written.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any, Literal, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, PositiveInt

from builder import BuildError
from builder.engine import Track, silent
from builder.files import digest, locked, new_file, sha256_file, write_file
from builder.manifest import FILE, Manifest, ShardRecord, read_manifest, version_id, write_manifest
from builder.pool import DUPLICATE, OK, REMOVED, UNREADABLE, Chunk, Pool, PoolImage
from builder.predictions import read_chunk, read_meta
from builder.report import card
from builder.rules import DROPPED, IGNORED, KEPT, REASONS, Decision, Keep, Objects, decide, solve
from builder.shards import write_shard
from builder.store import Store
from teachers.images import ImageError, encode_upright

T = TypeVar("T")
FORMAT = 1
"""Raised whenever the same inputs would give other bytes, so that an old claim is not taken for a new build."""
OUTCOMES = ("kept", "ignored", "dropped")
WRITTEN, EMPTY = "written", "empty"
LABELS = pa.schema(
    [("key", pa.string()), ("label", pa.int16()), ("score", pa.float32())]
    + [(side, pa.float32()) for side in ("x1", "y1", "x2", "y2")]
    + [("outcome", pa.string()), ("reason", pa.string())]
)
REPEATED = ["key", "label", "outcome", "reason"]
"""Columns worth a dictionary: for the other numbers, hardly ever equal, looking for one takes most of the writing."""


class ImageOptions(BaseModel):
    """The `images` section of a recipe. drop_empty: leave out images on which nothing is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    drop_empty: bool = False


class ShardOptions(BaseModel):
    """The `shards` section of a recipe. max_mb: image megabytes in a shard, rounded up to whole chunks. image_format:
    what a pool of mixed formats is brought to (a pool of one format keeps its bytes)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_mb: PositiveInt = 256
    image_format: Literal["jpg", "png", "webp"] = "jpg"


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


@dataclass(frozen=True)
class Cut:
    """A complete version, and how many of its shards this run wrote (0: all was there)."""

    folder: Path
    manifest: Manifest
    shards_written: int


def cut(
    pool: Pool,
    predictions: str,
    store: Store,
    *,
    name: str,
    keep: Keep,
    images: ImageOptions,
    shards: ShardOptions,
    provenance: Mapping[str, Any],
    workers: int,
    track: Track = silent,
) -> Cut:
    """The version of dataset `name` for these inputs: built, finished, or found complete.

    Raises BuildError for rules that do not fit the teacher, unlabelled chunks, or an image that changed since its scan.
    """
    labelled = store.predictions / predictions
    meta = read_meta(labelled)
    description = meta["description"]
    classes, floor = tuple(description["classes"]), float(description["floor"])
    solve(keep, classes, floor)
    missing = sum(not (labelled / chunk.digest).is_dir() for chunk in pool.chunks())
    if missing:
        raise BuildError(
            f"{missing} chunks of pool {pool.id[:12]} have no predictions of {predictions[:12]}: label it first"
        )
    options = {"keep": keep.model_dump(), "images": images.model_dump(), "shards": shards.model_dump()}
    inputs = {"format": FORMAT, "pool": pool.id, "predictions": predictions, **options}
    folder = store.claim(name, digest(inputs))
    with locked(
        folder.parent / f".lock-{folder.name}",
        f"{name}@{folder.name}",
        sweep=[folder, folder / "data", folder / ".work"],
    ):
        if (folder / FILE).exists():
            shutil.rmtree(folder / ".work", ignore_errors=True)
            return Cut(folder, read_manifest(folder), 0)
        extension = _extension(pool, shards.image_format)
        jobs = [
            ShardJob(number, chunks, folder, labelled, classes, floor, keep, images.drop_empty, extension)
            for number, chunks in enumerate(_plan(pool, shards.max_mb * 1_000_000))
        ]
        pending = [job for job in jobs if not _record(job).exists()]
        with track("cut", sum(len(chunk.images) for job in pending for chunk in job.chunks)) as advance:
            for images_done in _write_jobs(pending, workers):
                advance(images_done)
        manifest = _finish(folder, jobs, pool, {"inputs": inputs, "teacher": meta, **provenance}, name)
        shutil.rmtree(folder / ".work")
    return Cut(folder, manifest, len(pending))


def _plan(pool: Pool, max_bytes: int) -> Iterator[tuple[Chunk, ...]]:
    """Whole consecutive chunks, as many as fit `max_bytes` of original image bytes, at least one."""
    group: list[Chunk] = []
    total = 0
    for chunk in pool.chunks():
        size = sum(image.bytes for image in chunk.images)
        if group and total + size > max_bytes:
            yield tuple(group)
            group, total = [], 0
        group.append(chunk)
        total += size
    if group:
        yield tuple(group)


def _extension(pool: Pool, image_format: str) -> str:
    """The extension of all images of the version: the pool's own format if it has one (that can be written upright)."""
    readable = [image for image in pool.images if image.format]
    formats = {image.format for image in readable}
    rotated = any(image.orientation != 1 for image in readable)
    if len(formats) == 1 and (not rotated or formats <= {"jpg", "png", "webp"}):
        return formats.pop()
    return image_format


def _record(job: ShardJob) -> Path:
    return job.version / ".work" / f"{job.number:06d}.json"


def _write_jobs(jobs: Sequence[ShardJob], workers: int) -> Iterator[int]:
    """Write shards, `workers` at a time; each one's images. The first error, or Ctrl-C, stops the others at once.

    In threads, since reading, hashing, encoding and writing leave the interpreter's lock: they need none of a process's
    half second to start, and none outlives a parent that was killed.
    """
    stop = Event()
    with ThreadPoolExecutor(workers) as threads:
        try:
            yield from threads.map(partial(_write_job, stop=stop), jobs)
        finally:
            stop.set()


def _write_job(job: ShardJob, stop: Event) -> int:
    """Write a shard, its part of labels.parquet and, last, the record that says so. Returns its images."""
    images = [image for chunk in job.chunks for image in chunk.images]
    objects, states = _load(job, images)
    decision = decide(objects, job.keep, solve(job.keep, job.classes, job.floor), job.classes)
    kept = np.bincount(objects.image[decision.outcome == KEPT], minlength=len(images))
    fate = [EMPTY if state == OK and job.drop_empty and not kept[n] else state for n, state in enumerate(states)]
    chosen = [n for n, state in enumerate(fate) if state == OK]
    written = None
    if chosen:
        labels = _objects_by_image(objects, decision, len(images))
        samples = (_sample(images[n], job.extension, labels[n]) for n in chosen)
        written = write_shard(job.version / "data" / job.name, _until(stop, samples))
    _write_labels(job, images, objects, decision)
    in_shard = np.isin(objects.image, chosen)
    counts = {
        outcome: int((in_shard & (decision.outcome == code)).sum())
        for code, outcome in ((KEPT, "kept"), (IGNORED, "ignored"))
    }
    shard = (
        ShardRecord(name=job.name, bytes=written.bytes, sha256=written.sha256, samples=written.samples, **counts)
        if written
        else None
    )
    record = {
        "shard": shard.model_dump() if shard else None,
        "images": Counter(WRITTEN if state == OK else state for state in fate),
        "reasons": np.bincount(decision.reason, minlength=len(REASONS)),
        "per_class": {
            "predicted": np.bincount(objects.label, minlength=len(job.classes)),
            **{
                o: np.bincount(objects.label[decision.outcome == code], minlength=len(job.classes))
                for code, o in ((KEPT, "kept"), (IGNORED, "ignored"))
            },
        },
    }
    write_file(_record(job), orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY))
    return len(images)


def _until(stop: Event, samples: Iterator[T]) -> Iterator[T]:
    for sample in samples:
        if stop.is_set():
            raise CancelledError
        yield sample


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
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            data = os.pread(file.fileno(), image.bytes, image.offset)
    except OSError as error:
        raise BuildError(
            f"image {image.uri} can no longer be read ({error.strerror or error}): restore it, or scan again"
        ) from None
    if len(data) < image.bytes or (mtime_ns != image.mtime_ns and hashlib.sha256(data).hexdigest() != image.sha256):
        raise BuildError(f"image {image.uri} changed since it was scanned: scan its source again")
    return data


def _write_labels(job: ShardJob, images: Sequence[PoolImage], objects: Objects, decision: Decision) -> None:
    keys = pa.array([image.key for image in images], pa.string())
    boxes = {side: np.ascontiguousarray(objects.boxes[:, n]) for n, side in enumerate(("x1", "y1", "x2", "y2"))}
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
    with new_file(_record(job).with_suffix(".parquet")) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=REPEATED)


def _finish(folder: Path, jobs: Sequence[ShardJob], pool: Pool, provenance: dict[str, Any], name: str) -> Manifest:
    """Join the shards' records: labels.parquet, card, and the manifest, which makes the version complete."""
    records = [orjson.loads(_record(job).read_bytes()) for job in jobs]
    shards = [ShardRecord.model_validate(record["shard"]) for record in records if record["shard"]]
    images = sum((Counter(record["images"]) for record in records), Counter[str]())
    images[DUPLICATE] += pool.count(DUPLICATE)
    images[UNREADABLE] += sum(image.state == UNREADABLE and image.chunk < 0 for image in pool.images)
    if not shards:
        raise BuildError(
            f"nothing to write for {name}: of {len(pool.images)} images "
            + ", ".join(f"{n} are {s}" for s, n in images.items() if n)
        )
    with (
        new_file(folder / "labels.parquet") as file,
        pq.ParquetWriter(file, LABELS, compression="zstd", use_dictionary=REPEATED) as writer,
    ):
        for job in jobs:
            writer.write_table(pq.read_table(_record(job).with_suffix(".parquet"), partitioning=None))
    classes, features = list(jobs[0].classes), [jobs[0].extension, "json"]
    reasons = np.sum([record["reasons"] for record in records], axis=0)
    totals = {
        o: np.sum([record["per_class"][o] for record in records], axis=0) for o in ("predicted", "kept", "ignored")
    }
    manifest = Manifest(
        name=name,
        version=folder.name,
        id=version_id(classes, features, [s.sha256 for s in shards], []),
        kind="detection",
        classes=classes,
        features=features,
        shards=shards,
        images={s: images[s] for s in (WRITTEN, EMPTY, UNREADABLE, DUPLICATE, REMOVED)} | {"pool": len(pool.images)},
        objects={reason: int(n) for reason, n in zip(REASONS, reasons, strict=True)}
        | {"predicted": int(reasons.sum())},
        per_class={c: {o: int(totals[o][n]) for o in totals} for n, c in enumerate(classes)},
        files={"labels.parquet": sha256_file(folder / "labels.parquet")},
        provenance=provenance,
    )
    write_file(folder / "README.md", card(manifest).encode())
    manifest = manifest.model_copy(update={"files": {**manifest.files, "README.md": sha256_file(folder / "README.md")}})
    write_manifest(folder, manifest)
    return manifest

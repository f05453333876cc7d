"""Cut a version: pool + predictions + rules → shards, labels.parquet, card, manifest.

The shard is the unit of work and of resume. Its samples depend on the pool alone (whole chunks, up to `max_mb` of image
bytes), so a threshold never moves an image to another shard. What is finished lies in `.work/` until the manifest is
written.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import orjson
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from builder import BuildError
from builder.engine import Track, run, silent
from builder.files import digest, discard, locked, new_file, sha256_file, write_file
from builder.manifest import FILE, Manifest, ShardRecord, read_manifest, version_id, write_manifest
from builder.pool import DUPLICATE, REMOVED, UNREADABLE, Chunk, Pool
from builder.predictions import read_failures, read_meta
from builder.report import card
from builder.rules import REASONS, Keep, solve
from builder.samples import EMPTY, LABELS, REPEATED, WRITTEN, ShardJob, write_job
from builder.store import Store

FORMAT = 1
"""Raised whenever the same inputs would give other bytes, so that an old claim is not taken for a new build."""


class ImageOptions(BaseModel):
    """The `images` section of a recipe. drop_empty: leave out images on which nothing is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    drop_empty: bool = False


class ShardOptions(BaseModel):
    """The `shards` section of a recipe. max_mb: image megabytes in a shard, rounded up to whole chunks. image_format:
    what a pool of mixed formats is brought to (a pool of one format keeps its bytes)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_mb: Annotated[int, Field(ge=1, le=2**20)] = 256
    image_format: Literal["jpg", "png", "webp"] = "jpg"


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
    spec: str,
    license: str,
    provenance: Mapping[str, Any],
    workers: int,
    track: Track = silent,
) -> Cut:
    """The version of dataset `name` for these inputs: built, finished, or found complete.

    spec, license: of the teacher, for the card. Raises BuildError for rules that do not fit the teacher, unlabelled
    chunks, or an image that changed since its scan.
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
    absent = [[c.digest, [f.position for f in read_failures(labelled / c.digest)]] for c in pool.chunks()]
    inputs = {"format": FORMAT, "pool": pool.id, "predictions": predictions, **options, "license": license}
    inputs["unlabelled"] = digest([[chunk, positions] for chunk, positions in absent if positions])
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
        pending = [job for job in jobs if not job.record.exists()]
        with track("cut", sum(len(chunk.images) for job in pending for chunk in job.chunks)) as advance:
            for images_done in run(write_job, pending, workers):
                advance(images_done)
        manifest = _finish(
            folder,
            jobs,
            pool,
            {"inputs": inputs, "teacher": {**meta, "spec": spec, "license": license}, **provenance},
            name,
        )
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
    readable = [image for image in pool.images if image.format and image.state != REMOVED]
    formats = {image.format for image in readable}
    rotated = any(image.orientation != 1 for image in readable)
    if len(formats) == 1 and (not rotated or formats <= {"jpg", "png", "webp"}):
        return formats.pop()
    return image_format


def _finish(folder: Path, jobs: Sequence[ShardJob], pool: Pool, provenance: dict[str, Any], name: str) -> Manifest:
    """Join the shards' records: labels.parquet, card, and the manifest, which makes the version complete."""
    records = [orjson.loads(job.record.read_bytes()) for job in jobs]
    shards = [ShardRecord.model_validate(record["shard"]) for record in records if record["shard"]]
    images = sum((Counter(record["images"]) for record in records), Counter[str]())
    images[DUPLICATE] += pool.count(DUPLICATE)
    images[UNREADABLE] += sum(image.state == UNREADABLE and image.chunk < 0 for image in pool.images)
    if not shards:
        discard(folder)
        raise BuildError(
            f"nothing to write for {name}: of {len(pool.images)} images "
            + ", ".join(f"{n} are {s}" for s, n in images.items() if n)
        )
    with (
        new_file(folder / "labels.parquet") as file,
        pq.ParquetWriter(file, LABELS, compression="zstd", use_dictionary=REPEATED) as writer,
    ):
        for job in jobs:
            writer.write_table(pq.read_table(job.labels, partitioning=None))
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

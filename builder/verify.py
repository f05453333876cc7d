"""Re-read a whole version and say what is wrong with it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import orjson
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builder.engine import Track, run, silent, until
from builder.files import sha256_file
from builder.manifest import Manifest, ShardRecord, read_manifest
from builder.shards import Sample, ShardError, read_bytes, read_samples
from teachers.images import ImageError, decode_rgb

OBJECT_KEYS = ("bbox", "category", "score", "ignore", "area")
MOST = 20
"""Problems told of one shard; the rest are counted."""


@dataclass(frozen=True)
class _Job:
    folder: Path
    shard: ShardRecord
    features: tuple[str, ...]
    classes: int


@dataclass(frozen=True)
class _Checked:
    problems: list[str]
    samples: int
    keys: list[str]
    objects: dict[str, tuple[int, int, float]]
    """Key -> objects kept, objects ignored, sum of scores: to compare with labels.parquet."""


def verify(folder: Path, *, workers: int = 1, track: Track = silent) -> list[str]:
    """Problems of a version, empty if there are none: every byte is hashed, every image decoded, every label checked
    against its shard, the manifest and labels.parquet. Raises BuildError if there is no readable manifest."""
    manifest = read_manifest(folder)
    problems = [f"{name}: {what}" for name, what in _other_files(folder, manifest)]
    present = {path.name for path in (folder / "data").iterdir()} if (folder / "data").is_dir() else set()
    problems += [f"data/{name}: not in the manifest" for name in sorted(present - {s.name for s in manifest.shards})]
    jobs = [_Job(folder, shard, tuple(manifest.features), len(manifest.classes)) for shard in manifest.shards]
    keys: Counter[str] = Counter()
    objects: dict[str, tuple[int, int, float]] = {}
    with track("verify", manifest.samples) as advance:
        for checked in run(_check_shard, jobs, workers):
            problems += checked.problems
            keys.update(checked.keys)
            objects |= checked.objects
            advance(checked.samples)
    problems += [f"key {key} stands in {n} samples" for key, n in keys.items() if n > 1]
    if not problems:
        problems += _compare_labels(folder / "labels.parquet", objects)
    return problems


def _other_files(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    for name, sha256 in manifest.files.items():
        if not (folder / name).is_file():
            yield name, "missing"
        elif sha256_file(folder / name) != sha256:
            yield name, "its bytes are not those of the manifest"


def _check_shard(job: _Job, stop: Event) -> _Checked:
    path, shard = job.folder / "data" / job.shard.name, job.shard
    if not path.is_file():
        return _Checked([f"data/{shard.name}: missing"], 0, [], {})
    problems: list[str] = []
    keys: list[str] = []
    objects: dict[str, tuple[int, int, float]] = {}
    if path.stat().st_size != shard.bytes:
        problems.append(f"data/{shard.name}: {path.stat().st_size} bytes, the manifest says {shard.bytes}")
    elif sha256_file(path) != shard.sha256:
        problems.append(f"data/{shard.name}: its SHA-256 is not the manifest's")
    try:
        for sample in until(stop, read_samples(path)):
            keys.append(sample.key)
            found = _check_sample(path, sample, job)
            if isinstance(found, str):
                problems.append(f"data/{shard.name}: sample {sample.key}: {found}")
            else:
                objects[sample.key] = found
    except ShardError as error:
        problems.append(f"data/{error}")
    kept, ignored = (sum(counts[n] for counts in objects.values()) for n in (0, 1))
    if not problems and (len(keys), kept, ignored) != (shard.samples, shard.kept, shard.ignored):
        stated = f"{shard.samples} samples, {shard.kept} kept, {shard.ignored} ignored"
        problems.append(
            f"data/{shard.name}: {len(keys)} samples, {kept} kept, {ignored} ignored; the manifest says {stated}"
        )
    more = [f"data/{shard.name}: {len(problems) - MOST} more problems"] if len(problems) > MOST else []
    return _Checked([*islice(problems, MOST), *more], len(keys), keys, objects)


def _check_sample(path: Path, sample: Sample, job: _Job) -> str | tuple[int, int, float]:
    """What is wrong with a sample, or its counts."""
    if tuple(sample.members) != job.features:
        return f"its members are {', '.join(sample.members)}, not {', '.join(job.features)}"
    try:
        image = read_bytes(path, sample.members[job.features[0]])
        height, width, _ = decode_rgb(image).shape
        label = orjson.loads(read_bytes(path, sample.members["json"]))
        if label["key"] != sample.key:
            return f"its label JSON is that of {label['key']}"
        if (label["width"], label["height"]) != (width, height):
            return f"its image is {width}x{height}, its label says {label['width']}x{label['height']}"
        if label["reencoded"] == "none" and hashlib.sha256(image).hexdigest() != label["sha256"]:
            return "its image bytes are not those of the SHA-256 in its label"
        return _check_objects([label["objects"][name] for name in OBJECT_KEYS], width, height, job.classes)
    except ImageError as error:
        return f"its image {error}"
    except (ValueError, KeyError, TypeError) as error:
        return f"its label JSON is damaged ({error!r})"


def _check_objects(columns: list[list[Any]], width: int, height: int, classes: int) -> str | tuple[int, int, float]:
    bbox, category, score, ignore, area = columns
    if len({len(column) for column in columns}) > 1:
        return "its object lists differ in length"
    boxes = np.array(bbox, np.float64).reshape(-1, 4)
    slack = 1e-3 * max(width, height)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    if (low < -slack).any() or (high > np.array([width, height]) + slack).any() or (boxes[:, 2:] <= 0).any():
        return "a box is empty or reaches out of the image"
    if any(not 0 <= c < classes for c in category) or any(not 0 <= s <= 1 for s in score):
        return "a category or score is out of range"
    if not np.allclose(area, boxes[:, 2] * boxes[:, 3], rtol=1e-3):
        return "an area is not width times height"
    ignored = sum(ignore)
    return len(ignore) - ignored, ignored, float(sum(score))


def _compare_labels(path: Path, objects: dict[str, tuple[int, int, float]]) -> list[str]:
    """Where labels.parquet and the shards tell different objects."""
    found = {key: [0, 0, 0.0] for key in objects}
    for batch in pq.ParquetFile(path).iter_batches(columns=["key", "score", "outcome"]):
        for row in batch.filter(pc.field("outcome") != "dropped").to_pylist():
            counts = found.get(row["key"])
            if counts is not None:
                counts[row["outcome"] == "ignored"] += 1
                counts[2] += row["score"]
    wrong = [key for key, counts in objects.items() if not np.allclose(counts, found[key], rtol=1e-4)]
    return (
        [f"labels.parquet: the objects of {wrong[0]} and {len(wrong) - 1} more are not those of the shards"]
        if wrong
        else []
    )

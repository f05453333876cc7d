"""Rules over a million images: what they decide about 20 million stored objects, counted by reason, in one pass.

    python benchmarks/selection.py [--images 1000000] [--boxes 20] [--json-images 20000]

The peer keeps its predictions as COCO results and reads them again for each threshold (json, then orjson); it runs in
the same process over fewer images, and its time is scaled to all. Times of one machine do not compare with another's:
the ratio does.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from builder.evidence.thresholds import Evidence, solve
from builder.label.predictions import write_chunk
from builder.rules.counting import pool_scores
from builder.rules.keep import Keep
from builder.rules.labelled import LabelledPool, tally
from builder.rules.reasons import REASONS
from builder.scan.pool import SCHEMA, Chunk, ChunkFacts, Pool
from teachers.base import Detections

CHUNK, CLASSES = 512, tuple(f"class {n}" for n in range(80))
NUMBERS = {"orientation": 1, "width": 640, "height": 480, "offset": 0, "bytes": 50_000, "mtime_ns": 0}


def chunk_table(first: int, count: int, number: int) -> pa.Table:
    names = [f"image-{n:08d}" for n in range(first, first + count)]
    columns = {f.name: [NUMBERS.get(f.name, "")] * count for f in SCHEMA}
    columns |= {"key": names, "name": names, "sha256": [f"{n:064x}" for n in range(first, first + count)]}
    columns |= {"state": ["ok"] * count, "format": ["jpg"] * count, "chunk": [number] * count}
    return pa.table(columns, schema=SCHEMA)


def make(folder: Path, images: int, boxes: int) -> tuple[Pool, Path]:
    """A pool and its predictions as the store has them; only the image files are missing."""
    rng, facts = np.random.default_rng(0), []
    with pq.ParquetWriter(folder / "pool.parquet", SCHEMA, compression="zstd") as writer:
        for number, first in enumerate(range(0, images, CHUNK)):
            rows = chunk_table(first, min(CHUNK, images - first), number)
            writer.write_table(rows)
            chunk = Chunk(number, f"{number:064x}", rows)
            facts.append(ChunkFacts(chunk.digest, len(chunk), len(chunk) * 50_000))
            write_chunk(
                folder / "predictions" / chunk.digest, chunk, [detections(rng, boxes) for _ in range(len(chunk))]
            )
    pool = Pool(
        "0" * 64, "synthetic", folder / "pool.parquet", {"ok": images}, tuple(facts), frozenset({("jpg", False)}), 0
    )
    return pool, folder / "predictions"


def detections(rng: np.random.Generator, boxes: int) -> Detections:
    corner, size = rng.random((boxes, 2)) * (500, 350), rng.random((boxes, 2)) * 120 + 4
    scores = np.sort(rng.beta(0.6, 1.6, boxes))[::-1]
    labels = rng.integers(0, len(CLASSES), boxes).astype(np.int16)
    return Detections(np.hstack([corner, corner + size]).astype(np.float32), scores.astype(np.float32).copy(), labels)


def peer(folder: Path, pool: Pool, predictions: Path, images: int, library: str) -> float:
    """Seconds of reading COCO results again and keeping what is above the threshold, counted by class."""
    labelled, path = LabelledPool(pool, predictions, CLASSES, Keep.default()), folder / "results.json"
    objects, _ = labelled.load(list(pool.chunks(0, -(-images // CHUNK))))
    rows = zip(
        objects.image.tolist(), objects.label.tolist(), objects.score.tolist(), objects.boxes.tolist(), strict=True
    )
    path.write_bytes(orjson.dumps([{"image_id": i, "category_id": c, "score": s, "bbox": b} for i, c, s, b in rows]))
    start = time.perf_counter()
    found = json.loads(path.read_bytes()) if library == "json" else orjson.loads(path.read_bytes())
    counts: dict[tuple[int, str], int] = {}
    for row in found:
        key = row["category_id"], "kept" if row["score"] >= 0.5 else "ignore_band" if row["score"] >= 0.3 else "below"
        counts[key] = counts.get(key, 0) + 1
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--boxes", type=int, default=20)
    parser.add_argument("--json-images", type=int, default=20_480)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        pool, predictions = make(folder, options.images, options.boxes)
        print(
            f"made {options.images} images x {options.boxes} objects in {time.perf_counter() - start:.0f} s", flush=True
        )
        shared = np.ones(len(CLASSES), bool)
        for text in (
            "score: 0.5",
            "score: 0.5, min_size: 16",
            "mixture: {}",
            "score: 0.5, where: area > 400",
            "score: 0.5, nms: 0.6",
        ):
            keep = Keep.model_validate(dict(parse(text)))
            labelled = LabelledPool(pool, predictions, CLASSES, keep)
            start = time.perf_counter()
            scores = pool_scores(labelled, options.workers) if keep.rule == "mixture" else None
            counted = tally(labelled, solve(keep, Evidence(CLASSES, 0.0, scores=scores)), shared, options.workers)
            seconds = time.perf_counter() - start
            reasons = {reason: int(n) for reason, n in zip(REASONS, counted.reasons, strict=True) if n}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            total = int(counted.reasons.sum())
            print(
                f"{text}: {seconds:.1f} s, {total / seconds / 1e6:.1f} M objects/s, peak {peak:.2f} GB, {reasons}",
                flush=True,
            )
        for library in ("json", "orjson"):
            few = min(options.json_images, options.images)
            seconds = peer(folder, pool, predictions, few, library) * options.images / few
            print(f"peer, COCO results by {library}, scaled from {few} images: {seconds:.0f} s", flush=True)


def parse(text: str) -> dict[str, object]:
    import yaml

    return yaml.safe_load("{" + text + "}")


if __name__ == "__main__":
    main()

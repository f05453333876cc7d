"""Rules over a million images: what they decide about 20 million stored objects, counted by reason, in one pass.

The peers of the plain score: COCO results read again for each threshold by Python's json (on fewer images, in the same
process, scaled to all), and one SQL query of DuckDB's and one of Polars' over the same Parquet files, which count
classes above the threshold and below, and no states, reasons or samples.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from _compare import Comparison, Row, Run, beside, timed
from _peers import seconds_of

from builder.evidence.thresholds import Evidence, solve
from builder.label.predictions import write_chunk
from builder.rules.counting import pool_scores
from builder.rules.keep import Keep
from builder.rules.labelled import LabelledPool, tally
from builder.scan.pool import SCHEMA, Chunk, ChunkFacts, Pool
from teachers.base import Detections

CHUNK, CLASSES = 512, tuple(f"class {n}" for n in range(80))
NUMBERS = {"orientation": 1, "width": 640, "height": 480, "offset": 0, "bytes": 50_000, "mtime_ns": 0}
RULES: dict[str, dict[str, Any]] = {
    "score": {"score": 0.5},
    "score, where: area > 400": {"score": 0.5, "where": "area > 400"},
    "score, nms: 0.6": {"score": 0.5, "nms": 0.6},
    "mixture": {"mixture": {}},
}
LIMITS: dict[str, float] = {"score, nms: 0.6": 10, "mixture": 10}
"""Seconds that these may take of 20 million objects."""
BOXES = 20


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


def decide(pool: Pool, predictions: Path, keep: Keep) -> int:
    """Ours: every object of the pool by reason."""
    labelled = LabelledPool(pool, predictions, CLASSES, keep)
    scores = pool_scores(labelled) if keep.rule == "mixture" else None
    thresholds = solve(keep, Evidence(CLASSES, 0.0, scores=scores))
    return int(tally(labelled, thresholds, np.ones(len(CLASSES), bool)).reasons.sum())


def write_results(path: Path, pool: Pool, predictions: Path, images: int) -> None:
    """Predictions of the pool's first images as COCO results."""
    labelled = LabelledPool(pool, predictions, CLASSES, Keep.default())
    objects, _ = labelled.load(list(pool.chunks(0, -(-images // CHUNK))))
    columns = (column.tolist() for column in (objects.image, objects.label, objects.score, objects.boxes))
    rows = ({"image_id": i, "category_id": c, "score": s, "bbox": b} for i, c, s, b in zip(*columns, strict=True))
    path.write_bytes(orjson.dumps(list(rows)))


def reload(path: Path, times: float) -> float:
    """Seconds of reading COCO results again and counting by class what is above the threshold, so many times."""
    start = time.perf_counter()
    counts: dict[tuple[int, str], int] = {}
    for row in json.loads(path.read_bytes()):
        key = row["category_id"], "kept" if row["score"] >= 0.5 else "ignore_band" if row["score"] >= 0.3 else "below"
        counts[key] = counts.get(key, 0) + 1
    return (time.perf_counter() - start) * times


def by_hand(predictions: Path) -> None:
    import duckdb

    duckdb.sql(
        "SELECT label, CASE WHEN score >= 0.5 THEN 'kept' WHEN score >= 0.3 THEN 'ignored' ELSE 'below' END AS fate, "
        f"count(*) FROM read_parquet('{predictions}/*/objects.parquet') GROUP BY ALL"
    ).fetchall()


def compare(run: Run) -> Iterator[Comparison]:
    images = run.of(1_000_000, 2_048)
    few = min(20_480, images)
    with run.scratch() as name:
        folder = Path(name)
        pool, predictions = make(folder, images, BOXES)
        write_results(folder / "results.json", pool, predictions, few)
        keeps = {name: Keep.model_validate(rule) for name, rule in RULES.items()}
        works = {name: partial(timed, partial(decide, pool, predictions, keep)) for name, keep in keeps.items()}
        works |= {
            "JSON reload and Python, scaled": lambda: reload(folder / "results.json", images / few),
            "DuckDB by hand": lambda: timed(lambda: by_hand(predictions)),
            "Polars by hand": lambda: seconds_of("select_polars", predictions),
        }
        assert decide(pool, predictions, keeps["score"]) == images * BOXES
        seconds = run.turns(works, 3)
    objects = images * BOXES / 1e6
    of = f": {objects:g} M objects, 80 classes"
    for name in RULES:
        peer = "JSON reload and Python, scaled"
        yield Comparison(
            name + of,
            seconds[name],
            peer,
            seconds[peer],
            60 if name == "score" else None,
            amount=objects,
            of="M objects",
        )
        if name in LIMITS:
            yield Comparison(name + of, seconds[name], aim=LIMITS[name], at_most=True, amount=objects, of="M objects")
    yield from beside(
        "score" + of,
        seconds,
        {"DuckDB by hand": 1.3, "Polars by hand": 1.3},
        at_most=True,
        amount=objects,
        of="M objects",
    )


ROW = Row(
    "select",
    "what rules decide of 20 million stored objects",
    "score 60 times JSON and Python, and within 1.3 times DuckDB or Polars by hand; nms and mixture 10 s",
    compare,
    ("duckdb", "polars", "pyarrow", "numpy"),
)

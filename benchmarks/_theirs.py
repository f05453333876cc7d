"""The peers' halves of some rows, run by the interpreter of `.venv-peers` (_peers.py): `_theirs.py WORK ARGUMENTS`.

Each prints its seconds, of the work alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _compare import timed
from _inputs import bytes_of, make_samples
from PIL import Image

LABEL = {"objects": {"bbox": [[10.5, 20.25, 30.0, 40.0]] * 20, "category": [1] * 20, "score": [0.5] * 20}}
"""What is stored beside each image that is read: as many boxes as ours have."""


def write_litdata(folder: str, images: str, size: str, count: str) -> float:
    """By the writer that `litdata.optimize` runs in its workers, without their queues."""
    from litdata.streaming.writer import BinaryWriter

    samples = make_samples(int(images), int(size))
    total = bytes_of(samples)

    def work() -> None:
        writer = BinaryWriter(folder, chunk_bytes=total * int(count) // len(samples))
        for number, (key, image, label) in enumerate(samples):
            writer[number] = {"key": key, "jpg": image, "json": label}
        writer.done()
        writer.merge()

    return timed(work, Path(folder), total)


def write_mosaic(folder: str, images: str, size: str, count: str) -> float:
    from streaming import MDSWriter

    samples = make_samples(int(images), int(size))
    total = bytes_of(samples)
    columns = {"key": "str", "jpg": "bytes", "json": "bytes"}

    def work() -> None:
        with MDSWriter(out=folder + "/mds", columns=columns, size_limit=total * int(count) // len(samples)) as writer:
            for key, image, label in samples:
                writer.write({"key": key, "jpg": image, "json": label})

    return timed(work, Path(folder), total)


def _photographs(pool: str) -> Iterator[Any]:
    """Opened from their files, of which both writers take the bytes as they are."""
    return (Image.open(path) for path in sorted(Path(pool).glob("*.jpg")))


def keep_litdata(pool: str, folder: str) -> float:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(folder, chunk_bytes=64 << 20)
    for number, image in enumerate(_photographs(pool)):
        writer[number] = {"image": image, "json": json.dumps(LABEL)}
    writer.done()
    writer.merge()
    return 0.0


def keep_mosaic(pool: str, folder: str) -> float:
    from streaming import MDSWriter

    with MDSWriter(out=folder, columns={"image": "jpeg", "json": "json"}, size_limit=64 << 20) as writer:
        for image in _photographs(pool):
            writer.write({"image": image, "json": LABEL})
    return 0.0


def read_litdata(folder: str, images: str, workers: str, batch: str) -> float:
    from litdata import StreamingDataLoader, StreamingDataset

    def joined(rows: list[Any]) -> Any:
        boxes = [len(json.loads(row["json"])["objects"]["category"]) for row in rows]
        return torch.stack([row["image"] for row in rows]), boxes

    def work() -> None:
        rows = StreamingDataset(folder, shuffle=False)
        made = StreamingDataLoader(rows, batch_size=int(batch), num_workers=int(workers), collate_fn=joined)
        assert sum(len(pixels) for pixels, _ in made) == int(images)

    import torch

    return timed(work)


def read_mosaic(folder: str, images: str, workers: str, batch: str) -> float:
    import torch
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    def joined(rows: list[Any]) -> Any:
        boxes = [len(row["json"]["objects"]["category"]) for row in rows]
        return torch.from_numpy(np.stack([np.asarray(row["image"]) for row in rows])), boxes

    def work() -> None:
        rows = StreamingDataset(local=folder, shuffle=False, batch_size=int(batch))
        made = DataLoader(rows, batch_size=int(batch), num_workers=int(workers), collate_fn=joined)
        assert sum(len(pixels) for pixels, _ in made) == int(images)

    return timed(work)


def select_polars(predictions: str) -> float:
    """Classes above the threshold, in the ignore band and below, counted by hand."""
    import polars as pl

    score = pl.col("score")
    fate = pl.when(score >= 0.5).then(0).when(score >= 0.3).then(1).otherwise(2)

    def work() -> None:
        table = pl.scan_parquet(f"{predictions}/*/objects.parquet").select("label", "score")
        table.group_by("label", fate.alias("fate")).len().collect()

    return timed(work)


def evaluate_faster(folder: str, overlaps: str) -> float:
    """faster-coco-eval on the records of a COCOeval, from its built index."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(Path(folder) / "truth.json")
    found = truth.loadRes(json.loads((Path(folder) / "found.json").read_text()))
    judge = COCOeval_faster(truth, found, iouType="bbox", print_function=lambda *words: None)
    judge.params.iouThrs = np.array(json.loads(overlaps))
    judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], judge.params.areaRngLbl[:1]

    def work() -> None:
        judge.evaluate()
        judge.accumulate()

    return timed(work)


def search_flat(path: str, queries: str, distance: str) -> float:
    """Brute force for so many of the hashes, scaled to all."""
    import faiss

    bits = np.load(path).view(np.uint8)
    index = faiss.IndexBinaryFlat(8 * bits.shape[1])
    index.add(bits)
    few = np.ascontiguousarray(bits[: int(queries)])
    return timed(lambda: index.range_search(few, int(distance) + 1)) * len(bits) / len(few)


def search_hash(path: str, distance: str) -> float:
    """All of them by tables of some of their bits: two hashes that differ by `distance` agree in one of distance + 1
    bands, or differ by at most one bit in one of half as many, so that nothing is missed."""
    import faiss

    bits = np.load(path).view(np.uint8)
    flips = 1 if int(distance) > 4 else 0
    bands = int(distance) // (flips + 1) + 1

    def work() -> None:
        index = faiss.IndexBinaryMultiHash(8 * bits.shape[1], bands, min(8 * bits.shape[1] // bands, 24))
        index.nflip = flips
        index.add(bits)
        index.range_search(bits, int(distance) + 1)

    return timed(work)


WORKS = {
    work.__name__: work
    for work in (
        *(write_litdata, write_mosaic, keep_litdata, keep_mosaic, read_litdata, read_mosaic),
        *(select_polars, evaluate_faster, search_flat, search_hash),
    )
}

if __name__ == "__main__":
    print(WORKS[sys.argv[1]](*sys.argv[2:]))

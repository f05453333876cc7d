"""What a hundred million images take: rates measured on generated rows, and a simulation of labelling with failures.

The measured part runs what the driver does, by Tutelage's own functions, on a million rows: the records of a scan, the
writing of chunks, the rules, the manifest. Only the images and the model are missing, which nodes look after. The
simulated part is a cluster of nodes of eight GPUs that die and come back, a driver that writes all chunks in turn
and is killed once, and chunks that take log-normally distributed times. `docs/scale.md` reads both.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from _compare import machine
from pydantic import TypeAdapter
from selection import BOXES, CHUNK, decide, detections

from builder.label.predictions import write_chunk
from builder.label.writer import Writer
from builder.rules.keep import Keep
from builder.scan.census import Census, Row
from builder.scan.entries import Entry
from builder.scan.pool import Pool
from builder.scan.scanner import _write
from builder.store.keys import make_key
from builder.store.shards import ShardRecord, TarRecord, shard_name
from builder.store.store import Store

GPUS_A_NODE = 8
SHARD_CHUNKS = 9
"""Chunks of 512 photographs of 54 kB in a shard of 256 MB."""


@dataclass(frozen=True)
class Cluster:
    """What is simulated. rate: images a second of a GPU. spread: sigma of the logarithm of a chunk's time. between:
    hours from one death of a node to the next. away: hours until it is back, model loaded. write: seconds in which the
    driver checks and writes a chunk. killed: hours after which the driver is killed, once; begun: hours until it goes
    on."""

    gpus: int
    rate: float
    between: float
    write: float
    spread: float = 0.15
    away: float = 0.25
    killed: float = 1.0
    begun: float = 0.05


@dataclass(frozen=True)
class Outcome:
    """hours: until the last chunk is written. lost: chunks that were begun and are done again. busy: the driver's share
    of the time. ideal: hours that the GPUs alone would take."""

    hours: float
    lost: int
    deaths: int
    busy: float
    ideal: float


def simulate(cluster: Cluster, images: int, seed: int = 0) -> Outcome:
    """Label so many images. A GPU takes the next chunk when it has ended one; a node that dies loses the chunks of its
    GPUs; what ended waits for the driver, in turn."""
    rng = np.random.default_rng(seed)
    chunks, hour = -(-images // CHUNK), 3600.0
    usual = CHUNK / cluster.rate
    nodes = -(-cluster.gpus // GPUS_A_NODE)
    events: list[tuple[float, int, str, int, int]] = []  # time, order, what, node, its incarnation
    order, left, written, lost, deaths, free_at, end = 0, chunks, 0, 0, 0, 0.0, 0.0
    alive = [0] * nodes
    running = [0] * nodes

    def put(when: float, what: str, node: int) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, what, node, alive[node]))

    def begin(now: float, node: int) -> None:
        nonlocal left
        if left:
            left -= 1
            running[node] += 1
            put(now + usual * float(rng.lognormal(0, cluster.spread)), "done", node)

    def start(now: float, node: int) -> None:
        for _ in range(min(GPUS_A_NODE, cluster.gpus - node * GPUS_A_NODE)):
            begin(now, node)
        put(now + float(rng.exponential(cluster.between * hour)), "dies", node)

    for node in range(nodes):
        start(0.0, node)
    killed_at = cluster.killed * hour
    while written < chunks:
        now, _, what, node, incarnation = heapq.heappop(events)
        if now >= killed_at:  # everything in flight is lost; nodes wait for the driver
            lost, left = lost + sum(running), left + sum(running)
            back, killed_at = now + cluster.begun * hour, float("inf")
            events.clear()
            for each in range(nodes):
                alive[each], running[each] = alive[each] + 1, 0
                start(back, each)
            free_at = max(free_at, back)
            continue
        if incarnation != alive[node]:
            continue
        if what == "done":
            running[node] -= 1
            free_at = max(free_at, now) + cluster.write
            written, end = written + 1, free_at
            begin(max(now, free_at - 2 * usual), node)  # the driver holds so much, and asks for no more
        elif what == "dies":
            deaths += 1
            lost, left = lost + running[node], left + running[node]
            alive[node], running[node] = alive[node] + 1, 0
            put(now + cluster.away * hour, "comes", node)
        else:
            start(now, node)
    return Outcome(end / hour, lost, deaths, chunks * cluster.write / end, chunks * usual / cluster.gpus / hour)


def measure(images: int) -> dict[str, float]:
    """What the driver's work on so many images takes: seconds, bytes and megabytes of memory."""
    with TemporaryDirectory(prefix="tutelage-scale-") as name:
        folder = Path(name)
        figures: dict[str, float] = {"images": images}
        pool = _records(folder, images, figures)
        _predictions(pool, folder / "predictions", figures)
        start = time.perf_counter()
        assert decide(pool, folder / "predictions", Keep.model_validate({"score": 0.5})) == images * BOXES
        figures["rules_seconds"] = time.perf_counter() - start
        figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def _records(folder: Path, images: int, figures: dict[str, float]) -> Pool:
    """A pool as the scan writes it, of rows that nobody read."""

    def entries() -> Iterator[Entry]:
        return (
            Entry(f"{n // 1000:06d}/{n:09d}.jpg", f"s3://bucket/pool/{n:09d}.jpg", 0, 54_000, n) for n in range(images)
        )

    def rows(entries: Iterator[Entry]) -> Iterator[Row]:
        for n, entry in enumerate(entries):
            digest = hashlib.sha256(b"%d" % n)  # as hard to compress as real ones, and as a thumbnail
            where = (make_key(entry.name), entry.name, digest.hexdigest(), entry.uri, 0, entry.bytes, entry.mtime_ns)
            yield *where, 640, 480, "jpg", 1, digest.hexdigest()[:32], -1, "ok", "", 2 * digest.digest()

    start = time.perf_counter()
    store = Store(folder / "store")
    with closing(Census()) as census:
        census.enlist(entries(), "generated")
        census.add(rows(census.unread()))
        census.arrange(CHUNK)
        id, summary = census.summary()
        key = {"source": "generated"}
        pool = _write(
            census, id, {**summary, "passed_over": {}, "reader": 1}, store, folder / "pointer.json", key, "generated"
        )
    figures["records_seconds"] = time.perf_counter() - start
    figures["pool_bytes"] = pool.path.stat().st_size
    return pool


def _predictions(pool: Pool, folder: Path, figures: dict[str, float]) -> None:
    """Chunks as label writes them, a few at a time."""
    rng = np.random.default_rng(0)
    some = [detections(rng, BOXES) for _ in range(4 * CHUNK)]
    start = time.perf_counter()
    with Writer() as writer:
        for chunk in pool.chunks():
            results = [some[n] for n in rng.integers(0, len(some), len(chunk))]
            writer.put(partial(write_chunk, folder / chunk.digest, chunk, results))
    chunks = len(pool.index)
    figures["chunk_seconds"] = (time.perf_counter() - start) / chunks
    figures["chunk_bytes"] = sum(path.stat().st_size for path in folder.glob("*/*")) / chunks


def shard_records(images: int) -> dict[str, float]:
    """What a manifest takes that names the shards of so many images, which are shared: bytes, and seconds to write and
    to read them."""
    samples = SHARD_CHUNKS * CHUNK
    digests = (f"{n:064x}" for n in range(10**9))
    shards = [
        ShardRecord(
            name=shard_name(n),
            bytes=256_000_000,
            samples=samples,
            sha256="",
            kept=samples * 5,
            ignored=samples,
            contents=next(digests),
            chunks=(n * SHARD_CHUNKS, (n + 1) * SHARD_CHUNKS),
            inputs=next(digests),
            labels=TarRecord(name=f"train-{n:06d}.labels.tar", bytes=14_000_000, sha256=next(digests)),
            images=[
                TarRecord(name=f"{next(digests)}.tar", bytes=28_000_000, sha256=next(digests))
                for _ in range(SHARD_CHUNKS)
            ],
        )
        for n in range(-(-images // samples))
    ]
    listed = TypeAdapter(list[ShardRecord])
    start = time.perf_counter()
    written = listed.dump_json(shards)
    middle = time.perf_counter()
    listed.validate_json(written)
    return {
        "shards": len(shards),
        "bytes": len(written),
        "write_seconds": middle - start,
        "read_seconds": time.perf_counter() - middle,
    }


def measured(images: int) -> dict[str, float]:
    """`measure` in a process of its own, whose memory is its own."""
    done = subprocess.run([sys.executable, __file__, "--measure", str(images)], stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def show_rates(few: dict[str, float], many: dict[str, float], images: int) -> None:
    """The driver's work as a table of Markdown: measured, and in proportion."""
    times = images / many["images"]
    chunk, records = many["chunk_seconds"], many["records_seconds"]
    rows = (
        ("records of the scan", f"{records:.0f} s", f"{records * times / 60:.0f} min"),
        ("pool.parquet", f"{many['pool_bytes'] / 1e6:.0f} MB", f"{many['pool_bytes'] * times / 1e9:.1f} GB"),
        ("chunks checked and written", f"{1e3 * chunk:.1f} ms each", f"{chunk * images / CHUNK / 3600:.1f} h"),
        (
            f"predictions, {BOXES} boxes an image",
            f"{many['chunk_bytes'] / 1e3:.0f} kB a chunk",
            f"{many['chunk_bytes'] * images / CHUNK / 1e9:.0f} GB in {2 * images / CHUNK:,.0f} files",
        ),
        ("rules over all boxes", f"{many['rules_seconds']:.1f} s", f"{many['rules_seconds'] * times / 60:.0f} min"),
        ("peak memory of the three", f"{few['peak_mb']:.0f} MB at {few['images']:,}", f"{many['peak_mb']:.0f} MB"),
    )
    print(f"| the driver | {many['images']:,} rows, measured | {images:,}, in proportion |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    shards = shard_records(images)
    print(
        f"| manifest | {shards['shards']:,} shards: {shards['bytes'] / 1e6:.0f} MB, written in "
        f"{shards['write_seconds']:.1f} s, read in {shards['read_seconds']:.1f} s | measured at {images:,} |\n"
    )


def show_simulations(rate: float, write: float, images: int) -> None:
    """Hours for several clusters, as a table of Markdown."""
    print("| GPUs | node dies each | hours | of the GPUs alone | deaths | chunks done twice | driver busy |")
    print("|---|---|---|---|---|---|---|")
    for gpus in (1, 8, 64, 256):
        for between in (1000.0, 10.0):
            seen = simulate(Cluster(gpus, rate, between, write), images)
            print(
                f"| {gpus} | {between:,.0f} h | {seen.hours:,.1f} | {seen.ideal / seen.hours:.1%} | {seen.deaths} | "
                f"{seen.lost:,} of {-(-images // CHUNK):,} | {seen.busy:.0%} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000_000, help="of the pool that is thought of")
    parser.add_argument("--rows", type=int, default=1_000_000, help="that the driver's work is measured on")
    parser.add_argument("--rate", type=float, default=300, help="images a second of one GPU (see benchmarks/gpu.py)")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    print(f"{machine()}\n")
    few, many = measured(options.rows // 10), measured(options.rows)
    show_rates(few, many, options.images)
    print(f"A GPU labels {options.rate:g} images a second:\n")
    show_simulations(options.rate, many["chunk_seconds"], options.images)


if __name__ == "__main__":
    main()

"""Writing shards: `builder.store.shards.write_shard`, with its SHA-256 and fsync, against `webdataset.ShardWriter`.

One process each, the same samples from memory, the same number of shards. Aim: 5 times the peer's rate. Beside them
stand the peer with what ours does in addition (SHA-256 of each shard, fsync), the standard library's `tarfile`, and the
limits: the same bytes written raw, with and without fsync, and hashed once.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import orjson
import webdataset
from _compare import in_turns, machine, ratios, scratch, show, timed, verdict

from builder.store.shards import write_shard

Samples = Sequence[tuple[str, bytes, bytes]]
"""Key, image and label JSON of each."""


def make_samples(count: int, size: int) -> Samples:
    """`count` samples of `size` bytes, give or take 40 %, and labels of 20 boxes. The images overlap in one block of
    random bytes that no processor's cache holds."""
    rng = random.Random(0)
    block = rng.randbytes(256_000_000)
    samples = []
    for n in range(count):
        boxes = [[round(rng.uniform(0, 600), 3) for _ in range(4)] for _ in range(20)]
        label = {"objects": {"bbox": boxes, "category": [1] * 20, "score": [0.5] * 20}}
        start, length = rng.randrange(len(block) - 2 * size), int(size * rng.uniform(0.6, 1.4))
        samples.append((f"folder/image_{n:06d}-0123456789ab", block[start : start + length], orjson.dumps(label)))
    return samples


def shards_of(samples: Samples, count: int) -> Iterator[tuple[int, Samples]]:
    return ((n // count, samples[n : n + count]) for n in range(0, len(samples), count))


def ours(folder: Path, samples: Samples, count: int) -> None:
    for number, part in shards_of(samples, count):
        write_shard(folder / f"{number:06d}.tar", ((k, [("jpg", i), ("json", j)]) for k, i, j in part))


def shard_writer(folder: Path, samples: Samples, count: int) -> None:
    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=count, maxsize=1e12, verbose=0) as writer:
        for key, image, label in samples:
            writer.write({"__key__": key, "jpg": image, "json": label})


def shard_writer_hashed_and_synced(folder: Path, samples: Samples, count: int) -> None:
    shard_writer(folder, samples, count)
    for path in folder.iterdir():
        with open(path, "rb") as file:
            hashlib.file_digest(file, "sha256")
            os.fsync(file.fileno())


def standard_library(folder: Path, samples: Samples, count: int) -> None:
    for number, part in shards_of(samples, count):
        with tarfile.open(folder / f"{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, image, label in part:
                for extension, contents in (("jpg", image), ("json", label)):
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(contents)
                    tar.addfile(member, io.BytesIO(contents))


def raw(folder: Path, samples: Samples, count: int, *, sync: bool) -> None:
    for number, part in shards_of(samples, count):
        with open(folder / f"{number:06d}.bin", "wb", buffering=4 << 20) as file:
            for _, image, label in part:
                file.write(image)
                file.write(label)
            file.flush()
            if sync:
                os.fsync(file.fileno())


def hashed(folder: Path, samples: Samples, count: int) -> None:
    for _, part in shards_of(samples, count):
        digest = hashlib.sha256()
        for _, image, label in part:
            digest.update(image)
            digest.update(label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=50_000, help="mean size of an image")
    parser.add_argument("--per-shard", type=int, default=5_000, help="samples in a shard")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the scratch folder goes (default: the system's)")
    options = parser.parse_args()

    samples = make_samples(options.images, options.bytes)
    total = sum(len(image) + len(label) for _, image, label in samples)
    print(f"shards.py: {len(samples)} samples, {total / 1e6:.0f} MB, {options.per_shard} in a shard; {machine()}\n")
    writers: dict[str, Callable[[Path, Samples, int], None]] = {
        "Tutelage (SHA-256, fsync)": ours,
        "webdataset.ShardWriter": shard_writer,
        "ShardWriter, then SHA-256 and fsync": shard_writer_hashed_and_synced,
        "tarfile": standard_library,
        "limit: raw bytes": partial(raw, sync=False),
        "limit: raw bytes, fsync": partial(raw, sync=True),
        "limit: SHA-256 alone, one thread": hashed,
    }
    with scratch(options.folder) as folder:

        def run(write: Callable[[Path, Samples, int], None]) -> float:
            target = Path(folder) / "out"
            target.mkdir()
            seconds = timed(lambda: write(target, samples, options.per_shard), target, total)
            shutil.rmtree(target)
            return seconds

        seconds = in_turns({name: partial(run, write) for name, write in writers.items()}, options.repeats)
    show(seconds, total / 1e6, "MB")
    mine, plain, same = (seconds[name] for name in list(writers)[:3])
    verdict("times the rate of webdataset.ShardWriter", ratios(plain, mine), 5, at_most=False)
    print(f"With the same service, SHA-256 and fsync, it is {median(ratios(same, mine)):.2f} times the peer's rate.")
    floor = max(median(seconds[name]) for name in list(writers)[-2:])
    print(
        f"Nothing that hashes and syncs these bytes can be more than {median(plain) / floor:.2f} times the peer here."
    )


if __name__ == "__main__":
    main()

"""Writing shards: `builder.store.shards.write_shard`, with its SHA-256 and fsync, against other writers and the disk.

One process each, the same samples from memory, shards of the same number of samples (or bytes). The images' hashes are
known, as a build has them from the scan; those of the labels and of the whole file are made. The peers neither hash
the whole file nor sync it; once `webdataset.ShardWriter` does. The limits are the same bytes written raw and synced,
and hashed once by one thread: nothing that does both can be faster than the slower of them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from _compare import Comparison, Row, Run, beside, timed
from _inputs import Samples, bytes_of, make_samples
from _peers import seconds_of

BYTES = 50_000
"""Mean size of an image."""


def shards_of(samples: Samples, count: int) -> Iterator[tuple[int, Samples]]:
    return ((n // count, samples[n : n + count]) for n in range(0, len(samples), count))


def ours(hashes: dict[str, str], folder: Path, samples: Samples, count: int) -> None:
    from builder.store.shards import write_shard

    for number, part in shards_of(samples, count):
        rows = ((key, [("jpg", image, hashes[key]), ("json", label)]) for key, image, label in part)
        write_shard(folder / f"{number:06d}.tar", rows)


def shard_writer(folder: Path, samples: Samples, count: int) -> None:
    import webdataset

    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxcount=count, maxsize=1e12, verbose=0) as writer:
        for key, image, label in samples:
            writer.write({"__key__": key, "jpg": image, "json": label})


def shard_writer_hashed_and_synced(folder: Path, samples: Samples, count: int) -> None:
    shard_writer(folder, samples, count)
    for path in folder.iterdir():
        with open(path, "rb") as file:
            hashlib.file_digest(file, "sha256")
            os.fsync(file.fileno())


def raw(folder: Path, samples: Samples, count: int) -> None:
    for number, part in shards_of(samples, count):
        with open(folder / f"{number:06d}.bin", "wb", buffering=4 << 20) as file:
            for _, image, label in part:
                file.write(image)
                file.write(label)
            file.flush()
            os.fsync(file.fileno())


def hashed(folder: Path, samples: Samples, count: int) -> None:
    for _, part in shards_of(samples, count):
        digest = hashlib.sha256()
        for _, image, label in part:
            digest.update(image)
            digest.update(label)


def compare(run: Run) -> Iterator[Comparison]:
    images, count = run.of(20_000, 200), run.of(5_000, 50)
    samples = make_samples(images, BYTES)
    total = bytes_of(samples)
    hashes = {key: hashlib.sha256(image).hexdigest() for key, image, _ in samples}
    writers: dict[str, Callable[[Path, Samples, int], None]] = {
        "Tutelage": partial(ours, hashes),
        "webdataset ShardWriter": shard_writer,
        "ShardWriter, then SHA-256 and fsync": shard_writer_hashed_and_synced,
        "raw bytes, fsync": raw,
        "SHA-256, one thread": hashed,
    }
    with run.scratch() as folder:
        target = Path(folder) / "out"
        for name, write in writers.items():  # what is imported at the first use
            (Path(folder) / name).mkdir()
            write(Path(folder) / name, samples[:2], 2)

        def here(write: Callable[[Path, Samples, int], None]) -> float:
            target.mkdir()
            seconds = timed(lambda: write(target, samples, count), target, total)
            shutil.rmtree(target)
            return seconds

        def there(writer: str) -> float:
            target.mkdir()
            seconds = seconds_of(writer, target, images, BYTES, count)
            shutil.rmtree(target)
            return seconds

        works = {name: partial(here, write) for name, write in writers.items()}
        works |= {"LitData BinaryWriter": partial(there, "write_litdata")}
        works |= {"MosaicML MDSWriter": partial(there, "write_mosaic")}
        seconds = run.turns(works)
    slower = [max(pair) for pair in zip(seconds["raw bytes, fsync"], seconds["SHA-256, one thread"], strict=True)]
    seconds["the slower of both"] = slower
    aims: dict[str, float | None] = dict.fromkeys(seconds, None)
    del aims["Tutelage"]
    aims |= {"webdataset ShardWriter": 1, "LitData BinaryWriter": 1, "MosaicML MDSWriter": 1, "the slower of both": 0.9}
    work = f"{images:,} samples of images and labels, {total / 1e6:,.0f} MB"
    yield from beside(work, seconds, aims, amount=total / 1e6, of="MB")


ROW = Row(
    "write",
    "writing shards from memory, one process, with SHA-256 and fsync",
    "ahead of each writer; at least .9 of the slower of a raw synced write and SHA-256",
    compare,
    ("webdataset", "litdata", "mosaicml-streaming"),
)

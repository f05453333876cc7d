"""Perceptual hashes and near-duplicates: hashing beside imagehash's, and all near pairs of a large pool beside faiss.

Hashing: photographs, held in memory, one thread. imagehash.dhash makes 64 bits and does not look at the EXIF
orientation; ours are 128, and are told it, as a scan does that has read it anyway. The more bytes a pixel takes, the
smaller the ratio: both must undo the Huffman coding of all bytes.

Search: all pairs within a distance among random hashes of 128 bits (the bands of real ones are a little less even).
Brute force (faiss's IndexBinaryFlat) looks for some of them among all, scaled to all; faiss's IndexBinaryMultiHash with
as many bands as make it exact looks for all. Both use all threads that they like, ours one.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from _compare import DATA, Comparison, Row, Run, beside, timed
from _inputs import jpeg
from _peers import seconds_of

from builder.scan.dhash import dhash
from builder.scan.duplicates import alike

SETS = ("coco", "camvid", "bccd")
DISTANCES = (4, 8)


def photographs(folder: Path, most: int) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:most]]


def ours(images: list[bytes]) -> None:
    for data in images:
        dhash(data, 1)


def theirs(images: list[bytes]) -> None:
    import imagehash
    from PIL import Image

    for data in images:
        imagehash.dhash(Image.open(io.BytesIO(data)))


def hashing(run: Run) -> Iterator[Comparison]:
    sets = {name: photographs(DATA / name, 400) for name in (() if run.tiny else SETS)}
    sets["generated"] = [jpeg(np.random.default_rng(n), 50_000) for n in range(run.of(200, 4))]
    for name, images in sets.items():
        if not images:
            print(f"no photographs of {name} in {DATA}: left out")
            continue
        ours(images[:1])
        theirs(images[:1])
        works = {"Tutelage": partial(ours, images), "imagehash.dhash (64 bits)": partial(theirs, images)}
        seconds = run.turns({peer: partial(timed, work) for peer, work in works.items()})
        what = (
            f"128-bit hashes of {len(images)} images of {name}, {sum(map(len, images)) / len(images) / 1e3:.0f} kB each"
        )
        yield from beside(what, seconds, {"imagehash.dhash (64 bits)": 3}, amount=len(images), of="images")


def searching(run: Run) -> Iterator[Comparison]:
    count = run.of(1_000_000, 5_000)
    queries = run.of(2_000, 500)
    bits = np.random.default_rng(0).integers(0, 2**64, (count, 2), dtype=np.uint64)
    with run.scratch() as name:
        path = Path(name) / "bits.npy"
        np.save(path, bits)
        for distance in DISTANCES:
            works = {
                "Tutelage": partial(timed, partial(alike, bits, None, distance)),
                "brute force, scaled": partial(seconds_of, "search_flat", path, queries, distance),
                "faiss IndexBinaryMultiHash": partial(seconds_of, "search_hash", path, distance),
            }
            what = f"all pairs within {distance} bits of 128 among {count:,} hashes"
            peers = {"brute force, scaled": 1.0, "faiss IndexBinaryMultiHash": 1.0}
            yield from beside(what, run.turns(works, 3), peers, amount=count, of="hashes")


def compare(run: Run) -> Iterator[Comparison]:
    yield from hashing(run)
    yield from searching(run)


ROW = Row(
    "duplicates",
    "perceptual hashes, and the search for near-duplicates",
    "3 times imagehash everywhere; ahead of brute force and of faiss",
    compare,
    ("imagehash", "faiss-cpu", "numpy", "simplejpeg"),
)

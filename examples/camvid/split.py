"""Cut CamVid's 123 training frames into 24 labelled ones, evenly spread, and a pool of the other 99, whose masks stay
hidden.

Writes runs/camvid: labels (`labelled.txt`, `pool_truth.txt`, `val.txt` beside links to images and masks) and pool.txt,
the list that recipe.yaml scans.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data")) / "camvid"
OUT = ROOT / "runs" / "camvid"
LABELLED = 24


def main() -> None:
    stems = (DATA / "train.txt").read_text().split()
    chosen = {stems[n * len(stems) // LABELLED] for n in range(LABELLED)}
    labels = OUT / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    for name in ("images", "masks"):
        if not (labels / name).exists():
            (labels / name).symlink_to((DATA / name).resolve())
    shutil.copy(DATA / "classes.txt", labels)
    parts = {
        "labelled": sorted(chosen),
        "pool_truth": [stem for stem in stems if stem not in chosen],
        "val": (DATA / "val.txt").read_text().split(),
    }
    for name, part in parts.items():
        (labels / f"{name}.txt").write_text("\n".join(part) + "\n")
    pool = [os.path.relpath(DATA / "images" / f"{stem}.jpg", OUT) for stem in parts["pool_truth"]]
    (OUT / "pool.txt").write_text("\n".join(pool) + "\n")
    print(", ".join(f"{name} {len(part)}" for name, part in parts.items()) + f": {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

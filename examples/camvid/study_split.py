"""Cut CamVid's frames for a study: 24 of which each seed learns half, 43 as the pool, 41 to choose settings on, 24 for
the figures, on which nothing was reported before.

Frames of a drive follow each other. So those for the figures are the beginnings of the four stretches of road, those to
choose on the ends, together with every third of CamVid's own 51 val frames, which lie in the last of them; a frame
between the figures' and the rest is left out.

Writes runs/camvid-study: labels (`labelled.txt`, `val.txt`, `test.txt`, `pool_truth.txt` beside links to images and
masks) and pool.txt, the list of the pool.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data")) / "camvid"
OUT = ROOT / "runs" / "camvid-study"
STRETCHES = {"0001TP_0": (4, 4), "0006R0_": (7, 7), "0016E5_0[0-2]": (5, 5), "0016E5_0[4-8]": (8, 8)}
"""Beginnings of the stems of a stretch -> frames at its start for the figures, and at its end to choose on."""
LABELLED = 24
SEED = 0


def main() -> None:
    stems, parts = (DATA / "train.txt").read_text().split(), {"val": [], "test": [], "rest": []}
    for stretch, (first, last) in STRETCHES.items():
        frames = sorted(stem for stem in stems if re.match(stretch, stem))
        parts["test"] += frames[:first]
        parts["rest"] += frames[first + 1 : -last - 1]
        parts["val"] += frames[-last:]
    parts["val"] += (DATA / "val.txt").read_text().split()[::3]
    rest = sorted(parts.pop("rest"), key=lambda stem: hashlib.sha256(f"{SEED}:{stem}".encode()).digest())
    parts |= {"labelled": sorted(rest[:LABELLED]), "pool_truth": sorted(rest[LABELLED:])}
    labels = OUT / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    for name in ("images", "masks"):
        if not (labels / name).exists():
            (labels / name).symlink_to((DATA / name).resolve())
    shutil.copy(DATA / "classes.txt", labels)
    for name, part in parts.items():
        (labels / f"{name}.txt").write_text("\n".join(part) + "\n")
    pool = [os.path.relpath(DATA / "images" / f"{stem}.jpg", OUT) for stem in parts["pool_truth"]]
    (OUT / "pool.txt").write_text("\n".join(pool) + "\n")
    print(", ".join(f"{name} {len(part)}" for name, part in parts.items()) + f": {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

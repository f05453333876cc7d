"""Cut CamVid's 123 training frames into 24 to choose on, 24 labelled ones and a pool of the other 75, whose masks stay
hidden.

Frames of a drive follow each other, so those to choose on are the ends of the four stretches of road (`HELD_OUT`):
neither teacher nor student sees them, nor the second before and after val. CamVid's own val frames are 51 consecutive
ones, 6.7 seconds of one drive: nothing is chosen on them.

Writes runs/camvid: labels (`labelled.txt`, `truth.txt`, `pool_truth.txt`, `ceiling.txt` with all that is not held out,
and `val.txt`, beside links to images and masks) and pool.txt, the list that recipe.yaml scans.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data")) / "camvid"
OUT = ROOT / "runs" / "camvid"
LABELLED = 24
HELD_OUT = {"0001TP_0": 4, "0006R0_": 7, "0016E5_0[0-2]": 5, "0016E5_0[4-8]": 8}
"""Stretches of road, as patterns of the beginnings of their stems -> how many of their last frames are held out."""


def main() -> None:
    stems = (DATA / "train.txt").read_text().split()
    truth = {stem for stretch, count in HELD_OUT.items() for stem in _of(stretch, stems)[-count:]}
    rest = [stem for stem in stems if stem not in truth]
    chosen = {rest[n * len(rest) // LABELLED] for n in range(LABELLED)}
    labels = OUT / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    for name in ("images", "masks"):
        if not (labels / name).exists():
            (labels / name).symlink_to((DATA / name).resolve())
    shutil.copy(DATA / "classes.txt", labels)
    parts = {
        "labelled": sorted(chosen),
        "truth": sorted(truth),
        "pool_truth": [stem for stem in rest if stem not in chosen],
        "ceiling": rest,
        "val": (DATA / "val.txt").read_text().split(),
    }
    for name, part in parts.items():
        (labels / f"{name}.txt").write_text("\n".join(part) + "\n")
    pool = [os.path.relpath(DATA / "images" / f"{stem}.jpg", OUT) for stem in parts["pool_truth"]]
    (OUT / "pool.txt").write_text("\n".join(pool) + "\n")
    print(", ".join(f"{name} {len(part)}" for name, part in parts.items()) + f": {OUT.relative_to(ROOT)}")


def _of(stretch: str, stems: list[str]) -> list[str]:
    return sorted(stem for stem in stems if re.match(stretch, stem))


if __name__ == "__main__":
    main()

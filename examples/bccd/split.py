"""Cut BCCD's 205 training images into 20 labelled ones, 60 of truth for thresholds, and a pool of the other 125, whose
labels stay hidden.

    python examples/bccd/split.py [SEED] [FOLDER]

Writes labelled.json, truth.json and pool_truth.json (COCO JSON), and pool.txt, the list that the recipes scan, into
FOLDER, by default runs/bccd.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from builder.truth.coco import read_coco
from builder.truth.records import subset

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data")) / "bccd"
LABELLED, TRUTH = 20, 60


def main(seed: int, out: Path) -> None:
    source = DATA / "instances_train.json"
    content, truth = json.loads(source.read_text()), read_coco(source)
    labelled, held_out = (
        {image.image_id for image in subset(truth, count, seed).images} for count in (LABELLED, LABELLED + TRUTH)
    )  # a smaller choice is part of a larger one
    everything = {image["id"] for image in content["images"]}
    out.mkdir(parents=True, exist_ok=True)
    for name, chosen in {
        "labelled": labelled,
        "truth": held_out - labelled,
        "pool_truth": everything - held_out,
    }.items():
        images = [image for image in content["images"] if image["id"] in chosen]
        notes = [note for note in content["annotations"] if note["image_id"] in chosen]
        part = {"images": images, "annotations": notes, "categories": content["categories"]}
        (out / f"{name}.json").write_text(json.dumps(part))
    pool = [os.path.relpath(DATA / "images" / image["file_name"], out) for image in images]
    (out / "pool.txt").write_text("\n".join(pool) + "\n")
    print(f"{len(labelled)} labelled, {TRUTH} truth, {len(pool)} in the pool: {out}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]) if given else 0, Path(given[1]) if given[1:] else ROOT / "runs" / "bccd")

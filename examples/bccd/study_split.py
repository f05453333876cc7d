"""Cut BCCD's 205 training images for a study, seeded: 40 to learn from, 25 to choose settings on, 140 as the pool. The
87 images of its val set are for the figures.

Writes runs/bccd-study: labelled.json, val.json and pool_truth.json (COCO JSON); the last is also the list of the pool.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data")) / "bccd"
OUT = ROOT / "runs" / "bccd-study"
PARTS = {"labelled": 40, "val": 25, "pool_truth": 140}
SEED = 0


def main() -> None:
    content = json.loads((DATA / "instances_train.json").read_text())
    images = sorted(content["images"], key=lambda i: hashlib.sha256(f"{SEED}:{i['file_name']}".encode()).digest())
    OUT.mkdir(parents=True, exist_ok=True)
    for part, count in PARTS.items():
        chosen, images = images[:count], images[count:]
        ids = {image["id"] for image in chosen}
        notes = [note for note in content["annotations"] if note["image_id"] in ids]
        told = {
            "images": sorted(chosen, key=lambda image: image["id"]),
            "annotations": notes,
            "categories": content["categories"],
        }
        (OUT / f"{part}.json").write_text(json.dumps(told))
    print(", ".join(f"{part} {count}" for part, count in PARTS.items()) + f": {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""Cut BCCD for a study of few labels, seeded: 60 images of which each seed learns a third, 112 as the pool, 40 to
choose settings on, 80 for the figures. The 80 are of BCCD's training set: figures were reported on its 87 val images,
which are in the pool now, and among those to choose on.

Writes runs/bccd-few: labelled.json, val.json, test.json and pool_truth.json (COCO JSON); the last is also the list
of the pool.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data")) / "bccd"
OUT = ROOT / "runs" / "bccd-few"
PARTS = {"train": {"labelled": 60, "test": 80, "pool_truth": 65}, "val": {"val": 40, "pool_truth": 47}}
SEED = 1


def main() -> None:
    made: dict[str, dict[str, Any]] = {}
    for split, parts in PARTS.items():
        content = json.loads((DATA / f"instances_{split}.json").read_text())
        images = sorted(content["images"], key=lambda i: hashlib.sha256(f"{SEED}:{i['file_name']}".encode()).digest())
        for part, count in parts.items():
            chosen, images = images[:count], images[count:]
            told = made.setdefault(part, {"images": [], "annotations": [], "categories": content["categories"]})
            ids = {image["id"]: len(told["images"]) + number for number, image in enumerate(chosen, 1)}
            told["images"] += [image | {"id": ids[image["id"]]} for image in chosen]
            notes = [
                note | {"image_id": ids[note["image_id"]]} for note in content["annotations"] if note["image_id"] in ids
            ]
            told["annotations"] += [note | {"id": len(told["annotations"]) + n} for n, note in enumerate(notes, 1)]
    OUT.mkdir(parents=True, exist_ok=True)
    for part, told in made.items():
        (OUT / f"{part}.json").write_text(json.dumps(told))
    print(", ".join(f"{part} {len(told['images'])}" for part, told in made.items()) + f": {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

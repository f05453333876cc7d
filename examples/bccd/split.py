"""Cut BCCD's 205 training images into 20 labelled ones and a pool of the other 185, whose labels stay hidden.

Writes runs/bccd/labelled.json and pool_truth.json (COCO JSON), and pool.txt, the list that recipe.yaml scans.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from builder.truth import read_coco, subset

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data")) / "bccd"
OUT = ROOT / "runs" / "bccd"
LABELLED = 20


def main() -> None:
    source = DATA / "instances_train.json"
    content = json.loads(source.read_text())
    chosen = {image.image_id for image in subset(read_coco(source), LABELLED, seed=0).images}
    OUT.mkdir(parents=True, exist_ok=True)
    for name, inside in (("labelled", True), ("pool_truth", False)):
        images = [image for image in content["images"] if (image["id"] in chosen) == inside]
        notes = [note for note in content["annotations"] if (note["image_id"] in chosen) == inside]
        part = {"images": images, "annotations": notes, "categories": content["categories"]}
        (OUT / f"{name}.json").write_text(json.dumps(part))
    pool = [os.path.relpath(DATA / "images" / image["file_name"], OUT) for image in images]
    (OUT / "pool.txt").write_text("\n".join(pool) + "\n")
    print(f"{len(chosen)} labelled, {len(pool)} in the pool: {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

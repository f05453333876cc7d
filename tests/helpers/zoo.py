"""A pool and labels in which a group of classes is right as a whole and one class of it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.pools import write_images, write_recipe

ANIMALS = {"cat": (3.0, 0.96), "dog": (0.5, 0.98), "bird": (0.14, 0.3), "fox": (0.3, 1.0)}
"""Predictions on an image, and the share of them that is right. Foxes are predicted on labelled images alone."""


def write_zoo(folder: Path, pool: int = 40, truth: int = 200) -> Path:
    """`folder/pool`, `folder/truth` with `folder/truth.json`, and a recipe that certifies .8 of what a teacher says of
    both. Cats are many enough for a threshold of their own; dogs, birds and foxes share one."""
    rng = np.random.default_rng(5)
    sides = {"pool": write_images(folder / "pool", pool), "truth": write_images(folder / "truth", truth, start=5000)}
    images: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for side, names in sides.items():
        for name in names:
            id = len(images) + 1
            images.append({"id": id, "file_name": name, "width": 64, "height": 48, "side": side})
            cells = iter(rng.permutation(12).tolist())  # a grid: no two boxes overlap
            for category, (number, right) in enumerate(ANIMALS.values(), 1):
                for _ in range(min(3, int(rng.poisson(number))) if side == "truth" or category != 4 else 0):
                    cell = next(cells)
                    box = [4 + 15.0 * (cell % 4), 2 + 15.0 * (cell // 4), 10.0, 10.0]
                    score = float(rng.uniform(0.6, 1))
                    results.append({"image_id": id, "category_id": category, "bbox": box, "score": score})
                    if rng.random() < right and side == "truth":
                        note = {"id": len(notes) + 1, "image_id": id, "category_id": category, "bbox": box}
                        notes.append(note | {"area": 100.0, "iscrowd": 0})
    categories = [{"id": id, "name": name} for id, name in enumerate(ANIMALS, 1)]
    listing = {"images": images, "categories": categories, "annotations": []}
    labelled = [image for image in images if image["side"] == "truth"]
    (folder / "listing.json").write_text(json.dumps(listing))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "truth.json").write_text(json.dumps(listing | {"images": labelled, "annotations": notes}))
    return write_recipe(folder, truth={"source": "truth.json", "images": "truth"}, keep={"precision": 0.8})

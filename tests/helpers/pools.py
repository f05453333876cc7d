"""Small pools of real image files, and COCO results for them: a teacher that costs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

CLASSES = ("cat", "dog", "bird")


def write_images(
    folder: Path, count: int, *, start: int = 0, size: tuple[int, int] = (64, 48), suffix: str = ".jpg"
) -> list[str]:
    """`count` different images; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for n in range(start, start + count):
        pixels = np.random.default_rng(n).integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        names.append(f"image_{n:05d}{suffix}")
        Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(folder / names[-1])
    return names


def write_results(
    folder: Path, names: list[str], *, empty: int = 0, size: tuple[int, int] = (64, 48)
) -> tuple[Path, Path]:
    """COCO results and the COCO JSON of their images; the first `empty` images have no results, category ids have gaps,
    images with `turned` in their name are listed upright."""
    rng = np.random.default_rng(7)
    results: list[dict[str, Any]] = []
    for n, _ in enumerate(names):
        for _ in range(0 if n < empty else int(rng.integers(1, 6))):
            x, y = float(rng.integers(0, size[0] // 2)), float(rng.integers(0, size[1] // 2))
            bbox = [x, y, float(rng.integers(4, size[0] // 2)), float(rng.integers(4, size[1] // 2))]
            results.append(
                {
                    "image_id": 10 + n,
                    "category_id": int(rng.choice([3, 7, 90])),
                    "bbox": bbox,
                    "score": float(rng.random()),
                }
            )
    listing = {
        "images": [
            {"id": 10 + n, "file_name": name}
            | dict(zip(("width", "height"), size[:: -1 if "turned" in name else 1], strict=True))
            for n, name in enumerate(names)
        ],
        "categories": [{"id": id, "name": name} for id, name in zip((3, 7, 90), CLASSES, strict=True)],
        "annotations": [],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "listing.json").write_text(json.dumps(listing))
    return folder / "results.json", folder / "listing.json"


def write_recipe(folder: Path, **sections: Any) -> Path:
    """A recipe over `folder/pool`, replaying `folder/results.json`, with these sections put over it."""
    recipe = {
        "name": "pets",
        "pool": {"source": "pool", "chunk": 4},
        "teacher": {"spec": "replay:results.json", "images": "listing.json"},
        "keep": {"score": 0.5, "ignore": 0.3},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | sections))
    return folder / "recipe.yaml"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, locks and the history, which tells the time, left out."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".lock") and p.name != "history.json"
    }


def write_world(
    folder: Path, pool: int = 40, truth: int = 120, *, boxes: int = 6, seed: int = 1, size: tuple[int, int] = (64, 48)
) -> Path:
    """A pool and labelled images (`folder/pool`, `folder/truth.json` with `folder/truth`) and what a teacher says of
    both, of which a share equal to its score is right; a recipe that names them."""
    rng = np.random.default_rng(seed)
    sides = {"pool": write_images(folder / "pool", pool), "truth": write_images(folder / "truth", truth, start=5000)}
    results: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    images = []
    for side, names in sides.items():
        for name in names:
            id = len(images) + 1
            images.append({"id": id, "file_name": name, "width": size[0], "height": size[1], "side": side})
            for cell in rng.permutation(12)[: rng.integers(1, boxes + 1)]:  # a grid: no two boxes overlap
                bbox = [4 + 15.0 * (cell % 4), 2 + 15.0 * (cell // 4), 10.0, 10.0]
                category, score = int(rng.choice([3, 7])), float(np.sqrt(rng.random()))
                results.append({"image_id": id, "category_id": category, "bbox": bbox, "score": score})
                if rng.random() < score:
                    annotations.append(
                        {"id": len(annotations) + 1, "image_id": id, "category_id": category, "bbox": bbox}
                    )
    categories = [{"id": id, "name": name} for id, name in zip((3, 7), CLASSES, strict=False)]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "listing.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    labelled = [image for image in images if image["side"] == "truth"]
    ids = {image["id"] for image in labelled}
    content = {"images": labelled, "categories": categories}
    content["annotations"] = [note | {"area": 100.0, "iscrowd": 0} for note in annotations if note["image_id"] in ids]
    (folder / "truth.json").write_text(json.dumps(content))
    return write_recipe(folder, truth={"source": "truth.json", "images": "truth"}, keep={"precision": 0.8})

"""Scenes small enough to check by hand: plain rectangles of a class's colour on grey, saved as PNG with COCO labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from builder.store.files import sha256_file
from builder.store.manifest import Manifest, version_id, write_manifest
from builder.store.shards import ShardRecord, write_shard
from builder.truth.records import Truth
from teachers.base import Detections

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


def write_rectangles(folder: Path, count: int, width: int = 64, height: int = 48, seed: int = 0) -> Path:
    """`count` images, each with a rectangle of every colour, no two in a quadrant; image 1 has none. Category ids are
    10, 20, 30; image ids 100, 101, …. Returns the path of the labels, beside the images."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images, notes = [], []
    for number in range(count):
        pixels = np.full((height, width, 3), 100, np.uint8)
        pixels[-1, -1] = number  # tells the images apart
        for label, quadrant in enumerate(rng.permutation(4)[:3] if number != 1 else []):
            w, h = rng.integers(8, width // 2 - 4), rng.integers(8, height // 2 - 4)
            x = int(rng.integers(1, width // 2 - w)) + (quadrant % 2) * width // 2
            y = int(rng.integers(1, height // 2 - h)) + (quadrant // 2) * height // 2
            pixels[y : y + h, x : x + w] = list(COLOURS.values())[label]
            box = [float(x), float(y), float(w), float(h)]
            note = {"id": len(notes) + 1, "image_id": 100 + number, "category_id": 10 * (label + 1), "bbox": box}
            notes.append(note | {"area": box[2] * box[3], "iscrowd": 0})
        name = f"scene_{number}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": 100 + number, "file_name": name, "width": width, "height": height})
    categories = [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(COLOURS)]
    path = folder / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return path


def write_version(folder: Path, truth: Truth, classes: list[str], kind: str = "detection") -> Path:
    """The truth as a version folder of one shard, its classes in this order; every second object is to be ignored."""
    samples = []
    for number, image in enumerate(truth.images):
        xywh = image.boxes.tolist()
        objects = {
            "bbox": [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in xywh],
            "category": [classes.index(truth.classes[label]) for label in image.labels],
            "score": [0.9] * len(xywh),
            "ignore": [i % 2 == 1 for i in range(len(xywh))],
            "area": image.area.tolist(),
        }
        label = {"key": f"scene-{number}", "name": image.name, "sha256": sha256_file(image.path)}
        label |= {"width": image.width, "height": image.height, "reencoded": "none", "objects": objects}
        samples.append((f"scene-{number}", [("png", image.path.read_bytes()), ("json", json.dumps(label).encode())]))
    path = folder / "data" / "train-000000.tar"
    shard = write_shard(path, samples)
    record = ShardRecord(
        name=path.name, bytes=shard.bytes, sha256=sha256_file(path), samples=shard.samples, kept=0, ignored=0
    )
    manifest = Manifest(
        name="scenes", version="v1", id=version_id(classes, ["png", "json"], [record.sha256], []), kind=kind,
        classes=classes, features=["png", "json"], shards=[record], images={}, objects={}, per_class={}, files={},
        provenance={},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


class RectangleFinder:
    """A detector for these scenes that needs no training: the extent of each colour. `classes` may hold any names."""

    def __init__(self, classes: tuple[str, ...], batch_size: int = 3) -> None:
        self.classes = classes
        self.batch_size = batch_size
        self.description = {"kind": "detection", "classes": list(classes), "floor": 0.0}
        self.runtime: dict[str, str] = {}

    def predict(self, images: list[np.ndarray]) -> list[Detections]:
        return [self._find(image) for image in images]

    def _find(self, image: np.ndarray) -> Detections:
        boxes, labels = [], []
        for label, name in enumerate(self.classes):
            box = extent(image, COLOURS[name]) if name in COLOURS else None
            if box is not None:
                boxes.append(box)
                labels.append(label)
        height, width = image.shape[:2]
        return Detections.of(boxes, np.full(len(boxes), 0.9), labels, width=width, height=height)


def extent(image: np.ndarray, colour: tuple[int, int, int], tolerance: int = 60) -> list[float] | None:
    """`xyxy` around all pixels of (H, W, 3) that are near a colour; None if there are none."""
    rows, columns = np.nonzero((np.abs(image.astype(int) - colour) <= tolerance).all(axis=2))
    if not len(rows):
        return None
    return [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]

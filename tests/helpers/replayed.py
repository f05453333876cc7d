"""Predictions as other tools store them, in files of every format of `replay:`, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from builder.engine import silent
from builder.label.replay.replay import Replay
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from teachers.base import Detections, TeacherOptions

NAMES = ("a.jpg", "b.jpg", "deep/er/c.png")
WIDTH, HEIGHT = 80, 60


def write_pool(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A folder of different images of 80x60 pixels."""
    for n, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * n, np.uint8)).save(path)
    return folder


def replayed(pool: Path, results: Path, images: Path | None = None, **options: Any) -> dict[str, Any]:
    """Name of each image -> its prediction or failure."""
    replay = Replay(results, images, TeacherOptions(**options), workers=2)
    scanned = scan_pool(str(pool), Store(pool.parent / "store"))
    chunks = list(scanned.chunks())
    with silent("label", 3) as advance:
        found = [one for part in replay.of(scanned).results(chunks, advance) for one in part]
    names = [image.name for chunk in chunks for image in chunk.images]
    return {"kind": replay.description["kind"], "classes": replay.classes} | dict(zip(names, found, strict=True))


def rows(found: Detections) -> list[list[float]]:
    """x1, y1, x2, y2, score, label."""
    table = np.column_stack([found.boxes, found.scores, found.labels])
    return [[round(float(value), 3) for value in row] for row in table]


def pixels(found: Detections) -> np.ndarray:
    from teachers import masks

    return masks.decode(found.masks or (), HEIGHT, WIDTH)


def write_coco(folder: Path, results: list[dict[str, Any]]) -> tuple[Path, Path]:
    images = [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(NAMES[:2])]
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "N/A"}, {"id": 5, "name": "dog"}]
    (folder / "listing.json").write_text(json.dumps({"images": images, "categories": categories}))
    (folder / "results.json").write_text(json.dumps(results))
    return folder / "results.json", folder / "listing.json"


def write_yolo(folder: Path, files: dict[str, str], names: Any = ("cat", "N/A", "dog")) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if names is not None:
        (folder / "data.yaml").write_text(json.dumps({"names": names}))
    return folder


def region(kind: str = "rectanglelabels", label: str = "dog", **changes: Any) -> dict[str, Any]:
    value = {"x": 25.0, "y": 50.0, "width": 50.0, "height": 25.0, "rotation": 0, kind: [label]}
    sizes = {"original_width": WIDTH, "original_height": HEIGHT}
    return {"type": kind, "score": 0.5, "value": value | changes.pop("value", {}), **sizes} | changes


def task(image: str, *regions: dict[str, Any], **more: Any) -> dict[str, Any]:
    prediction = {"model_version": "v1", "score": 0.25, "result": list(regions)}
    return {"id": 12, "data": {"image": image}, "annotations": [], "predictions": [prediction | more]}


def write_tasks(folder: Path, *tasks: dict[str, Any]) -> Path:
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder / "export.json"


def detection(**changes: Any) -> dict[str, Any]:
    return {"_cls": "Detection", "label": "cat", "bounding_box": [0.25, 0.5, 0.5, 0.25], "confidence": 0.5} | changes


def sample(name: str, *objects: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"filepath": name, "predictions": {"_cls": "Detections", "detections": list(objects)}} | more


def write_samples(folder: Path, *samples: dict[str, Any]) -> Path:
    (folder / "export").mkdir(exist_ok=True)
    (folder / "export" / "samples.json").write_text(json.dumps({"samples": samples}))
    return folder / "export"


def write_maps(folder: Path, classes: str = "sky\nroad\n", **planes: np.ndarray) -> Path:
    for part, plane in planes.items():
        (folder / part / "deep" / "er").mkdir(parents=True)
        for name in ("b", "deep/er/c"):
            Image.fromarray(plane).save(folder / part / f"{name}.png")
    (folder / "classes.txt").write_text(classes)
    return folder

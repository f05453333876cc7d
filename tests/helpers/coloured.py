"""Scenes of one coloured rectangle, labelled as classes, maps or outlines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 32
COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}
NAMES = tuple(COLOURS)
ARCHS = {"classification": "linear", "semantic": "fpn", "instance": "maskrcnn"}


def make_scene(rng: np.random.Generator, label: int) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle of a class's colour on grey: pixels (32, 32, 3), and its mask."""
    mask = np.zeros((SIZE, SIZE), bool)
    (y, x), (h, w) = rng.integers(2, 12, 2), rng.integers(10, 18, 2)
    mask[y : y + h, x : x + w] = True
    pixels = np.full((SIZE, SIZE, 3), 100, np.uint8)
    pixels[mask] = COLOURS[NAMES[label]]
    pixels[-1, -1] = rng.integers(0, 255, 3)  # tells the images apart
    return pixels, mask


def png(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    return out.getvalue()


def box_of(mask: np.ndarray) -> list[float]:
    rows, columns = np.nonzero(mask)
    x, y = columns.min(), rows.min()
    return [float(v) for v in (x, y, columns.max() + 1 - x, rows.max() + 1 - y)]


def write_labelled(folder: Path, kind: str, count: int = 12) -> Path:
    """Labels of a kind; the path to give."""
    rng = np.random.default_rng(0)
    images, notes = [], []
    for n in range(count):
        label = n % 3
        pixels, mask = make_scene(rng, label)
        place = {"classification": f"{NAMES[label]}/{n}.png", "semantic": f"images/{n}.png"}.get(kind, f"{n}.png")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(png(pixels))
        if kind == "semantic":
            (folder / "masks").mkdir(exist_ok=True)
            plane = np.where(mask, label, 3).astype(np.uint8)
            plane[0] = 9  # no class: ignored
            (folder / "masks" / f"{n}.png").write_bytes(png(plane))
        images.append({"id": n, "file_name": f"{n}.png", "width": SIZE, "height": SIZE})
        x, y, w, h = box_of(mask)
        note = {"id": n + 1, "image_id": n, "category_id": label + 1, "bbox": [x, y, w, h], "area": w * h}
        notes.append(note | {"iscrowd": 0, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]})
    if kind == "instance":
        categories = [{"id": n + 1, "name": name} for n, name in enumerate(NAMES)]
        content = {"images": images, "annotations": notes, "categories": categories}
        (folder / "labels.json").write_text(json.dumps(content))
        return folder / "labels.json"
    if kind == "semantic":
        (folder / "classes.txt").write_text("\n".join([*NAMES, "ground"]))
    return folder

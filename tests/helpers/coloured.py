"""Scenes of one coloured rectangle, labelled as classes, maps or outlines."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from builder.store.files import sha256_file
from builder.store.manifest import Manifest, version_id, write_manifest
from builder.store.shards import ShardRecord, write_shard
from teachers.base import VOID
from teachers.masks import encode

SIZE = 32
COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}
NAMES = tuple(COLOURS)
VERSION_CLASSES = ["red", "blue", "green"]
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
            plane[0] = VOID
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


def label_of(kind: str, mask: np.ndarray, label: int) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """What a sample of a version says: keys of its JSON, and its other members."""
    theirs = VERSION_CLASSES.index(NAMES[label])
    if kind == "classification":
        probabilities = [0.1, 0.1, 0.1]
        probabilities[theirs] = 0.8
        about = {"label": theirs, "score": 0.8, "probabilities": probabilities}
        return about, [("cls", str(theirs).encode())]
    if kind == "semantic":
        pixels = {"category": [], "kept": [], "ignored": [], "dropped": []}
        return {"pixels": pixels}, [("seg.png", png(np.where(mask, theirs, 255).astype(np.uint8)))]
    counts = encode(mask[None])[0].decode()
    objects = {
        "bbox": [box_of(mask), [0.0, 0.0, 4.0, 4.0]],
        "category": [theirs, 0],
        "score": [0.9, 0.4],
        "area": [float(mask.sum()), 16.0],
    }
    return {"objects": objects | {"ignore": [False, True], "segmentation": [counts, ""]}}, []


def write_version(
    folder: Path,
    kind: str,
    shift: int = 0,
    change: Callable[[dict[str, Any]], Any] = lambda label: None,
    scenes: Sequence[int] = range(8),
    seed: int = 1,
) -> Path:
    """8 scenes as a version, or these; change: what is done to each label JSON; shift: the class that is said for the
    first. With seed 0 they are those of `write_labelled`."""
    rng, samples = np.random.default_rng(seed), []
    features = {"classification": ["png", "json", "cls"], "semantic": ["png", "json", "seg.png"]}
    for n in range(max(scenes) + 1):
        pixels, mask = make_scene(rng, n % 3)
        if n not in scenes:
            continue
        about, members = label_of(kind, mask, (n + shift) % 3)
        record = {
            "key": f"scene-{n}",
            "name": f"scene-{n}.png",
            "sha256": hashlib.sha256(png(pixels)).hexdigest(),
        } | about
        record |= {"width": SIZE, "height": SIZE, "reencoded": "none"}
        change(record)
        files = [("png", png(pixels)), ("json", json.dumps(record).encode()), *members]
        samples.append((f"scene-{n}", files))
    path = folder / "data" / "train-000000.tar"
    shard = write_shard(path, samples)
    record = ShardRecord(
        name=path.name, bytes=shard.bytes, sha256=sha256_file(path), samples=shard.samples, kept=0, ignored=0
    )
    members = features.get(kind, ["png", "json"])
    manifest = Manifest(
        name="scenes", version="v1", id=version_id(VERSION_CLASSES, members, [record.sha256], []), kind=kind,
        classes=VERSION_CLASSES, features=members, shards=[record], images={}, objects={}, per_class={}, files={},
        provenance={},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder

"""Small versions of masks, maps and classes with human labels, to be looked at in FiftyOne."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from builder.build import build_pseudo
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from teachers.base import Detections, Prediction, TeacherOptions
from teachers.images import decode_rgb
from teachers.masks import area
from tests.helpers.kinds import CLASSES, KINDS, Says, instances, probabilities
from tests.helpers.pools import write_images, write_recipe


def few_instances(image: np.ndarray, rng: np.random.Generator) -> Detections:
    return instances(image, rng, count=4)


def instance(options: TeacherOptions) -> Says:
    return Says("instance", few_instances)


def semantic(options: TeacherOptions) -> Says:
    return Says("semantic", KINDS["semantic"])


def classification(options: TeacherOptions) -> Says:
    return Says("classification", probabilities)


def predicted(teacher: Says, path: Path) -> Prediction:
    return teacher.predict([decode_rgb(path.read_bytes())])[0]


def write_coco(folder: Path, teacher: Says, names: list[str], rng: np.random.Generator) -> dict[str, Any]:
    images, notes = [], list[dict[str, Any]]()
    for id, name in enumerate(names, 1):
        found = predicted(teacher, folder / name)
        assert isinstance(found, Detections) and found.masks is not None
        images.append({"id": id, "file_name": name, "width": 64, "height": 48})
        for code, box, label in zip(found.masks, found.boxes.tolist(), found.labels.tolist(), strict=True):
            if rng.random() < 0.6:
                notes.append({
                    "id": len(notes) + 1, "image_id": id, "category_id": label + 1, "iscrowd": 0,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "area": int(area([code], 48, 64)[0]),
                    "segmentation": {"size": [48, 64], "counts": code.decode()},
                })  # fmt: skip
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)]
    path = folder.parent / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return {"source": "truth.json", "images": "truth"}


def write_planes(folder: Path, teacher: Says, names: list[str], rng: np.random.Generator) -> dict[str, Any]:
    """Mask folders, of which a third of the blocks say something else; classes in another order than the teacher's."""
    (folder / "masks").mkdir()
    (folder / "images").mkdir()
    for name in names:
        (folder / name).rename(folder / "images" / name)
        labels = predicted(teacher, folder / "images" / name).labels  # type: ignore[union-attr]
        other = np.kron(rng.integers(0, 4, (6, 8)), np.ones((8, 8))).astype(np.uint8)
        change = np.kron(rng.random((6, 8)) < 0.3, np.ones((8, 8))).astype(bool)
        plane = np.where(change, other, labels)
        Image.fromarray(np.where(plane == 255, 255, 3 - plane).astype(np.uint8)).save(
            folder / "masks" / Path(name).with_suffix(".png").name
        )
    (folder / "classes.txt").write_text("\n".join(CLASSES[::-1]))
    return {"source": "truth", "format": "masks"}


def write_folders(folder: Path, teacher: Says, names: list[str], rng: np.random.Generator) -> dict[str, Any]:
    for name in names:
        best = int(predicted(teacher, folder / name).probabilities.argmax())  # type: ignore[union-attr]
        label = CLASSES[best if rng.random() < 0.7 else int(rng.integers(4))]
        (folder / label).mkdir(exist_ok=True)
        (folder / name).rename(folder / label / name)
    return {"source": "truth", "format": "classes"}


TRUTHS = {"instance": write_coco, "semantic": write_planes, "classification": write_folders}
FACTORIES = {"instance": instance, "semantic": semantic, "classification": classification}


def build_kinds(root: Path, store: Store) -> None:
    """Two versions of each kind, `KIND@v1` and, with a higher threshold, `KIND@v2`."""
    for kind, write in TRUTHS.items():
        own = root / kind
        write_images(own / "pool", 16 if kind == "classification" else 12)
        truth = write(own / "truth", FACTORIES[kind](TeacherOptions()), write_images(own / "truth", 24, start=900),
                      np.random.default_rng(3))  # fmt: skip
        for score in (0.6, 0.75) if kind == "classification" else (0.5, 0.7):
            recipe = write_recipe(
                own,
                name=kind,
                pool={"source": "pool", "chunk": 5},
                teacher={"spec": f"python:tests.helpers.browsed:{kind}"},
                truth=truth,
                keep={"score": score, "ignore": 0.4},
                shards={"max_images": 5},
            )
            build_pseudo(load_recipe(recipe), store, root=own, report=False, allow_code=True, workers=2)

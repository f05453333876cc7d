"""A small study of coloured rectangles, whose networks learn in seconds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.helpers.coloured import NAMES, make_scene, png

NETWORK = {"arch": "linear", "backbone": "timm:test_resnet", "size": 32, "levels": [4, 8], "norm": "group"}
TRAIN = {"network": NETWORK, "steps": 4, "batch": 4, "lr": 3e-3, "workers": 0, "save_every": 2}


def write_set(folder: Path, name: str, count: int, seed: int) -> Path:
    """`count` images of a coloured rectangle each, and a table of their classes."""
    rng = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True)
    rows = [("file", "class")]
    for n in range(count):
        label = n % 3
        (folder / name / f"{n}.png").write_bytes(png(make_scene(rng, label)[0]))
        rows.append((f"{name}/{n}.png", NAMES[label]))
    with open(folder / f"{name}.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / f"{name}.csv"


def write_study(folder: Path, **sections: Any) -> Path:
    """A study of coloured rectangles, with these sections put over its own."""
    for seed, (name, count) in enumerate({"labelled": 12, "val": 6, "test": 9, "pool": 12, "others": 6}.items()):
        write_set(folder, name, count, seed)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    study = {
        "name": "colours",
        "labelled": "labelled.csv",
        "val": "val.csv",
        "test": "test.csv",
        "pool": "pool",
        "pool_truth": "pool.csv",
        "others": ["others.csv"],
        "train": TRAIN,
        "teacher": {"steps": 3},
        "build": {"keep": {"score": 0.0, "ignore": None}},
        "grid": {"fractions": [0.5, 1]},
        "seeds": 2,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study | sections, sort_keys=False))
    return folder / "study.yaml"

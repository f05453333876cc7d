"""Teachers of every kind that cost nothing: what they say of an image depends on its pixels alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from builder.label.labelling import label_pool
from builder.label.model import ModelLabeller
from builder.scan.pool import Pool
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from teachers.base import ClassProbabilities, Detections, Prediction, SemanticMap
from teachers.masks import bounds, encode
from tests.helpers.pools import write_images

CLASSES = ("cat", "dog", "bird", "car")


@dataclass
class Says:
    """A teacher of one kind that answers with `make`."""

    kind: str
    make: Callable[[np.ndarray, np.random.Generator], Prediction]
    classes: tuple[str, ...] = CLASSES
    batch_size: int = 3
    runtime: dict[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": self.kind, "classes": list(self.classes), "floor": 0.0}

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        return [self.make(image, seeded(image)) for image in images]


def seeded(image: np.ndarray) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(image.tobytes()).digest()))


def probabilities(image: np.ndarray, rng: np.random.Generator) -> ClassProbabilities:
    return ClassProbabilities(rng.dirichlet(np.full(len(CLASSES), 0.3)).astype(np.float32))


def semantic(image: np.ndarray, rng: np.random.Generator) -> SemanticMap:
    labels = np.kron(rng.choice([0, 1, 2, 3, 255], (6, 8)), np.ones((8, 8))).astype(np.uint8)
    return SemanticMap(labels, rng.integers(0, 256, labels.shape, dtype=np.uint8))


def instances(image: np.ndarray, rng: np.random.Generator, count: int = 6) -> Detections:
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    cx, cy, r = rng.random((3, count, 1, 1)) * np.array([width, height, 12]).reshape(3, 1, 1, 1) + [
        [[[0]]],
        [[[0]]],
        [[[3]]],
    ]
    codes = encode((x - cx) ** 2 + (y - cy) ** 2 < r**2)
    return Detections.of(
        bounds(codes, height, width),
        rng.random(count),
        rng.integers(0, len(CLASSES), count),
        width=width,
        height=height,
        masks=codes,
        quality=rng.random(count),
        agree=rng.integers(1, 4, count),
    )


KINDS: dict[str, Callable[[np.ndarray, np.random.Generator], Prediction]] = {
    "classification": probabilities,
    "semantic": semantic,
    "instance": instances,
}


def labelled_by(folder: Path, teacher: Says, images: int = 7, chunk: int = 3) -> tuple[Pool, Path]:
    """A pool of new images and where this teacher's predictions of it lie."""
    store = Store(folder / "store")
    write_images(folder / "pool", images)
    pool = scan_pool(str(folder / "pool"), store, chunk_size=chunk)
    done = label_pool(pool, ModelLabeller(teacher, 2), store, spec="says")
    return pool, store.predictions / done.predictions


SIZE = (64, 48)


def boxes(image: np.ndarray, rng: np.random.Generator) -> Detections:
    return replace(instances(image, rng), masks=None, quality=None, agree=None)

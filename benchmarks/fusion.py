"""Weighted boxes fusion, against the package ensemble-boxes in the same run.

Three models' boxes on a batch of images, half of them around common objects, of several classes. The package fuses
image by image, which is all it can; we fuse the batch at once. Results are checked to be equal to 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from _compare import Comparison, Row, Run, beside, timed

from teachers.boxes import Fused, fuse, nms

Model = tuple[np.ndarray, np.ndarray, np.ndarray]
SCENES = ((32, 20), (32, 80), (8, 80), (8, 3), (1, 80))
"""Images in a batch, and classes."""
WEIGHTS, IOU = [1.0, 2.0, 1.5], 0.55
CLASSES = 1000


def scene(images: int, classes: int, boxes: int, seed: int = 0) -> list[list[Model]]:
    """For each image and model: boxes in a unit square, scores and labels, up to so many of each."""
    rng = np.random.default_rng(seed)
    world = []
    for _ in range(images):
        corner, side = rng.random((boxes, 2)) * 0.8, rng.uniform(0.02, 0.3, (boxes, 2))
        labels = rng.integers(0, classes, boxes)
        models = []
        for _ in WEIGHTS:
            near = rng.integers(0, boxes, boxes // 2)
            around = np.c_[corner[near], corner[near] + side[near]] + rng.normal(0, 0.01, (len(near), 4))
            point = rng.random((boxes - len(near), 2)) * 0.8
            elsewhere = np.c_[point, point + rng.uniform(0.02, 0.2, point.shape)]
            found = np.sort(np.r_[around, elsewhere].clip(0, 1).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
            label = np.r_[labels[near], rng.integers(0, classes, len(elsewhere))]
            models.append(_without_doubles(found.astype(np.float32), rng.random(boxes, np.float32), label))
        world.append(models)
    return world


def _without_doubles(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Model:
    """As a model gives them: the package counts two boxes of one model as two that found an object."""
    once = nms(boxes, scores, labels, IOU)
    return boxes[once], scores[once], labels[once]


def theirs(world: list[list[Model]]) -> list[Model]:
    from ensemble_boxes import weighted_boxes_fusion

    return [
        weighted_boxes_fusion(*map(list, zip(*models, strict=True)), weights=WEIGHTS, iou_thr=IOU) for models in world
    ]


def ours(world: list[list[Model]]) -> Fused:
    """From the same lists to the result, so that putting them together counts."""
    parts = [model for models in world for model in models]
    sizes = [len(labels) for _, _, labels in parts]
    part = np.repeat(np.arange(len(parts)), sizes)
    boxes, scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    groups = part // len(WEIGHTS) * CLASSES + labels
    return fuse(boxes, scores, groups, part % len(WEIGHTS), np.array(WEIGHTS), IOU)


def check_equal(world: list[list[Model]]) -> None:
    found = ours(world)
    for image, (boxes, scores, labels) in enumerate(theirs(world)):
        own = found.groups // CLASSES == image
        mine = np.column_stack([found.boxes[own], found.scores[own], found.groups[own] % CLASSES])
        other = np.column_stack([boxes, np.minimum(scores, 1), labels])
        if mine.shape != other.shape or not np.allclose(_sorted(mine), _sorted(other), rtol=0, atol=1e-6):
            raise SystemExit("the fused boxes differ")


def _sorted(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(np.round(rows, 5).T)]


def compare(run: Run) -> Iterator[Comparison]:
    for images, classes in SCENES[-1:] if run.tiny else SCENES:
        for boxes in (20,) if run.tiny else (20, 100, 300):
            world = scene(images, classes, boxes)
            check_equal(world)
            again = max(1, 32 // images)  # so that a round takes some milliseconds

            def repeated(work, world=world, again=again) -> float:  # type: ignore[no-untyped-def]
                return timed(lambda: [work(world) for _ in range(again)]) / again

            works = {"Tutelage": partial(repeated, ours), "ensemble-boxes": partial(repeated, theirs)}
            what = f"batches of {images} images, {classes} classes, 3 models x {boxes} boxes; results equal"
            yield from beside(what, run.turns(works), {"ensemble-boxes": 10}, amount=images, of="images")


ROW = Row(
    "fuse", "weighted boxes fusion", "10 times ensemble-boxes at every size", compare, ("ensemble-boxes", "numba")
)

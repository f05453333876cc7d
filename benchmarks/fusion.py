"""Weighted boxes fusion, against the package ensemble-boxes in the same run.

Three models' boxes on a batch of images, half of them around common objects, of several classes. The package fuses
image by image, which is all it can; we fuse the batch at once. Results are checked to be equal to 1e-6. Aim: at least
10 times as fast on a batch of 32 images of 20 classes; one image, and few classes on few images, have none: the fewer
groups advance together, the less is gained.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

import numpy as np
from _compare import in_turns, machine, ratios, show, timed, verdict
from ensemble_boxes import weighted_boxes_fusion

from teachers.boxes import Fused, fuse, nms

Model = tuple[np.ndarray, np.ndarray, np.ndarray]
AIMED_AT = (32, 20)
SCENES = (AIMED_AT, (32, 80), (8, 80), (8, 3), (1, 80))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print(machine())
    for size in SCENES:
        for boxes in (20, 100, 300):
            world = scene(*size, boxes)
            check_equal(world)
            works = {
                "tutelage": partial(timed, partial(ours, world)),
                "ensemble-boxes": partial(timed, partial(theirs, world)),
            }
            seconds = in_turns(works, repeats)
            print(f"\n{size[0]} images x {size[1]} classes x 3 models x {boxes} boxes; results are equal")
            show(seconds, size[0], "images")
            faster = ratios(seconds["ensemble-boxes"], seconds["tutelage"])
            if size == AIMED_AT:
                verdict("ensemble-boxes over tutelage", faster, 10, at_most=False)
            else:
                print(f"\nensemble-boxes over tutelage: {median(faster):.2f} ({min(faster):.2f} - {max(faster):.2f})")


if __name__ == "__main__":
    main()

"""Whether what a teacher says of the first images can be true at all: a model read in the wrong format, or fed pixels
of the wrong range, answers with boxes and scores as no working model does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from builder.label.labeller import Result
from builder.scan.pool import PoolImage
from builder.words import count
from teachers.base import SURE as TELLING
from teachers.base import ClassProbabilities, Detections, TeacherError

NETWORKS = ("onnx", "torchvision", "transformers", "checkpoint")
"""Families whose scores a network gives. A teacher of the user's own may give all its boxes one score by right."""
ENOUGH = 100
"""Boxes, or images of a classifier, from which on their scores and classes tell anything."""
FEW = 3
"""Boxes from which on their places do."""
SURE, EQUAL, MOST = 0.999, 0.95, 0.99
"""A score that is nearly 1, and the shares of scores, or of classes, that are nearly all."""
CROWD, FLOOD = 100, 500
"""Boxes of .5 or more that an image has on average: many, and more than can be."""
HALF, SOME_VANISHED, SOME_BEYOND = 0.5, 0.05, 0.2
"""The share of boxes that do not lie in their images, by more than which they are read wrongly: of few boxes or of a
model that cannot be read wrongly; of many of an ONNX file, whose right ones give 0 of thousands (docs/log.md)."""
CORNER = 0.03
"""The share of both sides in which all boxes would lie if shares of an image were read as pixels."""
CLASSES = 3
"""From so many on it says something that only one is found."""
ONE_CLASS = 0.75
"""The share of images that a classifier fed the wrong pixels gives to one class, all of them nearly sure."""


def check_plausible(images: Sequence[PoolImage], results: Sequence[Result], description: Mapping[str, Any]) -> None:
    """Raise TeacherError, with what to check, if the results of the first chunk cannot be true.

    One sign is enough where it is of places (boxes without area, outside of their images, all in one corner) or, from
    a network, of scores that are all equal or nearly 1. Otherwise two are needed, so that a detector of one class,
    crowded images, an overconfident classifier and a few test boxes pass. That answers are equal says nothing where the
    images are, as a fixed camera's.
    """
    pairs = [(image, result) for image, result in zip(images, results, strict=True)]
    boxes = [(image, result) for image, result in pairs if isinstance(result, Detections)]
    classes = [result.probabilities for _, result in pairs if isinstance(result, ClassProbabilities)]
    network = description.get("family") in NETWORKS
    onnx = description.get("family") == "onnx"
    signs = _of_places(boxes, onnx)
    check = (
        "boxes, normalized, columns, outputs and scale in its YAML file"
        if onnx
        else "that boxes are x1 y1 x2 y2 in pixels"
    )
    if not signs:
        differ = len({image.dhash for image in images}) >= HALF * len(images)
        signs = (
            _of_scores(boxes, len(description["classes"]), network, differ) if boxes else _of_classes(classes, differ)
        )
        check = "scale, mean and std (pixels of 0 to 1 or to 255?), decoder and activation" if onnx else "its input"
    if signs:
        raise TeacherError(
            f"what the teacher says of the first {count(len(boxes) or len(classes))} images cannot be right: "
            f"{', '.join(signs)}: check {check}; if it is right, set the teacher option alarm to false (or --no-alarm)"
        )


def _of_places(boxes: Sequence[tuple[PoolImage, Detections]], onnx: bool) -> list[str]:
    """What is impossible about where boxes lie."""
    vanished, beyond = (sum(getattr(found, name) for _, found in boxes) for name in ("vanished", "beyond"))
    total = vanished + sum(int((found.scores >= TELLING).sum()) for _, found in boxes)
    if total < FEW:
        return []
    few = total < ENOUGH or not onnx
    if vanished > (HALF if few else SOME_VANISHED) * total:
        return [f"{count(vanished)} of {count(total)} boxes have no area inside their image"]
    if beyond > (HALF if few else SOME_BEYOND) * total:
        return [f"{count(beyond)} of {count(total)} boxes reach far beyond their image"]
    ends = [(found.boxes[:, 2:] / (image.width, image.height)).max() for image, found in boxes if len(found)]
    if max(ends) < CORNER:
        return [f"all {count(total)} boxes lie in the upper left corner, within {max(ends):.1%} of the image's sides"]
    return []


def _of_scores(boxes: Sequence[tuple[PoolImage, Detections]], classes: int, network: bool, differ: bool) -> list[str]:
    """What no working detector says: of its scores, and what else is odd beside them."""
    scores = np.concatenate([found.scores for _, found in boxes])
    if len(scores) < ENOUGH:
        return []
    crowd = float((scores >= 0.5).sum()) / len(boxes)
    if crowd > FLOOD:
        return [f"{count(crowd)} boxes of .5 or more on an image"]
    values, often = np.unique(scores, return_counts=True)
    odd = []
    if differ and often.max() >= EQUAL * len(scores):
        odd.append(f"{count(often.max())} of {count(len(scores))} scores are {values[often.argmax()]:.3g}")
    elif (scores >= SURE).sum() >= (HALF if crowd > CROWD else EQUAL) * len(scores):
        odd.append(f"{count((scores >= SURE).sum())} of {count(len(scores))} scores are {SURE} or more")
    size = [found.boxes / np.tile((image.width, image.height), 2) for image, found in boxes]
    different = len(np.unique(np.concatenate(size).round(3), axis=0))
    if differ and different <= (1 - EQUAL) * len(scores):
        odd.append(f"{count(len(scores))} boxes lie in {count(different)} places")
    often = np.bincount(np.concatenate([found.labels for _, found in boxes]), minlength=classes)
    beside = []
    if classes >= CLASSES and often.max() >= MOST * len(scores):
        beside.append(f"{count(often.max())} are of one of {classes} classes")
    if crowd > CROWD:
        beside.append(f"{count(crowd)} of .5 or more on an image")
    return [*odd, *beside] if odd and (network or len(odd) + len(beside) > 1) else []


def _of_classes(probabilities: Sequence[np.ndarray], differ: bool) -> list[str]:
    """What no working classifier says."""
    if len(probabilities) < ENOUGH or not differ:
        return []
    table = np.stack(probabilities)
    if table.shape[1] < 2:
        return []
    if np.ptp(table, axis=0).max() < 1e-4:
        return ["all have the same probabilities"]
    likeliest = np.bincount(table.argmax(1)).max()
    sure = (table.max(1) >= SURE).sum()
    if table.shape[1] >= CLASSES and likeliest >= ONE_CLASS * len(table) and sure >= EQUAL * len(table):
        return [f"{count(likeliest)} are of one of {table.shape[1]} classes, {count(sure)} with {SURE} or more"]
    return []

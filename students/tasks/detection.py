"""Learning to detect: boxes of people and of versions as targets of FCOS and RetinaNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from builder.report.paint import class_colour, outline
from builder.truth.records import LabelledImage
from students.augment.scene import Placement
from students.tasks.base import Drawing, Task
from students.tasks.dense import DenseForward, detection_sums

MIN_VISIBLE = 0.1
MIN_SIDE = 1.0
NOTE = ", dashed: ignored"


@dataclass(frozen=True)
class Boxes:
    """What is marked in an image: boxes (N, 4) `xyxy`, its pixels; labels: (N,); ignore: bool (N,), whether a box is a
    region in which nothing is background, and no object."""

    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray


@dataclass(frozen=True)
class Target:
    """What one image teaches, in pixels of the network's input.

    boxes: float32 (N, 4) `xyxy`; labels: int64 (N,), positions in the labelled set's `classes`; ignore: float32 (M, 4),
    regions in which nothing is background: crowds, difficult objects, boxes below the threshold, and objects that the
    crop left less than a tenth of (MIN_VISIBLE) or thinner than a pixel (MIN_SIDE).
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor


def human_boxes(image: LabelledImage, classes: int = 0) -> Boxes:
    """Crowds and difficult objects are ignored."""
    return Boxes(image.boxes, image.labels, image.crowd | image.difficult)


def pseudo_boxes(record: Mapping[str, Any], members: Sequence[bytes], positions: np.ndarray, classes: int = 0) -> Boxes:
    """The `objects` of a label JSON: see Task.pseudo."""
    objects = record["objects"]
    boxes = np.array(objects["bbox"], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = positions[np.array(objects["category"], np.int64)]
    return Boxes(boxes, labels, np.array(objects["ignore"], bool))


def unknown_boxes(height: int, width: int, classes: int) -> Boxes:
    """One region over the whole image, in which nothing is background."""
    whole = np.array([[0, 0, width, height]], np.float64)
    return Boxes(whole, np.zeros(1, np.int64), np.ones(1, bool))


def placed(marks: Boxes, placement: Placement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of a Target."""
    boxes, good, seen = kept(marks, placement)
    return boxes[good], marks.labels[good].astype(np.int64), boxes[seen & ~good]


def kept(marks: Boxes, placement: Placement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every box on the canvas, float32 (N, 4); bool (N,), which are objects there; bool (N,), which are in sight."""
    boxes, visible = placement.boxes(marks.boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    good = ~marks.ignore & (sides >= MIN_SIDE).all(axis=1) & (visible >= MIN_VISIBLE)
    return boxes, good, (sides > 0).all(axis=1)


def draw_boxes(shown: Image.Image, target: tuple[np.ndarray, ...], side: int) -> Drawing:
    """The canvas, `side` pixels of the network's input wide, with its boxes; those that are ignored are dashed."""
    boxes, labels, ignore = target[:3]
    draw, last, scale = ImageDraw.Draw(shown), shown.width - 1, shown.width / side
    for box in (ignore * scale).clip(0, last - 1).tolist():
        outline(draw, box, "ignored")
    for box, label in zip((boxes * scale).clip(0, last).tolist(), labels.tolist(), strict=True):
        draw.rectangle(box, outline=class_colour(label), width=2)
    return Drawing(shown, set(labels.tolist()))


DETECTION = Task(
    kind="detection",
    versions=("detection", "instance"),
    members=(),
    human=human_boxes,
    pseudo=pseudo_boxes,
    unknown=unknown_boxes,
    place=placed,
    target=Target,
    forward=DenseForward,
    sums=detection_sums,
    draw=draw_boxes,
    boxes=attrgetter("boxes"),
    note=NOTE,
)

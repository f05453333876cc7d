"""What one kind of label needs of the loader and the loop. A new kind adds a file with a Task, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor, device, nn

from builder.truth.records import LabelledImage
from students.augment.policies import NO_BOXES
from students.augment.scene import Placement, Table
from students.train.losses import CLIP, StreamSums
from teachers.base import Kind

T = TypeVar("T")


def no_boxes(marks: object) -> np.ndarray:
    """Of a kind whose marks are no boxes."""
    return NO_BOXES


def no_caption(marks: object, classes: object) -> str:
    """Of a kind that is drawn."""
    return ""


class Drawing(NamedTuple):
    """A canvas with its labels: picture, the canvas at the size it was given or more of them below it; classes: that
    are drawn."""

    picture: Image.Image
    classes: set[int]


@dataclass(frozen=True)
class Task:
    """One kind's marks (what people or a version say of an image, in its own pixels) and targets (what the network
    learns of them, in pixels of its input); a target is a frozen dataclass of tensors.

    versions: the kinds of versions it can learn from; members: what it reads of their samples, beside the image.
    human: (image, number of classes) -> marks. Raises TruthError for labels that cannot be used.
    pseudo: (label JSON, the members' contents, positions, number of classes) -> marks; positions: int64, where each of
    the version's classes stands among the labelled set's. Raises ImageError for a member that cannot be used.
    unknown: (height, width, number of classes) -> marks of an image of which nothing is known.
    place: marks on the augmented canvas, as the arrays of a target. target: made of them as tensors, in their order.
    forward: the network as training runs it, a module that distributed training can wrap: (images uint8 (B, 3, S, S),
    targets) -> outputs. sums: (network, outputs, targets, pseudo bool (B,)) -> the loss of each stream.
    relearns: whether these may be other targets than those that `forward` was given.
    boxes: marks -> the boxes of objects, (N, 4) `xyxy`, whose content an augmentation may move
    (students.augment.policies).
    autoaugment: the table of AutoAugment that is usual for it.
    clip: the ratio of the joint loss, at least and at most (students.train.losses.JointLoss).
    draw: (a square picture of the canvas, the arrays of `place`, the canvas's side) -> the picture with its labels, in
    the classes' colours (builder.report.paint). note, legend: what else these show, in words and in colours.
    caption: (marks, classes) -> what is said of the whole image, for a kind that is not drawn.
    """

    kind: Kind
    versions: tuple[Kind, ...]
    members: tuple[str, ...]
    human: Callable[[LabelledImage, int], Any]
    pseudo: Callable[[Mapping[str, Any], Sequence[bytes], np.ndarray, int], Any]
    unknown: Callable[[int, int, int], Any]
    place: Callable[[Any, Placement], tuple[np.ndarray, ...]]
    target: Callable[..., Any]
    forward: Callable[[Any], nn.Module]
    sums: Callable[[Any, Any, Sequence[Any], Tensor], StreamSums]
    draw: Callable[[Image.Image, tuple[np.ndarray, ...], int], Drawing]
    relearns: bool = True
    boxes: Callable[[Any], np.ndarray] = no_boxes
    autoaugment: Table = "detection"
    clip: tuple[float, float] = CLIP
    note: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    caption: Callable[[Any, Sequence[str]], str] = no_caption


def moved(target: T, to: device) -> T:
    """A target on a device; copies from pinned memory do not wait."""
    tensors = {field.name: getattr(target, field.name) for field in fields(target)}  # type: ignore[arg-type]
    return type(target)(**{name: tensor.to(to, non_blocking=True) for name, tensor in tensors.items()})


class Logits(nn.Module):
    """A classifier or segmenter as training runs it: images, uint8 or float (B, 3, S, S), to its logits."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, targets: object = None) -> Tensor:
        logits: Tensor = self.network.logits(images)
        return logits

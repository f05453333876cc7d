"""What one kind of label needs of the loader and the loop. A new kind adds a file with a Task, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, device, nn

from builder.truth import LabelledImage, TruthError
from students.augment import Placement
from students.losses import StreamSums
from students.policies import NO_BOXES
from teachers.base import Kind
from teachers.networks import Arch

T = TypeVar("T")


def no_boxes(marks: object) -> np.ndarray:
    """Of a kind whose marks are no boxes."""
    return NO_BOXES


@dataclass(frozen=True)
class Task:
    """One kind's marks (what people or a version say of an image, in its own pixels) and targets (what the network
    learns of them, in pixels of its input); a target is a frozen dataclass of tensors.

    versions: the kinds of versions it can learn from; members: what it reads of their samples, beside the image.
    human: (image, number of classes) -> marks. Raises TruthError for labels that cannot be used.
    pseudo: (label JSON, the members' contents, positions, number of classes) -> marks; positions: int64, where each of
    the version's classes stands among the labelled set's. Raises ImageError for a member that cannot be used.
    place: marks on the augmented canvas, as the arrays of a target. target: made of them as tensors, in their order.
    forward: the network as training runs it, a module that distributed training can wrap: (images uint8 (B, 3, S, S),
    targets) -> outputs. sums: (network, outputs, targets, pseudo bool (B,)) -> the loss of each stream.
    boxes: marks -> the boxes of objects, (N, 4) `xyxy`, whose content an augmentation may move (students.policies).
    """

    kind: Kind
    versions: tuple[Kind, ...]
    members: tuple[str, ...]
    human: Callable[[LabelledImage, int], Any]
    pseudo: Callable[[Mapping[str, Any], Sequence[bytes], np.ndarray, int], Any]
    place: Callable[[Any, Placement], tuple[np.ndarray, ...]]
    target: Callable[..., Any]
    forward: Callable[[Any], nn.Module]
    sums: Callable[[Any, Any, Sequence[Any], Tensor], StreamSums]
    boxes: Callable[[Any], np.ndarray] = no_boxes


def task_of(arch: Arch, soft: bool = True) -> Task:
    """What a network of this arch learns. soft: see `students.classification.classification`."""
    match arch:
        case "fcos" | "retinanet":
            from students.detection import DETECTION

            return DETECTION
        case "maskrcnn":
            from students.instance import INSTANCE

            return INSTANCE
        case "fpn" | "deeplabv3":
            from students.semantic import SEMANTIC

            return SEMANTIC
        case "linear":
            from students.classification import classification

            return classification(soft)


def usual_arch(kind: str) -> Arch:
    """The network for labels of this kind (`builder.truth.Truth`) where a recipe names none."""
    match kind:
        case "semantic":
            return "fpn"
        case "classification":
            return "linear"
        case _:
            return "fcos"


def check_labels(kind: str, task: Task, what: object = "the labelled set") -> None:
    """Raises TruthError unless labels of this kind (`builder.truth.Truth`), named `what`, teach the task."""
    if kind != ("detection" if task.kind == "instance" else task.kind):
        raise TruthError(f"{what} holds {kind} labels, which do not teach {task.kind}: use arch {usual_arch(kind)}")


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

"""The task that a set of labels teaches. Choosing one happens here alone."""

from __future__ import annotations

from builder.kinds import kind_of
from builder.truth.records import TruthError
from students.tasks.base import Task
from students.train.losses import CLIP
from teachers.networks.config import Arch


def task_of(arch: Arch, soft: bool = True) -> Task:
    """What a network of this arch learns. soft: see `students.tasks.classification.classification`."""
    match arch:
        case "fcos" | "retinanet":
            from students.tasks.detection import DETECTION

            return DETECTION
        case "maskrcnn":
            from students.tasks.instance import INSTANCE

            return INSTANCE
        case "fpn" | "deeplabv3":
            from students.tasks.semantic import SEMANTIC

            return SEMANTIC
        case "linear":
            from students.tasks.classification import classification

            return classification(soft)


def usual_arch(kind: str) -> Arch:
    """The network for labels of this kind (`builder.truth.records.Truth`) where a recipe names none."""
    match kind:
        case "semantic":
            return "fpn"
        case "classification":
            return "linear"
        case _:
            return "fcos"


def usual_clip(kind: str) -> tuple[float, float] | None:
    """The clip of the joint loss for labels of this kind where a recipe names none; None where it is the usual one,
    CLIP."""
    clip = task_of(usual_arch(kind)).clip
    return None if clip == CLIP else clip


def check_labels(kind: str, task: Task, what: object = "the labelled set") -> None:
    """Raises TruthError unless labels of this kind (`builder.truth.records.Truth`), named `what`, teach the task."""
    if kind != kind_of(task.kind).truth:
        raise TruthError(f"{what} holds {kind} labels, which do not teach {task.kind}: use arch {usual_arch(kind)}")

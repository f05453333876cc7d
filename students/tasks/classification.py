"""Learning what an image shows: hard or soft labels as targets of a softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from builder.truth.records import LabelledImage
from students.augment.scene import Placement
from students.tasks.base import Drawing, Logits, Task
from students.train.losses import StreamSums, by_stream, out_of


@dataclass(frozen=True)
class ClassTarget:
    """What one image teaches: probabilities, float32 (C,), in the order of the labelled set's `classes`, that sum to 1,
    or are all 0 where nothing is known of it."""

    probabilities: Tensor


def classification(soft: bool = True) -> Task:
    """soft: a version's whole probability vectors are learned, else only the likeliest class of each. (Noisy Student,
    arXiv 1911.04252, finds both good, and soft ones better on images unlike the labelled ones.)"""
    return Task(
        kind="classification",
        versions=("classification",),
        members=(),
        human=human_class,
        pseudo=partial(pseudo_class, soft),
        unknown=unknown_class,
        place=placed,
        target=ClassTarget,
        forward=Logits,
        sums=class_sums,
        draw=undrawn,
        autoaugment="imagenet",
        caption=class_name,
    )


def human_class(image: LabelledImage, classes: int) -> np.ndarray:
    """float32 (classes,): all on the image's class, or on none."""
    return _only(-1 if image.label is None else image.label, classes)


def pseudo_class(
    soft: bool, record: Mapping[str, Any], members: Sequence[bytes], positions: np.ndarray, classes: int
) -> np.ndarray:
    """float32 (classes,), of a label JSON with `label` (a position in the version's classes) and either
    `probabilities`, in their order, or the likeliest ones: `top_label` and `top_probability`. A soft label is divided
    by its sum (of a part of the classes, or of independent ones, it is not 1)."""
    label = int(record["label"])
    if not soft:
        return _only(int(positions[label]), classes)
    probabilities = np.zeros(classes, np.float32)
    if "top_label" in record:
        probabilities[positions[np.array(record["top_label"], np.int64)]] = record["top_probability"]
    else:
        probabilities[positions] = record["probabilities"]
    total = probabilities.sum(dtype=np.float64)
    return (probabilities / total).astype(np.float32) if total > 0 else _only(int(positions[label]), classes)


def unknown_class(height: int, width: int, classes: int) -> np.ndarray:
    """float32 (classes,): all on none."""
    return _only(-1, classes)


def placed(marks: np.ndarray, placement: Placement) -> tuple[np.ndarray]:
    """What an image shows does not depend on the part of it that is left (an assumption, as everywhere)."""
    return (marks,)


def class_sums(network: nn.Module, outputs: Tensor, targets: Sequence[ClassTarget], pseudo: Tensor) -> StreamSums:
    """Cross entropy of the logits (B, C) with the targets' probabilities, summed over the images of each stream; its
    positives are the images with a class, the others are ignored."""
    wanted = torch.stack([target.probabilities for target in targets])
    losses = -(wanted * outputs.log_softmax(1)).sum(1)
    known = (wanted.sum(1) > 0.5).float()
    terms = {"classification": by_stream(losses, pseudo)}
    return StreamSums(terms, by_stream(known, pseudo), ignored=out_of(1 - known, 1, pseudo))


def undrawn(shown: Image.Image, target: tuple[np.ndarray, ...], side: int) -> Drawing:
    """The canvas as it is: its class stands in the caption."""
    return Drawing(shown, set())


def class_name(marks: np.ndarray, classes: Sequence[str]) -> str:
    """The likeliest class, "" for none."""
    return classes[int(marks.argmax())] if marks.any() else ""


def _only(label: int, classes: int) -> np.ndarray:
    probabilities = np.zeros(classes, np.float32)
    if label >= 0:
        probabilities[label] = 1
    return probabilities

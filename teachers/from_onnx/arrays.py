"""Arithmetic that the decoders of exported models share, and the sentence for outputs that fit none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from teachers.base import TeacherError

JOIN = 4
"""From so many outputs on they are likely to be parts of one head."""


class Candidates(NamedTuple):
    """Boxes of a batch before NMS. image: int (N,), position in the batch, not falling; boxes: float32 (N, 4), `xyxy`
    pixels; scores: float32 (N,); labels: int (N,); coefficients: float32 (N, M), of masks, where the model has them."""

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    coefficients: np.ndarray | None = None


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return (1 + np.tanh(logits / 2)) / 2


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    """Softmax along an axis."""
    powers = np.exp(logits - logits.max(axis, keepdims=True))
    powers /= powers.sum(axis, keepdims=True)
    return powers


def best_per_level(scores: np.ndarray, image: np.ndarray, level: np.ndarray, limit: int) -> np.ndarray:
    """Positions, rising, of the `limit` highest scores of each image and level."""
    order = np.lexsort((-scores, level, image))
    starts = np.flatnonzero(np.diff(image[order], prepend=-1) | np.diff(level[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[rank < limit])


def corners(boxes: np.ndarray, order: str, normalized: bool, size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4) as `xyxy` pixels of an input of `size` (height, width)."""
    if order == "yxyx":
        boxes = boxes[:, [1, 0, 3, 2]]
    if normalized:
        boxes = boxes * np.asarray([*size[::-1], *size[::-1]], np.float32)
    if order == "xywh":
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    if order == "cxcywh":
        return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    return boxes


def as_text(*shape: str | int) -> str:
    """A shape as people write it."""
    return f"({', '.join(map(str, shape))})"


def misfit(decoder: str, expected: str, outputs: Sequence[np.ndarray]) -> TeacherError:
    """What a decoder says of outputs that it cannot read."""
    shapes = ", ".join(as_text(*output.shape) for output in outputs)
    join = ", join the parts of a head by outputs: [[A8, A16, A32], [B8, B16, B32]]" if len(outputs) >= JOIN else ""
    return TeacherError(
        f"decoder {decoder} expects {expected}, but the model gives {shapes}: correct its YAML file{join}, or, where "
        "no decoder fits, write a teacher of your own (python:, examples/own_teacher) or replay its results (replay:)"
    )

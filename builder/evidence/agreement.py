"""Image classes and semantic maps compared with human labels, in the same record as matched boxes.

A class of an image is right if the label says the same; every labelled image is one object to be found. Of a map the
pixels are counted, by class, confidence and whether they are right: rows with a weight. Pixels without a human label
count for nothing. Overlaps play no part: all of `ious` get the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from builder.errors import BuildError
from builder.evidence.matching import Matches, shared_classes, units
from builder.label.maps import LEVELS, score
from builder.rules.class_map import ASIDE
from builder.rules.keep import IOUS
from builder.truth.masks import read_mask
from builder.truth.records import Truth
from teachers.base import VOID, SemanticMap


def match_classes(
    classes: tuple[str, ...],
    truth: Truth,
    image: np.ndarray,
    label: np.ndarray,
    confidence: np.ndarray,
    ious: tuple[float, ...] = IOUS,
    left_out: int = 0,
) -> Matches:
    """Match classified images with the truth: image int64 (N,), positions in it; label int16 (N,); confidence float32
    (N,). Raises BuildError as `shared_classes` does."""
    places = shared_classes(classes, truth, "classification")
    shared = np.isin(np.arange(len(classes)), places)
    human = np.array(
        [ASIDE if labelled.label is None else places[labelled.label] for labelled in truth.images], np.int64
    )
    there = np.flatnonzero([labelled.label is not None for labelled in truth.images])
    rows = np.flatnonzero(shared[label])
    image, label, confidence = image[rows], label[rows], confidence[rows]
    right = label == human[image]
    object_score = np.full(len(human), np.nan, np.float32)
    object_score[image[right]] = confidence[right]
    return _matches(
        classes,
        truth,
        ious,
        left_out,
        shared=shared,
        image=image,
        label=label,
        score=confidence,
        right=right,
        object_image=there,
        object_label=human[there].astype(np.int16),
        object_score=object_score[there],
    )


def match_maps(
    classes: tuple[str, ...],
    truth: Truth,
    maps: Iterable[SemanticMap],
    ours: np.ndarray,
    ious: tuple[float, ...] = IOUS,
    left_out: int = 0,
) -> Matches:
    """Match maps with the truth, one image at a time. maps: of its images, in their order. ours: int16 (256,), the
    version's class of each label in them, -1 for none. Raises BuildError for a map of another size than its labels, and
    as `shared_classes` does."""
    places = shared_classes(classes, truth, "semantic")
    shared = np.isin(np.arange(len(classes)), places)
    wanted = np.full(VOID + 1, -1, np.int64)
    wanted[: len(places)] = places
    parts: list[tuple[np.ndarray, ...]] = []
    for n, (labelled, prediction) in enumerate(zip(truth.images, maps, strict=True)):
        human = read_mask(labelled, len(truth.classes))
        if human.shape != prediction.labels.shape:
            (h, w), (height, width) = human.shape, prediction.labels.shape
            raise BuildError(
                f"labelled image {labelled.name} has a map of {w}x{h}, but the teacher's is {width}x{height}: "
                "correct it"
            )
        known = human != VOID
        parts.append(
            _pixels(n, ours[prediction.labels[known]], prediction.confidence[known], wanted[human[known]], shared)
        )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    image, label, confidence, right, weight, object_image, object_label, object_confidence, object_weight = columns
    return _matches(
        classes,
        truth,
        ious,
        left_out,
        shared=shared,
        image=image,
        label=label.astype(np.int16),
        score=score(confidence),
        right=right,
        object_image=object_image,
        object_label=object_label.astype(np.int16),
        object_score=np.where(object_confidence < 0, np.nan, score(np.maximum(object_confidence, 0))).astype(
            np.float32
        ),
        weight=weight,
        object_weight=object_weight,
    )


def _pixels(
    image: int, label: np.ndarray, confidence: np.ndarray, human: np.ndarray, shared: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Columns of one image, from its labelled pixels: of predictions image, label, confidence, right, weight; of
    objects image, label, confidence that found them (-1: none did) and weight."""
    classes = len(shared)
    known = label >= 0
    known[known] = shared[label[known]]
    right = known & (label == human)
    cell = (label[known].astype(np.int64) * LEVELS + confidence[known]) * 2 + right[known]
    predicted = np.bincount(cell, minlength=classes * LEVELS * 2)
    rows = np.flatnonzero(predicted)
    at = np.where(right, confidence.astype(np.int64), -1)
    objects = np.bincount(human * (LEVELS + 1) + at + 1 + (LEVELS + 1), minlength=(classes + 1) * (LEVELS + 1))
    there = np.flatnonzero(objects)
    return (
        np.full(len(rows), image),
        rows // 2 // LEVELS,
        rows // 2 % LEVELS,
        rows % 2 == 1,
        predicted[rows],
        np.full(len(there), image),
        there // (LEVELS + 1) - 1,
        there % (LEVELS + 1) - 1,
        objects[there],
    )


def _matches(
    classes: tuple[str, ...],
    truth: Truth,
    ious: tuple[float, ...],
    left_out: int,
    *,
    right: np.ndarray,
    object_score: np.ndarray,
    **columns: Any,
) -> Matches:
    return Matches(
        classes=classes,
        names=tuple(labelled.name for labelled in truth.images),
        unit=units([labelled.unit for labelled in truth.images]),
        area=np.zeros(len(right), np.float32),
        right=np.tile(right, (len(ious), 1)),
        counted=np.ones((len(ious), len(right)), bool),
        object_area=np.zeros(len(object_score), np.float32),
        object_counts=np.ones(len(object_score), bool),
        object_score=np.tile(object_score, (len(ious), 1)),
        ious=ious,
        left_out=left_out,
        **columns,
    )

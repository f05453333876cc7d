"""Several teachers fused into one: boxes by weighted boxes fusion, probabilities by their weighted mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from teachers.base import (
    OF_BOXES,
    ClassProbabilities,
    Detections,
    Prediction,
    Segmenter,
    SemanticMap,
    Teacher,
    TeacherError,
)
from teachers.boxes import VOTES, fuse

IOU = 0.55
"""Above which boxes of two teachers are one object, by default: the paper's and ensemble-boxes' value."""


@dataclass(frozen=True)
class Member:
    """A teacher of an ensemble. weight: of what it says, above 0. classes: its name of a class -> the ensemble's name,
    or None to drop it; what is not named keeps its name."""

    teacher: Teacher
    weight: float = 1.0
    classes: Mapping[str, str | None] | None = None


class EnsembleTeacher:
    """Teachers of one kind and, after `Member.classes`, of the same classes in any order, as one Teacher with the
    classes of the first.

    Boxes: teachers.boxes.fuse at `iou`, all images and classes of a batch at once; `agree` is the number of teachers
    that found an object. Where `Member.classes` makes one of several classes, the surer of a teacher's boxes counts. An
    object keeps the mask, its quality and the box uncertainty of the box with the highest weighted score in its
    cluster. Clusters below `floor` (the members' lowest, if None) are left out, and all but the best `max_detections`
    of an image. Class probabilities, of images and of pixels: the weighted mean, of pixels one image at a time. A
    dropped class takes its probability with it.

    trained_on: SHA-256, hex, of every image that a member says it was trained on.
    Raises TeacherError for members that do not fit each other, and from `predict` if one fails.
    """

    def __init__(
        self,
        members: Sequence[Member],
        iou: float = IOU,
        floor: float | None = None,
        max_detections: int | None = None,
    ) -> None:
        _check(members, iou)
        teachers = [member.teacher for member in members]
        self._members, self._iou, self._limit = tuple(members), iou, max_detections
        self.teachers = tuple(teachers)
        self._names = [_renamed(member) for member in members]
        self.classes = tuple(dict.fromkeys(name for name in self._names[0] if name is not None))
        _check_classes(self._names, self.classes)
        place: dict[str | None, int] = {name: n for n, name in enumerate(self.classes)}
        self._positions = [np.array([place.get(name, -1) for name in names], np.int16) for names in self._names]
        self._weights = np.array([member.weight for member in members], np.float64)
        self._kind = teachers[0].description["kind"]
        if max_detections is not None and self._kind not in OF_BOXES:
            raise TeacherError(f"max_detections={max_detections} has no meaning for kind {self._kind}: remove it")
        self._floor = min(teacher.description["floor"] for teacher in teachers) if floor is None else floor
        self.batch_size = max(teacher.batch_size for teacher in teachers)
        self.trained_on = sorted({sha for teacher in teachers for sha in getattr(teacher, "trained_on", ())})
        self.description: Mapping[str, Any] = {
            "kind": self._kind,
            "family": "ensemble",
            "classes": list(self.classes),
            "floor": self._floor,
            **({"iou": iou, "max_detections": max_detections, **VOTES} if self._kind in OF_BOXES else {}),
            "members": [
                {"teacher": dict(member.teacher.description), "weight": member.weight, "classes": names}
                for member, names in zip(members, self._names, strict=True)
            ],
        }
        self.runtime: Mapping[str, Any] = {"members": [dict(teacher.runtime) for teacher in teachers]}

    def predict(self, images: Sequence[np.ndarray]) -> Sequence[Prediction]:
        """See Teacher.predict."""
        if not images:
            return []
        if self._kind == "semantic":
            return [SemanticMap.of(self._pixels(image)) for image in images]
        if self._kind == "classification":
            return self._probabilities(images)
        predictions = [
            [_relabelled(prediction, position) for prediction in predict_in_batches(member.teacher, images)]
            for member, position in zip(self._members, self._positions, strict=True)
        ]
        fused = fuse_images(predictions, self._weights, self._iou, self._floor)
        return [
            objects.detections(
                [prediction[i] for prediction in predictions], images[i].shape, self._floor, self._limit, objects.agree
            )
            for i, objects in enumerate(fused)
        ]

    def predict_probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Segmenter.predict_probabilities; of the kind semantic only."""
        return [self._pixels(image) for image in images]

    def _probabilities(self, images: Sequence[np.ndarray]) -> list[ClassProbabilities]:
        total = np.zeros((len(images), len(self.classes)))
        for member, position in zip(self._members, self._positions, strict=True):
            probabilities = np.stack(
                [prediction.probabilities for prediction in predict_in_batches(member.teacher, images)]
            )
            np.add.at(
                total.T, position[position >= 0], member.weight * probabilities.T[position >= 0].astype(np.float64)
            )
        mean = (total / self._weights.sum()).clip(0, 1).astype(np.float32)
        return [ClassProbabilities(row) for row in mean]

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        total = np.zeros((len(self.classes), *image.shape[:2]), np.float32)
        for member, position in zip(self._members, self._positions, strict=True):
            planes = pixel_probabilities(member.teacher, image)
            for label, plane in zip(position, planes, strict=True):  # plane by plane: no second stack in memory
                if label >= 0:
                    total[label] += np.float32(member.weight / self._weights.sum()) * plane
        return total


@dataclass(frozen=True)
class FusedObjects:
    """The objects of one image, K, each fused from boxes of several predictions of it.

    boxes: float64 (K, 4), `xyxy`, pixels; scores: float64 (K,); labels: int (K,); agree: int16 (K,), how many
    predictions hold it; source, row: int (K,), which prediction its best box is from, and where in it.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    agree: np.ndarray
    source: np.ndarray
    row: np.ndarray

    def detections(
        self,
        predictions: Sequence[Detections],
        shape: tuple[int, ...],
        floor: float,
        limit: int | None,
        agree: Sequence[int] | np.ndarray | None,
        masks: Sequence[bytes] | None = None,
    ) -> Detections:
        """As Detections of an image of `shape` (H, W, …), with mask (unless given), mask quality and box uncertainty of
        each object's best box in `predictions`, which were fused; what vanished of these is counted."""
        fused = Detections.of(
            self.boxes,
            self.scores,
            self.labels,
            width=shape[1],
            height=shape[0],
            floor=floor,
            limit=limit,
            masks=self.best(predictions, "masks") if masks is None else masks,
            quality=self.best(predictions, "quality"),
            agree=agree,
            uncertainty=self.best(predictions, "uncertainty"),
        )
        vanished, beyond = (sum(getattr(p, name) for p in predictions) for name in ("vanished", "beyond"))
        return replace(fused, vanished=fused.vanished + vanished, beyond=fused.beyond + beyond)

    def take(self, rows: np.ndarray) -> FusedObjects:
        """The objects at these positions, int or bool."""
        columns = (self.boxes, self.scores, self.labels, self.agree, self.source, self.row)
        return FusedObjects(*(column[rows] for column in columns))

    def best(self, predictions: Sequence[Detections], name: str) -> list[Any] | None:
        """The best box's value in a column of Detections; None if a prediction with objects lacks the column."""
        columns = [getattr(prediction, name) for prediction in predictions]
        if all(column is None for column in columns) or any(
            column is None and len(prediction) for column, prediction in zip(columns, predictions, strict=True)
        ):
            return None
        return [columns[source][row] for source, row in zip(self.source, self.row, strict=True)]


def fuse_images(
    predictions: Sequence[Sequence[Detections]], weights: np.ndarray, iou: float, floor: float
) -> list[FusedObjects]:
    """Several predictions of the same images, fused image by image and class by class (teachers.boxes.fuse).

    found: for each of M teachers or views, Detections of each of one or more images, in pixels of the same frame;
    weights: (M,). Clusters below `floor` are left out.
    """
    images = len(predictions[0])
    parts = [prediction for of_member in predictions for prediction in of_member]
    sizes = np.array([len(prediction) for prediction in parts], int)
    part = np.repeat(np.arange(len(parts)), sizes)
    row = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    labels = np.concatenate([prediction.labels for prediction in parts]).astype(np.int64)
    classes = int(labels.max(initial=0)) + 1
    fused = fuse(
        np.concatenate([prediction.boxes for prediction in parts]),
        np.concatenate([prediction.scores for prediction in parts]),
        part % images * classes + labels,
        part // images,
        weights,
        iou,
    )
    kept = np.flatnonzero(fused.scores.astype(np.float32) >= np.float32(floor))
    cuts = np.searchsorted(fused.groups[kept], np.arange(images + 1) * classes)
    result = []
    for first, last in pairwise(cuts):
        rows = kept[first:last]
        best = fused.best[rows]
        labelled = fused.groups[rows] % classes
        result.append(
            FusedObjects(
                fused.boxes[rows], fused.scores[rows], labelled, fused.agree[rows], part[best] // images, row[best]
            )
        )
    return result


def predict_in_batches(teacher: Teacher, images: Sequence[np.ndarray]) -> list[Any]:
    """A teacher's predictions of any number of images, at most its batch size at a time. Raises TeacherError."""
    predictions: list[Any] = []
    for first in range(0, len(images), teacher.batch_size):
        predictions += teacher.predict(images[first : first + teacher.batch_size])
    if len(predictions) != len(images):
        raise TeacherError(f"a teacher gave {len(predictions)} results for {len(images)} images")
    return predictions


def pixel_probabilities(teacher: Any, image: np.ndarray) -> np.ndarray:
    """What a Segmenter thinks of one image's pixels, checked: float32 (C, H, W). Raises TeacherError."""
    planes = teacher.predict_probabilities([image])[0]
    shape = (len(teacher.classes), *image.shape[:2])
    if planes.shape != shape:
        raise TeacherError(f"a teacher gave pixel probabilities of shape {planes.shape}, but {shape} was expected")
    return planes


def _check(members: Sequence[Member], iou: float) -> None:
    if not members:
        raise TeacherError("an ensemble needs a teacher: name one or more")
    kinds = [member.teacher.description["kind"] for member in members]
    if len(set(kinds)) > 1:
        raise TeacherError(f"an ensemble's teachers must be of one kind, not {' and '.join(dict.fromkeys(kinds))}")
    if kinds[0] == "semantic":
        for n, member in enumerate(members):
            if not isinstance(member.teacher, Segmenter):
                raise TeacherError(f"teacher {n + 1} of the ensemble gives no class probabilities of pixels: remove it")
    if not all(math.isfinite(member.weight) and member.weight > 0 for member in members):
        weights = ", ".join(f"{member.weight:g}" for member in members)
        raise TeacherError(f"an ensemble's weights must be above 0, not {weights}")
    if not 0 < iou < 1:
        raise TeacherError(f"an ensemble's iou must lie between 0 and 1, not {iou:g}")


def _renamed(member: Member) -> list[str | None]:
    """The ensemble's name of each of a member's classes; None where it is dropped."""
    names = dict(member.classes or {})
    unknown = [name for name in names if name not in member.teacher.classes]
    if unknown:
        raise TeacherError(f"a teacher of the ensemble has no class {unknown[0]!r}: correct its classes")
    return [names.get(name, name) for name in member.teacher.classes]


def _check_classes(names: Sequence[Sequence[str | None]], classes: Sequence[str]) -> None:
    for n, member in enumerate(names):
        for here, there, other in ((member, classes, "the first"), (classes, member, f"number {n + 1}")):
            for name in here:
                if name is not None and name not in there:
                    teacher = f"teacher {n + 1} of the ensemble" if here is member else "the first teacher"
                    raise TeacherError(
                        f"{teacher} has a class {name!r} that {other} lacks: map it by classes: {{{name}: NAME}}, or "
                        f"drop it by classes: {{{name}: null}}"
                    )


def _relabelled(prediction: Detections, position: np.ndarray) -> Detections:
    """A member's objects under the ensemble's labels. Where several of its classes become one, what it calls by two
    names is one object to the fusion: the surer."""
    labels = position[prediction.labels]
    rows = np.flatnonzero(labels >= 0)
    return replace(prediction.take(rows), labels=labels[rows])

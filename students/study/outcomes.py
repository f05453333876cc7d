"""What became of each test image in one cell: kept beside its result, so that test images can be drawn again.

One Parquet per cell, a row per image in the order of the test labels, in one of three forms: `right` (classification),
`intersection` and `union` by class (maps), or the matches of COCOeval by class (boxes). From it the cell's metric
follows for any choice of images, an image counting as often as it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.errors import BuildError
from builder.store.files import new_file
from builder.truth.records import Truth
from students.evaluate.coco import MAX_DETECTIONS, ClassMatches, average_precision, match_classes
from teachers.base import Detections

if TYPE_CHECKING:
    import pyarrow as pa


IOUS = np.linspace(0.5, 0.95, 10)
"""COCO's thresholds; bit t of a detection's `right` and `counted` is of IOUS[t]."""


@dataclass(frozen=True)
class ClassOutcomes:
    """right: bool (images,), whether the likeliest class is the true one."""

    names: tuple[str, ...]
    right: np.ndarray

    def metric(self, weights: np.ndarray) -> np.ndarray:
        """Accuracy for each row of `weights`, int (draws, images): how often an image counts; float64 (draws,)."""
        return (weights @ self.right) / weights.sum(axis=1)


@dataclass(frozen=True)
class MapOutcomes:
    """intersection, union: int64 (images, classes), labelled pixels."""

    names: tuple[str, ...]
    intersection: np.ndarray
    union: np.ndarray

    def metric(self, weights: np.ndarray) -> np.ndarray:
        """mIoU for each row of `weights`, as students.evaluate.measures.map_metrics, over the classes with a pixel in
        the drawn images; NaN without any; float64 (draws,)."""
        right, union = weights @ self.intersection, weights @ self.union
        iou = np.divide(right, union, out=np.zeros(union.shape), where=union > 0)
        classes = np.count_nonzero(union, axis=1)
        return np.divide(iou.sum(axis=1), classes, out=np.full(len(weights), np.nan), where=classes > 0)


@dataclass(frozen=True)
class BoxOutcomes:
    """matches: one per class (students.evaluate.coco)."""

    names: tuple[str, ...]
    matches: tuple[ClassMatches, ...]

    def metric(self, weights: np.ndarray) -> np.ndarray:
        """COCOeval's AP for each row of `weights`, exactly; NaN where no drawn image has an object."""
        return average_precision(self.matches, weights)


Outcomes = ClassOutcomes | MapOutcomes | BoxOutcomes


def write_class_outcomes(path: Path, names: Sequence[str], right: np.ndarray) -> None:
    """right: bool (images,), of the images `names`, in an order that is the same for every cell."""
    _write(path, {"name": list(names), "right": np.asarray(right, bool)})


def write_map_outcomes(path: Path, names: Sequence[str], confusions: Sequence[np.ndarray]) -> None:
    """confusions: of each image, int64 (classes, classes + 1) as students.evaluate.measures.confusion gives it."""
    counts = np.stack(confusions).astype(np.int64)
    right = np.diagonal(counts, axis1=1, axis2=2)
    union = counts.sum(axis=2) + counts[:, :, :-1].sum(axis=1) - right
    _write(path, {"name": list(names), "intersection": right.tolist(), "union": union.tolist()})


def write_box_outcomes(path: Path, truth: Truth, predictions: Sequence[Detections]) -> None:
    """predictions: one per image of the truth, with labels in its classes (students.evaluate.measure.measure gives
    them). A detection keeps its class, its place among all of that class by falling score, and the IoUs it is right
    at."""
    objects = np.zeros((len(truth.images), len(truth.classes)), np.int64)
    found: list[list[tuple[int, int, int, int]]] = [[] for _ in truth.images]
    bits = 1 << np.arange(len(IOUS))
    for label, match in enumerate(match_classes(truth, predictions, IOUS, MAX_DETECTIONS)):
        objects[:, label] = match.objects
        rows = zip(match.image.tolist(), (bits @ match.right).tolist(), (bits @ match.counted).tolist(), strict=True)
        for rank, (image, right, counted) in enumerate(rows):
            found[image].append((label, rank, right, counted))
    columns: dict[str, Any] = {"name": [image.name for image in truth.images], "objects": objects.tolist()}
    for place, name in enumerate(("label", "rank", "right", "counted")):
        columns[name] = [[row[place] for row in rows] for rows in found]
    _write(path, columns)


def _write(path: Path, columns: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(columns, pa.schema([(name, _type(name, values)) for name, values in columns.items()]))
    with new_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def _type(name: str, values: Any) -> pa.DataType:
    import pyarrow as pa

    if name == "name":
        return pa.string()
    if isinstance(values, np.ndarray):
        return pa.bool_()
    return pa.list_(pa.int64() if name in ("intersection", "union") else pa.int32())


def read_outcomes(path: Path) -> Outcomes:
    """What one of the three functions above wrote. Raises BuildError for a file that is none of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        columns = {name: table[name].to_pylist() for name in table.column_names}
        names = tuple(columns["name"])
        if "intersection" in columns:
            return MapOutcomes(names, np.array(columns["intersection"]), np.array(columns["union"]))
        if "objects" in columns:
            return BoxOutcomes(names, tuple(_matches(columns)))
        return ClassOutcomes(names, np.array(columns["right"], bool))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise BuildError(f"{path} holds no outcomes of test images ({error}): run `tutelage study` again") from None


def _matches(columns: dict[str, Any]) -> list[ClassMatches]:
    """Inverse of write_box_outcomes."""
    objects = np.array(columns["objects"], np.int64)
    image = np.repeat(np.arange(len(objects)), [len(labels) for labels in columns["label"]])
    label, rank, right, counted = (
        np.array([value for values in columns[name] for value in values], np.int64)
        for name in ("label", "rank", "right", "counted")
    )
    matches = []
    for number in range(objects.shape[1]):
        rows = np.flatnonzero(label == number)
        rows = rows[np.argsort(rank[rows])]
        bits = np.arange(len(IOUS))[:, None]
        hits, seen = ((values[rows] >> bits & 1).astype(bool) for values in (right, counted))
        matches.append(ClassMatches(image[rows], hits, seen, objects[:, number]))
    return matches

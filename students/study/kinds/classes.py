"""Classes of images in a study: labels as a table, outcomes as right or wrong."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from builder.truth.records import Truth
from students.study.kinds.base import Named, StudyKind, labels_kept, write_classes, write_columns

LABELS, PREDICTIONS = "labels.csv", "predictions.csv"


@dataclass(frozen=True)
class ClassOutcomes:
    """right: bool (images,), whether the likeliest class is the true one."""

    names: tuple[str, ...]
    right: np.ndarray

    def metric(self, weights: np.ndarray) -> np.ndarray:
        """Accuracy for each row of `weights`, int (draws, images): how often an image counts; float64 (draws,)."""
        return (weights @ self.right) / weights.sum(axis=1)


def write_class_outcomes(path: Path, names: Sequence[str], right: Sequence[bool]) -> None:
    """right: of each of the images `names`, in an order that is the same for every cell."""
    write_columns(path, {"name": ("string", names), "right": ("bool", right)})


def _write_outcomes(path: Path, truth: Truth, right: Sequence[bool]) -> None:
    write_class_outcomes(path, [image.name for image in truth.images if image.label is not None], right)


def _read_outcomes(names: tuple[str, ...], columns: Mapping[str, list[Any]]) -> ClassOutcomes:
    return ClassOutcomes(names, np.array(columns["right"], bool))


def _write_labels(folder: Path, truth: Truth, names: Sequence[str]) -> None:
    write_classes(folder, truth)
    classes = ("" if image.label is None else truth.classes[image.label] for image in truth.images)
    (folder / LABELS).write_text(_table([("file", "class"), *zip(names, classes, strict=True)]))


def _write_predictions(folder: Path, truth: Truth, named: Named) -> None:
    sure = np.eye(len(truth.classes), dtype=np.int64)
    none = [0] * len(truth.classes)
    rows = [(name, *(none if image.label is None else sure[image.label].tolist())) for image, name in named]
    (folder / PREDICTIONS).write_text(_table([("name", *truth.classes), *rows]))


def _table(rows: Sequence[Sequence[object]]) -> str:
    """Rows as a CSV file."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


CLASSES = StudyKind(
    labels=LABELS,
    write_labels=_write_labels,
    predictions=PREDICTIONS,
    listing=None,
    write_predictions=_write_predictions,
    kept=labels_kept,
    write_outcomes=_write_outcomes,
    column="right",
    read_outcomes=_read_outcomes,
)

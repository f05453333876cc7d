"""Predictions that were judged right or wrong, of any kind: precision, recall and F1 at every score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from builder.evidence.calibrate import Curve, curve_of


@dataclass(frozen=True)
class Scored:
    """What a teacher says of all images, each prediction judged.

    classes: the labels'. label: int64 (N,), positions in them, -1 for a class that they do not know; score: float32
    (N,); right: bool (N,); weight: int64 (N,), what each counts for: 1, of maps pixels. objects: int64 (C,), what is
    there to be found: objects, images or pixels of each class.
    """

    classes: tuple[str, ...]
    label: np.ndarray
    score: np.ndarray
    right: np.ndarray
    weight: np.ndarray
    objects: np.ndarray

    def curve(self, label: int | None = None) -> Curve:
        """Of one class, or of all of them taken together."""
        rows = slice(None) if label is None else self.label == label
        objects = int(self.objects.sum() if label is None else self.objects[label])
        return curve_of(self.score[rows], self.right[rows], self.weight[rows], objects)

    @cached_property
    def best_score(self) -> float:
        """The score from which on all predictions together have the highest F1, of equals the highest; 1 without
        any."""
        curve = self.curve()
        return float(curve.threshold[int(np.argmax(curve.f1))]) if len(curve.threshold) else 1.0

    def figures(self, score: float, label: int | None = None) -> Figures:
        """At `score` and above, of one class or of all together."""
        rows = self.score >= np.float32(score)
        if label is not None:
            rows &= self.label == label
        kept = int(self.weight[rows].sum())
        right = int(self.weight[rows & self.right].sum())
        return Figures(int(self.objects.sum() if label is None else self.objects[label]), kept, right)

    def by_class(self, score: float) -> dict[str, Figures]:
        """The same of each class."""
        return {name: self.figures(score, label) for label, name in enumerate(self.classes)}


@dataclass(frozen=True)
class Figures:
    """Objects to be found, predictions kept, those that are right; and the figures of them, None where there is nothing
    to divide by. F1 is their harmonic mean, 2 TP / (2 TP + FP + FN)."""

    objects: int
    kept: int
    right: int

    @property
    def precision(self) -> float | None:
        return self.right / self.kept if self.kept else None

    @property
    def recall(self) -> float | None:
        return self.right / self.objects if self.objects else None

    @property
    def f1(self) -> float | None:
        return 2 * self.right / (self.kept + self.objects) if self.kept + self.objects else None

    def stored(self) -> dict[str, Any]:
        """JSON-ready."""
        named = {"objects": self.objects, "kept": self.kept, "right": self.right}
        return named | {"precision": self.precision, "recall": self.recall, "F1": self.f1}


@dataclass(frozen=True)
class Confusion:
    """What is called what: counts int64 (rows, columns), of objects, images or pixels of a class (row) that are called
    another (column). After the classes, more columns are of what gets another answer or none, and of boxes one more row
    is of answers where there is no object."""

    classes: tuple[str, ...]
    counts: np.ndarray
    more_rows: tuple[str, ...] = ()
    more_columns: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        return (*self.classes, *self.more_rows)

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.classes, *self.more_columns)

    def without_empty(self) -> Confusion:
        """Without the columns after the classes that nothing is in."""
        count = len(self.classes)
        used = np.asarray(self.counts.any(axis=0))
        used[:count] = True
        names = tuple(name for name, there in zip(self.more_columns, used[count:], strict=True) if there)
        return replace(self, counts=self.counts[:, used], more_columns=names)

    def of_occurring(self) -> Confusion:
        """Without the classes that neither is there nor is called."""
        count = len(self.classes)
        there = np.asarray(self.counts[:count].any(axis=1)) | np.asarray(self.counts.any(axis=0))[:count]
        rows, columns = (np.append(there, np.ones(size - count, bool)) for size in self.counts.shape)
        classes = tuple(name for name, occurs in zip(self.classes, there, strict=True) if occurs)
        return replace(self, classes=classes, counts=self.counts[rows][:, columns])

    def worst(self, limit: int = 3) -> list[tuple[str, str, int]]:
        """The classes that are taken for another most often: what it is, what it is called, how often."""
        count = len(self.classes)
        mixed = self.counts[:count, :count] * (1 - np.eye(count, dtype=np.int64))
        order = np.argsort(-mixed, axis=None, kind="stable")[:limit]
        places = [divmod(int(place), count) for place in order if mixed.flat[place]]
        return [(self.classes[row], self.classes[column], int(mixed[row, column])) for row, column in places]


def mean_figures(by_class: Mapping[str, Figures]) -> dict[str, float | None]:
    """Precision, recall and F1 as the mean over the classes that have any."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    each = list(by_class.values())
    return {
        "precision": mean([figures.precision for figures in each]),
        "recall": mean([figures.recall for figures in each]),
        "F1": mean([figures.f1 for figures in each]),
    }

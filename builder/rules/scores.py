"""The scores of a whole pool as counts: all that thresholds need of it, in memory that does not grow with it.

A first pass counts by cells of equal width. A threshold lies in few of them: those are counted again by the very scores
that occur there (`PoolScores.tails`), so that every threshold is a score of the pool or a number that somebody gave,
and `score >= threshold` in float32 keeps as many as was counted, also where many scores crowd into one cell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

BINS = 1 << 14
"""Cells of [0, 1): their edges k / BINS are exact in float32."""


class Scored(NamedTuple):
    """Predictions in columns: image int64 (N,), label int64 (N,), score float32 (N,); weight: int64 (N,), pixels that
    each stands for, None: one."""

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    weight: np.ndarray | None = None

    def best(self, classes: int) -> Scored:
        """The best prediction of each image and class, of images without order; each is one."""
        highest = np.full((int(self.image.max(initial=-1)) + 1) * classes, -1, np.float32)
        np.maximum.at(highest, self.image * classes + self.label, self.score)
        there = np.flatnonzero(highest >= 0)
        return Scored(there // classes, there % classes, highest[there])


class Occurring(NamedTuple):
    """Scores that occur: label int64 (K,), score float32 (K,), number int64 (K,) of predictions with just that one; by
    label and rising score, each pair once."""

    label: np.ndarray
    score: np.ndarray
    number: np.ndarray


Finer = Callable[[np.ndarray, bool], Occurring]
"""(cells that are wanted of each class, bool (C, BINS + 1); whether of the best of each image and class) -> the scores
that occur in these cells, in one pass over the pool."""


@dataclass(frozen=True)
class Tail:
    """How many predictions of a group of classes reach a score, exactly in some cells.

    above: int64 (BINS + 2,), those with a score of at least k / BINS. exact: bool (BINS + 1,), the cells whose scores
    are here. score: float32 (K,), falling; number: int64 (K,), predictions with at least that score.
    """

    above: np.ndarray
    exact: np.ndarray
    score: np.ndarray
    number: np.ndarray

    def reach(self, threshold: float) -> int:
        """How many have a score of at least this threshold, as the rules compare: in float32."""
        least = np.float32(threshold)
        if least > 1:
            return 0
        place = int(least * np.float32(BINS))
        if least == np.float32(place / BINS):
            return int(self.above[place])
        self._check(place)
        those = int(np.searchsorted(-self.score, -least, side="right"))
        return max(int(self.above[place + 1]), int(self.number[those - 1]) if those else 0)

    def highest(self, counts: np.ndarray) -> np.ndarray:
        """The highest score that at least so many reach, for each of these counts above 0; float32, without those that
        all predictions together do not."""
        counts = np.asarray(counts, np.float64)
        counts = counts[(counts > 0) & (counts <= self.above[0])]
        self._check(*cells_at(self.above, counts)[:, 0].tolist())
        return self.score[np.searchsorted(self.number, counts)]

    def lowest(self, count: float) -> float | None:
        """The lowest score that at most so many reach; None where even those with the best score are more."""
        self._check(*cells_at(self.above, np.array([count])).ravel().tolist())
        place = int(np.searchsorted(self.number, count, side="right")) - 1
        return None if place < 0 else float(self.score[place])

    def _check(self, *cells: int) -> None:
        if not self.exact[list(cells)].all():
            raise ValueError("a cell was not counted by its scores")


@dataclass(frozen=True)
class PoolScores:
    """Scores of a pool's predictions, counted after NMS and cap.

    images: labelled images of the pool. objects: int64 (C, BINS + 1), predictions of class c with a score in
    [k, k + 1) / BINS (the last cell holds 1.0); of maps, their pixels. best: int64 (C, BINS + 1), images by the best
    score of class c on them. total: float64 (C,), sum of scores. finer: counts cells by the scores that occur in them.
    """

    images: int
    objects: np.ndarray
    best: np.ndarray
    total: np.ndarray
    finer: Finer = field(repr=False, compare=False)

    @classmethod
    def of(cls, rows: Scored, images: int, classes: int) -> PoolScores:
        """Of predictions that are in memory."""
        best = rows.best(classes)
        objects, of_best = (by_cell(each, classes) for each in (rows, best))
        total = np.bincount(rows.label, rows.score if rows.weight is None else rows.score * rows.weight, classes)
        return cls(
            images, objects, of_best, total, lambda wanted, at_best: occurring(best if at_best else rows, wanted)
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the counts and sums."""
        arrays = [np.array([self.images]), self.objects, self.best, self.total]
        return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)).hexdigest()

    @property
    def per_image(self) -> float:
        """Predictions, of maps pixels, of an image."""
        return float(self.objects.sum()) / max(1, self.images)

    def above(self, labels: Sequence[int] | np.ndarray, best: bool = False) -> np.ndarray:
        """int64 (BINS + 2,): predictions of these classes with a score of at least k / BINS; best: see `tails`."""
        counts = (self.best if best else self.objects)[np.asarray(labels, np.int64)].sum(axis=0)
        return np.append(np.cumsum(counts[::-1])[::-1], 0)

    def tails(
        self, groups: Sequence[Sequence[int] | np.ndarray], cells: Sequence[np.ndarray], best: bool = False
    ) -> list[Tail]:
        """Exact numbers of groups of classes in some cells of each (`cells_at`, `cell`), from one pass over the pool
        for all of them. best: of images by their best score of each class instead."""
        wanted = np.zeros((len(groups), BINS + 1), bool)
        for row, places in zip(wanted, cells, strict=True):
            row[np.asarray(places, np.int64).ravel()] = True
        members = np.zeros((len(groups), len(self.objects)), bool)
        for row, labels in zip(members, groups, strict=True):
            row[np.asarray(labels, np.int64)] = True
        looked_at = (self.best if best else self.objects) > 0  # where there is nothing, nothing is looked for
        for label, of_groups in enumerate(members.T):
            looked_at[label] &= wanted[of_groups].any(axis=0)
        there = self.finer(looked_at, best) if looked_at.any() else NOTHING
        return [
            _tail(there, self.above(np.flatnonzero(mine), best), mine, row)
            for mine, row in zip(members, wanted, strict=True)
        ]


def _tail(there: Occurring, above: np.ndarray, members: np.ndarray, exact: np.ndarray) -> Tail:
    """The tail of the classes `members`, bool (C,), in the cells `exact`, bool (BINS + 1,)."""
    rows = np.flatnonzero(members[there.label] & exact[cell(there.score)])
    rising, place = np.unique(there.score[rows], return_inverse=True)
    score, number = rising[::-1], counted(place, there.number[rows], len(rising))[::-1]
    of_cell, reach = cell(score), np.cumsum(number)
    first = np.flatnonzero(np.r_[True, of_cell[1:] != of_cell[:-1]][: len(of_cell)])
    others = np.repeat(reach[first] - number[first], np.diff(np.r_[first, len(of_cell)]))  # in higher cells
    return Tail(above, exact, score, above[of_cell + 1] + reach - others)


def counted(place: np.ndarray, weight: np.ndarray | None, length: int) -> np.ndarray:
    """How often each of 0 … length - 1 occurs, or more, int64. weight: whole numbers, what each row counts for; None:
    one."""
    return np.bincount(place, weight, length).astype(np.int64)  # exact up to 2**53 in between


def cell(score: np.ndarray) -> np.ndarray:
    """The cell of each float32 score; int64."""
    return (score * np.float32(BINS)).astype(np.int64)


def cells_at(above: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The cells in which so many are reached from above, and the next above each that holds any: int64 (J, 2). All
    together less than a count: the lowest that holds any. above: as of a Tail."""
    filled = np.flatnonzero(above[:-1] > above[1:])
    if not len(filled):
        return np.zeros((len(counts), 2), np.int64)
    place = np.searchsorted(-above[filled], -np.asarray(counts, np.float64), side="right") - 1
    return filled[np.stack([place, place + 1], axis=1).clip(0, len(filled) - 1)]


def by_cell(rows: Scored, classes: int) -> np.ndarray:
    """int64 (C, BINS + 1): see PoolScores.objects."""
    return counted(cell_of_class(rows), rows.weight, classes * (BINS + 1)).reshape(classes, -1)


def cell_of_class(rows: Scored) -> np.ndarray:
    """The place of each in a flat (C, BINS + 1)."""
    return rows.label * (BINS + 1) + cell(rows.score)


def occurring(rows: Scored, wanted: np.ndarray) -> Occurring:
    """See Finer."""
    chosen = np.flatnonzero(wanted[rows.label, cell(rows.score)])
    weight = None if rows.weight is None else rows.weight[chosen]
    return _summed(rows.label[chosen], rows.score[chosen], weight)


def joined(one: Occurring, other: Occurring) -> Occurring:
    """What occurs in either."""
    return _summed(*(np.concatenate(columns) for columns in zip(one, other, strict=True)))


def _summed(label: np.ndarray, score: np.ndarray, number: np.ndarray | None) -> Occurring:
    bits = (score + np.float32(0)).view(np.int32)  # of float32 from 0 on: they order as integers
    there, place = np.unique(label.astype(np.int64) << 32 | bits, return_inverse=True)
    return Occurring(
        there >> 32, (there & 0xFFFFFFFF).astype(np.int32).view(np.float32), counted(place, number, len(there))
    )


NOTHING = Occurring(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True)
class PoolSample:
    """Per image, float (I,): its predictions, the sum of their scores, and how many reach their threshold."""

    boxes: np.ndarray
    scores: np.ndarray
    above: np.ndarray

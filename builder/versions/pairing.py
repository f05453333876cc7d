"""Which object of one version is which of another: equal boxes or masks first, then the largest overlaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

IOU = 0.5
"""From here on two boxes of a class are the same object."""
PAIRS = 1 << 20
"""Candidates looked at together."""


@dataclass(frozen=True)
class Rows:
    """Objects of two versions as columns.

    image: int (N,); label: int (N,), one numbering for both; boxes: float32 (N, 4), xyxy pixels; score, calibrated:
    float32 (N,), calibrated -1 where there is none; ignored: bool (N,); second: bool (N,), whether it is of the second
    version; common: bool (N,), whether both versions have its image; rle: object (N,), masks, by whose IoU rows are
    partners in place of their boxes'.
    """

    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    score: np.ndarray
    calibrated: np.ndarray
    ignored: np.ndarray
    second: np.ndarray
    common: np.ndarray
    rle: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Rows:
        taken: dict[str, Any] = {
            field.name: None if (column := getattr(self, field.name)) is None else column[rows]
            for field in fields(self)
        }
        return Rows(**taken)


def pair(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Positions (int64, M each) of partners, of the first and of the second version: same image, same class.

    Equal boxes are partners (where several are equal, by falling score), then, greedily, pairs of falling IoU from .5.
    Ties are broken by what the two objects are, never by their order or side: swapping the versions swaps the result.
    No object may be on both sides with the same box, score and outcome: cancel those first.
    """
    if not len(rows.image):
        none = np.zeros(0, np.int64)
        return none, none
    group = _codes(np.stack([rows.image, rows.label], axis=1))
    place = np.column_stack([rows.boxes, *([] if rows.rle is None else [_mask_ranks(rows.rle)])])
    identity = _codes(np.column_stack([place, -rows.score, -rows.calibrated, rows.ignored]))  # equal contents, numbers
    first, second = _equal_places(group, rows, place, identity)
    left = np.ones(len(group), bool)
    left[first] = left[second] = False
    more = _overlapping(np.flatnonzero(left), group, rows, identity)
    return np.concatenate([first, more[0]]), np.concatenate([second, more[1]])


def _codes(values: np.ndarray) -> np.ndarray:
    """int64 (N,): rows of a matrix numbered in their order, equal rows alike."""
    order = np.lexsort(values.T[::-1])
    ranked = values[order]
    new = np.r_[False, (ranked[1:] != ranked[:-1]).any(axis=1)]
    codes = np.empty(len(values), np.int64)
    codes[order] = np.cumsum(new)
    return codes


def _rank(sorted_groups: np.ndarray) -> np.ndarray:
    """int64 (N,): place of each row in its group, rows of a group standing together."""
    starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
    return np.arange(len(sorted_groups)) - np.repeat(starts, np.diff(np.r_[starts, len(sorted_groups)]))


def _mask_ranks(rle: np.ndarray) -> np.ndarray:
    """int64 (N,): masks numbered in the order of their codes, equal ones alike."""
    rank = {code: number for number, code in enumerate(sorted(set(rle.tolist())))}
    return np.array([rank[code] for code in rle.tolist()], np.int64)


def _equal_places(
    group: np.ndarray, rows: Rows, place: np.ndarray, identity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Partners with equal boxes (and masks): the n-th of the first version and the n-th of the second, by falling
    score. place: (N, 4 or 5)."""
    box = _codes(np.column_stack([group, place]))
    order = np.lexsort((identity, rows.second, box))
    rank = _rank(box[order] * 2 + rows.second[order])
    beside = np.lexsort((rows.second[order], rank, box[order]))
    order, rank = order[beside], rank[beside]
    this, following = order[:-1], order[1:]
    partners = (box[this] == box[following]) & (rank[:-1] == rank[1:])
    return this[partners], following[partners]


def _overlapping(among: np.ndarray, group: np.ndarray, rows: Rows, identity: np.ndarray) -> tuple[np.ndarray, ...]:
    """Greedy partners by falling IoU. Each round takes every pair that is the first left of both its objects, which
    gives what taking them one by one does."""
    found = list(_candidates(among, group, rows))
    iou, first, second = (np.concatenate(columns) for columns in zip(*found, strict=True)) if found else _nothing()
    a, b = identity[first], identity[second]
    order = np.lexsort((np.maximum(a, b), np.minimum(a, b), -iou))
    first, second = first[order], second[order]
    taken: list[np.ndarray] = []
    free = np.ones(len(group), bool)
    pairs = np.arange(len(first))
    while len(pairs):
        ahead = [np.zeros(len(pairs), bool) for _ in range(2)]
        for mark, column in zip(ahead, (first, second), strict=True):
            mark[np.unique(column[pairs], return_index=True)[1]] = True
        chosen = pairs[ahead[0] & ahead[1]]
        taken.append(chosen)
        free[first[chosen]] = free[second[chosen]] = False
        pairs = pairs[free[first[pairs]] & free[second[pairs]]]
    chosen = np.concatenate([*taken, np.zeros(0, np.int64)])
    return first[chosen], second[chosen]


def _nothing() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)


def _candidates(
    among: np.ndarray, group: np.ndarray, rows: Rows
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(IoU, first, second) of all pairs of a group with IoU from .5, at most about PAIRS of them looked at at once."""
    a, b = among[~rows.second[among]], among[rows.second[among]]
    b = b[np.argsort(group[b], kind="stable")]
    low, high = np.searchsorted(group[b], group[a]), np.searchsorted(group[b], group[a], side="right")
    ends = np.cumsum(high - low)
    start = 0
    while start < len(a):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS, side="right")))
        counts = (high - low)[start:stop]
        first = np.repeat(a[start:stop], counts)
        offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        second = b[np.repeat(low[start:stop], counts) + offset]
        iou = _iou(rows.boxes[first], rows.boxes[second])
        if rows.rle is not None:
            beside = iou > 0
            first, second = first[beside], second[beside]
            iou = _mask_iou(rows.rle[first], rows.rle[second], iou[beside])
        near = iou >= IOU
        yield iou[near], first[near], second[near]
        start = stop


def _mask_iou(a: np.ndarray, b: np.ndarray, of_boxes: np.ndarray) -> np.ndarray:
    """float64 (N,); that of the boxes where one has no mask. A code knows the number of its pixels alone, and for an
    overlap any sides of that product will do."""
    from teachers.masks import iou_matrix, pixels

    found = of_boxes.copy()
    for n, (one, other) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        if one and other:
            size = pixels(one)
            found[n] = iou_matrix([one], [other], size, 1)[0, 0] if pixels(other) == size else 0
    return found


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 (N,): the same whichever box comes first."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    inter = np.clip(sides, 0, None).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - inter
    return np.divide(inter, union, out=np.zeros(len(a)), where=union > 0)

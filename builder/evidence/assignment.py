"""Which object each prediction is matched to, by how much they overlap.

Greedy by falling score within class and image, as pycocotools' COCOeval.evaluateImg does with its categories, for all
images and classes at once. Two predictions of equal score are taken in order of x1, y1, x2, y2, so that the order of
rows decides nothing; COCOeval takes them as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

Overlap = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(positions of P predictions, positions of P objects) -> float64 (P,)."""
PAIRS = 1 << 21
"""Pairs of a prediction and an object looked at together: about 150 MB."""


def assign(
    cell: np.ndarray,
    score: np.ndarray,
    boxes: np.ndarray,
    object_cell: np.ndarray,
    object_boxes: np.ndarray,
    crowd: np.ndarray,
    ignored: np.ndarray,
    ious: Sequence[float],
    overlap_of: Overlap | None = None,
) -> np.ndarray:
    """The object that each prediction is matched to at each overlap: int64 (T, N), a row of the objects or -1.

    cell: int (N,), and object_cell: int (M,): one number per image and class, -1 for objects that match nothing.
    score: (N,). boxes: float32 (N, 4), and object_boxes: (M, 4), xyxy pixels. crowd: bool (M,), matched any number of
    times, by intersection over the prediction's area. ignored: bool (M,), crowds included, taken only if no other
    object will do. overlap_of: what overlaps are, if not those of the boxes.
    Objects of equal overlap: the later row, as in COCOeval.

    Each prediction has a fixed order of preference, so that all cells advance together: in round r the prediction of
    rank r in every cell takes the first object of its order that is free.
    """
    target = np.full((len(ious), len(cell)), -1, np.int64)
    order = np.lexsort((*boxes.T[::-1], -score, cell))
    objects = np.argsort(object_cell, kind="stable")
    cells = object_cell[objects]
    first = np.searchsorted(cells, cell[order], side="left")
    count = np.searchsorted(cells, cell[order], side="right") - first
    order, first, count = (column[count > 0] for column in (order, first, count))
    box_sides, object_sides = sides(boxes), sides(object_boxes)
    for block in _blocks(cell[order], count):
        rows, size = order[block], count[block]
        row = np.repeat(np.arange(len(rows)), size)
        step = np.arange(len(row)) + np.repeat(first[block] - np.cumsum(size) + size, size)
        other = objects[step]
        if overlap_of is None and min(ious) > 0:  # boxes side by side, most of a crowded image's pairs, need no IoU
            beside = _shared(box_sides[0], object_sides[0], rows[row], other) > 0
            row, other = row[beside], other[beside]
        if overlap_of is None:
            overlap = _overlap(box_sides, object_sides, rows[row], other, crowd)
        else:
            overlap = overlap_of(rows[row], other)
        near = np.flatnonzero(overlap >= _least(min(ious)))
        near = near[np.lexsort((-other[near], -overlap[near], ignored[other[near]], row[near]))]
        row, other, overlap = row[near], other[near], overlap[near]
        for t, iou in enumerate(ious):
            enough = overlap >= _least(iou)
            _take(rows[row[enough]], cell, other[enough], crowd, target[t])
    return target


def _take(row: np.ndarray, cell: np.ndarray, other: np.ndarray, crowd: np.ndarray, target: np.ndarray) -> None:
    """Fill `target` for one overlap. Pairs (row, other) stand by cell, in it by falling score, then by preference."""
    if not len(row):
        return
    begins = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
    cells = cell[row[begins]]
    first = np.flatnonzero(np.r_[True, cells[1:] != cells[:-1]])
    rank = np.arange(len(cells)) - np.repeat(first, np.diff(np.r_[first, len(cells)]))
    rank = np.repeat(rank, np.diff(np.r_[begins, len(row)]))
    by_rank = np.argsort(rank, kind="stable")
    ends = np.cumsum(np.bincount(rank))
    row, other = row[by_rank], other[by_rank]
    free = np.ones(len(crowd), bool)
    for start, end in zip(np.r_[0, ends[:-1]].tolist(), ends.tolist(), strict=True):
        left = np.flatnonzero(free[other[start:end]]) + start
        who, what = row[left], other[left]
        best = np.flatnonzero(who[1:] != who[:-1]) + 1
        best = np.r_[0, best] if len(who) else best
        target[who[best]] = what[best]
        free[what[best]] = crowd[what[best]]


def _blocks(cell: np.ndarray, count: np.ndarray) -> Iterator[slice]:
    """Runs of whole cells with about PAIRS pairs each; `cell` stands in order."""
    total = np.cumsum(count)
    start = 0
    while start < len(cell):
        last = np.searchsorted(total, (total[start - 1] if start else 0) + PAIRS)
        end = int(np.searchsorted(cell, cell[min(int(last), len(cell) - 1)], side="right"))
        yield slice(start, end)
        start = end


Ends = tuple[np.ndarray, np.ndarray]
Sides = tuple[Ends, Ends, np.ndarray]
"""Where boxes begin and end in x, the same in y, and their areas; float64 (N,) each."""


def sides(boxes: np.ndarray) -> Sides:
    """From xywh in float64, as pycocotools computes them, to the last bit."""
    x, y, right, bottom = boxes.astype(np.float64).T
    w, h = right - x, bottom - y
    return (x, w + x), (y, h + y), w * h


def _shared(ends: Ends, others: Ends, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The length that two boxes have in common along an axis, pair by pair; not above 0 for none."""
    return np.minimum(ends[1][row], others[1][column]) - np.maximum(ends[0][row], others[0][column])


def _overlap(boxes: Sides, others: Sides, row: np.ndarray, column: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU pair by pair, over the first's area for crowds, as pycocotools' bbIou; float64 (P,)."""
    width, height = _shared(boxes[0], others[0], row, column), _shared(boxes[1], others[1], row, column)
    both = np.where((width > 0) & (height > 0), width * height, 0.0)
    area, other_area = boxes[2][row], others[2][column]
    union = np.where(crowd[column], area, area + other_area - both)
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


def _least(iou: float) -> float:
    return min(iou, 1 - 1e-10)

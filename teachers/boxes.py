"""Boxes as arrays: overlap, and suppression over many images at once. NumPy only. Boxes are `xyxy`, float32 pixels."""

from __future__ import annotations

import numpy as np


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of `a` (N, 4) with every box of `b` (M, 4): float32 (N, M).

    Two boxes without area overlap by 0.
    """
    return _iou(a[:, None], b[None])


def nms(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, iou: float) -> np.ndarray:
    """Greedy non-maximum suppression inside each group: which boxes to keep, bool (N,), in the order given.

    boxes: (N, 4); scores: (N,), finite; groups: (N,) any integers, one per image and class, such as
    `image * len(classes) + label`. From the highest score down, a box is kept unless its IoU with a kept box of its
    group is above `iou`, as in torchvision.ops.batched_nms. Equal scores are taken in order of x1, y1, x2, y2, so that
    the order of rows decides nothing.

    All groups advance together: each round keeps the best box left in every group and drops what it suppresses.
    There are as many rounds as the most boxes kept in one group, and memory stays linear in N.
    """
    boxes = np.asarray(boxes, np.float32)
    groups = np.asarray(groups)
    order = _by_score(boxes, np.asarray(scores), groups)
    boxes, groups = boxes[order], groups[order]
    keep = np.zeros(len(order), bool)
    left = np.arange(len(order))
    while left.size:
        group = groups[left]
        best = np.concatenate(([True], group[1:] != group[:-1]))
        keep[order[left[best]]] = True
        leader = left[best][np.cumsum(best) - 1]
        # In float64 as torchvision compares, so that an IoU equal to the float32 of `iou` falls on the same side.
        suppressed = _iou(boxes[left], boxes[leader]) > np.float64(iou)
        left = left[~(best | suppressed)]
    return keep


def _by_score(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The order of rows by group, falling score, and x1, y1, x2, y2, at which only ties look: int (N,)."""
    order = np.lexsort((-scores, groups))
    group, score = groups[order], scores[order]
    same = (group[1:] == group[:-1]) & (score[1:] == score[:-1])
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    rows = order[tied]
    order[tied] = rows[np.lexsort((*boxes[rows].T[::-1], -scores[rows], groups[rows]))]
    return order


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes (..., 4) with boxes (..., 4), broadcast."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    union = _area(a) + _area(b) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])

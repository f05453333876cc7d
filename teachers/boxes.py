"""Boxes as arrays: overlap, suppression and fusion over many images at once. NumPy only. Boxes are `xyxy`, float32
pixels."""

from __future__ import annotations

from dataclasses import dataclass

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
    order = score_order(boxes, np.asarray(scores), groups)
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


@dataclass(frozen=True)
class Fused:
    """Clusters of boxes, each fused into one; by group, those of a group in the order of their best members.

    boxes: float64 (K, 4); scores: float64 (K,), at most 1; groups: (K,); agree: int16 (K,), how many members found it;
    best: int (K,), row of the box with the highest weighted score in it.
    """

    boxes: np.ndarray
    scores: np.ndarray
    groups: np.ndarray
    agree: np.ndarray
    best: np.ndarray


VOTES = {"votes": "one a member"}
"""How `fuse` counts, in the description of whoever uses it: predictions that were fused otherwise are not the same."""


def fuse(
    boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, members: np.ndarray, weights: np.ndarray, iou: float
) -> Fused:
    """Weighted boxes fusion (Solovyev et al., arXiv 1910.13302) inside each group. A member has one vote for an object:
    of its boxes that overlap by more than `iou` only the surest counts (`nms`), so that a teacher that draws an object
    twice does not agree with itself.

    boxes: (N, 4); scores: (N,), in [0, 1]; groups: (N,), as in `nms`; members: int (N,), which of the M teachers or
    views each box comes from; weights: (M,), above 0. From the highest weighted score down, a box joins the cluster of
    its group that overlaps it most, if their IoU is above `iou`, else it founds one; a cluster's box is the mean of its
    boxes, weighted by their weighted scores. Its score is their mean weighted score, times min(M, boxes) / sum of the
    weights, at most 1. Equal scores are taken in order of x1, y1, x2, y2, then of rows. Boxes without area go.

    Equal to `weighted_boxes_fusion(conf_type="avg")` of the package ensemble-boxes where no member has such doubles
    (sums are rounded to float32 where it does). All groups advance together, a box of each in a round. There are as
    many rounds as boxes in the largest group; memory is linear in N.
    """
    once = nms(boxes, scores, np.asarray(groups) * len(weights) + members, iou)
    boxes, scores, groups, members = (np.asarray(column)[once] for column in (boxes, scores, groups, members))
    boxes, groups, weights = np.asarray(boxes, np.float64), np.asarray(groups), np.asarray(weights, np.float64)
    weighted = np.asarray(scores, np.float64) * weights[members]
    order = score_order(boxes, weighted, groups)
    order = order[_area(boxes[order]) > 0]
    boxes, weighted, group = boxes[order], weighted[order], groups[order]
    cluster, fused, total = _cluster(boxes, weighted, group, iou)

    size = np.bincount(cluster, minlength=len(order))
    best = np.flatnonzero(size)
    size, mean = size[best], total[best] / size[best]
    mean = np.where(size > 1, mean.astype(np.float32), mean)
    pairs = np.unique(cluster * len(weights) + np.asarray(members)[order])
    return Fused(
        boxes=fused[best],
        scores=np.minimum(mean * np.minimum(size, len(weights)) / weights.sum(), 1),
        groups=group[best],
        agree=np.bincount(pairs // len(weights), minlength=len(order))[best].astype(np.int16),
        best=np.flatnonzero(once)[order[best]],
    )


def _cluster(
    boxes: np.ndarray, weighted: np.ndarray, groups: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The clusters of boxes (N, 4) sorted by group and falling weighted score: int (N,), the row that founded each
    row's cluster; at founders, float64 (N, 4), the cluster's box, and float64 (N,), its sum of weighted scores."""
    turn, largest, active = _rounds(groups)
    rows = np.lexsort((largest, turn))  # round by round, the groups with most boxes first: a round is a slice
    boxes, weighted = boxes[rows], weighted[rows]
    corner, area, addend = np.ascontiguousarray(boxes.T), _area(boxes), weighted[:, None] * boxes
    cluster, partial, total = np.arange(len(rows)), np.zeros((len(rows), 4), np.float32), np.zeros(len(rows))
    # Row g of these tables: the clusters of group g in the order of their founding. A place without one holds a box
    # that overlaps nothing. Groups without a box left go, so that a table is not long when it is wide.
    founders, corners, areas = (np.zeros((*planes, active[0] if len(active) else 0, 1)) for planes in ((), (4,), ()))
    founders, last = founders.astype(np.intp), 0
    clusters = np.zeros(founders.shape[0], np.intp)
    for count in active:
        now, last = slice(last, last + count), last + count
        clusters = clusters[:count]
        wide = int(clusters.max()) + 1
        if wide > founders.shape[1]:
            founders, corners, areas = (_wider(table, count) for table in (founders, corners, areas))
        overlap = _overlap(corners[:, :count, :wide], areas[:count, :wide], corner[:, now], area[now])
        best = overlap.argmax(axis=1)  # of equal overlaps the oldest cluster's
        every = np.arange(count)
        joins = overlap[every, best] > iou
        place = every * founders.shape[1] + np.where(joins, best, clusters)
        clusters = clusters + ~joins
        into = np.where(joins, founders.ravel()[place], cluster[now])
        founders.ravel()[place] = cluster[now] = into
        sums = partial[into] = (partial[into] + addend[now]).astype(np.float32)
        weight = total[into] = total[into] + weighted[now]
        fused = _mean(sums, weight, joins, boxes[now])
        corners.reshape(4, -1)[:, place] = fused.T
        areas.ravel()[place] = _area(fused)
    back = np.argsort(rows)
    many = np.bincount(cluster, minlength=len(rows)) > 1
    return rows[cluster][back], _mean(partial, total, many, boxes)[back], total[back]


def _rounds(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For rows sorted by group: each row's place in its group, int (N,), the place of its group among all by falling
    size, int (N,), and how many groups have more than n rows, n = 0, 1, …"""
    first = np.flatnonzero(np.append(True, groups[1:] != groups[:-1])[: len(groups)])
    size = np.diff(first, append=len(groups))
    falling = np.argsort(-size, kind="stable")
    turn = np.arange(len(groups)) - np.repeat(first, size)
    return turn, np.repeat(np.argsort(falling), size), np.bincount(turn)


def _mean(sums: np.ndarray, weight: np.ndarray, many: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The boxes (N, 4) of clusters: sums (N, 4) / weight (N,), rounded to float32 as in the package, where a cluster is
    of many boxes, bool (N,), and of any weight; else its only or first box."""
    many = many & (weight > 0)
    return np.where(many[:, None], (sums / np.where(many, weight, 1)[:, None]).astype(np.float32), boxes)


def _wider(table: np.ndarray, active: int) -> np.ndarray:
    """The first groups of a table (..., G, K) of clusters, with room for twice as many."""
    table = table[..., :active, :]
    return np.concatenate([table, np.zeros_like(table)], axis=-1)


def _overlap(corners: np.ndarray, areas: np.ndarray, box: np.ndarray, area: np.ndarray) -> np.ndarray:
    """IoU (G, K) of the clusters of each group, corners (4, G, K) and areas (G, K), with one box a group, (4, G)."""
    side = np.minimum(corners[2:], box[2:, :, None])
    side -= np.maximum(corners[:2], box[:2, :, None])
    np.maximum(side, 0, out=side)
    inside = side[0]
    inside *= side[1]
    union = areas + area[:, None]
    union -= inside
    inside /= union
    return inside


def score_order(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
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

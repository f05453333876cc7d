"""What to keep, ignore and drop of a teacher's raw objects, and why: pure functions over columns.

Order: class map → NMS → cap per image → calibration → threshold → `where` → size → uncertainty. Each object gets
exactly one reason; those whose class the map sets aside meet no other rule. An object above its threshold that cap,
`where`, size or uncertainty refuses becomes an ignore region (`refused: ignore`), since it is likely an object and must
not be taught as background. Which threshold each class has is solved before (builder.evidence.thresholds).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from builder.rules.columns import sql_columns
from builder.rules.keep import Keep, compiled
from builder.rules.objects import Decision, Objects, Thresholds
from builder.rules.reasons import DROPPED, IGNORED, Reason
from teachers.boxes import nms


def alive(objects: Objects, keep: Keep, classes: int) -> np.ndarray:
    """What NMS and the cap leave, bool (N,): what calibration and the pool's scores are made from."""
    suppressed, capped = _prefix(objects, keep, classes)
    return objects.ours & ~(suppressed | capped)


def _prefix(objects: Objects, keep: Keep, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """bool (N,) each: dropped by NMS, and refused by the cap."""
    suppressed = np.zeros(len(objects.score), bool)
    capped = np.zeros(len(objects.score), bool)
    if keep.nms is not None:
        rows = np.flatnonzero(objects.ours)
        suppressed[rows] = ~_left_by_nms(objects, rows, classes, keep.nms)
    if keep.max_per_image is not None:
        left = np.flatnonzero(objects.ours & ~suppressed)
        capped[left[_rank_in_image(objects, left) >= keep.max_per_image]] = True
    return suppressed, capped


def _left_by_nms(objects: Objects, rows: np.ndarray, classes: int, iou: float) -> np.ndarray:
    """Which of these rows NMS leaves, bool: by masks where there are any, else by boxes."""
    boxes, score = objects.boxes[rows], objects.score[rows]
    group = objects.image[rows] * classes + objects.label[rows]
    if objects.rle is None:
        return nms(boxes, score, group, iou)
    from teachers import masks

    sizes = objects.image_size[objects.image[rows]][:, ::-1]
    return masks.nms(objects.rle[rows].tolist(), sizes, boxes, score, group, iou)


def decide(objects: Objects, keep: Keep, thresholds: Thresholds, classes: Sequence[str]) -> Decision:
    """One outcome and one reason per object. Independent of the order of rows."""
    suppressed, capped = _prefix(objects, keep, len(classes))
    confidence = objects.confidence
    threshold = thresholds.keep[objects.label]
    if thresholds.top_box:
        threshold = np.minimum(threshold, _best_of_image(objects, objects.ours & ~(suppressed | capped)))
    above = confidence >= threshold
    reason = np.zeros(len(confidence), np.uint8)
    reason[~above] = Reason.BELOW_THRESHOLD
    between = ~above & (confidence >= thresholds.ignore[objects.label])
    reason[between] = Reason.IGNORE_BAND
    reason[between & np.isinf(thresholds.keep[objects.label])] = Reason.NO_THRESHOLD
    reason[above & capped] = Reason.CAP
    reason[suppressed] = Reason.NMS
    if objects.aside is not None:
        reason = np.where(objects.ours, reason, objects.aside)
    if keep.where is not None:
        where = compiled(keep.where)
        answer = where(sql_columns(objects, classes, where.optional))
        reason[(reason == Reason.KEPT) & answer.null] = Reason.WHERE_NULL
        reason[(reason == Reason.KEPT) & answer.nan] = Reason.WHERE_NAN
        reason[(reason == Reason.KEPT) & ~answer.true] = Reason.WHERE_FALSE
    if keep.min_size is not None:
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        reason[(reason == Reason.KEPT) & (sides.min(axis=1, initial=np.inf) < keep.min_size)] = Reason.SIZE
    if keep.uncertainty is not None and objects.uncertainty is not None:
        reason[(reason == Reason.KEPT) & ~(objects.uncertainty <= keep.uncertainty)] = Reason.UNCERTAIN
    return Decision(outcomes(reason, keep), reason)


def outcomes(reason: np.ndarray, keep: Keep) -> np.ndarray:
    """What becomes of objects with these reasons: uint8 (N,)."""
    refused = IGNORED if keep.refused == "ignore" else DROPPED
    outcome = np.array([refused if each.outcome is None else each.outcome for each in Reason], np.uint8)
    return outcome[reason]


def _best_of_image(objects: Objects, among: np.ndarray) -> np.ndarray:
    """The best confidence on each object's image, of those `among`; float32 (N,)."""
    best = np.zeros(int(objects.image.max(initial=-1)) + 1, np.float32)
    np.maximum.at(best, objects.image[among], objects.confidence[among])
    return best[objects.image]


def _rank_in_image(objects: Objects, rows: np.ndarray) -> np.ndarray:
    """Place of each row among its image's, by falling score, then by box and label, so that row order never matters."""
    columns = [objects.label[rows], *objects.boxes[rows].T, -objects.score[rows], objects.image[rows]]
    order = np.lexsort(columns)
    image = objects.image[rows][order]
    first = np.flatnonzero(np.r_[True, image[1:] != image[:-1]][: len(image)])
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
    return rank

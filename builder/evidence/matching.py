"""Match a teacher's boxes or masks with human labels: which are right, and which objects are found.

Greedy by falling score within class and image, as pycocotools' COCOeval.evaluateImg does with its categories, for all
images and classes at once. Two predictions of equal score are taken in order of x1, y1, x2, y2, so that the order of
rows decides nothing; COCOeval takes them as they come. Classes and maps, where there is nothing to assign, are compared
in builder.evidence.agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from builder.errors import BuildError
from builder.kinds import kind_of
from builder.rules.keep import IOUS
from builder.truth.records import Truth
from teachers.base import Detections, Kind

SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCOeval's area ranges, pixels², both ends included."""
Overlap = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(positions of P predictions, positions of P objects) -> float64 (P,)."""
PAIRS = 1 << 21
"""Pairs of a prediction and an object looked at together: about 150 MB."""


@dataclass(frozen=True)
class Matches:
    """Raw predictions of labelled images in columns, and what they were matched with.

    classes: the teacher's, C names. shared: bool (C,), classes that the labels know too; only their predictions are
    here. names: the I images. unit: int64 (I,), which images belong together (a sequence, a patient; else each its
    own), positions 0..U-1.
    Predictions, N rows in any order: image int64, label int16 (the teacher's), score float32, area float32 (pixels),
    right and counted bool (T, N) at the T overlaps of `ious`: matched to an object that counts; right or wrong, that is
    not matched to a crowd or difficult object.
    Objects, M rows: object_image int64, object_label int16 (the teacher's class, -1 for one it does not know),
    object_area float32, object_counts bool (no crowd, not difficult), object_score float32 (T, M), the score of the
    prediction matched to it (of the best one, where a crowd has several), NaN for none.
    weight: int64 (N,), object_weight: int64 (M,): pixels that a row of a map stands for; None: each is one.
    left_out: labelled images that are not here, since they cannot be read, repeat another or have no predictions.
    """

    classes: tuple[str, ...]
    shared: np.ndarray
    names: tuple[str, ...]
    unit: np.ndarray
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    area: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    object_image: np.ndarray
    object_label: np.ndarray
    object_area: np.ndarray
    object_counts: np.ndarray
    object_score: np.ndarray
    ious: tuple[float, ...] = IOUS
    left_out: int = 0
    weight: np.ndarray | None = None
    object_weight: np.ndarray | None = None

    def weights(self, rows: np.ndarray) -> np.ndarray | None:
        """Of these predictions (positions or bool (N,)); None: each is one."""
        return None if self.weight is None else self.weight[rows]

    def object_weights(self, rows: np.ndarray) -> np.ndarray | None:
        """The same of objects."""
        return None if self.object_weight is None else self.object_weight[rows]

    @property
    def images(self) -> int:
        return len(self.names)


def match_images(
    classes: Sequence[str],
    predictions: Sequence[Detections],
    truth: Truth,
    ious: Sequence[float] = IOUS,
    area: tuple[float, float] = SIZES["all"],
) -> Matches:
    """Match predictions, one Detections per image of `truth` with labels in `classes`, without a limit to their number.

    area: objects outside this range of pixels² do not count, nor do unmatched predictions outside it. Raises BuildError
    if the truth has no boxes, or shares no class name with the teacher.
    """
    image = np.repeat(np.arange(len(predictions)), [len(prediction) for prediction in predictions])
    boxes = _joined(np.zeros((0, 4), np.float32), [prediction.boxes for prediction in predictions])
    score = _joined(np.zeros(0, np.float32), [prediction.scores for prediction in predictions])
    label = _joined(np.zeros(0, np.int16), [prediction.labels for prediction in predictions])
    return match_columns(tuple(classes), truth, image, label, score, boxes, tuple(ious), area)


def match_columns(
    classes: tuple[str, ...],
    truth: Truth,
    image: np.ndarray,
    label: np.ndarray,
    score: np.ndarray,
    boxes: np.ndarray,
    ious: tuple[float, ...] = IOUS,
    area: tuple[float, float] = SIZES["all"],
    left_out: int = 0,
    rle: np.ndarray | None = None,
) -> Matches:
    """`match_images` of columns: image int64 (N,), positions in the truth; label int16 (N,); score float32 (N,);
    boxes float32 (N, 4), xyxy pixels; rle object (N,): masks, to be matched in place of the boxes with those of the
    truth."""
    places = shared_classes(classes, truth)
    shared = np.isin(np.arange(len(classes)), places)
    rows = np.flatnonzero(shared[label])
    image, label, score, boxes = image[rows], label[rows], score[rows], boxes[rows]
    objects = truth.images
    per_image = [len(labelled.labels) for labelled in objects]
    object_image = np.repeat(np.arange(len(objects)), per_image)
    object_label = places[_joined(np.zeros(0, np.int64), [labelled.labels for labelled in objects])]
    object_area = _joined(np.zeros(0, np.float32), [labelled.area for labelled in objects])
    crowd, difficult = (
        _joined(np.zeros(0, bool), [getattr(labelled, n) for labelled in objects]) for n in ("crowd", "difficult")
    )
    ignored = crowd | difficult | _outside(object_area, area)
    if rle is None:
        size, overlap = _sides(boxes)[2], None
    else:
        size, overlap = _by_masks(truth, image, rle[rows].tolist(), crowd)
    assigned = assign(
        image * len(classes) + label,
        score,
        boxes,
        np.where(object_label < 0, -1, object_image * len(classes) + object_label),
        _joined(np.zeros((0, 4), np.float32), [labelled.boxes for labelled in objects]),
        crowd,
        ignored,
        ious,
        overlap,
    )
    matched = assigned >= 0
    on_ignored = matched & np.r_[ignored, False][assigned]  # -1, none, reads the False
    best = np.full((len(ious), len(ignored)), np.nan, np.float32)
    for row, target in zip(best, assigned, strict=True):
        np.fmax.at(row, target[target >= 0], score[target >= 0])
    return Matches(
        classes=classes,
        shared=shared,
        names=tuple(labelled.name for labelled in objects),
        unit=units([labelled.unit for labelled in objects]),
        image=image,
        label=label,
        score=score,
        area=size.astype(np.float32),
        right=matched & ~on_ignored,
        counted=~on_ignored & (matched | ~_outside(size, area)),
        object_image=object_image,
        object_label=object_label.astype(np.int16),
        object_area=object_area,
        object_counts=~ignored,
        object_score=best,
        ious=ious,
        left_out=left_out,
    )


def _by_masks(truth: Truth, image: np.ndarray, codes: list[bytes], crowd: np.ndarray) -> tuple[np.ndarray, Overlap]:
    """The areas of masks, float64 (N,), and their overlap with the truth's, as pycocotools computes it."""
    from teachers import masks

    if any(labelled.masks is None and len(labelled.labels) for labelled in truth.images):
        raise BuildError("the teacher gives masks, and the labels have boxes only: give a COCO JSON with segmentation")
    theirs = [code for labelled in truth.images for code in labelled.masks or ()]
    size = [(labelled.height, labelled.width) for labelled in truth.images]
    area = np.array([masks.area([code], *size[n])[0] for code, n in zip(codes, image.tolist(), strict=True)], float)

    def overlap(row: np.ndarray, other: np.ndarray) -> np.ndarray:
        cuts = np.flatnonzero(np.diff(row, prepend=-1, append=-1)).tolist()  # each prediction's pairs stand together
        parts = [
            masks.iou_matrix([codes[n]], [theirs[m] for m in other[a:b]], *size[int(image[n])], crowd[other[a:b]])[0]
            for (a, b), n in zip(pairwise(cuts), row[cuts[:-1]].tolist(), strict=True)
        ]
        return np.concatenate([np.zeros(0), *parts])

    return area, overlap


def _joined(empty: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The parts one after the other, `empty` where there are none."""
    return np.concatenate([empty, *parts])


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
    sides, object_sides = _sides(boxes), _sides(object_boxes)
    for block in _blocks(cell[order], count):
        rows, size = order[block], count[block]
        row = np.repeat(np.arange(len(rows)), size)
        step = np.arange(len(row)) + np.repeat(first[block] - np.cumsum(size) + size, size)
        other = objects[step]
        if overlap_of is None and min(ious) > 0:  # boxes side by side, most of a crowded image's pairs, need no IoU
            beside = _shared(sides[0], object_sides[0], rows[row], other) > 0
            row, other = row[beside], other[beside]
        if overlap_of is None:
            overlap = _overlap(sides, object_sides, rows[row], other, crowd)
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


def _sides(boxes: np.ndarray) -> Sides:
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


def _outside(size: np.ndarray, area: tuple[float, float]) -> np.ndarray:
    return (size < area[0]) | (size > area[1])


def check_kind(truth: Truth, kind: Kind, what: object = "truth") -> None:
    """Raise BuildError if the labels `what` are not of the kind that predictions of `kind` are matched with."""
    if truth.kind != kind_of(kind).truth:
        needed, give = kind_of(kind).human
        raise BuildError(f"{what} of kind {truth.kind} has no {needed} to match: give {give}")


def shared_classes(classes: Sequence[str], truth: Truth, kind: Kind = "detection") -> np.ndarray:
    """The teacher's class of each of the truth's, by name, -1 where it has none; int64 (truth's classes,).

    Raises BuildError if the truth is not of what a teacher of this kind gives, or they have no class in common.
    """
    check_kind(truth, kind)
    known = {name: place for place, name in enumerate(classes)}
    places = np.array([known.get(name, -1) for name in truth.classes], np.int64)
    if not (places >= 0).any():
        ours, theirs = (", ".join(names[:5]) for names in (truth.classes, classes))
        raise BuildError(
            f"truth and teacher share no class name ({ours} … against {theirs} …): rename one's classes, or map the "
            "teacher's with keep.classes"
        )
    return places


def units(units: Sequence[str]) -> np.ndarray:
    """Positions 0..U-1 in order of first appearance; each image without a unit is its own."""
    seen: dict[str | int, int] = {}
    return np.array([seen.setdefault(unit or place, len(seen)) for place, unit in enumerate(units)], np.int64)

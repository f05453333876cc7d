"""A teacher's boxes or masks matched with human labels: which are right, and which objects are found.

Classes and maps, where there is nothing to assign, are compared in builder.evidence.agreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from builder.errors import BuildError
from builder.evidence.assignment import Overlap, assign, sides
from builder.kinds import kind_of
from builder.rules.class_names import ClassNames, compare_names, listed
from builder.rules.keep import IOUS
from builder.truth.records import Truth
from teachers.base import Detections, Kind

SIZES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCOeval's area ranges, pixels², both ends included."""


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
    objects = _Objects.of(truth, places)
    ignored = objects.crowd | objects.difficult | _outside(objects.area, area)
    if rle is None:
        size, overlap = sides(boxes)[2], None
    else:
        size, overlap = _by_masks(truth, image, rle[rows].tolist(), objects.crowd)
    assigned = assign(
        image * len(classes) + label,
        score,
        boxes,
        np.where(objects.label < 0, -1, objects.image * len(classes) + objects.label),
        objects.boxes,
        objects.crowd,
        ignored,
        ious,
        overlap,
    )
    matched = assigned >= 0
    on_ignored = matched & np.r_[ignored, False][assigned]  # -1, none, reads the False
    object_score = np.full((len(ious), len(ignored)), np.nan, np.float32)
    for row, target in zip(object_score, assigned, strict=True):
        np.fmax.at(row, target[target >= 0], score[target >= 0])
    return Matches(
        classes=classes,
        shared=shared,
        names=tuple(labelled.name for labelled in truth.images),
        unit=units([labelled.unit for labelled in truth.images]),
        image=image,
        label=label,
        score=score,
        area=size.astype(np.float32),
        right=matched & ~on_ignored,
        counted=~on_ignored & (matched | ~_outside(size, area)),
        object_image=objects.image,
        object_label=objects.label.astype(np.int16),
        object_area=objects.area,
        object_counts=~ignored,
        object_score=object_score,
        ious=ious,
        left_out=left_out,
    )


class _Objects(NamedTuple):
    """The truth's objects, M rows, image by image: see Matches; label: int64, the teacher's class or -1."""

    image: np.ndarray
    label: np.ndarray
    area: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray

    @classmethod
    def of(cls, truth: Truth, places: np.ndarray) -> _Objects:
        """places: the teacher's class of each of the truth's."""
        images = truth.images
        return cls(
            np.repeat(np.arange(len(images)), [len(labelled.labels) for labelled in images]),
            places[_joined(np.zeros(0, np.int64), [labelled.labels for labelled in images])],
            _joined(np.zeros(0, np.float32), [labelled.area for labelled in images]),
            _joined(np.zeros((0, 4), np.float32), [labelled.boxes for labelled in images]),
            _joined(np.zeros(0, bool), [labelled.crowd for labelled in images]),
            _joined(np.zeros(0, bool), [labelled.difficult for labelled in images]),
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
        ours, theirs = (listed(names, 5) for names in (truth.classes, classes))
        alike = ", ".join(f"{name}: {other}" for name, other in compare_names(classes, truth.classes).partners[:5])
        raise BuildError(
            f"truth and teacher share no class name ({ours} against {theirs}): rename one's classes, or map the "
            f"teacher's with keep.classes.map{f' (say {alike})' if alike else ''}"
        )
    return places


def names_on(classes: Sequence[str], truth: Truth) -> ClassNames:
    """A teacher's classes against those of the labels of which something is marked; of maps all of theirs."""
    return compare_names(classes, truth.classes, truth.marked_classes)


def names_sentence(classes: Sequence[str], truth: Truth) -> str:
    """One sentence on names that do not match and probably should, and on labels that no prediction can match; "" where
    there is nothing to say."""
    return names_on(classes, truth).sentence(
        "the teacher's", "in no label", "labels that no prediction can match", "map them with keep.classes.map"
    )


def names_of(classes: Sequence[str], truth: Truth) -> dict[str, Any]:
    """Which classes figures of this teacher on these labels are over, JSON-ready."""
    ours, theirs = set(classes), set(truth.classes)
    return {
        "classes": [name for name in classes if name in theirs],
        "only_in_labels": [name for name in truth.classes if name not in ours],
        "only_in_teacher": [name for name in classes if name not in theirs],
        "class_names": names_sentence(classes, truth),
    }


def units(units: Sequence[str]) -> np.ndarray:
    """Positions 0..U-1 in order of first appearance; each image without a unit is its own."""
    seen: dict[str | int, int] = {}
    return np.array([seen.setdefault(unit or place, len(seen)) for place, unit in enumerate(units)], np.int64)

"""Boxes, and masks, measured by COCO's figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from builder.truth.records import Truth, TruthError, check_detection
from students.evaluate.base import Judged, KindMeasure, Measured, Progress, Source, predictions
from students.evaluate.coco import Metrics, Pairs, align_classes, evaluate_detections, match_pairs, relabel
from students.evaluate.scored import Confusion, Scored
from teachers.base import OF_BOXES, Detections, TeacherError
from teachers.boxes import iou_matrix


def evaluate_boxes(
    teacher: Source, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
) -> tuple[Metrics, list[Detections]]:
    """COCOeval's numbers, of boxes, and the detections of each image with labels in the truth's classes.

    Classes are matched by name; those that only one side has are left out of the detections, and count as missed where
    the truth has objects of them. batch_size: the teacher's own by default. Raises TruthError for an image that cannot
    be used, or if no class is in common; TeacherError as the teacher does.
    """
    check_detection(truth)
    if teacher.description["kind"] not in OF_BOXES:
        raise TeacherError(f"a teacher of {teacher.description['kind']} cannot be evaluated on boxes: give a detector")
    positions = align_classes(teacher.classes, truth.classes)
    answers = (answer for _, answer in predictions(teacher, truth.images, batch_size, progress))
    detections = [relabel(answer, positions) for answer in answers if isinstance(answer, Detections)]
    return evaluate_detections(truth, detections), detections


def evaluate_masks(truth: Truth, detections: Sequence[Detections]) -> Metrics:
    """COCOeval's numbers, of masks, for what `evaluate_boxes` gave. Raises TruthError for a truth without outlines."""
    if any(image.masks is None for image in truth.images):
        raise TruthError("the labels hold no outlines: give a COCO JSON with segmentation")
    return evaluate_detections(truth, detections, "segm")


def _measure(teacher: Source, truth: Truth, batch_size: int | None, progress: Progress | None) -> Measured:
    """The figures of boxes, and, where the truth has outlines, those of masks as `mask_AP`, …"""
    outlined = any(image.masks is not None for image in truth.images)
    if outlined and teacher.description["kind"] != "instance":
        raise TeacherError(f"a teacher of {teacher.description['kind']} has no masks: measure its boxes alone")
    metrics, detections = evaluate_boxes(teacher, truth, batch_size, progress)
    if not outlined:
        return Measured(metrics, detections, partial(judge, truth, detections))
    masks = {f"mask_{name}": value for name, value in evaluate_masks(truth, detections).items() if name != "per_class"}
    return Measured({**metrics, **masks}, detections, partial(judge, truth, detections))


def judge(truth: Truth, detections: Sequence[Detections], iou: float = 0.5) -> Judged:
    """Every detection, matched by its box as COCOeval does at this overlap; crowds and difficult objects, and what was
    matched to them, are left out.

    The confusion adds pairs of different classes among what is left over, those that overlap most first: what is right
    by precision and recall is so there.
    """
    pairs = match_pairs(truth, detections, iou)
    labels, scores = (_column(name, detections, pairs) for name in ("labels", "scores"))
    counted = pairs.counted
    number = int(counted.sum())
    there = [image.labels[~(image.crowd | image.difficult)] for image in truth.images]
    objects = np.bincount(np.concatenate([np.zeros(0, np.int64), *there]), minlength=len(truth.classes))
    scored = Scored(
        truth.classes,
        labels[counted].astype(np.int64),
        scores[counted].astype(np.float32),
        pairs.object[counted] >= 0,
        np.ones(number, np.int64),
        objects.astype(np.int64),
    )
    return Judged(scored, partial(_confusion, truth, detections, pairs, scores, iou))


def _column(name: str, detections: Sequence[Detections], pairs: Pairs) -> np.ndarray:
    ends = np.cumsum([0, *(len(each) for each in detections)])
    values = np.concatenate([np.zeros(0, np.float32), *(getattr(each, name) for each in detections)])
    return np.asarray(values[ends[pairs.image] + pairs.detection])


def _confusion(
    truth: Truth, detections: Sequence[Detections], pairs: Pairs, scores: np.ndarray, iou: float, score: float
) -> Confusion:
    background = len(truth.classes)
    counts = np.zeros((background + 1, background + 1), np.int64)
    kept = np.flatnonzero(scores >= np.float32(score))
    kept = kept[np.argsort(pairs.image[kept], kind="stable")]
    ends = np.searchsorted(pairs.image[kept], np.arange(len(truth.images) + 1))
    for place, (image, each) in enumerate(zip(truth.images, detections, strict=True)):
        rows = kept[ends[place] : ends[place + 1]]
        matched, counted = pairs.object[rows], pairs.counted[rows]
        missed = ~(image.crowd | image.difficult)
        found = matched[counted & (matched >= 0)]
        missed[found] = False
        np.add.at(counts, (image.labels[found], image.labels[found]), 1)
        left, spare = np.flatnonzero(missed), pairs.detection[rows][counted & (matched < 0)]
        overlaps = iou_matrix(image.boxes[left], each.boxes[spare])
        overlaps[image.labels[left][:, None] == each.labels[spare]] = 0  # COCOeval has matched those
        for there, seen in _greedy(overlaps, iou):
            counts[image.labels[left[there]], each.labels[spare[seen]]] += 1
            left[there] = spare[seen] = -1
        np.add.at(counts[:, background], image.labels[left[left >= 0]], 1)
        np.add.at(counts[background], each.labels[spare[spare >= 0]], 1)
    return Confusion(truth.classes, counts, ("background",), ("missed",))


def _greedy(overlaps: np.ndarray, iou: float) -> Iterator[tuple[int, int]]:
    """Pairs (row, column) that overlap by `iou` or more, the largest first, each row and column once."""
    rows, columns = np.nonzero(overlaps >= iou)
    order = np.argsort(-overlaps[rows, columns], kind="stable")
    taken: tuple[set[int], set[int]] = (set(), set())
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken[0] and column not in taken[1]:
            taken[0].add(row)
            taken[1].add(column)
            yield row, column


BOXES = KindMeasure(metric="AP", of_class="AP", floor=0.01, noun="boxes", best=True, measure=_measure)

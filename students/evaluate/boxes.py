"""Boxes, and masks, measured by COCO's figures."""

from __future__ import annotations

from collections.abc import Sequence

from builder.truth.records import Truth, TruthError, check_detection
from students.evaluate.base import KindMeasure, Measured, Progress, predictions
from students.evaluate.coco import Metrics, align_classes, evaluate_detections, relabel
from teachers.base import OF_BOXES, Detections, Teacher, TeacherError


def evaluate_boxes(
    teacher: Teacher, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
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


def _measure(teacher: Teacher, truth: Truth, batch_size: int | None, progress: Progress | None) -> Measured:
    """The figures of boxes, and, where the truth has outlines, those of masks as `mask_AP`, …"""
    outlined = any(image.masks is not None for image in truth.images)
    if outlined and teacher.description["kind"] != "instance":
        raise TeacherError(f"a teacher of {teacher.description['kind']} has no masks: measure its boxes alone")
    metrics, detections = evaluate_boxes(teacher, truth, batch_size, progress)
    if not outlined:
        return Measured(metrics, detections)
    masks = {f"mask_{name}": value for name, value in evaluate_masks(truth, detections).items() if name != "per_class"}
    return Measured({**metrics, **masks}, detections)


BOXES = KindMeasure(metric="AP", of_class="AP", floor=0.01, measure=_measure)

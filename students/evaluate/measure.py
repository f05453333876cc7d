"""How well a teacher, or a student as the next one, does on labelled images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np

from builder.store.files import sha256_file
from builder.truth.folders import read_mask
from builder.truth.records import LabelledImage, Truth, TruthError, check_detection, read_pixels
from students.evaluate.coco import Metrics, align_classes, evaluate_detections, relabel
from students.evaluate.measures import ClassMetrics, MapMetrics, class_metrics, confusion, map_metrics
from teachers.base import VOID, ClassProbabilities, Detections, Prediction, SemanticMap, Teacher, TeacherError

READERS = 4
"""Threads that read and decode; both release the GIL."""
Progress = Callable[[int], None]
"""Called with the number of images done since its last call."""


def measure(
    teacher: Teacher, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
) -> tuple[dict[str, Any], list[Detections]]:
    """The figures for labels of any kind, by name, `per_class` among them, and the detections, if they are boxes. Where
    the truth has outlines there are COCOeval's numbers of masks, too, as `mask_AP`, …"""
    match truth.kind:
        case "classification":
            return dict(evaluate_classes(teacher, truth, batch_size, progress)), []
        case "semantic":
            return dict(evaluate_maps(teacher, truth, batch_size, progress)), []
    if not any(image.masks is not None for image in truth.images):
        metrics, found = evaluate(teacher, truth, batch_size, progress)
        return dict(metrics), found
    if teacher.description["kind"] != "instance":
        raise TeacherError(f"a teacher of {teacher.description['kind']} has no masks to measure: leave out --masks")
    metrics, found = evaluate(teacher, truth, batch_size, progress)
    masks = {f"mask_{name}": value for name, value in evaluate_masks(truth, found).items() if name != "per_class"}
    return {**metrics, **masks}, found


def trained_on(teacher: Teacher, truth: Truth) -> int:
    """How many of the images the teacher says it has learned from (CheckpointTeacher.trained_on): on these it does
    better than on others."""
    seen = frozenset(getattr(teacher, "trained_on", ()))
    return sum(sha256_file(image.path) in seen for image in truth.images) if seen else 0


def evaluate(
    teacher: Teacher, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
) -> tuple[Metrics, list[Detections]]:
    """COCOeval's numbers, of boxes, and the detections of each image with labels in the truth's classes.

    Classes are matched by name; those that only one side has are left out of the detections, and count as missed where
    the truth has objects of them. batch_size: the teacher's own by default. Raises TruthError for an image that cannot
    be used, or if no class is in common; TeacherError as the teacher does.
    """
    check_detection(truth)
    if teacher.description["kind"] not in ("detection", "instance"):
        raise TeacherError(f"a teacher of {teacher.description['kind']} cannot be evaluated on boxes: give a detector")
    positions = align_classes(teacher.classes, truth.classes)
    found = _predictions(teacher, truth.images, batch_size, progress)
    detections = [relabel(one, positions) for _, one in found if isinstance(one, Detections)]
    return evaluate_detections(truth, detections), detections


def evaluate_masks(truth: Truth, detections: Sequence[Detections]) -> Metrics:
    """COCOeval's numbers, of masks, for what `evaluate` found. Raises TruthError for a truth without outlines."""
    if any(image.masks is None for image in truth.images):
        raise TruthError("the labels hold no outlines: give a COCO JSON with segmentation")
    return evaluate_detections(truth, detections, "segm")


def evaluate_classes(
    teacher: Teacher, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
) -> ClassMetrics:
    """How often a classifier's likeliest class is right, and how well its probability tells. Classes are matched by
    name; images without a label are left out. Raises as `evaluate` does."""
    positions = _matched(teacher, truth, "classification")
    images = [image for image in truth.images if image.label is not None]
    labels, scores = [], []
    for _, found in _predictions(teacher, images, batch_size, progress):
        if isinstance(found, ClassProbabilities):
            best = int(found.probabilities.argmax())
            labels.append(int(positions[best]))
            scores.append(float(found.probabilities[best]))
    wanted = np.array([image.label for image in images], np.int64)
    return class_metrics(wanted, np.array(labels, np.int64), np.array(scores), truth.classes)


def evaluate_maps(
    teacher: Teacher, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
) -> MapMetrics:
    """Intersection over union of a segmenter's classes, matched by name, over all labelled pixels; unlabelled ones
    count for nothing, a class that the truth has not counts as wrong. One batch of maps is in memory. Raises as
    `evaluate` does; TeacherError for a map of another size than its image."""
    positions = _matched(teacher, truth, "semantic")
    table = np.full(VOID + 1, VOID, np.uint8)
    table[: len(positions)] = np.where(positions < 0, VOID, positions)
    counts = np.zeros((len(truth.classes), len(truth.classes) + 1), np.int64)
    for image, found in _predictions(teacher, truth.images, batch_size, progress):
        if isinstance(found, SemanticMap):
            wanted = read_mask(image, len(truth.classes))
            if found.labels.shape != wanted.shape:
                raise TeacherError(f"the teacher's map of {image.name} is {found.labels.shape}, not {wanted.shape}")
            counts += confusion(wanted, table[found.labels], len(truth.classes))
    return map_metrics(counts, truth.classes)


def _matched(teacher: Teacher, truth: Truth, kind: str) -> np.ndarray:
    """Where the teacher's classes stand in the truth's. Raises TruthError or TeacherError unless both are of a kind."""
    if truth.kind != kind:
        raise TruthError(f"the labels are of kind {truth.kind}, not {kind}: give labels that say what the teacher says")
    if teacher.description["kind"] != kind:
        raise TeacherError(
            f"a teacher of {teacher.description['kind']} cannot be evaluated on {kind} labels: give labels of its kind"
        )
    return align_classes(teacher.classes, truth.classes)


def _predictions(
    teacher: Teacher, images: Sequence[LabelledImage], batch_size: int | None, progress: Progress | None
) -> Iterator[tuple[LabelledImage, Prediction]]:
    size = batch_size or teacher.batch_size
    with closing(_read_ahead(images, 2 * size)) as pixels:
        for first in range(0, len(images), size):
            batch = list(islice(pixels, size))
            yield from zip(images[first : first + size], teacher.predict(batch), strict=True)
            if progress:
                progress(len(batch))


def _read_ahead(images: Sequence[LabelledImage], ahead: int) -> Generator[np.ndarray]:
    """The images' pixels in order; at most `ahead` are read before they are asked for."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting = deque(pool.submit(read_pixels, image) for image in images[:ahead])
        for image in images[ahead:]:
            yield waiting.popleft().result()
            waiting.append(pool.submit(read_pixels, image))
        while waiting:
            yield waiting.popleft().result()

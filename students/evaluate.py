"""How well a teacher, or a student as the next one, does on labelled images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice

import numpy as np

from builder.coco import Metrics, align_classes, evaluate_detections, relabel
from builder.truth import LabelledImage, Truth, check_detection, read_pixels
from teachers.base import Detections, Teacher

READERS = 4
"""Threads that read and decode; both release the GIL."""


def evaluate(
    teacher: Teacher, truth: Truth, batch_size: int | None = None, progress: Callable[[int], None] | None = None
) -> tuple[Metrics, list[Detections]]:
    """COCOeval's numbers, and the detections of each image with labels in the truth's classes.

    Classes are matched by name; those that only one side has are left out of the detections, and count as missed where
    the truth has objects of them. batch_size: the teacher's own by default. progress: called with the number of images
    done since its last call. Raises TruthError for an image that cannot be used, or if no class is in common;
    TeacherError as the teacher does.
    """
    check_detection(truth)
    positions = align_classes(teacher.classes, truth.classes)
    size = batch_size or teacher.batch_size
    detections: list[Detections] = []
    with closing(_read_ahead(truth.images, 2 * size)) as pixels:
        while batch := list(islice(pixels, size)):
            detections += (relabel(found, positions) for found in teacher.predict(batch))
            if progress:
                progress(len(batch))
    return evaluate_detections(truth, detections), detections


def _read_ahead(images: Sequence[LabelledImage], ahead: int) -> Generator[np.ndarray]:
    """The images' pixels in order; at most `ahead` are read before they are asked for."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting = deque(pool.submit(read_pixels, image) for image in images[:ahead])
        for image in images[ahead:]:
            yield waiting.popleft().result()
            waiting.append(pool.submit(read_pixels, image))
        while waiting:
            yield waiting.popleft().result()

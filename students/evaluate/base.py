"""What measuring one kind of labels is, and a teacher's predictions on labelled images, read ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from builder.truth.records import LabelledImage, Truth, TruthError, read_pixels
from students.evaluate.coco import align_classes
from students.evaluate.scored import Confusion, Scored
from students.evaluate.stored import StoredPredictions
from teachers.base import Prediction, Teacher, TeacherError, TeacherOptions

READERS = 4
"""Threads that read and decode; both release the GIL."""
Source = Teacher | StoredPredictions
"""Where predictions come from."""
Progress = Callable[[int], None]
"""Called with the number of images done since its last call."""


class Judged(NamedTuple):
    """Every prediction, right or wrong, and what is called what at a score and above."""

    scored: Scored
    confusion: Callable[[float], Confusion]


class Measured(NamedTuple):
    """metrics: by name, in [0, 1], -1 where there is nothing to measure, and `per_class`, a mapping of class names to
    one of them. per_image: what it is made of, one for each image that is measured: Detections in the truth's classes;
    of maps an Overlap; of classes whether the likeliest one is right. judge: works out the rest."""

    metrics: Mapping[str, Any]
    per_image: Sequence[Any]
    judge: Callable[[], Judged]


@dataclass(frozen=True)
class KindMeasure:
    """How predictions of one kind are measured on labels of one kind.

    metric: the name of the figure that decides; of_class: of what `per_class` holds. floor: the lowest score of a
    detection that is measured, None where there is none. noun: what is predicted; best: whether precision and recall
    are those at the score with the best F1 and of all predictions together, else of every prediction and the mean over
    the classes. measure: (teacher, truth, batch size, progress) -> the
    figures; raises TruthError or TeacherError.
    """

    metric: str
    of_class: str
    floor: float | None
    noun: str
    best: bool
    measure: Callable[[Source, Truth, int | None, Progress | None], Measured]

    @property
    def options(self) -> TeacherOptions:
        """Of a checkpoint that is measured."""
        return TeacherOptions() if self.floor is None else TeacherOptions(floor=self.floor)


def shared_classes(teacher: Source, truth: Truth, kind: str) -> np.ndarray:
    """Where the teacher's classes stand in the truth's (align_classes). Raises TruthError or TeacherError unless both
    are of this kind."""
    if truth.kind != kind:
        raise TruthError(f"the labels are of kind {truth.kind}, not {kind}: give labels that say what the teacher says")
    if teacher.description["kind"] != kind:
        raise TeacherError(
            f"a teacher of {teacher.description['kind']} cannot be evaluated on {kind} labels: give labels of its kind"
        )
    return align_classes(teacher.classes, truth.classes)


def predictions(
    teacher: Source, images: Sequence[LabelledImage], batch_size: int | None, progress: Progress | None
) -> Iterator[tuple[LabelledImage, Prediction]]:
    """What the teacher predicts on each image, in order; batch_size: the teacher's own by default. Of stored
    predictions the images are not read."""
    if isinstance(teacher, StoredPredictions):
        for image, answer in zip(images, teacher.answers(images), strict=True):
            yield image, answer
            if progress:
                progress(1)
        return
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

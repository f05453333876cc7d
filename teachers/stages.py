"""A teacher's `predict` in three parts that a labeller lets overlap: while the model runs on one batch, other threads
prepare the images of the next and read what it said of the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from teachers.base import Prediction, Teacher


@dataclass(frozen=True)
class Stages:
    """`predict(images)` is `finish(run([prepare(image) for image in images]))`, to the bit, for at most the teacher's
    batch_size images. Each part raises TeacherError where the teacher fails.

    prepare: an image, uint8 (H, W, 3), as `run` takes it; in several threads at once. run: the model on a batch; in one
    thread, one call after the other. finish: what `run` gave as predictions; in another thread, one call after the
    other, beside `run` on the next batch. settle: waits until the device has done what `run` asked of it, so that a
    clock may be read. pixels: what a prepared image may take in memory, in pixels of 3 bytes.
    """

    prepare: Callable[[np.ndarray], Any]
    run: Callable[[Sequence[Any]], Any]
    finish: Callable[[Any], Sequence[Prediction]]
    settle: Callable[[], None] = lambda: None
    pixels: int = 0

    def predict(self, images: Sequence[np.ndarray]) -> Sequence[Prediction]:
        """All three, one after the other."""
        return self.finish(self.run([self.prepare(image) for image in images]))


def stages_of(teacher: Teacher) -> Stages:
    """The parts of a teacher: its `stages`, if it has some, else its whole `predict` as the model."""
    stages = getattr(teacher, "stages", None)
    return stages if isinstance(stages, Stages) else Stages(_as_it_is, teacher.predict, _as_it_is)


def _as_it_is(given: Any) -> Any:
    return given

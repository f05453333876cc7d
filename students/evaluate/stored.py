"""Predictions that another tool stored, in place of a teacher's: looked up by the labelled images' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from builder.label.predictions import Failure
from builder.label.replay.replay import Replay
from builder.scan.pool import PoolImage
from builder.truth.records import LabelledImage
from teachers.base import Prediction, TeacherError


class StoredPredictions:
    """A replay (builder.label.replay) as what is evaluated: its kind, its classes, and its answers."""

    batch_size = 1

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self.classes: tuple[str, ...] = tuple(replay.classes)
        self.description: Mapping[str, Any] = replay.description

    def answers(self, images: Sequence[LabelledImage]) -> Iterator[Prediction]:
        """What is stored of each image, in order. Raises TeacherError for an image that is not among the stored ones,
        or is of another size there."""
        pool_images = [_as_pool_image(image) for image in images]
        replay = self._replay.among(pool_images)
        missing = [
            f"{image.name} {answer.error}"
            for image in pool_images
            if not replay.lists(image) and isinstance(answer := replay.answer(image), Failure)
        ]
        if missing:
            raise TeacherError(
                f"{len(missing)} of {len(images)} labelled images have no stored predictions: {missing[0]}: "
                "give predictions of all of them, or labels of those that have some"
            )
        for image in pool_images:
            answer = replay.answer(image)
            assert not isinstance(answer, Failure)  # or it were missing
            yield answer


def _as_pool_image(image: LabelledImage) -> PoolImage:
    return PoolImage("", image.name, "", str(image.path), 0, 0, 0, image.width, image.height)

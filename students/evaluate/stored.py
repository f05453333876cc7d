"""Predictions that another tool stored, in place of a teacher's: looked up by the labelled images' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from builder.label.maps import PackedMap, unpack
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
        missing = [reason for image in images if (reason := self._missing(image))]
        if missing:
            raise TeacherError(
                f"{len(missing)} of {len(images)} labelled images have no stored predictions: {missing[0]}: "
                "give predictions of all of them, or labels of those that have some"
            )
        for image in images:
            answer = self._replay.answer(_as_pool_image(image))
            assert not isinstance(answer, Failure)  # or it were missing
            yield unpack(answer) if isinstance(answer, PackedMap) else answer

    def _missing(self, image: LabelledImage) -> str:
        """Why there is no answer; "" where there is one."""
        pool_image = _as_pool_image(image)
        if self._replay.lists(pool_image):
            return ""
        answer = self._replay.answer(pool_image)
        return f"{image.name} {answer.error}" if isinstance(answer, Failure) else ""


def _as_pool_image(image: LabelledImage) -> PoolImage:
    return PoolImage("", image.name, "", str(image.path), 0, 0, 0, image.width, image.height)

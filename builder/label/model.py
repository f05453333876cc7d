"""A model labels chunks: images decoded ahead, in batches of fixed order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from typing import Any

import numpy as np

from builder.engine import Advance, in_order, worker_count
from builder.label.labeller import Result
from builder.label.maps import pack
from builder.label.predictions import REMOVED as REMOVED_STATUS
from builder.label.predictions import Failure
from builder.scan.pool import REMOVED, Chunk, ImageChanged, Pool, PoolImage
from teachers.base import Prediction, SemanticMap, Teacher, TeacherError
from teachers.depth import PLAIN, Reading
from teachers.images import ImageError, decode_rgb
from teachers.limits import BATCH_PIXELS, WAITING_PIXELS


class ModelLabeller:
    """A model over images decoded in `workers` threads, which run ahead of it by a few batches (memory stays flat).

    Batches are `teacher.batch_size` consecutive readable images of one chunk, fewer where they are large
    (BATCH_PIXELS), so neither workers nor an interruption change which images meet in a batch. reading: how bytes
    become pixels.
    """

    def __init__(
        self, teacher: Teacher, workers: int | None = None, alarm: bool = True, reading: Reading = PLAIN
    ) -> None:
        self.teacher, self.alarm, self.reading = teacher, alarm, reading
        self.description = described(teacher.description, reading)
        self.runtime = dict(teacher.runtime) | {"batch_size": teacher.batch_size}
        self.trained_on = frozenset[str](getattr(teacher, "trained_on", ()))
        self.workers = worker_count(workers)

    def of(self, pool: Pool) -> ModelLabeller:
        return self

    def lists(self, image: PoolImage) -> bool:
        return True

    def results(self, chunks: Iterable[Chunk], advance: Advance) -> Iterator[list[Result]]:
        ahead = 2 * self.teacher.batch_size + self.workers
        for chunk, decoded in decode_ahead(chunks, self.workers, ahead, self.reading):
            results: list[Result] = []
            batch: list[np.ndarray] = []
            places: list[int] = []
            last = len(chunk) - 1
            for place, pixels in enumerate(decoded):
                results.append(pixels if isinstance(pixels, Failure) else Failure("not labelled"))
                if not isinstance(pixels, Failure):
                    batch.append(pixels)
                    places.append(place)
                if len(batch) == self.teacher.batch_size or (batch and place == last) or _is_large(batch):
                    for where, prediction in zip(places, self._predict(batch, chunk), strict=True):
                        # maps of a whole chunk, unpacked, would fill the memory
                        results[where] = pack(prediction) if isinstance(prediction, SemanticMap) else prediction
                    batch, places = [], []
                advance(1)
            yield results

    def _predict(self, batch: Sequence[np.ndarray], chunk: Chunk) -> Sequence[Prediction]:
        try:
            predictions = self.teacher.predict(batch)
        except TeacherError as error:
            raise TeacherError(f"the teacher failed on chunk {chunk.index}: {error}") from error
        if len(predictions) != len(batch):
            raise TeacherError(
                f"the teacher gave {len(predictions)} results for {len(batch)} images of chunk {chunk.index}"
            )
        return predictions


def described(description: Mapping[str, Any], reading: Reading) -> Mapping[str, Any]:
    """What is said of a teacher that sees images read so: another one where that is not the default."""
    return {**description, "images": reading.description} if reading != PLAIN else description


def _is_large(batch: Sequence[np.ndarray]) -> bool:
    return sum(image.shape[0] * image.shape[1] for image in batch) > BATCH_PIXELS


def decode_ahead(
    chunks: Iterable[Chunk], workers: int, ahead: int, reading: Reading = PLAIN
) -> Iterator[tuple[Chunk, Iterator[np.ndarray | Failure]]]:
    """Each chunk with its decoded images in order, which are to be used up before the next chunk is asked for. At most
    `ahead` images, and WAITING_PIXELS, wait; the chunks they are of are all that is held."""
    begun: deque[Chunk] = deque()

    def images() -> Iterator[PoolImage]:
        for chunk in chunks:
            begun.append(chunk)
            yield from chunk.images

    decoded = in_order(partial(_decode, reading), images(), workers, ahead, attrgetter("pixels"), WAITING_PIXELS)
    for first in decoded:
        chunk = begun.popleft()
        yield chunk, chain([first], islice(decoded, len(chunk) - 1))


def _decode(reading: Reading, image: PoolImage) -> np.ndarray | Failure:
    if image.state == REMOVED:
        return Failure("removed from its source before it was labelled", REMOVED_STATUS)
    try:
        return decode_rgb(image.read(), image.pixels, reading)
    except ImageChanged as error:
        return Failure(error.reason)
    except ImageError as error:
        return Failure(str(error))

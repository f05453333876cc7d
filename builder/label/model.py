"""A model labels chunks: images decoded and prepared ahead, in batches of fixed order, its results read behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice, repeat
from typing import Any, NamedTuple, TypeVar

import numpy as np

from builder.engine import Advance, in_order, worker_count
from builder.label.labeller import Result
from builder.label.maps import pack
from builder.label.predictions import REMOVED as REMOVED_STATUS
from builder.label.predictions import Failure
from builder.label.profile import Clock, Profile, untimed
from builder.scan.image import fetched
from builder.scan.pool import REMOVED, Chunk, ImageChanged, Pool, PoolImage
from teachers.base import SemanticMap, Teacher, TeacherError
from teachers.depth import PLAIN, Reading
from teachers.images import ImageError, decode_rgb
from teachers.limits import BATCH_PIXELS, WAITING_PIXELS
from teachers.stages import stages_of

Made = TypeVar("Made")


BEHIND = 2
"""Batches that may wait for what comes after the model."""


class _Prepared(NamedTuple):
    """An image as the model takes it, and how many pixels it has."""

    ready: Any
    pixels: int


class _Ran(NamedTuple):
    """A batch after the model. images: consecutive ones of a chunk; outcome: what the model said of those that are no
    failures. error: of the teacher, in place of all that would follow."""

    chunk: Chunk
    images: Sequence[_Prepared | Failure]
    outcome: Any
    error: TeacherError | None = None


class ModelLabeller:
    """A model over images decoded and prepared in `workers` threads, which run ahead of it by a few batches; what it
    says is read by another (memory stays flat; see teachers.stages).

    Batches are `teacher.batch_size` consecutive readable images of one chunk, fewer where they are large
    (BATCH_PIXELS), so neither workers nor an interruption change which images meet in a batch. reading: how bytes
    become pixels. profile: gets the seconds of each part.
    """

    def __init__(
        self,
        teacher: Teacher,
        workers: int | None = None,
        alarm: bool = True,
        reading: Reading = PLAIN,
        profile: Profile | None = None,
    ) -> None:
        self.teacher, self.alarm, self.reading = teacher, alarm, reading
        self.description = described(teacher.description, reading)
        self.runtime = dict(teacher.runtime) | {"batch_size": teacher.batch_size}
        self.trained_on = frozenset[str](getattr(teacher, "trained_on", ()))
        self.workers = worker_count(workers)
        self._stages, self._profile = stages_of(teacher), profile
        self._clock = profile.part if profile else untimed

    def of(self, pool: Pool) -> ModelLabeller:
        return self

    def lists(self, image: PoolImage) -> bool:
        return True

    def results(self, chunks: Iterable[Chunk], advance: Advance) -> Iterator[list[Result]]:
        results: list[Result] = []
        for chunk, some in in_order(self._finish, self._ran(chunks, advance), 1, BEHIND):
            results += some
            if len(results) == len(chunk):
                yield results
                results = []

    def _ran(self, chunks: Iterable[Chunk], advance: Advance) -> Iterator[_Ran]:
        """Every batch after the model; where the teacher fails, its error as the last one, so that those before it are
        finished all the same."""
        ahead, more = 2 * self.teacher.batch_size + self.workers, self._stages.pixels
        for chunk, images in decode_ahead(chunks, self.workers, ahead, self.reading, self._prepare, more, self._clock):
            batch: list[_Prepared | Failure] = []
            try:
                for place, image in enumerate(images):
                    if isinstance(image, TeacherError):
                        raise image
                    batch.append(image)
                    seen = [one for one in batch if not isinstance(one, Failure)]
                    if len(seen) == self.teacher.batch_size or place == len(chunk) - 1 or _is_large(seen):
                        yield _Ran(chunk, batch, self._run(seen) if seen else None)
                        advance(len(batch))
                        batch = []
            except TeacherError as error:
                yield _Ran(chunk, (), None, error)
                return

    def _prepare(self, pixels: np.ndarray) -> _Prepared | TeacherError:
        """In a thread, from which an error travels as a value, to come up with its own chunk."""
        try:
            with self._clock("pre-process"):
                return _Prepared(self._stages.prepare(pixels), pixels.shape[0] * pixels.shape[1])
        except TeacherError as error:
            return error

    def _run(self, batch: Sequence[_Prepared]) -> Any:
        with self._clock("model"):
            outcome = self._stages.run([image.ready for image in batch])
            if self._profile:
                self._stages.settle()
        return outcome

    def _finish(self, ran: _Ran) -> tuple[Chunk, list[Result]]:
        """The results of a batch's images. Raises TeacherError, with the chunk."""
        count, chunk = sum(not isinstance(image, Failure) for image in ran.images), ran.chunk
        with self._clock("post-process"):
            try:
                if ran.error:
                    raise ran.error
                predictions = self._stages.finish(ran.outcome) if count else ()
            except TeacherError as error:
                raise TeacherError(f"the teacher failed on chunk {chunk.index}: {error}") from error
            if len(predictions) != count:
                given = f"{len(predictions)} results for {count} images of chunk {chunk.index}"
                raise TeacherError(f"the teacher gave {given}")
            # maps of a whole chunk, unpacked, would fill the memory
            packed = iter([pack(one) if isinstance(one, SemanticMap) else one for one in predictions])
        return chunk, [image if isinstance(image, Failure) else next(packed) for image in ran.images]


def described(description: Mapping[str, Any], reading: Reading) -> Mapping[str, Any]:
    """What is said of a teacher that sees images read so: another one where that is not the default."""
    return {**description, "images": reading.description} if reading != PLAIN else description


def _is_large(batch: Sequence[_Prepared]) -> bool:
    return sum(image.pixels for image in batch) > BATCH_PIXELS


def decode_ahead(
    chunks: Iterable[Chunk],
    workers: int,
    ahead: int,
    reading: Reading,
    prepare: Callable[[np.ndarray], Made],
    more: int = 0,
    clock: Clock = untimed,
) -> Iterator[tuple[Chunk, Iterator[Made | Failure]]]:
    """Each chunk with its decoded images in order, after `prepare`, which are to be used up before the next chunk is
    asked for. At most `ahead` images, and WAITING_PIXELS, wait; the chunks they are of are all that is held. more:
    pixels that one takes at least when it is prepared."""
    begun: deque[Chunk] = deque()

    def images() -> Iterator[PoolImage]:
        for chunk in chunks:
            begun.append(chunk)
            yield from chunk.images

    def weight(image: PoolImage) -> int:
        return max(image.pixels, more)

    work = partial(_decode, reading, prepare, clock)
    decoded = _waited_for(in_order(work, fetched(images()), workers, ahead, weight, WAITING_PIXELS), clock)
    for first in decoded:
        chunk = begun.popleft()
        yield chunk, chain([first], islice(decoded, len(chunk) - 1))


def _waited_for(items: Iterator[Made], clock: Clock) -> Iterator[Made]:
    for _ in repeat(None):
        try:
            with clock("wait"):
                item = next(items)
        except StopIteration:
            return
        yield item


def _decode(reading: Reading, prepare: Callable[[np.ndarray], Made], clock: Clock, image: PoolImage) -> Made | Failure:
    if image.state == REMOVED:
        return Failure("removed from its source before it was labelled", REMOVED_STATUS)
    try:
        with clock("read"):
            data = image.read()
        with clock("decode"):
            pixels = decode_rgb(data, image.pixels, reading)
    except ImageChanged as error:
        return Failure(error.reason)
    except ImageError as error:
        return Failure(str(error))
    return prepare(pixels)

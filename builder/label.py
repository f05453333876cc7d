"""Let a teacher label the chunks of a pool. What is done stays done: only chunks without predictions are labelled."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from builder.engine import Advance, Track, default_workers, silent
from builder.files import discard, locked
from builder.pool import OK, REMOVED, UNREADABLE, Chunk, Pool, PoolImage
from builder.predictions import REMOVED as REMOVED_STATUS
from builder.predictions import Failure, read_failures, write_chunk, write_meta
from builder.sources import read_entry
from builder.store import Store
from teachers.base import Detections, Teacher, TeacherError, fingerprint
from teachers.images import ImageError, decode_rgb

Result = Detections | Failure


class Labeller(Protocol):
    """What labels chunks: a model over decoded images, or a replay of stored results."""

    @property
    def description(self) -> Mapping[str, Any]: ...

    @property
    def runtime(self) -> Mapping[str, Any]: ...

    def results(self, chunks: Iterable[Chunk], advance: Advance) -> Iterator[list[Result]]:
        """One list per chunk, one entry per image, both in order. Raises TeacherError when the model fails."""
        ...


@dataclass(frozen=True)
class Labelled:
    """What a label run did. Chunks and images over the whole pool; failures: name and reason of each image that
    cannot be read."""

    predictions: str
    chunks: int
    chunks_labelled: int
    images: int
    images_labelled: int
    failures: tuple[str, ...]

    @property
    def failure_rate(self) -> float:
        return len(self.failures) / max(1, self.images)


def label(
    pool: Pool,
    labeller: Labeller,
    store: Store,
    *,
    spec: str,
    license: str = "unknown",
    retry_failures: bool = False,
    track: Track = silent,
) -> Labelled:
    """Label every chunk of `pool` that has no predictions of this teacher yet; `retry_failures` does those with failed
    images again. Raises TeacherError if the teacher fails: the chunks before stay."""
    name = fingerprint(labeller.description)
    folder = store.predictions / name
    chunks = list(pool.chunks())
    with locked(folder / ".lock", f"predictions {name[:12]}", sweep=[folder]):
        write_meta(
            folder,
            {"spec": spec, "license": license} | {k: dict(getattr(labeller, k)) for k in ("description", "runtime")},
        )
        pending = pending_chunks(pool, labeller, store, retry_failures)
        images = sum(len(c.images) for c in pending)
        if pending:
            with track("label", images) as advance:
                for chunk, results in zip(pending, labeller.results(pending, advance), strict=True):
                    _check(results, chunk, labeller)
                    discard(folder / chunk.digest)
                    write_chunk(folder / chunk.digest, chunk, results)
        failures = [
            f"{chunk.images[failed.position].name}: {failed.error}"
            for chunk in chunks
            for failed in read_failures(folder / chunk.digest)
            if chunk.images[failed.position].state != REMOVED
        ]
    used = [image for image in pool.images if image.state in (OK, UNREADABLE)]
    failures += [f"{image.name}: {image.error}" for image in used if image.chunk < 0]
    return Labelled(name, len(chunks), len(pending), len(used), images, tuple(failures))


def pending_chunks(pool: Pool, labeller: Labeller, store: Store, retry_failures: bool = False) -> list[Chunk]:
    """The chunks that `label` would label: new ones, those with an image that came back after it had been removed, and
    those with images that could not be read, if these are to be tried again."""
    folder = store.predictions / fingerprint(labeller.description)
    done = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [c for c in pool.chunks() if c.digest not in done or _is_to_do_again(c, folder / c.digest, retry_failures)]


def _is_to_do_again(chunk: Chunk, folder: Path, retry: bool) -> bool:
    return any(
        chunk.images[failed.position].state != REMOVED and (retry or failed.status == REMOVED_STATUS)
        for failed in read_failures(folder)
    )


def _check(results: Sequence[Result], chunk: Chunk, labeller: Labeller) -> None:
    classes = len(labeller.description["classes"])
    for image, result in zip(chunk.images, results, strict=True):
        if (
            isinstance(result, Detections)
            and len(result)
            and not 0 <= result.labels.min() <= result.labels.max() < classes
        ):
            raise TeacherError(f"the teacher gave {image.name} a label outside its {classes} classes")


class ModelLabeller:
    """A model over images decoded in `workers` threads, which run ahead of it by a few batches (memory stays flat).

    Batches are `teacher.batch_size` consecutive readable images of one chunk, so neither workers nor an interruption
    change which images meet in a batch.
    """

    def __init__(self, teacher: Teacher, workers: int | None = None) -> None:
        self.teacher = teacher
        self.description = teacher.description
        self.runtime = dict(teacher.runtime) | {"batch_size": teacher.batch_size}
        self.workers = workers or default_workers()

    def results(self, chunks: Iterable[Chunk], advance: Advance) -> Iterator[list[Result]]:
        chunks = list(chunks)
        ahead = 2 * self.teacher.batch_size + self.workers
        decoded = decode_ahead([image for chunk in chunks for image in chunk.images], self.workers, ahead)
        for chunk in chunks:
            results: list[Result] = []
            batch: list[np.ndarray] = []
            places: list[int] = []
            for place in range(len(chunk.images)):
                pixels = next(decoded)
                results.append(pixels if isinstance(pixels, Failure) else Failure("not labelled"))
                if not isinstance(pixels, Failure):
                    batch.append(pixels)
                    places.append(place)
                if len(batch) == self.teacher.batch_size or (batch and place == len(chunk.images) - 1):
                    for where, found in zip(places, self._predict(batch, chunk), strict=True):
                        results[where] = found
                    batch, places = [], []
                advance(1)
            yield results

    def _predict(self, batch: Sequence[np.ndarray], chunk: Chunk) -> list[Detections]:
        try:
            found = self.teacher.predict(batch)
        except TeacherError as error:
            raise TeacherError(f"the teacher failed on chunk {chunk.index}: {error}") from error
        if len(found) != len(batch):
            raise TeacherError(f"the teacher gave {len(found)} results for {len(batch)} images of chunk {chunk.index}")
        return found


def decode_ahead(images: Sequence[PoolImage], workers: int, ahead: int) -> Iterator[np.ndarray | Failure]:
    """Decoded images in order, at most `ahead` of them waiting."""
    waiting: deque[Future[np.ndarray | Failure]] = deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for image in images:
                waiting.append(threads.submit(_decode, image))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _decode(image: PoolImage) -> np.ndarray | Failure:
    if image.state == REMOVED:
        return Failure("removed from its source before it was labelled", REMOVED_STATUS)
    try:
        data = read_entry(image.entry)
        if hashlib.sha256(data).hexdigest() != image.sha256:
            return Failure("changed since it was scanned: scan again")
        return decode_rgb(data)
    except OSError as error:
        return Failure(error.strerror or str(error))
    except ImageError as error:
        return Failure(str(error))

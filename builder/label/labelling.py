"""Let a teacher label the chunks of a pool. What is done stays done: only chunks without predictions are labelled."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from builder.engine import Track, silent
from builder.errors import BuildError
from builder.kinds import SEMANTIC, kind_of
from builder.label.alarm import check_plausible
from builder.label.labeller import Labeller, PoolLabeller, Result
from builder.label.maps import PackedMap, pack
from builder.label.meta import write_meta
from builder.label.model import ModelLabeller
from builder.label.predictions import MAX_ERRORS, UNLISTED, FailedImage, Failure, read_failures, write_chunk
from builder.label.predictions import REMOVED as REMOVED_STATUS
from builder.label.profile import Clock, Profile, untimed
from builder.label.section import TeacherSection
from builder.label.writer import Writer
from builder.scan.pool import OK, REMOVED, UNREADABLE, Chunk, Pool, PoolImage, find_pool, pointers, read_pool
from builder.store.files import discard, locked
from builder.store.store import Store, check_store
from teachers.base import (
    PREDICTIONS,
    ClassProbabilities,
    Kind,
    Prediction,
    SemanticMap,
    Teacher,
    TeacherError,
    fingerprint,
)


@dataclass(frozen=True)
class Labelled:
    """What a label run did. Chunks and images over the whole pool; failures: name and reason of the first images that
    cannot be read; failed: how many they are."""

    predictions: str
    chunks: int
    chunks_labelled: int
    images: int
    images_labelled: int
    failures: tuple[str, ...]
    failed: int

    @property
    def failure_rate(self) -> float:
        return self.failed / max(1, self.images)


def label_pool(
    pool: Pool,
    teacher: Labeller | Teacher,
    store: Store,
    *,
    spec: str,
    license: str = "unknown",
    retry_failures: bool = False,
    track: Track = silent,
    profile: Profile | None = None,
) -> Labelled:
    """Label every chunk of a pool that has no predictions of this teacher yet, and store them raw.

    Args:
        pool: the images.
        teacher: a model (teachers.load_teacher), or what builder.label.load.load_labeller makes of a recipe's section.
        store: where its predictions are put.
        spec: what names the teacher, for people to read.
        license: of the teacher's weights.
        retry_failures: label chunks with images that could not be read again.
        track: shows how far it is (builder.engine.Track).
        profile: gets the seconds of checking, writing and the whole; the labeller's own has the other parts.

    Returns:
        What is labelled now, and which images could not be read.

    Raises:
        TeacherError: if the teacher fails, or gives what it does not announce; the chunks before stay. If what it says
            of the first chunk cannot be right (builder.label.alarm), unless its `alarm` is off.
        BuildError: if another process labels with this teacher, or stored results may be of several images.
    """
    check_store(store)
    labeller = ModelLabeller(teacher) if isinstance(teacher, Teacher) else teacher
    of_pool = labeller.of(pool)
    name = fingerprint(labeller.description)
    folder = store.predictions / name
    with store.in_use(), locked(folder / ".lock", f"predictions {name[:12]}", sweep=[folder]):
        write_meta(
            folder,
            {"spec": spec, "license": license} | {k: dict(getattr(labeller, k)) for k in ("description", "runtime")},
        )
        pending = _pending(pool, of_pool, folder, retry_failures)
        with profile.whole() if profile else nullcontext():
            clock = profile.part if profile else untimed
            labelled = _label(pool, pending, labeller, of_pool, folder, track, clock) if pending else 0
        if profile:
            profile.images += labelled
        failures = _failures(pool, folder)
        first_failures = tuple(islice(failures, MAX_ERRORS))
        failed = len(first_failures) + sum(1 for _ in failures)
    used = pool.count(OK) + pool.count(UNREADABLE)
    return Labelled(name, len(pool.index), len(pending), used, labelled, first_failures, failed)


def _label(
    pool: Pool,
    pending: Sequence[int],
    labeller: Labeller,
    of_pool: PoolLabeller,
    folder: Path,
    track: Track,
    clock: Clock,
) -> int:
    """Label these chunks, written while the next are labelled; the number of images in them."""
    labelled, writer = 0, Writer()
    try:
        with track("label", sum(pool.index[number].images for number in pending)) as advance, writer:

            def advanced(images: int) -> None:
                writer.check()
                advance(images)

            for chunk, results in zip(pool.pick(pending), of_pool.results(pool.pick(pending), advanced), strict=True):
                with clock("check"):
                    _check(results, chunk, labeller)
                    if labeller.alarm and not labelled:
                        check_plausible(chunk.images, results, labeller.description)
                writer.put(partial(_write, folder / chunk.digest, chunk, results, clock))
                labelled += sum(image.state != REMOVED for image in chunk.images)
    except KeyboardInterrupt as stop:
        stop.add_note(f"{writer.done} of {len(pending)} chunks were labelled and are kept")
        raise
    return labelled


def _write(folder: Path, chunk: Chunk, results: Sequence[Result], clock: Clock) -> None:
    with clock("write"):
        discard(folder)
        write_chunk(folder, chunk, results)


def label_pools(
    pools: Iterable[Pool],
    labeller: Labeller,
    store: Store,
    teacher: TeacherSection,
    retry_failures: bool = False,
    track: Track = silent,
    profile: Profile | None = None,
) -> list[Labelled]:
    """`label_pool` of each of these pools; teacher: as the recipe names it."""
    again, named = retry_failures, {"spec": teacher.name, "license": teacher.license}
    return [
        label_pool(pool, labeller, store, **named, retry_failures=again, track=track, profile=profile) for pool in pools
    ]


@dataclass(frozen=True)
class Pending:
    """What is left to label of a pool."""

    chunks: int
    images: int


def count_pending(pool: Pool, labeller: Labeller, store: Store, retry_failures: bool = False) -> Pending:
    """How much `label_pool` would label."""
    numbers = pending_chunks(pool, labeller, store, retry_failures)
    return Pending(len(numbers), sum(pool.index[number].images for number in numbers))


def pending_chunks(pool: Pool, labeller: Labeller, store: Store, retry_failures: bool = False) -> list[int]:
    """The numbers of the chunks that `label` would label: new ones, those with an image that came back after it had
    been removed or is listed under its new name, and those with images that could not be read, if these are to be
    tried again. Raises BuildError where stored results may be of several images."""
    return _pending(pool, labeller.of(pool), store.predictions / fingerprint(labeller.description), retry_failures)


def _pending(pool: Pool, labeller: PoolLabeller, folder: Path, retry_failures: bool) -> list[int]:
    done = set(os.listdir(folder)) if folder.is_dir() else set()
    new = {number for number, facts in enumerate(pool.index) if facts.digest not in done}
    again = {
        chunk.index
        for chunk, failures in _failing(pool, folder, (n for n in range(len(pool.index)) if n not in new))
        if any(
            (image := chunk.images[failed.position]).state != REMOVED
            and (
                retry_failures
                or failed.status == REMOVED_STATUS
                or (failed.status == UNLISTED and labeller.lists(image))
            )
            for failed in failures
        )
    }
    return sorted(new | again)


def _failing(pool: Pool, folder: Path, numbers: Iterable[int]) -> Iterator[tuple[Chunk, list[FailedImage]]]:
    """Of the labelled chunks with these rising numbers, those with failures. Only their rows of the pool are read."""
    failures: deque[list[FailedImage]] = deque()

    def failing() -> Iterator[int]:
        for number in numbers:
            if failed := read_failures(folder / pool.index[number].digest):
                failures.append(failed)
                yield number

    for chunk in pool.pick(failing()):
        yield chunk, failures.popleft()


def _failures(pool: Pool, folder: Path) -> Iterator[str]:
    """Name and reason of each image of the pool that cannot be read."""
    for chunk, failures in _failing(pool, folder, range(len(pool.index))):
        for failed in failures:
            if chunk.images[failed.position].state != REMOVED:
                yield f"{chunk.images[failed.position].name}: {failed.error}"
    if pool.lost:
        for table in pool.tables(("name", "chunk", "state", "error")):
            for name, chunk, state, error in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if chunk < 0 and state == UNREADABLE:
                    yield f"{name}: {error}"


def _check(results: Sequence[Result], chunk: Chunk, labeller: Labeller) -> None:
    description = labeller.description
    kind, classes = description["kind"], len(description["classes"])
    for image, result in zip(chunk.images, results, strict=True):
        if isinstance(result, Failure):
            continue
        given = SEMANTIC.name if isinstance(result, PackedMap) else _kind_of(result)
        if PREDICTIONS[given] is not PREDICTIONS[kind]:
            raise TeacherError(f"the teacher says it gives {kind} labels, but gave {image.name} {given}")
        if wrong := _wrong(result, image, kind, classes):
            raise TeacherError(f"the teacher gave {image.name} {wrong}")


def _wrong(result: Prediction | PackedMap, image: PoolImage, kind: str, classes: int) -> str:
    """What is wrong with the prediction of an image, "" if nothing is."""
    if isinstance(result, ClassProbabilities):
        count = len(result.probabilities)
        return "" if count == classes else f"{count} probabilities for its {classes} classes"
    if isinstance(result, SemanticMap | PackedMap):
        packed = pack(result) if isinstance(result, SemanticMap) else result
        if packed.size != (image.width, image.height):
            size = f"{packed.size[0]}x{packed.size[1]}"
            return f"a map of {size} pixels, and it has {image.width}x{image.height}: maps must be of the image's size"
        labels = packed.label
    else:
        if kind_of(kind).outlines and len(result) and result.masks is None:
            return "boxes without masks"
        labels = result.labels
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        return f"a label outside its {classes} classes"
    return ""


def _kind_of(prediction: Prediction) -> Kind:
    return next(kind for kind, type in PREDICTIONS.items() if isinstance(prediction, type))


def check_labelled(pools: Iterable[Pool], labeller: Labeller, store: Store, retry_failures: bool = False) -> None:
    """Raise BuildError if `label_pool` would label anything in one of these pools."""
    for pool in pools:
        if pending := pending_chunks(pool, labeller, store, retry_failures):
            raise BuildError(
                f"{len(pending)} chunks of {pool.source} are not labelled yet: build all stages, not only cut"
            )


class TooManyFailures(BuildError):
    """More images than allowed cannot be read. What is done is kept."""


def check_failures(labelled: Labelled, max_failure_rate: float, what: str = "images") -> None:
    """Raise TooManyFailures if more than that share of the images, called `what`, could not be read."""
    if labelled.failure_rate > max_failure_rate:
        listed = "; ".join(labelled.failures[:3]) + ("; …" if labelled.failed > 3 else "")
        raise TooManyFailures(
            f"{labelled.failed} of {labelled.images} {what} cannot be read "
            f"({labelled.failure_rate:.1%}, allowed {max_failure_rate:.1%}): mend them and "
            f"retry failures (--retry-failures), or raise max_failure_rate ({listed})"
        )


def unlabelled(pool: Pool, predictions: Path) -> int:
    """Images in chunks without predictions in this folder."""
    return sum(facts.images for facts in pool.index if not (predictions / facts.digest).is_dir())


def labelled_pool(store: Store, predictions: str, name: str | None = None) -> Pool:
    """The pool that these predictions (a full fingerprint) are of: `name`, an id prefix or a source, or the only one.

    Pools of labelled images, and scans that a later one of the same source replaced, are not looked at. Raises
    BuildError if there is none, or several.
    """
    folder = store.predictions / predictions
    if name is not None:
        pool = find_pool(store, name)
        if unlabelled(pool, folder):
            raise BuildError(f"pool {name} is not wholly labelled by {predictions[:12]}: run `tutelage label` first")
        return pool
    ids = sorted({pointer["pool"] for pointer in pointers(store) if "source" in pointer} & {*store.ids(store.pools)})
    pools = [pool for pool in (read_pool(store, id) for id in ids) if not unlabelled(pool, folder)]
    if len(pools) == 1:
        return pools[0]
    if pools:
        known = ", ".join(f"{pool.id[:12]} ({pool.source})" for pool in pools)
        raise BuildError(f"predictions {predictions[:12]} are of several pools: give the pool, one of {known}")
    raise BuildError(f"no pool in {store.root} is labelled by {predictions[:12]}: run `tutelage label POOL` first")

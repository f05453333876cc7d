"""Stored predictions of others, replayed as if a teacher made them now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from builder.engine import Advance, worker_count
from builder.errors import brief
from builder.kinds import kind_of
from builder.label.labeller import Result
from builder.label.model import decode_ahead, described
from builder.label.predictions import UNLISTED, Failure
from builder.label.profile import Clock, untimed
from builder.label.replay.formats import read_stored
from builder.label.replay.match import Matcher, identity
from builder.label.replay.stored import Stored
from builder.scan.pool import DUPLICATE, OK, Chunk, Pool, PoolImage
from teachers.base import Prediction, TeacherOptions
from teachers.depth import PLAIN, Reading

AHEAD = 64
"""Decoded images that may wait."""
NO_MODEL = ("nms_iou", "top_k", "min_size", "max_size", "upscale", "dtype", "weights", "masks", "jitter", "tta")
"""Options that only a model has."""


class Replay:
    """What other tools predicted (see builder.label.replay.formats.read_stored for the formats) as a Labeller.

    results, images: the stored predictions and, where the format needs it, the file that lists their images. An image
    that is not listed fails, as does one that cannot be decoded or is not of the listed size. Names are relative to the
    pool's source, or all below one folder that the pool's are relative to, or the paths of the files themselves.
    Raises BuildError for files that do not fit each other.
    """

    alarm = False  # what is stored may be people's labels, all sure; its readers look at boxes

    def __init__(
        self,
        results: Path,
        images: Path | None,
        options: TeacherOptions,
        workers: int | None = None,
        reading: Reading = PLAIN,
        clock: Clock = untimed,
    ) -> None:
        options.refuse("replay", *NO_MODEL, "task", "prompts")
        self._stored = stored = read_stored(results, images, options)
        self.classes = stored.classes
        self._matcher = Matcher(stored)
        self._workers, self._reading, self._clock = worker_count(workers), reading, clock
        description = {
            "kind": stored.kind,
            "family": "replay",
            "classes": list(stored.classes),
            "floor": options.floor if kind_of(stored.kind).overlaps else 0.0,
            "max_detections": options.max_detections,
            **stored.digests,
        }
        self.description: Mapping[str, Any] = described(description, reading)
        self.runtime: Mapping[str, Any] = {}
        self.trained_on: frozenset[str] = frozenset()

    def of(self, pool: Pool) -> PoolReplay:
        """Raises BuildError where predictions may be of two of the pool's images."""
        return self.among(image for image in pool.images() if image.state in (OK, DUPLICATE))

    def among(self, images: Iterable[PoolImage]) -> PoolReplay:
        """Of these images, which need not be scanned: their names, paths and sizes tell. Raises BuildError as `of`."""
        return PoolReplay(self._stored, self._matcher.match(images), self._workers, self._reading, self._clock)


class PoolReplay:
    """A replay for some images. listed: what tells each that is listed (builder.label.replay.match.identity) -> its
    name there."""

    def __init__(self, stored: Stored, listed: Mapping[str, str], workers: int, reading: Reading, clock: Clock) -> None:
        self._stored = stored
        self._listed = listed
        self._workers, self._reading, self._clock = workers, reading, clock
        known = set(listed.values()) if stored.guesses else set()
        strange = [name for name in stored.sizes if name not in known] if stored.guesses or not listed else []
        names = f", which names {brief(repr(stored.spelt.get(strange[0], strange[0])))}" if strange else ""
        self._unlisted = f"not among the images of {stored.listing}{names}{stored.hint}"

    def lists(self, image: PoolImage) -> bool:
        """Predictions are stored by the images' bytes, but listed by their names, which can be mended."""
        listed = self._listed.get(identity(image))
        return listed is not None and self._stored.sizes[listed] in (None, (image.width, image.height))

    def results(self, chunks: Iterable[Chunk], advance: Advance) -> Iterator[list[Result]]:
        for chunk, decoded in decode_ahead(
            chunks, self._workers, AHEAD, self._reading, lambda pixels: pixels, clock=self._clock
        ):
            pairs = zip(chunk.images, decoded, strict=True)
            yield [pixels if isinstance(pixels, Failure) else self.answer(image) for image, pixels in pairs]
            advance(len(chunk))

    def answer(self, image: PoolImage) -> Prediction | Failure:
        """What is stored of an image."""
        listed, stored = self._listed.get(identity(image)), self._stored
        if listed is None:
            return Failure(self._unlisted, UNLISTED)
        size = stored.sizes[listed] or (image.width, image.height)
        if size != (image.width, image.height):
            reason = f"is {image.width}x{image.height}, but {size[0]}x{size[1]} in {stored.listing}"
            return Failure(reason, UNLISTED)
        return stored.read(listed, *size)

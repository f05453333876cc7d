"""What labels chunks: a model, or results that another tool stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from builder.engine import Advance
from builder.label.maps import PackedMap
from builder.label.predictions import Failure
from builder.scan.pool import Chunk, Pool, PoolImage
from teachers.base import Prediction

Result = Prediction | PackedMap | Failure


class PoolLabeller(Protocol):
    """A labeller of the images of one pool."""

    def lists(self, image: PoolImage) -> bool:
        """Whether an image that failed as unlisted, under another name perhaps, would not fail so now."""
        ...

    def results(self, chunks: Iterable[Chunk], advance: Advance) -> Iterator[list[Result]]:
        """One list per chunk, one entry per image, both in order. Raises TeacherError when the model fails."""
        ...


class Labeller(Protocol):
    """What labels pools: a model over decoded images, or a replay of stored results."""

    @property
    def description(self) -> Mapping[str, Any]: ...

    @property
    def runtime(self) -> Mapping[str, Any]: ...

    @property
    def trained_on(self) -> frozenset[str]:
        """SHA-256, hex, of the images that the model says it was trained on."""
        ...

    @property
    def alarm(self) -> bool:
        """Whether what it says of the first images must be plausible (builder.label.alarm)."""
        ...

    def of(self, pool: Pool) -> PoolLabeller:
        """What labels this pool's chunks. Raises BuildError where stored results cannot be told to be of one image."""
        ...

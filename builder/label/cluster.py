"""A teacher on the nodes of a cluster: chunks go out, what it predicts of them comes back.

Each worker holds a model of its own and labels whole chunks as ModelLabeller does, so that its predictions are, on
equal machines, those of one machine alone, whichever node labels which chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builder.cluster import Cluster, Team
from builder.engine import Advance
from builder.label.labeller import Result
from builder.label.model import ModelLabeller
from builder.label.predictions import ERROR, Failure
from builder.scan.pool import Chunk, ImageChanged, Pool, PoolImage
from teachers.base import TeacherError, fingerprint
from teachers.depth import Reading
from teachers.images import ImageError, decode_rgb


class ClusterLabeller:
    """A model on each node of a cluster, or for each of its GPUs. load: what loads it there; reading: as it reads.
    Raises what loading raises, and BuildError where nodes differ in device, processor or libraries."""

    def __init__(self, cluster: Cluster, load: Callable[[], ModelLabeller], reading: Reading) -> None:
        self._team = Team(cluster, partial(_Worker, load))
        facts = self._team.facts
        self.description: Mapping[str, Any] = facts["description"]
        self.runtime: Mapping[str, Any] = facts["runtime"]
        self.trained_on: frozenset[str] = facts["trained_on"]
        self.alarm: bool = facts["alarm"]
        self._reading = reading

    def of(self, pool: Pool) -> ClusterLabeller:
        return self

    def lists(self, image: PoolImage) -> bool:
        return True

    def results(self, chunks: Iterable[Chunk], advance: Advance) -> Iterator[list[Result]]:
        sent: list[Chunk] = []
        for results in self._team.map(_sent(chunk, sent) for chunk in chunks):
            chunk = sent.pop(0)
            self._check_seen(chunk, results)
            advance(len(chunk))
            yield results

    def _check_seen(self, chunk: Chunk, results: list[Result]) -> None:
        """Raises TeacherError where an image that could not be read on a node can be read here: a node that does not
        see the images is no fault of theirs."""
        for image, result in zip(chunk.images, results, strict=True):
            if not isinstance(result, Failure) or result.status != ERROR:
                continue
            try:
                decode_rgb(image.read(), image.pixels, self._reading)
            except (ImageChanged, ImageError):
                continue
            raise TeacherError(
                f"a node of the cluster could not read {image.uri} ({result.error}), which can be read here: put the "
                "images where every node sees them under the same path, or into an object store"
            )


class _Worker:
    """A model on a node."""

    def __init__(self, load: Callable[[], ModelLabeller]) -> None:
        self._labeller = load()

    def facts(self) -> Mapping[str, Any]:
        description = self._labeller.description
        return {
            "teacher": fingerprint(description),
            "description": description,
            "runtime": self._labeller.runtime,
            "trained_on": self._labeller.trained_on,
            "alarm": self._labeller.alarm,
            "processor": _processor(),
        }

    def work(self, chunk: Chunk) -> list[Result]:
        (results,) = self._labeller.results([chunk], lambda images: None)
        return results


def _sent(chunk: Chunk, sent: list[Chunk]) -> Chunk:
    """A chunk as it travels: its own rows, not the group of rows that they are a part of."""
    sent.append(chunk)
    return Chunk(chunk.index, chunk.digest, chunk.rows.take(np.arange(len(chunk))))


def _processor() -> str:
    """The maker's name of a node's GPUs, or of its processor where it has none: floating-point sums follow it."""
    gpus = sorted({_fact(path, "Model") for path in Path("/proc/driver/nvidia/gpus").glob("*/information")})
    return ", ".join(gpus) or _fact(Path("/proc/cpuinfo"), "model name")


def _fact(path: Path, name: str) -> str:
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")

"""What came of a shard: the record that says, once it is there, that the shard is complete."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from builder.sections import Section
from builder.store.files import write_file
from builder.store.shards import ShardFile, ShardRecord, TarRecord


@dataclass(frozen=True)
class Written:
    """The files of a shard. tar: of one that holds its images; of one that shares them the tar that they make together,
    whose SHA-256 nobody knows (""). labels, images: then, where its members lie."""

    tar: ShardFile
    labels: TarRecord | None = None
    images: tuple[TarRecord, ...] = ()

    @property
    def shared(self) -> dict[str, Any]:
        """Of the shard's record, what only a shard that shares its images has."""
        return {"labels": self.labels, "images": list(self.images)} if self.labels else {}


class ShardResult(Section):
    """shard: None where no image of its chunks is written. tombstones: keys. images: by what became of them.
    overrides: of these images, JSON-ready, each with what became of it. reasons: objects (of maps pixels) by Reason;
    per_class: predicted, kept, ignored -> the same by class; both without those of tombstoned images. changed: SHA-256
    of images whose bytes are no longer those, and their names."""

    shard: ShardRecord | None
    tombstones: list[str]
    images: dict[str, int]
    overrides: list[tuple[dict[str, Any], str]]
    reasons: list[int]
    per_class: dict[str, list[int]]
    changed: dict[str, str]

    def write(self, path: Path) -> None:
        write_file(path, orjson.dumps(self.model_dump(exclude_unset=True)))

    @staticmethod
    def read(path: Path) -> ShardResult:
        return ShardResult.model_validate(orjson.loads(path.read_bytes()))

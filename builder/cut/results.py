"""What came of a shard: the record that says, once it is there, that the shard is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from builder.sections import Section
from builder.store.files import write_file
from builder.store.manifest import ShardRecord


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
        write_file(path, orjson.dumps(self.model_dump()))

    @staticmethod
    def read(path: Path) -> ShardResult:
        return ShardResult.model_validate(orjson.loads(path.read_bytes()))

"""A version's images one by one, as every format of an export takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import orjson

from builder.errors import BuildError
from builder.kinds import kind_of
from builder.store.keys import is_copy
from builder.store.shards import read_bytes, read_samples
from builder.store.version import Version
from teachers.images import FORMATS

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Item:
    """One image of a version. file: where its image is, or would be, relative to the folder of images; label: its JSON;
    rest: what else its sample holds. Of objects: xywh: float64 (N, 4), pixels; category: int; score: float; ignore:
    bool; source: teacher or human; codes: of masks, run-length counts."""

    file: PurePosixPath
    data: bytes | None
    label: dict[str, Any]
    xywh: np.ndarray
    category: list[int]
    score: list[float]
    ignore: list[bool]
    source: list[str]
    codes: list[str] | None
    rest: bytes


def version_items(version: Version, images: bool, counts: Counter[str], advance: Any) -> Iterator[Item]:
    """The samples of all shards in order."""
    manifest = version.manifest
    removed, member = set(manifest.tombstones), kind_of(manifest.kind).member
    for shard in manifest.shards:
        path = version.shard(shard)
        for sample in read_samples(path):
            advance(1)
            if is_copy(sample.key):
                continue
            if sample.key in removed:
                counts["removed"] += 1
                continue
            label = orjson.loads(read_bytes(path, sample.members["json"]))
            extension = next(name for name in sample.members if name in FORMATS.values())
            data = read_bytes(path, sample.members[extension]) if images else None
            file = PurePosixPath(f"{sample.key.replace('/', '_')}.{extension}") if images else _source_name(label)
            rest = read_bytes(path, sample.members[member]) if member else b""
            counts["images"] += 1
            yield _item(file, data, label, rest)


def _item(file: PurePosixPath, data: bytes | None, label: dict[str, Any], rest: bytes) -> Item:
    objects = label.pop("objects", {})
    xywh = np.array(objects.get("bbox", []), np.float64).reshape(-1, 4)
    source = objects.get("source", ["teacher"] * len(xywh))  # versions from before there were overrides
    category, score, ignore = (objects.get(name, []) for name in ("category", "score", "ignore"))
    return Item(file, data, label, xywh, category, score, ignore, source, objects.get("segmentation"), rest)


def _source_name(label: dict[str, Any]) -> PurePosixPath:
    """The image's name in its source. A version may come from elsewhere: no name leads out of the folder."""
    name = PurePosixPath(label["name"])
    if name.is_absolute() or ".." in name.parts or not name.name or "\0" in label["name"]:
        raise BuildError(f"image {label['key']} has the name {label['name']!r}, which is no path inside a folder")
    return name


def write_image(folder: Path, item: Item) -> None:
    if item.data is not None:
        with new(folder / item.file) as file:
            file.write(item.data)


def write(path: Path, data: bytes) -> None:
    with new(path) as file:
        file.write(data)


def new(path: Path) -> IO[bytes]:
    """A file that was not there. Raises FileExistsError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "xb")

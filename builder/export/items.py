"""A version's images one by one, as every format of an export takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from builder.errors import BuildError
from builder.kinds import kind_of
from builder.store.keys import is_copy
from builder.store.labels import read_label
from builder.store.version import Version
from teachers.images import file_extensions

SPELLINGS = {"jpg": ("jpg", "jpeg"), "tif": ("tif", "tiff")}
"""What a file of a format may end in, where that is not its extension alone."""


@dataclass(frozen=True)
class Item:
    """One image of a version. file: its name in the pool's source, with the extension of what is written, relative to
    the folder of images; data: of the image, in `format`, an extension; None where no images are written. label: its
    JSON; rest: what else its sample holds. Of objects: xywh: float64 (N, 4), pixels; category: int; score: float;
    ignore: bool; source: teacher or human; codes: of masks, run-length counts."""

    file: PurePosixPath
    format: str
    data: bytes | None
    label: dict[str, Any]
    xywh: np.ndarray
    category: list[int]
    score: list[float]
    ignore: list[bool]
    source: list[str]
    codes: list[str] | None
    rest: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.label["width"], self.label["height"]


def named(items: Iterable[Item], label_file: Callable[[Item], Path]) -> Iterator[Item]:
    """The items under names that are free: where an image that was written before has the same, or shares a label file
    with it (`a.jpg` and `a.png`), a part of the key is added. label_file: what two images may not share."""
    for item in items:
        if item.data is not None and label_file(item).exists():
            item = replace(item, file=item.file.with_stem(f"{item.file.stem}-{item.label['key'][-12:]}"))
        yield item


def version_items(version: Version, images: bool, counts: Counter[str], advance: Any) -> Iterator[Item]:
    """The samples of all shards in order."""
    manifest = version.manifest
    removed, member = set(manifest.tombstones), kind_of(manifest.kind).member
    for _, samples in version.shards():
        for sample in samples:
            advance(1)
            if is_copy(sample.key):
                continue
            if sample.key in removed:
                counts["removed"] += 1
                continue
            label, extension = read_label(sample, manifest), manifest.features[0]
            data = sample.read(extension) if images else None
            rest = sample.read(member) if member else b""
            counts["images"] += 1
            yield _item(_file(label, extension, images), extension, data, label, rest)


def _item(file: PurePosixPath, extension: str, data: bytes | None, label: dict[str, Any], rest: bytes) -> Item:
    objects = label.pop("objects", {})
    xywh = np.array(objects.get("bbox", []), np.float64).reshape(-1, 4)
    source = objects.get("source", ["teacher"] * len(xywh))  # versions from before there were overrides
    category, score, ignore = (objects.get(name, []) for name in ("category", "score", "ignore"))
    return Item(file, extension, data, label, xywh, category, score, ignore, source, objects.get("segmentation"), rest)


def _file(label: dict[str, Any], extension: str, images: bool) -> PurePosixPath:
    """The image's name in its source; where images are written, with the extension of what is. A version may come from
    elsewhere: no name leads out of the folder."""
    name = PurePosixPath(label["name"])
    if name.is_absolute() or ".." in name.parts or not name.name or "\0" in label["name"]:
        if images:
            return PurePosixPath(f"{label['key'].replace('/', '_')}.{extension}")
        raise BuildError(f"image {label['key']} has the name {label['name']!r}, which is no path inside a folder")
    return with_extension(name, extension) if images else name


def with_extension(name: PurePosixPath, extension: str) -> PurePosixPath:
    """The name of an image that is written in the format of this extension."""
    suffix = name.suffix[1:].lower()
    if suffix in SPELLINGS.get(extension, (extension,)):
        return name
    return name.with_suffix(f".{extension}") if suffix in file_extensions() else PurePosixPath(f"{name}.{extension}")


def write_image(folder: Path, item: Item) -> None:
    if item.data is not None:
        write(folder / item.file, item.data)


def write(path: Path, data: bytes) -> None:
    with new(path) as file:
        file.write(data)


def new(path: Path) -> IO[bytes]:
    """A file that was not there. Raises FileExistsError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "xb")

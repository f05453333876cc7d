"""The images of a store's shared versions: tars below `images/`, each of one chunk of a pool in one form.

A tar is named by the digest of what decides what is in it, is written once and never changes. `NAME.json` beside it
says what is in it, so that versions are cut without a look at any image; it is written last: a tar without one is none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import orjson
from pydantic import ValidationError, model_validator

from builder.errors import BuildError, brief
from builder.sections import Section, complaint
from builder.store.files import canonical_json, read_stored, seal, unseal, write_file
from builder.store.shards import BLOCK, Member, Part, TarRecord, write_shard
from builder.store.trust import Trust

IMAGES = "images"
"""The folder of a store in which they lie."""
MEMORY = ".checked"
"""In it: which of them were hashed (builder.store.trust)."""
NAME = re.compile("[0-9a-f]{64}")


class Contents(Section):
    """What `NAME.json` says: the tar's record and its images in order: keys, bytes, SHA-256 (hex), and how each was
    re-encoded, as label JSONs say it."""

    format: int = 1
    tar: TarRecord
    extension: str
    keys: list[str]
    sizes: list[int]
    hashes: list[str]
    reencoded: list[str]

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if not len(self.keys) == len(set(self.keys)) == len(self.sizes) == len(self.hashes) == len(self.reencoded):
            raise ValueError("its columns are not of one length")
        return self


class Stored(NamedTuple):
    """An image in a tar: where it lies, the SHA-256 (hex) of its bytes there, and how it was re-encoded."""

    member: Member
    sha256: str
    reencoded: str


class Packed(NamedTuple):
    """An image to be stored: its key, its bytes, their SHA-256 (hex) or "", and how it was re-encoded."""

    key: str
    data: bytes
    sha256: str
    reencoded: str


@dataclass(frozen=True)
class ImageTar:
    """A complete tar. images: by key."""

    record: TarRecord
    images: dict[str, Stored]


class ImageTars:
    """Those of the store with this root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / IMAGES
        self.lock = self.folder / ".lock"

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.tar"

    def names(self) -> Iterator[str]:
        """Of all that are there, complete or not."""
        for path in sorted(self.folder.glob("??/*.tar")):
            if NAME.fullmatch(path.stem):
                yield path.stem

    def find(self, name: str) -> ImageTar | None:
        """The complete tar of this name; its bytes are not read. None where there is none. Raises BuildError for one of
        which what is said is damaged."""
        path = self.path(name)
        said = path.with_suffix(".json")
        mend = f"remove it and {path.name} beside it, then build again"
        try:
            contents = Contents.model_validate(unseal(read_stored(said), said, mend))
            size = os.path.getsize(path)
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise BuildError(f"{said} is damaged ({complaint(error)}): {mend}") from None
        except (OSError, orjson.JSONDecodeError) as error:
            raise BuildError(f"{said} is damaged ({brief(error)}): {mend}") from None
        whole = contents.tar.bytes == size and contents.tar.name == name
        return ImageTar(contents.tar, dict(self._images(contents))) if whole else None

    def _images(self, contents: Contents) -> Iterator[tuple[str, Stored]]:
        path, offset = self.path(contents.tar.name), 0
        columns = zip(contents.keys, contents.sizes, contents.hashes, contents.reencoded, strict=True)
        for key, size, sha256, reencoded in columns:
            member = Member(path, f"{key}.{contents.extension}", offset + BLOCK, size)
            yield key, Stored(member, sha256, reencoded)
            offset += padded(size)

    def write(self, name: str, extension: str, images: Iterable[Packed]) -> ImageTar:
        """Write a tar of these images, or write it again; the same images give the same bytes."""
        how: list[str] = []

        def samples() -> Iterator[tuple[str, list[Part]]]:
            for image in images:
                how.append(image.reencoded)
                yield image.key, [(extension, image.data, image.sha256) if image.sha256 else (extension, image.data)]

        path = self.path(name)
        written = write_shard(path, samples())
        contents = Contents(
            tar=TarRecord(name=name, bytes=written.bytes, sha256=written.sha256),
            extension=extension,
            keys=[row.key for row in written.rows],
            sizes=[row.bytes[0] for row in written.rows],
            hashes=[row.sha256[0] for row in written.rows],
            reencoded=how,
        )
        write_file(path.with_suffix(".json"), canonical_json(seal(contents.model_dump())))
        return ImageTar(contents.tar, dict(self._images(contents)))

    def remove(self, name: str) -> None:
        """A tar and what is said of it; that first, so that no moment has it without its tar."""
        path = self.path(name)
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def is_whole(self, record: TarRecord) -> bool:
        """Whether a tar is what a manifest states, and what is said of it, too; all of it is read."""
        try:
            found = self.find(record.name)
        except BuildError:
            return False
        return found is not None and found.record == record and self.is_sound(record, Trust())

    def is_sound(self, record: TarRecord, trust: Trust | None) -> bool:
        """Whether the tar that a manifest states is there, and, where that is asked, of its SHA-256."""
        path = self.path(record.name)
        if not path.is_file() or path.stat().st_size != record.bytes:
            return False
        if trust is None:
            return True
        known = Trust(self.folder / MEMORY if trust.memory else None, trust.hashing)
        return known.holds(self.folder, path.relative_to(self.folder).as_posix(), record.sha256)


def padded(size: int) -> int:
    """Bytes that a member of so many takes in a tar, with its header."""
    return BLOCK + size + -size % BLOCK

"""The images of a store's shared versions: tars below `images/`, each of one chunk of a pool in one form.

A tar is named by the digest of what decides what is in it, is written once and never changes. `NAME.json` beside it
says what is in it, so that versions are cut without a look at any image; it is written last: a tar without one is none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import orjson
from pydantic import ValidationError, model_validator

from builder.errors import BuildError, brief
from builder.sections import Section, complaint
from builder.store.files import canonical_json, read_stored, seal, unseal, write_file
from builder.store.shards import BLOCK, Member, Part, SampleRow, TarRecord, read_samples, write_shard
from builder.store.trust import Trust

IMAGES = "images"
"""The folder of a store in which they lie."""
MEMORY = ".checked"
"""In it: which of them were hashed (builder.store.trust)."""


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

    def find(self, name: str) -> ImageTar | None:
        """The complete tar of this name; its bytes are not read. None where there is none. Raises BuildError for one of
        which what is said is damaged."""
        path = self.path(name)
        said = path.with_suffix(".json")
        mend = "run `tutelage fsck --repair`, and `tutelage gc` if no version shares it"
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
        """Write a tar of these images, which takes its place when it is whole; the same images give the same bytes."""
        how: list[str] = []

        def samples() -> Iterator[tuple[str, list[Part]]]:
            for image in images:
                how.append(image.reencoded)
                yield image.key, [(extension, image.data, image.sha256) if image.sha256 else (extension, image.data)]

        written = write_shard(self.path(name), samples())
        return self._say(TarRecord(name=name, bytes=written.bytes, sha256=written.sha256), written.rows, how)

    def is_wanted(self, name: str) -> bool:
        """Whether the tar of just this name is to be written again."""
        return False

    def say_again(self, record: TarRecord, reencoded: Mapping[str, str], scanned: Mapping[str, str]) -> bool:
        """Write again what is said of a tar that is whole itself; whether that can be done. reencoded: how its images
        were, by key, as far as labels say it; scanned: SHA-256 of the others in their source."""
        path = self.path(record.name)
        if not self.is_sound(record, Trust()):
            return False
        rows = _rows(path)
        same = {row.key: "none" for row in rows if scanned.get(row.key) == row.sha256[0]} | dict(reencoded)
        if not all(row.key in same for row in rows):
            return False
        self._say(record, rows, [same[row.key] for row in rows])
        return True

    def _say(self, record: TarRecord, rows: Sequence[SampleRow], reencoded: list[str]) -> ImageTar:
        contents = Contents(
            tar=record,
            extension=rows[0].extensions[0],
            keys=[row.key for row in rows],
            sizes=[row.bytes[0] for row in rows],
            hashes=[row.sha256[0] for row in rows],
            reencoded=reencoded,
        )
        write_file(self.path(record.name).with_suffix(".json"), canonical_json(seal(contents.model_dump())))
        return ImageTar(record, dict(self._images(contents)))

    def holds(self, record: TarRecord) -> bool:
        """Whether the tar that a manifest states is there with what is said of it; its bytes are not read."""
        try:
            found = self.find(record.name)
        except BuildError:
            return False
        return found is not None and found.record == record

    def is_whole(self, record: TarRecord) -> bool:
        """Whether a tar is what a manifest states, and what is said of it, too; all of it is read."""
        if not (self.holds(record) and self.is_sound(record, Trust())):
            return False
        found, rows = self.find(record.name), _rows(self.path(record.name))
        stored = found.images if found else {}
        return [(row.key, row.offset + BLOCK, row.bytes[0], row.sha256[0]) for row in rows] == [
            (key, image.member.offset, image.member.size, image.sha256) for key, image in stored.items()
        ]

    def is_sound(self, record: TarRecord, trust: Trust | None) -> bool:
        """Whether the tar that a manifest states is there, and, where that is asked, of its SHA-256."""
        path = self.path(record.name)
        if not path.is_file() or path.stat().st_size != record.bytes:
            return False
        if trust is None:
            return True
        known = Trust(self.folder / MEMORY if trust.memory else None, trust.hashing)
        return known.holds(self.folder, path.relative_to(self.folder).as_posix(), record.sha256)


def _rows(path: Path) -> list[SampleRow]:
    """The images of a tar, from itself."""
    return [
        sample.row(tuple(hashlib.sha256(member.read()).hexdigest() for member in sample.members.values()))
        for sample in read_samples(path)
    ]


class Mended(ImageTars):
    """Image tars of which some are bad or missing: these are written anew in another folder, until they are proved to
    be what they were."""

    def __init__(self, tars: ImageTars, bad: Collection[str], root: Path) -> None:
        self.folder, self.lock = tars.folder, tars.lock
        self._bad, self._scratch = frozenset(bad), root / IMAGES

    def is_wanted(self, name: str) -> bool:
        return name in self._bad

    def path(self, name: str) -> Path:
        path = super().path(name)
        return self._scratch / name[:2] / path.name if name in self._bad or not path.exists() else path


def padded(size: int) -> int:
    """Bytes that a member of so many takes in a tar, with its header."""
    return BLOCK + size + -size % BLOCK

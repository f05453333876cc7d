"""The images inside uncompressed tars, as byte ranges of them: which members of a sample are images, and whether the
archive is whole.

In a WebDataset members whose names agree up to the first dot are one sample (webdataset's `base_plus_ext`). One of them
is the image; others may be image files too, such as the mask `KEY.seg.png`. Tars of plain photographs have names with
dots as well.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import orjson

from builder.buckets.files import read_range
from builder.errors import BuildError, brief
from builder.scan.entries import Entry, Listing, checked_text, is_hidden, is_image, mtime_of
from builder.store.manifest import MANIFEST
from teachers.files import open_regular

ALL = "all"
"""What `Listing.member` says to take every image."""
NUMBERED = re.compile(r"[0-9][0-9_T-]*")
"""Between dots, a part of a photograph's own name (`IMG.2024-05-01.jpg`), which names no member of a sample."""
BLOCK = 512
AT_A_TIME = 1 << 20
MAX_HEADER = 1 << 20
"""Bytes of a header of a member, its long name and pax records included: a path has 4 KB at most."""
HEADERS = 32 << 10
"""Bytes that are read around a header in an object store: small members come with it, and of an image no more."""
LINKS, DEVICES = "links in tars", "pipes and devices"
"""What images in tars are counted as that hold no pixels."""


def tar_images(path: Path, name: str, listing: Listing) -> Iterator[Entry]:
    """The images inside an uncompressed tar that is called `name` in its source.

    Raises BuildError for a tar that is damaged or cut, and where nobody can tell which member of a sample is its image.
    """
    place = str(path.absolute())
    checked_text(place)
    with _as_damaged(path):
        _check_shard(path)
        mtime = mtime_of(path.stat())
        with open_regular(path) as file:
            yield from _images(file, Entry(name, place, 0, os.fstat(file.fileno()).st_size, mtime), listing, path)


def remote_tar_images(tar: Entry, listing: Listing) -> Iterator[Entry]:
    """The images inside an uncompressed tar in an object store. Its headers are read, and no image but what comes with
    them. Raises as `tar_images`, and RemoteError."""
    with _as_damaged(tar.uri):
        yield from _images(io.BufferedReader(_Ranges(tar), HEADERS), tar, listing, tar.uri)


class _Ranges(io.RawIOBase):
    """A file in an object store, of which only the parts are fetched that are read."""

    def __init__(self, tar: Entry) -> None:
        self._tar, self._place = tar, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._tar.bytes}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._tar.bytes - self._place))
        data = read_range(self._tar.uri, self._place, wanted)
        if len(data) < wanted:
            raise tarfile.ReadError("it became shorter while it was read")
        buffer[:wanted] = data
        self._place += wanted
        return wanted


def _images(file: BinaryIO, tar: Entry, listing: Listing, path: Path | str) -> Iterator[Entry]:
    """The images in an open tar. tar: the file as an entry; path: what messages call it."""
    taken, others = 0, ""
    passed = set[str]()
    for sample, members in groupby(_members(file, tar.bytes, listing), key=lambda member: _sample(member.name)):
        images = []
        for member in members:
            if is_image(member.name):
                images.append(member)
            elif not is_hidden(member.name):
                listing.pass_over(member.name)
        if images and listing.member is None:
            _check_together(sample, images, passed, path)
        chosen = _chosen(sample, images, listing.member, path)
        for member in images:
            inside = member.name.removeprefix("./")
            if inside in chosen:
                taken += 1
                named = checked_text(f"{tar.name.removesuffix('.tar')}/{_below(inside)}")
                yield Entry(named, tar.uri, member.offset_data, member.size, tar.mtime_ns)
            else:
                others = _extension(inside)
                listing.passed_over[f".{others}"] += 1
    if others and not taken:
        raise BuildError(f"no image of {path} is a member .{listing.member}, but some are .{others}: correct `member`")


@contextmanager
def _as_damaged(path: Path | str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, OverflowError, ValueError) as error:
        raise BuildError(f"{path} cannot be read as an uncompressed tar ({brief(error)})") from None


class _Headers:
    """A tar's file as tarfile reads its headers, none of which may be larger than MAX_HEADER: one can say that its own
    text is all that follows."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes, more than {MAX_HEADER}")
        return self._file.read(size)


def _members(file: BinaryIO, size: int, listing: Listing) -> Iterator[tarfile.TarInfo]:
    """The files in a tar of `size` bytes. Raises tarfile.ReadError if it is not whole."""
    with _opened(file) as tar:
        while (member := _next(tar)) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every member it has passed
            if member.issparse():
                raise tarfile.ReadError(f"{member.name} is stored with holes: pack it without --sparse")
            if not member.offset < tar.offset <= size + tarfile.RECORDSIZE:
                raise tarfile.ReadError(f"cut inside {member.name}")
            if member.isfile():
                if not 0 <= member.size <= size - member.offset_data:
                    raise tarfile.ReadError(f"cut inside {member.name}")
                yield member
            elif not member.isdir() and is_image(member.name):
                listing.passed_over[LINKS if member.islnk() or member.issym() else DEVICES] += 1
    _check_end(file, tar.offset)


def _opened(file: IO[bytes]) -> tarfile.TarFile:
    with _as_read_error():
        return tarfile.open(fileobj=cast(IO[bytes], _Headers(file)), mode="r:")


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _as_read_error():
        return tar.next()


@contextmanager
def _as_read_error() -> Iterator[None]:
    """Whatever tarfile raises on damaged headers (indices, attributes, recursion, numbers) as tarfile.ReadError."""
    try:
        yield
    except (tarfile.TarError, OSError, MemoryError):
        raise
    except Exception as error:
        raise tarfile.ReadError(f"damaged header: {error}") from None


def _check_end(file: IO[bytes], offset: int) -> None:
    """Raise tarfile.ReadError unless the archive ends at `offset`, and nothing follows. tarfile takes a damaged header,
    the end of the file and the mark between two archives for the end, and images would be missing."""
    file.seek(offset)
    block = file.read(BLOCK)
    if not block:
        raise tarfile.ReadError(
            f"it ends at byte {offset} without the mark of an archive's end and may be cut: copy or pack it again"
        )
    if block.strip(b"\0"):
        raise tarfile.ReadError(f"damaged at byte {offset}")
    while block := file.read(AT_A_TIME):
        if block.strip(b"\0"):
            raise tarfile.ReadError(
                f"more follows behind its end at byte {offset}, as in two archives put one behind the other: "
                "unpack it with tar --ignore-zeros and pack it again"
            )


def _check_shard(path: Path) -> None:
    """Raise BuildError for a shard of a version that has not the size its manifest states: one that was cut between two
    samples, and got an end mark, is a whole tar otherwise."""
    manifest = path.absolute().parent.parent / MANIFEST
    if path.absolute().parent.name != "data" or not manifest.is_file():
        return
    try:
        sizes = {shard["name"]: shard["bytes"] for shard in orjson.loads(manifest.read_bytes())["shards"]}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return  # of somebody else
    size = path.stat().st_size
    if sizes.get(path.name, size) != size:
        raise BuildError(
            f"{path} has {size} bytes, not the {sizes[path.name]} that {manifest} states: check that version with "
            "`tutelage verify`, or fetch it again"
        )


def _below(name: str) -> str:
    """A member's name as a path that leads nowhere else, as of a line in a list."""
    if not name.startswith("/") and ".." not in name.split("/"):
        return name
    return os.path.normpath(name).lstrip("/").replace("../", "up/")


def _sample(name: str) -> str:
    folder, slash, base = name.removeprefix("./").rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _extension(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _check_together(sample: str, images: list[tarfile.TarInfo], passed: set[str], path: Path | str) -> None:
    """Add a sample to those that were passed. Raises BuildError if it was, since then members that make one sample do
    not stand together, and nobody looked at all of its images."""
    for image in images:
        if sample in passed and not _is_numbered(_parts(image.name)):
            raise BuildError(
                f"{image.name} of {path} does not stand beside the other members of sample {sample}, so that it cannot "
                "be told which of them is the image: pack it again in the order of names (tar --sort=name), or say it "
                f"with `member` in the recipe's pool (--member; `{ALL}` takes every image)"
            )
    passed.add(sample)


def _parts(name: str) -> list[str]:
    """What stands between the dots of a member's name, after its sample's."""
    return _extension(name).split(".")[:-1]


def _is_numbered(parts: list[str]) -> bool:
    return bool(parts) and all(map(NUMBERED.fullmatch, parts))


def _chosen(sample: str, images: list[tarfile.TarInfo], member: str | None, path: Path | str) -> set[str]:
    """The names of the members that are images, of those of one sample that may be. Raises BuildError to ask."""
    names = [image.name.removeprefix("./") for image in images]
    if member == ALL:
        return set(names)
    if member is not None:
        return {name for name in names if _extension(name) == member.removeprefix(".").lower()}
    if len(names) < 2:
        return set(names)
    simple = [name for name in names if not _parts(name)]
    numbered = [name for name in names if _is_numbered(_parts(name))]
    if len(simple) > 1 or not (simple or numbered):
        first, second = (_extension(name) for name in (simple or names)[:2])
        raise BuildError(
            f"sample {sample} of {path} has the images .{first} and .{second}: say which of its members is the image "
            f"with `member: {first}` in the recipe's pool (--member {first}), or `member: {ALL}` to take every image"
        )
    return {*simple, *numbered}

"""One image of a pool, and its bytes: those that were scanned, or none."""

from __future__ import annotations

import builtins
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

from builder.buckets.address import is_remote
from builder.buckets.files import IN_FLIGHT
from builder.engine import in_order
from builder.errors import BuildError
from builder.scan.entries import mtime_of, read_remote
from teachers.files import regular_only

OK, UNREADABLE, DUPLICATE, REMOVED = "ok", "unreadable", "duplicate", "removed"
"""The states of an image."""
AHEAD = 256 << 20
"""Bytes of remote images that are read ahead."""


class ImageChanged(BuildError):
    """An image is no longer what was scanned. reason: why, without the image's name."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class PoolImage:
    """One row of a pool.

    key: name in shards. name: path relative to the source, NFC. sha256: hex, of the bytes as they came ("" if not
    readable). uri, offset, bytes, mtime_ns: the file, and where in it (a tar member starts past 0). width, height:
    upright pixels (0 if unreadable). format: extension of teachers.images.FORMATS. orientation: EXIF. dhash: hex, see
    builder.scan.dhash ("" if there is none). chunk: -1 outside all chunks. state: ok, unreadable (with error),
    duplicate (of an earlier sha256) or removed.
    """

    key: str
    name: str
    sha256: str
    uri: str
    offset: int
    bytes: int
    mtime_ns: int
    width: int = 0
    height: int = 0
    format: str = ""
    orientation: int = 1
    dhash: str = ""
    chunk: int = -1
    state: str = OK
    error: str = ""

    @property
    def pixels(self) -> int:
        """As many as the scan found; 0 where it could not tell."""
        return self.width * self.height

    def read(self) -> builtins.bytes:
        """The image's bytes, as they were scanned. The hash is computed again only if the file's size or time is not
        that of the scan, and of a remote one always. Raises ImageChanged; RemoteError when its store cannot be used."""
        if is_remote(self.uri):
            return self._fetched()
        try:
            with open(
                self.uri, "rb", buffering=0, opener=regular_only
            ) as file:  # unbuffered: half the time of opening a small file
                status = os.fstat(file.fileno())
                data = os.pread(file.fileno(), self.bytes, self.offset)
        except OSError as error:
            reason = error.strerror or str(error)
            raise self._unreadable(reason) from None
        same_time = mtime_of(status) == self.mtime_ns
        same_size = len(data) == self.bytes and self.offset + self.bytes <= status.st_size
        if self.offset == 0:  # a whole file; a tar's members start behind a header
            same_size = status.st_size == self.bytes
        if not same_size or (not same_time and hashlib.sha256(data).hexdigest() != self.sha256):
            raise self._changed()
        return data

    def _fetched(self) -> builtins.bytes:
        try:
            data = read_remote(self.uri, self.offset, self.bytes)
        except FileNotFoundError as error:
            raise self._unreadable(str(error.strerror)) from None
        except OSError:  # of another size
            raise self._changed() from None
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise self._changed()
        return data

    def _unreadable(self, reason: str) -> ImageChanged:
        return ImageChanged(f"image {self.uri} can no longer be read ({reason}): restore it, or scan again", reason)

    def _changed(self) -> ImageChanged:
        return ImageChanged(
            f"image {self.uri} changed since it was scanned: scan its source again",
            "changed since it was scanned: scan again",
        )


@dataclass(frozen=True)
class FetchedImage(PoolImage):
    """An image that was read already. found: its bytes, or why there are none."""

    found: builtins.bytes | ImageChanged = b""

    def read(self) -> builtins.bytes:
        if isinstance(self.found, ImageChanged):
            raise self.found
        return self.found


def fetched(images: Iterable[PoolImage]) -> Iterator[PoolImage]:
    """The images in order; those of an object store with their bytes, read ahead, many at once, since each waits for
    the network: the first image tells which they are. Raises RemoteError when the store cannot be used."""
    waiting = iter(images)
    for first in waiting:
        rest = chain([first], waiting)
        remote = is_remote(first.uri)
        yield from in_order(_fetch, rest, IN_FLIGHT, 2 * IN_FLIGHT, attrgetter("bytes"), AHEAD) if remote else rest


def _fetch(image: PoolImage) -> PoolImage:
    if image.state != OK:
        return image
    try:
        return FetchedImage(**vars(image), found=image.read())
    except ImageChanged as error:
        return FetchedImage(**vars(image), found=error)

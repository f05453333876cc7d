"""A shard of a version that holds labels only: its samples, and the tar that it makes together with its images."""

from __future__ import annotations

import hashlib
import io
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from builder.store.keys import original
from builder.store.shards import BLOCK, END, Member, Sample, SampleRow, ShardError, header
from builder.store.shared.tars import ImageTar, Stored, padded

LABELS = ".labels.tar"


def labels_name(shard: str) -> str:
    """The file that holds the labels of a shard: `train-000000.labels.tar` of `train-000000.tar`."""
    return shard.removesuffix(".tar") + LABELS


def joined_rows(labels: Iterable[SampleRow], images: Sequence[Stored], extension: str) -> Iterator[SampleRow]:
    """What the index says of the joined tar, from what it would say of the labels' own and, for each row of that, the
    image."""
    place = 0
    for row, image in zip(labels, images, strict=True):
        sizes = (image.member.size, *row.bytes)
        yield SampleRow(row.key, place, (extension, *row.extensions), sizes, (image.sha256, *row.sha256))
        place += sum(map(padded, sizes))


def joined_bytes(rows: Sequence[SampleRow]) -> int:
    """Of the joined tar."""
    return sum(padded(size) for row in rows for size in row.bytes) + len(END)


def joined_samples(rows: Iterable[SampleRow], labels: Path, tars: Sequence[ImageTar]) -> Iterator[Sample]:
    """The samples of a joined shard. rows: of its index. Raises ShardError for an image that is not in the tars, or is
    another one there, and for a file of labels that is not of these rows."""
    images = {key: image for tar in tars for key, image in tar.images.items()}
    place = 0
    for row in rows:
        image = images.get(original(row.key))
        if image is None or image.sha256 != row.sha256[0] or image.member.size != row.bytes[0]:
            raise ShardError(f"{labels.name}: image {row.key} is not in the store's image tars as the index says")
        members = {row.extensions[0]: image.member}
        for extension, size in zip(row.extensions[1:], row.bytes[1:], strict=True):
            members[extension] = Member(labels, f"{row.key}.{extension}", place + BLOCK, size)
            place += padded(size)
        yield Sample(row.key, members)
    if place + len(END) != labels.stat().st_size:
        raise ShardError(f"{labels.name}: it has other samples than the index says")


def joined_tar(rows: Iterable[SampleRow], samples: Iterable[Sample]) -> Iterator[bytes]:
    """The joined tar, in pieces: byte for byte what builder.store.shards.write_shard makes of the samples. Every member
    is hashed on its way. Raises ShardError for one that is not as the index says, before its end mark."""
    for row, sample in zip(rows, samples, strict=True):
        parts: list[bytes] = []
        for (extension, member), sha256 in zip(sample.members.items(), row.sha256, strict=True):
            contents = member.read()
            if hashlib.sha256(contents).hexdigest() != sha256:
                raise ShardError(f"{member.file}: {member.name} has another SHA-256 than the index says")
            parts += (header(f"{row.key}.{extension}", len(contents)), contents, bytes(-len(contents) % BLOCK))
        yield b"".join(parts)
    yield END


def plain_tar(samples: Iterable[Sample]) -> Iterator[bytes]:
    """A tar that lies as one, in pieces as `joined_tar` gives them; nothing is hashed."""
    for sample in samples:
        parts: list[bytes] = []
        for member in sample.members.values():
            contents = member.read()
            parts += (header(member.name, len(contents)), contents, bytes(-len(contents) % BLOCK))
        yield b"".join(parts)
    yield END


def for_a_pipe(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of a tar, divided anew so that its reader knows it from a shorter one wherever it stops: readers such
    as tarfile take an end before a header, or in one, for the end of the tar. No piece ends there, but within the
    contents of a member; and those with a header in them are so small that a pipe takes them whole or not at all. What
    is given as a piece must be written as one. pieces: each of whole members, the last one the end mark."""
    joint = b""
    for piece in pieces:
        place = 0
        while piece != END and place < len(piece):
            size = int(piece[place + 124 : place + 135], 8)
            begin, stop = place + BLOCK, place + padded(size)
            if size < 2:
                joint += piece[place:stop]
            else:
                yield joint + piece[place : begin + 1]
                if size > 2:
                    yield piece[begin + 1 : begin + size - 1]
                joint = piece[begin + size - 1 : stop]
            place = stop
    yield joint + END


class JoinedFile(io.RawIOBase):
    """The joined tar as a file to read from, at any place, which lies nowhere as one; for what wants a file. Its bytes
    are those of `joined_tar`, but nothing is hashed."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._pieces: list[bytes | Member] = []
        for sample in samples:
            for extension, member in sample.members.items():
                head = header(f"{sample.key}.{extension}", member.size)
                self._pieces += [head, member, bytes(-member.size % BLOCK)]
        self._pieces.append(END)
        self._starts, self._bytes, self._place = list[int](), 0, 0
        for piece in self._pieces:
            self._starts.append(self._bytes)
            self._bytes += piece.size if isinstance(piece, Member) else len(piece)
        self._last: tuple[int, bytes] = -1, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._bytes}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        view, filled = memoryview(buffer).cast("B"), 0
        while filled < len(view) and self._place < self._bytes:
            number = bisect_right(self._starts, self._place) - 1
            part = self._piece(number)[self._place - self._starts[number] :][: len(view) - filled]
            view[filled : filled + len(part)] = part
            filled += len(part)
            self._place += len(part)
        return filled

    def _piece(self, number: int) -> bytes:
        piece = self._pieces[number]
        if isinstance(piece, bytes):
            return piece
        if self._last[0] != number:
            self._last = number, piece.read()
        return self._last[1]

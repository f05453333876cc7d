"""Deterministic WebDataset shards: USTAR tars (POSIX.1-1988) whose bytes depend on nothing but keys and contents.

Members of a sample are adjacent and named `KEY.EXTENSION`; owner, group and time are 0, the mode is 0644. The reader is
as strict as the writer: a tar cut at a member boundary, which other readers take for a shorter set, is an error here.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, NamedTuple

from pydantic import Field

from builder.errors import BuildError
from builder.sections import Section
from builder.store.files import new_file

BLOCK = 512
NAME = 100
"""Bytes at the beginning of a header in which a member's name is."""
END = bytes(2 * BLOCK)
KEY = re.compile(r"[A-Za-z0-9_/-]{1,90}(-r[1-9][0-9]{0,2})?")
"""Of an image, or of a copy of it (builder.store.keys.copy_key)."""
EXTENSION = re.compile(r"[a-z0-9]{1,16}(\.[a-z0-9]{1,16})?")
NAMED = re.compile(rf"(?!__[^/]*__/)(?P<key>{KEY.pattern})\.(?P<extension>{EXTENSION.pattern})")
"""A member's name, in which every reader finds the same key and extension: webdataset passes over `__x__/…`, makes
extensions lower case, and divides `a.b/c.jpg` otherwise than at its first dot."""
BUFFER = 1 << 20
"""Bytes that are joined, hashed and written at once; more would leave the processor's cache."""
AHEAD = 4
"""Buffers that may wait for the hash, which is slower than writing."""
WRITEBACK = 8 << 20
"""Bytes after which the disk is told to begin with them."""
MAX_MEMBER = 8**11 - 1
"""Bytes: what eleven octal digits of a USTAR header can say."""

Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
"""A number that JSON can say everywhere."""

_ZERO_FIELDS = b"0000644\0" + b"0000000\0" + b"0000000\0"  # mode, uid, gid
_TAIL = (
    b"00000000000\0" + b"        " + b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
)  # mtime, checksum, type, link, …
_FIXED_SUM = sum(_ZERO_FIELDS) + sum(_TAIL)


class ShardError(BuildError):
    """A shard that is not what this module writes: damaged, cut, or of another origin."""


@dataclass(frozen=True)
class Member:
    """A file in the tar `file`: `offset` and `size` of its contents, in bytes."""

    file: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its contents. Raises ShardError if the tar ends before it."""
        with open(self.file, "rb") as file:
            contents = os.pread(file.fileno(), self.size, self.offset)
        if len(contents) < self.size:
            raise ShardError(f"{self.file.name}: cut inside {self.name}")
        return contents


@dataclass(frozen=True)
class Sample:
    """The members of one image by extension (`jpg`, `json`, …), in the order they are stored."""

    key: str
    members: dict[str, Member]

    def read(self, extension: str) -> bytes:
        """The contents of the member with this extension. Raises ShardError for a sample without one, and as it."""
        member = self.members.get(extension)
        if member is None:
            file = next(iter(self.members.values())).file.name if self.members else "a shard"
            raise ShardError(f"{file}: image {self.key} has no {extension}: run `tutelage verify` on the version")
        return member.read()

    def row(self, sha256: tuple[str, ...]) -> SampleRow:
        """Of the index, with the hashes of the members."""
        members = self.members.values()
        offset = min(member.offset for member in members) - BLOCK
        return SampleRow(self.key, offset, tuple(self.members), tuple(member.size for member in members), sha256)


@dataclass(frozen=True)
class ShardFile:
    """What was written: samples in it, bytes and SHA-256 (hex) of the file, and a row of the index for each sample."""

    samples: int
    bytes: int
    sha256: str
    rows: tuple[SampleRow, ...] = ()


class SampleRow(NamedTuple):
    """Where a sample lies and what is in it: key; byte of the shard at which the header of its first member begins;
    extensions, bytes and SHA-256 (hex) of its members in order."""

    key: str
    offset: int
    extensions: tuple[str, ...]
    bytes: tuple[int, ...]
    sha256: tuple[str, ...]


class TarRecord(Section):
    """A tar that is part of a shard: its name, size and SHA-256."""

    name: str
    bytes: Count
    sha256: str


class ShardRecord(Section):
    """One tar: its name below `data/`, size and SHA-256 of the file, samples, objects kept and ignored in them.

    tombstones: how many of the samples are to be skipped (0 in versions from before this was recorded); skipped_kept,
    skipped_ignored: how many of these objects are on them. contents: digest of its members
    (builder.store.index.contents_of), "" in format 1."""

    name: str
    bytes: Count
    sha256: str
    samples: Count
    kept: Count
    ignored: Count
    tombstones: Count = 0
    skipped_kept: Count = 0
    skipped_ignored: Count = 0
    contents: str = ""
    chunks: tuple[Count, Count] = (0, 0)
    """First chunk of the pool in it, and the one past its last."""
    inputs: str = ""
    """Digest of all that decides its bytes: a child version with the same takes the file as it is."""
    labels: TarRecord | None = None
    """Of a shard whose images are shared: the file in `data/` that holds its other members. `bytes` is then that of
    the joined tar, and `sha256` is ""."""
    images: list[TarRecord] = Field(default_factory=list)
    """The image tars of the store in which its images lie."""


def shard_name(number: int) -> str:
    """Of a version's shard."""
    return f"train-{number:06d}.tar"


def header(name: str, size: int) -> bytes:
    """The 512-byte USTAR header of a regular file; `name` is ASCII, at most 100 bytes. Raises ValueError."""
    raw = name.encode("ascii")
    if len(raw) > NAME or not 0 <= size <= MAX_MEMBER:
        raise ValueError(f"a tar member of {size} bytes named {name!r} does not fit a USTAR header")
    octal = b"%011o\0" % size
    checksum = _FIXED_SUM + sum(raw) + sum(octal)
    return b"".join((raw.ljust(NAME, b"\0"), _ZERO_FIELDS, octal, _TAIL[:12], b"%06o\0 " % checksum, _TAIL[20:]))


Part = tuple[str, bytes] | tuple[str, bytes, str]
"""A member of a sample to be written: extension, contents and, where it is known, their SHA-256 (hex)."""


def write_shard(path: Path, samples: Iterable[tuple[str, Sequence[Part]]]) -> ShardFile:
    """Write `(key, [(extension, contents), …])` samples as one tar; it appears under `path` whole or not at all.

    The same samples give the same bytes. Hashing runs beside writing. Raises ValueError for a key or extension that
    could merge, split or hide samples in a reader (NAMED) and OSError as the disk does.
    """
    rows: list[SampleRow] = []
    offset = 0
    with new_file(path) as file, ThreadPoolExecutor(1) as thread:
        out = _HashedFile(file, thread)
        parts: list[bytes] = []
        waiting = 0
        for key, members in samples:
            start, sizes, hashes = offset, list[int](), list[str]()
            for extension, contents, *known in members:
                name = f"{key}.{extension}"
                if "." in key or not NAMED.fullmatch(name):
                    raise ValueError(
                        f"shard key {key!r} with {extension!r}: 90 characters of A-Z a-z 0-9 _ / -, a-z 0-9"
                    )
                parts += (header(name, len(contents)), contents, bytes(-len(contents) % BLOCK))
                waiting += len(contents)
                offset += BLOCK + len(contents) + -len(contents) % BLOCK
                sizes.append(len(contents))
                hashes.append(known[0] if known else hashlib.sha256(contents).hexdigest())
            rows.append(SampleRow(key, start, tuple(part[0] for part in members), tuple(sizes), tuple(hashes)))
            if waiting >= BUFFER:
                out.write(b"".join(parts))
                parts, waiting = [], 0
        out.write(b"".join((*parts, END)))
        return ShardFile(len(rows), out.bytes, out.sha256(), tuple(rows))


class _HashedFile:
    """A file whose SHA-256 is computed in a thread beside writing (hashlib and write both release the GIL), and which
    the disk begins to take long before it is complete, so that fsync finds little left to do."""

    def __init__(self, file: IO[bytes], thread: ThreadPoolExecutor) -> None:
        self.bytes = 0
        self._file, self._thread, self._digest = file, thread, hashlib.sha256()
        self._hashing: deque[Future[None]] = deque()
        self._on_its_way = 0

    def write(self, blob: bytes) -> None:
        if len(self._hashing) == AHEAD:
            self._hashing.popleft().result()
        self._hashing.append(self._thread.submit(self._digest.update, blob))
        self._file.write(blob)
        self.bytes += len(blob)
        begun = self.bytes - self._on_its_way
        if begun >= WRITEBACK and hasattr(os, "posix_fadvise"):
            # Linux starts to write what is declared not to be needed, and drops it from memory only where that is done
            os.posix_fadvise(self._file.fileno(), self._on_its_way, begun, os.POSIX_FADV_DONTNEED)
            self._on_its_way = self.bytes

    def sha256(self) -> str:
        while self._hashing:
            self._hashing.popleft().result()
        return self._digest.hexdigest()


def read_members(path: Path) -> Iterator[Member]:
    """The members of a shard in order, by their headers alone. Raises ShardError where the tar is damaged or cut."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        offset = 0
        while True:
            block = os.pread(file.fileno(), BLOCK, offset)
            if block == END[:BLOCK]:
                if os.pread(file.fileno(), BLOCK, offset + BLOCK) != END[BLOCK:] or size != offset + 2 * BLOCK:
                    raise ShardError(f"{path.name}: the end of the archive is damaged")
                return
            member = _parse_header(block, offset, path)
            offset = member.offset + member.size + -member.size % BLOCK
            if offset > size:
                raise ShardError(f"{path.name}: cut inside {member.name}")
            yield member


def _parse_header(block: bytes, offset: int, path: Path) -> Member:
    if len(block) < BLOCK:
        raise ShardError(f"{path.name}: cut at byte {offset}, before its end-of-archive mark")
    try:
        name = block[:NAME].rstrip(b"\0").decode("ascii")
        member = Member(path, name, offset + BLOCK, int(block[124:135], 8))
        intact = header(name, member.size) == block
    except ValueError:
        intact = False
    if not intact:
        raise ShardError(f"{path.name}: the header at byte {offset} is damaged or not Tutelage's")
    return member


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a shard in order. Raises ShardError for damage, a member without extension or a repeated one."""
    key, members = "", dict[str, Member]()
    for member in read_members(path):
        named = NAMED.fullmatch(member.name)
        if not named:
            raise ShardError(f"{path.name}: member {member.name!r} is not KEY.EXTENSION")
        stem, extension = named["key"], named["extension"]
        if stem != key and members:
            yield Sample(key, members)
            members = {}
        if extension in members:
            raise ShardError(f"{path.name}: member {member.name!r} stands twice")
        key = stem
        members[extension] = member
    if members:
        yield Sample(key, members)

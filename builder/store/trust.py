"""Whether files are what they were: hashed when they are first asked for, and remembered.

A hash stands for a file of the same size, times and inode, for a day at most: a failing disk changes none of these. It
is known to all of a process, and by a hidden file beside a version's lock to those after it. Verify, fsck and publish
ask nobody, and hash for themselves.
"""

from __future__ import annotations

import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import orjson
from pydantic import TypeAdapter

from builder.errors import BuildError
from builder.store.files import canonical_json, seal, sha256_file, unseal, write_file

DAY = 24 * 3600
"""Seconds for which a hash stands: what a disk does to a file later is found on the next day."""
THREADS = 2
"""Files that are hashed side by side: more do not help where a disk is what is waited for."""
WORTH = 1 << 20
"""Bytes from which a file's hash is written down; a smaller one is hashed as fast as that is read."""
SETTLED = 100_000_000
"""Nanoseconds since its last change after which a file's times tell it from what it is made into next."""


class Identity(NamedTuple):
    """What tells a file from another, and from itself before. The second time cannot be set back."""

    bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @property
    def is_settled(self) -> bool:
        return not 0 <= time.time_ns() - self.ctime_ns < SETTLED


class Hashed(NamedTuple):
    """when: seconds since 1970."""

    identity: Identity
    sha256: str
    when: float

    def stands_for(self, identity: Identity) -> bool:
        return self.identity == identity and 0 <= time.time() - self.when < DAY


FILES = "files"
_STORED = TypeAdapter(dict[str, Hashed])


class _Known:
    """What this process knows of files, by their absolute paths."""

    def __init__(self) -> None:
        self.files: dict[str, Hashed] = {}
        self.read: set[Path] = set()
        self.lock = Lock()
        self.locks: defaultdict[str, Lock] = defaultdict(Lock)

    def forked(self) -> None:
        """In a child, where no thread is left that could let go of a lock."""
        self.lock, self.locks = Lock(), defaultdict(Lock)

    def lock_of(self, path: str) -> Lock:
        with self.lock:
            return self.locks[path]


_known = _Known()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=lambda: _known.forked())


@dataclass(frozen=True)
class Trust:
    """How the files of a version are trusted. memory: the file that says which were hashed, None where nothing is
    written down; hashing: False for a version that is taken as it is."""

    memory: Path | None = None
    hashing: bool = True

    def holds(self, folder: Path, name: str, sha256: str) -> bool:
        """Whether a file of a version, by its name below `folder`, has this SHA-256 (hex), as far as that is asked. It
        is read unless that was done in the last day. Raises BuildError for a file that changes meanwhile, and
        OSError."""
        return not self.hashing or self._sha256(folder, name) == sha256

    def _sha256(self, folder: Path, name: str) -> str:
        self._recall(folder)
        path = os.path.abspath(folder / name)
        known, identity = _known.files.get(path), identity_of(path)
        if known and known.stands_for(identity):
            return known.sha256
        with _known.lock_of(path):  # another thread may be at it
            known, identity = _known.files.get(path), identity_of(path)
            if known and known.stands_for(identity):
                return known.sha256
            settled, sha256 = identity.is_settled, sha256_file(Path(path))
            if identity_of(path) != identity:
                raise BuildError(f"{path} changed while it was read: wait for what writes it, then run this again")
            if settled:
                _known.files[path] = Hashed(identity, sha256, time.time())
        if settled and identity.bytes >= WORTH:
            self._remember(folder)
        return sha256

    def _recall(self, folder: Path) -> None:
        """Read what was written down, once; a damaged file says nothing."""
        if self.memory is None or self.memory in _known.read:
            return
        with _known.lock:
            _known.read.add(self.memory)
            try:
                stored = unseal(orjson.loads(self.memory.read_bytes()), self.memory)
                files = _STORED.validate_python(stored[FILES])
            except (OSError, BuildError, LookupError, TypeError, ValueError):
                return
            for name, hashed in files.items():
                _known.files.setdefault(os.path.abspath(folder / name), hashed)

    def _remember(self, folder: Path) -> None:
        """Write down what is known of the larger files, where that can be done."""
        if self.memory is None:
            return
        start = os.path.abspath(folder) + os.sep
        with _known.lock:
            known: dict[str, Any] = {
                path.removeprefix(start): hashed
                for path, hashed in _known.files.items()
                if path.startswith(start) and hashed.identity.bytes >= WORTH
            }
            try:
                write_file(self.memory, canonical_json(seal({FILES: known})))
            except OSError:
                return  # read-only, or full: the next process hashes again


def memory_of(folder: Path) -> Path:
    """The file beside the folder of a store's version that says which of its files were hashed."""
    return folder.with_name(f".checked-{folder.name}")


def identity_of(path: Path | str) -> Identity:
    """Of a file as it is now. Raises OSError."""
    status = os.stat(path)
    return Identity(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class Wrong(NamedTuple):
    """what: in words, beginning with the file. stray: a file that belongs to no version."""

    what: str
    stray: bool = False


def survey(folder: Path, files: Mapping[str, int | None], others: frozenset[str]) -> Wrong | None:
    """What is wrong with a folder by the names and kinds of what lies in it; reads no file.

    files: names below the folder that are to be files, with their bytes where these are known; others: those that may
    be there. Hidden files are nobody's business. Raises OSError.
    """
    there = dict[str, os.stat_result]()
    for name, status in _below(folder):
        known = name in files or name in others
        if stat.S_ISLNK(status.st_mode):
            return Wrong(f"{name} is a link, and no file of its own", not known)
        if not known:
            return Wrong(f"{name} is no part of it", stray=True)
        if not stat.S_ISREG(status.st_mode):
            return Wrong(f"{name} is no regular file")
        there[name] = status
    for name, size in files.items():
        if name not in there:
            return Wrong(f"{name} is missing")
        if size is not None and there[name].st_size != size:
            return Wrong(f"{name} has {there[name].st_size} bytes, its manifest says {size}")
    return None


def _below(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Whatever lies below a folder but folders, by name, hidden things left out."""
    with os.scandir(folder / prefix) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _below(folder, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry.stat(follow_symlinks=False)

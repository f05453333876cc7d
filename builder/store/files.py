"""How anything reaches the disk: written under a temporary name, synced, renamed. A reader sees all of it or none."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from builder.errors import BuildError
from builder.store.locks import holder, sign, take_lock
from teachers.files import read_regular

TEMPORARY = ".tmp-"
"""Prefix of every unfinished file and folder; whoever holds the lock of the folder around it may remove them."""

THERE = "{} is already there with other contents: give another place, or remove it"

SEAL = "digest"
"""The key under which a JSON file of the store keeps the digest of the rest of itself."""
EMPTY = hashlib.sha256(b"").hexdigest()


@contextmanager
def new_file(path: Path, *, over: bool = True) -> Iterator[IO[bytes]]:
    """An open file that becomes `path`, synced, when the block ends well, and nothing when it does not. Raises
    BuildError if it is not to be put `over` what is there, outside of the store, and that has other bytes."""
    make_folder(path.parent)
    if not over:
        _sweep_beside(path)  # in the store whoever holds the lock does
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            if not over:
                take_lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not over and path.exists() and not (path.is_file() and filecmp.cmp(temporary, path, shallow=False)):
            raise BuildError(THERE.format(path))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """`path` with these bytes, atomically and durably."""
    with new_file(path) as file:
        file.write(data)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A fresh folder that becomes `path`, with its files synced, when the block ends well; nothing when it does not.

    Raises FileExistsError (or OSError ENOTEMPTY) if another process put a folder there first: the claim is exclusive.
    """
    make_folder(path.parent)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for entry in (*temporary.rglob("*"), temporary):
            sync_folder(entry)  # of a file it syncs the contents
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


@contextmanager
def new_tree(path: Path) -> Iterator[Path]:
    """A fresh folder, which may get folders of its own, that becomes `path` outside of the store when the block ends
    well, and nothing when it does not. What is there stays if it is the same, byte for byte: the command was killed, or
    another process was, just when it had ended. What killed processes left half-written beside it goes.

    Raises BuildError if `path` is there and is other than that.
    """
    make_folder(path.parent)
    _sweep_beside(path)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    temporary.mkdir()
    try:
        with _held(temporary):
            yield temporary
            os.sync()  # once for all: to sync every small file by itself takes many times as long
            _settle(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def _sweep_beside(path: Path) -> None:
    """Remove what killed processes left half-written of a file or folder outside of the store: whose lock is free."""
    prefix = f"{TEMPORARY}{path.name}-"
    for other in list(path.parent.iterdir()):
        if other.name.startswith(prefix) and other.name.removeprefix(prefix).isdecimal() and not other.is_symlink():
            with _held(other) as abandoned:
                if abandoned:
                    shutil.rmtree(other, ignore_errors=True) if other.is_dir() else other.unlink(missing_ok=True)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """A file or folder locked while the block runs, unless another process has it: whether it is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield take_lock(descriptor)
    finally:
        os.close(descriptor)


def _settle(temporary: Path, path: Path) -> None:
    """Put a finished folder in its place, which may hold the same already."""
    try:
        os.rename(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        if not _equal(temporary, path):
            raise BuildError(THERE.format(path)) from None
        shutil.rmtree(temporary)


def _equal(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in (one, other)]
    if names[0] != names[1]:
        return False
    files = [name for name in sorted(names[0]) if (one / name).is_file()]
    return all((other / name).is_file() and filecmp.cmp(one / name, other / name, shallow=False) for name in files)


def make_folder(path: Path) -> None:
    """A folder, with those above it, whose names stay after a power cut; nothing where it is there."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def discard(folder: Path) -> None:
    """Remove a folder, if it is there; it leaves its name at once, so that no reader finds a part of it."""
    if folder.exists():
        grave = folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}-old")
        folder.rename(grave)
        sync_folder(grave.parent)  # or a power cut could leave it under its name without some of its files
        shutil.rmtree(grave)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(lock: Path, what: str, *, sweep: Sequence[Path], wait: bool = False) -> Iterator[None]:
    """Hold the lock file alone, and sweep what a killed holder left half-written directly below the folders `sweep`.
    The kernel frees the lock of a dead process. If another one holds it: `wait`, or raise BuildError naming `what` and
    who that is."""
    make_folder(lock.parent)
    with open(lock, "ab+") as file:
        if not take_lock(file, wait=wait):
            raise BuildError(
                f"another process{holder(file)} is working on {what}: wait for it to end, then run this again"
            )
        sign(file)
        for path in (path for folder in sweep for path in folder.glob(f"{TEMPORARY}*")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256, hex, of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


MOST = 256 << 20
"""Bytes of a JSON file of the store: more is none that was written here."""


def read_stored(path: Path, most: int = MOST) -> Any:
    """What a JSON file of the store holds. Raises OSError, for one above `most` bytes, too, and JSONDecodeError."""
    return orjson.loads(read_regular(path, most))


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the digest of the rest of itself under `digest`, as `unseal` checks it."""
    rest = {key: kept for key, kept in value.items() if key != SEAL}
    return {**rest, SEAL: digest(rest)}


def unseal(
    value: Any, path: Path | str, mend: str = "restore it from a copy, or ask `tutelage fsck`"
) -> dict[str, Any]:
    """What was sealed, without its digest; an object from before there was one as it is (`is_sealed` tells which).

    Args:
        value: parsed JSON.
        path: the file that it was read from, for the message.
        mend: the next step, for the message.

    Raises:
        BuildError: if it is no object, or any value or key of it is other than when it was sealed.
    """
    if not isinstance(value, dict):
        raise BuildError(f"{path} is damaged (it holds no object): {mend}")
    rest = {key: kept for key, kept in value.items() if key != SEAL}
    try:
        intact = value[SEAL] == digest(rest) if SEAL in value else not _sealed_under_another_key(value)
    except (ValueError, TypeError, RecursionError):  # NaN, half a surrogate, keys or depths that nothing sealed has
        intact = False
    if not intact:
        raise BuildError(f"{path} is damaged (it is not what its digest says): {mend}")
    return rest


def is_sealed(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object says what it is to be; those from before files did are read unverified."""
    return SEAL in value


def _sealed_under_another_key(value: Mapping[str, Any]) -> bool:
    """Whether one of its values is the digest of the others: then the name `digest` itself was damaged."""
    return any(
        isinstance(said, str)
        and len(said) == len(EMPTY)
        and said == digest({k: v for k, v in value.items() if k != key})
        for key, said in value.items()
    )


def sha256_file(path: Path) -> str:
    """SHA-256, hex, of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Sums: the SHA-256 of each file of a folder of the store, beside them, checked before any of them is read.

`SHA256SUMS` is in the format of coreutils, so that `sha256sum -c SHA256SUMS` reads it, too. A folder from before there
were sums has none: it is read unverified, and `tutelage fsck --adopt` gives it some. A file that was checked once is
not hashed again by the same process while its size, time and inode stay.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from builder.errors import BuildError
from builder.store.files import TEMPORARY, new_file, sha256_file, sync_folder, write_file
from teachers.files import read_regular, regular_only

SUMS = "SHA256SUMS"
MOST = 1 << 26
"""Bytes that a file of sums may have: those of half a million files, more than a shard has images."""
LINE = re.compile(r"([0-9a-f]{64})  ([^/\x00-\x1f\x7f]+)")
Stamp = tuple[int, int, int]
_CHECKED: dict[str, Stamp] = {}
"""What this process has found intact: path -> size, time and inode."""


def write_sums(folder: Path, remark: str = "") -> None:
    """Put the sums of all files of a folder, which is not in its place yet, beside them. remark: a line of comment."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    write_file(folder / SUMS, _text({path.name: {sha256_file(path)} for path in files}, remark))


@contextmanager
def new_summed_file(path: Path) -> Iterator[IO[bytes]]:
    """An open file that becomes `path`, as `new_file` does, in a folder of sums of which it is the only file. While it
    takes the place of another one both have their sum there, so that whoever is killed, nothing is lost."""
    staged = path.with_name(f"{TEMPORARY}staged-{path.name}-{os.getpid()}")
    with new_file(staged) as file:
        yield file
    try:
        new = sha256_file(staged)
        if path.exists():
            write_file(path.with_name(SUMS), _text({path.name: {new, sha256_file(path)}}))
        else:
            write_file(path.with_name(SUMS), _text({path.name: {new}}))
        os.replace(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    write_file(path.with_name(SUMS), _text({path.name: {new}}))


def _text(sums: dict[str, set[str]], remark: str = "") -> bytes:
    lines = [f"{sha256}  {name}\n" for name, several in sorted(sums.items()) for sha256 in sorted(several)]
    return "".join([f"# {remark}\n" if remark else "", *lines]).encode()


def read_sums(folder: Path, mend: str) -> dict[str, set[str]] | None:
    """The sums that each file of a folder may have, by name; None for a folder from before there were any.

    mend: the next step, for the message. Raises BuildError if the file is damaged."""
    path = folder / SUMS
    try:
        text = read_regular(path, MOST).decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{path} cannot be read ({getattr(error, 'strerror', '') or error}): {mend}") from None
    sums: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise BuildError(f"{path} is damaged (a line of it is no sum): {mend}")
        sums.setdefault(match[2], set()).add(match[1])
    return sums


def check_sum(path: Path, mend: str) -> None:
    """Raise BuildError if a file is not what the sums beside it say. mend: the next step, for the message. Raises
    OSError if it cannot be read."""
    with open(path, "rb", opener=regular_only) as file:
        stamp = _stamp(os.fstat(file.fileno()))
        if _CHECKED.get(str(path)) != stamp and (sums := read_sums(path.parent, mend)) is not None:
            _compare(path, hashlib.file_digest(file, "sha256").hexdigest(), sums, mend)
            _CHECKED[str(path)] = stamp


def read_checked(path: Path, mend: str) -> bytes:
    """The bytes of a file that is what the sums beside it say. Raises as `check_sum`."""
    with open(path, "rb", opener=regular_only) as file:
        stamp = _stamp(os.fstat(file.fileno()))
        data = file.read()
    if _CHECKED.get(str(path)) != stamp and (sums := read_sums(path.parent, mend)) is not None:
        _compare(path, hashlib.sha256(data).hexdigest(), sums, mend)
        _CHECKED[str(path)] = stamp
    return data


def wrong_files(folder: Path, needed: Collection[str] = ()) -> list[str]:
    """What is wrong with the files of a folder, in words: all are hashed, and what is found intact is remembered.

    needed: names that must be there, whether there are sums or not. Hidden files are not looked at."""
    try:
        sums = read_sums(folder, "")
    except BuildError as error:
        return [f"{SUMS} {str(error).removeprefix(str(folder / SUMS)).strip(': ')}"]
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {SUMS}
    wrong = [f"{name} is missing" for name in sorted({*needed, *(sums or ())} - there)]
    if sums is None:
        return wrong
    for name in sorted(there):
        path = folder / name
        try:
            with open(path, "rb", opener=regular_only) as file:
                stamp = _stamp(os.fstat(file.fileno()))
                _compare(path, hashlib.file_digest(file, "sha256").hexdigest(), sums, "")
            _CHECKED[str(path)] = stamp
        except (BuildError, OSError) as error:
            said = getattr(error, "strerror", "") or str(error).removeprefix(str(path)).strip(": ")
            wrong.append(f"{name} {said}")
    return wrong


def forget_checked() -> None:
    """Hash every file again when it is next read: for those who are to look at each byte."""
    _CHECKED.clear()


def _compare(path: Path, sha256: str, sums: dict[str, set[str]], mend: str) -> None:
    if path.name not in sums:
        raise BuildError(f"{path} is damaged (the {SUMS} beside it does not name it): {mend}")
    if sha256 not in sums[path.name]:
        raise BuildError(f"{path} is damaged (its SHA-256 is not that of the {SUMS} beside it): {mend}")


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_size, status.st_mtime_ns, status.st_ino

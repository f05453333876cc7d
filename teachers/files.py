"""Opening files that others wrote. A name can lead to a pipe that nobody writes to, a device without an end, a socket:
only regular files are opened, so that nothing waits for ever, and not more is read than was agreed."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader

KINDS = {
    stat.S_IFIFO: "it is a pipe, not a file",
    stat.S_IFSOCK: "it is a socket, not a file",
    stat.S_IFCHR: "it is a device, not a file",
    stat.S_IFBLK: "it is a device, not a file",
    stat.S_IFDIR: "it is a folder, not a file",
}
"""What a path leads to, where it leads to no regular file, as the OSError's `strerror` says it."""
_WITHOUT_WAITING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe waits for its writer otherwise. Of a regular file it changes nothing.


def regular_only(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file, to read: the `opener` of `open` where `open_regular` does not fit.

    Raises OSError, with a `strerror` for people, for what is missing, may not be read or is no regular file.
    """
    status = os.stat(path)  # before it is opened, which wakes some devices
    _check(status, path)
    descriptor = os.open(path, flags & os.O_ACCMODE | _WITHOUT_WAITING)
    try:
        _check(os.fstat(descriptor), path)  # what was opened, whatever the name led to before
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """A regular file, open to be read. Raises OSError as `regular_only`."""
    return open(path, "rb", opener=regular_only)


def read_regular(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The bytes of a regular file. most: bytes that it may have, where there is a limit. Raises OSError as
    `regular_only`, and for a larger file before any of it is read."""
    with open(path, "rb", buffering=0, opener=regular_only) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"it has {size} bytes, more than {most}", os.fspath(path))
        return file.read()


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError as `regular_only` does: for those who hand the path to a library that opens it itself."""
    _check(os.stat(path), path)


def _check(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(errno.EINVAL, KINDS.get(kind, "it is no regular file"), os.fspath(path))

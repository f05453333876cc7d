"""Locks of files among processes. The kernel frees them when their holder ends, even if it is killed."""

from __future__ import annotations

from typing import IO

from builder.errors import BuildError

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]


def take_lock(file: IO[bytes], *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed.

    shared: together with others that share it, else alone. wait: until those that hold it let go. Returns whether the
    lock was taken: False if another process holds it and this one is not to wait. Raises BuildError on a system without
    such locks.
    """
    if fcntl is None:
        raise BuildError("a store needs the file locks of a POSIX system: run tutelage on Linux, macOS or WSL")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True

"""Locks of files among processes. The kernel frees them when their holder ends, even if it is killed."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from builder.errors import BuildError

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]


def take_lock(file: IO[bytes] | int, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file, or the folder of a descriptor, until it is closed.

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


def sign(file: IO[bytes]) -> None:
    """Write into a lock that was taken who holds it: the process, its command, since when. Only words of the command
    line that name nothing of this machine are said. On a full disk the lock holds without."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:2]] if sys.argv else []
    command = " ".join(word for word in words if re.fullmatch(r"[a-z][a-z.-]*", word))
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    with suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), json.dumps({"pid": os.getpid(), "command": command, "since": since}).encode())


def holder(file: IO[bytes]) -> str:
    """Who holds a lock that could not be taken, in words for behind "another process"; "" where it is not known."""
    file.seek(0)
    with suppress(ValueError, KeyError, TypeError, OSError):
        held = json.loads(file.read(1000))
        pid, since = int(held["pid"]), datetime.fromisoformat(held["since"]).astimezone()
        os.kill(pid, 0)  # does nothing but fail where there is none such: then it is of one that was killed
        when = since.strftime("%H:%M" if since.date() == datetime.now().date() else "%Y-%m-%d %H:%M")
        command = f"`{held['command']} …`, " if held["command"] else ""
        return f" (pid {pid}, {command}since {when})"
    return ""

"""What a command does to files, seen from inside of it: to count it, and to end it just before any of it."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

CHANGES = (
    *("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.utime"),
    *("os.chmod", "open", "os.fsync"),
)
"""Audit events of what changes files; `open` where it is for writing. The last is ours: Python does not audit it."""
ELSEWHERE = ("/dev/", "/proc/", "/sys/")


def watch(kill_at: int | None, sign: int, trace: str | None) -> None:
    """From now on, write a line to the file `trace` before each operation on files, and send the process the signal
    `sign` before the one numbered `kill_at`, counted from 1."""
    log = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if trace else None
    count, turn = 0, threading.Lock()

    def see(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES or (event == "open" and not writes(args)):
            return
        with turn:
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), sign)
            if log is not None:
                os.write(log, f"{event} {' '.join(str(value) for value in args[:2])}\n".encode(errors="replace"))

    real = os.fsync

    def fsync(descriptor: int) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        see("os.fsync", (os.readlink(f"/proc/self/fd/{number}"),))
        real(descriptor)

    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(see)


def writes(args: tuple[Any, ...]) -> bool:
    """Whether an `open` is for writing, by its path, mode and flags."""
    path, flags = args[0], args[2]
    if not isinstance(path, str | bytes | os.PathLike) or not isinstance(flags, int):
        return False  # a descriptor that is open already
    return flags & (os.O_WRONLY | os.O_RDWR) != 0 and not os.path.abspath(os.fsdecode(path)).startswith(ELSEWHERE)


def operations(trace: Path) -> list[str]:
    """The lines of a trace."""
    return trace.read_text().splitlines()

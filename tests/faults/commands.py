"""Commands of `tutelage` in processes that are forked from one which has imported everything heavy already.

A command costs 30 ms instead of seconds. Its time and memory are watched from outside, and it may be killed at any
moment, or by itself at the n-th operation on files.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from tests import ROOT

POLL = 0.005
"""Seconds between two looks at whether a command has ended; memory is looked at every tenth time."""
START = 600.0
"""Seconds that the imports may take."""


@dataclass(frozen=True)
class Ran:
    """A command that has ended. code: as subprocess has it, negative for a signal. peak: bytes of resident memory, its
    children's included. ended: by itself (or by a signal that it was sent), or stopped for its time or memory."""

    args: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float
    peak: int
    ended: Literal["exit", "time", "memory"]


class Server:
    """The process that commands are forked from; started when the first command is, ended with this process."""

    def __init__(self) -> None:
        self.peak = 0  # bytes, of any command so far
        self.count = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    def ask(self, request: Mapping[str, object]) -> tuple[int, Path]:
        """Start a command: its process id, and the folder of what it says."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        self.count += 1
        place = self._folder / str(self.count)
        place.mkdir()
        self._socket.sendall(json.dumps({**request, "place": str(place)}).encode() + b"\n")
        answer = self._answers.readline()
        if not answer:
            raise RuntimeError("the process that commands are forked from has ended")
        return int(answer), place

    def _start(self) -> None:
        """With one thread: a fork has no other."""
        held = tempfile.TemporaryDirectory(prefix="tutelage-faults-")
        self._folder = Path(held.name)
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(START)
        self._answers = self._socket.makefile("rb")
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server", str(theirs.fileno())],
            env=os.environ | single | {"PYTHONPATH": path},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        atexit.register(self._stop, held)

    def _stop(self, held: tempfile.TemporaryDirectory[str]) -> None:
        self._answers.close()
        self._socket.close()  # at the end of its requests the server ends
        if self._process is not None:
            self._process.wait()
        held.cleanup()


SERVER = Server()


@dataclass
class Running:
    """A command on its way."""

    args: tuple[str, ...]
    pid: int
    place: Path
    since: float
    memory: int
    peak: int = 0

    def send(self, sign: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        if not self.has_ended():
            os.kill(self.pid, sign)

    def has_ended(self) -> bool:
        return (self.place / "ended").exists()

    def wait(self, seconds: float = 60.0) -> Ran:
        """Wait for its end; after so many seconds, or above its memory, it is killed with its children."""
        until, looks = time.monotonic() + seconds, 0
        ended: Literal["exit", "time", "memory"] = "exit"
        while not self.has_ended():
            if looks % 10 == 0 and ended == "exit":
                pids = _family(self.pid)
                self.peak = max(self.peak, sum(map(_resident, pids)))
                if (late := time.monotonic() > until) or self.peak > self.memory:
                    ended = "time" if late else "memory"
                    for pid in pids:
                        _kill(pid)
            looks += 1
            time.sleep(POLL)
        code, peak = json.loads((self.place / "ended").read_text())
        self.peak = max(self.peak, peak)
        SERVER.peak = max(SERVER.peak, self.peak)
        if ended == "exit" and self.peak > self.memory:
            ended = "memory"
        out, err = (
            (self.place / name).read_bytes().decode(errors="replace") if (self.place / name).exists() else ""
            for name in ("stdout", "stderr")
        )
        return Ran(self.args, code, out, err, time.monotonic() - self.since, self.peak, ended)


class How(TypedDict, total=False):
    """How a command is run: see `start`."""

    env: Mapping[str, str | None] | None
    memory: int
    limits: Mapping[str, int] | None
    kill_at: int | None
    sign: signal.Signals
    trace: Path | None
    record: tuple[Path, Path] | None
    humble: bool
    closed: tuple[int, ...]


def start(*args: str, cwd: Path, **how: Unpack[How]) -> Running:
    """Start `tutelage ARGS` in a forked process, and come back at once.

    cwd: its working folder. env: changes to the environment, None for a variable that is not to be there. limits:
    values of resource limits by name, such as {"NOFILE": 64}. kill_at: it sends itself `sign` just before its n-th
    operation on files, counted from 1. trace: a file that gets a line for each such operation. record: a folder,
    and an empty one that gets what is done below it (tests.faults.recorder). humble: without
    root's right to read and write everything. closed: descriptors that are closed, 1 or 2.
    """
    changed = {**os.environ, **(how.get("env") or {})}
    trace, record = how.get("trace"), how.get("record")
    request = {
        "args": args,
        "cwd": str(cwd),
        "env": {name: value for name, value in changed.items() if value is not None},
        "limits": dict(how.get("limits") or {}),
        "kill_at": how.get("kill_at"),
        "sign": how.get("sign", signal.SIGKILL),
        "trace": str(trace) if trace else None,
        "record": [str(folder) for folder in record] if record else None,
        "humble": how.get("humble", False),
        "closed": how.get("closed", ()),
    }
    since = time.monotonic()
    pid, place = SERVER.ask(request)
    return Running(args, pid, place, since, how.get("memory", 4 << 30))


def run(*args: str, cwd: Path, seconds: float = 60.0, **how: Unpack[How]) -> Ran:
    """Run `tutelage ARGS` to its end, as `start` does, for so many seconds at most."""
    return start(*args, cwd=cwd, **how).wait(seconds)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:  # it has ended
        children = []
    return [pid, *(below for child in children for below in _family(child))]


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

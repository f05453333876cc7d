"""What a machine may do to a command: no room, no rights, few descriptors, a clock that jumps, signals, closed streams, a
poor environment. The command works or says one sentence, and when all is well again the same one ends as undisturbed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.commands import Ran, run
from tests.faults.disk import operations
from tests.faults.kills import after
from tests.faults.verdict import Verdict, judge
from tests.faults.workplace import JOBS, SECONDS, Job, Workplace, contents, evenly

ROW = "read-only, permissions, descriptors, sizes, clock, signals, full disk"
SMALL = 0.003
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = 130
ROOM = (0, 8, 40, 120)
"""KiB that a full disk still has."""


@dataclass(frozen=True)
class Condition:
    """What is wrong with the machine. before: does it to the workplace; limits, env, closed: see `start`."""

    name: str
    before: Callable[[Workplace], None] = lambda place: None
    limits: Mapping[str, int] = field(default_factory=dict)
    env: Mapping[str, str | None] = field(default_factory=dict)
    closed: tuple[int, ...] = ()
    humble: bool = False
    part: float | None = None  # of the command's operations on files, at which it is sent `sign`
    sign: signal.Signals = signal.SIGINT
    room: int | None = None  # KiB that the disk still has


def _mode(below: str, mode: int, folders: bool) -> Callable[[Workplace], None]:
    def change(place: Workplace) -> None:
        top = place.work / below
        found = [top, *top.rglob("*")] if top.exists() else []
        for path in reversed(found):
            if path.is_dir() == folders and not path.is_symlink():
                path.chmod(mode)

    return change


def _dated(seconds: float) -> Callable[[Workplace], None]:
    def change(place: Workplace) -> None:
        for path in place.work.rglob("*"):
            os.utime(path, (seconds, seconds), follow_symlinks=False)

    return change


def _no_folder(place: Workplace) -> None:
    (place.work / "tmp").touch()


CONDITIONS = (
    *(Condition(f"{below or 'all'} read-only", _mode(below, 0o555, True), humble=True) for below in ("", "store", "store/pools", "store/datasets")),
    *(Condition(f"{below} unreadable", _mode(below, 0, folders), humble=True) for below, folders in (("store", True), ("store/predictions", False), ("store/datasets", False), ("pool", True), ("truth", True))),
    Condition("images unreadable", _mode("pool", 0, False), humble=True),
    *(Condition(f"files up to {size}", limits={"FSIZE": size}) for size in (200, 1000, 4000, 20_000, 60_000)),
    *(Condition(f"{number} descriptors", limits={"NOFILE": number}) for number in (12, 24, 64)),
    *(Condition(f"{room} KiB of room", room=room) for room in ROOM),
    *(Condition(f"files of the year {year}", _dated((year - 1970) * 31_556_952.0)) for year in (1902, 1970, 2100, 2500)),
    *(Condition(f"{sign.name} at {part}", part=part, sign=sign) for sign in SIGNALS for part in (0.1, 0.5, 0.9)),
    *(Condition(f"without {'and'.join(map(str, closed))}", closed=closed) for closed in ((1,), (2,), (1, 2))),
    Condition("no HOME", env={"HOME": None}),
    Condition("HOME nowhere", env={"HOME": "/nonexistent/home"}),
    Condition("no locale", env={"LANG": None, "LC_ALL": "C", "PYTHONIOENCODING": None}),
    Condition("no user", env={"USER": None, "LOGNAME": None, "USERNAME": None}),
    Condition("TMPDIR nowhere", env={"TMPDIR": "/nonexistent/tmp"}),
    Condition("TMPDIR a file", _no_folder, env={"TMPDIR": "tmp"}),
    Condition("one word as terminal", env={"COLUMNS": "1", "TERM": "dumb"}),
)  # fmt: skip


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Each command that writes under each condition, then without it."""
    rooms = _can_mount(folder)
    faults = [(job, condition) for condition in CONDITIONS for job in JOBS if rooms or condition.room is None]
    with Workplace(folder) as place:
        yield from _each(place, evenly(faults, share), folder / "trace")


def _each(place: Workplace, faults: Iterable[tuple[Job, Condition]], trace: Path) -> Iterator[tuple[str, Verdict, str]]:
    counts: dict[str, int] = {}
    for job, condition in faults:
        place.undisturbed(job)
        if condition.part is not None and job.name not in counts:
            place.enter(job.state)
            run(*job.args, cwd=place.work, env=place.env, seconds=SECONDS, trace=trace)
            counts[job.name] = len(operations(trace))
        place.enter(job.state)
        before = contents(place.work)
        ran = _under(place, job, condition, counts.get(job.name, 0))
        yield f"{job.name}: {condition.name}", *_outcome(place, job, condition, ran, before)


def _under(place: Workplace, job: Job, condition: Condition, count: int) -> Ran:
    """The command under a condition, which is taken away again."""
    condition.before(place)
    more: dict[str, Any] = {
        "limits": condition.limits,
        "env": {**place.env, **condition.env},
        "closed": condition.closed,
    }
    if condition.part is not None:
        more |= {"kill_at": 1 + int(count * condition.part), "sign": condition.sign}
    kept = place.work.with_name("kept")
    try:
        if condition.room is not None:
            _fill(place.work, kept, condition.room)
        return run(*job.args, cwd=place.work, seconds=SECONDS, humble=condition.humble, **more)
    finally:
        if condition.room is not None:
            _give_room(place.work, kept)
        if condition.humble:
            for path in (place.work, *place.work.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() else 0o644)


def _outcome(
    place: Workplace, job: Job, condition: Condition, ran: Ran, before: Mapping[str, bytes]
) -> tuple[Verdict, str]:
    verdict = judge(ran)
    quiet = 2 in condition.closed and ran.code and verdict is Verdict.SILENT  # nobody could hear it
    if not (verdict.good or quiet):
        return verdict, ran.stderr or f"exit {ran.code}, {ran.stdout}"
    if re.search(r"images cannot be read|unreadable +[1-9]", ran.stdout + ran.stderr):
        return verdict, ""  # rows of the pool now, which stay so until they are asked for again
    if condition.part is not None and ran.code not in (0, STOPPED):
        return Verdict.WORDY, f"exit {ran.code} after {condition.sign.name}: {ran.stderr}"
    if not ran.code and not condition.name.startswith("files of the year"):
        wrong = place.other_than(job)
        wrong = [name for name in wrong if name != "tmp"]
        if wrong:
            return Verdict.SILENT, f"exit 0, and other than undisturbed: {', '.join(wrong)}"
    (place.work / "tmp").unlink(missing_ok=True)
    if condition.name.startswith("files of the year"):
        _restore_times(place, job)
    end, detail = after(place, job)
    return (end, detail) if not end.good else (verdict if verdict.good else Verdict.REFUSED, "")


def _restore_times(place: Workplace, job: Job) -> None:
    """Files that were there before have their time again, which a pool holds."""
    kept = place.kept(job.state)
    for path in kept.rglob("*"):
        if os.path.lexists(now := place.work / path.relative_to(kept)):
            os.utime(now, ns=(path.lstat().st_atime_ns, path.lstat().st_mtime_ns), follow_symlinks=False)


def _can_mount(folder: Path) -> bool:
    """Whether small disks can be made here."""
    place = folder / "mount"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], capture_output=True, check=False)
    if done.returncode == 0:
        subprocess.run(["umount", str(place)], check=True)
    return done.returncode == 0


def _fill(work: Path, kept: Path, room: int) -> None:
    """Put the workplace on a small disk with so many KiB left."""
    work.rename(kept)
    work.mkdir()
    pages = sum(-(-path.stat().st_size // 4096) for path in kept.rglob("*") if path.is_file())
    size = f"size={4 * pages + room + 4}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(work)], check=True)
    shutil.copytree(kept, work, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(kept)


def _give_room(work: Path, kept: Path) -> None:
    shutil.copytree(work, kept, symlinks=True)
    subprocess.run(["umount", str(work)], check=True)
    work.rmdir()
    kept.rename(work)

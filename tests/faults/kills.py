"""`kill -9` of each command that writes, then the same command: the end is that of an undisturbed one, byte for byte."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tests.faults.commands import run, start
from tests.faults.disk import operations
from tests.faults.verdict import Verdict, judge
from tests.faults.workplace import JOBS, SECONDS, Job, Workplace, evenly

ROW = "kill -9, then the same command"
SMALL = 0.01
AT_OPERATIONS, AT_TIMES = 6, 3
"""Kills of each command: just before evenly spread operations on files, and at random times."""


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Each command is killed at evenly spread operations on files and at random times."""
    rng = np.random.default_rng(11)
    moments = [(job, number, float(rng.random())) for number in range(AT_OPERATIONS + AT_TIMES) for job in JOBS]
    with Workplace(folder) as place:
        yield from _each(place, evenly(moments, share), folder / "trace")


def _each(
    place: Workplace, moments: Iterable[tuple[Job, int, float]], trace: Path
) -> Iterator[tuple[str, Verdict, str]]:
    counts: dict[str, int] = {}
    for job, number, part in moments:
        if number < AT_OPERATIONS:
            if job.name not in counts:
                counts[job.name] = _count(place, job, trace)
            at = 1 + int(counts[job.name] * (number + part) / AT_OPERATIONS)
            place.enter(job.state)
            run(*job.args, cwd=place.work, env=place.env, seconds=SECONDS, kill_at=at)
            yield f"{job.name} before operation {at}", *after(place, job)
        else:
            moment = part * place.undisturbed(job)[0].seconds
            place.enter(job.state)
            running = start(*job.args, cwd=place.work, env=place.env)
            time.sleep(moment)
            running.send(signal.SIGKILL)
            running.wait(SECONDS)
            yield f"{job.name} after {moment:.2f} s", *after(place, job)


def after(place: Workplace, job: Job) -> tuple[Verdict, str]:
    """What the same command makes of what one that was ended left: nothing half is shown as complete, and the end is
    the undisturbed one. (A report page that no manifest names yet is written again.)"""
    if job.state not in ("damaged", "plain") and (unsound := list(place.unsound())):
        return Verdict.SILENT, "; ".join(unsound)
    again = place.run(*job.args)
    verdict = judge(again)
    if again.code and not (verdict is Verdict.REFUSED and job.once):
        return verdict if not verdict.good else Verdict.LOST, f"the same command again: {again.stderr}"
    wrong = place.other_than(job)
    if job.once:  # what is half removed goes with the next command in that folder, or with `gc`
        wrong = [name for name in wrong if "/.tmp-" not in name]
    if wrong:
        return Verdict.LOST, f"other than undisturbed: {', '.join(wrong)}"
    return Verdict.SURVIVED, ""


def _count(place: Workplace, job: Job, trace: Path) -> int:
    """How many operations on files a command does."""
    place.enter(job.state)
    run(*job.args, cwd=place.work, env=place.env, seconds=SECONDS, trace=trace)
    return len(operations(trace))

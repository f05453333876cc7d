"""Power cuts at any moment of each command that writes: names that were not synced are there or not, in any order, and of
contents that were not synced any part, or zeros. Then the same command: nothing half is shown as complete, nothing from
before is lost, and the end is the undisturbed one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.faults.commands import run
from tests.faults.kills import after
from tests.faults.recorder import ALL
from tests.faults.verdict import Verdict
from tests.faults.workplace import JOBS, SECONDS, Job, Workplace, evenly

ROW = "power cuts (what was not synced is lost, cut or reordered), then the same command"
SMALL = 0.008
CUTS = 20
"""Of each command; two of them just after it has ended."""
Change = tuple[int, str, tuple[int, str] | None]
"""(folder, name, what it stands for now)."""


@dataclass
class Disk:
    """What a disk holds for sure, and what it may hold.

    names: of each folder, for sure. pending: groups of changes that came together and may be there, each as a whole.
    blobs: what of a file is there for sure; a file that is not in it was never synced.
    """

    names: dict[int, dict[str, tuple[int, str]]] = field(default_factory=dict)
    pending: list[list[Change]] = field(default_factory=list)
    blobs: dict[int, Path] = field(default_factory=dict)

    def play(self, event: dict, record: Path) -> None:
        """Take in an event of the record."""
        if changes := [(folder, name, entry and tuple(entry)) for folder, name, entry in event["changes"]]:
            self.pending.append(changes)
        if (synced := event["synced"]) is None:
            return
        if event["blob"] is not None:
            self.blobs[synced] = record / "synced" / str(event["blob"])
        kept = []
        for group in self.pending:
            if synced == ALL or any(folder == synced for folder, _, _ in group):
                _apply(self.names, group)  # a rename is in a journal whole
            else:
                kept.append(group)
        self.pending = kept


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Cuts at evenly spread moments of each command, what is lost drawn at random."""
    with Workplace(folder) as place:
        yield from _each(place, evenly([(job, number) for number in range(CUTS) for job in JOBS], share), folder)


def _each(place: Workplace, cuts: Iterable[tuple[Job, int]], folder: Path) -> Iterator[tuple[str, Verdict, str]]:
    records: dict[str, list[dict]] = {}
    for job, number in cuts:
        record = folder / f"record-{JOBS.index(job)}"
        if job.name not in records:
            place.enter(job.state)
            run(*job.args, cwd=place.work, env=place.env, seconds=SECONDS, record=(place.work, record))
            records[job.name] = [json.loads(line) for line in (record / "events.jsonl").read_text().splitlines()]
        events = records[job.name]
        moment = len(events) if number < 2 else 1 + round((len(events) - 1) * (number - 1) / (CUTS - 1))
        rng = np.random.default_rng([JOBS.index(job), number])
        place.enter(job.state)
        before = place.complete()
        _cut(place, events[:moment], record, rng)
        yield f"{job.name}: cut {number} after event {moment}/{len(events)}", *_afterwards(place, job, before)


def _afterwards(place: Workplace, job: Job, before: list[str]) -> tuple[Verdict, str]:
    if not job.once and (lost := sorted(set(before) - set(place.complete()))):
        return Verdict.LOST, f"no longer complete: {', '.join(lost)}"
    return after(place, job)


def _cut(place: Workplace, events: list[dict], record: Path, rng: np.random.Generator) -> None:
    """Put into the workplace what may be on the disk after these events."""
    disk, first = Disk(), events[0]
    _apply(disk.names, [(folder, name, tuple(entry)) for folder, name, entry in first["changes"]])
    old = {number for names in disk.names.values() for number, _ in names.values()}
    for event in events[1:]:
        disk.play(event, record)
    for group in disk.pending:
        if rng.random() < 0.5:
            _apply(disk.names, group)
    kept = place.work.with_name("before")
    place.work.rename(kept)
    place.work.mkdir()
    _write(place.work, _top(first), disk, record, old, rng)
    if (kept / "hub").exists():  # another machine, on which the light stays on
        shutil.rmtree(place.work / "hub", ignore_errors=True)
        (kept / "hub").rename(place.work / "hub")
    shutil.rmtree(kept)


def _top(first: dict) -> int:
    """The number of the folder that holds all others: it is given first."""
    return min(folder for folder, _, _ in first["changes"])


def _apply(names: dict[int, dict[str, tuple[int, str]]], changes: list[Change]) -> None:
    for folder, name, entry in changes:
        if entry is None:
            names.setdefault(folder, {}).pop(name, None)
        else:
            names.setdefault(folder, {})[name] = entry


def _write(path: Path, number: int, disk: Disk, record: Path, old: set[int], rng: np.random.Generator) -> None:
    for name, (own, kind) in disk.names.get(number, {}).items():
        if kind == "folder":
            (path / name).mkdir()
            _write(path / name, own, disk, record, old, rng)
        elif kind == "file" and own in old and own not in disk.blobs:
            shutil.copy2(record / "inodes" / str(own), path / name)  # not written to
        elif kind == "file":
            (path / name).write_bytes(_content(own, disk, record, rng))
        else:
            (path / name).symlink_to(kind.removeprefix("->"))


def _content(number: int, disk: Disk, record: Path, rng: np.random.Generator) -> bytes:
    """What a file may hold: what was synced, or a part of what was written later, or zeros in its place. What was
    appended takes nothing from what was synced before."""
    last = (record / "inodes" / str(number)).read_bytes()
    synced = disk.blobs[number].read_bytes() if number in disk.blobs else b""
    if last == synced:
        return synced
    kept = synced if last.startswith(synced) else b""
    part = last[: int(rng.integers(len(kept), len(last) + 1))]
    return (synced, part, kept + bytes(len(part) - len(kept)), last)[int(rng.integers(4))]

"""Run independent pieces of work on this machine's cores, and report progress."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Event
from typing import TypeVar

from builder.errors import BuildError

Job = TypeVar("Job")
Result = TypeVar("Result")
Item = TypeVar("Item")
Advance = Callable[[int], None]
Track = Callable[[str, int], AbstractContextManager[Advance]]
"""`with track("label", total) as advance: …; advance(n)`: how a stage reports progress; the command line draws bars."""


def silent(description: str, total: int) -> AbstractContextManager[Advance]:
    """A Track that shows nothing."""
    return nullcontext(lambda n: None)


def worker_count(workers: int | None = None) -> int:
    """How many threads are meant by `workers`: None stands for the cores that this process may use. Raises BuildError
    for less than one."""
    if workers is not None and workers < 1:
        raise BuildError(f"workers = {workers}: give at least 1, or None for one a core")
    if workers is not None:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(work: Callable[[Job, Event], Result], jobs: Sequence[Job], workers: int | None = None) -> Iterator[Result]:
    """`work(job, stop)` for each job, up to `workers` (see worker_count) at a time, results in order of jobs. The first
    error, or Ctrl-C, sets `stop`, which ends the others soon (`until`), and is raised.

    In threads, since reading, hashing, decoding and writing leave the interpreter's lock: they need none of a process's
    half second to start, and none outlives a parent that was killed.
    """
    stop = Event()
    with ThreadPoolExecutor(worker_count(workers)) as threads:
        try:
            yield from threads.map(lambda job: work(job, stop), jobs)
        finally:
            stop.set()


def until(stop: Event, items: Iterable[Item]) -> Iterator[Item]:
    """The items, as long as nothing asks to stop; then CancelledError."""
    for item in items:
        if stop.is_set():
            raise CancelledError
        yield item


def in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: int,
    weight: Callable[[Item], int] = lambda item: 0,
    most: int = 0,
) -> Iterator[Result]:
    """`work(item)` for each item in threads, results in order of items, at most `ahead` of them waiting, nor more than
    `most` in `weight`, but for a single one."""
    waiting: deque[tuple[Future[Result], int]] = deque()
    heavy = 0
    threads = ThreadPoolExecutor(workers)
    try:
        for item in items:
            weighs = weight(item)
            while waiting and (len(waiting) >= ahead or heavy + weighs > most):
                first, lighter = waiting.popleft()
                heavy -= lighter
                yield first.result()
            waiting.append((threads.submit(work, item), weighs))
            heavy += weighs
        while waiting:
            yield waiting.popleft()[0].result()
    finally:  # not to be waited for: one of these threads may be what collects an abandoned generator
        threads.shutdown(wait=False, cancel_futures=True)

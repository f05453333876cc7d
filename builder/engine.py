"""Run independent pieces of work on this machine's cores, and say how far they are."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from builder import BuildError

Job = TypeVar("Job")
Result = TypeVar("Result")
Advance = Callable[[int], None]
Track = Callable[[str, int], AbstractContextManager[Advance]]
"""`with track("label", total) as advance: …; advance(n)`: how a stage reports progress; the command line draws bars."""


def silent(description: str, total: int) -> AbstractContextManager[Advance]:
    """A Track that shows nothing."""
    return nullcontext(lambda n: None)


def default_workers() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(work: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """`work(job)` for each job, results in order of jobs, in up to `workers` processes (here, with one).

    The first error stops what has not begun and is raised. Raises BuildError if a process was killed from outside.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe beside Arrow's and DuckDB's threads
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        try:
            yield from pool.map(work, jobs)
        except BrokenProcessPool:
            raise BuildError(
                "a worker process was killed (out of memory?): lower --workers and run this again"
            ) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise

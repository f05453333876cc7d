"""Jobs on worker processes (students.study.worker): each as soon as what it needs is done, on a device of its own."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import orjson

from builder.engine import worker_count
from students.study.grid import Job, as_json

Ended = Callable[[Job, str], None]
"""Called with each job that ended and its error, a sentence, or ""."""
LOGS = "logs"
PATIENCE = 10
"""Seconds that a worker has to end once it has nothing to do."""


class _Worker:
    """A process on a device (None: the CPU) with a log, and the job it is at."""

    def __init__(self, out: Path, number: int, device: str | None) -> None:
        environment = dict(os.environ)
        if device is None:
            environment["OMP_NUM_THREADS"] = "1"  # more workers instead, and the same sums with any number of them
        else:
            environment["CUDA_VISIBLE_DEVICES"] = device
        self.job: Job | None = None
        self.log = out / LOGS / f"worker-{number}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "students.study.worker", str(out)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.orders, self.answers = self.process.stdin, self.process.stdout

    def give(self, job: Job) -> None:
        """Have it do a job, which `answer` will tell of."""
        self.job = job
        with suppress(BrokenPipeError):  # it has died: so will its answer say
            self.orders.write(orjson.dumps(as_json(job)) + b"\n")
            self.orders.flush()

    def answer(self) -> str:
        """The error of its job, which has ended; of a worker that has died it says so."""
        line = self.answers.readline()
        if line:
            return str(orjson.loads(line)["error"])
        code = self.process.wait()
        why = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"its worker {why} (see {self.log.parent.name}/{self.log.name}): run the study again to go on with it"

    def end(self) -> None:
        """Let it end, or make it; what it was at can be resumed."""
        with suppress(BrokenPipeError):
            self.orders.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.answers.close()


class _Crew:
    """Up to a number of workers, started when there is work for them, and again when one has died."""

    def __init__(self, out: Path, workers: int, devices: Sequence[str]) -> None:
        self._out, self._devices = out, devices
        self._places: list[_Worker | None] = [None] * workers
        self._selector = selectors.DefaultSelector()

    @property
    def is_busy(self) -> bool:
        return any(worker and worker.job for worker in self._places)

    def take(self, job: Job) -> bool:
        """Begin a job, if a worker is free."""
        for number, worker in enumerate(self._places):
            if worker is None:
                device = self._devices[number % len(self._devices)] if self._devices else None
                worker = self._places[number] = _Worker(self._out, number, device)
                self._selector.register(worker.answers, selectors.EVENT_READ, number)
            if worker.job is None:
                worker.give(job)
                return True
        return False

    def ended(self) -> list[tuple[Job, str]]:
        """Wait until a job ends: those that have, and their errors."""
        failed = []
        for key, _ in self._selector.select():
            worker = self._places[key.data]
            assert worker is not None  # or it would not be waited for
            job, error = worker.job, worker.answer()
            worker.job = None
            if worker.process.returncode is not None:
                self._selector.unregister(worker.answers)
                worker.end()
                self._places[key.data] = None
            if job is not None:
                failed.append((job, error))
        return failed

    def end(self) -> None:
        for worker in self._places:
            if worker:
                worker.end()
        self._selector.close()


def run_jobs(
    pending: Sequence[Job], out: Path, is_done: Callable[[str], bool], ended: Ended, workers: int | None = None
) -> None:
    """Do these jobs, each after those it needs. is_done: whether the job of a folder is complete.

    A job that fails, or whose worker dies, ends with an error, as do those that need it; the others go on. workers: by
    default one for each GPU, or each core; GPUs are given out in turn.
    """
    devices = _devices()
    crew = _Crew(out, min(workers or len(devices) or worker_count(), len(pending)), devices)
    waiting, failed = list(pending), dict[str, str]()
    try:
        while waiting or crew.is_busy:
            for job in list(waiting):
                if reason := next((failed[need] for need in job.needs if need in failed), None):
                    waiting.remove(job)
                    failed[job.folder] = reason
                    ended(job, f"what it learns from failed: {reason}")
                elif all(map(is_done, job.needs)):
                    if not crew.take(job):
                        break
                    waiting.remove(job)
            for job, error in crew.ended() if crew.is_busy else []:
                if error:
                    failed[job.folder] = error
                ended(job, error)
    finally:
        crew.end()


def _devices() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]

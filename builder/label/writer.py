"""Chunks written by other threads while the next are labelled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType

THREADS = 4
"""Chunks that are written at once: much of that is waiting for the disk."""


class Writer:
    """Writes in threads of its own, a few at a time; one more waits. Leaving its block waits for what is being written,
    whatever ended it: what is complete is kept.

    done: how many are written.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "writer")
        self._begun: deque[Future[None]] = deque()
        self._lock = Lock()
        self.done = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            while self._begun and kind is None:
                self._begun.popleft().result()
        finally:
            self._threads.shutdown()

    def put(self, write: Callable[[], None]) -> None:
        """Begin to write, once there is a thread for it. Raises what went wrong with what was put before."""
        self.check()
        if len(self._begun) == THREADS:
            self._begun.popleft().result()
        self._begun.append(self._threads.submit(self._write, write))

    def check(self) -> None:
        """Raise what went wrong with what is being written, if it is known by now."""
        for begun in [begun for begun in self._begun if begun.done()]:
            self._begun.remove(begun)
            begun.result()

    def _write(self, write: Callable[[], None]) -> None:
        write()
        with self._lock:
            self.done += 1

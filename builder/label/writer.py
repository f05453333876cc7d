"""One chunk written by another thread while the next is labelled."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class Writer:
    """Writes in a thread of its own, in order, one at a time; a second waits. Leaving its block waits for what is being
    written, whatever ended it: what is complete is kept.

    done: how many are written.
    """

    def __init__(self) -> None:
        self.done = 0
        self._thread = ThreadPoolExecutor(1, "writer")
        self._begun: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._settle() if kind is None else self._thread.shutdown()
        finally:
            self._thread.shutdown()

    def put(self, write: Callable[[], None]) -> None:
        """Begin to write, once what was put before is written. Raises what went wrong with that."""
        self._settle()
        self._begun = self._thread.submit(self._write, write)

    def check(self) -> None:
        """Raise what went wrong with what is being written, if it is known by now."""
        if self._begun and self._begun.done():
            self._settle()

    def _settle(self) -> None:
        begun, self._begun = self._begun, None
        if begun:
            begun.result()

    def _write(self, write: Callable[[], None]) -> None:
        write()
        self.done += 1

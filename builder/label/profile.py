"""Where the time of labelling goes, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any, Literal, get_args

Part = Literal["read", "decode", "pre-process", "wait", "model", "post-process", "check", "write"]
PARTS: tuple[Part, ...] = get_args(Part)
AHEAD: tuple[Part, ...] = ("read", "decode", "pre-process")
"""Done in the threads that run ahead of the model, in all of which together a second holds several."""
BEHIND: tuple[Part, ...] = ("post-process", "write")
"""Done behind the model, each in one thread."""
WALL, STALLED = 0.8, 0.1
"""The share of the time from which on the model is called the wall, and that of waiting which is told."""
Clock = Callable[[Part], AbstractContextManager[None]]
"""`with clock("model"): …`: how work says what it is."""
_NOTHING = nullcontext()


def untimed(part: Part) -> AbstractContextManager[None]:
    """A Clock that measures nothing."""
    return _NOTHING


class Profile:
    """Seconds of each part, summed over threads; images; and the seconds of the whole, which no part adds up to, since
    they overlap. workers: threads that run ahead of the model. A Profile is used for pools labelled one after the
    other."""

    def __init__(self, workers: int) -> None:
        self.workers, self.images, self.total = workers, 0, 0.0
        self.seconds: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self._lock = Lock()

    @contextmanager
    def part(self, part: Part) -> Iterator[None]:
        """A Clock."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - begin
            with self._lock:
                self.seconds[part] += took

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The block is all that is measured."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.total += time.perf_counter() - begin

    def share(self, part: Part) -> float:
        """What of the time a part took; of what several threads do, of their time."""
        return self.seconds[part] / max(1e-9, self.total * (self.workers if part in AHEAD else 1))

    def reading(self) -> str:
        """What limits the rate, in a sentence."""
        model, wait = self.share("model"), self.share("wait")
        ahead, after = (max(parts, key=self.seconds.__getitem__) for parts in (AHEAD, BEHIND))
        if not self.images:
            return "nothing was labelled"
        if model >= WALL:
            return f"the model is the wall: {model:.0%} of the time"
        if wait >= STALLED:
            return f"the model waits for images {wait:.0%} of the time, most of all for {ahead}: give more --workers"
        if self.share(after) >= WALL:
            return f"what follows the model is the wall: {after} takes {self.share(after):.0%} of the time"
        return f"the model runs {model:.0%} of the time, and nothing else stands out"

    def describe(self) -> dict[str, Any]:
        """For --json."""
        return {
            "seconds": round(self.total, 3),
            "images": self.images,
            "images_per_second": round(self.images / max(1e-9, self.total), 2),
            "workers": self.workers,
            "parts": {
                part: {"seconds": round(self.seconds[part], 3), "share": round(self.share(part), 4)} for part in PARTS
            },
            "reading": self.reading(),
        }

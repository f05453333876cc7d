"""Shared by the benchmarks: run what is compared in turns, print medians and ranges, say whether the aim is met."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

Seconds = list[float]


def machine() -> str:
    """Cores we may use, processor and load, since other work on the machine moves every figure."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(": ")[2] if names else cpu
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{cores} cores, {cpu}, load {load:.1f}, Python {platform.python_version()}"


def scratch(parent: str | None) -> AbstractContextManager[str]:
    """A folder that goes when the block ends. Its disk decides the figures: `parent` chooses it."""
    return TemporaryDirectory(prefix="tutelage-bench-", dir=parent)


def timed(work: Callable[[], object], folder: Path | None = None, writes: int = 0) -> float:
    """Seconds of one call. What earlier calls left to be written is flushed first, so that nobody pays for another.

    Work that writes files says where and how many bytes: so many are written and removed before the clock starts. The
    memory that caches them is then at hand for everyone alike; on a virtual machine the first use of memory that was
    given back to the host costs more than the writing itself.
    """
    if folder:
        block = bytes(1 << 20)
        with open(folder / "prime", "wb", buffering=0) as file:
            for _ in range(writes >> 20):
                file.write(block)
        (folder / "prime").unlink()
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(works: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Seconds]:
    """Seconds of each work in each round, in the order of rounds; every other round runs backwards, so that a machine
    that grows slower or faster favours nobody."""
    seconds: dict[str, Seconds] = {name: [] for name in works}
    for turn in range(repeats):
        for name in list(works)[:: 1 if turn % 2 == 0 else -1]:
            seconds[name].append(works[name]())
    return seconds


def show(seconds: Mapping[str, Seconds], amount: float, unit: str) -> None:
    """One line per work: median and range of its seconds, and its rate in `unit` a second."""
    width = max(map(len, seconds))
    print(f"{'':<{width}}  {'median s':>9}  {'min - max s':>15}  {unit + '/s':>9}")
    for name, values in seconds.items():
        spread = f"{min(values):.2f} - {max(values):.2f}"
        print(f"{name:<{width}}  {median(values):>9.2f}  {spread:>15}  {amount / median(values):>9.1f}")


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Seconds:
    """Ours over theirs, round by round: neighbours in time saw the same machine."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def verdict(what: str, values: Sequence[float], aim: float, *, at_most: bool) -> None:
    """The median ratio with its range, against the aim."""
    figure = median(values)
    met = figure <= aim if at_most else figure >= aim
    print(
        f"\n{what}: {figure:.2f} ({min(values):.2f} - {max(values):.2f} over {len(values)} rounds); aim "
        f"{'at most' if at_most else 'at least'} {aim:g}: {'MET' if met else 'NOT MET'}"
    )

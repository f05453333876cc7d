"""Shared by the benchmarks: run what is compared in turns, and say how the figures compare and whether the aim is met.

A row of docs/benchmarks.md is a `Row`, whose `run` yields `Comparison`s: ours beside a peer or a limit, round by round.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

Seconds = list[float]
ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data"))
"""The real images and models that some rows need."""


@dataclass(frozen=True)
class Comparison:
    """One line of the table.

    Attributes:
        work: what was done, and on how much.
        ours: our figure in each round, in `unit`.
        peer: what stands beside it, "" for nothing; `theirs`: its figures in the same rounds, or one for all of them
            (a slow peer on a sample, scaled).
        aim: for the ratio: how many times as fast as the peer we are to be, at least; or, `at_most`, the largest share
            of its figure that ours may be, without a peer the largest figure. None: no aim.
        unit: of the figures: seconds "s", or others ("MB").
        amount, of: what a round worked on, for a rate: 1060, "MB".
    """

    work: str
    ours: Sequence[float]
    peer: str = ""
    theirs: Sequence[float] = ()
    aim: float | None = None
    at_most: bool = False
    unit: str = "s"
    amount: float = 0
    of: str = ""

    @property
    def ratios(self) -> Seconds:
        """By round: how many times as fast we are or, `at_most`, our figure over the peer's, or our figure itself."""
        if not self.theirs:
            return list(self.ours)
        theirs = list(self.theirs) * (len(self.ours) if len(self.theirs) == 1 else 1)
        return ratios(self.ours, theirs) if self.at_most else ratios(theirs, self.ours)

    @property
    def met(self) -> bool | None:
        if self.aim is None:
            return None
        figure = median(self.ratios)
        return figure <= self.aim if self.at_most else figure >= self.aim


@dataclass(frozen=True)
class Run:
    """How a row is run. tiny: on next to nothing, to see that it runs. rounds: instead of the row's own. folder: where
    its files lie while it runs, by default the system's; its disk decides some figures."""

    tiny: bool = False
    rounds: int | None = None
    folder: str | None = None

    def of(self, full: int, tiny: int) -> int:
        """A size of the work."""
        return tiny if self.tiny else full

    def turns(self, works: Mapping[str, Callable[[], float]], rounds: int = 5) -> dict[str, Seconds]:
        """As `in_turns`."""
        return in_turns(works, self.rounds or (1 if self.tiny else rounds))

    def scratch(self) -> AbstractContextManager[str]:
        return scratch(self.folder)


@dataclass(frozen=True)
class Row:
    """Of the table of docs/benchmarks.md.

    Attributes:
        name: by which it is run alone.
        title: what it measures.
        aim: in words.
        run: makes its lines.
        packages: whose versions matter; those of the peers' own environment are found in peers.txt.
    """

    name: str
    title: str
    aim: str
    run: Callable[[Run], Iterator[Comparison]]
    packages: tuple[str, ...] = ()


def beside(
    work: str,
    seconds: Mapping[str, Seconds],
    aims: Mapping[str, float | None],
    *,
    at_most: bool = False,
    amount: float = 0,
    of: str = "",
) -> Iterator[Comparison]:
    """Ours, the first of `seconds`, beside each peer of `aims`."""
    ours = next(iter(seconds.values()))
    for peer, aim in aims.items():
        yield Comparison(work, ours, peer, seconds[peer], aim, at_most, amount=amount, of=of)


def hardware() -> str:
    """Cores we may use, processor, Python."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(": ")[2] if names else cpu
    return f"{len(os.sched_getaffinity(0))} cores, {cpu}, Python {platform.python_version()}"


def machine() -> str:
    """The same with the load, since other work on the machine moves every figure."""
    return f"{hardware()}, load {os.getloadavg()[0]:.1f}"


def scratch(parent: str | None) -> AbstractContextManager[str]:
    """A folder that goes when the block ends. Its disk decides the figures: `parent` chooses it."""
    return TemporaryDirectory(prefix="tutelage-bench-", dir=parent)


def timed(work: Callable[[], object], folder: Path | None = None, writes: int = 0) -> float:
    """Seconds of one call.

    Work that writes files says where and how many bytes: so many are written and removed before the clock starts, and
    what earlier calls left to be written is flushed, so that nobody pays for another. The memory that caches them is
    then at hand for everyone alike; on a virtual machine the first use of memory that was given back to the host costs
    more than the writing itself.
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

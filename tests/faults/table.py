"""The categories of faults, what became of them, and the table of it."""

from __future__ import annotations

import importlib
import json
import re
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from tests.faults.commands import SERVER
from tests.faults.verdict import Verdict

BASELINE = Path(__file__).with_name("baseline.json")
"""Category -> {"injected": faults at full size, and by verdict how many of each that is not as it should be}."""
NAMES_SHOWN = 3
DETAIL = 300
"""Characters of a detail that is kept."""
SMALL = 0.02
"""The share of a category that `make test` injects, where the category does not say its own as SMALL."""


class Category(Protocol):
    """A module of this package with the faults of a kind."""

    ROW: str

    def inject(self, folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
        """The faults, each injected below an empty folder: (name, verdict, detail). share < 1: an evenly spread part."""


@dataclass
class Row:
    """What became of the faults of a category. bad: verdict -> [(name, detail)]."""

    category: str
    row: str
    share: float
    injected: int = 0
    good: dict[str, int] = field(default_factory=dict)
    bad: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    seconds: float = 0.0
    peak: int = 0

    def worse(self, baseline: Mapping[str, Mapping[str, int]]) -> list[str]:
        """In what it is worse than the baseline: a sentence each."""
        held = baseline.get(self.category, {})
        worse = [
            f"{self.category}: {len(faults)} x {verdict} instead of {held.get(verdict, 0)} at most: "
            + "; ".join(f"{name} ({detail})" for name, detail in _smallest(faults))
            for verdict, faults in self.bad.items()
            if len(faults) > held.get(verdict, 0)
        ]
        if self.share >= 1 and self.injected < held.get("injected", 0):
            worse.append(f"{self.category}: {self.injected} faults injected instead of {held['injected']}")
        return worse


def categories() -> list[str]:
    """The names of the modules here that inject faults: those that name a ROW."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return [path.stem for path in modules if re.search(r"^ROW\b", path.read_text("utf-8"), re.MULTILINE)]


def small(name: str) -> float:
    """The share of a category that `make test` injects."""
    return getattr(importlib.import_module(f"tests.faults.{name}"), "SMALL", SMALL)


def go_through(name: str, folder: Path, share: float, tell: Callable[[str], None] = lambda line: None) -> Row:
    """Inject a share of a category's faults below an empty folder; what ended badly is told at once. An error of the
    category itself is a bad verdict."""
    category: Category = importlib.import_module(f"tests.faults.{name}")
    row, since = Row(name, category.ROW, share), time.monotonic()
    try:
        for fault, verdict, detail in category.inject(folder, share):
            row.injected += 1
            if verdict.good:
                row.good[verdict.value] = row.good.get(verdict.value, 0) + 1
            else:
                row.bad.setdefault(verdict.value, []).append((fault, " ".join(detail.split())[-DETAIL:]))
                tell(f"{name}: {verdict}: {fault}: {row.bad[verdict.value][-1][1]}")
    except Exception:
        row.bad["broken"] = [(name, traceback.format_exc())]
        tell(f"{name} is broken: {traceback.format_exc()}")
    row.seconds = time.monotonic() - since
    row.peak = max(SERVER.peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
    return row


def as_json(row: Row) -> str:
    """A row in one line of JSON."""
    return json.dumps(asdict(row))


def from_json(line: str) -> Row:
    """A row as `as_json` wrote it."""
    return Row(**json.loads(line))


def markdown(rows: Sequence[Row]) -> str:
    """The table of the issue: fault, injected, as it should be, the rest; a line of totals behind it."""
    lines = ["| fault | injected | found, refused in a sentence, or survived | the rest | time | peak |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in rows:
        good = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(row.good.items()))
        rest = "; ".join(f"**{len(faults):,} {verdict}** ({_named(faults)})" for verdict, faults in row.bad.items())
        well = sum(row.good.values())
        figures = f"{row.seconds:.0f} s | {row.peak / (1 << 30):.1f} GiB"
        lines.append(f"| {row.row} | {row.injected:,} | {well:,} ({good}) | {rest or 'none'} | {figures} |")
    injected, well = sum(row.injected for row in rows), sum(sum(row.good.values()) for row in rows)
    seconds, peak = sum(row.seconds for row in rows), max((row.peak for row in rows), default=0)
    lines.append(
        f"| **all** | {injected:,} | {well:,} | {injected - well:,} | {seconds:.0f} s | {peak / (1 << 30):.1f} GiB |"
    )
    return "\n".join(lines)


def _smallest(faults: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(faults, key=lambda fault: (len(fault[0]), fault[0]))[:NAMES_SHOWN]


def _named(faults: Sequence[tuple[str, str]]) -> str:
    more = f" and {len(faults) - NAMES_SHOWN:,} more" if len(faults) > NAMES_SHOWN else ""
    return ", ".join(f"`{name}`" for name, _ in _smallest(faults)) + more

"""docs/benchmarks.json and what is made of it, docs/benchmarks.md.

The JSON has an entry for each row that was run, by its name; a row that is run alone changes its own. The page is a
function of the JSON and of what is written here, beside the rows, and in _limits.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from _compare import ROOT, Comparison, Row
from _limits import LIMITS

JSON, PAGE = "benchmarks.json", "benchmarks.md"
PINS = ROOT / "benchmarks" / "peers.txt"
HEAD = """\
# Speed

Every figure beside that of a peer or of a limit, measured in the same run on the same bytes: medians over rounds in
which all took turns. The ratio is the median of the rounds' ratios, with their range: other work on a machine moves
the figures, and the ratio less. Where the ratio says *of it*, it is our figure over the other's, and *times as fast*
is the other's over ours. Made by `make bench` from benchmarks.json beside it; do not edit.

"""
HOW = """\
## How to run a row

`make bench` runs all (hours, on a quiet machine), `make bench ROWS="write fuse"` these, and changes only their lines.
`.venv/bin/python benchmarks --help` has the options: `--rounds`, `--folder` (whose disk counts), `--tiny` (to see that
a row runs). Peers whose pins clash with ours are installed into `.venv-peers` when they are first needed
(`benchmarks/peers.txt`), and timed inside a process of their own, so that its start does not count. Some rows need
the images of `TUTELAGE_DATA`.

| row | measures | aim |
|---|---|---|
"""


@dataclass(frozen=True)
class Result:
    """Of a row. day: when it ran, ISO; machine: in words; load: before and after; versions: of packages."""

    day: str
    machine: str
    load: tuple[float, float]
    versions: Mapping[str, str]
    lines: Sequence[Comparison]


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Of what is installed here, else of the peers' environment."""
    pins = dict(line.split("==") for line in PINS.read_text().splitlines())
    found = {}
    for name in packages:
        try:
            found[name] = pins[name] if name in pins else version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def read(folder: Path) -> dict[str, Result]:
    """The results by row; none where nothing was run."""
    path = folder / JSON
    rows = json.loads(path.read_text()) if path.exists() else {}
    return {name: _result(row) for name, row in rows.items()}


def _result(row: Mapping[str, Any]) -> Result:
    lines = [Comparison(**line) for line in row["lines"]]
    return Result(row["day"], row["machine"], tuple(row["load"]), row["versions"], lines)


def save(folder: Path, name: str, result: Result, rows: Sequence[Row]) -> None:
    """Put a row's result in place of what it had, and make the page anew."""
    results = read(folder) | {name: result}
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: _plain(results[name]) for name in sorted(results)}
    text = json.dumps(plain, indent=1, ensure_ascii=False)
    (folder / JSON).write_text(re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n")
    (folder / PAGE).write_text(page(read(folder), rows))


def _plain(result: Result) -> dict[str, Any]:
    """For JSON, with what is as usual left out and figures of four digits."""
    plain = asdict(result)
    usual = asdict(Comparison("", ()))
    for line in plain["lines"]:
        line |= {side: [float(f"{value:.4g}") for value in line[side]] for side in ("ours", "theirs")}
        for name, value in usual.items():
            if name not in ("work", "ours") and (line[name] == value or (name == "theirs" and not line[name])):
                del line[name]
    return plain


def page(results: Mapping[str, Result], rows: Sequence[Row]) -> str:
    ran = [row for row in rows if row.name in results]
    parts = [HEAD, _table(results, ran), _misses(results, ran), _circumstances(results, ran), _how(rows)]
    return "\n".join(parts)


def _table(results: Mapping[str, Result], rows: Sequence[Row]) -> str:
    lines = [
        "| row | work | Tutelage | beside | its figure | ratio (range) | aim | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = f"**{row.name}**"
        for line in results[row.name].lines:
            lines.append(f"| {name} | {' | '.join(cells(line))} |")
            name = ""
    return "\n".join(lines) + "\n"


def cells(line: Comparison) -> tuple[str, ...]:
    """Work, our figure, the peer, its figure, the ratio with its range, the aim, whether it is met."""
    word = "of it" if line.at_most else "times as fast"
    ratio, aim = "", ""
    if line.theirs:
        low, high = min(line.ratios), max(line.ratios)
        spread = f" ({number(low)} to {number(high)})" if len(line.ratios) > 1 else ""
        ratio = f"{number(median(line.ratios))} {word}{spread}"
        aim = "" if line.aim is None else f"{'≤' if line.at_most else '≥'} {line.aim:g}"
    elif line.aim is not None:
        aim = f"≤ {line.aim:g} {line.unit}"
    verdict = {None: "", True: "met", False: "**missed**"}[line.met]
    theirs = figure(line.theirs, line) if line.theirs else ""
    return line.work, figure(line.ours, line), line.peer, theirs, ratio, aim, verdict


def figure(values: Sequence[float], line: Comparison) -> str:
    middle = median(values)
    rate = f" ({number(line.amount / middle)} {line.of}/s)" if line.amount and middle else ""
    return f"{number(middle)} {line.unit}{rate}"


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}" if value >= 1 or value == 0 else f"{value:.2g}"


def _misses(results: Mapping[str, Result], rows: Sequence[Row]) -> str:
    parts = ["## Misses\n"]
    for row in rows:
        missed = [line for line in results[row.name].lines if line.met is False]
        if missed:
            what = "; ".join(
                f"{line.work}: {cells(line)[4] or cells(line)[1]}, aim {cells(line)[5]}" for line in missed
            )
            parts.append(f"**{row.name}** ({what}). {LIMITS.get(row.name, 'Not profiled yet.')}\n")
    return "\n".join(parts if len(parts) > 1 else [*parts, "None.\n"])


def _circumstances(results: Mapping[str, Result], rows: Sequence[Row]) -> str:
    lines = ["## When, where, and with what\n", "| row | day | load before, after | machine |", "|---|---|---|---|"]
    versions: dict[str, set[str]] = {}
    for row in rows:
        result = results[row.name]
        before, after = result.load
        lines.append(f"| {row.name} | {result.day} | {before:.1f}, {after:.1f} | {result.machine} |")
        for name, each in result.versions.items():
            versions.setdefault(name, set()).add(each)
    told = ", ".join(f"{name} {' and '.join(sorted(each))}" for name, each in sorted(versions.items()))
    return "\n".join([*lines, "", f"{told}.", ""])


def _how(rows: Sequence[Row]) -> str:
    return HOW + "".join(f"| `{row.name}` | {row.title} | {row.aim} |\n" for row in rows)

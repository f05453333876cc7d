"""Run rows of docs/benchmarks.md and write them there: `python benchmarks [ROW …]`.

Each row runs in a process of its own, so that none starts with another's memory; one that fails does not stop the rest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from _compare import ROOT, Run, hardware
from _page import PAGE, Result, cells, page, read, save, today, versions_of
from _rows import ROWS


def main() -> None:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", choices=[*names, []], help=f"{', '.join(names)} (default: all)"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="on next to nothing: to see that it runs; nothing is written"
    )
    parser.add_argument("--rounds", type=int, help="instead of each row's own number")
    parser.add_argument("--folder", help="where files lie meanwhile (default: the system's); its disk decides figures")
    parser.add_argument(
        "--out", type=Path, help="where benchmarks.json and .md lie (default: docs; with --tiny nowhere)"
    )
    parser.add_argument("--page", action="store_true", help="run nothing: make the page of what was run before")
    options = parser.parse_args()
    out = options.out or (None if options.tiny else ROOT / "docs")
    if options.page:
        folder = options.out or ROOT / "docs"
        (folder / PAGE).write_text(page(read(folder), ROWS))
        return
    if len(options.rows) == 1:
        run_row(options.rows[0], Run(options.tiny, options.rounds, options.folder), out)
        return
    more = [argument for argument in sys.argv[1:] if argument not in options.rows]
    command = [sys.executable, str(Path(__file__).parent)]
    failed = [name for name in options.rows or names if subprocess.run([*command, name, *more]).returncode]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def run_row(name: str, run: Run, out: Path | None) -> None:
    """Print a row's lines as they come, and put them into the page in `out`, if there is one: all that were until then,
    so that one which is stopped after hours is not lost."""
    row = next(row for row in ROWS if row.name == name)
    where, before, lines = hardware(), os.getloadavg()[0], []
    print(f"{name}: {row.title}; {where}, load {before:.1f}", flush=True)
    for line in row.run(run):
        lines.append(line)
        print("  " + " | ".join(cell for cell in cells(line) if cell), flush=True)
        if out:
            load = (before, os.getloadavg()[0])
            save(out, name, Result(today(), where, load, versions_of(row.packages), lines), ROWS)


if __name__ == "__main__":
    main()

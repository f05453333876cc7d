"""`python -m tests.faults [CATEGORY …]`: inject faults into real commands, and print what became of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import click

from tests import ROOT
from tests.faults.table import BASELINE, Row, as_json, categories, from_json, go_through, markdown


@click.command()
@click.argument("names", nargs=-1, metavar="[CATEGORY]...")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Inject an even part of them.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Categories at a time.")
@click.option("--json", "lines", is_flag=True, help="A line of JSON for each category in place of the table.")
@click.option("--alone", is_flag=True, hidden=True, help="In this process: how the others are started.")
@click.option("--accept", is_flag=True, help="Write what was found as the new baseline.")
def main(names: tuple[str, ...], share: float, workers: int, lines: bool, alone: bool, accept: bool) -> None:
    """Inject the faults of these categories (default: all), and fail if a row is worse than the baseline."""
    known = categories()
    if unknown := sorted(set(names) - set(known)):
        raise click.UsageError(f"no category is called {unknown[0]!r}: there are {', '.join(known)}")
    chosen = [name for name in known if not names or name in names]
    if alone:
        for name in chosen:
            with tempfile.TemporaryDirectory(prefix=f"tutelage-{name}-", ignore_cleanup_errors=True) as folder:
                tell = partial(click.echo, err=True)
                click.echo(as_json(go_through(name, Path(folder), share, tell)))
        return
    with ThreadPoolExecutor(workers) as threads:
        rows = list(threads.map(lambda name: _apart(name, share), chosen))
    for row in rows if lines else ():
        click.echo(as_json(row))
    if not lines:
        click.echo(markdown(rows))
    baseline = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if accept:
        found = {row.category: {"injected": row.injected, **{v: len(f) for v, f in row.bad.items()}} for row in rows}
        BASELINE.write_text(json.dumps(baseline | found, indent=2, sort_keys=True) + "\n")
        return
    worse = [sentence for row in rows for sentence in row.worse(baseline)]
    for sentence in worse:
        click.echo(f"worse than the baseline: {sentence}", err=True)
    sys.exit(1 if worse else 0)


def _apart(name: str, share: float) -> Row:
    """A category in a process of its own."""
    command = [sys.executable, "-m", "tests.faults", name, "--alone", "--share", str(share)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    try:
        row = from_json(done.stdout.splitlines()[-1])
    except (IndexError, ValueError, TypeError):
        row = Row(name, name, share)
        row.bad["broken"].append((name, f"ended with code {done.returncode}"))
    click.echo(
        f"{name}: {row.injected:,} faults, {sum(map(len, row.bad.values())):,} bad, {row.seconds:.0f} s", err=True
    )
    return row


main()

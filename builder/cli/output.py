"""What commands print: bars, tables, and results for people or machines."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click

from builder.words import visible, visible_line

if TYPE_CHECKING:
    from builder.engine import Advance
    from students.evaluate.measure import Evaluation


@contextmanager
def bar(description: str, total: int) -> Iterator[Advance]:
    """A progress bar with rate and time left on a terminal's stderr; nothing elsewhere, and nothing for no work."""
    if not sys.stderr.isatty() or not total:
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, rate="")

        def advance(n: int) -> None:
            progress.advance(task, n)
            speed = progress.tasks[task].speed
            progress.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


def say(text: str, err: bool = False) -> None:
    """Print a text, on stderr if `err`: the way of all that commands say, since names of others stand in it."""
    click.echo(visible(text), err=err)


def emit(as_json: bool, value: dict[str, Any], text: str) -> None:
    """The result on stdout: JSON for machines, or text for people."""
    say(json.dumps(value) if as_json else text)


def rows(*pairs: tuple[str, object]) -> str:
    """Aligned `name  value` lines."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs)


NARROW, ROOMY, WIDE = 100, 120, 140
"""Characters of tables that go to a file or pipe."""
PRECISION_RECALL = ("precision", "recall", "F1")
MOST_CLASSES = 20
"""Rows of a table of classes; the others are counted."""


def terminal_width() -> int:
    """Characters in a line of the terminal; as many as are needed where the output goes to a file or pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDE


def table(
    columns: Sequence[str],
    lines: Iterable[Sequence[object]],
    *,
    title: str = "",
    numbers: Collection[str] = (),
    framed: bool = True,
    width: int = NARROW,
) -> None:
    """Print a table on stdout, as wide as the terminal, or `width` characters where it goes to a file or pipe.

    numbers: columns that are aligned to the right. framed: whether it has lines around its cells.
    """
    from rich.box import HEAVY_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    frame = HEAVY_HEAD if framed else None
    grid = Table(title=escape(visible_line(title)) or None, title_justify="left", box=frame, pad_edge=framed)
    for column in columns:
        justify: Literal["right", "left"] = "right" if column in numbers else "left"
        grid.add_column(column, justify=justify, overflow="ellipsis" if framed else "fold")
    for line in lines:
        grid.add_row(*(escape(visible_line(str(value))) for value in line))
    Console(width=None if sys.stdout.isatty() else width).print(grid)


def class_table(columns: Sequence[str], lines: Sequence[Sequence[object]], *, width: int = NARROW) -> None:
    """Print a table of the first MOST_CLASSES of these classes, a line each, and how many more there are."""
    table(columns, lines[:MOST_CLASSES], width=width)
    if len(lines) > MOST_CLASSES:
        say(f"and {len(lines) - MOST_CLASSES} more classes: --json shows all")


def show_evaluation(evaluation: Evaluation) -> None:
    """What was measured on what, the summary figures, and the classes from best to worst; -1, pycocotools' "no such
    object", as a dash."""

    def figure(value: float | None) -> str:
        return f"{value:.3f}" if value is not None and value >= 0 else "-"

    stored, metrics, of_class = evaluation.stored(), evaluation.metrics, evaluation.of_class
    say("  ".join(f"{name} {figure(value)}" for name, value in metrics.items() if name != "per_class"))
    say(f"{evaluation.counted}, {len(evaluation.truth.classes)} classes")
    for name, classes in (("labels", stored["only_in_labels"]), ("teacher", stored["only_in_teacher"])):
        if classes:
            more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
            fate = "count as missed" if name == "labels" else "are not measured"
            say(f"only in the {name}: {', '.join(classes[:5])}{more}, which {fate}")
    at = f" at score >= {evaluation.score:.3g}" if evaluation.score else ""
    chosen = " (the best F1 on these labels: on others a little less)" if evaluation.chosen else ""
    named = "  ".join(f"{name} {figure(value)}" for name, value in evaluation.figures().items())
    say(f"{named}  {evaluation.whose}{at}{chosen}")
    if mixed := evaluation.confusion.worst():
        say("most mixed up: " + ", ".join(f"{is_} called {called} ({n:,})" for is_, called, n in mixed))
    by_class = stored["by_class"]
    ranked = sorted(((value, name) for name, value in metrics["per_class"].items() if value >= 0), reverse=True)
    lines = [
        (name, by_class[name]["objects"], figure(value), *(figure(by_class[name][key]) for key in PRECISION_RECALL))
        for value, name in ranked
    ]
    noun = "objects" if evaluation.noun == "boxes" else evaluation.noun
    class_table(("class", noun, of_class, *PRECISION_RECALL), lines)


@contextmanager
def step_bar(steps: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar with loss and rate over training steps; without a terminal a line every tenth of the way."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("   train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
        left = (TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, *left, console=Console(stderr=True)) as progress:
            task = progress.add_task("train", total=steps, figures="")

            def update(record: Mapping[str, Any]) -> None:
                progress.update(task, completed=record["step"], figures=_figures(record))
                if "val" in record:
                    progress.console.print(_on_val(record, steps), highlight=False, markup=False)

            yield update
        return

    def line(record: Mapping[str, Any]) -> None:
        if record["step"] % max(1, steps // 10) == 0 or record["step"] == steps:
            say(f"step {record['step']}/{steps}  {_figures(record)}", err=True)
        if "val" in record:
            say(_on_val(record, steps), err=True)

    yield line


def _on_val(record: Mapping[str, Any], steps: int) -> str:
    """The first three figures on `val`."""
    figures = "  ".join(f"{name} {value:.3f}" for name, value in list(record["val"].items())[:3])
    return f"step {record['step']}/{steps}  val: {figures}"


def _figures(record: Mapping[str, Any]) -> str:
    if "accuracy" in record:  # of a pre-training
        return f"loss {record['loss']:.3f}  accuracy {record['accuracy']:.2f}  {record['images_per_s']:.0f} images/s"
    pseudo = f" pseudo {record['pseudo']:.3f}" if record["pseudo_positives"] else ""
    return f"loss {record['human']:.3f}{pseudo}  {record['images_per_s']:.0f} images/s"

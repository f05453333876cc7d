"""`tutelage log`: the versions of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from builder.cli.options import json_option, open_store, sentences, store_option
from builder.cli.output import WIDE, emit, table, terminal_width
from builder.words import size_text

if TYPE_CHECKING:
    from builder.versions.history import Entry

COLUMNS = (
    *("version", "id", "date", "parent", "teacher", "rule", "samples", "kept", "certified", "tags", "size"),
    *("author", "message"),
)


@click.command()
@click.argument("name", required=False)
@store_option
@json_option
def log(name: str | None, store_root: str, as_json: bool) -> None:
    """List versions and where they came from.

    Prints all versions, or those of dataset NAME, with their dates, parents, teachers, rules, thresholds, certified
    precision, authors and messages. Dates, authors and messages are this store's own (history.json), and are not
    published.
    """
    with sentences():
        from builder.versions.history import log as read_log

        entries = read_log(open_store(store_root), name)
        if as_json:
            emit(True, {"versions": [asdict(entry) for entry in entries]}, "")
        elif entries:
            _print_log(entries)
        else:
            click.echo(f"no versions in {store_root} yet: run `tutelage build` first")


def _print_log(entries: Sequence[Entry]) -> None:
    if terminal_width() >= WIDE:
        lines = [_cells(entry) for entry in entries]
        table(COLUMNS, lines, numbers=("samples", "kept", "size"), framed=False, width=WIDE)
    else:
        click.echo("\n".join(_paragraph(_cells(entry)) for entry in entries))
    for entry in entries:
        if entry.note:
            click.echo(entry.note)


def _cells(entry: Entry) -> tuple[str, ...]:
    """What the columns hold."""
    return (
        f"{entry.dataset}@{entry.version}",
        entry.id[:12] or entry.state,
        entry.when[:10] or "-",
        entry.parent or "-",
        entry.teacher or "-",
        entry.rule or "-",
        "-" if entry.samples is None else str(entry.samples),
        "-" if entry.kept is None else str(entry.kept),
        entry.certificate,
        ", ".join(entry.tags) or "-",
        size_text(entry.bytes),
        entry.author or "-",
        ": ".join(part for part in ("pulled" if entry.what == "pulled" else "", entry.message) if part) or "-",
    )


def _paragraph(cells: Sequence[str]) -> str:
    """The same for a terminal that is too narrow for the table."""
    cell = {column: text for column, text in zip(COLUMNS, cells, strict=True) if text != "-"}
    written = (("rule", "{}"), ("certified", "certified: {}"), ("kept", "{} kept"), ("samples", "{} samples"))
    lines = (
        "  ".join(cell[column] for column in ("version", "id", "date", "author", "tags") if column in cell),
        cell.get("message", ""),
        ", ".join(f"{column} {cell[column]}" for column in ("teacher", "parent") if column in cell),
        ", ".join(text.format(cell[column]) for column, text in (*written, ("size", "{}")) if cell.get(column)),
    )
    return "\n    ".join(line for line in lines if line)

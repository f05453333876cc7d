"""The commands that list and compare versions: log, diff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from builder.cli.options import json_option, open_store, sentences, store_option
from builder.cli.output import WIDE, emit, rows, say, table, terminal_width
from builder.words import size_text

if TYPE_CHECKING:
    from builder.versions.changes import Changes, Diff
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
            say(f"no versions in {store_root} yet: run `tutelage build` first")


def _print_log(entries: Sequence[Entry]) -> None:
    if terminal_width() >= WIDE:
        lines = [_cells(entry) for entry in entries]
        table(COLUMNS, lines, numbers=("samples", "kept", "size"), framed=False, width=WIDE)
    else:
        say("\n".join(_paragraph(_cells(entry)) for entry in entries))
    for entry in entries:
        if entry.note:
            say(entry.note)


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


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--limit", type=click.IntRange(0), default=10, show_default=True, help="Number of images to list.")
@store_option
@json_option
def diff(a: str, b: str, limit: int, store_root: str, as_json: bool) -> None:
    """Compare two versions, by class and by image.

    Prints what version B adds, removes and changes against version A.
    """
    with sentences():
        from builder.hub.remote import open_version
        from builder.rules.class_names import compare_names
        from builder.versions.diff import diff as compare

        store = open_store(store_root)
        first, second = open_version(a, store), open_version(b, store)
        difference = compare(first, second, limit=limit)
        names = compare_names(first.manifest.classes, second.manifest.classes, occurring=())
        if told := names.sentence(f"{a}'s", f"not in {b}", "", "their objects are compared as of different classes"):
            say(f"warning: {told}", err=True)
        if as_json:
            facts = {"a": a, "b": b, "empty": difference.empty, "disjoint": difference.disjoint}
            emit(True, facts | asdict(difference), "")
        else:
            _print_diff(difference, a, b)


def _print_diff(difference: Diff, a: str, b: str) -> None:
    images = difference.images
    if difference.disjoint:
        say(f"{a} and {b} share no image, so nothing that they say can be compared", err=True)
    if difference.empty:
        say(f"{a} and {b} hold the same objects on the same {images['common']} images")
    if len(set(difference.quality)) > 1:
        say(rows(*((f"quality of {ref}", words) for ref, words in zip((a, b), difference.quality, strict=True))))
    if difference.empty:
        return
    say(
        rows(
            ("images", f"{images['added']} added, {images['removed']} removed, {images['common']} in both"),
            ("changed", f"{images['changed']} of those in both"),
        )
    )
    if difference.people:
        counts = ", ".join(f"{a} → {b} {reason}" for reason, (a, b) in difference.people.items())
        say(f"by people: {counts}")
    if difference.classes:
        lines = sorted(difference.classes.items(), key=lambda item: (*(-n for n in item[1].weight), item[0]))
        _print_changes("class", [("all", difference.total), *lines])
    if difference.most_changed:
        _print_changes("image", list(difference.most_changed.items()))
    for what, keys in (("added", difference.added_images), ("removed", difference.removed_images)):
        if keys:
            more = f" and {images[what] - len(keys)} more" if images[what] > len(keys) else ""
            say(f"images {what}: {', '.join(keys)}{more}")


def _print_changes(first: str, lines: Sequence[tuple[str, Changes]]) -> None:
    columns = ("added", "removed", "moved", "re-scored", "kept→ignored", "ignored→kept")
    fields = ("added", "removed", "moved", "rescored", "kept_to_ignored", "ignored_to_kept")
    counts = [(name, *(getattr(changes, field) for field in fields)) for name, changes in lines]
    table((first, *columns), counts, numbers=columns, framed=False, width=WIDE)

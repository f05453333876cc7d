"""What rounds of self-training led to, and the table and the page that show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from builder.report.page import bar, page, section, table
from builder.words import count


@dataclass(frozen=True)
class Round:
    """number: 1, 2, …; teacher: its spec, teacher_val: its figure on val, None for stored predictions and for classes
    of other names; version: NAME@vN, id: its own; images, kept: samples in it, and what it keeps (objects, images or
    pixels) of each class; agreement: with the version before (students.rounds.drift), None for the first; precision: on
    the truth of the build recipe, None without; run: the student's folder in OUT, weights: its SHA-256, val: its
    figure."""

    number: int
    teacher: str
    teacher_val: float | None
    version: str
    id: str
    images: int
    kept: dict[str, int]
    agreement: float | None
    precision: dict[str, Any] | None
    run: str
    weights: str
    val: float


@dataclass(frozen=True)
class Outcome:
    """What `rounds.json` says. metric: of the figures on val, digest: of its labels; best: number of the round whose
    student did best; ended: why there are no more rounds, '' as long as there may be."""

    metric: str
    digest: str
    rounds: tuple[Round, ...]
    best: int
    ended: str


COLUMNS = ("round", "teacher", "on val", "version", "kept", "agreement", "precision", "student on val")


def rounds_rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """A row of COLUMNS for each round, the best one marked with *."""
    return [
        (
            f"{entry.number}{'*' if entry.number == outcome.best else ''}",
            entry.teacher,
            _figure(entry.teacher_val),
            entry.version,
            count(sum(entry.kept.values())),
            _figure(entry.agreement),
            _figure(None if entry.precision is None else entry.precision["precision"]),
            _figure(entry.val),
        )
        for entry in outcome.rounds
    ]


def conclusion(outcome: Outcome) -> str:
    """Which round is the best, whether that is better than where they began, and why there are no more."""
    best, first = outcome.rounds[outcome.best - 1].val, outcome.rounds[0].teacher_val
    worse = ""
    if first is not None and best < first:
        worse = f", but no student did as well as the first teacher ({first:.3f})"
    ended = outcome.ended or "there is more to come"
    return f"round {outcome.best} did best by {outcome.metric} on val ({best:.3f}){worse}; {ended}"


def rounds_page(outcome: Outcome) -> bytes:
    """A page with the drift from round to round. The same outcome gives the same bytes."""
    text = conclusion(outcome)
    note = (
        "Kept: what the version of a round keeps. Agreement: with the version before. Precision: of what is kept, on "
        f"half of the recipe's truth. On val: {outcome.metric}, by which rounds are chosen, so that it flatters the "
        "best one: measure that on a test set."
    )
    columns = [(name, "" if name in ("teacher", "version") else "num") for name in COLUMNS]
    body = [
        Markup("<h1>{} rounds of self-training</h1><p>{}.</p>").format(len(outcome.rounds), text[0].upper() + text[1:]),
        section("From round to round", note, [table(columns, rounds_rows(outcome))]),
        section("Kept of each class", "The scale is that of the class's largest number.", [_classes(outcome.rounds)]),
    ]
    return page("Rounds of self-training", body)


def _classes(rounds: Sequence[Round]) -> Markup:
    names = sorted({name for entry in rounds for name in entry.kept})
    rows = []
    for name in names:
        kept = [entry.kept.get(name, 0) for entry in rounds]
        most = max(1, *kept)
        rows.append([name, *(Markup("{}{}").format(count(number), bar(number / most, "k")) for number in kept)])
    return table([("class", ""), *((f"round {entry.number}", "") for entry in rounds)], rows)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

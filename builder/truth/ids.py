"""What the entries of COCO files hold, checked a column at a time: ids (numbers as COCO has them, or text as some tools
write, and when two are the same), sizes, numbers, flags and names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import BuildError, brief

Id = int | str
LARGEST_ID = 1 << 53
"""From here on a JSON reader may have made two whole numbers one."""
LARGEST_SIDE = 1_000_000
"""Pixels of a side that a file may say an image has: libtiff, the most generous, has fewer."""


@dataclass(frozen=True)
class Column:
    """Values of a kind in a COCO file. types: of JSON's values; holds: what a value of these must be, None: any; words:
    what is expected, for the error. usual: where an entry lacks the key or has null; None: it must not."""

    types: frozenset[type]
    words: str
    holds: Callable[[Any], bool] | None = None
    usual: Any = None


NAME = Column(frozenset({str, int}), "a name", lambda value: value != "" and "\0" not in str(value))
FILE = Column(frozenset({str}), "the path of a file", lambda value: "\0" not in value and value != "")
SIDE = Column(
    frozenset({int, float}),
    f"a whole number of pixels, 1 to {LARGEST_SIDE:,}",
    lambda value: 1 <= value <= LARGEST_SIDE and value == int(value),
)
FLAG = Column(frozenset({int, float, bool}), "0 or 1", lambda value: value in (0, 1), 0)
AREA = Column(
    frozenset({int, float}),
    f"a number from 0 to {LARGEST_SIDE**2:,}",
    lambda value: not (value < 0 or value > LARGEST_SIDE**2),  # NaN: none is given
    math.nan,
)
BOX = Column(frozenset({list}), "[x, y, width, height]", lambda value: len(value) == 4)


def entries_of(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    """The entries that a COCO file lists under a key. Raises BuildError, naming the place."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        there = isinstance(content, dict) and key in content
        what = f"has {key}: {brief(repr(entries))}" if there else f"lacks the key {key!r}"
        raise BuildError(f"{path} {what}, where a COCO file has a list: give another file, or correct it")
    wrong = next((n for n, entry in enumerate(entries) if type(entry) is not dict), None)
    if wrong is not None:
        raise BuildError(f"{path}: {key}[{wrong}] is {brief(repr(entries[wrong]))}, not an entry of keys: correct it")
    return entries


def column(entries: Sequence[dict[str, Any]], key: str, kind: Column, path: Path, where: str) -> list[Any]:
    """The value of a key in each entry; where: what the file calls their list. Raises BuildError for one that is
    missing or not of the kind, naming the place and the value."""
    values = [entry.get(key) for entry in entries]
    if kind.usual is not None:
        values = [kind.usual if value is None else value for value in values]
    # First the types, then the values that are there: half a million cost hundredths of a second
    if set(map(type, values)) <= kind.types and (kind.holds is None or all(map(kind.holds, values))):
        return values
    for number, (entry, value) in enumerate(zip(entries, values, strict=True)):
        if key not in entry and kind.usual is None:
            raise BuildError(f"{path}: {where}[{number}] lacks the key {key!r}: add it, or give another file")
        if type(value) not in kind.types or not (kind.holds is None or kind.holds(value)):
            raise BuildError(f"{path}: {where}[{number}].{key} is {brief(repr(value))}, not {kind.words}: correct it")
    raise AssertionError("a value is wrong that none is")


def id_column(entries: Sequence[dict[str, Any]], key: str, path: Path, where: str) -> list[Id]:
    """The id under a key in each entry. Raises BuildError as `column`."""
    try:
        return [read_id(entry[key]) for entry in entries]
    except (KeyError, ValueError):
        pass
    for number, entry in enumerate(entries):
        if key not in entry:
            raise BuildError(f"{path}: {where}[{number}] lacks the key {key!r}: add it, or give another file")
        try:
            read_id(entry[key])
        except ValueError as error:
            raise BuildError(f"{path}: {where}[{number}].{key}: {error}: correct it") from None
    raise AssertionError("an id is wrong that none is")


def read_id(value: Any) -> Id:
    """An id of a COCO JSON, `7`, `7.0` or `"7"` (the same), or any other text (`"frame_0007"`, `"007"`).

    Raises ValueError for what is neither a whole number below LARGEST_ID nor text.
    """
    if type(value) in (int, float) and value == value // 1 and abs(value) < LARGEST_ID:
        return int(value)
    if isinstance(value, str) and value:
        number = value.isascii() and value.removeprefix("-").isdecimal() and len(value) < 20
        return int(value) if number and str(int(value)) == value else value
    raise ValueError(f"id {brief(repr(value))} is neither a whole number below 2^53 nor text")


def as_numbers(ids: Sequence[Id]) -> list[int]:
    """The ids themselves where all are numbers, else 1, 2, … in their order."""
    numbers = [id for id in ids if isinstance(id, int)]
    return numbers if len(numbers) == len(ids) else list(range(1, len(ids) + 1))

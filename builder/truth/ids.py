"""When two ids of COCO files are the same: numbers as COCO has them, or text as some tools write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Id = int | str


def read_id(value: Any) -> Id:
    """An id of a COCO JSON, `7`, `7.0` or `"7"` (the same), or any other text (`"frame_0007"`, `"007"`).

    Raises ValueError for what is neither a whole number nor text.
    """
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value:
        number = value.isascii() and value.removeprefix("-").isdecimal() and len(value) < 20
        return int(value) if number and str(int(value)) == value else value
    raise ValueError(f"id {value!r} is neither a whole number nor text")


def as_numbers(ids: Sequence[Id]) -> list[int]:
    """The ids themselves where all are numbers, else 1, 2, … in their order."""
    numbers = [id for id in ids if isinstance(id, int)]
    return numbers if len(numbers) == len(ids) else list(range(1, len(ids) + 1))

"""The text that people and their tools write, for the builder: `teachers.text`, whose errors are BuildErrors here, and
CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from builder.errors import BuildError, brief
from teachers import text
from teachers.base import TeacherError


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises BuildError for one that is missing, too large or no
    text."""
    with as_ours():
        return text.read_text(path)


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A text file, open for those who read it as a stream, with `lines`. newline: see `open`. Raises BuildError for one
    that is missing or, while it is read, no text."""
    with as_ours(), text.open_text(path, newline) as file:
        yield file


def lines(file: TextIO, path: Path | str) -> Iterator[str]:
    """The lines of an open text, with their ends. Raises BuildError for one that is too long, or holds a NUL."""
    with as_ours():
        yield from text.lines(file, path)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises BuildError for one that is missing, too large, no text or no JSON."""
    with as_ours():
        return text.read_json(path)


def read_yaml(path: Path, *, as_written: bool = False) -> Any:
    """The content of a YAML file, as `teachers.text.parse_yaml` gives it. Raises BuildError, with the line."""
    with as_ours():
        return text.read_yaml(path, as_written=as_written)


def parse_yaml(value: str, what: str) -> Any:
    """The content of a text in YAML. what: what the error names. Raises BuildError."""
    with as_ours():
        return text.parse_yaml(value, what)


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with the number of its last line. Raises BuildError for one that
    is missing, no text or no CSV, or has a cell above csv.field_size_limit() (128 KiB)."""
    with open_text(path, newline="") as file:
        reader = csv.reader(lines(file, path), strict=True)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise BuildError(f"{path} is not CSV in line {reader.line_num} ({brief(error)}): correct it") from None


@contextmanager
def as_ours() -> Iterator[None]:
    """The TeacherErrors of `teachers.text`, raised meanwhile, as BuildErrors."""
    try:
        yield
    except TeacherError as error:
        ours = BuildError(str(error))
        for note in getattr(error, "__notes__", ()):
            ours.add_note(note)
        raise ours from None

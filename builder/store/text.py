"""One way to read the text that people and their tools write: UTF-8, or what a byte order mark in front says it is."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import orjson

from builder.errors import BuildError

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Byte order marks that Notepad (UTF-8) and PowerShell's `>` (UTF-16) put in front -> the codec that takes them off."""


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises BuildError for one that is missing or no text."""
    return _decode(_read(path), path)


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A text file, open for those who read it as a stream. newline: see `open`. Raises BuildError for one that is
    missing or, while it is read, no text."""
    try:
        with open(path, "rb") as file:
            codec = codec_of(file.read(3))
        with open(path, encoding=codec, newline=newline) as text:
            yield text
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from None


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises BuildError for one that is missing, no text or no JSON."""
    data = _read(path)
    if data.startswith(tuple(MARKS)):
        data = _decode(data, path).encode()
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BuildError(f"{path} is not JSON ({error}): correct it, or give another file") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def codec_of(data: bytes) -> str:
    """The codec that the first bytes of a text ask for."""
    return next((codec for mark, codec in MARKS.items() if data.startswith(mark)), "utf-8")


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode(codec_of(data))
    except UnicodeDecodeError as error:
        raise _no_text(path, error) from None


def _unreadable(path: Path, error: OSError) -> BuildError:
    return BuildError(f"{path} cannot be read ({error.strerror}): check its path")


def _no_text(path: Path, error: UnicodeDecodeError) -> BuildError:
    return BuildError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8")

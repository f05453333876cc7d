"""Text that people and their tools write: UTF-8, or what a byte order mark in front says it is; JSON and YAML in it.

Whoever wrote it may mean harm or have erred, so that each reader has limits: what takes too much memory or time is
refused in a sentence before it does.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any, TextIO

import orjson
import yaml
from yaml.composer import Composer

from teachers.base import TeacherError
from teachers.files import read_regular, regular_only

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Byte order marks that Notepad (UTF-8) and PowerShell's `>` (UTF-16) put in front -> the codec that takes them off."""

TEXT_BYTES = 256 << 20
"""Bytes of a text that is read whole: a list of two million images has them; its lines take ten times as much."""
LINE_CHARACTERS = 16 << 20
"""Characters of a line: an outline of 800,000 points has them."""
JSON_BYTES = 2 << 30
"""Bytes of a JSON file: LVIS, the largest COCO file in use, has 1.1e9."""
JSON_MEMORY = 3 << 30
"""Bytes of memory that the content of a JSON file may take, or JSON_RATIO times the file's, if that is more."""
JSON_RATIO = 6
"""COCO files take three to five times their bytes in memory; `[[],[],…` takes twenty."""
YAML_BYTES = 4 << 20
"""Bytes of a YAML file: the 21,841 classes of ImageNet have a tenth."""
YAML_NODES = 250_000
"""Values and keys of a YAML file, each counted where it stands and wherever an alias repeats it: as many are read in
ten seconds."""
YAML_DEPTH = 100
"""Lists and mappings that lie in one another: the recipes here have 5."""
DIGITS = 40
"""Characters of a whole number in YAML: those of 2^80 are 25, and Python refuses 4,300 in a sentence of its own."""

LONGEST = 100
"""Characters of a text that an error quotes."""

Path = str | PathLike[str]


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark. Raises TeacherError for one that is missing, too large or no
    text."""
    return _decode(_read(path, TEXT_BYTES), path)


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A text file, open for those who read it as a stream, line by line with `lines`. newline: see `open`. Raises
    TeacherError for one that is missing or, while it is read, no text."""
    try:
        codec = codec_of(_first_bytes(path))
        with open(path, encoding=codec, newline=newline, opener=regular_only) as text:
            yield text
    except (OSError, ValueError) as error:  # the latter: a path with a NUL
        raise _unreadable(path, error) from None


def lines(text: TextIO, path: Path) -> Iterator[str]:
    """The lines of an open text, with their ends. Raises TeacherError for one that is too long, or holds a NUL, as
    UTF-16 without its mark, a hole of a file, and data do."""
    number = 0
    while line := text.readline(LINE_CHARACTERS + 1):
        number += 1
        if len(line) > LINE_CHARACTERS:
            raise TeacherError(f"{path}: line {number} is longer than {LINE_CHARACTERS:,} characters: break it up")
        if "\0" in line:
            raise TeacherError(f"{path}: line {number} holds a NUL, which no text does: save it as UTF-8")
        yield line


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises TeacherError for one that is missing, too large, no text or no JSON (numbers
    that no float can hold, NaN and Infinity are none, nor are 1,024 lists in one another)."""
    data = _read(path, JSON_BYTES)
    if data.startswith(tuple(MARKS)):
        if len(data) > TEXT_BYTES:
            raise TeacherError(f"{path} has {len(data):,} bytes with a byte order mark: save it as UTF-8 without one")
        data = _decode(data, path).encode()
    return parse_json(data, path)


def parse_json(data: bytes, path: Path) -> Any:
    """The content of JSON in UTF-8; path: what the error names. Raises TeacherError as `read_json`."""
    # What CPython takes for a number, a list and a mapping, at least; that of texts is about their bytes
    memory = len(data) + 32 * data.count(b",") + 64 * data.count(b"[") + 232 * data.count(b"{")
    if memory > max(JSON_MEMORY, JSON_RATIO * len(data)):
        raise TeacherError(
            f"{path} would take {memory / 2**30:.0f} GiB of memory, {memory // len(data)} times its bytes (the most is "
            f"{JSON_MEMORY >> 30} GiB, or {JSON_RATIO} times): give a part of it"
        )
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise TeacherError(f"{path} is not JSON ({error}): correct it, or give another file") from None


def read_yaml(path: Path, *, as_written: bool = False) -> Any:
    """The content of a YAML file: `parse_yaml` of its text."""
    return parse_yaml(_decode(_read(path, YAML_BYTES), path), path, as_written=as_written)


def parse_yaml(text: str, path: Path, *, as_written: bool = False) -> Any:
    """Mappings, lists, texts, numbers, true, false and null; dates are texts.

    as_written: each value and key is its text: the classes [yes, no] are no truth values. path: what the error names.

    Raises TeacherError, with the line, for what is no YAML, a key that stands twice (YAML would take the last), tags
    other than !!str, numbers above DIGITS, and what is deeper than YAML_DEPTH or, with all aliases in their places,
    larger than YAML_NODES. A note shows the line with a caret below the place.
    """
    try:
        return (_AsWritten if as_written else _Plain)(text).get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # the latter: of numbers such as 0x_
        raise _not_yaml(path, error, text) from None


class _Checked(Composer):
    """What both loaders refuse: while nodes are composed, before anything is made of them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)  # type: ignore[call-arg]
        self._depth = self._nodes = 0
        self._weights: dict[str, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._nodes  # type: ignore[attr-defined]
        is_alias = isinstance(event, yaml.AliasEvent)
        tag = None if is_alias else event.tag
        if tag not in (None, "!", "tag:yaml.org,2002:str"):
            raise _refused(f"the tag {tag.replace('tag:yaml.org,2002:', '!!')} is not read", event)
        if is_alias and event.anchor in self.anchors and event.anchor not in self._weights:
            raise _refused(f"the alias *{event.anchor} lies in what it stands for", event)
        if isinstance(event, yaml.ScalarEvent) and not _is_text(event.value):
            raise _refused("a NUL, or half a surrogate pair, which is no character", event)
        self._depth += 1
        self._nodes += self._weights.get(event.anchor, 1) if is_alias else 1
        if self._depth > YAML_DEPTH:
            raise _refused(f"it is deeper than {YAML_DEPTH} lists and mappings", event)
        if self._nodes > YAML_NODES:
            raise _refused(f"it has more than {YAML_NODES:,} values, each alias counted as what it stands for", event)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if not is_alias and event.anchor is not None:
            self._weights[event.anchor] = self._nodes - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _refused(f"the key {key.value[:100]!r} stands twice", key)
                seen.add((key.tag, key.value))
        return node


class _AsWritten(_Checked, yaml.BaseLoader):
    pass


class _Plain(_Checked, yaml.SafeLoader):
    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > DIGITS:
            raise _refused(f"a number of {len(node.value):,} digits", node)
        return int(super().construct_yaml_int(node))


_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.construct_yaml_int)
_Plain.yaml_implicit_resolvers = {  # a date stays a text: one that there never was, 2026-02-30, ends in a ValueError
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _is_text(text: str) -> bool:
    """Whether a text can be written, and be a path: YAML's escapes may say half a surrogate pair, or a NUL."""
    if "\0" in text:
        return False
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _refused(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _not_yaml(path: Path, error: Exception, text: str) -> TeacherError:
    """What is wrong, in which line; a note shows the line with a caret below the place."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return TeacherError(f"{path} is not YAML: {' '.join(str(error).split())[:LONGEST]}: correct it")
    mark, all_lines = error.problem_mark, text.splitlines()
    what = ": ".join(filter(None, (error.context, error.problem)))
    fault = TeacherError(f"{path} is not YAML in line {mark.line + 1}, column {mark.column + 1} ({what}): correct it")
    if mark.line < len(all_lines):
        first = max(0, mark.column - LONGEST // 2)
        shown = all_lines[mark.line].replace("\t", " ")[first : first + LONGEST]
        fault.add_note(f"  {shown}\n  {' ' * (mark.column - first)}^")
    return fault


def codec_of(data: bytes) -> str:
    """The codec that the first bytes of a text ask for."""
    return next((codec for mark, codec in MARKS.items() if data.startswith(mark)), "utf-8")


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb", opener=regular_only) as file:
        return file.read(3)


def _read(path: Path, most: int) -> bytes:
    try:
        return read_regular(path, most)
    except (OSError, ValueError) as error:  # the latter: a path with a NUL
        raise _unreadable(path, error) from None


def _decode(data: bytes, path: Path) -> str:
    try:
        text = data.decode(codec_of(data))
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from None
    if "\0" in text:
        raise TeacherError(f"{path} holds a NUL, which no text does: save it as UTF-8")
    return text


def _unreadable(path: Path, error: OSError | ValueError) -> TeacherError:
    if isinstance(error, UnicodeDecodeError):
        return TeacherError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8")
    if isinstance(error, OSError):
        return TeacherError(f"{path} cannot be read ({error.strerror}): check its path")
    return TeacherError(f"{fspath(path)!r} cannot be read ({error}): check its path")

"""The readers of text, JSON and YAML that others wrote: what they refuse, in a sentence, and how soon."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teachers import text
from teachers.base import TeacherError


def doubling(line: str) -> str:
    """Ten levels, each of ten times the one before."""
    letters = "abcdefghij"
    levels = [line.format(new=new, old=", ".join([f"*{old}"] * 10)) for old, new in pairwise(letters)]
    return "\n".join(["a: &a {x: 1}", *levels])


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("x: 2026-02-30", {"x": "2026-02-30"}),
        ("x: 2026-11-30", {"x": "2026-11-30"}),
        ("x: [1, 0.5, true, null, no, '1', !!str 1]", {"x": [1, 0.5, True, None, False, "1", "1"]}),
        ("a: &a {x: 1}\nb: {<<: *a, y: 2}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        ("x: 1208925819614629174706176", {"x": 2**80}),
        ("", None),
    ],
)
def test_yaml_is_read_with_its_dates_as_text(content: str, value: Any) -> None:
    assert text.parse_yaml(content, "a.yaml") == value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x: " + "9" * 5000, "in line 1, column 4 (a number of 5,000 digits)"),
        ("x: 0x_", "is not YAML"),
        ("x: " + "[" * 3000, "in line 1, column 103 (it is deeper than 100 lists and mappings)"),
        ("- " * 3000 + "a", "deeper than 100"),
        (doubling("{new}: &{new} [{old}]"), "more than 250,000 values"),
        (doubling("{new}: &{new} {{<<: [{old}]}}"), "more than 250,000 values"),
        ("a: &a [*a]", "the alias *a lies in what it stands for"),
        ("a: *b", "undefined alias"),
        ("a: 1\nb: 2\na: 3", "in line 3, column 1 (the key 'a' stands twice)"),
        ("x: !!python/object/apply:os.system [a]", "the tag !!python/object/apply:os.system is not read"),
        ("x: !!timestamp a", "the tag !!timestamp is not read"),
        ('x: "\\ud83d"', "half a surrogate pair"),
        ("[a]: b", "unhashable key"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: \x01", "is not YAML"),
    ],
)
def test_yaml_that_takes_too_much_or_says_two_things_is_a_sentence(content: str, words: str) -> None:
    begun = time.monotonic()
    with pytest.raises(TeacherError) as error:
        text.parse_yaml(content, "a.yaml")
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300
    assert time.monotonic() - begun < 20


def test_values_as_written_are_texts_and_have_the_same_limits() -> None:
    assert text.parse_yaml("a: [yes, 1.0, 2026-02-30, ~]", "a", as_written=True) == {
        "a": ["yes", "1.0", "2026-02-30", "~"]
    }
    for content in ("a: 1\na: 2", "[" * 200, doubling("{new}: &{new} [{old}]")):
        with pytest.raises(TeacherError, match="is not YAML"):
            text.parse_yaml(content, "a", as_written=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 2000, "depth limit"),
        (b"9" * 5000, "is not JSON"),
        (b"[NaN]", "is not JSON"),
        (b"[Infinity]", "is not JSON"),
        (b'"\\ud800"', "is not JSON"),
        (b"[" + b"[]," * (50 << 20) + b"[]]", "would take 5 GiB of memory, 33 times its bytes"),
    ],
)
def test_json_that_takes_too_much_or_is_none_is_a_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(TeacherError) as error:
        text.read_json(tmp_path / "a.json")
    assert words in str(error.value) and str(tmp_path / "a.json") in str(error.value)


@pytest.mark.parametrize(("read", "most"), [(text.read_text, 256), (text.read_json, 2048), (text.read_yaml, 4)])
def test_a_file_above_the_limit_is_not_read(read: Any, most: int, tmp_path: Path) -> None:
    with open(tmp_path / "a", "wb") as file:
        file.truncate((most << 20) + 1)
    with pytest.raises(TeacherError, match=f"bytes, more than {most << 20}"):
        read(tmp_path / "a")


@pytest.mark.parametrize("read", [text.read_text, text.read_json, text.read_yaml])
def test_only_regular_files_are_read(read: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "pipe", "pipe"),
        (tmp_path / "link", "pipe"),
        (tmp_path, "folder"),
        (tmp_path / "a\0b", "null byte"),
    ):
        with pytest.raises(TeacherError, match=words):
            read(path)


def test_a_line_has_a_limit_and_no_nul(tmp_path: Path) -> None:
    for content, words in ((b"a\n" + b"b" * ((4 << 20) + 1), "line 2 is longer"), (b"a\n\0\n", "line 2 holds a NUL")):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(TeacherError, match=words), text.open_text(tmp_path / "a.txt") as file:
            list(text.lines(file, "a.txt"))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text("[]{}:,-&*!|>'\"#\n ab01.~<?%@", max_size=80).map(str.encode)))
def test_any_bytes_are_a_value_or_a_sentence(content: bytes) -> None:
    """300 inputs: any bytes, and what looks like YAML or JSON."""
    for parse in (text.parse_json, lambda data, path: text.parse_yaml(data.decode(), path)):
        with suppress(TeacherError, UnicodeDecodeError):  # the latter: `read_yaml` says it, before there is a text
            parse(content, "a")

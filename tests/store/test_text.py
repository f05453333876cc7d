"""Byte order marks, and files that are no text."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.store.text import read_json, read_text

MARKED = {
    "none": lambda text: text.encode(),
    "Notepad": lambda text: codecs.BOM_UTF8 + text.encode(),
    "PowerShell": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "big endian": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}


@pytest.mark.parametrize("tool", MARKED)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, tool: str) -> None:
    file = tmp_path / "a"
    file.write_bytes(MARKED[tool]('{"naïve": "猫"}'))
    assert read_text(file) == '{"naïve": "猫"}'
    assert read_json(file) == {"naïve": "猫"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        ("é".encode("latin-1"), "is not"),
        (codecs.BOM_UTF16_LE + b"\x00", "is not UTF-8"),
    ],
)
def test_what_is_no_json_is_one_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(data)
    with pytest.raises(BuildError, match=words) as error:
        read_json(file)
    assert str(file) in str(error.value)
    with pytest.raises(BuildError, match="cannot be read"):
        read_text(tmp_path)
    with pytest.raises(BuildError, match="cannot be read"):
        read_json(tmp_path / "absent")

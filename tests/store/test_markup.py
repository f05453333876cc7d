"""XML and ZIPs of other tools: what is refused, in a sentence, before it takes memory or time."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import BuildError
from builder.store.markup import open_packed, xml_tree

BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><a>&b;</a>'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BOMB.encode(), "has a DOCTYPE"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "has a DOCTYPE"),
        (b'<?xml version="1.0" encoding="utf-7"?><a/>', "is not XML that can be read"),
        (b'<?xml version="1.0" encoding="nothing"?><a/>', "is not XML that can be read"),
        (b'<?xml version="1.0" encoding="utf-32"?><a/>', "is not XML that can be read"),
        (b"<a>" * 101, "deeper than 100"),
        (b'<a b="' + b"x" * (5 << 20) + b'"/>', "more than 4 MiB"),
        (b"<a><!--" + b"x" * (5 << 20) + b"--></a>", "more than 4 MiB"),
        (b"<a>" + b"x" * (5 << 20) + b"</a>", "more than 4 MiB"),
        (b"<a>" + (b"<b>" + b"x" * (1 << 20) + b"</b>") * 17, "more than 16 MiB of XML"),
        (b"<a>", "is not XML that can be read"),
        (b"", "is not XML that can be read"),
        (b"\0", "is not XML that can be read"),
        (b"<a b='1' b='2'/>", "is not XML that can be read"),
    ],
)
def test_xml_that_is_none_or_too_much_is_a_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(BuildError) as error:
        xml_tree(tmp_path / "a.xml")
    assert words in str(error.value) and "\n" not in str(error.value) and str(tmp_path / "a.xml") in str(error.value)


def test_xml_in_the_encodings_of_tools_is_read(tmp_path: Path) -> None:
    for codec in ("utf-8", "utf-8-sig", "utf-16", "latin-1"):
        named = codec.removesuffix("-sig")
        (tmp_path / "a.xml").write_bytes(f'<?xml version="1.0" encoding="{named}"?><a><b>é</b></a>'.encode(codec))
        assert xml_tree(tmp_path / "a.xml").findtext("b") == "é"


def packed(*members: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


WHOLE = packed(("a/b.xml", b"<a/>"), ("../../c", b"x"))


def with_directory(size: int) -> bytes:
    """A ZIP that says its list of members is so long."""
    data = bytearray(WHOLE)
    struct.pack_into("<L", data, data.rfind(b"PK\5\6") + 12, size)
    return bytes(data)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (packed(("a", b"")), "holds 0 files b.xml"),
        (packed(("a/b.xml", b""), ("b.xml", b"")), "holds 2 files b.xml"),
        (packed(("b.xml", b"x" * 100), kind=zipfile.ZIP_LZMA), "packed in a way that is not read"),
        (WHOLE.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"), "cannot be unpacked"),
        (with_directory(0xFFFF_FFF0), "has a list of members of 4,294,967,280 bytes"),
        (with_directory(3), "is a damaged ZIP"),
        (WHOLE[:40] + b"\xff" * 20 + WHOLE[60:], "is a damaged ZIP"),
        (WHOLE[:27] + b"\xff" + WHOLE[28:], "is a damaged ZIP (File name in directory"),  # a name of 65,285 bytes
    ],
)
def test_a_zip_that_is_none_or_too_much_is_a_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(BuildError) as error, open_packed(tmp_path / "a.zip", "b.xml") as file:
        file.read()
    assert words in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 250 + len(str(tmp_path))


def test_one_member_is_read_whatever_the_others_are_called(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(WHOLE)
    with open_packed(tmp_path / "a.zip", "b.xml") as file:
        assert file.read() == b"<a/>"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BuildError, match="pipe"), open_packed(tmp_path / "pipe", "b.xml"):
        pass


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_are_xml_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """200 inputs: any bytes, a ZIP and an XML with up to four bytes changed."""
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(
        data.draw(st.one_of(st.binary(max_size=60), st.sampled_from([WHOLE, b"<a b='c'>&amp;<d/></a>"])))
    )
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "any").write_bytes(content)
    with suppress(BuildError):
        with open_packed(folder / "any", "b.xml") as file:
            file.read()
        xml_tree(folder / "any")

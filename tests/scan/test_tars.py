"""The reader of pool tars on arbitrary and on mutated bytes: what tarfile lists, or one sentence, and never for long."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builder.errors import BuildError
from builder.scan.entries import Listing
from builder.scan.tars import tar_images
from tests.helpers.headers import END, NEGATIVE, header, pax, summed

INPUTS = int(os.environ.get("TUTELAGE_INPUTS", "150"))
"""Mutated tars that each run of the tests reads; as many of arbitrary bytes."""


def packed(format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, size in (("a.jpg", 700), ("sub/b.png", 0), ("long/" * 30 + "c.jpg", 512), ("a.json", 3)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(b"x" * size))
    return out.getvalue()[: 512 * 16]


WHOLE = [packed(format) for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]


def read(data: bytes) -> list[tuple[str, int, int]] | None:
    """Name, place and size of each image; None for a tar that is refused in one sentence."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        file.write(data)
        file.flush()
        try:
            found = list(tar_images(Path(file.name), "t.tar", Listing("all")))
        except BuildError as error:
            said = str(error)
        else:
            return [(entry.name, entry.offset, entry.bytes) for entry in found]
    assert len(said.splitlines()) == 1
    return None


def check(data: bytes) -> None:
    """What is read lies in the file, and is what tarfile reads of it, all of it."""
    found = read(data)
    if found is None:
        return
    assert all(offset > 0 and offset + size <= len(data) for _, offset, size in found)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        files = [(m.offset_data, m.size) for m in tar if m.isfile() and m.name.lower().endswith((".jpg", ".png"))]
    assert [(offset, size) for _, offset, size in found] == files


@settings(max_examples=INPUTS, deadline=None)
@given(st.binary(max_size=3000))
@example(b"")
@example(bytes(1024))
def test_arbitrary_bytes_are_refused_or_read_as_tarfile_reads_them(data: bytes) -> None:
    check(data)


@settings(max_examples=INPUTS, deadline=None)
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 512 * 16), st.binary(min_size=1, max_size=24)), min_size=1, max_size=4),
    st.booleans(),
)
def test_mutated_tars_are_refused_or_read_as_tarfile_reads_them(
    whole: bytes, changes: list[tuple[int, bytes]], sums: bool
) -> None:
    data = bytearray(whole)
    for place, bytes_ in changes:
        data[place : place + len(bytes_)] = bytes_
    check(summed(bytes(data)) if sums else bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        pax(b"size=-512") + header(b"a.jpg", b"00000000003") + b"abc".ljust(512, b"\0") + END,
        pax(b"size=%d" % 2**80) + header(b"a.jpg", b"00000000003") + b"abc".ljust(512, b"\0") + END,
        header(b"a.jpg", NEGATIVE) + END,
        header(b"a.jpg", NEGATIVE, b"Q") + END,  # of an unknown type: tarfile goes back to it for ever
        header(b"a.jpg", b"\x80" + b"\xff" * 11) + END,
        header(b"a.jpg", b"00000000003", b"S", bytes(123) + b"\1") + b"abc".ljust(512, b"\0") + END,  # a map that ends
        pax(b"GNU.sparse.major=1", b"GNU.sparse.minor=0") + header(b"a.jpg", b"00000000003") + END,
        pax(b"GNU.sparse.map=1,x") + header(b"a.jpg", b"00000000003") + b"abc".ljust(512, b"\0") + END,
        header(b"L", b"77777777777", b"L") + END,  # a name of 8 GB
        b"".join(header(b"L", b"00000000001", b"L") + b"n".ljust(512, b"\0") for _ in range(3000)) + END,
        header(b"a.jpg", b"00000000003") + b"abc".ljust(512, b"\0"),  # no end
        2 * (header(b"a.jpg", b"00000000003") + b"abc".ljust(512, b"\0") + END),
    ],
    ids=lambda data: str(len(data)),
)
def test_what_no_tool_packs_is_refused_in_a_sentence(data: bytes) -> None:
    assert read(data) is None


def test_members_of_no_pixels_are_counted_and_names_lead_nowhere(tmp_path: Path) -> None:
    names = {"a.jpg": b"0", "b.jpg": b"2", "c.jpg": b"1", "d.jpg": b"6", "e.jpg": b"3", "in.tar": b"0", "d": b"5"}
    data = b"".join(header(name.encode(), b"00000000000", type) for name, type in names.items())
    data += b"".join(header(name, b"00000000000") for name in (b"/etc/x.jpg", b"../../y.jpg", b"u/../../z.jpg"))
    (tmp_path / "t.tar").write_bytes(data + END)
    listing = Listing()
    found = [entry.name for entry in tar_images(tmp_path / "t.tar", "t.tar", listing)]
    assert found == ["t/a.jpg", "t/etc/x.jpg", "t/up/up/y.jpg", "t/up/z.jpg"]
    assert listing.passed_over == {"links in tars": 2, "pipes and devices": 2, ".tar": 1}

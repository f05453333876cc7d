"""Whatever stands in a shard: its samples are what tarfile and webdataset read of it, all of them, or it is refused."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

import webdataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builder.store.shards import BLOCK, END, ShardError, header, read_samples, write_shard
from tests.helpers.headers import summed

INPUTS = int(os.environ.get("TUTELAGE_INPUTS", "150"))
"""Shards of arbitrary bytes that each run of the tests reads; as many mutated ones, as many with members of any names."""
Samples = list[tuple[str, dict[str, bytes]]]


def whole() -> bytes:
    samples = [(f"{key}-0123456789ab", [("jpg", b"x" * 700), ("json", b"{}")]) for key in ("a", "sub/b", "c" * 70, "d")]
    with tempfile.TemporaryDirectory() as folder:
        write_shard(Path(folder) / "a.tar", samples)
        return (Path(folder) / "a.tar").read_bytes()


WHOLE = whole()


def member(name: str, contents: bytes = b"{}") -> bytes:
    return header(name, len(contents)) + contents + bytes(-len(contents) % BLOCK)


def read(path: Path) -> Samples | None:
    """Our reader's samples; None for a shard that is refused in one sentence."""
    try:
        return [(s.key, {e: m.read() for e, m in s.members.items()}) for s in read_samples(path)]
    except ShardError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    return None


def check(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        file.write(data)
        file.flush()
        ours = read(Path(file.name))
        if ours is None:
            return
        members = sum(len(parts) for _, parts in ours)
        # webdataset calls an archive without a member damaged
        theirs = list(webdataset.WebDataset(file.name, shardshuffle=False)) if members else []
        found = [(s["__key__"], {e: b for e, b in s.items() if not e.startswith("__")}) for s in theirs]
        assert ours == found
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        files = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    assert files == [(f"{key}.{e}", contents) for key, parts in ours for e, contents in parts.items()]


@settings(max_examples=INPUTS, deadline=None)
@given(st.binary(max_size=3000))
@example(b"")
@example(END)
def test_arbitrary_bytes_are_refused_or_read_as_others_read_them(data: bytes) -> None:
    check(data)


@settings(max_examples=INPUTS, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE)), st.binary(min_size=1, max_size=24)), min_size=1, max_size=3),
    st.sampled_from((None, *range(0, len(WHOLE), BLOCK))),
    st.booleans(),
)
@example([(0, WHOLE[:1])], None, False)
def test_mutated_shards_are_refused_or_read_as_others_read_them(
    changes: list[tuple[int, bytes]], cut: int | None, sums: bool
) -> None:
    data = bytearray(WHOLE)
    for place, bytes_ in changes:
        data[place : place + len(bytes_)] = bytes_
    check((summed(bytes(data)) if sums else bytes(data))[:cut])


NAMES = st.from_regex(r"[aB_/-]{0,6}[.][bJ9_./\0-]{0,6}", fullmatch=True) | st.text(
    st.characters(codec="ascii"), max_size=9
)


@settings(max_examples=INPUTS, deadline=None)
@given(st.lists(NAMES, max_size=4))
@example(["a.jp\0g"])  # tarfile ends the name at the NUL
@example(["a.b/c.jpg"])  # of which webdataset makes the key a.b/c
@example(["a.JPG"])  # as jpg to webdataset
@example(["a."])
@example(["__a__/b.jpg"])  # which webdataset passes over
@example(["a.jpg", "b.jpg", "a.json"])
def test_members_of_any_names_are_refused_or_read_as_others_read_them(names: list[str]) -> None:
    check(b"".join(member(name) for name in names) + END)

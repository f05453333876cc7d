"""Tars other tools read, with the same bytes every time, and damage that never passes for a shorter set."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.store.shards import BLOCK, ShardError, read_samples, write_shard

keys = st.lists(
    st.from_regex(r"[A-Za-z0-9_-]{1,40}(/[A-Za-z0-9-]{1,40})?-[0-9a-f]{8}", fullmatch=True), unique=True, max_size=6
)


@settings(max_examples=40, deadline=None)
@given(keys=keys, data=st.data())
def test_round_trip_through_our_reader_and_tarfile(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    samples = [
        (key, [("jpg", data.draw(st.binary(max_size=1100))), ("json", data.draw(st.binary(max_size=40)))])
        for key in keys
    ]
    written = write_shard(path, samples)
    assert written.samples == len(samples) and written.bytes == path.stat().st_size
    ours = [(s.key, [(e, m.read()) for e, m in s.members.items()]) for s in read_samples(path)]
    assert ours == samples
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        theirs = [(m.name, tar.extractfile(m).read()) for m in members]  # type: ignore[union-attr]
    assert theirs == [(f"{key}.{e}", c) for key, contents in samples for e, c in contents]
    assert all((m.mtime, m.uid, m.gid, m.mode, m.uname, m.type) == (0, 0, 0, 0o644, "", b"0") for m in members)
    assert write_shard(path.with_name("b.tar"), samples) == written


def some_shard(folder: Path, count: int = 5) -> Path:
    path = folder / "train-000000.tar"
    write_shard(path, ((f"a/{n}-0123456789ab", [("jpg", bytes([n]) * 700), ("json", b"{}")]) for n in range(count)))
    return path


def test_webdataset_reads_it_unchanged(tmp_path: Path) -> None:
    found = list(webdataset.WebDataset(str(some_shard(tmp_path)), shardshuffle=False))
    assert [(s["__key__"], s["jpg"], s["json"]) for s in found] == [
        (f"a/{n}-0123456789ab", bytes([n]) * 700, b"{}") for n in range(5)
    ]


def test_a_large_shard_flushes_in_pieces(tmp_path: Path) -> None:
    written = write_shard(tmp_path / "big.tar", ((f"k{n}", [("jpg", bytes([n]) * 1_500_000)]) for n in range(8)))
    with tarfile.open(tmp_path / "big.tar") as tar:
        assert [m.size for m in tar] == [1_500_000] * 8
    assert written.bytes == (tmp_path / "big.tar").stat().st_size


@pytest.mark.parametrize("key", ["a.b", "", "ä", "a b", "x" * 91, "__x__/a"])
def test_keys_that_readers_would_merge_are_refused_and_nothing_is_left(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="shard key"):
        write_shard(tmp_path / "a.tar", [("good", [("jpg", b"1")]), (key, [("jpg", b"2")])])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: raw[: 2 * (BLOCK + 1024)], "cut"),  # at a member boundary: other readers see a shorter set
        (lambda raw: raw[:-BLOCK], "end of the archive"),
        (lambda raw: raw + b"\0" * BLOCK, "end of the archive"),
        (lambda raw: raw[:900], "cut inside"),
        (lambda raw: b"X" + raw[1:], "header at byte 0"),
        (lambda raw: raw[:100] + b"0000777\0" + raw[108:], "header at byte 0"),
    ],
)
def test_damage_is_an_error(tmp_path: Path, damage: object, reason: str) -> None:
    path = some_shard(tmp_path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ShardError, match=reason):
        list(read_samples(path))

"""The index of a version's samples: what lies where, as the shards have it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from builder.errors import BuildError
from builder.store.index import contents_of, follow, join_index, rows_of_shard, write_part
from builder.store.manifest import Manifest
from builder.store.shards import SampleRow, ShardRecord, write_shard
from builder.store.version import Version

SAMPLES = [("a-1", [("jpg", b"x" * 700), ("json", b"{}")]), ("b-2", [("jpg", b""), ("json", b"[]")])]


def version_of(folder: Path, rows: tuple[SampleRow, ...]) -> Version:
    shards = [
        ShardRecord(name=f"train-{n:06d}.tar", bytes=0, sha256="", samples=2, kept=0, ignored=0) for n in range(2)
    ]
    manifest = Manifest(
        name="x", version="v1", id="", kind="detection", classes=[], features=["jpg", "json"], shards=shards,
        images={}, objects={}, per_class={}, files={"index.parquet": ""}, provenance={},
    )  # fmt: skip
    for n in range(2):
        write_part(folder / f"{n}.parquet", rows)
    join_index(folder / "index.parquet", [folder / f"{n}.parquet" for n in range(2)])
    return Version(folder, manifest)


def test_the_rows_are_those_of_the_tar(tmp_path: Path) -> None:
    written = write_shard(tmp_path / "a.tar", SAMPLES)
    assert list(written.rows) == rows_of_shard(tmp_path / "a.tar") and follow(written.rows, written.bytes)
    lines = b"".join(
        f"{key}.{extension} {len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()
        for key, members in SAMPLES
        for extension, data in members
    )
    assert contents_of(written.rows) == hashlib.sha256(lines).hexdigest()
    version = version_of(tmp_path, written.rows)
    assert [version.rows(record) for record in version.manifest.shards] == [list(written.rows)] * 2
    again = (tmp_path / "index.parquet").read_bytes()
    assert version_of(tmp_path, written.rows) and (tmp_path / "index.parquet").read_bytes() == again


def test_rows_that_do_not_follow_one_another(tmp_path: Path) -> None:
    written = write_shard(tmp_path / "a.tar", SAMPLES)
    assert not follow(written.rows[1:], written.bytes) and not follow(written.rows, written.bytes + 512)


@pytest.mark.parametrize("harm", ["bytes", "rows", "nothing"])
def test_what_is_no_index_is_refused_in_a_sentence(tmp_path: Path, harm: str) -> None:
    version = version_of(tmp_path, write_shard(tmp_path / "a.tar", SAMPLES).rows)
    path = tmp_path / "index.parquet"
    if harm == "bytes":
        path.write_bytes(path.read_bytes()[:-20])
    elif harm == "rows":
        pq.write_table(pq.read_table(path).slice(1), path, row_group_size=2)
    else:
        path.unlink()
    with pytest.raises(BuildError, match="cannot be read: run `tutelage verify --repair"):
        version.rows(version.manifest.shards[0])

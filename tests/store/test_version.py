"""A version as one value."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.store.files import sha256_file
from builder.store.manifest import Manifest, version_id, write_manifest
from builder.store.provenance import Provenance
from builder.store.shards import ShardRecord
from builder.store.version import CARD, LABELS, OVERRIDES, Version


@pytest.fixture
def version(tmp_path: Path) -> Version:
    (tmp_path / CARD).write_text("card")
    (tmp_path / LABELS).write_text("labels")
    (tar := tmp_path / "data" / "train-000000.tar").parent.mkdir()
    tar.write_text("tar")
    shard = ShardRecord(name=tar.name, bytes=3, sha256=sha256_file(tar), samples=1, kept=1, ignored=0)
    manifest = Manifest(
        name="pets", version="v2", id=version_id(["cat"], ["jpg"], [shard.sha256], []), kind="detection",
        classes=["cat"], features=["jpg"], shards=[shard], images={}, objects={}, per_class={},
        files={name: sha256_file(tmp_path / name) for name in (CARD, LABELS)}, provenance=Provenance(),
    )  # fmt: skip
    write_manifest(tmp_path, manifest)
    return Version.open(tmp_path)


def test_it_knows_its_name_and_where_its_files_lie(version: Version, tmp_path: Path) -> None:
    (shard,) = version.manifest.shards
    assert version.ref == "pets@v2" and not version.is_remote and version == Version.open(tmp_path)
    assert version.shard(shard) == tmp_path / "data" / "train-000000.tar" == version.data / shard.name
    assert (version.card, version.labels) == (tmp_path / "README.md", tmp_path / "labels.parquet")
    assert (version.report, version.chart) == (tmp_path / "report/index.html", tmp_path / "report/classes.svg")
    assert (version.overrides, version.left_out) == (tmp_path / "overrides.json", tmp_path / "left_out.csv")
    assert version.file(LABELS) == version.labels


@pytest.mark.parametrize(("content", "intact"), [("card", True), ("other", False), (None, False)])
def test_whether_a_file_is_as_the_manifest_says(version: Version, content: str | None, intact: bool) -> None:
    version.place(CARD).unlink()
    if content is not None:
        version.place(CARD).write_text(content)
    assert version.is_intact(CARD) == intact
    assert not version.has(OVERRIDES) and version.is_intact(OVERRIDES), "one that it does not have"


def test_what_it_does_not_have_is_refused(version: Version, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"pets@v2 has no overrides\.json: it has README\.md, labels\.parquet"):
        version.file(OVERRIDES)
    with pytest.raises(BuildError, match=r"has no manifest\.json"):
        Version.open(tmp_path / "nowhere")

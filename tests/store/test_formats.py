"""Versions of older formats, as the tools of their time wrote them, in today's hands.

`formats/format1.zip` is a small store of boxes made by the code of commit 468f86c, with its pool, labels and recipe:
pets@v1 with a tag and a near-duplicate left out, pets@v2, its child without an image that left the pool, and pets@v3
with two corrections.

`formats/cutN.zip` are such stores by the last code of each other FORMAT of builder.cut.samples: boxes@v1 and boxes@v2,
from 2 on with a tag and as its child with a tombstone, from 4 on with boxes@v3, which has corrections of every action
but `move`; `cutN-kinds.zip` have masks (outlines), maps (ground) and image classes (kinds). 1: 7a636a2, 2: 1572f27,
3: 78ccd57, 4: efefb54, 5: aa97200, 7: 5c260f4. Their pools lay in /data/cut, where no test looks for them; locks are
left out of the archives.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from builder.cli.main import main
from builder.cut.samples import FORMAT
from builder.kinds import kind_of
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.read import read_truth
from builder.versions.verify import problems
from students.data.loader import JointBatches

HERE = Path(__file__).parent / "formats"
SAMPLES = sorted(path.stem for path in HERE.glob("*.zip"))
NEWEST_WITHOUT_DIGESTS = ("cut5", "cut5-kinds")


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with zipfile.ZipFile(HERE / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def run(folder: Path, *arguments: object, code: int = 0) -> Any:
    given = [*map(str, arguments), "--store", str(folder / "store"), "--json"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def versions_of(folder: Path, *names: str) -> list[Version]:
    store = Store(folder / "store")
    return [store.version(f"{name}@{path.name}") for name in names or store.names() for path in store.versions(name)]


def test_there_is_a_sample_of_every_format_before_this_one() -> None:
    made = set[int]()
    for sample in SAMPLES:
        with zipfile.ZipFile(HERE / f"{sample}.zip") as archive:
            manifests = [json.loads(archive.read(n)) for n in archive.namelist() if n.endswith("/manifest.json")]
        made |= {manifest["provenance"]["inputs"]["format"] for manifest in manifests}
    assert made >= set(range(1, FORMAT))


@pytest.mark.parametrize("folder", SAMPLES, indirect=True)
def test_every_version_is_read_verified_exported_and_trained_on(folder: Path) -> None:
    versions = versions_of(folder)
    listed = run(folder, "log")["versions"]
    assert [entry["state"] for entry in listed] == ["complete"] * len(versions)
    for version in versions:
        assert problems(version) == []
        assert run(folder, "show", version.ref)["id"] == version.manifest.id
        kind = kind_of(version.manifest.kind)
        format = "masks" if kind.pixels else "classes" if kind.single else "coco"
        out = folder / "out" / version.ref
        run(folder, "export", version.ref, out, "--format", format)
        truth = read_truth(out / "annotations.json" if format == "coco" else out)
        assert sorted(truth.classes) == sorted(version.manifest.classes)
        batches = JointBatches(truth, [version], size=32, batch_size=2)
        assert batches.lengths == (len(truth.images), version.manifest.samples)
        assert len(list(batches.stream(0, version.manifest.samples))) == version.manifest.samples


@pytest.mark.parametrize("folder", SAMPLES, indirect=True)
def test_nothing_is_bad_and_what_is_unverified_can_be_adopted(folder: Path) -> None:
    faults = run(folder, "fsck")["faults"]
    sealed = versions_of(folder)[0].manifest.format > 1
    assert {fault["state"] for fault in faults} == (set() if sealed else {"unverified"})
    assert len(run(folder, "fsck", "--adopt")["adopted"]) == len(faults)
    assert run(folder, "fsck")["faults"] == []


@pytest.mark.parametrize("folder", NEWEST_WITHOUT_DIGESTS, indirect=True)
def test_a_child_is_built_of_every_kind(folder: Path) -> None:
    for name in Store(folder / "store").names():
        parent = versions_of(folder, name)[-1]
        run(folder, "build", folder / f"{name}.yaml", "--set", f"parent={parent.ref}", "--no-report")
        child = versions_of(folder, name)[-1]
        assert child.manifest.format == 2 and child.manifest.provenance.parent is not None
        assert child.manifest.provenance.parent.id == parent.manifest.id and problems(child) == []


@pytest.mark.parametrize("folder", ["cut1"], indirect=True)
def test_the_first_versions_are_no_parents_but_can_be_built_again(folder: Path) -> None:
    given = ["build", str(folder / "boxes.yaml"), "--store", str(folder / "store"), "--no-report"]
    result = CliRunner().invoke(main, [*given, "--set", "parent=boxes@v2"])
    assert result.exit_code == 1 and "was built by an older Tutelage: build it again" in result.output
    run(folder, *given[:2], "--no-report")
    again = Store(folder / "store").version("boxes@v3")
    assert again.manifest.format == 2 and again.manifest.samples == 4 and problems(again) == []


@pytest.mark.parametrize("folder", ["cut1"], indirect=True)
def test_rows_of_a_pool_of_the_first_format_are_held_against_its_id(folder: Path) -> None:
    path = next((folder / "store" / "pools").glob("[0-9a-f]*/pool.parquet"))
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.slice(1), path)
    faults = [fault for fault in run(folder, "fsck", code=1)["faults"] if fault["state"] == "bad"]
    assert [fault["what"].partition(" of ")[0] for fault in faults] == ["its rows are those"]


@pytest.mark.parametrize("folder", ["format1"], indirect=True)
def test_a_store_of_format_1_is_read_and_gone_on_from(folder: Path) -> None:
    store = Store(folder / "store")
    assert store.version("pets@first").manifest.format == 1
    assert not any(version.has("index.parquet") for version in versions_of(folder))
    run(folder, "build", folder / "recipe.yaml", "--set", "parent=pets@v3", "--no-report")
    child = store.version("pets@v4")
    assert child.manifest.format == 2 and child.manifest.provenance.parent is not None
    assert child.manifest.provenance.parent.id == store.version("pets@v3").manifest.id
    assert problems(child) == []

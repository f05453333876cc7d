"""Versions that go on from a parent: the same thresholds, old shards as they were, new ones added, removed images as
tombstones; and repair of what is damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import orjson
import pytest
from PIL import Image

from builder.store.files import sha256_file
from builder.store.manifest import read_manifest
from builder.store.shards import read_samples
from builder.truth.coco import read_coco
from students.augment.scene import FIT
from students.data.loader import JointBatches
from students.evaluate.coco import read_kept
from tests.helpers.growing import build, keys, run, version
from tests.helpers.pools import tree, write_images, write_recipe, write_results, write_world


@pytest.fixture
def grown(tmp_path: Path) -> Path:
    """v1 of 16 of 20 listed images, four chunks in two shards; the other four arrive later."""
    names = write_images(tmp_path / "later", 20)
    write_results(tmp_path, names)
    (tmp_path / "pool").mkdir()
    for name in names[:16]:
        shutil.move(tmp_path / "later" / name, tmp_path / "pool" / name)
    write_recipe(tmp_path, shards={"max_mb": 1}, pool={"source": "pool", "chunk": 16})
    build(tmp_path)
    return tmp_path


def arrive(folder: Path) -> None:
    for path in sorted((folder / "later").iterdir()):
        shutil.move(path, folder / "pool" / path.name)


def test_new_images_come_in_new_shards_and_the_old_ones_are_the_same_files(grown: Path) -> None:
    arrive(grown)
    child = build(grown, "--set", "parent=pets@v1")
    before, after = version(grown, 1), version(grown, 2)
    assert child.provenance.parent.version == "pets@v1"
    assert os.path.samefile(before / "data" / "train-000000.tar", after / "data" / "train-000000.tar")
    assert [shard.chunks for shard in child.shards] == [(0, 1), (1, 2)]
    assert child.samples == 20 and child.tombstones == []
    assert run("verify", "pets@v2", store=grown / "store").exit_code == 0
    assert build(grown, "--set", "parent=pets@v1").id == child.id  # nothing to do


def test_only_new_images_meet_the_teacher(grown: Path) -> None:
    arrive(grown)
    result = run("build", grown / "recipe.yaml", "--set", "parent=pets@v1", "--json", store=grown / "store")
    assert json.loads(result.stdout)["images_labelled"] == 4


def test_removed_images_become_tombstones_that_every_reader_skips(grown: Path) -> None:
    names = sorted(os.listdir(grown / "pool"))
    for name in names[:3]:
        (grown / "pool" / name).unlink()
    arrive(grown)
    child = build(grown, "--set", "parent=pets@v1")
    path = version(grown, 2)
    assert os.path.samefile(version(grown, 1) / "data" / "train-000000.tar", path / "data" / "train-000000.tar")
    assert len(child.tombstones) == child.images["tombstone"] == sum(s.tombstones for s in child.shards) == 3 and set(
        child.tombstones
    ) <= keys(path)
    assert run("verify", "pets@v2", store=grown / "store").exit_code == 0
    out = grown / "out"
    assert run("export", "pets@v2", out, "--format", "coco", store=grown / "store").exit_code == 0
    (labels,) = out.rglob("*.json")
    exported = json.loads(labels.read_text())
    assert len(exported["images"]) == 17
    assert not set(child.tombstones) & {image["key"] for image in exported["images"]}
    for name in names[:3]:  # files of the same bytes elsewhere, to ask what the version keeps on them
        shutil.copy(version_image(grown, name), grown / "pool" / name)
    truth = read_coco(grown / "listing.json", grown / "pool")
    kept = dict(zip((image.name for image in truth.images), read_kept(path, truth), strict=True))
    assert all(len(kept[name]) == 0 for name in names[:3])
    told = json.loads(run("diff", "pets@v1", "pets@v2", "--json", store=grown / "store").stdout)
    assert told["images"]["removed"] == 3 and told["images"]["added"] == 4, told


def version_image(folder: Path, name: str) -> Path:
    """An image's bytes, from the first version's shards."""
    for tar in (version(folder, 1) / "data").iterdir():
        for sample in read_samples(tar):
            raw = {ext: tar.read_bytes()[m.offset : m.offset + m.size] for ext, m in sample.members.items()}
            if orjson.loads(raw["json"])["name"] == name:
                target = folder / "saved" / name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(raw["jpg"])
                return target
    raise AssertionError(name)


def test_an_image_that_changed_under_its_name_is_in_the_version_once(grown: Path) -> None:
    first = sorted(os.listdir(grown / "pool"))[0]
    Image.new("RGB", (64, 48), "red").save(grown / "pool" / first)
    child = build(grown, "--set", "parent=pets@v1")
    assert child.tombstones == [] and child.samples == 16 and len(keys(version(grown, 2))) == 16
    assert run("verify", "pets@v2", store=grown / "store").exit_code == 0


def test_an_image_that_comes_back_is_no_tombstone_any_more(grown: Path) -> None:
    first = sorted(os.listdir(grown / "pool"))[0]
    shutil.move(grown / "pool" / first, grown / first)
    assert len(build(grown, "--set", "parent=pets@v1").tombstones) == 1
    shutil.move(grown / first, grown / "pool" / first)
    back = build(grown, "--set", "parent=pets@v2")
    assert back.tombstones == [] and back.id == read_manifest(version(grown, 1)).id


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--set", "keep.score=0.6"), ["keep.score differs", "resolve: true"]),
        (("--set", "teacher.floor=0.2"), ["another teacher's predictions", "resolve: true"]),
        (("--set", "parent=pets@v9"), ["pets@v9"]),
    ],
)
def test_a_parent_that_does_not_fit_gets_one_sentence(grown: Path, more: tuple[str, ...], words: list[str]) -> None:
    result = run("build", grown / "recipe.yaml", "--set", "parent=pets@v1", *more, store=grown / "store")
    assert result.exit_code == 1 and result.output.count("\n") == 1
    assert all(word in result.output for word in words), result.output
    assert not version(grown, 2).exists()


def test_solved_thresholds_are_taken_over_and_solved_again_on_demand(tmp_path: Path) -> None:
    write_world(tmp_path, pool=40, truth=150)
    first = build(tmp_path)
    for path in sorted((tmp_path / "pool").iterdir())[:5]:
        path.unlink()
    child = build(tmp_path, "--set", "parent=pets@v1")
    assert child.provenance.thresholds == first.provenance.thresholds
    assert child.provenance.truth.uses == 1
    again = build(tmp_path, "--set", "parent=pets@v1", "--set", "resolve=true")
    assert again.provenance.parent.thresholds == "solved again"
    assert [g.support for g in again.provenance.thresholds] != [g.support for g in first.provenance.thresholds]


def test_the_student_never_sees_a_tombstone(grown: Path) -> None:
    (grown / "pool" / sorted(os.listdir(grown / "pool"))[0]).unlink()
    build(grown, "--set", "parent=pets@v1")
    listing = json.loads((grown / "listing.json").read_text())
    listing["images"] = [i for i in listing["images"] if (grown / "pool" / i["file_name"]).exists()]
    (grown / "some.json").write_text(json.dumps(listing))
    truth = read_coco(grown / "some.json", grown / "pool")
    batches = JointBatches(truth, [version(grown, 2)], size=64, batch_size=2, augment=FIT)
    assert len({batches[step].images[1].numpy().tobytes() for step in range(45)}) == 15  # three epochs


def damage(kind: str, path: Path) -> None:
    match kind:
        case "a flipped bit":
            raw = bytearray((path / "data" / "train-000000.tar").read_bytes())
            raw[5000] ^= 1
            (path / "data" / "train-000000.tar").write_bytes(raw)
        case "a shard gone":
            max((path / "data").iterdir()).unlink()
        case "no labels.parquet":
            (path / "labels.parquet").unlink()
        case "an edited card":
            (path / "README.md").write_text("better than it is")


@pytest.mark.parametrize("kind", ["a flipped bit", "a shard gone", "no labels.parquet", "an edited card"])
@pytest.mark.parametrize("with_parent", [False, True])
def test_repair_builds_again_what_is_bad_and_touches_nothing_else(grown: Path, kind: str, with_parent: bool) -> None:
    (grown / "pool" / sorted(os.listdir(grown / "pool"))[5]).unlink()
    arrive(grown)
    build(grown, *(["--set", "parent=pets@v1"] if with_parent else []))
    path = version(grown, 2)
    if with_parent:  # another file system, or a copy of the store: no shared files
        for tar in (path / "data").iterdir():
            copy = tar.with_suffix(".copy")
            shutil.copy(tar, copy)
            os.replace(copy, tar)
    good = tree(path)
    times = {tar.name: tar.stat().st_mtime_ns for tar in (path / "data").iterdir()}
    damage(kind, path)
    assert run("verify", "pets@v2", store=grown / "store").exit_code == 1
    result = run("verify", "pets@v2", "--repair", store=grown / "store")
    assert result.exit_code == 0, result.output
    assert tree(path) == good
    renewed = [tar.name for tar in (path / "data").iterdir() if tar.stat().st_mtime_ns != times[tar.name]]
    assert len(renewed) == (kind in ("a flipped bit", "a shard gone"))


def test_a_repair_that_would_give_other_bytes_changes_nothing(grown: Path) -> None:
    path = version(grown, 1)
    name = sorted(os.listdir(grown / "pool"))[0]
    stamp = (grown / "pool" / name).stat()
    raw = (grown / "pool" / name).read_bytes()
    (grown / "pool" / name).write_bytes(raw[:-2] + b"\xff\xd8")
    os.utime(grown / "pool" / name, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # behind our back
    damage("a flipped bit", path)
    before = sha256_file(path / "data" / "train-000000.tar")
    result = run("verify", "pets@v1", "--repair", store=grown / "store")
    assert result.exit_code == 1 and "cannot be built again" in result.output
    assert sha256_file(path / "data" / "train-000000.tar") == before

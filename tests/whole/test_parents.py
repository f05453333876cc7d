"""Versions that go on from others for several generations: what holds for the first holds for the last."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from builder import build as stages
from builder.cut.left_out import LeftOut, settle
from builder.scan.duplicates import near_duplicates
from builder.scan.pool import Pool
from builder.scan.scanner import scan_pool
from builder.store.files import sha256_file
from builder.store.manifest import Manifest, read_manifest
from builder.store.store import Store
from tests.helpers.growing import build, keys, run, version
from tests.helpers.pools import tree, write_images, write_recipe, write_results, write_world

PARENT = ("--set", "parent=pets@v1")


def refused(folder: Path, *more: object) -> str:
    before = tree(folder / "store" / "datasets")
    result = run("build", folder / "recipe.yaml", *more, store=folder / "store")
    assert result.exit_code == 1 and result.output.count("\n") == 1, result.output
    assert tree(folder / "store" / "datasets") == before
    return result.output


def shards(folder: Path, number: int) -> dict[str, str]:
    return {tar.name: sha256_file(tar) for tar in sorted((version(folder, number) / "data").iterdir())}


def left_out(folder: Path, number: int) -> dict[str, tuple[str, str]]:
    """SHA-256 -> state and sentence."""
    path = version(folder, number) / "left_out.csv"
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    return {row["sha256"]: (row["state"], row["why"]) for row in rows}


def verified(folder: Path, number: int) -> bool:
    return run("verify", f"pets@v{number}", store=folder / "store").exit_code == 0


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """v1 of 12 images, three without boxes, in three shards of one chunk each."""
    write_results(tmp_path, write_images(tmp_path / "pool", 12), empty=3)
    write_recipe(tmp_path, pool={"source": "pool", "chunk": 4}, shards={"max_mb": 1})
    return tmp_path


def certified_world(folder: Path) -> None:
    write_world(folder, pool=8, truth=60)
    write_recipe(folder, truth={"source": "truth.json", "images": "truth"}, keep={"precision": 0.5})


def small_shards(folder: Path, **more: Any) -> None:
    """Images that fill a shard with every chunk, so that there are several."""
    for path in sorted((folder / "pool").iterdir()):
        with open(path, "ab") as file:
            file.write(random.Random(path.name).randbytes(260_000))  # behind the image's end
    write_recipe(folder, pool={"source": "pool", "chunk": 4}, shards={"max_mb": 1}, **more)
    build(folder)


# what is taken over


@pytest.mark.parametrize(
    ("key", "value"),
    [("nms", 0.5), ("max_per_image", 2), ("where", "area > 20"), ("min_size", 5), ("refused", "drop"), ("ignore", 0.2)],
)
def test_any_other_rule_than_the_parents_needs_resolve(pets: Path, key: str, value: object) -> None:
    build(pets)
    told = refused(pets, *PARENT, "--set", f"keep.{key}={value}")
    assert f"keep.{key} differs from that of parent pets@v1" in told and "resolve: true" in told
    again = build(pets, *PARENT, "--set", f"keep.{key}={value}", "--set", "resolve=true")
    assert again.provenance.parent.thresholds == "solved again"


def test_other_truth_than_the_parents_needs_resolve(tmp_path: Path) -> None:
    certified_world(tmp_path)
    build(tmp_path)
    labels = json.loads((tmp_path / "truth.json").read_text())
    labels["annotations"].pop()
    (tmp_path / "truth.json").write_text(json.dumps(labels))
    told = refused(tmp_path, *PARENT)
    assert "truth differs from that of parent pets@v1" in told and "resolve: true" in told
    build(tmp_path, *PARENT, "--set", "truth=null")  # the parent's own goes on to count
    assert "truth differs from that of parent pets@v2" in refused(tmp_path, "--set", "parent=pets@v2")


def test_leaks_of_the_truth_behind_the_thresholds_stay_out_for_good(tmp_path: Path) -> None:
    certified_world(tmp_path)
    build(tmp_path)
    leaked = sorted((tmp_path / "truth").iterdir())[:2]
    no_truth = ("--set", "truth=null")
    for number, path in enumerate(leaked, start=2):
        shutil.copy(path, tmp_path / "pool")
        child = build(tmp_path, "--set", f"parent=pets@v{number - 1}", *no_truth)
        states = left_out(tmp_path, number)
        assert {state for state, _ in states.values()} == {"leak"} and len(states) == number - 1
        assert all("of truth of pets@v1" in why for _, why in states.values())
        (gate,) = [g for g in child.provenance.gates if g.name == "leak"]
        assert gate.status == "warn" and gate.message.startswith(f"{number - 1} image")
        explained = json.loads(run("explain", "pets", path.name, "--json", store=tmp_path / "store").stdout)
        assert explained["state"] == "leak" and "of truth of pets@v1" in explained["why"]
    references = read_manifest(version(tmp_path, 3)).provenance.inputs.references
    assert list(references) == ["truth of pets@v1"]
    shutil.rmtree(tmp_path / "store" / "pools" / references["truth of pets@v1"])
    told = refused(tmp_path, "--set", "parent=pets@v3", *no_truth)
    assert "give it as truth in the recipe" in told and "Traceback" not in told
    assert build(tmp_path, "--set", "parent=pets@v3").images["leak"] == 2  # which scans it again


# three generations


@pytest.mark.parametrize("drop_empty", [False, True])
def test_old_shards_stay_the_same_files_for_three_generations(pets: Path, drop_empty: bool) -> None:
    small_shards(pets, images={"drop_empty": drop_empty})
    names = [f"{key[: len('image_00000')]}.jpg" for key in sorted(keys(version(pets, 1)))]
    first = shards(pets, 1)
    assert len(first) == 3 and len(names) == (7 if drop_empty else 12), names
    (pets / "pool" / "image_00000.jpg").unlink()  # it has no boxes: with drop_empty it is in no shard
    shutil.move(pets / "pool" / names[-5], pets / names[-5])
    two = build(pets, *PARENT)
    (pets / "pool" / names[-1]).unlink()
    three = build(pets, "--set", "parent=pets@v2")
    assert first == shards(pets, 2) == shards(pets, 3)
    assert all(os.path.samefile(version(pets, 1) / "data" / name, version(pets, 3) / "data" / name) for name in first)
    assert len(two.tombstones) == 2 - drop_empty and set(two.tombstones) < set(three.tombstones) <= keys(
        version(pets, 3)
    )
    assert len(three.tombstones) == three.images["tombstone"] == 3 - drop_empty
    assert three.images["removed"] == drop_empty
    shutil.move(pets / names[-5], pets / "pool" / names[-5])
    four = build(pets, "--set", "parent=pets@v3")
    assert shards(pets, 4) == first and len(four.tombstones) == len(three.tombstones) - 1
    assert set(four.tombstones) < set(three.tombstones)
    assert all(verified(pets, number) for number in (2, 3, 4))


def test_an_image_that_changed_once_spoils_its_shard_once(pets: Path) -> None:
    small_shards(pets)
    names = sorted(os.listdir(pets / "pool"))
    with open(pets / "pool" / names[5], "ab") as file:
        file.write(b"more")
    build(pets, *PARENT)
    assert [a == b for a, b in zip(shards(pets, 1).values(), shards(pets, 2).values(), strict=False)] == [
        True,
        False,
        True,
    ]
    (pets / "pool" / names[4]).unlink()  # of the same shard
    third = build(pets, "--set", "parent=pets@v2")
    assert shards(pets, 3) == shards(pets, 2) and len(third.tombstones) == 1
    assert len(keys(version(pets, 3))) == 12 and verified(pets, 3)


def test_the_first_image_of_another_format_leaves_old_shards_alone(tmp_path: Path) -> None:
    names = write_images(tmp_path / "pool", 5, suffix=".png")
    write_results(tmp_path, [*names, "new.jpg"])
    write_recipe(tmp_path)
    build(tmp_path)
    with Image.open(tmp_path / "pool" / names[0]) as image:
        image.rotate(180).save(tmp_path / "pool" / "new.jpg")
    child = build(tmp_path, *PARENT)
    assert child.features[0] == "png" and child.samples == 6
    assert shards(tmp_path, 1).items() <= shards(tmp_path, 2).items() and verified(tmp_path, 2)


# what is told


def numbers(folder: Path, manifest: Manifest, skip: set[str]) -> tuple[int, int, int]:
    """Samples, kept and ignored objects, from the shards, without some keys."""
    rows = load_dataset("webdataset", data_files=str(folder / "data" / "*.tar"), split="train", cache_dir=folder / ".c")
    objects = [
        json.loads(r) if isinstance(r, str) else r
        for k, r in zip(rows["__key__"], rows["json"], strict=True)
        if k not in skip
    ]
    ignored = [flag for row in objects for flag in row["objects"]["ignore"]]
    shutil.rmtree(folder / ".c")
    return len(objects), ignored.count(False), ignored.count(True)


def test_tombstoned_images_are_no_part_of_any_count(pets: Path) -> None:
    build(pets)
    for name in sorted(os.listdir(pets / "pool"))[4:9]:
        (pets / "pool" / name).unlink()
    child, path = build(pets, *PARENT), version(pets, 2)
    alone = numbers(path, child, set(child.tombstones))
    every = numbers(path, child, set())
    assert alone[0] == 7 and every[0] == 12 and alone[1] < every[1] and alone[2] < every[2]
    assert (child.samples, child.kept, child.ignored) == alone
    assert tuple(sum(c[o] for c in child.per_class.values()) for o in ("kept", "ignored")) == alone[1:]
    assert child.objects["kept"] == alone[1] and child.images["written"] == alone[0]
    assert tuple(sum(getattr(s, f) for s in child.shards) for f in ("samples", "kept", "ignored")) == every
    entry = json.loads(run("log", "pets", "--json", store=pets / "store").stdout)["versions"][1]
    assert (entry["samples"], entry["kept"], entry["tombstones"]) == (alone[0], alone[1], 5)
    assert "7 written, 12 in the shards, 5 of them to be skipped" in run("show", "pets", store=pets / "store").output
    text = (path / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["dataset_info"]["splits"][0]["num_examples"] == 12 == len(load_dataset(str(path), split="train"))
    assert "7 images with pseudo-labels" in text and f"\n{alone[1]} boxes are kept, {alone[2]} are ignore" in text
    assert "The shards hold 12 images, 5 of them to be skipped" in text and "not here" not in text


# near-duplicates


def alike(folder: Path, name: str, copy: str, quality: int = 60) -> None:
    with Image.open(folder / "pool" / name) as image:
        image.save(folder / "pool" / copy, quality=quality)


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """v1 of 8 images, the last nearly the second; two more are listed that arrive later."""
    names = write_images(tmp_path / "pool", 7)
    write_results(tmp_path, [*names, "twin.jpg", "x_new.jpg", "y_new.jpg"])
    alike(tmp_path, names[1], "twin.jpg")
    write_recipe(tmp_path, images={"near_duplicates": 4})
    build(tmp_path)
    assert next(why for _, why in left_out(tmp_path, 1).values()).startswith("twin.jpg looks like image_00001.jpg")
    return tmp_path


def test_a_near_duplicate_stays_out_when_the_image_it_looks_like_is_gone(twins: Path) -> None:
    alike(twins, "image_00001.jpg", "x_new.jpg", 70)
    alike(twins, "image_00002.jpg", "y_new.jpg")
    (twins / "pool" / "image_00001.jpg").unlink()
    child = build(twins, *PARENT)
    assert shards(twins, 1).items() <= shards(twins, 2).items() and len(child.tombstones) == 1
    whys = sorted(why for _, why in left_out(twins, 2).values())
    assert [why.split(" looks like ")[0] for why in whys] == ["twin.jpg", "y_new.jpg"]  # x_new is like none that stays
    assert whys[0].startswith("twin.jpg looks like image_00001.jpg")
    third = build(twins, "--set", "parent=pets@v2", "--set", "gates.coverage=off")
    assert shards(twins, 3) == shards(twins, 2) and left_out(twins, 3) == left_out(twins, 2)
    assert third.tombstones == child.tombstones
    explained = json.loads(run("explain", "pets", "twin.jpg", "--json", store=twins / "store").stdout)
    assert explained["state"] == "near_duplicate" and "image_00001.jpg" in explained["why"]
    build(twins, "--set", "parent=pets@v3", "--set", "resolve=true")
    assert "twin.jpg" not in {why.split(" ")[0] for _, why in left_out(twins, 4).values()}


def test_a_parents_damaged_list_of_left_out_images_gets_one_sentence(twins: Path) -> None:
    (version(twins, 1) / "left_out.csv").write_text("state,sha256,why\n")
    assert "verify --repair pets@v1" in refused(twins, *PARENT, "--set", "gates.coverage=off")
    assert run("verify", "pets@v1", "--repair", store=twins / "store").exit_code == 0
    build(twins, *PARENT, "--set", "gates.coverage=off")


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_settled_images_keep_their_place_and_no_two_that_stay_are_alike(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("settled")
    looks = data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=10))
    first = data.draw(st.integers(1, len(looks)))
    gone = data.draw(st.sets(st.integers(0, first - 1), max_size=first - 1))
    (folder / "pool").mkdir()

    def scanned(numbers: range) -> Pool:
        for n in numbers:
            pixels = np.random.default_rng(looks[n]).integers(0, 255, (6, 8, 3), dtype=np.uint8)
            large = Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST)
            large.save(folder / "pool" / f"{n:02d}.jpg", quality=95 - n)
        return scan_pool(str(folder / "pool"), Store(folder / "store"))

    old = scanned(range(first))
    out = near_duplicates(old, 4)
    for n in gone:
        (folder / "pool" / f"{n:02d}.jpg").unlink()
    new = scanned(range(first, len(looks)))
    found = near_duplicates(new, 4, settle(new, old, LeftOut({}, out)))
    here = {image.sha256: (image.name, looks[int(image.name[:2])]) for image in new.images() if image.state == "ok"}
    was = {image.sha256 for image in old.images()}
    assert {sha: why for sha, why in found.items() if sha in was} == {sha: out[sha] for sha in out if sha in here}
    stay = [here[sha] for sha in here if sha not in found]
    assert len({look for _, look in stay}) == len(stay)
    alive = {look for _, look in stay}
    assert all(here[sha][1] in alive for sha in found if sha not in was)


# repair


def orphan(pets: Path) -> Path:
    """A child with a tombstone and a leak of a test set, whose parent was removed and collected."""
    small_shards(pets)
    names = sorted(os.listdir(pets / "pool"))
    shutil.move(pets / "pool" / names[5], pets / names[5])
    box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    listing = json.loads((pets / "listing.json").read_text())
    listing |= {"images": [{**listing["images"][8], "id": 1}], "annotations": [box]}
    (pets / "test.json").write_text(json.dumps(listing))
    shutil.copytree(pets / "pool", pets / "test")
    result = run_with_report(pets, *PARENT, "--set", "test={source: test.json, images: test}")
    assert result.tombstones and len(left_out(pets, 2)) == 1
    shutil.rmtree(version(pets, 1))
    assert run("gc", store=pets / "store").exit_code == 0
    return version(pets, 2)


def run_with_report(folder: Path, *more: object) -> Manifest:
    from click.testing import CliRunner

    from builder.cli.main import main

    arguments = ["build", folder / "recipe.yaml", *more, "--store", folder / "store", "--json"]
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return read_manifest(Path(json.loads(result.stdout)["path"]))


FILES = ("data/train-000000.tar", "labels.parquet", "README.md", "left_out.csv", "report/index.html")


def test_a_child_is_repaired_without_its_parent(pets: Path) -> None:
    path = orphan(pets)
    good = tree(path)
    for spoilt in (*([name] for name in FILES), FILES):
        for name in spoilt:
            (path / name).unlink()
        result = run("verify", "pets@v2", "--repair", store=pets / "store")
        assert result.exit_code == 0 and tree(path) == good, (spoilt, result.output)


def test_a_shard_with_a_tombstone_and_no_parent_needs_the_removed_image(pets: Path) -> None:
    path = orphan(pets)
    good, name = tree(path), sorted(os.listdir(pets / "pool"))[5]
    moved = next(pets.glob("image_*.jpg"))
    (path / "data" / "train-000001.tar").unlink()
    before = tree(path)
    result = run("verify", "pets@v2", "--repair", store=pets / "store")
    assert result.exit_code == 1 and f"{moved.name} can no longer be read" in result.output and name != moved.name
    assert tree(path) == before
    shutil.move(moved, pets / "pool" / moved.name)
    assert run("verify", "pets@v2", "--repair", store=pets / "store").exit_code == 0
    assert tree(path) == good


def test_a_report_over_human_labels_gets_a_sentence_and_all_else_is_repaired(tmp_path: Path) -> None:
    certified_world(tmp_path)
    run_with_report(tmp_path)
    path = version(tmp_path, 1)
    good = tree(path)
    for name in ("README.md", "report/index.html"):
        (path / name).write_text("other")
    result = run("verify", "pets@v1", "--repair", store=tmp_path / "store")
    assert result.exit_code == 1 and "cannot be built again, since it shows human labels" in result.output
    assert tree(path) == good | {"report/index.html": b"other"}


def test_gc_keeps_the_pools_of_parents_that_are_gone(pets: Path) -> None:
    build(pets)
    (pets / "pool" / "image_00004.jpg").unlink()
    old = build(pets, *PARENT).provenance.parent.pool
    shutil.rmtree(version(pets, 1))
    assert run("gc", "--predictions", store=pets / "store").exit_code == 0
    assert (pets / "store" / "pools" / old).is_dir()


def test_gc_removes_nothing_while_a_build_uses_the_store(pets: Path) -> None:
    build(pets)
    (pets / "store" / "pools" / "sources" / ".tmp-left").write_bytes(b"")
    unfinished = version(pets, 2)
    unfinished.mkdir()
    store, full = Store(pets / "store"), tree(pets / "store")
    with store.in_use(), store.in_use():  # a build, and a scan in it
        result = run("gc", "--predictions", store=pets / "store")
        assert result.exit_code == 1 and "another process (pid " in result.output
        assert result.output.count("\n") == 1 and tree(pets / "store") == full and unfinished.is_dir()
        planned = json.loads(run("gc", "--dry-run", "--json", store=pets / "store").stdout)
        assert planned["busy"] == [".lock"]
    assert run("gc", store=pets / "store").exit_code == 0 and not unfinished.exists()


def test_gc_between_two_stages_of_a_build_is_refused(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(stages, "check_failures", lambda *_: asked.append(run("gc", store=pets / "store").output))
    build(pets)
    assert len(asked) == 1 and "is working on store" in asked[0]
    assert run("gc", store=pets / "store").exit_code == 0

"""Image tars of shared versions that are damaged, replaced, or cannot be made again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import orjson
import pytest

from builder.store.files import canonical_json, seal
from builder.store.manifest import read_manifest
from builder.store.shared.tars import ImageTars
from builder.store.version import Version
from builder.versions.media import cache_name
from tests.helpers.pools import tree, write_recipe
from tests.helpers.sharing import run, sharing_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return sharing_store(tmp_path)


@pytest.mark.parametrize("damage", ["said", "flip"])
def test_a_repair_takes_nothing_away_that_it_cannot_make_again(store: Path, damage: str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "pool")
    whole = tree(store)
    tar = sorted((store / "images").glob("*/*.tar"))[0]
    path = tar.with_suffix(".json") if damage == "said" else tar
    data = path.read_bytes()
    place = min(600, len(data) // 2)
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    harmed = tree(store)
    if damage == "said":  # the tar itself and the labels tell it
        run("verify", "--repair", "pets@v1", store=store)
        assert tree(store) == whole
    else:
        assert "can no longer be read" in run("verify", "--repair", "pets@v1", store=store, code=1).output
        assert tree(store) == harmed


def test_a_repair_of_shards_with_removed_images(store: Path, tmp_path: Path) -> None:
    gone = sorted((tmp_path / "pool").iterdir())[5]
    data, status = gone.read_bytes(), gone.stat()
    gone.unlink()
    recipe = write_recipe(tmp_path, shards={"images": "shared", "max_images": 4}, parent="pets@v1")
    run("build", recipe, "--no-report", store=store)
    child, whole = Version.open(store / "datasets/pets/v3"), tree(store)
    tar = ImageTars(store).path(child.manifest.shards[1].images[0].name)
    assert child.manifest.tombstones
    tar.unlink()
    assert "can no longer be read" in run("verify", "--repair", "pets@v3", store=store, code=1).output
    gone.write_bytes(data)
    os.utime(gone, ns=(status.st_atime_ns, status.st_mtime_ns))
    run("verify", "--repair", "pets@v3", store=store)
    assert tree(store) == whole


def test_a_build_takes_no_tar_of_other_images(store: Path, tmp_path: Path) -> None:
    said = sorted((store / "images").glob("*/*.json"))[0]
    value = orjson.loads(said.read_bytes())
    value["hashes"][0] = "0" * 64
    said.write_bytes(canonical_json(seal(value)))
    other = ("build", tmp_path / "recipe.yaml", "--no-report", "--set", "keep.score=0.6")
    assert "holds other images than those that were scanned" in run(*other, store=store, code=1).output
    run("fsck", "--repair", store=store)
    run(*other, store=store)


def test_a_tar_that_lacks_an_image_takes_no_other_ones_place(store: Path, tmp_path: Path) -> None:
    """The first image has no objects: with drop_empty it is not needed, and nobody misses its file."""
    other = tmp_path / "other"
    path, hidden = sorted((tmp_path / "pool").iterdir())[0], tmp_path / "hidden.jpg"
    recipe = write_recipe(tmp_path, shards={"images": "shared", "max_images": 4}, images={"drop_empty": True})
    run("build", recipe, "--no-report", store=other)
    shutil.rmtree(other / "images")
    path.rename(hidden)
    run("recut", "pets@v1", "--set", "keep.score=0.7", store=other)
    hidden.rename(path)
    run("verify", "--repair", "pets@v1", store=other)
    for version in ("pets@v1", "pets@v2"):
        run("verify", version, store=other)
    first, reduced = (read_manifest(other / f"datasets/pets/v{n}") for n in (1, 2))
    assert first.shards[0].images != reduced.shards[0].images and first.shards[1].images == reduced.shards[1].images


def test_a_store_whose_datasets_lie_on_another_disk(store: Path, tmp_path: Path) -> None:
    (store / "datasets").rename(tmp_path / "disk-datasets")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk-datasets").rename(tmp_path / "disk" / "datasets")
    (store / "datasets").symlink_to(tmp_path / "disk" / "datasets")
    run("verify", "pets@v1", store=store)
    run("materialize", "pets@v1", tmp_path / "out", store=store)


def test_equal_labels_of_other_images_are_extracted_apart(store: Path) -> None:
    shard = read_manifest(store / "datasets/pets/v1").shards[0]
    images = [tar.model_copy(update={"sha256": "0" * 64}) for tar in shard.images]
    assert cache_name(shard) != cache_name(shard.model_copy(update={"images": images}))

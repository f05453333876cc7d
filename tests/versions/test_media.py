"""Images of a version: where they lie in its shards, and as files of the cache."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from builder.build import build_pseudo
from builder.errors import BuildError
from builder.recipe.recipe import load_recipe
from builder.store.manifest import Manifest, read_manifest
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.garbage import collect
from builder.versions.media import cache_folder, extracted, images_of, unused
from tests.helpers.pools import write_images, write_recipe, write_results


@pytest.fixture
def version(tmp_path: Path) -> tuple[Store, Path, Manifest]:
    """Two shards of images, some of them in folders."""
    names = write_images(tmp_path / "pool", 3) + [f"a/b/{n}" for n in write_images(tmp_path / "pool/a/b", 5, start=50)]
    write_results(tmp_path, names)
    recipe = write_recipe(tmp_path, shards={"max_images": 4})
    store = Store(tmp_path / "store")
    done = build_pseudo(load_recipe(recipe), store, root=tmp_path).cut
    assert done and len(done.manifest.shards) == 2
    return store, done.folder, done.manifest


def members(folder: Path) -> dict[str, bytes]:
    """Every file in a version's shards, as Python's own reader of tars sees them."""
    found: dict[str, bytes] = {}
    for path in sorted((folder / "data").iterdir()):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return found


def test_images_of_names_what_lies_in_the_tars(version: tuple[Store, Path, Manifest]) -> None:
    _, folder, manifest = version
    there = members(folder)
    found = list(images_of(Version(folder, manifest)))
    assert [f"{image.key}.jpg" for image in found] == [name for name in there if name.endswith(".jpg")]
    for image in found:
        said = json.loads(there[f"{image.key}.json"])
        assert (image.name, image.sha256, image.width, image.height) == tuple(
            said[k] for k in ("name", "sha256", "width", "height")
        )
        assert image.shard == image.image.file.name and hashlib.sha256(image.image.read()).hexdigest() == image.sha256


def test_tombstones_are_passed_over(version: tuple[Store, Path, Manifest]) -> None:
    store, folder, manifest = version
    gone = next(images_of(Version(folder, manifest))).key
    less = manifest.model_copy(update={"tombstones": [gone]})
    assert gone not in [image.key for image in images_of(Version(folder, less))]
    files = extracted(store, Version(folder, less))
    assert gone not in files and gone not in list(files) and len(files) == 7


def test_extracted_files_are_the_members(version: tuple[Store, Path, Manifest]) -> None:
    store, folder, manifest = version
    files = extracted(store, Version(folder, manifest))
    there = {name.removesuffix(".jpg"): data for name, data in members(folder).items() if name.endswith(".jpg")}
    assert set(files) == set(there) and len(files) == 8
    assert {key: files[key].read_bytes() for key in reversed(list(there))} == there
    with pytest.raises(KeyError):
        files["none"]


def test_a_shard_is_extracted_once_for_all_versions_with_it(version: tuple[Store, Path, Manifest]) -> None:
    store, folder, manifest = version
    extracted(store, Version(folder, manifest))
    one = next(iter(extracted(store, Version(folder, manifest)).values()))
    before = one.stat().st_mtime_ns
    other = manifest.model_copy(update={"version": "v2", "shards": manifest.shards[:1]})
    assert len(extracted(store, Version(folder, other))) == 4
    assert one.stat().st_mtime_ns == before
    assert sorted(p.name for p in cache_folder(store).iterdir() if p.is_dir()) == sorted(
        s.sha256 for s in manifest.shards
    )


def test_what_a_killed_run_left_is_swept_and_done_again(version: tuple[Store, Path, Manifest]) -> None:
    store, folder, manifest = version
    half = cache_folder(store) / f".tmp-{manifest.shards[0].sha256}-1"
    half.mkdir(parents=True)
    (half / "x.jpg").write_bytes(b"half")
    assert len(extracted(store, Version(folder, manifest))) == 8 and not half.exists()


def test_a_damaged_shard_leaves_nothing_and_says_how_to_mend_it(version: tuple[Store, Path, Manifest]) -> None:
    store, folder, manifest = version
    path = folder / "data" / manifest.shards[1].name
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(BuildError, match="verify --repair"):
        extracted(store, Version(folder, manifest))
    assert not (cache_folder(store) / manifest.shards[1].sha256).exists()
    path.write_bytes(data[:-2000])
    with pytest.raises(BuildError, match="verify --repair"):
        list(images_of(Version(folder, manifest)))


def test_unused_names_the_folders_of_shards_that_no_version_has(version: tuple[Store, Path, Manifest]) -> None:
    store, folder, manifest = version
    assert unused(store, frozenset()) == []
    extracted(store, Version(folder, manifest))
    first, second = (shard.sha256 for shard in read_manifest(folder).shards)
    assert unused(store, frozenset([first])) == [cache_folder(store) / second]


def test_gc_removes_what_no_version_holds(version: tuple[Store, Path, Manifest]) -> None:
    store, folder, manifest = version
    extracted(store, Version(folder, manifest))
    strange = cache_folder(store) / ("0" * 64)
    strange.mkdir()
    (strange / "x.jpg").write_bytes(b"an image")
    (cache_folder(store) / ".tmp-half-1").mkdir()
    collect(store)
    assert sorted(p.name for p in cache_folder(store).iterdir() if p.is_dir()) == sorted(
        s.sha256 for s in manifest.shards
    )
    (folder / "manifest.json").unlink()
    collect(store)
    assert [p for p in cache_folder(store).iterdir() if p.is_dir()] == []

"""Versions verified, repaired, shown and reported from Python, without the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.build import build_pseudo
from builder.errors import BuildError
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from builder.versions.health import verify
from builder.versions.repair import report_page
from builder.versions.show import show
from tests.helpers.pools import write_world


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    recipe = write_world(folder, pool=12, truth=30)
    plain = load_recipe(recipe, ("keep.score=0.5", "keep.precision=null"))
    build_pseudo(plain, Store(folder / "store"), root=folder, report=False)
    return folder


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Store:
    shutil.copytree(built / "store", tmp_path / "store")
    return Store(tmp_path / "store")


def test_a_whole_version(store: Store) -> None:
    verified = verify(store.version("pets"), store, repair=True)
    assert verified.is_whole and verified.only_strays and verified.repaired == ()


@pytest.mark.parametrize("damage", ["shard", "labels"])
def test_damage_is_found_and_repaired(store: Store, damage: str) -> None:
    version = store.version("pets")
    path = version.shard(version.manifest.shards[0]) if damage == "shard" else version.labels
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    found = verify(version, store)
    assert not found.is_whole and not found.only_strays and found.repaired == ()
    repaired = verify(version, store, repair=True)
    assert repaired.is_whole and repaired.repaired == found.problems and path.read_bytes() == whole


def test_a_file_that_is_no_part_of_it_stays(store: Store) -> None:
    version = store.version("pets")
    (version.folder / "mine.txt").write_text("stays")
    found = verify(version, store, repair=True)
    assert found.only_strays and not found.is_whole and (version.folder / "mine.txt").is_file()


def test_a_report_is_written_once(store: Store) -> None:
    version = store.version("pets")
    assert not version.report.exists()
    page = report_page(version, store)
    first = page.stat()
    assert report_page(store.version("pets"), store) == page and page.stat().st_mtime_ns == first.st_mtime_ns
    assert verify(store.version("pets"), store).is_whole


def test_what_a_name_stands_for(store: Store) -> None:
    version = show("pets@v1", store)
    assert version.kind == "version" and version.version == store.version("pets")
    assert version.facts["name"] == "pets"
    inputs = version.facts["provenance"]["inputs"]
    pool, predictions = show(inputs["pool"][:8], store), show(inputs["predictions"][:8], store)
    assert pool.kind == "pool" and pool.version is None and pool.facts["images"] == 12
    assert predictions.kind == "predictions" and predictions.facts["predictions"] == inputs["predictions"]
    with pytest.raises(BuildError, match="birds"):
        show("birds", store)

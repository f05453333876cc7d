"""Versions verified, repaired, shown and reported from Python, without the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.build import build_pseudo
from builder.errors import BuildError
from builder.recipe.recipe import load_recipe
from builder.store.history import HISTORY
from builder.store.manifest import write_manifest
from builder.store.store import Store
from builder.store.version import Version
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


@pytest.mark.parametrize("damage", ["shard", "labels", "index"])
def test_damage_is_found_and_repaired(store: Store, damage: str) -> None:
    version = store.version("pets")
    files = {"labels": version.labels, "index": version.sample_index}
    path = files.get(damage) or version.shard(version.manifest.shards[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    found = verify(version, store)
    assert not found.is_whole and not found.only_strays and found.repaired == ()
    repaired = verify(version, store, repair=True)
    assert repaired.is_whole and repaired.repaired == found.problems and path.read_bytes() == whole


def certified(version: Version) -> None:
    """Every threshold edited to a certified one, with the manifest's own digest made anew."""
    provenance = version.manifest.provenance
    groups = [group.model_copy(update={"certified": True, "target": 0.99}) for group in provenance.thresholds]
    changed = provenance.model_copy(update={"thresholds": groups})
    write_manifest(version.folder, version.manifest.model_copy(update={"provenance": changed}))


def test_an_edited_manifest_is_found_by_who_pinned_it(store: Store) -> None:
    version = store.version("pets")
    store.tag("pets", "good")
    certified(version)
    with pytest.raises(BuildError, match=r"not the one that was built as pets@v1, as .*history\.json knows") as error:
        store.version("pets")
    assert "\n" not in str(error.value)
    found = verify(Version.open(version.folder), store)
    assert [p.what.split(":")[1].split(" that ")[1] for p in found.problems] == ["history.json knows", "tag good knows"]
    assert found.only_strays, "nothing but a copy mends it"
    (store.root / HISTORY).unlink()
    with pytest.raises(BuildError, match="tag pets@good was given to v1 with another manifest"):
        store.version("pets@good")
    store.untag("pets", "good")
    assert verify(store.version("pets"), store).is_whole, "what nobody pinned is as good as where it came from"


def test_a_child_knows_its_parents_manifest(built: Path, store: Store) -> None:
    recipe = load_recipe(built / "recipe.yaml", ("keep.score=0.5", "keep.precision=null", "parent=pets@v1"))
    build_pseudo(recipe, store, root=built, report=False)
    parent = store.version("pets@v1")
    assert store.version("pets@v2").manifest.provenance.parent.manifest == parent.manifest.pin  # type: ignore[union-attr]
    certified(parent)
    (store.root / HISTORY).unlink()
    (found,) = verify(store.version("pets@v1"), store).problems
    assert "its child pets@v2 knows" in found.what


def test_a_report_added_later_changes_no_pin(store: Store) -> None:
    version = store.version("pets")
    report_page(version, store)
    assert store.version("pets").manifest.pin == version.manifest.pin and verify(store.version("pets"), store).is_whole


def test_a_claim_is_mended(store: Store) -> None:
    version = store.version("pets")
    whole = (version.folder / "claim").read_bytes()
    (version.folder / "claim").write_text("0" * 64)
    with pytest.raises(BuildError, match="claim beside it is not the digest of its inputs, which `tutelage verify"):
        store.version("pets")
    assert store.claim("pets", whole.decode()) == version.folder  # and no second one for the same inputs
    assert verify(store.version("pets", claimed=False), store, repair=True).is_whole
    assert (version.folder / "claim").read_bytes() == whole and store.version("pets")


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

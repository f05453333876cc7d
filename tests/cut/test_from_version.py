"""A version as all that its corrections are cut from: the same shards as where it was built."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from builder.cli.main import main
from builder.cut.basis import Basis, overrides_in_force
from builder.cut.parent import find_parent
from builder.cut.recall import is_at_home, lacks, recut
from builder.cut.version import Cut, cut_version
from builder.errors import BuildError
from builder.recipe.recipe import load_recipe
from builder.review.objects import shown_objects
from builder.rules.overrides import Override, add_overrides, read_overrides
from builder.scan.pool import read_pool
from builder.scan.scanner import scan_pool
from builder.store.manifest import write_manifest
from builder.store.store import Store
from builder.store.version import LABELS, OVERRIDES, Version
from builder.versions.fsck import fsck
from builder.versions.media import images_of
from builder.versions.verify import problems
from teachers.errors import TutelageWarning
from tests.helpers.corrected import built, corrected, corrections, elsewhere
from tests.helpers.pools import tree

SECTIONS: list[tuple[str, dict[str, Any]]] = [
    ("detection", {}),
    ("detection", {"mixed": True}),
    ("detection", {"images": {"drop_empty": True}, "keep": {"score": 0.9, "ignore": 0.8}}),
    (
        "detection",
        {
            "keep": {
                "score": {"cat": 0.4, "*": 0.6},
                "nms": 0.3,
                "max_per_image": 3,
                "where": "x1 > 5 and image_width > 10 and name like 'image%'",
                "classes": {"map": {"bird": "cat"}, "ignore": ["car"]},
            }
        },
    ),
    ("instance", {}),
    ("instance", {"images": {"drop_empty": True}, "keep": {"score": 0.9, "nms": 0.2, "top_box": None}}),
    ("classification", {}),
    ("classification", {"keep": {"score": 0.6, "classes": {"map": {"bird": "cat"}, "drop": ["car"]}}}),
    ("classification", {"keep": {"balance": {"images": 4, "min": 0.4}}, "mixed": True}),
]


@pytest.mark.parametrize(("kind", "sections"), SECTIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_corrections_give_the_shards_that_the_home_store_gives(
    tmp_path: Path, kind: str, sections: dict[str, Any]
) -> None:
    first, home, away = built(tmp_path, kind, **sections), Store(tmp_path / "store"), Store(tmp_path / "away")
    pulled = elsewhere(first, away.root)
    assert is_at_home(home, first) and not is_at_home(away, pulled)
    said = list[Override]()
    for seed in (1, 2, 3):  # each is of what the one before left
        written = {image.sha256 for image in images_of(first)}  # people see no others of a pulled version
        said = [override for override in corrections(first, seed) if override.sha256 in written]
        here, there = corrected(first, home, said), corrected(pulled, away, said)
        assert said and there.manifest.id == here.manifest.id != first.manifest.id
        assert tree(there.data) == tree(here.data)
        for name in (LABELS, OVERRIDES):
            assert there.manifest.files[name] == here.manifest.files[name]
        assert there.manifest.model_copy(update={"provenance": here.manifest.provenance}) == here.manifest
        assert there.manifest.provenance.inputs == here.manifest.provenance.inputs
        assert problems(there) == []
        first, pulled = here, there


def test_a_class_that_people_gave_and_took_back_has_the_teachers_probabilities_again(tmp_path: Path) -> None:
    first, home, away = built(tmp_path, "classification"), Store(tmp_path / "store"), Store(tmp_path / "away")
    written = {image.sha256 for image in images_of(first)}
    shown = next(objects[0] for objects in shown_objects(first) if objects[0].sha256 in written)
    other = next(name for name in first.manifest.classes if name != shown.label)
    second = corrected(first, home, [Override(shown.sha256, shown.box, "relabel", other, None, "ann", shown.label)])
    back = [Override(shown.sha256, shown.box, "relabel", shown.label, None, "bob", other)]
    here, there = corrected(second, home, back), corrected(elsewhere(second, away.root), away, [])
    assert there.manifest.id == second.manifest.id  # nothing said: the same again
    there = corrected(there, away, back)
    assert there.manifest.id == here.manifest.id and tree(there.data) == tree(here.data)
    assert pq.read_table(there.labels)["reason"].to_pylist().count("accepted") == 1


def test_removed_images_stay_tombstones_until_their_shard_is_written_again(tmp_path: Path) -> None:
    first, home, away = built(tmp_path, "detection"), Store(tmp_path / "store"), Store(tmp_path / "away")
    for image in [image for n, image in enumerate(images_of(first)) if n in (1, 8)]:
        (tmp_path / "pool" / image.name).unlink()
    pool = scan_pool(str(tmp_path / "pool"), home, chunk_size=3)
    predictions = home.predictions / first.manifest.provenance.inputs.predictions
    recipe = load_recipe(tmp_path / "recipe.yaml", ["parent=pets@v1"])
    basis = Basis(pool, predictions, recipe, "says", parent=find_parent("pets@v1", home))
    second = cut_version(basis, home, name="pets", workers=2, report=False)
    assert len(second.manifest.tombstones) == 2
    said = [o for o in corrections(second, 1) if o.sha256 == next(images_of(second)).sha256]
    here, there = corrected(second, home, said), corrected(elsewhere(second, away.root), away, said)
    assert len(here.manifest.tombstones) == 1 and there.manifest.images == here.manifest.images
    assert there.manifest.id == here.manifest.id and tree(there.data) == tree(here.data)


@pytest.mark.parametrize("harm", ["shard", "labels", "older"])
def test_what_cannot_be_cut_again_is_said_and_leaves_no_version(tmp_path: Path, harm: str) -> None:
    first, away = built(tmp_path, "detection"), Store(tmp_path / "away")
    said = corrections(first, 1)
    pulled = elsewhere(first, away.root)
    shard = pulled.shard(pulled.manifest.shards[0])
    if harm == "shard":
        data = bytearray(shard.read_bytes())
        data[1000] ^= 1
        shard.write_bytes(data)
    elif harm == "labels":
        pulled.labels.write_bytes(b"no table")
    else:
        provenance = pulled.manifest.provenance.model_copy(update={"plan": []})
        write_manifest(pulled.folder, pulled.manifest.model_copy(update={"provenance": provenance}))
        pulled = Version.open(pulled.folder)
    with pytest.raises(BuildError) as error:
        corrected(pulled, away, said)
    words = {
        "shard": "train-000000.tar is not the file of its manifest: run `tutelage verify --repair pets@v1`",
        "labels": "labels.parquet is not the file of its manifest: run `tutelage verify --repair pets@v1`",
        "older": "an older Tutelage",
    }
    assert words[harm] in str(error.value) and "\n" not in str(error.value)
    assert not (away.datasets / "pets" / "v2" / "manifest.json").exists()


def test_a_build_after_a_review_finds_the_version_that_the_review_made(tmp_path: Path) -> None:
    first, store = built(tmp_path, "detection"), Store(tmp_path / "store")
    reviewed = corrected(first, store, corrections(first, 1))
    again = corrected(reviewed, store, corrections(reviewed, 2))

    def build(**more: Any) -> Cut:
        inputs = first.manifest.provenance.inputs
        recipe = load_recipe(tmp_path / "recipe.yaml", [f"{key}={value}" for key, value in more.items()])
        overrides = tuple(read_overrides(store, "pets"))
        predictions = store.predictions / inputs.predictions
        basis = Basis(read_pool(store, inputs.pool), predictions, recipe, "says", overrides=overrides)
        return cut_version(basis, store, name="pets", workers=2, report=False)

    assert (build().ref, build().shards_written) == (again.ref, 0) == ("pets@v3", 0)
    assert build(**{"keep.score": 0.6}).ref == "pets@v4"  # other rules
    add_overrides(store, "pets", corrections(again, 3), again.manifest.classes)
    made = build()
    assert made.ref == "pets@v5" and made.manifest.id != again.manifest.id  # what nobody built yet


def test_a_review_that_changed_no_shard_ends_the_search(tmp_path: Path) -> None:
    """Its version has the id of the one before it, so that a search by ids alone would go round."""
    first, store = built(tmp_path, "detection"), Store(tmp_path / "store")
    image = next(objects[0] for objects in shown_objects(first) if objects)
    nothing = Override(image.sha256, (0.0, 0.0, 0.5, 0.5), "reject", image.label, author="ann")
    same = corrected(first, store, [nothing])
    assert (same.ref, same.manifest.id) == ("pets@v2", first.manifest.id)
    inputs, overrides = first.manifest.provenance.inputs, tuple(read_overrides(store, "pets"))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    basis = Basis(
        read_pool(store, inputs.pool), store.predictions / inputs.predictions, recipe, "says", overrides=overrides
    )
    assert cut_version(basis, store, name="pets", workers=2, report=False).ref == "pets@v2"


@pytest.mark.parametrize("kind", ["detection", "instance"])
@pytest.mark.parametrize(
    "settings", [["keep.score=0.7"], ["keep.top_box=0.8", "keep.nms=0.3"], ["keep.score={cat: 0.2, '*': 0.9}"]]
)
def test_new_rules_give_the_shards_that_the_home_store_gives(tmp_path: Path, kind: str, settings: list[str]) -> None:
    first, home, away = built(tmp_path, kind), Store(tmp_path / "store"), Store(tmp_path / "away")
    second = corrected(first, home, corrections(first, 1))
    pulled = elsewhere(second, away.root)
    here, there = (recut(v, s, settings, workers=2, report=False) for v, s in ((second, home), (pulled, away)))
    assert there.manifest.id == here.manifest.id != second.manifest.id and tree(there.data) == tree(here.data)
    assert there.manifest.objects == here.manifest.objects and problems(there) == []


def test_lower_thresholds_cannot_bring_back_images_that_are_not_there(tmp_path: Path) -> None:
    first = built(tmp_path, "detection", images={"drop_empty": True}, keep={"score": 0.9, "ignore": 0.8})
    away = Store(tmp_path / "away")
    pulled = elsewhere(first, away.root)
    assert f"the pictures of {first.manifest.images['empty']} images on which nothing was kept" in lacks(away, pulled)
    made = recut(pulled, away, ["keep.score=0.2"], workers=2, report=False)
    assert made.manifest.samples == first.manifest.samples and made.manifest.kept > first.manifest.kept
    assert made.manifest.images == first.manifest.images and problems(made) == []


def test_a_recut_that_keeps_nothing_is_refused_unless_insisted_on(tmp_path: Path) -> None:
    first, store = built(tmp_path, "detection"), Store(tmp_path / "store")
    with pytest.raises(BuildError, match="would teach nothing"):
        recut(first, store, ["keep.score=1"])
    command = ["recut", first.ref, "--set", "keep.score=1", "--store", str(store.root)]
    assert CliRunner().invoke(main, command).exit_code == 1
    assert "  0 kept" in CliRunner().invoke(main, [*command, "--allow-empty"]).output


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("images.drop_empty=true", "is no rule: give keep.KEY=VALUE"),
        ("keep.precision=0.8", "needs human labels or the teacher, so build its recipe"),
        ("keep.calibration=isotonic", "needs human labels"),
        ("keep.score=2", "with these settings cannot be"),
        ("keep.score={wolf: 0.5, '*': 0.6}", "names class 'wolf'"),
    ],
)
def test_rules_that_need_more_than_scores_are_refused(tmp_path: Path, setting: str, said: str) -> None:
    pulled = elsewhere(built(tmp_path, "detection"), tmp_path / "away")
    with pytest.raises(BuildError, match=re.escape(said)):
        recut(pulled, Store(tmp_path / "away"), [setting])
    assert not (tmp_path / "away/datasets/pets/v2").exists()


def test_maps_are_not_cut_again_from_themselves(tmp_path: Path) -> None:
    first, home = built(tmp_path, "semantic"), Store(tmp_path / "store")
    pulled = elsewhere(first, tmp_path / "away")
    with pytest.raises(BuildError, match="holds maps, and not what the teacher said of each pixel"):
        recut(pulled, Store(tmp_path / "away"), ["keep.score=0.7"])
    assert recut(first, home, ["keep.score=0.7"], workers=2, report=False).manifest.kept < first.manifest.kept


@pytest.mark.parametrize("gone", ["file", "link"])
def test_corrections_that_are_gone_are_no_silence(tmp_path: Path, gone: str) -> None:
    """The newest version has some and their file is missing: said; the file is a link to nowhere: refused."""
    store = Store(tmp_path / "store")
    first = built(tmp_path, "detection")
    assert overrides_in_force(store, "pets") == ()
    corrected(first, store, corrections(first, 1))
    assert overrides_in_force(store, "pets")
    file = tmp_path / "store" / "reviews" / "pets" / "overrides.json"
    file.unlink()
    if gone == "link":
        file.symlink_to("nowhere")
        with pytest.raises(BuildError, match=r"overrides\.json cannot be read as overrides .*No such file"):
            overrides_in_force(store, "pets")
        return
    with pytest.warns(TutelageWarning, match=r"the corrections of pets@v2 are gone from .*: copy .* there"):
        assert overrides_in_force(store, "pets") == ()
    (fault,) = fsck(store, repair=True, workers=2).bad
    source = re.fullmatch(r".* nothing is left of it: copy (.*) there, or pull them again", fault.again)
    assert fault.path == file and source
    shutil.copy(source[1], fault.path)
    assert overrides_in_force(store, "pets") and not fsck(store, workers=2).bad

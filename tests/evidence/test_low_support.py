"""What becomes of classes that cannot be certified, and what fresh labels restore, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from builder.cli.main import main
from builder.store.manifest import Manifest, read_manifest
from tests.helpers.pools import write_images, write_recipe, write_world

RARE = "dog"


def thin(folder: Path, name: str = RARE, keep: int = 12) -> None:
    """Of the class so many predictions of the labelled images stay, so that it cannot be certified."""
    content, results = (json.loads((folder / file).read_text()) for file in ("listing.json", "results.json"))
    (category,) = [c["id"] for c in content["categories"] if c["name"] == name]
    truth = {image["id"] for image in content["images"] if image["side"] == "truth"}
    rare = [r for r in results if r["category_id"] == category and r["image_id"] in truth][keep:]
    (folder / "results.json").write_text(json.dumps([r for r in results if r not in rare]))
    labels = json.loads((folder / "truth.json").read_text())
    mine = [note["id"] for note in labels["annotations"] if note["category_id"] == category][keep:]
    labels["annotations"] = [note for note in labels["annotations"] if note["id"] not in mine]
    (folder / "truth.json").write_text(json.dumps(labels))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, pool=20, truth=150)
    thin(folder)
    return folder


def run(world: Path, store: Path, *more: str) -> Result:
    sets = [word for one in more for word in (["--set", one] if not one.startswith("--") else [one])]
    words = ["build", str(world / "recipe.yaml"), "--set", "keep.precision.over=class", *sets, "--no-report", "--store"]
    return CliRunner().invoke(main, [*words, str(store)])


def built(world: Path, store: Path, *more: str) -> tuple[Manifest, list[dict[str, Any]]]:
    result = run(world, store, *more, "--json")
    assert result.exit_code == 0, result.output
    folder = Path(json.loads(result.stdout)["path"])
    return read_manifest(folder), pq.read_table(folder / "labels.parquet").to_pylist()


@pytest.mark.parametrize(
    ("settings", "ignored_from"),
    [
        ((), 0.3),
        (("keep.ignore=0.4",), 0.4),
        (("keep.ignore=null",), 0.3),
        (('keep.ignore={dog: 0.6, "*": 0.2}',), 0.6),
        (("keep.precision.on_low_support=drop",), np.inf),
    ],
)
def test_objects_of_a_class_that_is_not_certified_are_ignored(
    world: Path, tmp_path: Path, settings: tuple[str, ...], ignored_from: float
) -> None:
    manifest, rows = built(world, tmp_path, *settings)
    rare = [row for row in rows if manifest.classes[row["label"]] == RARE]
    expected = ["no_threshold" if row["score"] >= np.float32(ignored_from) else "below_threshold" for row in rare]
    assert [row["reason"] for row in rare] == expected and len(rare) > 10
    assert [row["outcome"] for row in rare] == ["ignored" if e == "no_threshold" else "dropped" for e in expected]
    assert manifest.provenance.truth and manifest.provenance.truth.uses == 1 and manifest.kept
    reached = [row for row in rows if row["outcome"] == "kept"]
    assert {manifest.classes[row["label"]] for row in reached} == {"cat"}


def test_the_result_says_what_was_not_certified_and_explain_why(world: Path, tmp_path: Path) -> None:
    result = run(world, tmp_path)
    assert result.exit_code == 0 and "not certified  dog: of " in result.output
    assert "its boxes are ignored" in " ".join(result.output.split())
    (told,) = json.loads(run(world, tmp_path, "--json").stdout)["not_certified"]
    assert told["classes"] == [RARE] and told["threshold"] is None and told["reason"].startswith("of ")
    manifest, rows = built(world, tmp_path)
    key = next(row["key"] for row in rows if row["reason"] == "no_threshold")
    words = ["explain", f"{manifest.name}@{manifest.version}", key, "--store", str(tmp_path)]
    said = CliRunner().invoke(main, words).output
    assert "from which on boxes are ignored, but not any threshold" in " ".join(said.split())


def test_a_child_takes_over_what_becomes_of_such_a_class(world: Path, tmp_path: Path) -> None:
    parent, rows = built(world, tmp_path)
    child, same = built(world, tmp_path, f"parent={parent.name}@{parent.version}")
    assert [row["reason"] for row in rows] == [row["reason"] for row in same] and child.kept == parent.kept


def test_most_objects_uncertified_stops_and_costs_no_guarantee(world: Path, tmp_path: Path) -> None:
    """The advice of the message can be followed: no test changes, and so the half was used once."""
    hard = "keep.precision.target=0.97"
    result = run(world, tmp_path, hard)
    assert result.exit_code == 1 and not list((tmp_path / "datasets").rglob("*.tar"))
    message = result.output
    for word in (
        "2 of 2 classes",
        "100 % of the labelled objects",
        "truth.certify",
        "--allow-partial",
        "on_low_support",
    ):
        assert word in message
    for more in (("--allow-partial", "--allow-empty"), ("keep.precision.on_low_support=fallback",)):
        manifest, _ = built(world, tmp_path, hard, *more)
        assert manifest.provenance.truth and manifest.provenance.truth.uses == 1
        assert not any(group.certified for group in manifest.provenance.thresholds)


@pytest.mark.parametrize("few", ["ignore", "drop"])
def test_a_class_without_a_mixture_is_ignored_or_dropped(tmp_path: Path, few: str) -> None:
    write_world(tmp_path, pool=20, truth=4)
    results = json.loads((tmp_path / "results.json").read_text())
    flat = [result | ({"score": 0.8} if result["category_id"] == 7 else {}) for result in results]
    (tmp_path / "results.json").write_text(json.dumps(flat))
    recipe = write_recipe(tmp_path, keep={"mixture": {"few": few}})
    result = CliRunner().invoke(main, ["build", str(recipe), "--no-report", "--json", "--store", str(tmp_path / "s")])
    rows = pq.read_table(Path(json.loads(result.stdout)["path"]) / "labels.parquet").to_pylist()
    dogs = {row["outcome"] for row in rows if row["label"] == 1}
    assert dogs == {"ignored" if few == "ignore" else "dropped"}


# Fresh labels


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose truth is in two files: 100 images of old labels, 100 of new ones."""
    folder = tmp_path_factory.mktemp("fresh")
    write_world(folder, pool=20, truth=200)
    content = json.loads((folder / "truth.json").read_text())
    for name, images in (("old", content["images"][:100]), ("new", content["images"][100:])):
        ids = {image["id"] for image in images}
        notes = [note for note in content["annotations"] if note["image_id"] in ids]
        (folder / f"{name}.json").write_text(json.dumps(content | {"images": images, "annotations": notes}))
    write_recipe(folder, truth={"source": "old.json", "images": "truth"}, keep={"precision": {"target": 0.75}})
    return folder


CERTIFY = "truth.certify={source: new.json, images: truth}"


def test_fresh_labels_restore_the_guarantee(fresh: Path, tmp_path: Path) -> None:
    adaptive = [built(fresh, tmp_path, f"keep.precision.target={target}")[0] for target in (0.75, 0.7)]
    assert [m.provenance.truth and m.provenance.truth.uses for m in adaptive] == [1, 2]
    manifest, _ = built(fresh, tmp_path, "keep.precision.target=0.7", CERTIFY)
    truth = manifest.provenance.truth
    assert truth and (truth.uses, truth.tune, truth.certify, truth.images) == (1, 100, 100, 200)
    assert "old.json" in truth.source and "new.json" in truth.source
    assert any(group.certified and group.units == 100 for group in manifest.provenance.thresholds)
    assert sorted(manifest.provenance.inputs.references) == ["truth", "truth.certify"]
    again, _ = built(fresh, tmp_path, "keep.precision.target=0.72", CERTIFY)
    assert again.provenance.truth and again.provenance.truth.uses == 2


def test_all_other_labels_may_then_be_looked_at(fresh: Path, tmp_path: Path) -> None:
    recipe = (fresh / "recipe.yaml").read_text()
    for certify, images in (("", range(40, 61)), ("  certify: {source: new.json, images: truth}\n", [100])):
        (fresh / "looked.yaml").write_text(recipe.replace("truth:\n", f"truth:\n{certify}"))
        result = CliRunner().invoke(main, ["sweep", str(fresh / "looked.yaml"), "--json", "--store", str(tmp_path)])
        if result.exit_code:  # the pool is not labelled yet
            built(fresh, tmp_path)
            result = CliRunner().invoke(main, ["sweep", str(fresh / "looked.yaml"), "--json", "--store", str(tmp_path)])
        assert json.loads(result.stdout)["images"]["tune"] in images, result.output


def test_fresh_labels_stay_apart_from_all_others(fresh: Path, tmp_path: Path) -> None:
    result = run(fresh, tmp_path, "truth.certify={source: truth.json, images: truth}")
    assert result.exit_code == 1 and "100 images are in two of" in result.output and "truth.certify" in result.output
    write_images(fresh / "pool", 1, start=5150)  # the bytes of a fresh image
    leaked, _ = built(fresh, tmp_path, CERTIFY)
    assert leaked.images["leak"] == 1


def test_units_of_fresh_labels_are_those_of_the_others(fresh: Path, tmp_path: Path) -> None:
    manifest, _ = built(fresh, tmp_path, 'truth.group="(.{10})"', CERTIFY, "--allow-partial", "--allow-empty")
    assert {group.units for group in manifest.provenance.thresholds} == {10}

"""What a data.yaml means in a recipe, and what its `val` may certify."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from builder.cli.main import main

SPLITS = {"train": 8, "val": 40, "test": 6}
CLASSES = "names: [cat]\ntrain: images/train\nval: images/val\ntest: images/test\n"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A YOLO data set of three splits, a pool, and replayed predictions that are right everywhere."""
    rng = np.random.default_rng(0)
    images, found = [], []
    for part, count in (*SPLITS.items(), ("pool", 10)):
        folder = tmp_path / ("pool" if part == "pool" else f"set/images/{part}")
        folder.mkdir(parents=True)
        for number in range(count):
            name = f"{part}_{number}.png"
            Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8)).save(folder / name)
            if part != "pool":
                labels = tmp_path / f"set/labels/{part}"
                labels.mkdir(parents=True, exist_ok=True)
                (labels / f"{part}_{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n0 0.125 0.125 0.25 0.25\n")
            id = len(images)
            listed = name if part == "pool" else f"images/{part}/{name}"
            images.append({"id": id, "file_name": listed, "width": 32, "height": 24})
            for box in ([8, 6, 16, 12], [0, 0, 8, 6]):
                found.append({"image_id": id, "category_id": 1, "bbox": box, "score": 0.9})
    (tmp_path / "set" / "data.yaml").write_text(CLASSES)
    categories = [{"id": 1, "name": "cat"}]
    (tmp_path / "listing.json").write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    (tmp_path / "found.json").write_text(json.dumps(found))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(world: Path, *words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words), "--store", str(world / "store")])


def recipe(world: Path, truth: str, keep: str = "score: 0.5", more: str = "") -> Path:
    file = world / "r.yaml"
    file.write_text(
        "name: a\npool: pool\nteacher: {spec: 'replay:found.json', images: listing.json}\n"
        f"truth: {truth}\nkeep: {{{keep}}}\n{more}"
    )
    return file


@pytest.mark.parametrize(
    ("truth", "images", "source", "warned"),
    [
        ("set/data.yaml", 40, "set/data.yaml#val", "on which the best checkpoint is often chosen"),
        ("set", 40, "set#val", "on which the best checkpoint is often chosen"),
        ("set/data.yaml#train", 8, "set/data.yaml#train", "from which a teacher has usually learned"),
        ("{source: set/data.yaml, split: test}", 6, "set/data.yaml#test", ""),
        ("{source: set/data.yaml, independent: true}", 40, "set/data.yaml#val", ""),
        ("set/images/val", 40, "set/images/val", "on which the best checkpoint is often chosen"),
    ],
)
def test_truth_is_one_split_and_named(world: Path, truth: str, images: int, source: str, warned: str) -> None:
    result = run(world, "calibrate", recipe(world, truth), "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert (value["images"]["all"], value["truth"]) == (images, source)
    assert warned in result.stderr
    assert ("warning" in result.stderr) == bool(warned)


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ("set/data.yaml", "truth set/data.yaml#val is the val split, on which the best checkpoint is often chosen"),
        (
            "set/data.yaml#train",
            "truth set/data.yaml#train is the train split, from which a teacher has usually learned",
        ),
    ],
)
def test_splits_that_a_teacher_may_know_certify_nothing(world: Path, truth: str, words: str) -> None:
    result = run(world, "build", recipe(world, truth, "precision: 0.5"), "--no-report")
    assert result.exit_code == 1
    assert words in result.stderr
    assert "keep.precision would certify nothing" in result.stderr
    assert "truth.independent: true" in result.stderr
    assert not list((world / "store").glob("datasets/*/*"))


@pytest.mark.parametrize(
    "truth", ["{source: set/data.yaml, independent: true}", "{source: set, split: val, independent: true}"]
)
def test_a_val_that_is_independent_certifies(world: Path, truth: str) -> None:
    result = run(world, "build", recipe(world, truth, "precision: 0.5"), "--no-report")
    assert result.exit_code == 0, result.output
    assert "val split" not in result.stderr
    (manifest,) = (world / "store").glob("datasets/a/v1/manifest.json")
    used = json.loads(manifest.read_text())["provenance"]
    assert "data.yaml#val" in json.dumps(used) or "set#val" in json.dumps(used)


def test_other_sections_take_their_own_split(world: Path) -> None:
    """All three from one data.yaml share no image; the same file for two of the same kind would."""
    more = "test: set/data.yaml\nlabelled: set/data.yaml\n"
    result = run(world, "build", recipe(world, "set/data.yaml", more=more), "--no-report", "--json")
    assert result.exit_code == 0, result.output
    more = "test: set/data.yaml#val\n"
    result = run(world, "build", recipe(world, "set/data.yaml", more=more), "--no-report")
    assert "40 images are in two of labelled, truth and test" in result.stderr
    result = run(world, "build", recipe(world, "set", more="test: {source: set, independent: true}\n"), "--no-report")
    assert "independent is about truth" in result.stderr


def test_evaluate_takes_val_or_the_split_that_is_named(world: Path) -> None:
    for truth, images in (("set/data.yaml", 40), ("set/data.yaml#test", 6), ("set/images/train", 8)):
        words = ("--set", "images=listing.json", "--truth", truth, "--json")
        result = run(world, "evaluate", "replay:found.json", *words)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["images"] == images
    (world / "set" / "data.yaml").write_text(CLASSES.replace("val:", "dev:"))
    result = run(world, "evaluate", "replay:found.json", "--set", "images=listing.json", "--truth", "set/data.yaml")
    assert "names no val split (train, test alone)" in result.stderr

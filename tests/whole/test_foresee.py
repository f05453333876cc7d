"""`build --dry-run` looks at everything and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from builder.cli.main import main
from builder.errors import BuildError
from builder.foresee import foresee
from builder.recipe.recipe import Recipe, load_recipe
from builder.store.store import Store
from teachers.base import TeacherError
from tests.helpers.pools import CLASSES, write_images, write_results

SLOW = """
import time
import numpy as np
from teachers.base import Detections

class Slow:
    classes, batch_size, runtime = ("cat", "dog"), 4, {}
    description = {"family": "python", "kind": "detection", "classes": ["cat", "dog"], "floor": 0.05}

    def predict(self, images):
        time.sleep(0.02 * len(images))
        return [Detections.of(np.zeros((0, 4)), [], [], width=i.shape[1], height=i.shape[0]) for i in images]

def make(options):
    return Slow()
"""


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """A recipe whose teacher is replayed, of a pool of six images, and of labels of two others."""
    names = write_images(tmp_path / "pool", 6)
    write_results(tmp_path, names)
    labelled = write_images(tmp_path / "labelled", 2, start=90)
    listed = [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(labelled)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 30, 20], "area": 600} for n in range(2)]
    truth = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "labelled" / "test.json").write_text(json.dumps(truth))
    return {
        "name": "pets",
        "pool": "pool",
        "teacher": {"spec": "replay:results.json", "images": "listing.json"},
        "test": "labelled/test.json",
        "keep": {"score": 0.5},
    }


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_dry_run_counts_what_is_left_to_do(recipe: dict[str, Any], tmp_path: Path) -> None:
    path, store = tmp_path / "recipe.yaml", str(tmp_path / "store")
    path.write_text(json.dumps(recipe))

    def dry() -> dict[str, Any]:
        before = files(tmp_path)
        done = CliRunner().invoke(main, ["build", str(path), "--dry-run", "--json", "--store", store])
        assert done.exit_code == 0, done.output
        assert files(tmp_path) == before
        return dict(json.loads(done.stdout))

    seen = dry()
    assert (seen["images"], seen["new"], seen["unlabelled"], seen["labels"]) == (6, 6, 6, {"test": 2})
    assert (seen["kind"], tuple(seen["classes"])) == ("detection", CLASSES)
    assert seen["bytes"] == sum(file.stat().st_size for file in (tmp_path / "pool").iterdir())
    built = CliRunner().invoke(main, ["build", str(path), "--store", store])
    assert built.exit_code == 0, built.output
    seen = dry()
    assert (seen["images"], seen["new"], seen["unlabelled"], seen["seconds"]) == (6, 0, 0, 0)
    write_images(tmp_path / "pool", 2, start=50)
    seen = dry()
    assert (seen["images"], seen["new"], seen["unlabelled"]) == (8, 2, 2)
    text = CliRunner().invoke(main, ["build", str(path), "--dry-run", "--store", store]).output
    assert "8 images" in text and "would label 2 images" in text and "recipe pets is valid; nothing written" in text


def test_the_time_is_that_of_a_few_images(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_teacher.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    slow = Recipe.model_validate({**recipe, "teacher": "python:slow_teacher:make"})
    seen = foresee(slow, Store(tmp_path / "store"), root=tmp_path, allow_code=True)
    assert 6 * 0.02 <= seen.seconds < 6 * 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "nowhere"}, "nowhere does not exist: give a folder"),
        ({"pool": "labelled/test.txt"}, "does not exist"),
        ({"teacher": "onnx:nothing.onnx"}, "nothing.onnx not found"),
        ({"teacher": {"spec": "replay:none.json", "images": "listing.json"}}, "none.json cannot be read"),
        ({"test": "labelled/none.json"}, "none.json"),
        ({"keep": {"score": {"cat": 0.5, "dgo": 0.4, "*": 0.5}}}, "keep.score names class 'dgo', which the teacher"),
        ({"keep": {"ignore": {"cow": 0.5, "*": 0.5}}}, "keep.ignore names class 'cow'"),
        ({"keep": {"classes": {"drop": ["cow"]}}}, "keep.classes names 'cow', which is no class of the teacher"),
        ({"parent": "pets@v7"}, "no version 'pets@v7'"),
    ],
)
def test_what_would_fail_is_said_before_any_work(
    changes: dict[str, Any], message: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps({**recipe, **changes}))
    before = files(tmp_path)
    with pytest.raises((BuildError, TeacherError), match=message):
        foresee(load_recipe(tmp_path / "recipe.yaml"), Store(tmp_path / "store"), root=tmp_path)
    assert files(tmp_path) == before


def test_labels_that_share_no_class_with_the_teacher_are_told(recipe: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "labelled" / "test.json"
    path.write_text(path.read_text().replace('"cat"', '"cow"'))
    with pytest.raises(BuildError, match="truth and teacher share no class name"):
        foresee(
            Recipe.model_validate({**recipe, "truth": "labelled/test.json", "test": None}),
            Store(tmp_path / "store"),
            root=tmp_path,
        )


def test_a_split_that_cannot_certify_stops_a_dry_run_as_it_stops_a_build(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    for part in ("images", "labels"):
        (tmp_path / "set" / part).mkdir(parents=True)
    (name,) = write_images(tmp_path / "set/images", 1, start=200)
    (tmp_path / "set/labels" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "set/data.yaml").write_text("path: .\nval: images\nnames: [cat, dog]\n")
    recipe |= {"truth": "set/data.yaml", "keep": {"precision": 0.8}}
    with pytest.raises(BuildError, match=r"is the val split.*keep.precision would certify nothing"):
        foresee(Recipe.model_validate(recipe), Store(tmp_path / "store"), root=tmp_path)
    recipe["truth"] = {"source": "set/data.yaml", "independent": True, "certify": "new.json"}
    with pytest.raises(BuildError, match=r"new\.json do not exist"):
        foresee(Recipe.model_validate(recipe), Store(tmp_path / "store"), root=tmp_path)
    recipe["truth"] = {"source": "set/data.yaml", "independent": True}
    assert foresee(Recipe.model_validate(recipe), Store(tmp_path / "store"), root=tmp_path).labels["truth"] == 1

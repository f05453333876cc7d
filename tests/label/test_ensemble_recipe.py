"""Ensembles, and teachers that run code of the user's, from the recipe and the command line to a version."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from builder.cli.main import main
from builder.label.load import load_model
from builder.recipe.recipe import load_recipe
from builder.store.manifest import read_manifest
from teachers.base import TeacherError
from tests.helpers.pools import write_images, write_recipe

SOURCE = """
import numpy as np
from teachers.base import ClassProbabilities, Detections

BOTH, FIRST, SECOND = [4, 4, 20, 20], [30, 4, 50, 20], [4, 25, 20, 45]


class Own:
    batch_size = 4
    runtime = {}

    def __init__(self, classes, boxes, labels, floor, kind="detection"):
        self.classes, self.boxes, self.labels, self.kind = classes, boxes, labels, kind
        self.description = {"kind": kind, "classes": list(classes), "floor": floor, "boxes": boxes, "labels": labels}

    def predict(self, images):
        return [self.of(image) for image in images]

    def of(self, image):
        if self.kind == "classification":
            return ClassProbabilities(np.array([0.75, 0.25], np.float32))
        height, width = image.shape[:2]
        return Detections.of(self.boxes, [0.9] * len(self.boxes), self.labels, width=width, height=height)


def first(options):
    return Own(("cat", "dog"), [BOTH, FIRST], [0, 1], options.floor)


def second(options):
    teacher = Own(("rock", "kitten", "dog"), [BOTH, SECOND, FIRST], [1, 2, 0], options.floor)
    teacher.trained_on = TRAINED_ON
    return teacher


def classifier(options):
    options.refuse("a classifier", "floor")
    return Own(("cat", "dog"), [], [], 0.0, "classification")
"""
"""Both find the cat, each one dog; the second also takes the first's dog for a rock, which the recipe drops."""
numbers = itertools.count()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of teachers in the working directory; its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"own_ensemble_{next(numbers)}"
    Path(f"{name}.py").write_text(SOURCE.replace("TRAINED_ON", "[]"))
    return name


def ensemble(own: str, **more: Any) -> dict[str, Any]:
    members = [
        {"spec": f"python:{own}:first", "license": "MIT"},
        {"spec": f"python:{own}:second", "license": "BSD-2", "classes": {"kitten": "cat", "rock": None}},
    ]
    return {"ensemble": members} | more


def call(*words: object, code: bool = True) -> Result:
    return CliRunner().invoke(main, [*map(str, words), *(["--allow-code"] if code else [])])


def built(recipe: Path, *words: object) -> dict[str, Any]:
    result = call("build", recipe, *words, "--no-report", "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def told(result: Result) -> str:
    assert result.exit_code == 1, result.output
    (line,) = result.output.strip().splitlines()
    return line


def write_truth(folder: Path, count: int) -> Path:
    """Labelled images on each of which there is the cat, and nothing else."""
    names = write_images(folder / "truth", count, start=900)
    content = {
        "images": [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names, 1)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 16, 16], "area": 256, "iscrowd": 0}
            for n in range(1, count + 1)
        ],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


def test_the_teacher_of_a_recipe_is_measured(tmp_path: Path, own: str) -> None:
    write_images(tmp_path / "pool", 1)
    recipe, truth = write_recipe(tmp_path, teacher=ensemble(own)), write_truth(tmp_path, 4)
    words = ("evaluate", recipe, "--truth", truth, "--images", tmp_path / "truth", "--json")
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["AP"] == pytest.approx(1)
    assert "rules" in told(call(*words, "--set", "rules=1"))


@pytest.mark.parametrize("refused", ["ignore", "drop"])
def test_what_teachers_do_not_agree_on_is_refused(tmp_path: Path, own: str, refused: str) -> None:
    write_images(tmp_path / "pool", 5)
    keep = {"score": 0.4, "ignore": 0.3, "where": "agree >= 2", "refused": refused}
    recipe = write_recipe(tmp_path, teacher=ensemble(own), keep=keep)
    value = built(recipe)
    version = Path(value["path"])
    rows = pq.read_table(version / "labels.parquet").to_pylist()
    found = Counter((("cat", "dog")[row["label"]], row["outcome"], row["reason"]) for row in rows)
    aside = "ignored" if refused == "ignore" else "dropped"
    assert found == {("cat", "kept", "kept"): 5, ("dog", aside, "where_false"): 10}
    teacher = read_manifest(version).provenance.teacher
    assert teacher.spec == f"ensemble of python:{own}:first, python:{own}:second"
    assert teacher.license == "MIT, BSD-2"
    assert [one["classes"] for one in teacher.description["members"]] == [["cat", "dog"], [None, "cat", "dog"]]
    again = built(recipe, "--set", "keep.where=null", "--only", "cut")
    assert again["images_labelled"] == 0
    reasons = pq.read_table(Path(again["path"]) / "labels.parquet")["reason"].to_pylist()
    assert reasons == ["kept"] * 15  # the dogs have half the score of the one teacher that found them


def test_where_names_agree_of_one_teacher(tmp_path: Path, own: str) -> None:
    write_images(tmp_path / "pool", 2)
    keep = {"score": 0.4, "where": "agree >= 2"}
    recipe = write_recipe(tmp_path, teacher=f"python:{own}:first", keep=keep)
    line = told(call("build", recipe, "--no-report"))
    assert "names 'agree', which this teacher's predictions do not have" in line


def test_recipe_commands_measure_an_ensemble(tmp_path: Path, own: str) -> None:
    write_images(tmp_path / "pool", 5)
    write_truth(tmp_path, 24)
    truth = {"source": "truth.json", "images": "truth"}
    recipe = write_recipe(tmp_path, teacher=ensemble(own), truth=truth, keep={"score": 0.4})
    assert built(recipe, "--only", "label")["images_labelled"] == 5
    value = json.loads(call("calibrate", recipe, "--json").stdout)
    assert value["predicted"] == 3 * value["right"] == 3 * value["images"]["tune"]
    value = json.loads(call("sweep", recipe, "--json").stdout)
    points = value["points"]["all classes"]
    assert {point["precision"] for point in points if 0.5 < point["threshold"] <= 0.85} == {1.0}
    other = write_truth(tmp_path / "other", 30)
    words = ("--truth", other, "--truth-images", other.parent / "truth")
    line = told(call("calibrate", value["predictions"][:12], *words, code=False))
    assert line.endswith("run the same command on the RECIPE.yaml of that ensemble")


def test_images_that_one_of_the_teachers_was_trained_on_are_no_evidence(tmp_path: Path, own: str) -> None:
    write_images(tmp_path / "pool", 3)
    write_truth(tmp_path, 12)
    seen = sha256((tmp_path / "truth" / "image_00900.jpg").read_bytes()).hexdigest()
    Path(f"{own}.py").write_text(SOURCE.replace("TRAINED_ON", repr([seen])))
    recipe = write_recipe(tmp_path, teacher=ensemble(own), truth={"source": "truth.json", "images": "truth"})
    assert "the teacher was trained on 1 of the 12 images" in told(call("calibrate", recipe))
    assert "image_00900.jpg" in told(call("build", recipe, "--set", "keep.score=0.4", "--no-report"))


def test_views_are_taken_of_the_whole_ensemble(tmp_path: Path, own: str) -> None:
    write_images(tmp_path / "pool", 1)
    options = {"tta": {"flip": True}, "iou": 0.7, "floor": 0.02, "max_detections": 9}
    section = load_recipe(write_recipe(tmp_path, teacher=ensemble(own, **options))).teacher
    assert section.ensemble is not None and {member.options.floor for member in section.ensemble} == {0.02}
    teacher = load_model(section, allow_code=True)
    description = teacher.description
    assert (description["iou"], description["floor"], description["max_detections"]) == (0.7, 0.02, 9)
    assert description["tta"]["flip"] and description["family"] == "ensemble"
    with Image.open(tmp_path / "pool" / "image_00000.jpg") as image:
        (found,) = teacher.predict([np.asarray(image)])
    assert found.labels.tolist().count(0) == 2  # this teacher sees the cat on the left, in the mirror, too


def test_probabilities_of_an_ensemble_are_stored_whole(tmp_path: Path, own: str) -> None:
    write_images(tmp_path / "pool", 1)
    twice = [f"python:{own}:classifier", {"spec": f"python:{own}:classifier", "weight": 3}]
    section = load_recipe(write_recipe(tmp_path, teacher={"ensemble": twice})).teacher
    assert section.license == "unknown"
    assert load_model(section, allow_code=True).description["floor"] == 0.0


def test_paths_of_each_teacher_are_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    members = ["onnx:a.onnx", {"spec": "torchvision:fcos", "weights": "b.pt", "classes": ["cat"]}]
    members += ["checkpoint:runs/c", "transformers:hf", "transformers:org/name", "python:module:factory"]
    recipe = write_recipe(tmp_path, teacher={"ensemble": members})
    loaded = load_recipe(recipe).teacher.rooted(tmp_path)
    assert loaded.ensemble is not None
    assert [member.spec for member in loaded.ensemble] == [
        f"onnx:{tmp_path / 'a.onnx'}",
        "torchvision:fcos",
        f"checkpoint:{tmp_path / 'runs/c'}",
        f"transformers:{tmp_path / 'hf'}",
        "transformers:org/name",
        "python:module:factory",
    ]
    assert loaded.ensemble[1].options.weights == str(tmp_path / "b.pt")
    assert loaded.ensemble[1].options.classes == ("cat",) and loaded.ensemble[1].classes is None


def test_an_address_is_told_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    recipe = write_recipe(tmp_path, pool="s3://bucket/pool", teacher="onnx:https://host/a.onnx")
    loaded = load_recipe(recipe).rooted(tmp_path)
    assert (loaded.pool.source, loaded.teacher.spec) == ("s3://bucket/pool", "onnx:https://host/a.onnx")
    ran = CliRunner().invoke(main, ["build", str(recipe), "--store", str(tmp_path / "store")])
    assert ran.exit_code == 1 and "s3://bucket/pool cannot be listed (no login)" in ran.output


def test_teachers_that_do_not_fit_are_one_sentence(tmp_path: Path, own: str) -> None:
    write_images(tmp_path / "pool", 2)
    section = ensemble(own)
    section["ensemble"][1].pop("classes")
    recipe = write_recipe(tmp_path, teacher=section)
    assert "has a class 'rock' that the first lacks" in told(call("build", recipe))
    section["ensemble"][1] = f"python:{own}:classifier"
    recipe = write_recipe(tmp_path, teacher=section)
    assert "must be of one kind, not detection and classification" in told(call("build", recipe))


# Code of the user's


def test_no_command_runs_code_unless_told_to(tmp_path: Path, own: str) -> None:
    spec, truth = f"python:{own}:first", {"source": "truth.json", "images": "truth"}
    write_images(tmp_path / "pool", 3)
    write_truth(tmp_path, 24)
    recipe = write_recipe(tmp_path, teacher=spec, truth=truth, keep={"score": 0.4})
    assert call("scan", "pool", code=False).exit_code == 0
    labels = ("--truth", "truth.json", "--truth-images", "truth")
    first = (("label", "pool", "--teacher", spec), ("build", recipe, "--no-report"), ("build-pseudo", recipe))
    then = (
        ("calibrate", recipe),
        ("sweep", recipe),
        ("evaluate", spec, "--truth", "truth.json", "--images", "truth"),
    )
    for words in (*first, *then):
        assert "would run code of its own: if you trust it, add --allow-code" in told(call(*words, code=False)), words
        result = call(*words)
        assert result.exit_code == 0, (words, result.output)
    prefix = json.loads(call("calibrate", recipe, "--json").stdout)["predictions"]
    for command in ("calibrate", "sweep"):
        words = (command, prefix, *labels, "--teacher", spec)
        assert "add --allow-code" in told(call(*words, code=False))
        assert call(*words).exit_code == 0
    assert "unknown key 'teacher.allow_code'" in told(call("build", recipe, "--set", "teacher.allow_code=true"))


def test_classifiers_are_measured_though_they_have_no_floor(tmp_path: Path, own: str) -> None:
    for n, name in enumerate(("cat", "cat", "cat", "dog") * 4):
        write_images(tmp_path / "truth" / name, 1, start=n)
    spec = f"python:{own}:classifier"
    result = call("evaluate", spec, "--truth", "truth", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["accuracy"] == 0.75, result.output
    write_images(tmp_path / "pool", 2, start=100)
    assert call("scan", "pool", code=False).exit_code == 0
    assert call("label", "pool", "--teacher", spec).exit_code == 0
    (predictions,) = (path for path in (tmp_path / "store" / "predictions").iterdir())
    result = call("calibrate", predictions.name, "--truth", "truth", "--teacher", spec, "--json")
    assert result.exit_code == 0, result.output


def test_an_option_without_meaning_for_a_checkpoint_is_refused(tmp_path: Path) -> None:
    from teachers import load_teacher
    from teachers.base import TeacherOptions

    for options in (TeacherOptions(masks=False), TeacherOptions(jitter=10), TeacherOptions(prompts={"a": "b"})):
        with pytest.raises(TeacherError, match="has no meaning for"):
            load_teacher(f"checkpoint:{tmp_path}", options)

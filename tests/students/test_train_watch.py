"""What a training shows as it goes: what it reads, figures on `val`, a tracker's files; and a look before it."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from builder.cli.main import main
from builder.store.store import Store
from builder.truth.coco import read_coco
from builder.words import duration
from students.evaluate.measure import evaluate
from students.train.errors import TrainError
from students.train.facts import Facts
from students.train.loop import look, train
from students.train.recipe import TrainRecipe
from teachers.errors import TutelageWarning
from tests.helpers.rectangles import write_rectangles, write_version
from tests.helpers.training import NETWORK, SHORT, make_recipe


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO JSON of 8 scenes of coloured rectangles."""
    return write_rectangles(tmp_path_factory.mktemp("scenes"), 8)


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five other scenes; the empty one, which is the same everywhere, is left out."""
    path = write_rectangles(tmp_path_factory.mktemp("val"), 6, seed=3)
    content = json.loads(path.read_text())
    content["images"] = [image for image in content["images"] if image["id"] != 101]
    path.write_text(json.dumps(content))
    return path


def read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def weights(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_figures_on_val_are_those_of_the_run_and_change_nothing(
    scenes: Path, val: Path, tmp_path: Path, ema: float
) -> None:
    options = {"steps": 20, "batch": 8, "lr": 5e-3, "ema": ema, "save_every": 8}
    watched = make_recipe(scenes, **options, val={"path": val, "every": 8})
    seen: list[Facts] = []
    run = train(watched, tmp_path / "run", Store(tmp_path), announce=seen.append)
    log = read_log(run)
    assert [record["step"] for record in log if "val" in record] == [8, 16, 20]
    measured = evaluate(run, val).metrics
    assert log[-1]["val"] == pytest.approx({n: v for n, v in measured.items() if n != "per_class" and v >= 0})
    assert measured["AP"] > 0
    plain = train(make_recipe(scenes, **options), tmp_path / "plain", Store(tmp_path))
    assert weights(plain) == weights(run)
    assert (run / "recipe.json").read_bytes() == (plain / "recipe.json").read_bytes()
    (facts,) = seen
    words = dict(facts.rows())
    assert (facts.human_images, facts.pseudo_images, facts.epochs, facts.done) == (8, 0, (20.0, 0.0), 0)
    assert words["labelled"].startswith("8 images, 21 objects") and words["val"].endswith("every 8 steps")
    assert words["classes"] == "3: red, green, blue" and words["device"] in ("cpu", words["device"])
    assert (
        words["weights"]
        == f"kept are {'an average of decay 0.9' if ema else 'those of the last step'}; val chooses nothing"
    )


def test_an_interrupted_run_has_the_same_figures_on_val(scenes: Path, val: Path, tmp_path: Path) -> None:
    recipe = make_recipe(scenes, steps=12, save_every=4, val={"path": val, "every": 3})
    whole = train(recipe, tmp_path / "whole", Store(tmp_path))

    def stop(record: Any) -> None:
        if record["step"] == 7:
            raise KeyboardInterrupt

    seen: list[Facts] = []
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", Store(tmp_path), stop)
    run = train(recipe, tmp_path / "run", Store(tmp_path), announce=seen.append)
    assert [facts.done for facts in seen] == [4]
    assert [record.get("val") for record in read_log(run)] == [record.get("val") for record in read_log(whole)]
    assert weights(run) == weights(whole)


def folders(path: Path) -> Path:
    for name in ("cat", "dog"):
        (path / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), len(name), np.uint8)).save(path / name / f"{name}.png")
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda scenes, other: {"val": {"path": scenes}}, "8 of 8 images of val .* are learned from"),
        (lambda scenes, other: {"val": {"path": other}}, "holds classification labels, not detection"),
        (lambda scenes, other: {"track": "wandb"}, "track: wandb needs that package: pip install wandb"),
    ],
)
def test_what_cannot_be_watched(scenes: Path, tmp_path: Path, changes: Any, words: str) -> None:
    recipe = make_recipe(scenes, **changes(scenes, folders(tmp_path / "classes")))
    for call in (lambda: train(recipe, tmp_path / "run", Store(tmp_path)), lambda: look(recipe, Store(tmp_path))):
        with pytest.raises(TrainError, match=words):
            call()
    assert not (tmp_path / "run").exists()


def test_tensorboard_has_the_log(scenes: Path, val: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = make_recipe(scenes, steps=6, save_every=2, val={"path": val, "every": 3}, track="tensorboard")

    def stop(record: Any) -> None:
        if record["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", Store(tmp_path), stop)
    run = train(recipe, tmp_path / "run", Store(tmp_path))
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    log = read_log(run)
    for name in ("human", "lr", "gradient_norm"):
        points = events.Scalars(name)
        assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose([point.value for point in points], [r[name] for r in log], rtol=1e-6)
    measured = [(r["step"], r["val"]["AP"]) for r in log if "val" in r]
    assert [point.step for point in events.Scalars("val/AP")] == [step for step, _ in measured] == [3, 6]


def test_the_command_says_what_it_reads_and_a_dry_run_only_looks(scenes: Path, val: Path, tmp_path: Path) -> None:
    others = read_coco(write_rectangles(tmp_path / "others", 8, seed=1))
    write_version(tmp_path / "version", others, ["red", "green", "blue"])
    content = {"labelled": str(scenes), "pseudo": ["version"], "network": NETWORK, **SHORT, "val": str(val)}
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(content))
    command = ["train", str(tmp_path / "student.yaml"), "--out", str(tmp_path / "run"), "--store", str(tmp_path / "s")]
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(main, [*command, "--dry-run"], catch_exceptions=False)
    assert result.exit_code == 0 and sorted(tmp_path.rglob("*")) == before
    for words in (
        "8 images, 21 objects",
        "(scenes@v1)",
        "5 images",
        "3: red, green, blue",
        "s a step here",
        "nothing written",
    ):
        assert words in result.stdout, result.stdout
    assert "the labelled images 1.5 times, the pseudo ones 1.5 times" in result.stdout
    facts = json.loads(CliRunner().invoke(main, [*command, "--dry-run", "--json"]).stdout)["facts"]
    assert facts["seconds"] > 0 and (facts["human_images"], facts["pseudo_images"]) == (8, 8)
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0 and "step 6/6  val: AP " in result.stderr
    assert result.stderr.index("labelled") < result.stderr.index("step 1/6")
    content["labelled"] = "nowhere.json"
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(main, [*command, "--dry-run"], catch_exceptions=False)
    assert result.exit_code == 1 and "nowhere.json" in result.stderr and result.stderr.count("\n") == 1


def test_val_in_recipes() -> None:
    recipe = TrainRecipe.model_validate({"labelled": "a.json", "steps": 5, "val": "v.json"}).rooted(Path("/d"))
    assert recipe.val is not None and (recipe.val.path, recipe.val.every) == (Path("/d/v.json"), None)


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "3 s"), (119, "119 s"), (150, "2 min"), (5400, "90 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_what_the_human_labels_have_and_a_version_lacks_is_named(scenes: Path, tmp_path: Path) -> None:
    """On the version's images it is background, which no loss shows."""
    others = read_coco(write_rectangles(tmp_path / "others", 4, seed=1))
    reds = [replace(image, boxes=image.boxes[:1], labels=image.labels[:1], crowd=image.crowd[:1], area=image.area[:1],
                    difficult=image.difficult[:1]) for image in others.images if len(image.boxes)]  # fmt: skip
    write_version(tmp_path / "reds", replace(others, images=reds), ["red"])
    recipe = make_recipe(scenes, pseudo=(str(tmp_path / "reds"),))
    with pytest.warns(TutelageWarning, match="scenes@v1 was labelled without green, blue, which the human labels have"):
        look(recipe, Store(tmp_path))
    write_version(tmp_path / "all", others, ["red", "green", "blue"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look(make_recipe(scenes, pseudo=(str(tmp_path / "all"),)), Store(tmp_path))


@pytest.mark.parametrize(("crowds", "words"), [(True, "21 objects, all crowds"), (False, "not one object")])
def test_labels_that_teach_nothing_are_refused(scenes: Path, tmp_path: Path, crowds: bool, words: str) -> None:
    content = json.loads(scenes.read_text())
    content["annotations"] = [{**note, "iscrowd": 1} for note in content["annotations"]] if crowds else []
    path = scenes.parent / f"{crowds}.json"
    path.write_text(json.dumps(content))
    with pytest.raises(TrainError, match=f"has 8 images and {words}.*: there is nothing to learn"):
        train(make_recipe(path), tmp_path / "run", Store(tmp_path))
    assert not (tmp_path / "run").exists()

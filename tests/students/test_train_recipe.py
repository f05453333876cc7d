"""Training recipes: where their paths lead, what they refuse, and their learning rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.errors import BuildError
from students.train.errors import TrainError
from students.train.loop import alpha_at, learning_rate, train
from students.train.recipe import TrainRecipe, load_train_recipe


def test_learning_rate_rises_and_falls() -> None:
    recipe = TrainRecipe(labelled=Path("labels.json"), steps=100, warmup=0.1, lr=1.0)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.5) and rates[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(TrainRecipe(labelled=Path("labels.json"), steps=1, lr=1.0), 0) == 1


def test_alpha_rises_over_its_share_of_the_steps() -> None:
    recipe = TrainRecipe(labelled=Path("labels.json"), pseudo=("cells",), steps=10, alpha=0.5, alpha_ramp=0.4)
    assert [alpha_at(recipe, step) for step in range(5)] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert alpha_at(recipe.model_copy(update={"alpha_ramp": 1.0}), 9) == 0.5
    assert alpha_at(recipe.model_copy(update={"alpha_ramp": 0.0}), 0) == 0.5
    assert alpha_at(recipe.model_copy(update={"alpha_ramp": 0.01}), 0) == 0.5
    assert alpha_at(recipe.model_copy(update={"pseudo": ()}), 9) == 0


def test_recipe_paths_lead_from_its_file(tmp_path: Path) -> None:
    content = {"labelled": {"path": "labels.json", "images": "pictures"}, "steps": 1, "init": "checkpoint:runs/t"}
    content |= {"rounds": {"count": 2, "build": "recipe.yaml", "val": "val", "students": [{"pretrained": "w.pth"}]}}
    content |= {
        "pseudo": ["cells@v3", "local"],
        "doubly_robust": ["local"],
        "network": {"pretrained": "weights.pth", "levels": [4, 8]},
    }
    (tmp_path / "local").mkdir()
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(content))
    recipe = load_train_recipe(tmp_path / "train.yaml")
    assert recipe.labelled.path == tmp_path / "labels.json" and recipe.labelled.images == tmp_path / "pictures"
    assert recipe.init == f"checkpoint:{tmp_path / 'runs/t'}" and recipe.pseudo == ("cells@v3", str(tmp_path / "local"))
    assert recipe.doubly_robust == (str(tmp_path / "local"),)
    assert recipe.rounds is not None
    assert (recipe.rounds.build, recipe.rounds.val.path) == (tmp_path / "recipe.yaml", tmp_path / "val")
    assert [network.pretrained for network in recipe.rounds.students] == [str(tmp_path / "w.pth")]
    assert recipe.network.pretrained == str(tmp_path / "weights.pth") and recipe.network.levels == (4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 3}, "'step'"),
        ({"network": {"backbon": "x"}}, "backbon"),
        ({"network": {"levels": "many"}}, "levels"),
        ({"steps": 0}, "steps = 0"),
        ({"augment": "S9"}, "augment.policy = 'S9'"),
        ({"init": "teacher"}, "init"),
        ({"labelled": {"limit": 3}}, "labelled.path"),
        ({"precision": "int8"}, "precision"),
        ({"ema": 1}, "ema = 1"),
        ({"lr": math.inf}, "lr = inf: expected a number"),
        ({"alpha": math.nan}, "alpha = nan"),
        ({"augment": {"policy": "S3", "jitter": [0.5, math.inf]}}, "augment.jitter.1 = inf"),
        ({"network": {"mean": [math.nan, 0.5, 0.5]}}, "network.mean.0 = nan"),
        ({"clip": [10, 0.1]}, "least ratio comes first"),
        ({"rounds": {"count": 2, "build": "recipe.yaml"}}, "rounds.val"),
        ({"alpha_ramp": 1.5}, "alpha_ramp = 1.5"),
        ({"doubly_robust": ["cells@v1"]}, "name them in pseudo"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({"labelled": "labels.json", "steps": 1} | changes))
    with pytest.raises(TrainError, match=message) as caught:
        load_train_recipe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["labelled: [", "- 1", "", None])
def test_a_file_that_is_no_recipe_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "train.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BuildError, match="recipe") as caught:
        load_train_recipe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"steps": 3}, None, 7])
def test_what_is_no_recipe_is_refused(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(TrainError, match="is no training recipe: give a TrainRecipe") as error:
        train(wrong, tmp_path / "run")
    assert str(wrong) in str(error.value) and not (tmp_path / "run").exists()

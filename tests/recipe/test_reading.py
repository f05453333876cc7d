"""Recipes that cannot be read: the likeliest key, the line that is no YAML, and whatever else stands in one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from builder.cli.main import main
from builder.errors import BuildError
from builder.recipe.keys import keys, likeliest
from builder.recipe.reading import read_mapping
from builder.recipe.recipe import Recipe, load_recipe
from students.train.recipe import TrainRecipe
from tests.helpers.mutated import VALUES, mutated

KNOWN = sorted(dict.fromkeys(keys(Recipe)))


@pytest.mark.parametrize(
    ("model", "written", "meant"),
    [
        (Recipe, "keep.scor", "keep.score"),
        (Recipe, "keep.precision.taget", "keep.precision.target"),
        (Recipe, "Keep", "keep"),
        (Recipe, "keep.min-size", "keep.min_size"),
        (Recipe, "teacher.flor", "teacher.floor"),
        (Recipe, "teacher.ensemble.wieght", "teacher.ensemble.weight"),
        (Recipe, "score", "keep.score"),  # at the wrong place
        (Recipe, "floor", "teacher.floor"),
        (Recipe, "keep.threshold", "keep.score"),  # what others call it
        (Recipe, "colour_of_the_sky", ""),
        (TrainRecipe, "epochs", "steps"),
        (TrainRecipe, "network.backbon", "network.backbone"),
        (TrainRecipe, "imgsz", "network.size"),
    ],
)
def test_the_key_that_is_meant(model: type, written: str, meant: str) -> None:
    assert likeliest(written, model) == meant


@given(st.sampled_from([key for key in KNOWN if len(key.rpartition(".")[2]) > 4]), st.data())
def test_a_key_with_a_letter_missing_is_recognised_in_its_section(key: str, data: st.DataObject) -> None:
    section, dot, name = key.rpartition(".")
    place = data.draw(st.integers(1, len(name) - 1))
    written = f"{section}{dot}{name[:place]}{name[place + 1 :]}"
    assert written in KNOWN or likeliest(written, Recipe).rpartition(".")[0] == section


def test_the_command_line_says_what_is_meant_and_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\npool: p\nteacher: replay:r\nkeep: {scor: 0.5}\n")
    done = CliRunner().invoke(main, ["build", str(tmp_path / "r.yaml"), "--dry-run"])
    assert done.exit_code == 1
    assert "unknown key 'keep.scor': did you mean 'keep.score'? See 'Recipe reference' in the README" in done.output


@pytest.mark.parametrize(
    ("text", "place", "shown"),
    [
        ("name: x\nkeep: {score: 0.5\npool: p\n", "line 3, column 5 ", "  pool: p\n      ^"),
        ("name: x\n\tpool: p\n", "line 2, column 1 ", "   pool: p\n  ^"),
        ("name: x\npool: 'p\n", "line 3, column 1 ", None),
        ("name: x: y\n", "line 1, column 8 ", "  name: x: y\n         ^"),
    ],
)
def test_what_is_no_yaml_is_shown(text: str, place: str, shown: str | None, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(BuildError, match=f"r.yaml is not YAML in {place}") as error:
        load_recipe(tmp_path / "r.yaml")
    assert getattr(error.value, "__notes__", []) == ([shown] if shown else [])
    done = CliRunner().invoke(main, ["build", str(tmp_path / "r.yaml")])
    assert done.exit_code == 1 and (shown or "is not YAML") in done.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: " + "9" * 5000, "a number of 5,000 digits"),
        ("x: " + "[" * 3000, "is not YAML"),
        ("- a", "must be a mapping of keys to values"),
        ("", "must be a mapping of keys to values"),
    ],
)
def test_yaml_that_python_cannot_hold_is_a_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(BuildError, match=message) as error:
        read_mapping(tmp_path / "r.yaml")
    assert len(str(error.value)) < 300 + len(str(tmp_path)) and "\n" not in str(error.value)


def test_a_recipe_that_notepad_or_powershell_wrote_is_read(tmp_path: Path) -> None:
    for codec in ("utf-8-sig", "utf-16"):
        (tmp_path / "r.yaml").write_text("name: x\npool: café\n", encoding=codec)
        assert read_mapping(tmp_path / "r.yaml") == {"name": "x", "pool": "café"}


INPUTS = int(os.environ.get("TUTELAGE_INPUTS", "150"))
"""Recipes with any values that each run of the tests reads; as many with any bytes."""
SMALL: dict[str, Any] = {"name": "x", "pool": {"source": "p"}, "teacher": {"spec": "replay:r"}}
ENSEMBLE = {"ensemble": [{"spec": "onnx:a.onnx", "weight": 2, "classes": {"a": "b", "c": None}}], "iou": 0.6}
WHOLE = SMALL | {
    "teacher": ENSEMBLE | {"tta": {"flip": True, "scales": [0.8, 1.0]}, "floor": 0.1},
    "truth": {"source": "t.json", "group": "folder", "certify": "new.json"},
    "test": "t.json#test",
    "labelled": {"source": "l", "format": "voc", "counted_from": 1},
    "keep": {"precision": {"target": 0.8, "iou": 0.75}, "ignore": {"a": 0.2, "*": 0.3}, "classes": {"map": {"a": "b"}}, "where": "score > 0.5"},
    "gates": {"density": {"warn": 2, "fail": None}, "coverage": "off"},
    "parent": "x@v1",
    "images": {"near_duplicates": 4, "range": 4095},
    "shards": {"max_mb": 1},
    "max_failure_rate": 0.5,
}  # fmt: skip
ODD = (
    ".nan",
    "-.inf",
    "0x10",
    "1_0",
    "1:30",
    "=",
    "<<",
    "~",
    "{1: 2}",
    "{[a]: 2}",
    "{<<: {a: 1}}",
    "&a [*a]",
    "!!int x",
    "2026-02-30",
)
"""YAML that is no JSON."""  # fmt: skip

LIKELY = (None, True, 0, 1, 5, 0.5, 4095, "a", "x@v1", "coco", "drop", "fail", "ignore", "data", "score < 1", {"a": 0.5}, {"source": "a"}, {"spec": "onnx:a.onnx"}, ["a", "b"])  # fmt: skip


@st.composite
def recipes(draw: st.DrawFn) -> str:
    """A recipe with other values at one or two of all keys that there are, or below one of them."""
    whole = json.loads(json.dumps(draw(st.sampled_from((WHOLE, WHOLE, SMALL)))))
    odd: list[str] = []
    for _ in range(draw(st.sampled_from((1, 1, 2)))):
        path = draw(st.sampled_from(KNOWN)).split(".") + draw(st.sampled_from(([], [], [], ["a"], ["*"], [0])))
        section = whole
        for part in path[:-1]:
            if not isinstance(section.get(part), dict):
                section[part] = {}
            section = section[part]
        odd += [draw(st.sampled_from(ODD))]
        any_value = st.just(f"@{len(odd) - 1}@") | VALUES
        section[path[-1]] = draw(st.sampled_from(LIKELY) if draw(st.booleans()) else any_value)
    text = yaml.safe_dump(whole, allow_unicode=True)
    for n, value in enumerate(odd):
        text = text.replace(f"'@{n}@'", value)
    return text


def read(path: Path) -> Recipe | None:
    """None for a recipe that is refused in one sentence."""
    try:
        return load_recipe(path)
    except BuildError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    assert len(said) < 1000 + len(str(path))
    return None


def check(path: Path) -> None:
    """Refused, or the same when it is written and read again."""
    if recipe := read(path):
        path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), allow_unicode=True))
        assert load_recipe(path) == recipe


@settings(max_examples=INPUTS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=recipes())
@example(text=json.dumps(SMALL))
@example(text=json.dumps(WHOLE))
def test_any_values_at_any_keys_are_refused_or_read_again_as_they_are(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    check(tmp_path / "r.yaml")


@settings(max_examples=INPUTS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.sampled_from([yaml.safe_dump(WHOLE).encode(), json.dumps(WHOLE).encode()]).flatmap(mutated))
def test_any_bytes_are_refused_or_read_again_as_they_are(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(data)
    check(tmp_path / "r.yaml")

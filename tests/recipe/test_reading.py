"""Recipes that cannot be read: the likeliest key, and the line that is no YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from builder.cli.main import main
from builder.errors import BuildError
from builder.recipe.keys import keys, likeliest
from builder.recipe.reading import read_mapping
from builder.recipe.recipe import Recipe, load_recipe
from students.train.recipe import TrainRecipe

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

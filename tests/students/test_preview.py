"""`tutelage preview-augment`: pictures of what the network would learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from builder.cli.main import main
from builder.errors import BuildError
from builder.report.colours import VOID_COLOUR
from builder.report.paint import class_colour
from students.augment.preview import write_previews
from tests.helpers.coloured import ARCHS, NAMES, write_labelled
from tests.helpers.rectangles import write_rectangles


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["preview-augment", *map(str, arguments)])


def recipe(folder: Path, labelled: Path, **more: Any) -> Path:
    path = folder / "train.yaml"
    content = {"labelled": str(labelled), "steps": 1, "network": {"size": 64}} | more
    path.write_text(yaml.safe_dump(content))
    return path


def drawn(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def has(path: Path, colour: str) -> int:
    """Pixels of a picture in this colour."""
    return int((drawn(path) == list(bytes.fromhex(colour[1:]))).all(axis=2).sum())


@pytest.mark.parametrize("kind", ["detection", *sorted(ARCHS)])
def test_a_picture_shows_the_labels_of_every_kind(tmp_path: Path, kind: str) -> None:
    labelled = write_labelled(tmp_path / "labels", "instance" if kind == "detection" else kind, count=6)
    network = {"size": 64} | ({"arch": "maskrcnn"} if kind == "instance" else {})
    path = recipe(tmp_path, labelled, network=network, augment={"policy": "S4", "magnitude": 6})
    result = run(path, "--out", tmp_path / "p" / "it.png", "--count", 3, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"pictures": {"S4": str(tmp_path / "p" / "it.png")}}
    picture = tmp_path / "p" / "it.png"
    first = picture.read_bytes()
    if kind != "classification":
        assert all(has(picture, class_colour(label)) > 40 for label in range(len(NAMES)))
    assert (has(picture, VOID_COLOUR) > 100) == (kind == "semantic")
    height = len(drawn(picture))
    assert height > 3 * (440 if kind == "semantic" else 220)
    assert run(path, "--out", picture, "--count", 3).exit_code == 0 and picture.read_bytes() == first
    assert run(path, "--out", picture, "--count", 3, "--seed", 5).exit_code == 0 and picture.read_bytes() != first
    assert not [left for left in picture.parent.iterdir() if left != picture]


def test_the_first_column_is_the_image_as_it_is(tmp_path: Path) -> None:
    write_rectangles(tmp_path, 2, width=64, height=48)
    result = run(tmp_path / "scene_1.png", "--size", 64, "--count", 1, "--out", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    pictures = [tmp_path / f"a-S{n}.png" for n in (1, 2, 3, 4)]
    pixels = [drawn(path) for path in pictures]
    assert len({p.shape for p in pixels}) == 1 and not (tmp_path / "a.png").exists()
    for one in pixels:
        np.testing.assert_array_equal(one[30:150, :228], pixels[0][30:150, :228])
    assert (pixels[0][40, 100] == 100).all()  # the scene's grey
    assert len({p.tobytes() for p in pixels}) == 4


def test_images_come_from_files_folders_and_globs_spread_evenly(tmp_path: Path) -> None:
    write_rectangles(tmp_path / "a", 5)
    write_rectangles(tmp_path / "b", 3)
    heights = {}
    for name, sources in {"folder": [tmp_path / "a"], "two": [tmp_path / "a", tmp_path / "b" / "*.png"]}.items():
        for count in (2, 64):
            out = tmp_path / f"{name}{count}.png"
            result = run(*sources, "--policy", "S3", "--size", 32, "--count", count, "--out", out)
            assert result.exit_code == 0, result.output
            heights[name, count] = round((len(drawn(out)) - 22) / (220 + 18))
    assert heights == {("folder", 2): 2, ("folder", 64): 5, ("two", 2): 2, ("two", 64): 8}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 1, "nowhere does not exist"),
        (["empty"], 1, "holds no images"),
        (["bad.png"], 1, "bad.png cannot be used"),
        (["missing.yaml"], 1, "missing.yaml"),
        (["train.yaml", "more.png"], 2, "leave out more.png"),
        (["train.yaml", "--out", "it.jpg"], 2, "ends in .png"),
        (["train.yaml", "--policy", "S5"], 2, "S5"),
        (["train.yaml"], 1, "magnitude is no part of S2"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    recipe(tmp_path, tmp_path / "labels.json", augment={"policy": "S2", "magnitude": 4})
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert words in result.output and "Traceback" not in result.output
    assert not list(tmp_path.glob("augment*"))


def test_real_data_of_every_kind_is_drawn(tmp_path: Path, shared_data: Path) -> None:
    sets: dict[str, Any] = {
        "bccd": {"labelled": str(shared_data / "bccd" / "instances_val.json")},
        "camvid": {"labelled": str(shared_data / "camvid" / "val.txt")},
        "coco": {"labelled": str(shared_data / "coco" / "instances_val.json"), "network": {"arch": "maskrcnn"}},
    }
    for name, content in sets.items():
        path = tmp_path / f"{name}.yaml"
        content["network"] = {"size": 128, **content.get("network", {})}
        path.write_text(yaml.safe_dump({"steps": 1, **content}))
        result = run(path, "--policy", "S2", "--policy", "S4", "--count", 2, "--out", tmp_path / f"{name}.png")
        assert result.exit_code == 0, result.output
        assert all((tmp_path / f"{name}-{policy}.png").stat().st_size > 20_000 for policy in ("S2", "S4"))


def test_previews_from_python(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    one = write_previews([str(tmp_path / "a.png")], tmp_path / "out.png", ["S2"], size=64)
    assert one == {"S2": tmp_path / "out.png"} and one["S2"].is_file()
    several = write_previews([str(tmp_path)], tmp_path / "out.png", ["S1", "S2"], size=64, count=1)
    assert several == {name: tmp_path / f"out-{name}.png" for name in ("S1", "S2")}
    for sources, out, message in (
        (["a.png"], "out.jpg", "must be a PNG"),
        (["a.yaml", "a.png"], "out.png", "leave out a.png"),
    ):
        with pytest.raises(BuildError, match=message):
            write_previews(sources, tmp_path / out)

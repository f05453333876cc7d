"""`tutelage calibrate` and `tutelage sweep` on real files, and what the store holds of labelled images."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from builder import measure
from builder.build import build_pseudo
from builder.cli.evidence import calibrate, sweep
from builder.engine import silent
from builder.errors import BuildError
from builder.evidence.holdout import load_labels
from builder.evidence.on_truth import check_unseen
from builder.label.replay.replay import Replay
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from builder.truth.options import LabelOptions
from builder.truth.read import read_truth
from builder.truth.records import split
from teachers.base import TeacherOptions
from tests.helpers.pools import write_recipe, write_world


@pytest.fixture(scope="module")
def labelled_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world whose pool and truth are labelled, in `store`."""
    folder = tmp_path_factory.mktemp("world")
    recipe = write_world(folder, pool=20, truth=60)
    build_pseudo(load_recipe(recipe), Store(folder / "store"), root=folder, only="label")
    return folder


@pytest.fixture
def world(labelled_world: Path, tmp_path: Path) -> Path:
    """A copy of it at another place, whose images are scanned anew, and known by their bytes."""
    shutil.copytree(labelled_world, tmp_path / "world")
    return tmp_path / "world"


def run(command: Any, world: Path, *arguments: object, store: str = "store") -> Result:
    return CliRunner().invoke(command, [*map(str, arguments), "--store", str(world / store)], catch_exceptions=False)


def value(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def on_truth(world: Path) -> tuple[object, ...]:
    return ("--truth", world / "truth.json", "--truth-images", world / "truth")


def fingerprint(world: Path) -> str:
    (name,) = Store(world / "store").ids(world / "store" / "predictions")
    return name


def rewrite(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def truth_boxes(world: Path, half: int) -> tuple[set[str], int]:
    """The images of a half, and their objects."""
    part = split(read_truth(world / "truth.json", world / "truth"))[half]
    return {image.name for image in part.images}, sum(len(image.labels) for image in part.images)


def test_calibrate_says_what_the_labels_say(world: Path) -> None:
    found = value(run(calibrate, world, world / "recipe.yaml", "--json", "--per-class"))
    names, objects = truth_boxes(world, 0)
    assert (found["half"], found["images"]) == ("tune", {"all": 60, "tune": len(names), "left_out": 0})
    listing = json.loads((world / "listing.json").read_text())["images"]
    ids = {image["id"] for image in listing if image["file_name"] in names}
    results = [r for r in json.loads((world / "results.json").read_text()) if r["image_id"] in ids]
    results = [r for r in results if r["score"] >= 0.05]
    assert found["predicted"] == len(results)
    (whole,) = (g for g in found["groups"] if g["class"] is None and g["size"] == "all")
    assert whole["objects"] == objects
    assert whole["kept"][9] == sum(r["score"] >= 0.5 for r in results)
    assert whole["recall"][9] == pytest.approx(whole["precision"][9] * whole["kept"][9] / objects)
    classes = [g for g in found["groups"] if g["class"] and g["size"] == "all"]
    assert sum(g["objects"] for g in classes) == objects
    sizes = [g for g in found["groups"] if g["class"] is None]
    assert [(g["size"], g["objects"]) for g in sizes[1:]] == [("small", objects), ("medium", 0), ("large", 0)]
    assert found["expected_calibration_error"]["raw"] < 0.2  # this teacher's scores are true
    assert found["calibrators"]["isotonic"]["classes"] == ["cat", "dog"]


def test_the_certify_half_is_not_touched_and_order_does_not_matter(world: Path) -> None:
    before = [run(command, world, world / "recipe.yaml", "--json").stdout for command in (calibrate, sweep)]
    certify, _ = truth_boxes(world, 1)

    def change(content: dict[str, Any]) -> None:
        gone = {image["id"] for image in content["images"] if image["file_name"] in certify}
        content["annotations"] = [note for note in content["annotations"][::-1] if note["image_id"] not in gone]
        content["images"].reverse()

    rewrite(world / "truth.json", change)
    after = [run(command, world, world / "recipe.yaml", "--json").stdout for command in (calibrate, sweep)]
    assert before == after


def test_sweep_counts_the_pool(world: Path) -> None:
    found = value(run(sweep, world, world / "recipe.yaml", "--json", "--per-class"))
    pool = {i["id"] for i in json.loads((world / "listing.json").read_text())["images"] if i["side"] == "pool"}
    scores = [r["score"] for r in json.loads((world / "results.json").read_text()) if r["image_id"] in pool]
    points = found["points"]["all classes"]
    assert found["pool_images"] == 20 and found["calibration"] == "none"
    assert set(found["points"]) == {"all classes", "cat", "dog"}
    for n, point in enumerate(points):
        assert point["pool_boxes"] == (np.array(scores, np.float32) >= np.float32(point["threshold"])).sum()
        assert point["pool_boxes"] == sum(found["points"][name][n]["pool_boxes"] for name in ("cat", "dog")) or any(
            points[n]["is_density"] for points in found["points"].values()
        )
    (density,) = [point for point in points if point["is_density"]]
    assert density["per_image"] <= density["objects_per_image"]


def test_sweep_acts_on_calibrated_scores_where_the_recipe_does(world: Path) -> None:
    raw = value(run(sweep, world, world / "recipe.yaml", "--json"))["points"]["all classes"]
    truth = {"source": "truth.json", "images": "truth"}
    write_recipe(world, truth=truth, keep={"score": 0.5, "calibration": "isotonic"})
    found = value(run(sweep, world, world / "recipe.yaml", "--json"))
    assert found["calibration"] == "isotonic"
    assert found["points"]["all classes"] != raw
    assert "calibrated, isotonic" in run(sweep, world, world / "recipe.yaml").output


def test_nms_and_cap_of_the_recipe_come_first(world: Path) -> None:
    truth = {"source": "truth.json", "images": "truth"}
    write_recipe(world, truth=truth, keep={"score": 0.5, "max_per_image": 1})
    found = value(run(sweep, world, world / "recipe.yaml", "--json"))
    assert found["predicted"] == found["images"]["tune"]
    assert max(point["per_image"] for point in found["points"]["all classes"]) <= 1


@pytest.mark.parametrize("command", [calibrate, sweep])
def test_tables_and_plots(world: Path, command: Any) -> None:
    plots = []
    for name in ("one.png", "two.png"):
        result = run(command, world, world / "recipe.yaml", "--per-class", "--plot", world / name)
        assert result.exit_code == 0, result.output
        assert "of 60 images; the certify half is not used" in result.output
        plots.append((world / name).read_bytes())
    assert plots[0] == plots[1]
    with Image.open(world / "one.png") as picture:
        assert picture.size[0] > 1000


def test_predictions_by_prefix_find_their_pool(world: Path) -> None:
    prefix = fingerprint(world)[:6]
    by_recipe = value(run(sweep, world, world / "recipe.yaml", "--json"))
    by_prefix = value(run(sweep, world, prefix, *on_truth(world), "--json", "--pool", world / "pool"))
    assert by_recipe["points"] == by_prefix["points"]


def test_truth_that_is_not_labelled_names_the_next_step(world: Path) -> None:
    name = fingerprint(world)
    shutil.copytree(world / "truth", world / "other")
    for n, path in enumerate(sorted((world / "other").iterdir())):
        Image.new("RGB", (64, 48), (4 * n, 255 - 4 * n, 37 * n % 256)).save(
            path
        )  # other pixels: other images, of the same names
    options = ("--truth", world / "truth.json", "--truth-images", world / "other", "--json")
    result = run(calibrate, world, name[:8], *options)
    assert result.exit_code == 1
    assert f"60 of the 60 images of {world / 'truth.json'} are not labelled by {name[:12]}" in result.output
    assert "with the teacher replay:results.json" in result.output
    teacher = ("--teacher", f"replay:{world / 'results.json'}", "--set", f"images={world / 'listing.json'}")
    found = value(run(calibrate, world, name[:8], *options, *teacher))
    assert found["predicted"] > 50
    assert value(run(calibrate, world, name[:8], *options)) == found


def test_another_teacher_is_refused(world: Path) -> None:
    teacher = ("--teacher", f"replay:{world / 'results.json'}", "--set", f"images={world / 'listing.json'}")
    result = run(calibrate, world, fingerprint(world), *on_truth(world), *teacher, "--set", "floor=0.2")
    assert result.exit_code == 1
    assert "is not the one that made predictions" in result.output and "floor is 0.05, not 0.2" in result.output


def test_images_that_cannot_be_used_are_left_out_and_counted(world: Path) -> None:
    tune, _ = truth_boxes(world, 0)
    first, second, third, *_ = sorted(tune)
    (world / "truth" / first).write_bytes(b"no image")
    shutil.copy(world / "truth" / second, world / "truth" / third)
    found = value(run(calibrate, world, world / "recipe.yaml", "--json"))
    assert found["images"] == {"all": 60, "tune": len(tune), "left_out": 2}
    text = run(calibrate, world, world / "recipe.yaml").output
    assert "2 left out (unreadable or duplicates)" in text


def rename(content: dict[str, Any]) -> None:
    for n, category in enumerate(content["categories"]):
        category["name"] = f"other {n}"


def keep_certify(content: dict[str, Any]) -> None:
    names = truth_of_certify(content)
    content["images"] = [image for image in content["images"] if image["file_name"] in names]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [note for note in content["annotations"] if note["image_id"] in ids]


def truth_of_certify(content: dict[str, Any]) -> set[str]:
    names = [image["file_name"] for image in content["images"]]
    return {name for name in names if hashlib.sha256(name.encode()).digest()[-1] & 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, "share no class name"),
        (keep_certify, "falls into the tune half"),
    ],
)
def test_labels_that_do_not_serve(world: Path, change: Any, message: str) -> None:
    rewrite(world / "truth.json", change)
    result = run(calibrate, world, world / "recipe.yaml")
    assert result.exit_code == 1 and message in result.output


def test_labels_of_turned_images_are_refused(world: Path) -> None:
    tune, _ = truth_boxes(world, 0)

    def turn(content: dict[str, Any]) -> None:
        for image in content["images"]:
            if image["file_name"] == min(tune):
                image["width"], image["height"] = image["height"], image["width"]

    rewrite(world / "truth.json", turn)
    result = run(calibrate, world, world / "recipe.yaml")
    assert result.exit_code == 1
    assert "is 64x48 upright, but its labels were made for 48x64" in result.output


def test_a_pool_that_is_not_labelled_or_not_the_only_one(world: Path) -> None:
    result = run(sweep, world, world / "recipe.yaml", store="empty")
    assert result.exit_code == 1 and "20 images of the pool of" in result.output and "--only label" in result.output
    name = fingerprint(world)
    result = run(sweep, world, name, *on_truth(world), "--pool", world / "nowhere")
    assert result.exit_code == 1 and "no pool" in result.output
    (world / "pool" / "image_00000.jpg").unlink()
    build_pseudo(load_recipe(world / "recipe.yaml"), Store(world / "store"), root=world, only="label")
    result = run(sweep, world, name, *on_truth(world))
    assert result.exit_code == 1 and "are of several pools: give the pool, one of" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aaaa"], "--truth LABELS is missing"),
        (["aaaa", "--truth", "t", "--set", "floor=.1"], "--set belongs to --teacher"),
        (["recipe.yaml", "--teacher", "onnx:x"], "names the teacher"),
        (["recipe.yaml", "--group", "folder"], "belong to --truth LABELS"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], message: str) -> None:
    for command in (calibrate, sweep):
        result = CliRunner().invoke(command, [*arguments, "--store", str(tmp_path / "store")])
        assert result.exit_code == 2 and message in result.output
        assert not (tmp_path / "store").exists()


def test_a_teacher_that_has_seen_the_labelled_images(world: Path) -> None:
    options = LabelOptions(source=str(world / "truth.json"), images=str(world / "truth"))
    store = Store(world / "store")
    labels = load_labels(options, store, written="truth.json", workers=1, track=silent)
    replay = Replay(world / "results.json", world / "listing.json", TeacherOptions())
    check_unseen(labels, replay)
    first = min(labels.pool.images(), key=lambda image: image.name)
    replay.trained_on = frozenset([first.sha256])
    with pytest.raises(BuildError, match=rf"1 of the 60 images of truth\.json \({first.name} first\)"):
        check_unseen(labels, replay)


def test_a_recipe_without_labels(world: Path) -> None:
    write_recipe(world)
    result = run(calibrate, world, world / "recipe.yaml")
    assert result.exit_code == 1 and "names no held-out labels" in result.output
    assert value(run(calibrate, world, world / "recipe.yaml", *on_truth(world), "--json"))["predicted"] > 50


@pytest.mark.parametrize("command", [calibrate, sweep])
def test_the_option_that_messages_advise_is_there(world: Path, command: Any) -> None:
    """Labels whose images lie elsewhere: `--images DIR`, as the readers of labels say, mends it."""
    (world / "elsewhere").mkdir()
    (world / "truth.json").rename(world / "elsewhere" / "truth.json")
    asked = [world / "recipe.yaml", "--truth", world / "elsewhere" / "truth.json"]
    result = run(command, world, *asked)
    assert result.exit_code == 1 and "--images DIR" in result.output
    assert run(command, world, *asked, "--images", world / "truth").exit_code == 0


# --- from Python ------------------------------------------------------------------------------------------------------


def held_out(world: Path) -> LabelOptions:
    return LabelOptions(source=str(world / "truth.json"), images=str(world / "truth"))


def test_what_the_commands_print_is_what_the_functions_return(world: Path, tmp_path: Path) -> None:
    store = Store(world / "store")
    options = measure.MeasureOptions(truth=held_out(world), per_class=True)
    (predictions,) = store.ids(store.predictions)
    calibration = measure.calibrate(predictions[:8], store, options)
    printed = value(run(calibrate, world, predictions[:8], *on_truth(world), "--per-class", "--json"))
    assert json.loads(json.dumps(calibration.figures)) == printed
    swept = measure.sweep(str(world / "recipe.yaml"), store, options)
    printed = value(run(sweep, world, world / "recipe.yaml", *on_truth(world), "--per-class", "--json"))
    points = {name: [asdict(point) for point in points] for name, points in swept.points.items()}
    needs = [asdict(need) for need in swept.needs]
    assert json.loads(json.dumps({**swept.figures, "points": points, "plan": needs})) == printed
    for result, name in ((calibration, "calibrate.png"), (swept, "sweep.png")):
        result.plot(tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.format == "PNG" and picture.size[0] > 100


@pytest.mark.parametrize(
    ("predictions", "options", "message"),
    [
        ("stored", {}, "come without labels"),
        ("stored", {"truth": {"source": "t.json"}, "teacher_options": ["floor=0.1"]}, "need the teacher's spec"),
        ("recipe.yaml", {"teacher": "onnx:a.onnx"}, "names the teacher"),
        ("recipe.yaml", {}, "names no held-out labels"),
    ],
)
def test_options_that_do_not_go_together(
    world: Path, predictions: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    write_recipe(world)
    if predictions == "stored":
        (predictions,) = Store(world / "store").ids(Store(world / "store").predictions)
    for function in (measure.calibrate, measure.sweep):
        with pytest.raises(BuildError, match=message):
            function(predictions, Store(world / "store"), measure.MeasureOptions.model_validate(options))

"""The alarm before an absurd version: it stops what no working model says, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from builder.cli.main import main
from builder.label.labelling import label_pool
from builder.label.model import ModelLabeller
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from teachers import load_teacher
from teachers.base import ClassProbabilities, Detections, Prediction, Teacher, TeacherError, TeacherOptions, Views
from teachers.fused.ensemble import EnsembleTeacher, Member
from teachers.fused.views import ViewsTeacher
from tests import ROOT

IMAGES, WIDTH, HEIGHT = 40, 64, 48
Answer = Callable[[np.random.Generator], Prediction]


class Says:
    """A teacher of a family that answers every image by a function of chance."""

    batch_size = 8

    def __init__(self, answer: Answer, classes: int, family: str) -> None:
        self.classes = tuple(f"class {n}" for n in range(classes))
        self.chance, self.answer = np.random.default_rng(0), answer
        kind = "classification" if isinstance(answer(self.chance), ClassProbabilities) else "detection"
        self.description = {"kind": kind, "family": family, "classes": list(self.classes), "floor": 0.05}
        self.runtime: dict[str, Any] = {}

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        return [self.answer(self.chance) for _ in images]


def boxes(
    count: int,
    scores: Callable[[np.random.Generator, int], Any] = lambda chance, n: chance.uniform(0.05, 1, n),
    labels: Callable[[np.random.Generator, int], Any] = lambda chance, n: chance.integers(0, 3, n),
    change: Callable[[np.ndarray], np.ndarray] = lambda corners: corners,
) -> Answer:
    """So many boxes on an image, anywhere, changed as a wrong reading would."""

    def answer(chance: np.random.Generator) -> Detections:
        centre, half = chance.uniform((4, 4), (60, 44), (count, 2)), chance.uniform(2, 10, (count, 2))
        corners = change(np.concatenate([centre - half, centre + half], 1))
        given = scores(chance, count), labels(chance, count)
        return Detections.of(corners, *given, width=WIDTH, height=HEIGHT, floor=0.05)

    return answer


def sure_of(top: float, place: Callable[[np.random.Generator], int], classes: int = 10) -> Answer:
    """A classifier that gives one class so much."""

    def answer(chance: np.random.Generator) -> ClassProbabilities:
        probabilities = np.full(classes, (1 - top) / classes, np.float32)
        probabilities[place(chance)] = top - chance.uniform(0, 1e-3)
        return ClassProbabilities(probabilities)

    return answer


def ones(chance: np.random.Generator, count: int) -> np.ndarray:
    return 1 - chance.uniform(0, 5e-4, count)


def constant(chance: np.random.Generator, count: int) -> np.ndarray:
    return np.full(count, 0.9)


def first_class(chance: np.random.Generator, count: int) -> np.ndarray:
    return np.zeros(count, int)


def as_sides(corners: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2 taken for cx cy w h."""
    return np.concatenate([corners[:, :2] - corners[:, 2:] / 2, corners[:, :2] + corners[:, 2:] / 2], 1)


def pool_of(folder: Path, images: int, still: bool = False) -> Path:
    """Images of noise, or one scene of which a pixel changes."""
    (folder / "pool").mkdir(parents=True)
    for n in range(images):
        pixels = np.random.default_rng(0 if still else n).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        pixels[0, 0] = n
        Image.fromarray(pixels).save(folder / "pool" / f"{n:03}.png")
    return folder / "pool"


def label(folder: Path, teacher: Teacher, images: int = IMAGES, alarm: bool = True, still: bool = False) -> int:
    store = Store(folder / "store")
    pool = scan_pool(str(pool_of(folder, images, still)), store)
    return label_pool(pool, ModelLabeller(teacher, 1, alarm), store, spec="says").images_labelled


@pytest.mark.parametrize(
    ("answer", "classes", "message"),
    [
        (boxes(4, change=lambda c: c / np.tile([WIDTH, HEIGHT], 2)), 3, "lie in the upper left corner, within"),
        (boxes(4, change=lambda c: c[:, [2, 3, 0, 1]]), 3, "127 of 127 boxes have no area inside their image"),
        (boxes(4, change=lambda c: c * 64), 3, "boxes have no area inside their image"),
        (boxes(4, change=lambda c: c * [1, 1, 3, 3]), 3, "boxes reach far beyond their image"),
        (boxes(4, scores=ones), 3, "160 of 160 scores are 0.999 or more"),
        (boxes(4, scores=constant), 3, "160 of 160 scores are 0.9"),
        (boxes(4, scores=ones, labels=first_class), 80, "160 are of one of 80 classes"),
        (boxes(1200), 3, "boxes of .5 or more on an image"),
        (boxes(4, change=lambda c: c * 0 + [1, 2, 30, 40]), 3, "160 boxes lie in 1 places"),
    ],
)
def test_what_cannot_be_is_stopped_and_nothing_is_stored(
    tmp_path: Path, answer: Answer, classes: int, message: str
) -> None:
    with pytest.raises(TeacherError, match=message) as error:
        label(tmp_path / "on", Says(answer, classes, "onnx"))
    assert "if it is right, set the teacher option alarm to false (or --no-alarm)" in str(error.value)
    assert "\n" not in str(error.value)
    assert not [path for path in (tmp_path / "on" / "store" / "predictions").glob("*/*") if path.is_dir()]
    assert label(tmp_path / "off", Says(answer, classes, "onnx"), alarm=False) == IMAGES


def test_what_vanished_of_a_member_is_told_of_the_ensemble(tmp_path: Path) -> None:
    turned = Says(boxes(4, change=lambda c: c[:, [2, 3, 0, 1]]), 3, "onnx")
    for n, teacher in enumerate((EnsembleTeacher([Member(turned)]), ViewsTeacher(turned, Views(flip=True)))):
        with pytest.raises(TeacherError, match=r"\d+ of \d+ boxes have no area inside their image"):
            label(tmp_path / str(n), teacher)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (sure_of(1.0, lambda chance: 3), "120 are of one of 10 classes, 120 with 0.999 or more"),
        (lambda chance: ClassProbabilities(np.array([0.2, 0.5, 0.3], np.float32)), "all have the same probabilities"),
    ],
)
def test_a_classifier_that_sees_nothing_is_stopped(tmp_path: Path, answer: Answer, message: str) -> None:
    classes = 10 if "10 classes" in message else 3
    with pytest.raises(TeacherError, match=message):
        label(tmp_path, Says(answer, classes, "onnx"), 120)


@pytest.mark.parametrize(
    ("answer", "classes", "family"),
    [
        (boxes(4), 3, "onnx"),
        (boxes(4, labels=first_class), 1, "onnx"),  # of one class
        (boxes(4, labels=first_class), 80, "onnx"),  # in a street of cars
        (boxes(150), 3, "onnx"),  # cells
        (boxes(150, labels=first_class), 3, "onnx"),
        (boxes(4, scores=constant), 3, "own"),  # a rule of the user's, not a network
        (boxes(4, change=lambda c: c * 0 + [1, 2, 30, 40]), 3, "own"),
        (boxes(1, scores=constant, labels=first_class), 3, "onnx"),  # too few to tell
        (boxes(0), 3, "onnx"),
        (boxes(4, change=lambda c: c - [6, 6, 0, 0]), 3, "onnx"),  # guesses what is cut off
        (boxes(4, scores=lambda chance, n: np.where(chance.random(n) < 0.6, 0.9999, 0.8)), 3, "onnx"),
        (sure_of(1.0, lambda chance: int(chance.integers(10))), 10, "onnx"),  # overconfident
        (sure_of(0.9, lambda chance: 3), 10, "onnx"),  # a pool of one class
    ],
)
def test_what_can_be_passes(tmp_path: Path, answer: Answer, classes: int, family: str) -> None:
    assert label(tmp_path, Says(answer, classes, family)) == IMAGES


def test_the_same_boxes_pass_on_the_same_scene(tmp_path: Path) -> None:
    """A fixed camera: three parked cars by the same score on every frame."""
    parked = boxes(3, scores=constant, labels=first_class, change=lambda c: c * 0 + [1, 2, 30, 40])
    assert label(tmp_path / "still", Says(parked, 80, "onnx"), still=True) == IMAGES
    with pytest.raises(
        TeacherError, match=r"120 of 120 scores are 0.9, 120 boxes lie in 1 places, 120 are of one of 80"
    ):
        label(tmp_path / "moving", Says(parked, 80, "onnx"))


# ---- ONNX files read in the wrong format


def write_rtdetr(folder: Path, **spec: Any) -> Path:
    """A model that finds on every image of 320 x 160 the box 40, 20, 100, 90, class 1 by .9, among 300 rows: in shares of
    the image, centre and sides; and how its YAML file reads it."""
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 140] = [70 / 320, 55 / 160, 60 / 320, 70 / 160, 0.9, 1]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    answer = helper.make_tensor_value_info("output0", TensorProto.FLOAT, rows.shape)
    nodes = [helper.make_node("Identity", ["raw"], ["output0"])]
    graph = helper.make_graph(nodes, "rtdetr", [image], [answer], [numpy_helper.from_array(rows, "raw")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "m.onnx")
    content = {"decoder": "nms", "classes": ["red", "blue"], "input": {"scale": "1/255", "fit": "stretch"}, **spec}
    (folder / "m.yaml").write_text(yaml.safe_dump(content))
    (folder / "pool").mkdir()
    for n in range(4):
        Image.new("RGB", (320, 160), (n * 9, 0, 0)).save(folder / "pool" / f"{n}.png")
    recipe = {"name": "r", "pool": "pool", "teacher": {"spec": "onnx:m.onnx"}, "keep": {"score": 0.5}}
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "r.yaml"


def build(recipe: Path, *more: str) -> tuple[int, str]:
    arguments = ["build", str(recipe), "--store", str(recipe.parent / "store"), "--no-report", *more]
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_rows_read_rightly_are_kept(tmp_path: Path) -> None:
    code, output = build(write_rtdetr(tmp_path, boxes="cxcywh", normalized=True), "--json")
    assert code == 0, output
    assert '"kept": 4' in output


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "4 of 4 boxes have no area inside their image: check boxes, normalized, columns, outputs and scale"),
        ({"boxes": "cxcywh"}, "all 4 boxes lie in the upper left corner"),
        ({"boxes": "xywh"}, "all 4 boxes lie in the upper left corner"),
        ({"normalized": True}, "4 of 4 boxes have no area"),
        ({"boxes": "cxcywh", "normalized": True, "columns": ["label", "score", "box"]}, "read the|no area|no probab"),
    ],
)
def test_rows_read_wrongly_make_no_version(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    code, output = build(write_rtdetr(tmp_path, **spec))
    assert code == 1
    assert any(part in output for part in message.split("|")), output
    assert not list((tmp_path / "store" / "datasets").glob("r/v*"))


def test_the_alarm_can_be_told_off(tmp_path: Path) -> None:
    recipe = write_rtdetr(tmp_path)
    assert "no-alarm" in build(recipe)[1]
    assert build(recipe, "--no-alarm", "--allow-empty")[0] == 0
    recipe.write_text(recipe.read_text().replace("spec:", "alarm: false\n  spec:"))
    assert build(recipe, "--allow-empty")[0] == 0


# ---- the shared models


@pytest.mark.parametrize(
    ("example", "model", "images", "scale", "stops"),
    [
        ("coco_yolox/yolox_nano_416.yaml", "yolox_nano_416.onnx", "coco/images", 1, False),
        ("coco_yolox/yolox_nano_416.yaml", "yolox_nano_416.onnx", "bccd/images", 1, False),
        ("cifar10_resnet20/cifar10_resnet20.yaml", "cifar10_resnet20.onnx", "cifar10/pool", 1 / 255, False),
        ("cifar10_resnet20/cifar10_resnet20.yaml", "cifar10_resnet20.onnx", "cifar10/pool", 1, True),
    ],
)
def test_the_alarm_and_the_shared_models(
    tmp_path: Path, shared_data: Path, example: str, model: str, images: str, scale: float, stops: bool
) -> None:
    spec = yaml.safe_load((ROOT / "examples" / example).read_text())
    spec["input"]["scale"] = scale
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(spec))
    teacher = load_teacher(f"onnx:{tmp_path / 'm.yaml'}", TeacherOptions(weights=str(shared_data / "models" / model)))
    files = sorted((shared_data / images).iterdir())
    files = files[:: max(1, len(files) // (30 if "yolox" in model else 300))]
    (tmp_path / "pool.txt").write_text("\n".join(map(str, files)))
    store = Store(tmp_path / "store")
    pool = scan_pool(str(tmp_path / "pool.txt"), store)
    if stops:
        with pytest.raises(TeacherError, match=r"cannot be right: .*check scale, mean and std"):
            label_pool(pool, ModelLabeller(teacher, 1), store, spec="shared")
    else:
        assert label_pool(pool, ModelLabeller(teacher, 1), store, spec="shared").images_labelled == len(files)

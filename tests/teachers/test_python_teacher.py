"""Teachers of the user's own: `python:module:factory`."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from teachers import load_teacher
from teachers.base import ClassProbabilities, Detections, SemanticMap, TeacherError, TeacherOptions

SOURCE = """
import numpy as np
from teachers.base import ClassProbabilities, Detections, SemanticMap


class Own:
    classes = ("cat", "dog")
    batch_size = 4
    description = {{"kind": "{kind}", "classes": ["cat", "dog"], "floor": 0.0, "version": 1}}
    runtime = {{"device": "cpu"}}

    def predict(self, images):
        return [{one} for image in images]


def factory(options):
    options.refuse("Own", "min_size")
    teacher = Own()
    {change}
    return teacher
"""
BOX = "Detections.of([[1, 2, 3, 4]], [0.5], [1], width=image.shape[1], height=image.shape[0])"
PLANE = "SemanticMap(np.zeros(image.shape[:2], np.uint8), np.zeros(image.shape[:2], np.uint8))"
CLASS = "ClassProbabilities(np.array([0.25, 0.75], np.float32))"
IMAGES = [np.zeros((8, 9, 3), np.uint8), np.zeros((5, 6, 3), np.uint8)]
numbers = itertools.count()


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes the module, in the working directory, and gives its spec; each has a name of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(kind: str = "detection", one: str = BOX, change: str = "pass", source: str = SOURCE) -> str:
        name = f"own_teacher_{next(numbers)}"
        Path(f"{name}.py").write_text(source.format(kind=kind, one=one, change=change))
        return f"python:{name}:factory"

    return write


@pytest.mark.parametrize(
    ("kind", "one", "expected"),
    [("detection", BOX, Detections), ("semantic", PLANE, SemanticMap), ("classification", CLASS, ClassProbabilities)],
)
def test_a_factory_makes_a_teacher(spec: Callable[..., str], kind: str, one: str, expected: type) -> None:
    teacher = load_teacher(spec(kind, one), allow_code=True)
    assert (teacher.classes, teacher.batch_size) == (("cat", "dog"), 4)
    assert teacher.description == {"kind": kind, "classes": ["cat", "dog"], "floor": 0.0, "version": 1}
    found = teacher.predict(IMAGES)
    assert [type(one) for one in found] == [expected] * 2
    assert teacher.predict([]) == []
    assert not hasattr(teacher, "predict_probabilities")


def test_probabilities_of_pixels_are_handed_on(spec: Callable[..., str]) -> None:
    change = "Own.predict_probabilities = lambda self, images: [np.ones((2, *i.shape[:2])) for i in images]"
    teacher = load_teacher(spec("semantic", PLANE, change), allow_code=True)
    planes = teacher.predict_probabilities(IMAGES)  # type: ignore[attr-defined]
    assert [(plane.dtype, plane.shape) for plane in planes] == [(np.float32, (2, 8, 9)), (np.float32, (2, 5, 6))]
    change = change.replace("(2, *", "(3, *")
    teacher = load_teacher(spec("semantic", PLANE, change), allow_code=True)
    with pytest.raises(TeacherError, match="probabilities of other shapes"):
        teacher.predict_probabilities(IMAGES)  # type: ignore[attr-defined]


def test_no_code_runs_unless_it_is_allowed(spec: Callable[..., str]) -> None:
    source = "raise SystemExit(SOURCE)\n" + SOURCE
    with pytest.raises(
        TeacherError, match=r"^python:own_teacher_\d+:factory would run code .*add --allow-code \(allow_code=True\)$"
    ):
        load_teacher(spec(source=source))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("del Own.predict", "gave a Own without predict: see"),
        ("Own.classes = ['cat', 'dog']", r"has classes \['cat', 'dog'\]: give a tuple"),
        ("Own.classes = ('cat', 'cat')", "give a tuple of different names"),
        ("Own.classes = ('dog', 'cat')", "describes other classes than it has"),
        ("Own.batch_size = 0", "has batch_size 0: give a whole number"),
        ("del Own.description['floor']", "has a description without floor: add"),
        ("Own.description['kind'] = 'keypoints'", "has kind 'keypoints': write one of detection, instance"),
        ("Own.description['weights'] = Own", "has a description or runtime that is no JSON: TypeError: "),
        ("1 / 0", r"python:own_teacher_\d+:factory failed: ZeroDivisionError: division by zero"),
        ("teacher = None", "gave a NoneType without classes"),
        ("Own.description = None", "has a description that is no mapping: None"),
        ("Own.description['classes'] = None", "describes other classes than it has"),
        ("Own.description['floor'] = 'low'", "has floor 'low': give the lowest score"),
    ],
)
def test_a_factory_that_breaks_the_protocol_is_refused(spec: Callable[..., str], change: str, message: str) -> None:
    with pytest.raises(TeacherError, match=message) as error:
        load_teacher(spec(change=change), allow_code=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "one", "message"),
    [
        ("detection", CLASS, "gave ClassProbabilities for kind detection: give Detections"),
        ("instance", BOX, "gave Detections for kind instance: give Detections with masks"),
        ("detection", BOX.replace("[1],", "[2],"), "gave a label outside of its 2 classes: 2"),
        ("semantic", PLANE.replace("image.shape[:2]", "(3, 3)"), r"gave a map \(3, 3\) for an image \(8, 9\)"),
        ("semantic", PLANE.replace("zeros", "full", 1).replace("[:2],", "[:2], 254,", 1), "gave a label outside"),
        ("classification", CLASS.replace("0.25, ", ""), "gave 1 probabilities for 2 classes"),
        ("detection", f"{BOX} for _ in range(2)", "gave 4 predictions for 2 images"),
        ("detection", "image.nonsense", "failed: AttributeError: "),
        ("detection", BOX.replace("[0.5]", "[5.0]"), "a score must lie between 0 and 1, not 5: give"),
        ("detection", BOX.replace("[1],", "[65537],", 1), "a label must be a whole number below 32768, not 65537"),
        ("detection", BOX.replace("[1],", "[float('nan')],", 1), "a label must be a whole number below 32768, not nan"),
        ("detection", BOX.replace("[1],", "[1], quality=[float('nan')],", 1), "hold a NaN"),
        ("detection", BOX.replace("[1],", "[1], quality=[97],", 1), "quality must lie between -1 and 2, not 97: scale"),
        (
            "detection",
            BOX.replace("[1],", "[1], uncertainty=[-0.1],", 1),
            r"uncertainty must .* 0 and 1e\+09, not -0.1",
        ),
        ("detection", BOX.replace("[1],", "[1], agree=[-1],", 1), "agree must lie between 0 and 32767, not -1"),
        ("instance", BOX.replace("[1],", "[1], masks=(b'0P1',),", 1), "gave a mask that is no code of 8 x 9 pixels"),
    ],
)
def test_wrong_predictions_fail_the_batch(spec: Callable[..., str], kind: str, one: str, message: str) -> None:
    teacher = load_teacher(spec(kind, one), allow_code=True)
    with pytest.raises(TeacherError, match=message) as error:
        teacher.predict(IMAGES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["Own.predict = lambda self, images: None", "Own.predict = late"])
def test_what_fails_after_the_call_is_a_sentence_too(spec: Callable[..., str], change: str) -> None:
    late = "def late(self, images):\n    yield 1 / 0\n\n\n"
    teacher = load_teacher(spec(change=change, source=late + SOURCE), allow_code=True)
    with pytest.raises(TeacherError, match=r"failed: (TypeError|ZeroDivisionError): "):
        teacher.predict(IMAGES)


def test_boxes_are_brought_to_what_other_teachers_give(spec: Callable[..., str]) -> None:
    own = (
        "Detections(np.array([[-9, 1, 3, 4], [0, 0, 99, 2], [5, 5, 4, 6], [1, 1, 2, 2]], np.float32), "
        "np.array([0.5, 0.9, 0.8, 0.01], np.float32), np.array([0, 1, 0, 0], np.int16))"
    )
    found = load_teacher(spec(one=own, change="Own.description['floor'] = 0.05"), allow_code=True).predict(IMAGES)[0]
    assert isinstance(found, Detections)
    np.testing.assert_array_equal(found.boxes, [[0, 0, 9, 2], [0, 1, 3, 4]])
    np.testing.assert_array_equal(found.labels, [1, 0])


def test_boxes_in_shares_of_the_image_are_refused(spec: Callable[..., str]) -> None:
    own = "Detections(np.array([[{}]], np.float32), np.array([0.5], np.float32), np.array([1], np.int16))"
    shares = load_teacher(spec(one=own.format("0.25, 0.1, 0.75, 1")), allow_code=True)
    with pytest.raises(
        TeacherError, match=r"gave boxes as shares of the image, such as \[0.25, 0.1.*: give x1, y1, x2"
    ):
        shares.predict(IMAGES)
    for corners in ("0, 0, 1, 1", "0.25, 0.1, 0.75, 2"):
        assert len(load_teacher(spec(one=own.format(corners)), allow_code=True).predict(IMAGES)) == 2


def test_void_pixels_are_no_label(spec: Callable[..., str]) -> None:
    void = PLANE.replace("zeros", "full", 1).replace("[:2],", "[:2], 255,", 1)
    found = load_teacher(spec("semantic", void), allow_code=True).predict(IMAGES)
    assert (found[0].labels == 255).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:no_such_module:factory", "module no_such_module cannot be imported: ModuleNotFoundError"),
        ("python:json:factory", "module json has no function factory"),
        ("python:json:__name__", "module json has no function __name__"),
        ("python:json", "python:json names no factory: write python:package.module:factory"),
        ("python:", "unknown teacher 'python:': write one of torchvision:NAME, .*python:MODULE:FACTORY"),
    ],
)
def test_a_factory_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        load_teacher(name, allow_code=True)


def test_the_factory_gets_the_options(spec: Callable[..., str]) -> None:
    with pytest.raises(TeacherError, match="min_size=100 has no meaning for Own"):
        load_teacher(spec(), TeacherOptions(min_size=100), allow_code=True)

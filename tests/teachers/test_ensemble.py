"""Ensembles of teachers that say what the test tells them to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from teachers import masks
from teachers.base import (
    ClassProbabilities,
    Detections,
    Prediction,
    Segmenter,
    SemanticMap,
    Teacher,
    TeacherError,
    fingerprint,
)
from teachers.fused.ensemble import EnsembleTeacher, Member

SIZE = (40, 60)
IMAGE = np.zeros((*SIZE, 3), np.uint8)


class Says:
    """A teacher whose prediction of an image is the one at the place that the image's first pixel names."""

    def __init__(
        self, kind: str, classes: Sequence[str], said: Sequence[Any], batch_size: int = 2, **more: Any
    ) -> None:
        self.classes, self.batch_size, self._said = tuple(classes), batch_size, list(said)
        self.description = {"kind": kind, "classes": list(classes), "floor": 0.05, **more}
        self.runtime = {"device": "none"}
        self.largest = 0

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        self.largest = max(self.largest, len(images))
        return [self._said[image[0, 0, 0]] for image in images]


class SaysPixels(Says):
    def predict_probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.largest = max(self.largest, len(images))
        return [self._said[image[0, 0, 0]] for image in images]


def numbered(count: int) -> list[np.ndarray]:
    return [np.full((*SIZE, 3), n, np.uint8) for n in range(count)]


def boxes(rows: Sequence[Sequence[float]], **columns: Any) -> Detections:
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections.of(table[:, :4], table[:, 4], table[:, 5], width=SIZE[1], height=SIZE[0], **columns)


def detectors(*rows: Sequence[Sequence[float]], classes: Sequence[str] = ("a", "b")) -> list[Member]:
    return [Member(Says("detection", classes, [boxes(one)])) for one in rows]


def test_boxes_are_fused_and_agreeing_teachers_counted() -> None:
    members = detectors(
        [[0, 0, 10, 10, 0.9, 0], [30, 5, 40, 20, 0.6, 1], [20, 20, 30, 30, 0.1, 0]],
        [[0, 0, 10, 12, 0.6, 0], [30, 5, 40, 20, 0.3, 0]],
    )
    teacher = EnsembleTeacher(members)
    assert isinstance(teacher, Teacher)
    (found,) = teacher.predict([IMAGE])
    assert isinstance(found, Detections)
    np.testing.assert_allclose(found.scores, [0.75, 0.3, 0.15, 0.05], rtol=1e-6)
    np.testing.assert_allclose(found.boxes[0], [0, 0, 10, 10.8], rtol=1e-6)
    assert found.labels.tolist() == [0, 1, 0, 0]
    assert found.agree is not None and found.agree.tolist() == [2, 1, 1, 1]
    assert found.masks is None and found.quality is None


@pytest.mark.parametrize(("floor", "limit", "expected"), [(0.2, None, 2), (None, 1, 1), (0.16, 3, 2), (0.8, None, 0)])
def test_the_floor_and_the_limit_hold_after_fusion(floor: float | None, limit: int | None, expected: int) -> None:
    members = detectors(
        [[0, 0, 10, 10, 0.9, 0], [30, 5, 40, 20, 0.6, 1], [20, 20, 30, 30, 0.1, 0]], [[0, 0, 10, 12, 0.6, 0]]
    )
    (found,) = EnsembleTeacher(members, floor=floor, max_detections=limit).predict([IMAGE])
    assert isinstance(found, Detections) and len(found) == expected


def test_an_image_does_not_depend_on_its_batch_mates() -> None:
    rng = np.random.default_rng(0)
    said = []
    for _ in range(2):
        images = []
        for count in (12, 0, 30, 5, 1):
            corner = rng.uniform(0, 25, (count, 2))
            rows = np.c_[corner, corner + rng.uniform(3, 15, (count, 2)), rng.random(count), rng.integers(0, 3, count)]
            images.append(boxes(rows))
        said.append(images)
    teachers = [Says("detection", "abc", one, batch_size=n + 2) for n, one in enumerate(said)]
    teacher = EnsembleTeacher([Member(teachers[0], 2.0), Member(teachers[1])])
    together = teacher.predict(numbered(5))
    assert [one.largest for one in teachers] == [2, 3]  # each within its own batch size
    assert not teacher.predict([])
    for image, one in zip(numbered(5), together, strict=True):
        (alone,) = teacher.predict([image])
        for name in ("boxes", "scores", "labels", "agree"):
            np.testing.assert_array_equal(getattr(one, name), getattr(alone, name))


def test_an_instance_keeps_the_mask_of_its_best_box() -> None:
    planes = np.zeros((3, *SIZE), bool)
    planes[0, :10, :10], planes[1, :11, :10], planes[2, 20:30, 20:30] = True, True, True
    code = masks.encode(planes)
    one = boxes([[0, 0, 10, 10, 0.5, 0], [20, 20, 30, 30, 0.4, 1]], masks=[code[0], code[2]], quality=[0.7, 0.9])
    two = boxes([[0, 0, 10, 11, 0.8, 0]], masks=[code[1]], quality=[0.6])
    teacher = EnsembleTeacher([Member(Says("instance", "ab", [said, boxes([])])) for said in (one, two)])
    found, nothing = teacher.predict(numbered(2))
    assert isinstance(found, Detections) and isinstance(nothing, Detections)
    assert found.masks == (code[1], code[2])
    assert found.quality is not None and found.quality.tolist() == [np.float32(0.6), np.float32(0.9)]
    assert found.agree is not None and found.agree.tolist() == [2, 1]
    assert len(nothing) == 0


def test_classes_are_mapped_by_name() -> None:
    """Another order, another name, two names for one class, and a class that is dropped."""
    one = Member(Says("detection", ("cat", "dog"), [boxes([[0, 0, 10, 10, 0.8, 1]])]))
    said = boxes([[0, 0, 10, 10, 0.8, 0], [0, 0, 10, 10, 0.6, 3], [0, 0, 9, 10, 0.7, 1], [20, 20, 30, 30, 0.9, 2]])
    other = Says("detection", ("hound", "cat", "car", "dog"), [said])
    (found,) = EnsembleTeacher([one, Member(other, 1.0, {"hound": "dog", "car": None})]).predict([IMAGE])
    assert isinstance(found, Detections)
    assert (found.labels.tolist(), found.agree.tolist()) == ([1, 0], [2, 1])  # type: ignore[union-attr]
    np.testing.assert_allclose(found.scores, [0.8, 0.35], rtol=1e-6)  # the hound, not the dog on it, too


def test_what_one_teacher_calls_by_two_names_counts_as_found_by_one() -> None:
    none = Says("detection", ["vehicle"], [boxes([])])
    two = Says(
        "detection", ["car", "truck"], [boxes([[0, 0, 9, 9, 0.9, 0], [0, 0, 9, 8, 0.8, 1], [20, 0, 29, 9, 0.6, 1]])]
    )
    names = {"car": "vehicle", "truck": "vehicle"}
    found = EnsembleTeacher([Member(none), Member(two, classes=names)]).predict([IMAGE])[0]
    assert isinstance(found, Detections)
    np.testing.assert_allclose(found.scores, [0.45, 0.3])  # half of the surer one's
    np.testing.assert_array_equal(found.agree, [1, 1])


def test_options_of_boxes_change_nothing_elsewhere() -> None:
    one = Member(Says("classification", "ab", []))
    assert fingerprint(EnsembleTeacher([one], iou=0.6).description) == fingerprint(EnsembleTeacher([one]).description)
    with pytest.raises(TeacherError, match="max_detections=5 has no meaning for kind classification"):
        EnsembleTeacher([one], max_detections=5)


def test_class_probabilities_are_a_weighted_mean() -> None:
    def says(classes: str, *rows: list[float]) -> Says:
        return Says("classification", classes, [ClassProbabilities(np.array(row, np.float32)) for row in rows])

    one, other = says("ab", [0.9, 0.1], [0.2, 0.8], [1, 0]), says("bca", [0.5, 0.3, 0.2], [0.1, 0, 0.9], [0, 0, 1])
    found = EnsembleTeacher([Member(one, 3.0), Member(other, 1.0, {"c": "b"})]).predict(numbered(3))
    rows = [[0.725, 0.275], [0.375, 0.625], [1, 0]]  # 3 x one + other, whose c counts as b, / 4
    np.testing.assert_allclose([image.probabilities for image in found], rows, rtol=1e-6)  # type: ignore[union-attr]


def test_probabilities_of_pixels_are_a_weighted_mean_image_by_image() -> None:
    rng = np.random.default_rng(1)
    said = [[rng.dirichlet(np.ones(3), SIZE).transpose(2, 0, 1).astype(np.float32) for _ in range(4)] for _ in "ab"]
    teachers = [SaysPixels("semantic", "xyz", said[0], 4), SaysPixels("semantic", "zxy", said[1], 4)]
    teacher = EnsembleTeacher([Member(teachers[0]), Member(teachers[1], 2.0)])
    assert isinstance(teacher, Segmenter)
    for n, (mean, found) in enumerate(
        zip(teacher.predict_probabilities(numbered(4)), teacher.predict(numbered(4)), strict=True)
    ):
        expected = (said[0][n] + 2 * said[1][n][[1, 2, 0]]) / 3
        np.testing.assert_allclose(mean, expected, atol=1e-6)
        assert isinstance(found, SemanticMap)
        np.testing.assert_array_equal(found.labels, mean.argmax(0))
        assert np.abs(found.confidence - 255 * expected.max(0)).max() <= 0.501
    assert [one.largest for one in teachers] == [1, 1]  # never two images' probabilities at once


@pytest.mark.parametrize(
    ("members", "options", "said"),
    [
        ([], {}, "needs a teacher"),
        ([("detection", "ab", None), ("classification", "ab", None)], {}, "one kind, not detection and classification"),
        (
            [("detection", "ab", None), ("detection", "a", None)],
            {},
            "first teacher has a class 'b' that number 2 lacks",
        ),
        (
            [("detection", "a", None), ("detection", "ab", None)],
            {},
            "teacher 2 .* has a class 'b' that the first lacks",
        ),
        ([("detection", "ab", {"c": "a"})], {}, "no class 'c'"),
        ([("semantic", "ab", None)], {}, "teacher 1 .* no class probabilities"),
        ([("detection", "ab", None)], {"iou": 1.0}, "iou must lie between 0 and 1, not 1"),
    ],
)
def test_members_that_do_not_fit_are_an_error(members: list[Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(TeacherError, match=said):
        EnsembleTeacher([Member(Says(kind, classes, []), 1.0, names) for kind, classes, names in members], **options)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_are_above_0(weight: float) -> None:
    with pytest.raises(TeacherError, match="weights must be above 0, not 1, "):
        EnsembleTeacher([Member(Says("detection", "ab", [])), Member(Says("detection", "ab", []), weight)])


def test_the_description_covers_all_that_decides() -> None:
    def teacher(name: str = "x", weight: float = 1.0, names: Any = None, **options: Any) -> EnsembleTeacher:
        one, two = Says("detection", "ab", [], name="y"), Says("detection", "ab", [], name=name)
        return EnsembleTeacher([Member(one), Member(two, weight, names)], **options)

    others = [
        teacher("z"), teacher(weight=2.0), teacher(names={"a": "b", "b": "a"}), teacher(iou=0.6), teacher(floor=0.1),
        teacher(max_detections=5),
    ]  # fmt: skip
    digests = [fingerprint(one.description) for one in (teacher(), *others)]
    assert len(set(digests)) == len(digests)
    assert fingerprint(teacher(floor=0.05).description) == digests[0]  # the members' lowest


def test_it_was_trained_on_what_any_member_was() -> None:
    one, two, three = (Says("detection", "a", []) for _ in range(3))
    one.trained_on, two.trained_on = ["11", "22"], ["22", "33"]  # type: ignore[attr-defined]
    assert EnsembleTeacher([Member(one), Member(two), Member(three)]).trained_on == ["11", "22", "33"]


def test_wrong_shapes_and_counts_are_failures() -> None:
    class Short(Says):
        def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
            return []

    with pytest.raises(TeacherError, match="0 results for 1 images"):
        EnsembleTeacher([Member(Short("detection", "a", []))]).predict([IMAGE])
    wrong = SaysPixels("semantic", "ab", [np.zeros((2, 5, 5), np.float32)])
    with pytest.raises(TeacherError, match=r"\(2, 5, 5\), but \(2, 40, 60\) was expected"):
        EnsembleTeacher([Member(wrong)]).predict([IMAGE])

"""Matching predictions with human labels, against pycocotools' COCOeval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from builder.errors import BuildError
from builder.evidence import assignment
from builder.evidence.matching import SIZES, Matches, match_columns, match_images
from builder.rules.keep import IOUS
from builder.truth.coco import read_coco
from builder.truth.records import LabelledImage, Truth
from teachers.base import Detections

CLASSES = ("cat", "dog", "bird")
MANY = (0.0, 0.3, 0.5, 0.75, 0.95, 1.0)


class WithDifficult(COCOeval):
    """COCOeval sets `ignore` to `iscrowd`; here difficult objects are ignored too, as its evaluateImg allows."""

    def _prepare(self) -> None:
        super()._prepare()
        for objects in self._gts.values():
            for one in objects:
                one["ignore"] = one["iscrowd"] or one["difficult"]


def truth_of(images: Sequence[LabelledImage], classes: tuple[str, ...] = CLASSES) -> Truth:
    return Truth(classes, list(images), tuple(range(1, len(classes) + 1)))


def labelled(
    number: int, boxes: Any, labels: Any, crowd: Any = None, difficult: Any = None, **more: Any
) -> LabelledImage:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    no = np.zeros(len(boxes), bool)
    sides = boxes[:, 2:] - boxes[:, :2]
    fields: dict[str, Any] = {
        "name": f"{number}.jpg",
        "path": Path(f"{number}.jpg"),
        "width": 640,
        "height": 480,
        "boxes": boxes,
        "labels": np.asarray(labels, np.int16),
        "crowd": no if crowd is None else np.asarray(crowd, bool),
        "difficult": no if difficult is None else np.asarray(difficult, bool),
        "area": sides[:, 0] * sides[:, 1],
        "image_id": number,
        "unit": "",
    }
    return LabelledImage(**(fields | more))


def evaluation(truth: Truth, found: Sequence[Detections], ious: Sequence[float]) -> COCOeval:
    sides = []
    for is_truth in (True, False):
        records: list[dict[str, Any]] = []
        for image, one in zip(truth.images, found, strict=True):
            own = image if is_truth else one
            for n, (x1, y1, x2, y2) in enumerate(own.boxes.astype(np.float64).tolist()):
                box = [x1, y1, x2 - x1, y2 - y1]
                record = {"id": len(records) + 1, "image_id": image.image_id, "bbox": box, "iscrowd": 0}
                if is_truth:
                    record |= {"category_id": int(image.labels[n]), "area": float(image.area[n])}
                    record |= {"iscrowd": int(image.crowd[n]), "difficult": bool(image.difficult[n])}
                else:
                    record |= {
                        "category_id": int(one.labels[n]),
                        "area": box[2] * box[3],
                        "score": float(one.scores[n]),
                    }
                records.append(record)
        side = COCO()
        side.dataset = {
            "images": [{"id": image.image_id} for image in truth.images],
            "categories": [{"id": n} for n in range(len(truth.classes))],
            "annotations": records,
        }
        side.createIndex()
        sides.append(side)
    evaluation = WithDifficult(*sides, iouType="bbox")
    evaluation.params.iouThrs = np.array(ious)
    evaluation.params.maxDets = [10**6]
    return evaluation


def expected(truth: Truth, found: Sequence[Detections], ious: Sequence[float]) -> dict[str, list[np.ndarray]]:
    """By area range: right and counted (T, N), and the score that found each object (T, M), rows as in `found`."""
    with contextlib.redirect_stdout(io.StringIO()):
        judge = evaluation(truth, found, ious)
        judge.evaluate()
    predicted, objects = sum(map(len, found)), sum(len(image.labels) for image in truth.images)
    scores = np.r_[np.nan, np.concatenate([one.scores for one in found])] if found else np.array([np.nan])
    answer = {}
    for name, area in zip(judge.params.areaRngLbl, judge.params.areaRng, strict=True):
        right, counted = (np.zeros((len(ious), predicted), bool) for _ in range(2))
        by, counts = np.full((len(ious), objects), np.nan, np.float32), np.zeros(objects, bool)
        for cell in judge.evalImgs:
            if cell is None or cell["aRng"] != area:
                continue
            rows, targets = (np.array(cell[ids], np.int64) - 1 for ids in ("dtIds", "gtIds"))
            right[:, rows] = (cell["dtMatches"] > 0) & ~cell["dtIgnore"]
            counted[:, rows] = ~cell["dtIgnore"]
            by[:, targets] = scores[cell["gtMatches"].astype(np.int64)]
            counts[targets] = np.asarray(cell["gtIgnore"], np.int64) == 0
        answer[name] = [right, counted, by, counts]
    return answer


def assert_is_cocoevals(truth: Truth, found: Sequence[Detections], ious: Sequence[float] = MANY) -> None:
    crowd = np.concatenate([image.crowd for image in truth.images])
    for name, (right, counted, by, counts) in expected(truth, found, ious).items():
        ours = match_images(truth.classes, found, truth, ious, SIZES[name])
        np.testing.assert_array_equal(ours.right, right, err_msg=name)
        np.testing.assert_array_equal(ours.counted, counted, err_msg=name)
        np.testing.assert_array_equal(ours.object_counts, counts, err_msg=name)
        np.testing.assert_array_equal(ours.object_score[:, ~crowd], by[:, ~crowd], err_msg=name)
        np.testing.assert_array_equal(np.isnan(ours.object_score), np.isnan(by), err_msg=name)


def crowded_scene(seed: int, images: int, boxes: int, whole: bool) -> tuple[Truth, list[Detections]]:
    """Few places and sizes, so that equal boxes, equal overlaps and equal scores are common; many crowds and difficult
    objects. Predictions stand by score, then by box, which is our order of ties."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice([12, 60, 300]))

    def some() -> np.ndarray:
        count = int(rng.integers(0, boxes + 1))
        corner, sides = rng.random((count, 2)) * size, rng.random((count, 2)) * size + 0.5
        if whole:
            corner, sides = np.floor(corner / 4) * 4, np.ceil(sides / 4) * 4
        return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)

    truth, found = [], []
    for number in range(images):
        marked = some()
        flags = rng.random((2, len(marked))) < 0.2
        truth.append(labelled(number + 1, marked, rng.integers(0, 3, len(marked)), *flags))
        seen = np.concatenate([some(), marked, marked + rng.normal(0, size / 20, marked.shape).astype(np.float32)])
        seen[:, 2:] = np.maximum(seen[:, 2:], seen[:, :2] + 0.5)
        score = rng.choice(np.float32([0.2, 0.5, 0.9]), len(seen)) if whole else rng.random(len(seen), np.float32)
        order = np.lexsort((*seen.T[::-1], -score))
        found.append(Detections(seen[order], score[order], rng.integers(0, 3, len(seen)).astype(np.int16)[order]))
    return truth_of(truth), found


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 2**32), images=st.integers(1, 4), boxes=st.integers(0, 12), whole=st.booleans())
def test_matches_are_cocoevals_at_every_overlap_and_size(seed: int, images: int, boxes: int, whole: bool) -> None:
    assert_is_cocoevals(*crowded_scene(seed, images, boxes, whole))


def test_blocks_of_images_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, found = crowded_scene(3, 30, 20, whole=True)
    whole = match_images(CLASSES, found, truth)
    monkeypatch.setattr(assignment, "PAIRS", 40)
    assert_equal(match_images(CLASSES, found, truth), whole)
    assert_is_cocoevals(truth, found)


def assert_equal(one: Matches, other: Matches) -> None:
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_rows_decides_nothing(seed: int) -> None:
    truth, found = crowded_scene(seed, 4, 10, whole=True)
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(4), [len(one) for one in found])
    columns = [image, *(np.concatenate([getattr(one, n) for one in found]) for n in ("labels", "scores", "boxes"))]

    def rows(order: np.ndarray) -> list[tuple[float, ...]]:
        own = [column[order] for column in columns]
        got = match_columns(CLASSES, truth, *own)
        return sorted(map(tuple, np.column_stack([*own, got.right.T, got.counted.T]).tolist()))

    count = len(image)
    assert rows(rng.permutation(count)) == rows(np.arange(count))


def test_real_images_with_disturbed_labels_as_predictions(shared_data: Path) -> None:
    """2,000 and more objects with real crowds; predictions are disturbed copies of them and boxes of nothing."""
    truth = read_coco(shared_data / "coco" / "instances_val.json")
    rng = np.random.default_rng(0)
    found = []
    for image in truth.images:
        boxes = np.concatenate([image.boxes + rng.normal(0, s, image.boxes.shape) for s in (0, 4, 15)])
        labels = np.tile(image.labels, 3)
        labels[rng.random(len(labels)) < 0.1] = 0
        scores = rng.random(len(boxes))
        found.append(Detections.of(boxes, scores, labels, width=image.width, height=image.height))
    assert any(image.crowd.any() for image in truth.images)
    assert_is_cocoevals(truth, found, IOUS)


def test_crowds_difficult_objects_and_the_better_box_first() -> None:
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [0, 40, 100, 60]]
    truth = truth_of([labelled(1, boxes, [0, 0, 0], crowd=[0, 0, 1], difficult=[0, 1, 0])])
    predictions = [
        (0.9, [0, 0, 10, 10], True, True),  # right
        (0.8, [0, 0, 10, 9], False, True),  # the same object again
        (0.7, [20, 0, 30, 10], False, False),  # on the difficult one
        (0.6, [20, 0, 30, 9], False, True),  # which is matched once
        (0.5, [5, 45, 15, 55], False, False),  # in the crowd
        (0.4, [55, 45, 65, 55], False, False),  # and again
    ]
    scores, places, right, counted = zip(*predictions, strict=True)
    found = Detections.of(places, scores, np.zeros(6), width=100, height=100)
    matches = match_images(CLASSES, [found], truth)
    assert matches.right[0].tolist() == list(right)
    assert matches.counted[0].tolist() == list(counted)
    assert matches.object_counts.tolist() == [True, False, False]
    np.testing.assert_allclose(matches.object_score[0], [0.9, 0.7, 0.5])


def test_an_overlap_of_one_forgives_rounding() -> None:
    truth = truth_of([labelled(1, [[1e-9, 0, 30, 10]], [0])])  # IoU with the box from 0 on: 1 - 3e-11
    found = [Detections.of([[0, 0, 30, 10]], [0.9], [0], width=64, height=64)]
    assert match_images(CLASSES, found, truth, [1.0]).right.all()
    assert_is_cocoevals(truth, found)


def test_classes_meet_by_name_and_units_are_numbered() -> None:
    one, square = labelled(1, [[0, 0, 8, 8]] * 2, [0, 1], unit="film"), [[0, 0, 8, 8]]
    images = [one, labelled(2, square, [1]), labelled(3, square, [1], unit="film"), labelled(4, [], [])]
    truth = truth_of(images, ("fish", "dog"))
    found = [Detections.of(square * 2, [0.9, 0.8], [0, 1], width=9, height=9) for _ in images]
    matches = match_images(("cat", "dog"), found, truth)
    assert matches.shared.tolist() == [False, True]
    assert matches.label.tolist() == [1] * 4
    assert matches.right[0].tolist() == [True, True, True, False]
    assert matches.object_label.tolist() == [-1, 1, 1, 1]
    assert matches.unit.tolist() == [0, 1, 0, 2]
    assert (matches.images, matches.names) == (4, ("1.jpg", "2.jpg", "3.jpg", "4.jpg"))


def test_nothing_predicted_and_nothing_labelled() -> None:
    nothing = Detections.of([], [], [], width=9, height=9)
    matches = match_images(CLASSES, [nothing], truth_of([labelled(1, [], [])]))
    assert matches.right.shape == (2, 0) and matches.object_score.shape == (2, 0)
    matches = match_images(CLASSES, [], truth_of([]))
    assert matches.images == 0 and matches.unit.shape == (0,)


def test_truth_without_common_classes_or_boxes_is_refused() -> None:
    truth = truth_of([labelled(1, [], [])])
    with pytest.raises(BuildError, match="share no class name"):
        match_images(("car",), [], replace(truth, images=[]))
    with pytest.raises(BuildError, match="kind classification"):
        match_images(CLASSES, [], replace(truth, kind="classification"))

"""Our numbers are pycocotools' own, and the bootstrap's are those of image sets that were really drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from builder.truth.coco import read_coco
from builder.truth.records import LabelledImage, Truth, TruthError
from students.evaluate.bootstrap import average_precision, paired_bootstrap
from students.evaluate.coco import (
    align_classes,
    evaluate_detections,
    match_classes,
    precision_recall,
    relabel,
    write_results,
)
from teachers.base import Detections

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def guesses(truth: Truth, seed: int, spread: float) -> list[Detections]:
    """The true boxes with noise of `spread` box sizes, some missed, some twice, and boxes at random."""
    rng = np.random.default_rng(seed)
    found = []
    for image in truth.images:
        times = rng.integers(0, 3, len(image.boxes))
        boxes, labels = np.repeat(image.boxes, times, axis=0), np.repeat(image.labels, times)
        boxes = boxes + rng.normal(0, spread, boxes.shape) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        wrong = rng.uniform(0, 300, (rng.integers(0, 20), 4))
        wrong[:, 2:] += wrong[:, :2]
        scores = np.concatenate([rng.uniform(0.2, 1, len(boxes)), rng.uniform(0, 0.8, len(wrong))])
        names = np.concatenate([labels, rng.integers(0, len(truth.classes), len(wrong))])
        box = np.concatenate([boxes, wrong])
        found.append(Detections.of(box, scores, names, width=image.width, height=image.height))
    return found


def image(
    number: int,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    crowd: Sequence[bool],
    difficult: Sequence[bool] | None = None,
) -> LabelledImage:
    box = np.array(boxes, np.float32).reshape(-1, 4)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    name = f"{number}.png"
    objects = (box, np.array(labels, np.int16), np.array(crowd, bool), area)
    hard = np.zeros(len(box), bool) if difficult is None else np.array(difficult, bool)
    return LabelledImage(name, Path(name), 100, 100, *objects, number, hard)


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections.of(table[:, :4], table[:, 4], table[:, 5], width=100, height=100)


NOTHING = found()


@pytest.mark.parametrize("name", ["coco/instances_val", "bccd/instances_val"])
def test_equal_to_pycocotools_run_on_the_files(
    shared_data: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared_data / f"{name}.json"
    truth = read_coco(path)
    predictions = guesses(truth, seed=0, spread=0.06)
    metrics = evaluate_detections(truth, predictions)
    assert capsys.readouterr().out == ""

    results = tmp_path / "results.json"
    results.write_text(json.dumps(write_results(truth, predictions)))
    labels = COCO(str(path))
    oracle = COCOeval(labels, labels.loadRes(str(results)), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    oracle.summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    np.testing.assert_allclose([metrics[name] for name in names], oracle.stats, atol=1e-12)
    precision = oracle.eval["precision"]
    per_class = [precision[:, :, k, 0, 2].mean() for k in np.argsort(np.argsort(truth.category_ids))]
    np.testing.assert_allclose(list(metrics["per_class"].values()), per_class, atol=1e-12)
    assert tuple(metrics["per_class"]) == truth.classes
    assert 0.2 < metrics["AP"] < 0.8


def test_nothing_found_and_nothing_there() -> None:
    truth = Truth(("cat", "dog"), [image(1, [[0, 0, 10, 10]], [0], [False]), image(2, [], [], [])], (5, 3))
    metrics = evaluate_detections(truth, [NOTHING, NOTHING])
    assert metrics["AP"] == 0
    assert metrics["per_class"] == {"cat": 0, "dog": -1}
    metrics = evaluate_detections(truth, [found((0, 0, 10, 10, 0.9, 0)), NOTHING])
    assert metrics["per_class"] == pytest.approx({"cat": 1, "dog": -1})
    empty = replace(truth, images=[])
    assert evaluate_detections(empty, [])["AP"] == -1
    assert write_results(empty, []) == []


def test_results_have_the_ids_of_the_label_file() -> None:
    truth = Truth(("cat", "dog"), [image(77, [], [], [])], (5, 3))
    predictions = [found((1, 2, 4, 8, 0.5, 1), (0, 0, 1, 1, 0.75, 0))]
    assert write_results(truth, predictions) == [
        {"image_id": 77, "category_id": 5, "bbox": [0, 0, 1, 1], "score": 0.75},
        {"image_id": 77, "category_id": 3, "bbox": [1, 2, 3, 6], "score": 0.5},
    ]


def test_classes_are_matched_by_name() -> None:
    positions = align_classes(["dog", "cow", "cat"], ["cat", "dog", "hen"])
    assert positions.tolist() == [1, -1, 0]
    renamed = relabel(found((0, 0, 1, 1, 0.9, 0), (0, 0, 2, 2, 0.8, 1), (0, 0, 3, 3, 0.7, 2)), positions)
    assert renamed.labels.tolist() == [1, 0]
    assert renamed.boxes[:, 2].tolist() == [1, 3]
    assert len(relabel(NOTHING, positions)) == 0
    with pytest.raises(TruthError, match="share no class name"):
        align_classes(["cow"], ["cat", "dog"])


@pytest.mark.parametrize(
    ("kept", "precision", "recall"),
    [
        ([(0, 0, 10, 10, 0.9, 0)], 1, 1 / 3),
        ([(0, 0, 10, 10, 0.9, 1)], 0, 0),  # the wrong class
        ([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 9, 0.8, 0)], 1 / 2, 1 / 3),  # the same object twice
        ([(0, 0, 10, 5, 0.9, 0)], 1, 1 / 3),  # IoU just .5
        ([(0, 0, 10, 4.9, 0.9, 0)], 0, 0),
        ([(50, 50, 60, 60, 0.9, 0), (70, 70, 80, 80, 0.8, 0)], np.nan, 0),  # inside the crowd: neither right nor wrong
        ([(0, 0, 10, 10, 0.9, 0), (50, 50, 60, 60, 0.9, 0), (20, 0, 30, 10, 0.3, 1)], 1, 2 / 3),
        ([(50, 50, 60, 60, 0.9, 1)], 0, 0),  # a crowd of another class
        ([], np.nan, 0),
    ],
)
def test_precision_and_recall_by_hand(
    kept: list[tuple[float, float, float, float, float, int]], precision: float, recall: float
) -> None:
    objects = [[0, 0, 10, 10], [50, 50, 90, 90], [20, 0, 30, 10], [40, 0, 50, 10]]
    truth = Truth(("cat", "dog"), [image(1, objects, [0, 0, 1, 1], [False, True, False, False])], (5, 3))
    assert precision_recall(truth, [found(*kept)]) == pytest.approx((precision, recall), nan_ok=True)


@pytest.mark.parametrize(
    ("kept", "precision", "recall"),
    [
        ([(0, 0, 10, 10, 0.9, 0)], np.nan, 0),  # on the difficult object: neither right nor wrong
        ([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 9, 0.8, 0)], 0, 0),  # it is matched once, unlike a crowd
        ([(2, 2, 5, 5, 0.9, 0)], 0, 0),  # and by plain IoU: inside it is not enough
        ([(0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.8, 0)], 1, 1),
    ],
)
def test_difficult_objects_by_hand(
    kept: list[tuple[float, float, float, float, float, int]], precision: float, recall: float
) -> None:
    objects = image(1, [[0, 0, 10, 10], [20, 0, 30, 10]], [0, 0], [False, False], [True, False])
    truth = Truth(("cat",), [objects], (5,))
    assert precision_recall(truth, [found(*kept)]) == pytest.approx((precision, recall), nan_ok=True)


def test_difficult_objects_count_as_pycocotools_counts_those_outside_the_area_range(shared_data: Path) -> None:
    """COCOeval ignores an object whose area lies outside every range, and matches it as any other."""
    truth = read_coco(shared_data / "bccd" / "instances_val.json")
    predictions = guesses(truth, seed=0, spread=0.1)
    rng = np.random.default_rng(0)
    flags = [rng.random(len(image.boxes)) < 0.3 for image in truth.images]
    pairs = list(zip(truth.images, flags, strict=True))
    difficult = replace(truth, images=[replace(image, difficult=flag) for image, flag in pairs])
    outside = [replace(image, area=np.where(flag, np.float32(2e10), image.area)) for image, flag in pairs]
    ours = evaluate_detections(difficult, predictions)
    assert ours == evaluate_detections(replace(truth, images=outside), predictions)
    assert ours["AP"] != evaluate_detections(truth, predictions)["AP"]


def test_a_truth_without_boxes_is_refused() -> None:
    with pytest.raises(TruthError, match="holds classification labels"):
        evaluate_detections(Truth(("cat",), [], (1,), kind="classification"), [])


def test_precision_counts_every_kept_box_of_an_image() -> None:
    """COCOeval would look at the best 100 only."""
    truth = Truth(("cat",), [image(1, [[0, 0, 10, 10]], [0], [False])], (1,))
    kept = found(*((20, 20, 30, 30, 0.9, 0) for _ in range(149)), (0, 0, 10, 10, 0.1, 0))
    assert precision_recall(truth, [kept]) == (1 / 150, 1)
    assert np.isnan(precision_recall(replace(truth, images=[]), [])).all()


@pytest.fixture(scope="module")
def scenes() -> tuple[Truth, list[Detections], list[Detections]]:
    """30 images of 5 classes, one of them rare, with crowds, and two teachers."""
    rng = np.random.default_rng(3)
    images = []
    for number in range(30):
        corners = rng.uniform(0, 70, (rng.integers(0, 8), 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 30, corners.shape)], axis=1)
        labels = rng.choice(5, len(boxes), p=[0.4, 0.3, 0.2, 0.09, 0.01])
        images.append(image(50 - number, boxes.tolist(), labels.tolist(), (rng.random(len(boxes)) < 0.1).tolist()))
    truth = Truth(tuple("abcde"), images, (9, 8, 7, 6, 5))
    return truth, guesses(truth, seed=1, spread=0.15), guesses(truth, seed=2, spread=0.05)


def test_average_precision_of_drawn_images_is_cocoevals_on_copies_of_them(
    scenes: tuple[Truth, list[Detections], list[Detections]],
) -> None:
    truth, predictions, _ = scenes
    truth = replace(truth, images=[replace(image, image_id=i) for i, image in enumerate(truth.images)])
    count = len(truth.images)
    rng = np.random.default_rng(0)
    weights = np.stack([np.ones(count, int), *rng.multinomial(count, np.full(count, 1 / count), size=12)])
    ours = average_precision(match_classes(truth, predictions, THRESHOLDS, 100), weights)
    for row, value in zip(weights, ours, strict=True):
        drawn = np.repeat(np.arange(count), row)
        images = [replace(truth.images[i], image_id=number) for number, i in enumerate(drawn)]
        oracle = evaluate_detections(replace(truth, images=images), [predictions[i] for i in drawn])
        assert value == pytest.approx(oracle["AP"], abs=1e-9)
    assert len(set(ours.tolist())) == 13


def test_average_precision_in_pieces_and_without_objects(
    scenes: tuple[Truth, list[Detections], list[Detections]], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, predictions, _ = scenes
    matches = match_classes(truth, predictions, THRESHOLDS, 100)
    weights = np.random.default_rng(0).integers(0, 3, (20, len(truth.images)))
    whole = average_precision(matches, weights)
    monkeypatch.setattr("students.evaluate.bootstrap.CHUNK", 500)
    np.testing.assert_array_equal(average_precision(matches, weights), whole)
    assert np.isnan(average_precision(matches, np.zeros((1, len(truth.images)), int))).all()
    once = average_precision(matches, np.ones((1, len(truth.images)), int))
    assert once == pytest.approx(evaluate_detections(truth, predictions)["AP"], abs=1e-9)


def test_bootstrap_interval(scenes: tuple[Truth, list[Detections], list[Detections]]) -> None:
    truth, worse, better = scenes
    gain = evaluate_detections(truth, better)["AP"] - evaluate_detections(truth, worse)["AP"]
    low, high = paired_bootstrap(truth, worse, better, draws=300)
    assert 0 < low < gain < high
    assert paired_bootstrap(truth, worse, better, draws=300) == (low, high)
    assert paired_bootstrap(truth, better, worse, draws=300) == pytest.approx((-high, -low))
    assert paired_bootstrap(truth, worse, worse, draws=50) == (0, 0)
    narrow = paired_bootstrap(truth, worse, better, draws=300, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    with pytest.raises(TruthError, match="no objects"):
        paired_bootstrap(Truth(("a",), [image(1, [], [], [])], (1,)), [NOTHING], [NOTHING], draws=10)
    with pytest.raises(TruthError, match="no objects"):
        paired_bootstrap(Truth(("a",), [], (1,)), [], [], draws=10)


def test_bootstrap_interval_covers_the_gain_of_the_population() -> None:
    """100 test sets of 40 images from one population: the 90 % interval holds its gain about that often.

    Each image has one object, found by a with probability .5 and by b with .7, without false positives, so that
    AP is nearly the share found (COCO's 101 recall points round it up by less than .01).
    """
    rng = np.random.default_rng(0)
    hit, held = found((0, 0, 10, 10, 0.9, 0)), 0
    for _ in range(100):
        truth = Truth(("a",), [image(number, [[0, 0, 10, 10]], [0], [False]) for number in range(40)], (1,))
        a, b = ([hit if find else NOTHING for find in rng.random(40) < share] for share in (0.5, 0.7))
        low, high = paired_bootstrap(truth, a, b, draws=200)
        held += low <= 0.2 <= high
    assert 80 <= held <= 97

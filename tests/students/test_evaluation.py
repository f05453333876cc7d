"""Precision, recall, F1 and the confusion of every kind, against scikit-learn and COCOeval; what is stored by others
is measured as a teacher is; the files that are written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_curve, precision_recall_fscore_support

from builder.cli.main import main
from builder.truth.coco import read_coco
from builder.truth.read import read_truth
from builder.truth.records import LabelledImage, Truth
from students.evaluate.boxes import judge as judge_boxes
from students.evaluate.classes import judge as judge_classes
from students.evaluate.coco import precision_recall
from students.evaluate.maps import judge as judge_maps
from students.evaluate.measure import evaluate
from students.evaluate.pictures import write_evaluation
from students.evaluate.scored import mean_figures
from teachers.base import Detections, TeacherError
from teachers.errors import TutelageWarning
from tests.helpers.rectangles import RectangleFinder, write_rectangles

NAMES = ("a", "b", "c")


def detections(truth: Truth, seed: int) -> list[Detections]:
    """True boxes moved and sometimes under another name, some missed, some twice, and boxes at random."""
    rng = np.random.default_rng(seed)
    answers = []
    for image in truth.images:
        times = rng.integers(0, 3, len(image.boxes))
        boxes, labels = np.repeat(image.boxes, times, axis=0), np.repeat(image.labels, times)
        boxes = boxes + rng.normal(0, 0.08, boxes.shape) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        labels = np.where(rng.random(len(labels)) < 0.3, rng.integers(0, len(truth.classes), len(labels)), labels)
        more = rng.uniform(0, 80, (rng.integers(0, 6), 4))
        more[:, 2:] += more[:, :2]
        scores = rng.choice([0.1, 0.3, 0.5, 0.7, 0.9], len(boxes) + len(more))
        names = np.concatenate([labels, rng.integers(0, len(truth.classes), len(more))])
        answers.append(Detections.of(np.concatenate([boxes, more]), scores, names, width=100, height=100))
    return answers


def scenes(seed: int) -> Truth:
    """Six images of boxes, some of which are crowds or difficult."""
    rng = np.random.default_rng(seed)
    images = []
    for number in range(6):
        count = int(rng.integers(0, 6))
        boxes = rng.uniform(0, 60, (count, 4)).astype(np.float32)
        boxes[:, 2:] += boxes[:, :2] + 8
        flags = rng.random((2, count)) < 0.15
        labels, area = rng.integers(0, 3, count).astype(np.int16), np.full(count, 900, np.float32)
        path = Path(f"{number}.png")
        images.append(LabelledImage(path.name, path, 100, 100, boxes, labels, flags[0], area, number + 1, flags[1]))
    return Truth(NAMES, images, (1, 2, 3))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_figures_of_boxes_are_cocoevals_at_every_score(seed: int) -> None:
    """Precision and recall are those of COCOeval for the boxes above a score; no score has a better F1."""
    truth, answers = scenes(seed), detections(scenes(seed), seed)
    scored, confusion = judge_boxes(truth, answers)
    best = scored.figures(scored.best_score).f1
    for score in (0.0, 0.3, 0.5, 0.9):
        figures = scored.figures(score)
        kept = [each.take(np.flatnonzero(each.scores >= np.float32(score))) for each in answers]
        expected = precision_recall(truth, kept)
        ours = [np.nan if value is None else value for value in (figures.precision, figures.recall)]
        np.testing.assert_allclose(ours, expected)
        assert figures.f1 is None or (best is not None and figures.f1 <= best + 1e-12)
        counts = confusion(score).counts
        assert np.trace(counts[:3, :3]) == figures.right and counts[:, :3].sum() == figures.kept
        assert counts[:3].sum(axis=1).tolist() == scored.objects.tolist() and counts[3, 3] == 0
        by_class = scored.by_class(score)
        assert [by_class[name].right for name in NAMES] == np.diagonal(counts)[:3].tolist()
        assert [by_class[name].kept for name in NAMES] == counts[:, :3].sum(axis=0).tolist()


def test_a_confusion_of_boxes_by_hand() -> None:
    """An object under another name is one confusion, not a miss and a false alarm; a far box is a false alarm."""
    boxes = np.float32([[0, 0, 10, 10], [20, 20, 40, 40], [60, 60, 80, 80]])
    none = np.zeros(3, bool)
    image = LabelledImage(
        "x", Path("x"), 100, 100, boxes, np.int16([0, 1, 2]), none, np.full(3, 9, np.float32), 1, none
    )
    answers = Detections.of(
        [[0, 0, 10, 10], [21, 20, 40, 40], [0, 60, 10, 90]], [0.9, 0.8, 0.7], [0, 2, 1], width=100, height=100
    )
    confusion = judge_boxes(Truth(NAMES, [image], (1, 2, 3)), [answers]).confusion(0.5)
    assert confusion.counts.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
    assert confusion.rows[-1], confusion.columns[-1] == ("background", "missed")
    assert confusion.worst() == [("b", "c", 1)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000))
def test_figures_of_classes_are_scikit_learns(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted, label = rng.integers(0, 3, count), rng.integers(0, 3, count)
    score = rng.choice([0.2, 0.4, 0.6, 0.8], count)
    scored, confusion = judge_classes(wanted, label, score, NAMES)
    expected = precision_recall_fscore_support(wanted, label, labels=[0, 1, 2], zero_division=np.nan)
    each = scored.by_class(0)
    for values, key in zip(expected[:3], ("precision", "recall", "f1"), strict=True):
        ours = [np.nan if (value := getattr(each[name], key)) is None else value for name in NAMES]
        known = ~np.isnan(values) if key != "f1" else np.array([value is not None for value in ours])
        np.testing.assert_allclose(np.array(ours)[known], values[known])
    np.testing.assert_array_equal(confusion(0).counts, confusion_matrix(wanted, label, labels=[0, 1, 2]))
    kept = score >= 0.6
    sure = confusion(0.6)
    np.testing.assert_array_equal(sure.counts[:, :3], confusion_matrix(wanted[kept], label[kept], labels=[0, 1, 2])
                                  if kept.any() else np.zeros((3, 3)))  # fmt: skip
    assert sure.columns[3:] == (() if kept.all() else ("no answer",)) and sure.counts.sum() == count
    curve, right = scored.curve(), wanted == label
    if right.any():
        precision, _, thresholds = precision_recall_curve(right, score)
        np.testing.assert_allclose(curve.precision[::-1], precision[:-1])
        np.testing.assert_allclose(curve.threshold[::-1], thresholds, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_figures_of_maps_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted, called = rng.integers(0, 3, 200), rng.integers(0, 4, 200)  # class 3: none that the labels know
    level = rng.choice([0, 100, 200, 255], 200)
    levels = np.zeros((256, 3, 4), np.int64)
    np.add.at(levels, (level, wanted, called), 1)
    scored, confusion = judge_maps(levels, NAMES)
    full = confusion_matrix(wanted, called, labels=[0, 1, 2, 3])
    np.testing.assert_array_equal(confusion(0).counts, full[:3])
    assert confusion(0).columns == (*NAMES, "other")
    expected = precision_recall_fscore_support(wanted, called, labels=[0, 1, 2], average="macro")
    assert list(mean_figures(scored.by_class(0)).values()) == pytest.approx(expected[:3])
    kept = level >= 200
    np.testing.assert_array_equal(
        confusion(200 / 255).counts[:, :3], confusion_matrix(wanted[kept], called[kept], labels=[0, 1, 2, 3])[:3, :3]
    )
    assert scored.figures(200 / 255).kept == int((kept & (called < 3)).sum())


def evaluated(*arguments: Any) -> Any:
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_stored_predictions_are_measured_as_the_teacher_is(tmp_path: Path) -> None:
    truth = write_rectangles(tmp_path / "scenes", 4)
    teacher, results = RectangleFinder(("red", "green", "blue")), tmp_path / "results.json"
    live = evaluate(teacher, str(truth), results=results)
    assert live.metrics["AP"] == pytest.approx(1) and live.figures() == {"precision": 1, "recall": 1, "F1": 1}
    code, out, _ = evaluated(f"replay:{results}", "--set", f"images={truth}", "--truth", truth, "--json")
    stored = json.loads(out)
    assert code == 0 and stored == {**live.stored(), "only_in_teacher": []}
    content = json.loads(truth.read_text())
    few = {**content, "images": content["images"][:3]}
    few["annotations"] = [a for a in content["annotations"] if a["image_id"] != content["images"][3]["id"]]
    (tmp_path / "few.json").write_text(json.dumps(few))
    kept = [r for r in json.loads(results.read_text()) if r["image_id"] != content["images"][3]["id"]]
    results.write_text(json.dumps(kept))
    code, _, err = evaluated(f"replay:{results}", "--set", f"images={tmp_path / 'few.json'}", "--truth", truth)
    assert (
        code == 1 and "1 of 4 labelled images have no stored predictions: scene_3.png" in err and err.count("\n") == 1
    )


@pytest.mark.parametrize("score", [None, 0.95])
def test_what_is_printed_and_written(tmp_path: Path, score: float | None) -> None:
    truth = write_rectangles(tmp_path / "scenes", 4)
    with pytest.warns(TutelageWarning, match="labels that no prediction can match: 'blue'"):
        evaluation = evaluate(RectangleFinder(("red", "green", "violet")), read_coco(truth), score=score)
    files = write_evaluation(evaluation, tmp_path / "out")
    assert sorted(path.name for path in files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    figures = json.loads((tmp_path / "out" / "evaluation.json").read_bytes())
    assert figures == json.loads(json.dumps(evaluation.stored()))
    assert (figures["images"], figures["objects"], figures["classes"]) == (4, 9, ["red", "green"])
    assert (figures["only_in_labels"], figures["only_in_teacher"]) == (["blue"], ["violet"])
    assert figures["recall"] == (pytest.approx(6 / 9) if score is None else 0)
    assert (figures["score"], figures["score_chosen_here"]) == (
        (pytest.approx(0.9), True) if score is None else (0.95, False)
    )
    with open(tmp_path / "out" / "confusion.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == ["red", "green", "blue", "missed"] and [row[0] for row in rows[1:]][-1] == "background"
    assert rows[3][1:] == ["0", "0", "0", "3"]  # nobody looked for blue
    with open(tmp_path / "out" / "precision_recall.csv", newline="") as file:
        assert {row["class"] for row in csv.DictReader(file)} == {"", "red", "green"}
    for name in ("confusion.png", "precision_recall.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 200


def test_a_title_longer_than_the_matrix_is_wide_is_whole(tmp_path: Path) -> None:
    truth = read_coco(write_rectangles(tmp_path / "scenes", 12))
    write_evaluation(evaluate(RectangleFinder(("red", "green", "blue")), truth, score=0.123), tmp_path / "out")
    with Image.open(tmp_path / "out" / "confusion.png") as picture:
        assert np.asarray(picture.convert("L"))[:, -4:].min() == 255  # nothing runs over the edge


def test_evaluate_says_what_it_measured(tmp_path: Path) -> None:
    truth, results = write_rectangles(tmp_path / "scenes", 4), tmp_path / "results.json"
    evaluate(RectangleFinder(("red", "green", "blue")), str(truth), results=results)
    spec = (f"replay:{results}", "--set", f"images={truth}", "--truth", truth)
    code, out, _ = evaluated(*spec, "--out", tmp_path / "out")
    assert code == 0 and out.splitlines()[1] == "4 images, 9 labelled boxes, 3 classes"
    assert "precision 1.000  recall 1.000  F1 1.000  of all boxes at score >= 0.9 (the best F1 on these labels" in out
    assert out.endswith(f"confusion matrix and curves: {tmp_path / 'out'}\n")
    code, out, _ = evaluated(*spec, "--score", "0.95")
    assert code == 0 and "precision -  recall 0.000  F1 0.000  of all boxes at score >= 0.95\n" in out
    (tmp_path / "file").touch()
    code, _, err = evaluated(*spec, "--out", tmp_path / "file" / "x")
    assert code == 1 and "cannot be written" in err and err.count("\n") == 1
    with pytest.raises(TeacherError, match="no stored predictions"):
        evaluate(f"replay:{results}", read_truth(write_rectangles(tmp_path / "others", 5)), options=[f"images={truth}"])

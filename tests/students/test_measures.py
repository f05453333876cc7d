"""What classifiers, segmenters and masks are measured by, against scikit-learn and pycocotools; checkpoints of each
kind as teachers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, recall_score
from torchvision.models.detection.roi_heads import paste_masks_in_image

from builder.cli.main import main
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.coco import read_coco
from builder.truth.read import read_truth
from builder.truth.records import Truth, TruthError, truth_digest
from students.evaluate.boxes import evaluate_boxes, evaluate_masks
from students.evaluate.classes import calibration_error, class_metrics, evaluate_classes
from students.evaluate.coco import evaluate_detections
from students.evaluate.maps import confusion, evaluate_maps, map_metrics
from students.evaluate.measure import evaluate, measure
from teachers.base import VOID, ClassProbabilities, Detections, SemanticMap, Teacher, TeacherError, TeacherOptions
from teachers.errors import TutelageError
from teachers.from_checkpoint import CheckpointTeacher
from teachers.masks import area, decode, encode
from teachers.networks.build import build_network
from teachers.networks.checkpoints import load_checkpoint, save_checkpoint
from teachers.networks.config import NetworkConfig
from tests.helpers.rectangles import RectangleFinder, write_rectangles, write_version

TINY = NetworkConfig(
    backbone="timm:test_resnet", classes=("a", "b", "c"), size=64, channels=16, head_depth=1, levels=(8, 16)
)
ARCHS = ("maskrcnn", "fpn", "deeplabv3", "linear")


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


def save_run(folder: Path, arch: Any, **changes: Any) -> Path:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    config = replace(TINY, arch=arch, **changes)
    save_checkpoint(folder, build_network(config), config, {"step": 5, "trained_on": ["f00d"]})
    return folder


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 99))
def test_class_figures_are_scikit_learns(count: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, label = rng.integers(0, classes, count), rng.integers(-1, classes, count)
    names = [str(n) for n in range(classes)]
    found = class_metrics(truth, label, rng.random(count), names)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, label))
    seen = np.unique(truth)
    recall = recall_score(truth, label, labels=seen, average=None, zero_division=0)
    assert {name: value for name, value in found["per_class"].items() if value >= 0} == pytest.approx(
        {str(n): value for n, value in zip(seen, recall, strict=True)}
    )
    assert class_metrics(truth[:0], label[:0], np.zeros(0), names)["accuracy"] == -1


def test_calibration_error_by_hand() -> None:
    """Two bins: (0, .5] has .4 of which none is right; (.5, 1] has .9 and .7, of which one is right."""
    right, score = np.array([False, True, False]), np.array([0.4, 0.9, 0.7])
    assert calibration_error(right, score, bins=2) == pytest.approx((1 * 0.4 + 2 * 0.3) / 3)
    assert calibration_error(np.array([True, False]), np.array([0.5, 0.5])) == pytest.approx(0)
    assert calibration_error(np.array([True, False]), np.array([1.0, 0.0])) == 0
    assert calibration_error(np.zeros(0, bool), np.zeros(0)) == -1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(0, 99))
def test_map_figures_are_scikit_learns(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [str(n) for n in range(classes)]
    truth = rng.choice([*range(classes), VOID], (3, 6, 7)).astype(np.uint8)
    found = rng.choice([*range(classes), VOID], (3, 6, 7)).astype(np.uint8)
    counts = sum(confusion(a, b, classes) for a, b in zip(truth, found, strict=True))
    assert isinstance(counts, np.ndarray)
    metrics = map_metrics(counts, names)
    known = truth != VOID
    expected = jaccard_score(truth[known], found[known], labels=range(classes), average=None, zero_division=0)
    ours = np.array(list(metrics["per_class"].values()))
    np.testing.assert_allclose(np.where(ours < 0, 0, ours), expected)
    assert metrics["mIoU"] == pytest.approx(ours[ours >= 0].mean() if known.any() else -1)
    if known.any():
        assert metrics["accuracy"] == pytest.approx(accuracy_score(truth[known], found[known]))
    assert counts.sum() == known.sum()


class Answers:
    """A teacher that says what it was told, image after image."""

    batch_size = 2

    def __init__(self, kind: str, classes: Sequence[str], answers: Sequence[Any]) -> None:
        self.classes, self.answers = tuple(classes), list(answers)
        self.description = {"kind": kind, "classes": list(classes), "floor": 0.0}
        self.runtime: dict[str, str] = {}

    def predict(self, images: Sequence[np.ndarray]) -> list[Any]:
        return [self.answers.pop(0) for _ in images]


def write_class_folders(folder: Path) -> Path:
    for n, name in enumerate(("cat", "cat", "dog", "background")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(8, 8, n)).save(folder / name / f"{n}.png")
    return folder


def write_mask_folders(folder: Path, planes: Sequence[Any], classes: Sequence[str] = ("road", "sky")) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for n, plane in enumerate(planes):
        values = np.array(plane, np.uint8)
        Image.fromarray(values).save(folder / "masks" / f"{n}.png")
        Image.fromarray(scene(*values.shape, n)).save(folder / "images" / f"{n}.png")
    (folder / "classes.txt").write_text("\n".join(classes))
    return folder


def test_a_classifier_is_measured_by_class_names(tmp_path: Path) -> None:
    truth = read_truth(write_class_folders(tmp_path))  # in the order of names: background, cat, cat, dog
    vectors = [[0.1, 0.9, 0.0], [0.6, 0.2, 0.2], [0.2, 0.1, 0.7]]  # of dog, cat, cow
    teacher = Answers("classification", ("dog", "cat", "cow"), [ClassProbabilities(np.float32(v)) for v in vectors])
    done: list[int] = []
    metrics, right = evaluate_classes(teacher, truth, progress=done.append)
    assert metrics["accuracy"] == pytest.approx(1 / 3) and done == [2, 1]
    assert metrics["per_class"] == {"cat": 0.5, "dog": 0} and right.tolist() == [True, False, False]
    assert metrics["ECE"] == pytest.approx((0.1 + 0.6 + 0.7) / 3)
    with pytest.raises(TruthError, match="classification"):
        evaluate_maps(teacher, truth)
    with pytest.raises(TeacherError, match="cannot be evaluated on classification"):
        evaluate_classes(Answers("semantic", ("dog",), []), truth)


@pytest.mark.filterwarnings("ignore:.* hold values without a line")
def test_a_segmenter_is_measured_without_void(tmp_path: Path) -> None:
    truth = read_truth(write_mask_folders(tmp_path, [[[0, 1], [11, 1]], [[0, 0, 0]]]))
    said = [np.uint8([[1, 0], [0, 0]]), np.uint8([[1, 2, 255]])]  # of sky, road, tree
    answers = [SemanticMap(labels, np.full_like(labels, 9)) for labels in said]
    metrics, overlaps = evaluate_maps(Answers("semantic", ("sky", "road", "tree"), answers), truth)
    # road: pixels right 2, missed 2, of which tree 1 and nothing 1; sky: right 2; the void pixel counts for nothing
    assert metrics["per_class"] == pytest.approx({"road": 2 / 4, "sky": 2 / 2})
    assert metrics["mIoU"] == pytest.approx(0.75) and metrics["accuracy"] == pytest.approx(4 / 6)
    assert [part.union.tolist() for part in overlaps] == [[1, 2], [3, 0]]
    small = SemanticMap(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8))
    with pytest.raises(TeacherError, match=r"map of 0\.png"):
        evaluate_maps(Answers("semantic", ("sky",), [small, small]), truth)


def outlined_coco(folder: Path) -> Path:
    """Two images: a polygon, a run-length crowd and, in the second, nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(2):
        Image.fromarray(scene(20, 30, n)).save(folder / f"{n}.png")
    images = [{"id": n + 1, "file_name": f"{n}.png", "width": 30, "height": 20} for n in range(2)]
    notes = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 8], "area": 80, "iscrowd": 0}
        | {"segmentation": [[2, 3, 12, 3, 12, 11, 2, 11]]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 20], "area": 20, "iscrowd": 1}
        | {"segmentation": {"size": [20, 30], "counts": [0, 20, 580]}},
    ]
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "cell"}]}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder / "labels.json"


def test_outlines_are_read_if_asked_for(tmp_path: Path) -> None:
    path = outlined_coco(tmp_path)
    assert all(image.masks is None for image in read_truth(path).images)
    first, second = read_truth(path, outlines=True).images
    assert second.masks == () and first.masks is not None
    hashes = {"0.png": "a", "1.png": "b"}
    plain, outlined = (truth_digest(read_truth(path, outlines=asked), hashes) for asked in (False, True))
    assert plain != outlined
    square, crowd = decode(first.masks, 20, 30)
    assert square[3:11, 2:12].all() and square.sum() == 80
    assert crowd[:, 0].all() and crowd.sum() == 20
    content = json.loads(path.read_text())
    for broken, words in (({"segmentation": []}, "no outline"), ({"segmentation": [[1, 2]]}, "no mask")):
        content["annotations"][0] |= broken
        path.write_text(json.dumps(content))
        with pytest.raises(TruthError, match=f"annotation 1.*{words}") as caught:
            read_truth(path, outlines=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(TruthError, match="no outlines"):
        read_truth(write_class_folders(tmp_path / "classes"), outlines=True)


def test_masks_are_measured_by_pycocotools(tmp_path: Path, shared_data: Path) -> None:
    """Oracle: COCOeval on the files, for masks of which some are shifted."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = shared_data / "coco" / "instances_val.json"
    truth = read_truth(path, outlines=True)
    rng = np.random.default_rng(0)
    found = []
    for image in truth.images[:20]:
        planes = decode(image.masks or (), image.height, image.width)
        moved = np.stack([np.roll(p, rng.integers(0, 9), 1) for p in planes]) if len(planes) else planes
        scores = rng.random(len(planes))
        args = (image.boxes, scores, image.labels)
        found.append(Detections.of(*args, width=image.width, height=image.height, masks=encode(moved)))
    small = replace(truth, images=truth.images[:20])
    ours = evaluate_detections(small, found, "segm")
    results = []
    for image, one in zip(small.images, found, strict=True):
        for code, score, label in zip(one.masks or (), one.scores.tolist(), one.labels.tolist(), strict=True):
            size = {"size": [image.height, image.width], "counts": code}
            category = truth.category_ids[label]
            results.append({"image_id": image.image_id, "category_id": category, "segmentation": size, "score": score})
    there = COCO(str(path))
    evaluation = COCOeval(there, there.loadRes(results), "segm")
    evaluation.params.imgIds = [image.image_id for image in small.images]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert list(ours.values())[:12] == pytest.approx(evaluation.stats.tolist())
    assert 0.2 < ours["AP"] < 1
    with pytest.raises(TruthError, match="no outlines"):
        evaluate_masks(read_truth(path), found)


@pytest.mark.parametrize("arch", ARCHS)
def test_an_images_prediction_depends_on_it_alone(tmp_path: Path, arch: Any) -> None:
    floor = 0.0 if arch == "maskrcnn" else TeacherOptions().floor  # the others have none
    teacher = CheckpointTeacher(save_run(tmp_path / "run", arch), TeacherOptions(floor=floor, batch_size=2))
    assert isinstance(teacher, Teacher)
    images = [scene(40, 90), scene(200, 31, 1), scene(64, 64, 2)]
    together, alone = teacher.predict(images), [teacher.predict([image])[0] for image in images]
    for image, ours, theirs in zip(images, together, alone, strict=True):
        if isinstance(ours, ClassProbabilities) and isinstance(theirs, ClassProbabilities):
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
            assert ours.probabilities.sum() == pytest.approx(1, abs=1e-5) and ours.probabilities.shape == (3,)
        elif isinstance(ours, SemanticMap) and isinstance(theirs, SemanticMap):
            assert ours.labels.shape == image.shape[:2] and (ours.labels < 3).all()
            assert (ours.labels == theirs.labels).mean() > 0.999
            assert (ours.confidence >= 85).all()  # the likeliest of three
        else:
            assert isinstance(ours, Detections) and isinstance(theirs, Detections)
            assert len(ours) == len(theirs) > 0 and set(ours.labels.tolist()) <= {0, 1, 2}
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
            assert ours.masks is not None and len(decode(ours.masks, *image.shape[:2])) == len(ours)
    assert teacher.predict([]) == []
    assert teacher.description["kind"] == {"maskrcnn": "instance", "linear": "classification"}.get(arch, "semantic")


@pytest.mark.parametrize("arch", ["fpn", "deeplabv3"])
def test_probabilities_of_pixels(tmp_path: Path, arch: Any) -> None:
    teacher = CheckpointTeacher(save_run(tmp_path / "run", arch), TeacherOptions())
    images = [scene(40, 90), scene(30, 20, 1)]
    for image, found, said in zip(images, teacher.predict_probabilities(images), teacher.predict(images), strict=True):
        assert found.shape == (3, *image.shape[:2]) and found.dtype == np.float32
        np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
        assert isinstance(said, SemanticMap)
        np.testing.assert_array_equal(said.labels, found.argmax(0))
        np.testing.assert_array_equal(said.confidence, np.rint(255 * found.max(0).astype(np.float64)))
    with pytest.raises(TeacherError, match="linear"):
        CheckpointTeacher(save_run(tmp_path / "linear", "linear"), TeacherOptions(nms_iou=0.5))
    with pytest.raises(TeacherError, match="no probabilities of pixels"):
        CheckpointTeacher(save_run(tmp_path / "other", "linear"), TeacherOptions()).predict_probabilities(images)


def test_training_and_inference_see_the_same_map(tmp_path: Path) -> None:
    """A square image of the network's size: the logits training would have, as probabilities."""
    run = save_run(tmp_path / "run", "fpn")
    network, _, _ = load_checkpoint(run)
    image = scene(64, 64)
    with torch.no_grad():
        expected = network.logits(tensor(image)[None]).softmax(1)[0]  # type: ignore[operator]
    (found,) = CheckpointTeacher(run, TeacherOptions()).predict_probabilities([image])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_masks_are_pasted_as_torchvision_does(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", "maskrcnn")
    network, _, _ = load_checkpoint(run)
    network.roi_heads.score_thresh = 0.0  # type: ignore[union-attr]
    image = scene(50, 40)
    with torch.no_grad():
        raw = network([tensor(image)])[0]
    expected = paste_masks_in_image(raw["masks"], raw["boxes"], (50, 40))[:, 0] > 0.5
    (found,) = CheckpointTeacher(run, TeacherOptions(floor=0.0)).predict([image])
    assert isinstance(found, Detections) and found.masks is not None
    best = found.scores.argmax()
    row = int(raw["scores"].argmax())
    np.testing.assert_allclose(found.boxes[best], raw["boxes"][row].numpy(), atol=1e-3)
    np.testing.assert_array_equal(decode(found.masks, 50, 40)[best], expected[row].numpy())
    assert found.labels[best] == raw["labels"][row] - 1
    few = CheckpointTeacher(run, TeacherOptions(floor=0.0, max_detections=3, nms_iou=0.4, top_k=50))
    assert len(few.predict([image])[0]) <= 3  # type: ignore[arg-type]
    assert (few.description["nms_iou"], few.description["top_k"], few.description["max_detections"]) == (0.4, 50, 3)
    assert (area(found.masks, 50, 40) <= 2000).all()
    torch.nn.init.constant_(network.roi_heads.mask_predictor.mask_fcn_logits.bias, -99.0)  # type: ignore[union-attr]
    save_checkpoint(run, network, replace(TINY, arch="maskrcnn"), {"step": 5, "trained_on": ["f00d"]})
    (none,) = CheckpointTeacher(run, TeacherOptions(floor=0.0)).predict([image])
    assert isinstance(none, Detections) and none.masks == ()  # what has no pixel is no instance


def test_levels_of_regions_have_their_own_scale(tmp_path: Path) -> None:
    """However little of its square the first image fills (torchvision guesses the scales from it)."""
    run = save_run(tmp_path / "run", "maskrcnn")
    options, wide, square = TeacherOptions(floor=0.0), scene(12, 90), scene(64, 64, 1)
    first, second = CheckpointTeacher(run, options), CheckpointTeacher(run, options)
    first.predict([wide])
    for ours, theirs in zip(first.predict([square]), second.predict([square]), strict=True):
        assert isinstance(ours, Detections) and isinstance(theirs, Detections)
        np.testing.assert_array_equal(ours.scores, theirs.scores)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("levels", [(8, 16), (8, 16, 32, 64, 128)])
def test_checkpoints_come_back(tmp_path: Path, arch: Any, norm: Any, levels: tuple[int, ...]) -> None:
    run = save_run(tmp_path / "run", arch, norm=norm, levels=levels)
    network, config, _ = load_checkpoint(run)
    assert config == replace(TINY, arch=arch, norm=norm, levels=levels)
    kinds = {type(module).__name__ for module in network.modules()}
    assert ("BatchNorm2d" in kinds) == (norm == "batch")
    with pytest.raises(TeacherError, match="unknown network arch None"):
        build_network(replace(TINY, arch=None))


def measured(*arguments: Any) -> Any:
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments), "--json"], catch_exceptions=False)
    return (json.loads(result.stdout) if result.exit_code == 0 else result.stderr), result.exit_code


def test_evaluate_command_for_every_kind(tmp_path: Path) -> None:
    classes = write_class_folders(tmp_path / "folders")
    maps = write_mask_folders(tmp_path / "maps", [np.zeros((40, 60)), np.ones((40, 60))], ("a", "b"))
    boxes = outlined_coco(tmp_path / "boxes")
    store = ("--store", tmp_path / "store")
    runs = {arch: save_run(tmp_path / arch, arch, classes=("a", "cell", "cat")) for arch in ARCHS}
    found, code = measured(runs["linear"], "--truth", classes, *store)
    assert code == 0 and {"accuracy", "ECE", "per_class"} <= set(found) and set(found["per_class"]) == {"cat", "dog"}
    assert (found["images"], found["classes"], found["only_in_labels"]) == (4, ["cat"], ["dog"])
    assert found["only_in_teacher"] == ["a", "cell"]
    found, code = measured(runs["fpn"], "--truth", maps, *store)
    assert code == 0 and {"mIoU", "accuracy", "per_class"} <= set(found) and found["per_class"]["b"] == 0
    found, code = measured(runs["maskrcnn"], "--truth", boxes, "--masks", *store)
    assert code == 0 and {"AP", "mask_AP", "mask_AR100"} <= set(found)
    found, code = measured(runs["maskrcnn"], "--truth", boxes, *store)
    assert code == 0 and "AP" in found and "mask_AP" not in found
    for wrong in (
        (runs["linear"], "--truth", maps),
        (runs["fpn"], "--truth", boxes),
        (runs["fpn"], "--truth", maps, "--results", tmp_path / "results.json"),
        (runs["linear"], "--truth", classes, "--masks"),
    ):
        message, code = measured(*wrong, *store)
        assert code == 1 and message.count("\n") == 1, message
    assert not (tmp_path / "results.json").exists()
    text = CliRunner().invoke(main, ["evaluate", str(runs["fpn"]), "--truth", str(maps), *map(str, store)])
    assert text.exit_code == 0 and "mIoU" in text.output and "IoU" in text.output


@pytest.mark.filterwarnings("ignore::teachers.errors.TutelageWarning")  # of names that do not match
def test_evaluate_takes_runs_teachers_and_labels_in_any_form(tmp_path: Path) -> None:
    """A run's folder or the teacher that is loaded from it, labels read or to be read: the command's figures."""
    path, run = outlined_coco(tmp_path / "boxes"), save_run(tmp_path / "run", "maskrcnn", classes=("a", "cell", "cat"))
    command, _ = measured(run, "--truth", path, "--masks", "--store", tmp_path / "store")
    loaded = CheckpointTeacher(run, TeacherOptions(floor=0.01))
    for model, truth in ((run, path), (f"checkpoint:{run}", str(path)), (loaded, read_truth(path, outlines=True))):
        evaluation = evaluate(model, truth, masks=True, results=tmp_path / "results.json")
        assert (
            evaluation.stored() == command
            and evaluation.metrics.items() <= command.items()
            and (evaluation.of_class, evaluation.trained_on) == ("AP", 0)
        )
        assert len(evaluation.detections) == len(evaluation.truth.images) == 2
        written = json.loads((tmp_path / "results.json").read_text())
        assert len(written) == sum(map(len, evaluation.detections))
        assert "mask_AP" in evaluation.metrics
    assert "mask_AP" not in evaluate(loaded, path).metrics
    folders = write_class_folders(tmp_path / "folders")
    linear = save_run(tmp_path / "linear", "linear", classes=("a", "cell", "cat"))
    assert (evaluate(linear, folders).of_class, evaluate(linear, folders).detections) == ("accuracy", ())
    for call, words in (
        (partial(evaluate, loaded, path, options=("nms_iou=0.6",)), "nms_iou=0.6 come too late"),
        (partial(evaluate, linear, folders, results=tmp_path / "none.json"), "results are boxes"),
        (partial(evaluate, linear, read_truth(folders), tmp_path), "images .* still to be read: leave them out"),
        (partial(evaluate, linear, folders, score=2), "score 2 is out of range: give a number from 0 to 1"),
        (partial(evaluate, "nothing:x", path), "unknown teacher"),
        (partial(evaluate, None, path), "model None is no teacher: give a run folder, a spec or what load_teacher"),
        (partial(evaluate, run, None), "truth None is no labels: give their path, a version or what read_truth"),
        (partial(evaluate, run, path, options="nms_iou=0.6"), "options 'nms_iou=0.6' is no list: give a list of"),
        (partial(evaluate, run, path, options=None), "options None is no list: give a list of"),
        *(
            (partial(evaluate, run, path, batch_size=size), f"batch_size {size!r} is out of range: give a whole number")
            for size in (0, -1, 2.0, "2")
        ),
    ):
        with pytest.raises(TutelageError, match=words):
            call()
    with pytest.raises(TypeError, match="'store' is no Store: give Store"):
        evaluate(linear, folders, store="store")  # type: ignore[arg-type]
    assert not (tmp_path / "none.json").exists()


def test_evaluate_takes_paths_as_text_and_an_open_version(tmp_path: Path) -> None:
    labelled = read_coco(write_rectangles(tmp_path / "labelled", 3))
    version = Version.open(write_version(tmp_path / "version", labelled, ["red", "green", "blue"]))
    teacher, results = RectangleFinder(("red", "green", "blue")), tmp_path / "results.json"
    of_open, of_folder = (
        evaluate(teacher, truth, results=str(results), batch_size=2, store=Store(tmp_path / "store"))
        for truth in (version, version.folder)
    )
    assert of_open.metrics == of_folder.metrics and len(of_open.truth.images) == 3
    assert len(json.loads(results.read_text())) == sum(map(len, of_open.detections)) > 0
    path = outlined_coco(tmp_path / "boxes")
    run = save_run(tmp_path / "run", "maskrcnn", classes=("a", "cell", "cat"))
    images = tmp_path / "elsewhere"
    images.mkdir()
    for image in read_truth(path).images:
        image.path.rename(images / image.path.name)
    assert len(evaluate(run, path, str(images)).truth.images) == 2


def test_measure_refuses_masks_of_a_detector(tmp_path: Path) -> None:
    truth: Truth = read_truth(outlined_coco(tmp_path), outlines=True)
    teacher = Answers("detection", ("cell",), [Detections.of([], [], [], width=1, height=1)] * 2)
    with pytest.raises(TeacherError, match="no masks"):
        measure(teacher, truth)
    assert evaluate_boxes(teacher, truth)[0]["AP"] == 0


def test_a_table_of_classes(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "images")
    table = tmp_path / "labels.csv"
    text = (
        "split,file,class\ntrain,dog/2.png,dog\ntrain,cat/0.png,cat\ntrain,background/3.png,background\n,cat/1.png,\n"
    )
    table.write_text(text)
    truth = read_truth(table, tmp_path / "images")
    assert truth.kind == "classification" and truth.classes == ("cat", "dog")
    assert [(image.name, image.label) for image in truth.images] == [
        ("dog/2.png", 1), ("cat/0.png", 0), ("background/3.png", None), ("cat/1.png", None)
    ]  # fmt: skip
    (tmp_path / "classes.txt").write_text("dog\nbird\ncat\n")
    assert [image.label for image in read_truth(table, tmp_path / "images").images] == [0, 2, None, None]
    cases = {
        "file,label\na.png,cat\n": "no columns file and class",
        "file,class\n": "no rows",
        "file,class\ndog/2.png,cow\n": "'cow', which is not in",
        "file,class\ndog/2.png,dog\ndog/2.png,cat\n": "twice",
        "file,class\ndog/9.png,dog\n": "'dog/9.png', which is not in",
    }
    for content, words in cases.items():
        table.write_text(content)
        with pytest.raises(TruthError, match=words) as caught:
            read_truth(table, tmp_path / "images")
        assert "\n" not in str(caught.value)


def test_real_labels_of_each_kind(shared_data: Path) -> None:
    truth = read_truth(shared_data / "cifar10" / "labels.csv")
    assert len(truth.images) == 4000 and truth.classes[:2] == ("airplane", "automobile")
    assert all(truth.classes[image.label or 0] in image.name for image in truth.images)

"""Decoders of exported models: small ONNX models made here that put out known numbers, and a real classifier."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from teachers import load_teacher, masks
from teachers.base import VOID, ClassProbabilities, Detections, SemanticMap, TeacherError, TeacherOptions
from teachers.from_onnx.models import load_onnx
from teachers.from_onnx.spec import InputSpec
from tests import ROOT

SIZE = 32
CLASSES = ["cat", "dog", "cow"]
EXAMPLE = ROOT / "examples" / "cifar10_resnet20" / "cifar10_resnet20.yaml"


def save(
    path: Path, graph: tuple[list[Any], list[Any], list[Any]], spec: dict[str, Any], images: list[Any], kind: int = 1
) -> Path:
    """An ONNX file of (nodes, outputs, initializers) over the input `images`, and the YAML file beside it."""
    nodes, outputs, initializers = graph
    entry = helper.make_tensor_value_info("images", kind, images)
    made = helper.make_graph(nodes, "small", [entry], outputs, initializers)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    content = {"input": {"size": SIZE, "scale": 1}, "classes": CLASSES, **spec}
    path.with_suffix(".yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


def constant(folder: Path, arrays: dict[str, np.ndarray], *, batch: int = 1, **spec: Any) -> Path:
    """A model that puts out these arrays, whatever it sees."""
    made = [helper.make_node("Identity", [f"raw_{name}"], [name]) for name in arrays]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    ]
    initializers = [numpy_helper.from_array(array, f"raw_{name}") for name, array in arrays.items()]
    return save(folder / "model.onnx", (made, values, initializers), spec, [batch, 3, SIZE, SIZE])


def white(height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def boxes_of(path: Path, images: list[np.ndarray] | None = None, **options: Any) -> list[Detections]:
    teacher = load_teacher(f"onnx:{path}", TeacherOptions(**options))
    assert teacher.description["kind"] == "detection"
    assert json.loads(json.dumps(teacher.description)) == teacher.description
    found = teacher.predict([white()] if images is None else images)
    assert all(isinstance(one, Detections) for one in found)
    return found  # type: ignore[return-value]


def assert_boxes(found: Detections, expected: list[tuple[list[float], float, int]]) -> None:
    assert found.labels.tolist() == [label for _, _, label in expected]
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, [box for box, _, _ in expected], rtol=1e-4, atol=1e-4)


def f32(*rows: list[float]) -> np.ndarray:
    return np.array([rows], np.float32)


# ---- heads without NMS


def upsampled(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As Ultralytics' `scale_masks` does it, for an input without padding."""
    full = torch.nn.functional.interpolate(torch.from_numpy(planes)[None], size, mode="bilinear", align_corners=False)
    return full[0].numpy()


@pytest.mark.parametrize("decoder", ["yolov5_seg", "yolov8_seg"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (75, 100), (7, 5), (32, 9), (90, 31)])
def test_masks_of_yolo_are_those_of_torch(tmp_path: Path, decoder: str, height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    cx, cy, w, h = rng.uniform([4, 4, 6, 6], [28, 28, 30, 30], (12, 4)).T
    scores = np.round(rng.uniform(0.1, 1, (12, 3)) * np.eye(3)[rng.integers(0, 3, 12)], 3)
    own = rng.normal(size=(12, 4))
    planes = rng.normal(size=(1, 4, 8, 8)).astype(np.float32)
    sure = [np.ones((12, 1))] if decoder == "yolov5_seg" else []
    rows = np.concatenate([np.stack([cx, cy, w, h], 1), *sure, scores, own], 1).astype(np.float32)[None]
    output = rows if decoder == "yolov5_seg" else rows.transpose(0, 2, 1).copy()
    how = {"input": {"size": SIZE, "fit": "stretch"}, "nms_iou": 1.0}
    path = constant(tmp_path, {"boxes": output, "planes": planes}, decoder=decoder, **how)
    teacher = load_onnx(path, TeacherOptions(max_detections=10))
    assert teacher.description["kind"] == "instance"
    found = teacher.predict([white(height, width)])[0]
    assert isinstance(found, Detections)
    assert found.masks is not None
    best = np.argsort(-scores.max(1), kind="stable")[:10]
    scale = np.array([width, height, width, height], np.float32) / SIZE
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1).astype(np.float32)[best] * scale
    logits = upsampled(np.einsum("nm,mhw->nhw", own[best].astype(np.float32), planes[0]), (height, width))
    y, x = np.mgrid[:height, :width]
    x1, y1, x2, y2 = boxes.T[:, :, None, None]
    wanted = (logits > 0) & (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    seen = wanted.any((1, 2))
    assert 0 < seen.sum() == len(found)
    np.testing.assert_array_equal(found.scores, scores.max(1)[best][seen].astype(np.float32))
    # torch reads single cells where an image is smaller than the planes, which we resample antialiased
    if min(height, width) >= 8:
        differ = masks.decode(found.masks, height, width) != wanted[seen]
        assert differ.mean() < 1e-3


def test_masks_of_a_letterboxed_image_lie_on_it(tmp_path: Path) -> None:
    planes = np.full((1, 1, 8, 8), -1, np.float32)
    planes[0, 0, 3:5, 2:6] = 1  # rows 12 to 20, columns 8 to 24 of the input
    output = f32([16, 16, 32, 32, 0.9, 0, 0, 1.0]).transpose(0, 2, 1).copy()
    how = {"input": {"size": SIZE, "letterbox": {"anchor": "center"}}}
    path = constant(tmp_path, {"boxes": output, "planes": planes}, decoder="yolov8_seg", **how)
    found = load_onnx(path, TeacherOptions()).predict([white(32, 64)])[0]  # fills rows 8 to 24 of the input
    assert isinstance(found, Detections)
    assert found.masks is not None
    np.testing.assert_allclose(masks.bounds(found.masks, 32, 64), [[16, 8, 48, 24]], atol=1)


YOLOV5 = f32([12, 10, 4, 12, 0.8, 0.1, 0.9, 0.02], [12.5, 10, 4, 12, 0.5, 0, 1, 0], [20, 20, 8, 8, 0.1, 0.3, 0, 0])
YOLOV8 = f32([12, 10, 4, 12, 0.08, 0.72, 0.016], [12.5, 10, 4, 12, 0, 0.5, 0], [20, 20, 8, 8, 0.03, 0, 0])


@pytest.mark.parametrize(("decoder", "output"), [("yolov5", YOLOV5), ("yolov8", YOLOV8.transpose(0, 2, 1).copy())])
def test_yolo_heads(tmp_path: Path, decoder: str, output: np.ndarray) -> None:
    """Centre 12, 10 and size 4 x 12: 10, 4 to 14, 16, a dog by .72 (.8 x .9) and a cat by .08; the second is suppressed
    by it; the third lies below the floor."""
    path = constant(tmp_path, {"output": output}, decoder=decoder)
    assert_boxes(boxes_of(path)[0], [([10, 4, 14, 16], 0.72, 1), ([10, 4, 14, 16], 0.08, 0)])
    assert_boxes(boxes_of(path, nms_iou=0.99, top_k=2)[0], [([10, 4, 14, 16], 0.72, 1), ([10.5, 4, 14.5, 16], 0.5, 1)])
    assert_boxes(boxes_of(path, [white(64, 64)], floor=0.6)[0], [([20, 8, 28, 32], 0.72, 1)])
    shares = output.copy()
    (shares[..., :4] if decoder == "yolov5" else shares[:, :4])[:] /= SIZE
    path = constant(tmp_path, {"output": shares}, decoder=decoder, normalized=True)
    assert_boxes(boxes_of(path, floor=0.6)[0], [([10, 4, 14, 16], 0.72, 1)])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_detr(tmp_path: Path, activation: str) -> None:
    """A query with two likely classes yields the better under softmax, and both under sigmoid. No NMS, unless asked."""
    boxes = f32([0.375, 0.3125, 0.125, 0.375], [0.375, 0.3125, 0.125, 0.375], [0.5, 0.5, 1, 1])
    logits = f32([2, 1, -9], [1.5, -9, -9], [-9, -9, -9])
    if activation == "softmax":
        logits = np.concatenate([logits, f32([0], [0], [5])], 2)
        shares = torch.tensor(logits[0]).softmax(1).numpy()
        expected = [([10, 4, 14, 16], shares[1, 0], 0), ([10, 4, 14, 16], shares[0, 0], 0)]
    else:
        shares = torch.tensor(logits[0]).sigmoid().numpy()
        expected = [([10, 4, 14, 16], shares[place], place[1]) for place in ((0, 0), (1, 0), (0, 1))]
    path = constant(tmp_path, {"logits": logits, "boxes": boxes}, decoder="detr", activation=activation)
    assert_boxes(boxes_of(path)[0], expected)
    assert len(boxes_of(path, nms_iou=0.5)[0]) == len(expected) - 1
    swapped = constant(
        tmp_path, {"boxes": boxes, "logits": logits}, decoder="detr", activation=activation, outputs=["logits", "boxes"]
    )
    assert_boxes(boxes_of(swapped)[0], expected)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_detr_reads_what_transformers_reads(tmp_path: Path, activation: str) -> None:
    transformers = pytest.importorskip("transformers")
    processor = transformers.DetrImageProcessor() if activation == "softmax" else transformers.RTDetrImageProcessor()
    rng = np.random.default_rng(0)
    width = len(CLASSES) + (activation == "softmax")
    logits = rng.normal(size=(1, 40, width)).astype(np.float32) * 2
    boxes = np.concatenate([rng.uniform(0.4, 0.6, (1, 40, 2)), rng.uniform(0.1, 0.7, (1, 40, 2))], 2).astype(np.float32)
    raw = SimpleNamespace(logits=torch.tensor(logits), pred_boxes=torch.tensor(boxes))
    read = processor.post_process_object_detection(raw, threshold=0.3, target_sizes=[(SIZE, SIZE)])[0]
    order = read["scores"].argsort(descending=True, stable=True)
    # RT-DETR's keeps as many candidates as there are queries
    path = constant(tmp_path, {"logits": logits, "boxes": boxes}, decoder="detr", activation=activation)
    found = boxes_of(path, floor=0.3, top_k=40)[0]
    assert len(found) == len(order) > 10
    np.testing.assert_array_equal(found.labels, read["labels"][order])
    np.testing.assert_allclose(found.scores, read["scores"][order], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, read["boxes"][order].clamp(0, SIZE), atol=1e-4)


def test_outputs_that_are_no_class_are_left_out(tmp_path: Path) -> None:
    """Here of a DETR: the query whose likeliest output is no class yields nothing."""
    logits, boxes = f32([0, 5, 0, 0], [0, 0, 5, 0]), f32([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5])
    path = constant(tmp_path, {"logits": logits, "boxes": boxes}, decoder="detr", classes=["cat", "N/A", "dog"])
    teacher = load_onnx(path, TeacherOptions(floor=0.2))
    assert teacher.classes == ("cat", "dog")
    assert teacher.description["class_outputs"] == [0, 2]
    assert teacher.predict([white()])[0].labels.tolist() == [1]


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_nanodet(tmp_path: Path, apart: bool, offset: float) -> None:
    """Against the formula in torch: point + expectation of the softmax over 0 … reg_max, in strides. Strides 8 and 24:
    4 x 4 and ceil(32 / 24) = 2 x 2 cells."""
    strides, reg_max, cells = [8, 24], 7, 16 + 4
    rng = np.random.default_rng(0)
    scores = np.zeros((1, cells, 3), np.float32)
    scores[0, [5, 18], [1, 2]] = 0.9, 0.6  # cell (x 1, y 1) of stride 8; (x 0, y 1) of stride 24
    raw = rng.normal(size=(1, cells, 4 * (reg_max + 1))).astype(np.float32) * 2
    distance = torch.tensor(raw[0]).reshape(cells, 4, -1).softmax(2) @ torch.arange(8.0)
    expected = []
    for row, label, point, stride in ((5, 1, (1, 1), 8), (18, 2, (0, 1), 24)):
        x, y = ((p + offset) * stride for p in point)
        left, top, right, bottom = (distance[row] * stride).tolist()
        box = np.clip([x - left, y - top, x + right, y + bottom], 0, SIZE)
        expected.append((box.tolist(), float(scores[0, row, label]), label))
    outputs = {"scores": scores, "distances": raw} if apart else {"output": np.concatenate([scores, raw], 2)}
    path = constant(tmp_path, outputs, decoder="nanodet", strides=strides, cell_offset=offset)
    assert_boxes(boxes_of(path)[0], expected)
    logits = {"scores": np.log(scores.clip(1e-6) / (1 - scores.clip(1e-6))), "distances": raw}
    path = constant(tmp_path, logits, decoder="nanodet", strides=strides, cell_offset=offset, activation="sigmoid")
    assert_boxes(boxes_of(path)[0], expected)


# ---- models that end in NMS


BOX, OTHER = [10.0, 4.0, 14.0, 16.0], [1.0, 2.0, 30.0, 31.0]
APART = {
    "boxes": f32(BOX, OTHER, [0, 0, 0, 0]),
    "scores": np.array([[0.9, 0.8, 0.7]], np.float32),
    "labels": np.array([[2, 0, -1]], np.int64),
}
EXPECTED = [(BOX, 0.9, 2), (OTHER, 0.8, 0)]


@pytest.mark.parametrize(
    ("outputs", "spec"),
    [
        (APART, {}),
        ({name: array[0] for name, array in APART.items()}, {}),  # a model for one image without B
        (
            {"number": np.array([[2]], np.int32), **APART, "labels": np.array([[2, 0, 99]], np.int64)},
            {"outputs": ["boxes", "scores", "labels", "number"]},
        ),
        (
            {"boxes": APART["boxes"], "labels": APART["labels"], "scores": APART["scores"]},
            {"outputs": ["boxes", "scores", "labels"]},
        ),
        ({**APART, "boxes": APART["boxes"][..., [1, 0, 3, 2]] / SIZE}, {"boxes": "yxyx", "normalized": True}),
        ({**APART, "boxes": f32([10, 4, 4, 12], [1, 2, 29, 29], [0, 0, 0, 0])}, {"boxes": "xywh"}),
        ({**APART, "boxes": f32([12, 10, 4, 12], [15.5, 16.5, 29, 29], [0, 0, 0, 0])}, {"boxes": "cxcywh"}),
        ({"output": f32([*BOX, 0.9, 2], [*OTHER, 0.8, 0], [0] * 6)}, {}),
        ({"output": f32([*BOX, 0.9, 2], [*OTHER, 0.8, 0], [0] * 6)[0]}, {}),
        ({"output": f32([0.9, 2, *BOX], [0.8, 0, *OTHER])}, {"columns": ["score", "label", "box"]}),
        ({"output": f32([0, *BOX, 2, 0.9], [0, *OTHER, 0, 0.8])[0]}, {}),  # YOLOv7's
        ({"output": np.zeros((0, 7), np.float32)}, {}),
    ],
)
def test_models_that_end_in_nms(tmp_path: Path, outputs: dict[str, np.ndarray], spec: dict[str, Any]) -> None:
    path = constant(tmp_path, outputs, decoder="nms", **spec)
    expected = EXPECTED if outputs.get("output", BOX) is BOX or len(outputs["output"]) else []
    assert_boxes(boxes_of(path)[0], expected) if expected else None
    assert len(boxes_of(path)[0]) == len(expected)
    assert [len(found) for found in boxes_of(path, [white(), white()], top_k=1)] == [min(1, len(expected))] * 2


def test_rows_that_name_their_image_go_to_it(tmp_path: Path) -> None:
    """In any order; the third image of a batch of three is blank, and what is found there is nobody's."""
    rows = f32([1, *BOX, 2, 0.9], [2, *BOX, 1, 0.9], [0, *OTHER, 0, 0.8], [1, *OTHER, 1, 0.5])[0]
    first, second = boxes_of(constant(tmp_path, {"output": rows}, decoder="nms", batch=3), [white(), white(64, 64)])
    assert_boxes(first, [(OTHER, 0.8, 0)])
    assert_boxes(second, [([2 * side for side in BOX], 0.9, 2), ([2 * side for side in OTHER], 0.5, 1)])


# ---- classifiers and segmenters


@pytest.mark.parametrize(("activation", "shape"), [("softmax", (1, 3)), ("sigmoid", (1, 3)), ("none", (1, 3, 1, 1))])
def test_classifiers(tmp_path: Path, activation: str, shape: tuple[int, ...]) -> None:
    values = np.array([0.2, 0.7, 0.1], np.float32)
    made = {"softmax": torch.softmax(torch.tensor(values), 0), "sigmoid": torch.tensor(values).sigmoid()}
    path = constant(tmp_path, {"output": values.reshape(shape)}, decoder="classifier", activation=activation)
    teacher = load_onnx(path, TeacherOptions())
    found = teacher.predict([white(), white(10, 99)])
    assert (teacher.description["kind"], teacher.description["floor"]) == ("classification", 0)
    for one in found:
        assert isinstance(one, ClassProbabilities)
        np.testing.assert_allclose(one.probabilities, made.get(activation, values), rtol=1e-6)
    part = constant(
        tmp_path, {"output": values[None]}, decoder="classifier", activation="none", classes=["a", "N/A", "c"]
    )
    np.testing.assert_allclose(load_onnx(part, TeacherOptions()).predict([white()])[0].probabilities, [0.2, 0.1])


def test_the_real_classifier_is_right_as_often_as_its_source_says(shared_data: Path) -> None:
    """Of 2,000 pool images some 81 %: the .811 of the data's README was measured on twice as many."""
    if not (shared_data / "models" / "cifar10_resnet20.onnx").is_file():
        pytest.skip("no models/cifar10_resnet20.onnx in the shared data")
    options = TeacherOptions(weights=str(shared_data / "models" / "cifar10_resnet20.onnx"), batch_size=100)
    teacher = load_teacher(f"onnx:{EXAMPLE}", options)
    folder = shared_data / "cifar10"
    lines = (folder / "labels.csv").read_text().splitlines()
    rows = [row for row in csv.DictReader(lines) if row["split"] == "pool"]
    pixels = [np.asarray(Image.open(folder / row["file"]).convert("RGB")) for row in rows]
    planes = np.stack([one.probabilities for one in teacher.predict(pixels)])  # type: ignore[union-attr]
    assert list(teacher.classes) == (folder / "classes.txt").read_text().split()
    truth = np.array([int(row["class_id"]) for row in rows])
    assert len(rows) == 2000
    assert (planes.argmax(1) == truth).mean() == pytest.approx(0.811, abs=0.015)
    sure = planes.max(1) >= 0.95
    assert sure.mean() == pytest.approx(0.75, abs=0.02)
    assert (planes.argmax(1) == truth)[sure].mean() == pytest.approx(0.912, abs=0.015)


def colours(folder: Path, pool: int = 1, **spec: Any) -> Path:
    """A segmenter whose logits of cat, dog and cow are ten times red, green and blue, pooled over `pool` pixels."""
    weight = (np.eye(3, dtype=np.float32) * 10).reshape(3, 3, 1, 1)
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["full"]),
        helper.make_node("AveragePool", ["full"], ["output"], kernel_shape=[pool, pool], strides=[pool, pool]),
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["B", 3, SIZE // pool, SIZE // pool])
    graph = (nodes, [output], [numpy_helper.from_array(weight, "weight")])
    content = {"decoder": "segmenter", "input": {"size": SIZE, "scale": 1 / 255}, **spec}
    return save(folder / "model.onnx", graph, content, ["B", 3, SIZE, SIZE])


def painted(height: int, width: int) -> np.ndarray:
    """Red at the left, green at the right, blue in the lower quarter."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = image[:, width // 2 :, 1] = 255
    image[height * 3 // 4 :] = 0, 0, 255
    return image


@pytest.mark.parametrize("anchor", ["top_left", "center"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 16), (16, 32), (64, 128)])
def test_a_map_lies_on_the_image(tmp_path: Path, anchor: str, height: int, width: int) -> None:
    content = {"size": SIZE, "scale": 1 / 255, "letterbox": {"anchor": anchor}}
    teacher = load_onnx(colours(tmp_path, input=content), TeacherOptions())
    image = painted(height, width)
    one = teacher.predict([image])[0]
    assert isinstance(one, SemanticMap)
    assert teacher.description["kind"] == "semantic"
    assert (one.labels != image.argmax(2)).sum() <= (2 if height == 64 else 0)  # where three colours meet, if enlarged
    sure = round(255 / (1 + 2 * np.exp(-10)))
    assert one.confidence[0, 0] == one.confidence[-1, -1] == sure
    planes = teacher.predict_probabilities([image])[0]  # type: ignore[attr-defined]
    assert (planes.dtype, planes.shape) == (np.float32, (3, height, width))
    np.testing.assert_allclose(planes.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(planes.argmax(0), one.labels)


def test_strips_of_a_large_map_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"size": SIZE, "scale": 1 / 255, "letterbox": {"anchor": "center"}}
    teacher = load_onnx(colours(tmp_path, 4, input=content), TeacherOptions())
    image = np.random.default_rng(0).integers(0, 256, (103, 61, 3), np.uint8)
    whole = SemanticMap.of(teacher.predict_probabilities([image])[0])  # type: ignore[attr-defined]
    monkeypatch.setattr("teachers.from_onnx.pixels.STRIP", 3 * 61 * 10)
    (one,) = teacher.predict([image])
    assert isinstance(one, SemanticMap)
    np.testing.assert_array_equal(one.labels, whole.labels)
    np.testing.assert_allclose(one.confidence.astype(int), whole.confidence, atol=1)


def test_coarse_logits_are_enlarged_as_torch_does(tmp_path: Path) -> None:
    teacher = load_onnx(colours(tmp_path, pool=4), TeacherOptions(batch_size=2))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for _ in range(3)]
    for image, planes in zip(images, teacher.predict_probabilities(images), strict=True):  # type: ignore[attr-defined]
        logits = torch.nn.functional.avg_pool2d(torch.tensor(image).permute(2, 0, 1)[None] / 255 * 10, 4)
        full = torch.nn.functional.interpolate(logits, size=(SIZE, SIZE), mode="bilinear").softmax(1)[0]
        np.testing.assert_allclose(planes, full.numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_ids_become_a_map_without_doubt(tmp_path: Path, dtype: type) -> None:
    ids = np.zeros((1, 8, 8), dtype)
    ids[0, :, 4:], ids[0, 6:] = 2, VOID
    path = constant(tmp_path, {"ids": ids}, decoder="segmenter", activation="ids", classes=["cat", "N/A", "cow"])
    teacher = load_onnx(path, TeacherOptions())
    one = teacher.predict([white(64, 64)])[0]
    assert isinstance(one, SemanticMap)
    expected = np.full((64, 64), 0, np.uint8)
    expected[:, 32:] = 1  # the second class
    expected[48:] = VOID
    np.testing.assert_array_equal(one.labels, expected)
    np.testing.assert_array_equal(one.confidence, np.where(expected == VOID, 0, 255))
    planes = teacher.predict_probabilities([white(64, 64)])[0]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(planes, [expected == 0, expected == 1])


# ---- inputs


def test_stretch_and_crop(tmp_path: Path) -> None:
    """A crop of the middle 32 x 32 of an image brought to a shorter side of 40; stretched boxes come back per axis."""
    image = np.repeat(np.arange(120, dtype=np.uint8)[None, :, None], 3, 2).repeat(40, 0)  # columns 0 … 119
    cropped, geometry = InputSpec(size=SIZE, fit="crop", shorter_side=40).prepare([image], 1)
    np.testing.assert_array_equal(cropped[0, 0, 0], np.arange(44, 76))
    assert geometry.tolist() == [[-44, -4, 1, 1]]
    filled, _ = InputSpec(size=(20, 60), fit="crop").prepare([image], 1)
    assert filled.shape == (1, 3, 20, 60)
    small, _ = InputSpec(size=SIZE, fit="crop").prepare([np.full((4, 8, 3), 7, np.uint8)], 1)
    assert (small == 7).all()  # enlarged
    path = constant(
        tmp_path, {"output": f32([*BOX, 0.9, 2])}, decoder="nms", input={"size": SIZE, "scale": 1, "fit": "stretch"}
    )
    assert_boxes(boxes_of(path, [white(64, 320)])[0], [([100, 8, 140, 32], 0.9, 2)])


def test_a_model_may_take_whole_pixels_channels_last(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["output"], axes=[1, 2], keepdims=0),
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["B", 3])
    spec: dict[str, Any] = {"decoder": "classifier", "input": {"size": SIZE, "layout": "nhwc"}}
    shape = ["B", SIZE, SIZE, 3]
    path = save(tmp_path / "model.onnx", (nodes, [output], []), spec, shape, TensorProto.UINT8)
    image = np.full((SIZE, SIZE, 3), (3, 5, 4), np.uint8)
    found = load_onnx(path, TeacherOptions()).predict([image])[0]
    assert isinstance(found, ClassProbabilities)
    np.testing.assert_allclose(found.probabilities, torch.tensor([3.0, 5, 4]).softmax(0), rtol=1e-5)
    spec["input"]["scale"] = 0.5
    save(path, (nodes, [output], []), spec, shape, TensorProto.UINT8)
    with pytest.raises(TeacherError, match="takes pixels as whole numbers: remove scale"):
        load_onnx(path, TeacherOptions())


# ---- errors


@pytest.mark.parametrize(
    ("outputs", "spec", "message"),
    [
        (
            [(1, 20, 9)],
            {"decoder": "yolov5"},
            r"yolov5 expects one output \(B, N, 8\) for 3 classes.* gives \(1, 20, 9\)",
        ),
        (
            [(1, 20, 7)],
            {"decoder": "yolov8"},
            r"yolov8 expects one output \(B, 7, N\) for 3 classes.* gives \(1, 20, 7\)",
        ),
        (
            [(1, 9, 3), (1, 9, 4)],
            {"decoder": "detr"},
            r"detr expects logits \(B, N, 4\), then boxes.*softmax, but .*3\), \(1, 9, 4\)",
        ),
        ([(1, 9, 4)], {"decoder": "detr"}, r"detr expects logits .* gives \(1, 9, 4\): correct"),
        (
            [(1, 9, 35)],
            {"decoder": "nanodet", "strides": [8]},
            r"\(B, 16, 35\) or the two \(B, 16, 3\), \(B, 16, 32\) for input",
        ),
        (
            [(1, 43, 20), (1, 32, 8, 8)],
            {"decoder": "yolov8_seg"},
            r"expects the output \(B, 7 \+ M, N\), then \(B, M, h, w\), for 3 classes, but .* gives \(1, 43, 20\)",
        ),
        (
            [(1, 39, 20), (1, 32, 8, 8)],
            {"decoder": "yolov8"},
            r"for 3 classes \(with masks: yolov8_seg\), but the model",
        ),
        ([(1, 20, 39), (1, 32, 8, 8)], {"decoder": "yolov5_seg"}, r"expects the output \(B, N, 8 \+ M\), then"),
        ([(1, 9, 5)], {"decoder": "nms"}, r"nms expects 6 or 7 columns, or boxes.* gives \(1, 9, 5\)"),
        (
            [(1, 9, 6)],
            {"decoder": "nms", "columns": ["image", "box", "score", "label"]},
            r"\(B, N, 7\) with the columns image, box",
        ),
        (
            [(1, 9, 4), (1, 9)],
            {"decoder": "nms"},
            r"nms expects boxes \(B, N, 4\), scores .* gives \(1, 9, 4\), \(1, 9\)",
        ),
        ([(1, 9, 4), (1, 9), (1, 8)], {"decoder": "nms"}, r"nms expects boxes"),
        ([(1, 9, 4), (1, 9), (1, 9), (7,)], {"decoder": "nms"}, r"for 1 images as many numbers of rows"),
        ([(1, 4)], {"decoder": "classifier"}, r"classifier expects one output \(B, 3\).* gives \(1, 4\)"),
        ([(1, 3), (1, 3)], {"decoder": "classifier"}, r"classifier expects one output"),
        (
            [(1, 4, 8, 8)],
            {"decoder": "segmenter"},
            r"segmenter expects one output \(B, 3, h, w\) of softmax.* gives \(1, 4, 8, 8\)",
        ),
        (
            [(1, 3, 8, 8)],
            {"decoder": "segmenter", "activation": "ids"},
            r"one output \(B, h, w\) or \(B, 1, h, w\) of class ids",
        ),
        ([(1, 3)], {"decoder": "classifier", "strides": [8]}, r"has an unknown key strides"),
        ([(1, 3)], {"decoder": "classifier", "nms_iou": 0.5}, r"has an unknown key nms_iou"),
        ([(1, 9, 6)], {"decoder": "nms", "columns": ["box", "score"]}, r"columns names box, score, label and"),
        (
            [(1, 9, 4), (1, 9, 4)],
            {"decoder": "detr", "activation": "relu"},
            r"has .*activation: 'relu', but input should be",
        ),
    ],
)
def test_an_output_that_does_not_fit_is_named(
    tmp_path: Path, outputs: list[tuple[int, ...]], spec: dict[str, Any], message: str
) -> None:
    arrays = {f"output{n}": np.zeros(shape, np.float32) for n, shape in enumerate(outputs)}
    with pytest.raises(TeacherError, match=message) as error:
        load_onnx(constant(tmp_path, arrays, **spec), TeacherOptions())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("outputs", "spec", "message"),
    [
        ({"output": f32([*BOX, 0.9, 3])}, {"decoder": "nms"}, r"read the label 3, but .* names 3 classes, 0 to 2"),
        ({"output": f32([*BOX, 1, 0.9])}, {"decoder": "nms"}, r"read the label 0\.9, .*correct classes, or the order"),
        (
            {"output": f32([1, 2, -3])[0]},
            {"decoder": "classifier", "activation": "none"},
            r"from -3 to 2, which are no",
        ),
        ({"output": np.full((1, 8, 8), 3)}, {"decoder": "segmenter", "activation": "ids"}, r"read the class id 3, but"),
        ({"output": f32([np.nan, 0, 0])[0]}, {"decoder": "classifier"}, r"holds a NaN"),
        (
            {"output": f32([*BOX, 3, -2, 5]).transpose(0, 2, 1)},
            {"decoder": "yolov8"},
            r"decoder yolov8 read the score 5, which is no probability: export the model with",
        ),
        ({"output": f32([*BOX, 88, 1])}, {"decoder": "nms"}, r"decoder nms read the score 88, which is no"),
        ({"output": f32([*BOX, 255, 255, 0, 0]).astype(np.uint8)}, {"decoder": "yolov5"}, r"read the score 65025,"),
        ({"output": np.float32(1)}, {"decoder": "classifier"}, r"one number a class, but the model gives \(\)"),
        (
            {"output": np.zeros((1, 3), np.float32)},
            {"decoder": "classifier", "input": {"size": SIZE, "mean": [np.nan, 0, 0]}},
            r"has input.mean.0: nan, but input should be a finite number",
        ),
        ({"output": f32([0, 0, 0])[0]}, {"decoder": "classifier", "classes": ["cat", " ", "cow"]}, "without a name"),
    ],
)
def test_an_output_that_cannot_be_true_is_refused(
    tmp_path: Path, outputs: dict[str, np.ndarray], spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(TeacherError, match=message) as error:
        load_onnx(constant(tmp_path, outputs, **spec), TeacherOptions())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", ["floor", "nms_iou"])
def test_options_of_boxes_mean_nothing_elsewhere(tmp_path: Path, option: str) -> None:
    options = TeacherOptions(**{option: 0.3})
    with pytest.raises(TeacherError, match=f"{option}=0.3 has no meaning for a segmenter"):
        load_onnx(colours(tmp_path), options)
    with pytest.raises(TeacherError, match=f"{option}=0.3 has no meaning for a classifier"):
        load_onnx(constant(tmp_path, {"o": np.zeros((1, 3), np.float32)}, decoder="classifier"), options)

"""ONNX models: YOLOX on real images against its raw output, and small models made here for geometry and errors. (The
other decoders: test_onnx_decoders.)"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import batched_nms

from teachers import load_teacher
from teachers.base import TeacherError, TeacherOptions, fingerprint
from teachers.from_onnx.models import load_onnx
from teachers.from_onnx.spec import InputSpec
from tests import ROOT

EXAMPLE = ROOT / "examples" / "coco_yolox" / "yolox_nano_416.yaml"
SIZE, STRIDES, CLASSES = 32, (8, 16), ("cat", "dog")
CELLS = 16 + 4
"""The small models here: 4 x 4 cells of 8 pixels, then 2 x 2 of 16."""


# ---- real model, real images


def raw_yolox_results(model: Path, images: Path, truth: COCO) -> list[dict[str, Any]]:
    """COCO results from the model's raw output, decoded as the data's README words it: the peer of the teacher, with
    its own resize (bilinear, not antialiased), decoding and NMS."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    category_ids = [category["id"] for category in truth.dataset["categories"]]
    grid, stride = [], []
    for s in (8, 16, 32):
        for y in range(416 // s):
            for x in range(416 // s):
                grid.append((x, y))
                stride.append(s)
    grid_t, stride_t = torch.tensor(grid), torch.tensor(stride)[:, None]
    results = []
    for image in truth.dataset["images"]:
        rgb = torch.from_numpy(np.array(Image.open(images / image["file_name"]).convert("RGB"))).permute(2, 0, 1)
        ratio = min(416 / image["height"], 416 / image["width"])
        size = int(image["height"] * ratio), int(image["width"] * ratio)
        small = torch.nn.functional.interpolate(rgb[None].float(), size, mode="bilinear")
        padded = torch.full((1, 3, 416, 416), 114.0)
        padded[:, :, : size[0], : size[1]] = small.flip(1)
        raw = torch.from_numpy(session.run(None, {"images": padded.numpy()})[0][0])
        center, half = (raw[:, :2] + grid_t) * stride_t, raw[:, 2:4].exp() * stride_t / 2
        boxes = torch.cat([center - half, center + half], 1) / ratio
        scores = raw[:, 4:5] * raw[:, 5:]
        cell, label = torch.where(scores >= 0.02)
        keep = batched_nms(boxes[cell], scores[cell, label], label, 0.5)
        for c, k in zip(cell[keep].tolist(), label[keep].tolist(), strict=True):
            x1, y1, x2, y2 = boxes[c].tolist()
            box = [x1, y1, x2 - x1, y2 - y1]
            score = float(scores[c, k])
            results.append({"image_id": image["id"], "category_id": category_ids[k], "bbox": box, "score": score})
    return results


def average_precision(truth: COCO, results: list[dict[str, Any]]) -> tuple[float, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[1]


def test_yolox_reaches_the_ap_of_its_raw_output(shared_data: Path) -> None:
    images, model = shared_data / "coco" / "images", shared_data / "models" / "yolox_nano_416.onnx"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(shared_data / "coco" / "instances_val.json"))
    categories = truth.dataset["categories"]
    teacher = load_teacher(f"onnx:{EXAMPLE}", TeacherOptions(floor=0.02, weights=str(model)))
    assert list(teacher.classes) == [category["name"] for category in categories]

    records = truth.dataset["images"]
    pixels = [np.asarray(Image.open(images / record["file_name"]).convert("RGB")) for record in records]
    results = [
        {
            "image_id": record["id"],
            "category_id": categories[label]["id"],
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
        }
        for record, found in zip(records, teacher.predict(pixels), strict=True)
        for (x1, y1, x2, y2), score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    ]
    ap, ap50 = average_precision(truth, results)
    raw_ap, raw_ap50 = average_precision(truth, raw_yolox_results(model, images, truth))
    assert ap == pytest.approx(raw_ap, abs=0.01)
    assert ap50 == pytest.approx(raw_ap50, abs=0.02)
    assert ap > 0.29


def test_the_example_reads_the_model_it_names(shared_data: Path) -> None:
    named = EXAMPLE.parent / yaml.safe_load(EXAMPLE.read_text())["model"]
    if not named.is_file():
        pytest.skip(f"the example's model is not at {named}")
    assert load_onnx(EXAMPLE, TeacherOptions()).runtime["license"] == "Apache-2.0"


# ---- small models


def raw_output(*cells: tuple[int, list[float]]) -> np.ndarray:
    """A raw YOLOX output (CELLS, 7), zero but for the rows given: cell -> x, y, log w, log h, objectness, cat, dog."""
    output = np.zeros((CELLS, 5 + len(CLASSES)), np.float32)
    for cell, values in cells:
        output[cell] = values
    return output


def write_model(folder: Path, output: np.ndarray, *, batch: int | str = "B", half: bool = False, **spec: Any) -> Path:
    """An ONNX model that answers every image with `output`, its objectness times the image's mean pixel / 255; and the
    YAML beside it, with the keys of `spec` changed (None removes one)."""
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    objectness = np.arange(output.shape[1])[None, None] == 4
    constants = {"raw": output[None], "unit": objectness / 255, "rest": ~objectness}
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Squeeze", ["mean", "last"], ["level"]),
        helper.make_node("Mul", ["level", "unit"], ["scaled"]),
        helper.make_node("Add", ["scaled", "rest"], ["factor"]),
        helper.make_node("Mul", ["factor", "raw"], ["output"]),
    ]
    initializers = [numpy_helper.from_array(value.astype(dtype), name) for name, value in constants.items()]
    initializers.append(numpy_helper.from_array(np.array([3]), "last"))
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", kind, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", kind, [batch, *output.shape])],
        initializers,
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    plain = {"size": SIZE, "color": "rgb", "antialias": True, "letterbox": {"upscale": False}}
    content = {"decoder": "yolox", "strides": list(STRIDES), "input": plain, "classes": list(CLASSES)}
    content = {key: value for key, value in {**content, **spec}.items() if value is not None}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    return path


def white(height: int, width: int, value: int = 255) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


ONE_BOX = raw_output((5, [0.5, 0.25, np.log(0.5), np.log(1.5), 1, 0, 0.75]))
"""Cell (x 1, y 1) of stride 8: centre (12, 10), 4 x 12 pixels: 10, 4, 14, 16 in the 32 x 32 input. A dog."""


@pytest.mark.parametrize(
    ("letterbox", "shape", "expected"),
    [
        ({}, (32, 32), [10, 4, 14, 16]),
        ({}, (64, 64), [20, 8, 28, 32]),  # shrunk to a half
        ({}, (64, 128), [40, 16, 56, 64]),  # to a quarter
        ({}, (20, 16), [10, 4, 14, 16]),  # not enlarged
        ({"upscale": True}, (16, 16), [5, 2, 7, 8]),  # doubled
        ({"anchor": "center"}, (32, 64), [20, 0, 28, 16]),  # halved to 16 x 32, 8 down; cut at the image's top
        ({"anchor": "center"}, (16, 16), [2, 0, 6, 8]),  # 8 down and 8 right
    ],
)
def test_a_box_comes_back_in_pixels_of_the_image(
    tmp_path: Path, letterbox: dict[str, Any], shape: tuple[int, int], expected: list[float]
) -> None:
    path = write_model(
        tmp_path, ONE_BOX, input={"size": SIZE, "letterbox": {"pad": 255, "upscale": False, **letterbox}}
    )
    found = load_onnx(path, TeacherOptions()).predict([white(*shape)])[0]
    np.testing.assert_allclose(found.boxes, [expected], rtol=1e-5)
    np.testing.assert_allclose(found.scores, [0.75], rtol=1e-6)
    assert found.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("spec", "inside", "outside"),
    [
        ({}, [10, 20, 30], [114, 114, 114]),
        ({"color": "bgr"}, [30, 20, 10], [114, 114, 114]),
        ({"scale": 0.5, "letterbox": {"pad": 0}}, [5, 10, 15], [0, 0, 0]),
        ({"mean": [10, 0, 5], "std": [1, 2, 5]}, [0, 10, 5], [104, 57, 21.8]),
        ({"color": "bgr", "mean": [10, 0, 5], "std": [1, 2, 5]}, [20, 10, 1], [104, 57, 21.8]),
    ],
)
def test_pixels_reach_the_model_as_the_yaml_says(
    spec: dict[str, Any], inside: list[float], outside: list[float]
) -> None:
    image = np.full((4, 8, 3), (10, 20, 30), np.uint8)
    tensor, geometry = InputSpec(size=(6, 8), **spec).prepare([image], 2)
    assert (tensor.dtype, tensor.shape) == (np.float32, (2, 3, 6, 8))
    for pixels, expected in ((tensor[0, :, :4], inside), (tensor[0, :, 4:], outside), (tensor[1], outside)):
        np.testing.assert_allclose(pixels, np.broadcast_to(np.reshape(expected, (3, 1, 1)), pixels.shape), rtol=1e-6)
    assert geometry.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("batch", ["B", 1, 2, 3])
@pytest.mark.parametrize("half", [False, True])
def test_a_batch_gives_what_its_images_give_alone(tmp_path: Path, batch: int | str, half: bool) -> None:
    teacher = load_onnx(write_model(tmp_path, ONE_BOX, batch=batch, half=half), TeacherOptions(batch_size=4))
    images = [white(32, 32, value) for value in (255, 200, 2, 150, 100)]
    together = teacher.predict(images)
    assert [len(found) for found in together] == [1, 1, 0, 1, 1]
    scores = np.concatenate([found.scores for found in together])
    np.testing.assert_allclose(scores, np.array([255, 200, 150, 100]) / 340, rtol=1e-2 if half else 1e-5)
    for image, found in zip(images, together, strict=True):
        alone = teacher.predict([image])[0]
        np.testing.assert_array_equal(alone.boxes, found.boxes)
        np.testing.assert_array_equal(alone.scores, found.scores)
    assert teacher.predict([]) == []


def overlapping(*objectness: float) -> np.ndarray:
    """From the first cells of stride 8 dogs at 0, 0, 16, 16, each one pixel further right; from the last cell of stride
    16 a box apart from them that is a cat by .855 and a dog by .76."""
    rows = [(cell, [1 - cell + cell / 8, 1, np.log(2), np.log(2), o, 0, 1]) for cell, o in enumerate(objectness)]
    return raw_output(*rows, (CELLS - 1, [0.5, 0.5, 0, 0, 0.95, 0.9, 0.8]))


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({}, [0.9, 0.855, 0.76]),
        ({"floor": 0.8}, [0.9, 0.855]),
        ({"nms_iou": 0.8}, [0.9, 0.855, 0.76, 0.7]),  # one pixel apart: IoU .88; two: .78
        ({"nms_iou": 0.9}, [0.9, 0.855, 0.8, 0.76, 0.7]),
        ({"nms_iou": 0.9, "max_detections": 3}, [0.9, 0.855, 0.8]),
        ({"nms_iou": 0.9, "top_k": 1}, [0.9, 0.855]),  # the best of each level
        ({"nms_iou": 0.9, "top_k": 2}, [0.9, 0.855, 0.8, 0.76]),
    ],
)
def test_options_decide_which_boxes_stay(tmp_path: Path, options: dict[str, Any], scores: list[float]) -> None:
    teacher = load_onnx(write_model(tmp_path, overlapping(0.9, 0.8, 0.7)), TeacherOptions(**options))
    for found in teacher.predict([white(32, 32)] * 2):
        np.testing.assert_allclose(found.scores, scores, rtol=1e-5)


def test_nms_iou_of_the_yaml_holds_where_no_option_is_set(tmp_path: Path) -> None:
    path = write_model(tmp_path, overlapping(0.9, 0.8, 0.7), nms_iou=0.9)
    assert len(load_onnx(path, TeacherOptions()).predict([white(32, 32)])[0]) == 5
    assert len(load_onnx(path, TeacherOptions(nms_iou=0.5)).predict([white(32, 32)])[0]) == 3


def test_the_fingerprint_follows_what_decides_the_predictions(tmp_path: Path) -> None:
    options = TeacherOptions()

    def of(output: np.ndarray = ONE_BOX, options: TeacherOptions = options, **spec: Any) -> str:
        return fingerprint(load_onnx(write_model(tmp_path, output, **spec), options).description)

    base = of()
    same = [of(), of(options=replace(options, batch_size=3, threads=1)), of(license="MIT", model="elsewhere.onnx")]
    other = [
        of(ONE_BOX * 0.5),
        of(options=replace(options, floor=0.1)),
        of(options=replace(options, nms_iou=0.6)),
        of(options=replace(options, top_k=10)),
        of(options=replace(options, max_detections=10)),
        of(input={"size": SIZE, "color": "bgr"}),
        of(input={"size": SIZE, "letterbox": {"pad": 0}}),
        of(classes=["cat", "wolf"]),
    ]
    assert set(same) == {base}
    assert len({base, *other}) == 1 + len(other)


def test_the_description_of_a_yolox_stays_what_it_was(tmp_path: Path) -> None:
    """Stored predictions are found by its digest: a decoder or input option that came later must not change it."""
    description = load_onnx(write_model(tmp_path, ONE_BOX), TeacherOptions()).description
    assert {key: value for key, value in description.items() if key != "weights_sha256"} == {
        "kind": "detection",
        "family": "onnx",
        "classes": ["cat", "dog"],
        "input": {
            "size": [SIZE, SIZE],
            "color": "rgb",
            "scale": 1.0,
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
            "letterbox": {"pad": 114, "anchor": "top_left", "upscale": False},
            "resize": "bilinear, antialiased",
        },
        "decoder": "yolox",
        "strides": [8, 16],
        "floor": 0.05,
        "nms_iou": 0.5,
        "top_k": None,
        "max_detections": None,
    }


def test_model_and_classes_are_found_from_the_yaml(tmp_path: Path) -> None:
    model = write_model(tmp_path, ONE_BOX, classes=None, classes_from="names.txt")
    (tmp_path / "names.txt").write_text("Katze\n\nHund \n")  # Hund would be of the output of the empty line
    with pytest.raises(
        TeacherError, match=r"names\.txt: line 2 is empty, but classes are counted by lines: remove it$"
    ):
        load_onnx(model, TeacherOptions())
    (tmp_path / "names.txt").write_text("Katze\nHund \n\n")
    assert load_onnx(model, TeacherOptions()).classes == ("Katze", "Hund")
    (tmp_path / "specs").mkdir()
    spec = tmp_path / "specs" / "small.yaml"
    beside = model.with_suffix(".yaml").read_text()
    spec.write_text(beside.replace("names.txt", "../names.txt") + "model: ../model.onnx\n")
    named = load_teacher(f"onnx:{spec}")
    assert named.classes == ("Katze", "Hund")
    assert json.loads(json.dumps(named.description)) == named.description
    moved = model.rename(tmp_path / "moved.onnx")
    with pytest.raises(TeacherError, match=r"model\.onnx, named in .*small\.yaml, not found"):
        load_teacher(f"onnx:{spec}")
    overridden = load_teacher(f"onnx:{spec}", TeacherOptions(weights=str(moved)))
    assert overridden.description == named.description


# ---- errors

Break = Callable[[Path], Any]


def rewrite(text: str) -> Break:
    return lambda model: model.with_suffix(".yaml").write_text(text)


def change(**spec: Any) -> Break:
    return lambda model: write_model(model.parent, ONE_BOX, **spec)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, r"model file .*model\.onnx not found$"),
        (lambda model: model.with_suffix(".yaml").unlink(), r"model\.yaml not found: write this YAML"),
        (lambda model: model.write_bytes(b"no model"), r"model\.onnx cannot be loaded by ONNX Runtime"),
        (rewrite("a: [b"), r"model\.yaml is not YAML"),
        (rewrite("- a\n"), r"model\.yaml must be a YAML mapping with the keys model, input"),
        (change(input={"size": "big"}), r"has input\.size: 'big', but input should be a valid tuple"),
        (change(colour="rgb"), r"has an unknown key colour: did you mean color?"),
        (change(input={"size": 32, "letterbox": {"padding": 3}}), r"has an unknown key input\.letterbox\.padding"),
        (change(input={"size": 32, "color": "grey"}), r"has input\.color: 'grey', but input should be 'rgb' or 'bgr'"),
        (change(input={"size": [32, 0]}), r"has input\.size\.1: 0, but input should be greater than 0"),
        (change(decoder="yolov9"), r"has an unknown decoder 'yolov9': write one of yolox, yolov5, yolov8, nanodet"),
        (change(decoder=None), r"lacks the key decoder: write one of yolox"),
        (change(outputs=["boxes"]), r"model\.onnx has no output 'boxes': name some of output"),
        (change(activation="softmax"), r"has an unknown key activation"),
        (change(input={"size": 32, "fit": "crop"}), r"fit: crop is for classifiers, since it cuts off parts"),
        (change(input={"size": 32, "fit": "stretch", "shorter_side": 40}), r"shorter_side belongs to fit: crop"),
        (change(input={"size": 32, "fit": "stretch", "letterbox": {"pad": 0}}), r"letterbox means nothing beside"),
        (change(classes=None), r"must have one of the keys classes and classes_from"),
        (change(classes_from="x.txt"), r"must have one of the keys classes and classes_from"),
        (change(classes=None, classes_from="x.txt"), r"classes_from in .*model\.yaml: .*x\.txt cannot be read"),
        (change(classes=[]), r"names no classes"),
        (change(classes=["cat", "cat"]), r"names the class 'cat' more than once"),
        (
            change(classes=["cat"]),
            r"yolox expects one output \(B, 20, 6\) for input size 32x32, strides 8, 16, 1 classes, "
            r"but the model gives \(1, 20, 7\): correct its YAML file",
        ),
        (change(strides=[8]), r"expects one output \(B, 16, 7\) .* but the model gives \(1, 20, 7\)"),
        (
            change(input={"size": 64}),
            r"takes images of 3 x 32 x 32, but its YAML file says 3 x 64 x 64: correct input.size",
        ),
    ],
)
def test_a_teacher_that_cannot_be_loaded_says_why(tmp_path: Path, damage: Break, message: str) -> None:
    model = write_model(tmp_path, ONE_BOX)
    load_onnx(model, TeacherOptions())
    damage(model)
    with pytest.raises(TeacherError, match=message) as error:
        load_onnx(model, TeacherOptions())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": 100}, r"min_size=100 has no meaning for an ONNX model"),
        ({"dtype": "float16"}, r"dtype='float16' has no meaning"),
        ({"classes": ("a", "b")}, r"classes=.* has no meaning"),
        ({"weights": "elsewhere.onnx"}, r"model file elsewhere\.onnx not found"),
        ({"device": "tpu"}, r"device 'tpu' is not known"),
    ],
)
def test_an_option_it_does_not_have_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        load_onnx(write_model(tmp_path, ONE_BOX), TeacherOptions(**options))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_a_gpu_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="needs the package onnxruntime-gpu"):
        load_onnx(write_model(tmp_path, ONE_BOX), TeacherOptions(device="cuda"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 2, 6])
def test_output_that_is_no_number_fails_the_batch(tmp_path: Path, bad: float, column: int) -> None:
    output = ONE_BOX.copy()
    output[5, column] = bad
    with pytest.raises(TeacherError, match="holds a NaN or infinite number"):
        load_onnx(write_model(tmp_path, output), TeacherOptions())


def test_a_box_of_infinite_size_fails_the_batch(tmp_path: Path) -> None:
    output = ONE_BOX.copy()
    output[5, 2] = 100  # finite, but not its exponential
    teacher = load_onnx(write_model(tmp_path, output), TeacherOptions())  # tried on black: no box above the floor
    with pytest.raises(TeacherError, match="holds a NaN or infinite number"):
        teacher.predict([white(32, 32)])


def test_nothing_found_is_an_empty_prediction(tmp_path: Path) -> None:
    teacher = load_onnx(write_model(tmp_path, ONE_BOX), TeacherOptions())
    # black; and an image shrunk to one row of pixels, above the box
    for found in teacher.predict([white(32, 32, 0), white(1, 900)]):
        assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))


@pytest.mark.parametrize("data", ["model.onnx.data", "weights.bin", f"{'long' * 40}.data"])
def test_weights_outside_of_the_model_file_are_part_of_the_fingerprint(tmp_path: Path, data: str) -> None:
    """Exporters put large tensors into another file, mostly MODEL.onnx.data: two models may differ in that alone."""
    prints = []
    for factor in (1.0, 0.5):
        path = write_model(tmp_path, ONE_BOX * factor)
        model = onnx.load(path)
        (tmp_path / data).unlink(missing_ok=True)
        onnx.save_model(model, path, save_as_external_data=True, location=data, size_threshold=100)
        prints.append((path.read_bytes(), fingerprint(load_onnx(path, TeacherOptions()).description)))
    assert prints[0][0] == prints[1][0]
    assert prints[0][1] != prints[1][1]

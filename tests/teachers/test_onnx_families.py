"""What need not be written of an ONNX model: Ultralytics' metadata, the pre-processing of a decoder's family, names from
a data.yaml; and models in more parts than one. (Figures against Ultralytics itself: benchmarks/ultralytics_onnx.py.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from teachers import load_teacher, masks
from teachers.base import ClassProbabilities, Detections, SemanticMap, TeacherError, TeacherOptions
from teachers.from_onnx.resize import resized
from teachers.from_onnx.spec import InputSpec

SIZE = 32
NAMES = ["cat", "dog", "cow"]
YOLO_INPUT = {"scale": 1 / 255, "letterbox": {"pad": 114, "anchor": "center", "upscale": True}, "resize": "bilinear"}


def model(
    folder: Path,
    outputs: dict[str, np.ndarray],
    metadata: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    inputs: list[Any] | None = None,
    size: int | str = SIZE,
) -> str:
    """The spec of an ONNX teacher that puts out these arrays, whatever it sees: with metadata, and with a YAML file if
    `spec` is given."""
    arrays = {name: np.asarray(array) for name, array in outputs.items()}
    answers = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    ]
    nodes = [helper.make_node("Identity", [f"raw_{name}"], [name]) for name in arrays]
    raw = [numpy_helper.from_array(array, f"raw_{name}") for name, array in arrays.items()]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])
    made = helper.make_graph(nodes, "constant", [image, *(inputs or [])], answers, raw)
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(whole, {key: str(value) for key, value in (metadata or {}).items()})
    onnx.save(whole, folder / "model.onnx")
    if spec is not None:
        (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    return f"onnx:{folder / 'model.onnx'}"


def of_ultralytics(task: str, **more: Any) -> dict[str, Any]:
    names = dict(enumerate(NAMES))
    license = "AGPL-3.0 License (https://ultralytics.com/license)"
    return {"task": task, "names": names, "stride": 32, "imgsz": [SIZE, SIZE], "license": license, **more}


def white(height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def first(spec: str, image: np.ndarray | None = None, **options: Any) -> Detections:
    found = load_teacher(spec, TeacherOptions(**options)).predict([white() if image is None else image])[0]
    assert isinstance(found, Detections)
    return found


def f32(*rows: list[float]) -> np.ndarray:
    return np.array([rows], np.float32)


# ---- Ultralytics' own files, without a YAML file

DENSE = f32([12, 10, 4, 12, 0.08, 0.72, 0.016], [12.5, 10, 4, 12, 0, 0.5, 0], [20, 20, 8, 8, 0.3, 0.4, 0])
"""cx cy w h and scores: 10, 4 to 14, 16 a dog by .72; a dog by .5 that overlaps it by .78; a dog by .4 that is a cat by
.3: one box of the likeliest class."""
ROWS = f32([10, 4, 14, 16, 0.72, 1], [16, 16, 24, 24, 0.4, 1], [0] * 6)
FOUND = [([10, 4, 14, 16], 0.72, 1), ([16, 16, 24, 24], 0.4, 1)]
SHARES = f32([12, 10, 4, 12, 0.72, 1], [20, 20, 8, 8, 0.4, 1]) / np.array([SIZE] * 4 + [1, 1], np.float32)
OLD_RTDETR = np.concatenate([DENSE[..., [0, 2], :4] / SIZE, DENSE[..., [0, 2], 4:]], 2)
PLANES = np.ones((1, 2, 8, 8), np.float32)


def with_coefficients(rows: np.ndarray) -> np.ndarray:
    """Rows and the two coefficients of masks that fill their boxes."""
    return np.concatenate([rows, np.ones((*rows.shape[:2], 2), np.float32)], 2)


def upright(rows: np.ndarray) -> np.ndarray:
    return rows.transpose(0, 2, 1).copy()


@pytest.mark.parametrize(
    ("metadata", "outputs", "decoder"),
    [
        (of_ultralytics("detect"), [upright(DENSE)], "yolov8"),
        (of_ultralytics("detect", end2end="True"), [ROWS], "nms"),
        (of_ultralytics("detect"), [ROWS], "nms"),  # YOLOv10, before there was end2end
        (of_ultralytics("detect", args={"nms": True, "batch": 1}), [ROWS], "nms"),
        (of_ultralytics("detect", head="RTDETRDecoder"), [SHARES], "nms"),
        (of_ultralytics("detect", description="Ultralytics rtdetr-l model"), [OLD_RTDETR], "detr"),
        (of_ultralytics("segment"), [upright(with_coefficients(DENSE)), PLANES], "yolov8_seg"),
        (of_ultralytics("segment", end2end="True"), [with_coefficients(ROWS), PLANES], "nms_seg"),
        ({"names": NAMES, "stride": 32}, [np.insert(DENSE, 4, 1, axis=2)], "yolov5"),
        ({"names": dict(enumerate(NAMES)), "stride": 32}, [np.insert(DENSE, 4, 1, axis=2)], "yolov5"),
        (
            {"names": NAMES, "stride": 32},
            [np.insert(with_coefficients(DENSE), 4, 1, axis=2), PLANES],
            "yolov5_seg",
        ),
    ],
)
def test_an_export_of_ultralytics_needs_no_yaml(
    tmp_path: Path, metadata: dict[str, Any], outputs: list[np.ndarray], decoder: str
) -> None:
    spec = model(tmp_path, {f"output{n}": output for n, output in enumerate(outputs)}, metadata)
    teacher = load_teacher(spec, TeacherOptions(floor=0.1))
    description = teacher.description
    assert (description["decoder"], description["classes"], description["input"]["size"]) == (decoder, NAMES, [32, 32])
    assert description["kind"] == ("instance" if decoder.endswith("_seg") else "detection")
    assert description["input"]["scale"] == 1 / 255
    assert teacher.runtime["license"] == ("AGPL-3.0" if "task" in metadata else None)
    found = teacher.predict([white()])[0]
    assert isinstance(found, Detections)
    np.testing.assert_allclose(found.boxes, [box for box, _, _ in FOUND], atol=1e-4)
    np.testing.assert_allclose(found.scores, [score for _, score, _ in FOUND], rtol=1e-5)
    assert found.labels.tolist() == [label for _, _, label in FOUND]
    if found.masks is not None:
        np.testing.assert_allclose(masks.bounds(found.masks, SIZE, SIZE), found.boxes, atol=1)


def test_boxes_of_ultralytics_come_back_to_an_image_in_the_middle(tmp_path: Path) -> None:
    """Of 32 x 64, halved to 16 x 32, with 8 rows of grey above; of 8 x 16, doubled."""
    spec = model(tmp_path, {"output0": ROWS}, of_ultralytics("detect", end2end="True"))
    np.testing.assert_allclose(first(spec, white(32, 64)).boxes, [[20, 0, 28, 16], [32, 16, 48, 32]], atol=1e-4)
    np.testing.assert_allclose(first(spec, white(8, 16)).boxes, [[5, 0, 7, 4], [8, 4, 12, 8]], atol=1e-4)


def test_a_classifier_of_ultralytics_is_cropped_and_has_its_softmax(tmp_path: Path) -> None:
    spec = model(tmp_path, {"output0": f32([0.2, 0.7, 0.1])[0]}, of_ultralytics("classify"))
    teacher = load_teacher(spec)
    assert (teacher.description["input"]["fit"], teacher.description["activation"]) == ("crop", "none")
    found = teacher.predict([white(40, 90)])[0]
    assert isinstance(found, ClassProbabilities)
    np.testing.assert_allclose(found.probabilities, [0.2, 0.7, 0.1], rtol=1e-6)


@pytest.mark.parametrize("ids", [True, False])
def test_a_map_of_ultralytics_is_of_ids_or_of_logits(tmp_path: Path, ids: bool) -> None:
    plane = np.zeros((1, 8, 8), np.uint8)
    plane[:, :, 4:] = 2
    logits = np.moveaxis(np.eye(3, dtype=np.float32)[plane] * 9, 3, 1).copy()
    teacher = load_teacher(model(tmp_path, {"output0": plane if ids else logits}, of_ultralytics("semantic")))
    found = teacher.predict([white(16, 32)])[0]  # fills rows 8 to 24 of the input
    assert isinstance(found, SemanticMap)
    assert (found.labels[:, :15] == 0).all()
    assert (found.labels[:, 17:] == 2).all()
    assert (found.confidence == 255).all() == ids


def test_a_size_that_the_model_leaves_open_is_told_by_its_metadata(tmp_path: Path) -> None:
    spec = model(tmp_path, {"output0": ROWS}, of_ultralytics("detect", end2end="True", imgsz=[64, 96]), size="side")
    assert load_teacher(spec).description["input"]["size"] == [64, 96]


@pytest.mark.parametrize("task", ["pose", "obb", "depth"])
def test_a_task_that_is_no_label_is_refused_by_name(tmp_path: Path, task: str) -> None:
    with pytest.raises(TeacherError, match=f"for the task {task}, which is no kind of label here: .*python:"):
        load_teacher(model(tmp_path, {"output0": ROWS}, of_ultralytics(task)))


@pytest.mark.parametrize(
    "names", ["{", "[" * 50_000, "__import__('os')", "{0: 'cat', 2: 'dog'}", "3", "{0: 1}", "a" * (1 << 21)]
)
def test_metadata_that_is_nonsense_tells_nothing(tmp_path: Path, names: str) -> None:
    with pytest.raises(TeacherError, match=r"model\.yaml not found: write this YAML file with decoder, classes and"):
        load_teacher(model(tmp_path, {"output0": ROWS}, {**of_ultralytics("detect"), "names": names}))


def test_a_yaml_file_comes_before_the_metadata(tmp_path: Path) -> None:
    metadata = of_ultralytics("detect", end2end="True")
    spec = {"input": {"letterbox": {"pad": 0}}, "classes": ["a", "b", "c"], "nms_iou": 0.5}
    description = load_teacher(model(tmp_path, {"output0": ROWS}, metadata, spec)).description
    assert description["input"]["letterbox"] == {"pad": 0, "anchor": "center", "upscale": True}
    assert (description["classes"], description["nms_iou"]) == (["a", "b", "c"], 0.5)
    (tmp_path / "data.yaml").write_text("names: {0: yes, 1: no, 2: 1.0}\n")
    spec = {"classes_from": "data.yaml", "input": {"scale": "1 / 255"}}
    description = load_teacher(model(tmp_path, {"output0": ROWS}, metadata, spec)).description
    assert (description["classes"], description["input"]["scale"]) == (["yes", "no", "1.0"], 1 / 255)


# ---- the pre-processing of a family


@pytest.mark.parametrize(
    ("spec", "output", "expected"),
    [
        ({"decoder": "yolov8"}, upright(DENSE), YOLO_INPUT),
        ({"decoder": "yolov5"}, np.insert(DENSE, 4, 1, axis=2), YOLO_INPUT),
        ({"decoder": "yolov8", "input": {"scale": 1}}, upright(DENSE), {**YOLO_INPUT, "scale": 1.0}),
        ({"decoder": "yolov8", "input": {"fit": "stretch"}}, upright(DENSE), {"scale": 1 / 255, "fit": "stretch"}),
        (
            {"decoder": "yolox"},
            np.zeros((1, 21, 8), np.float32),
            {"color": "bgr", "scale": 1.0, "letterbox": {"pad": 114, "anchor": "top_left", "upscale": True}},
        ),
        (
            {"decoder": "nanodet", "strides": [8]},
            np.zeros((1, 16, 35), np.float32),
            {"color": "bgr", "scale": 1.0, "mean": [103.53, 116.28, 123.675], "fit": "stretch"},
        ),
        (
            {"decoder": "detr", "activation": "sigmoid"},
            np.zeros((1, 9, 7), np.float32),
            {"scale": 1 / 255, "mean": [0.0] * 3, "fit": "stretch"},
        ),
        (
            {"decoder": "detr"},
            np.zeros((1, 9, 8), np.float32),
            {"scale": 1 / 255, "mean": [0.485, 0.456, 0.406], "fit": "stretch"},
        ),
        ({"decoder": "nms", "input": {"mean": [123.675] * 3, "std": [58.395] * 3}}, ROWS, {"scale": 1.0}),
        ({"decoder": "nms", "input": {"mean": [0.485] * 3, "std": [0.229] * 3}}, ROWS, {"scale": 1 / 255}),
    ],
)
def test_a_decoder_brings_its_familys_pixels(
    tmp_path: Path, spec: dict[str, Any], output: np.ndarray, expected: dict[str, Any]
) -> None:
    described = load_teacher(model(tmp_path, {"output": output}, spec={"classes": NAMES, **spec})).description["input"]
    assert {key: described[key] for key in expected} == expected
    assert described["size"] == [SIZE, SIZE]  # the model's own


@pytest.mark.parametrize("decoder", ["nms", "classifier", "segmenter"])
def test_a_decoder_of_no_family_asks_for_the_range_of_pixels(tmp_path: Path, decoder: str) -> None:
    shape = {"nms": ROWS, "classifier": f32([0, 0, 0])[0], "segmenter": np.zeros((1, 3, 8, 8), np.float32)}
    with pytest.raises(
        TeacherError, match=r"lacks the key input\.scale: write 1/255 for a model of pixels from 0 to 1"
    ):
        load_teacher(model(tmp_path, {"output": shape[decoder]}, spec={"decoder": decoder, "classes": NAMES}))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"input": {"scale": "1/0"}}, r"has input\.scale: '1/0', but input should be a valid number"),
        (
            {"input": {"size": 64}},
            r"takes images of 3 x 32 x 32, but its YAML file says 3 x 64 x 64: correct input\.size",
        ),
        ({"input": {"layout": "nhwc"}}, r"takes images of 3 x 32 x 32, but its YAML file says 3 x 32 x 3:"),
        ({"classes": None, "classes_from": "names.yaml"}, r"names\.yaml, named by classes_from .*has no list of names"),
    ],
)
def test_what_does_not_fit_the_model_is_named(tmp_path: Path, spec: dict[str, Any], message: str) -> None:
    (tmp_path / "names.yaml").write_text("nc: 3\n")
    spec = {key: value for key, value in {"decoder": "yolov8", "classes": NAMES, **spec}.items() if value is not None}
    with pytest.raises(TeacherError, match=message):
        load_teacher(model(tmp_path, {"output": upright(DENSE)}, spec=spec))


def test_all_that_onnx_runtime_says_is_told(tmp_path: Path) -> None:
    """What does not fit stands in the second line of its message."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, "c", "h", "w"])
    answer = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    weight = numpy_helper.from_array(np.zeros((3, 4, 1, 1), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "weight"], ["output"])], "conv", [image], [answer], [weight]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "model.onnx"
    )
    (tmp_path / "model.yaml").write_text("{decoder: yolov8, input: {size: 32}, classes: [cat]}")
    with pytest.raises(TeacherError, match=r"failed in ONNX Runtime: .*kernel channels: 4") as error:
        load_teacher(f"onnx:{tmp_path / 'model.onnx'}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (11, 23), (21, 64), (90, 40), (37, 53)])
def test_images_are_resized_as_opencv_does(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    ours = resized(image, *size, antialias=False)
    assert ours.dtype == np.uint8
    differ = np.abs(ours.astype(int) - expected)
    assert differ.max() <= 1
    assert (differ > 0).mean() < 0.01


# ---- heads in parts, and models that take sizes


@pytest.mark.parametrize("planes", [False, True])
def test_nanodets_six_outputs_are_joined(tmp_path: Path, planes: bool) -> None:
    rng = np.random.default_rng(0)
    cells = {8: 4, 16: 2, 32: 1}
    scores = {s: rng.uniform(0, 0.5, (1, n * n, 3)).astype(np.float32) for s, n in cells.items()}
    distances = {s: rng.normal(size=(1, n * n, 32)).astype(np.float32) for s, n in cells.items()}
    scores[16][0, 2, 1] = 0.9
    whole = {"output": np.concatenate([np.concatenate([*part.values()], 1) for part in (scores, distances)], 2)}
    spec = {"decoder": "nanodet", "strides": [8, 16, 32], "classes": NAMES}
    expected = first(model(tmp_path, whole, spec=spec))
    parts = {f"{kind}_{s}": part[s] for kind, part in (("cls", scores), ("dis", distances)) for s in cells}
    if planes:  # as convolutions put them out
        parts = {
            name: upright(part).reshape(1, part.shape[2], *[cells[int(name[4:])]] * 2) for name, part in parts.items()
        }
    joined = {**spec, "outputs": [["cls_8", "cls_16", "cls_32"], ["dis_8", "dis_16", "dis_32"]]}
    found = first(model(tmp_path, dict(reversed(parts.items())), spec=joined))
    assert len(found) == len(expected) > 3
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    with pytest.raises(
        TeacherError, match=r"join the parts of a head by outputs: \[\[A8, A16, A32\].*python:.*replay:"
    ):
        load_teacher(model(tmp_path, parts, spec=spec))
    with pytest.raises(TeacherError, match="are no parts of one head"):
        load_teacher(model(tmp_path, parts, spec={**joined, "outputs": [["cls_8", "dis_16"], ["dis_8"]]}))


def test_yolox_in_levels_and_parts_before_its_sigmoid(tmp_path: Path) -> None:
    """Three levels of planes, boxes apart from objectness and classes, as logits."""
    rng = np.random.default_rng(1)
    whole = rng.normal(size=(1, 21, 8)).astype(np.float32)
    sure = whole.copy()
    sure[..., 4:] = 1 / (1 + np.exp(-whole[..., 4:]))
    spec = {"decoder": "yolox", "classes": NAMES}
    expected = first(model(tmp_path, {"output": sure}, spec=spec))
    parts, start = {}, 0
    for stride, side in ((8, 4), (16, 2), (32, 1)):
        level = upright(whole[:, start : start + side * side]).reshape(1, 8, side, side)
        parts |= {f"reg_{stride}": level[:, :4].copy(), f"obj_{stride}": level[:, 4:].copy()}
        start += side * side
    names = [[f"{kind}_{stride}" for stride in (8, 16, 32)] for kind in ("reg", "obj")]
    found = first(model(tmp_path, parts, spec={**spec, "raw": True, "outputs": names}))
    assert len(found) == len(expected) > 3
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_rtdetr_of_its_authors_takes_sizes_and_names_its_outputs(tmp_path: Path) -> None:
    """Boxes come in pixels of the size that is given, width before height: that of the input, 32 x 64 here."""
    sizes = helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [1, 2])
    nodes = [
        helper.make_node("Cast", ["orig_target_sizes"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["sizes", "sizes"], ["both"], axis=1),
        helper.make_node("Unsqueeze", ["both", "one"], ["row"]),
        helper.make_node("Mul", ["shares", "row"], ["boxes"]),
        helper.make_node("Identity", ["raw_scores"], ["scores"]),
        helper.make_node("Identity", ["raw_labels"], ["labels"]),
    ]
    constants = {
        "one": np.array([1]),
        "shares": f32([0.25, 0.25, 0.5, 0.75], [0, 0, 1, 1]),
        "raw_scores": np.array([[0.9, 0.6]], np.float32),
        "raw_labels": np.array([[2, 0]]),
    }
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 32, 64])
    answers = [
        helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 2]),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 2, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2]),
    ]
    raw = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "sizes", [image, sizes], answers, raw)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, tmp_path / "model.onnx")
    (tmp_path / "model.yaml").write_text("classes: [cat, dog, cow]\n")
    found = first(f"onnx:{tmp_path / 'model.onnx'}", white(100, 100))
    np.testing.assert_allclose(found.boxes, [[25, 25, 50, 75], [0, 0, 100, 100]], atol=1e-3)
    assert found.labels.tolist() == [2, 0]


def test_rf_detr_of_its_authors_is_known_by_its_outputs(tmp_path: Path) -> None:
    outputs = {"dets": f32([0.375, 0.3125, 0.125, 0.375]), "labels": f32([-9, 2, -9])}
    teacher = load_teacher(model(tmp_path, outputs, spec={"classes": NAMES}))
    assert (teacher.description["decoder"], teacher.description["activation"]) == ("detr", "sigmoid")
    assert teacher.description["input"]["mean"] == [0.485, 0.456, 0.406]
    found = teacher.predict([white()])[0]
    assert isinstance(found, Detections)
    np.testing.assert_allclose(found.boxes, [[10, 4, 14, 16]], atol=1e-4)


def test_boxes_with_their_scores_and_labels_apart(tmp_path: Path) -> None:
    """MMDeploy's: dets (B, N, 5) and labels (B, N)."""
    outputs = {"dets": ROWS[..., :5], "labels": ROWS[..., 5].astype(np.int64)}
    spec = {"decoder": "nms", "classes": NAMES, "input": {"scale": 1}}
    np.testing.assert_allclose(first(model(tmp_path, outputs, spec=spec)).boxes, ROWS[0, :2, :4])


def test_rows_of_images_that_were_not_given_are_refused(tmp_path: Path) -> None:
    spec = {"decoder": "nms", "classes": NAMES, "input": {"scale": 1}, "columns": ["image", "score", "label", "box"]}
    with pytest.raises(TeacherError, match=r"read the image 140, but was given 1 images, 0 to 0: correct columns"):
        load_teacher(model(tmp_path, {"output": f32([140, 0.9, 1, 1, 1, 5, 5])}, spec=spec))


def test_a_model_of_other_inputs_names_the_way_out(tmp_path: Path) -> None:
    other = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, SIZE, SIZE])
    with pytest.raises(TeacherError, match=r"has the inputs images .*, mask .*python:"):
        load_teacher(model(tmp_path, {"output": ROWS}, spec={}, inputs=[other]))


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (33, 32), (480, 640), (375, 500), (32, 32), (20, 31)])
@pytest.mark.parametrize("shorter", [32, 36])
def test_a_crop_is_torchvisions(shape: tuple[int, int], shorter: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    cropped = transforms.Compose([transforms.Resize(shorter), transforms.CenterCrop(SIZE)])(Image.fromarray(image))
    tensor, _ = InputSpec(size=(SIZE, SIZE), fit="crop", shorter_side=shorter).prepare([image], 1)
    np.testing.assert_array_equal(tensor[0].transpose(1, 2, 0), np.asarray(cropped))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_model_of_other_channels_is_named(tmp_path: Path, channels: int) -> None:
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, channels, SIZE, SIZE])
    answer = helper.make_tensor_value_info("output0", TensorProto.FLOAT, ROWS.shape)
    nodes = [helper.make_node("Identity", ["raw"], ["output0"])]
    graph = helper.make_graph(nodes, "grey", [image], [answer], [numpy_helper.from_array(ROWS, "raw")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    metadata = of_ultralytics("detect", end2end="True", channels=channels)
    helper.set_model_props(made, {key: str(value) for key, value in metadata.items()})
    onnx.save(made, tmp_path / "model.onnx")
    with pytest.raises(TeacherError, match=f"takes images of {channels} channels, but RGB is what it is given"):
        load_teacher(f"onnx:{tmp_path / 'model.onnx'}")

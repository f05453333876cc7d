"""Torchvision's detectors as teachers, against the bare models with the same settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model, get_model_weights

from teachers import load_teacher, masks
from teachers.base import Detections, TeacherError, TeacherOptions, fingerprint
from teachers.from_torchvision.detectors import TorchvisionDetector, load_torchvision
from teachers.from_torchvision.weights import state_sha256

RETINANET, FCOS, SSDLITE = "retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large"
FASTER, MASK = "fasterrcnn_mobilenet_v3_large_320_fpn", "maskrcnn_resnet50_fpn"
OUTPUTS = 4
ONE_STAGE = {"score_thresh": 0.002, "nms_thresh": 0.4, "topk_candidates": 50, "detections_per_img": 30}
TWO_STAGE = {"box_score_thresh": 0.002, "box_nms_thresh": 0.4, "box_detections_per_img": 30} | {
    "rpn_pre_nms_top_n_test": 50,
    "rpn_post_nms_top_n_test": 50,
}
RESIZE = {"min_size": 64, "max_size": 96}
KEYWORDS: dict[str, dict[str, Any]] = {
    RETINANET: ONE_STAGE | RESIZE,
    FCOS: ONE_STAGE | RESIZE,
    SSDLITE: {},  # its constructor takes none of them
    FASTER: TWO_STAGE | RESIZE,
    MASK: TWO_STAGE | RESIZE,
}
"""What ONE_STAGE's and RESIZE's values are called by each constructor."""
OPTIONS = TeacherOptions(
    floor=0.002, nms_iou=0.4, top_k=50, max_detections=30, classes=("a", "b", "c"), batch_size=2, device="cpu"
)


@cache
def random_state(name: str, outputs: int = OUTPUTS) -> dict[str, torch.Tensor]:
    """The state dict of a model that has learnt nothing, but whose scores differ between places and between classes."""
    torch.manual_seed(0)
    model = get_model(name, weights=None, weights_backbone=None, num_classes=outputs)
    state = model.state_dict()
    for key in state:
        if re.search(r"cls_logits|cls_score|classification_head\.module_list\.\d\.1\.", key):  # the last layer
            state[key] = torch.randn_like(state[key]) * (0.05 if key.endswith("weight") else 1)
        elif name == FASTER and key.startswith("backbone.") and state[key].ndim == 4:
            state[key] *= 2.1  # else its features vanish, and the rounding of equal scores decides
    return state


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Name of a model -> its weights in a .safetensors file."""
    folder = tmp_path_factory.mktemp("weights")

    def path(name: str) -> str:
        file = folder / f"{name}.safetensors"
        if not file.exists():
            save_file(random_state(name), file)
        return str(file)

    return path


def bare_model(name: str, **keywords: Any) -> Any:
    model = get_model(name, weights=None, weights_backbone=None, num_classes=OUTPUTS, **keywords)
    model.load_state_dict(random_state(name))
    if name == SSDLITE:
        for setting, value in ONE_STAGE.items():
            setattr(model, setting, value)
    return model.eval()


def bare_output(model: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        output = model([torch.tensor(image).permute(2, 0, 1) / 255])[0]
    return {key: value.numpy() for key, value in output.items()}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def assert_same(found: Detections, expected: dict[str, np.ndarray], label_shift: int = 1) -> None:
    """The same boxes in the same order, but for those without area, which torchvision may return."""
    boxes = expected["boxes"]
    area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    assert len(found) == area.sum() > 0
    np.testing.assert_allclose(found.scores, expected["scores"][area], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, boxes[area], atol=1e-3)
    np.testing.assert_array_equal(found.labels, expected["labels"][area] - label_shift)


def with_a_mask(output: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The objects of Mask R-CNN that have pixels above .5."""
    covered = (output["masks"] > 0.5).any((1, 2, 3))
    return {key: value[covered] for key, value in output.items()}


def share_in(a: Detections, b: Detections) -> float:
    """The share of a's boxes that b has, too, up to rounding and in any order (equal scores may change places)."""
    same = (np.abs(a.boxes[:, None] - b.boxes).max(-1) < 0.05) & (np.abs(a.scores[:, None] - b.scores) < 1e-3)
    return float((same & (a.labels[:, None] == b.labels)).any(1).mean()) if len(a) else 1.0


@pytest.mark.parametrize("name", KEYWORDS)
def test_it_predicts_what_the_bare_model_does_with_these_settings(name: str, weights: Callable[[str], str]) -> None:
    images = [picture(100, 80), picture(120, 90, seed=1)]
    sizes = {} if name == SSDLITE else RESIZE
    # RetinaNet and FCOS need no background; with as many names as outputs, the first output is a class.
    classes = ("z", "a", "b", "c") if name in (RETINANET, FCOS) else ("a", "b", "c")
    options = replace(OPTIONS, weights=weights(name), classes=classes, upscale=True, batch_size=1, **sizes)
    teacher = load_teacher(f"torchvision:{name}", options)
    model = bare_model(name, **KEYWORDS[name])
    for image, found in zip(images, teacher.predict(images), strict=True):
        expected = bare_output(model, image)
        assert_same(found, with_a_mask(expected) if name == MASK else expected, label_shift=OUTPUTS - len(classes))
        assert len(found) <= 30
        assert (found.masks is None) == (name != MASK)
        assert teacher.description["kind"] == ("instance" if name == MASK else "detection")
    assert json.loads(json.dumps(teacher.description)) == teacher.description


def test_masks_are_torchvisions_above_a_half(tmp_path: Path) -> None:
    state = random_state(MASK)
    generator = torch.Generator().manual_seed(1)
    for key in state:
        if "mask_predictor" in key and key.endswith("weight"):
            state[key] = torch.randn(state[key].shape, generator=generator) * 0.1  # probabilities far from .5
    save_file(state, tmp_path / "w.safetensors")
    image = picture(70, 90)
    options = replace(OPTIONS, weights=str(tmp_path / "w.safetensors"), upscale=True, **RESIZE)
    model = bare_model(MASK, **KEYWORDS[MASK])
    model.load_state_dict(state)
    bare = bare_output(model, image)
    expected = with_a_mask(bare)
    found = load_teacher(f"torchvision:{MASK}", options).predict([image])[0]
    assert isinstance(found, Detections)
    assert_same(found, expected)
    assert found.masks is not None
    np.testing.assert_array_equal(masks.decode(found.masks, 70, 90), expected["masks"][:, 0] > 0.5)
    assert len({*found.masks}) > 5

    boxes_only = load_teacher(f"torchvision:{MASK}", replace(options, masks=False))
    assert boxes_only.description["kind"] == "detection"
    bare.pop("masks")
    assert_same(boxes_only.predict([image])[0], bare)  # type: ignore[arg-type]


def test_small_images_are_enlarged_only_on_request(weights: Callable[[str], str]) -> None:
    small, large = picture(40, 50), picture(200, 150)
    options = replace(OPTIONS, weights=weights(FASTER), min_size=64, max_size=96)
    as_it_is = bare_model(FASTER, **{**KEYWORDS[FASTER], "min_size": 40, "max_size": 50})
    resized = bare_model(FASTER, **KEYWORDS[FASTER])
    bare_output(resized, picture(64, 96))  # it learns the strides of its features from the first image
    as_it_is.roi_heads.box_roi_pool = resized.roi_heads.box_roi_pool
    found_small, found_large = TorchvisionDetector(FASTER, options).predict([small, large])
    assert_same(found_small, bare_output(as_it_is, small))
    assert_same(found_large, bare_output(resized, large))
    enlarging = TorchvisionDetector(FASTER, replace(options, upscale=True))
    assert_same(enlarging.predict([small])[0], bare_output(resized, small))


def test_an_image_does_not_depend_on_the_first_one_ever_seen(weights: Callable[[str], str]) -> None:
    """Torchvision's second stage takes its strides from that, and tiny images, padded, suggest wrong ones."""
    options, large = replace(OPTIONS, weights=weights(FASTER), min_size=64, max_size=96), picture(200, 150)
    teacher = TorchvisionDetector(FASTER, options)
    teacher.predict([picture(40, 50)])
    assert_same(teacher.predict([large])[0], bare_output(bare_model(FASTER, **KEYWORDS[FASTER]), large))


@pytest.mark.parametrize("name", [RETINANET, FASTER, SSDLITE])
def test_an_image_does_not_depend_on_its_batch_mates(name: str, weights: Callable[[str], str]) -> None:
    shapes = [(64, 64), (40, 90), (64, 60), (90, 40), (33, 90), (1, 1), (64, 64), (2, 400)]
    images = [picture(*shape, seed=i) for i, shape in enumerate(shapes)]
    sizes = {} if name == SSDLITE else {"min_size": 64, "max_size": 96}
    teacher = TorchvisionDetector(name, replace(OPTIONS, weights=weights(name), batch_size=3, **sizes))
    together = teacher.predict(images)
    assert teacher.predict([]) == []
    assert sum(map(len, together)) > 50
    for image, found in zip(images, together, strict=True):
        alone = teacher.predict([image])[0]
        assert min(share_in(found, alone), share_in(alone, found)) >= 0.9


def test_outputs_that_are_no_class_are_left_out(weights: Callable[[str], str]) -> None:
    options = replace(OPTIONS, weights=weights(FASTER), **RESIZE)
    plain = TorchvisionDetector(FASTER, options).predict([picture(64, 64)])[0]
    teacher = TorchvisionDetector(FASTER, replace(options, classes=("__background__", "a", "N/A", "c")))
    found = teacher.predict([picture(64, 64)])[0]
    kept = plain.labels != 1
    assert teacher.classes == ("a", "c")
    assert teacher.description["class_outputs"] == [1, 3]
    assert set(found.labels) == {0, 1}
    np.testing.assert_array_equal(found.labels, plain.labels[kept] // 2)
    np.testing.assert_array_equal(found.boxes, plain.boxes[kept])


def test_the_description_has_every_setting(weights: Callable[[str], str]) -> None:
    options = TeacherOptions(weights=weights(FASTER), classes=("a", "b", "c"), device="cpu")
    description = TorchvisionDetector(FASTER, options).description
    assert {key: description[key] for key in ("resize", "rpn", "nms_thresh", "detections_per_img", "floor")} == {
        "resize": {
            "min_size": 320,
            "max_size": 640,
            "upscale": False,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "rpn": {"pre_nms_top_n": 150, "post_nms_top_n": 150, "nms_thresh": 0.7, "score_thresh": 0.05},
        "nms_thresh": 0.5,
        "detections_per_img": 100,
        "floor": 0.05,
    }
    changes: list[dict[str, Any]] = [
        {"floor": 0.1},
        {"nms_iou": 0.6},
        {"top_k": 9},
        {"max_detections": 9},
        {"min_size": 100},
        {"max_size": 500},
        {"upscale": True},
        {"dtype": "bfloat16"},
        {"classes": ("a", "b", "d")},
        {"classes": ("__background__", "a", "N/A", "b")},
    ]
    changed = {fingerprint(TorchvisionDetector(FASTER, replace(options, **change)).description) for change in changes}
    assert len({fingerprint(description), *changed}) == 1 + len(changes)
    same = TorchvisionDetector(FASTER, replace(options, batch_size=1, threads=torch.get_num_threads()))
    assert same.description == description


def test_the_hash_of_the_weights_does_not_depend_on_the_file(tmp_path: Path, weights: Callable[[str], str]) -> None:
    torch.save(random_state(SSDLITE), tmp_path / "w.pth")
    options = replace(OPTIONS, top_k=None)
    from_pth = TorchvisionDetector(SSDLITE, replace(options, weights=str(tmp_path / "w.pth")))
    assert from_pth.description == TorchvisionDetector(SSDLITE, replace(options, weights=weights(SSDLITE))).description
    state = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1)}
    assert state_sha256(state) == state_sha256(dict(reversed(state.items())))
    others = [
        {**state, "a": torch.tensor(2)},
        {**state, "a": torch.tensor(1.0)},
        {**state, "b": torch.arange(6.0).reshape(3, 2)},
        {"a": state["b"], "b": state["a"]},
    ]
    assert len({state_sha256(other) for other in (state, *others)}) == 5


@pytest.mark.parametrize("name", [RETINANET, FASTER])
def test_half_precision_keeps_anchors_exact(tmp_path: Path, name: str) -> None:
    """With the regression at 0 a box is its anchor. bfloat16 knows 96 pixels to .5, and so would the anchors be."""
    regression = re.compile(r"bbox_reg|bbox_pred|regression_head")
    state = random_state(name)
    save_file({k: v * 0 if regression.search(k) else v for k, v in state.items()}, tmp_path / "w.safetensors")
    image = picture(96, 96)
    full = replace(OPTIONS, weights=str(tmp_path / "w.safetensors"), floor=0.0, nms_iou=1.0, top_k=10000)
    full = replace(full, min_size=96, max_size=96)
    boxes = TorchvisionDetector(name, replace(full, max_detections=10000)).predict([image])[0].boxes
    half = TorchvisionDetector(name, replace(full, dtype="bfloat16", top_k=20)).predict([image])[0]
    assert len(half) >= 20
    distance = np.abs(half.boxes[:, None] - boxes[None]).max(-1).min(-1)
    assert distance.max() < 0.01


def test_published_weights_bring_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision takes a file that is already in its folder of downloads: here, one with random weights."""
    published = get_model_weights(SSDLITE).DEFAULT
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = random_state(SSDLITE, outputs=91)
    torch.save(state, folder / published.url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    options = TeacherOptions(weights="DEFAULT", floor=0.02, device="cpu")
    teacher = TorchvisionDetector(SSDLITE, options)
    assert len(teacher.classes) == 80
    assert (teacher.classes[0], teacher.classes[11], teacher.classes[79]) == ("person", "stop sign", "toothbrush")
    assert teacher.description["weights_sha256"] == state_sha256(state)
    found = teacher.predict([picture(64, 64)])[0]
    assert len(found) > 0
    assert teacher.description["class_outputs"][11] == 13  # output 12 is "N/A"

    with pytest.raises(TeacherError, match=r"DEFAULT weights of .* bring their classes"):
        TorchvisionDetector(SSDLITE, replace(options, classes=("a",)))
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))  # nothing can be fetched into a file
    with pytest.raises(TeacherError, match=r"^https://.*pth was not fetched .*: put it into .*checkpoints$"):
        TorchvisionDetector(SSDLITE, options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("retinanet_resnet50", {}, r"no model 'retinanet_resnet50' that .*: did you mean retinanet_resnet50_fpn or"),
        ("raft_large", {}, r"no model 'raft_large' that labels images"),
        (SSDLITE, {"masks": False}, r"masks=False has no meaning for ssdlite.*, which gives only boxes"),
        (SSDLITE, {"jitter": 10}, r"jitter=10 has no meaning for ssdlite.*, which has no second stage"),
        (SSDLITE, {"weights": None}, r"needs weights: set the teacher option weights to a file or to DEFAULT"),
        (SSDLITE, {"weights": "absent.pth"}, r"weights file absent\.pth not found"),
        (SSDLITE, {"classes": None}, r"has 4 outputs and no class names: set the teacher option classes"),
        (SSDLITE, {"classes": ("a", "b")}, r"2 classes given for 4 outputs of ssdlite.*: give 3 or 4"),
        (SSDLITE, {"classes": ("a", "b", "c", "d")}, r"output 0 of ssdlite.* is the background, not 'a': give 3"),
        (SSDLITE, {"classes": ("a", "b", "b")}, r"classes of ssdlite.* must be different names, not a, b, b"),
        (SSDLITE, {"classes": ("N/A",) * 3}, r"classes of ssdlite.* must be different names, not none"),
        (SSDLITE, {"min_size": 100}, r"min_size=100 has no meaning for ssdlite.*, whose input size is fixed"),
        (SSDLITE, {"dtype": "float16"}, r"float16 needs a GPU, but the device is cpu"),
        (SSDLITE, {"device": "abacus"}, r"device 'abacus' cannot be used .*: write cpu"),
        ("ssd300_vgg16", {}, r"holds no weights of ssd300_vgg16: it lacks head"),
    ],
)
def test_a_teacher_that_cannot_be_loaded_says_why(
    name: str, options: dict[str, Any], message: str, weights: Callable[[str], str]
) -> None:
    with pytest.raises(TeacherError, match=message) as error:
        load_torchvision(name, replace(OPTIONS, **{"weights": weights(SSDLITE), **options}))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error(weights: Callable[[str], str]) -> None:
    with pytest.raises(TeacherError, match="device 'cuda' cannot be used"):
        TorchvisionDetector(SSDLITE, replace(OPTIONS, weights=weights(SSDLITE), device="cuda"))


def test_damaged_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    state = random_state(SSDLITE)
    first = next(iter(state))
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 100)
    (tmp_path / "broken.pth").write_bytes(b"no archive")
    torch.save({"model": state}, tmp_path / "nested.pth")
    torch.save({"path": tmp_path}, tmp_path / "unsafe.pth")  # anything but tensors and plain values is refused
    save_file({**state, first: torch.zeros(1)}, tmp_path / "shape.safetensors")
    save_file({key: value for key, value in state.items() if key != first}, tmp_path / "lacking.safetensors")
    for file, message in {
        "broken.safetensors": "cannot be read safely",
        "broken.pth": "cannot be read safely",
        "unsafe.pth": "cannot be read safely",
        "nested.pth": "is no state dict: save",
        "shape.safetensors": f"does not fit {SSDLITE}: size mismatch for {first}",
        "lacking.safetensors": f"does not fit {SSDLITE}: Missing key.*{first}",
    }.items():
        with pytest.raises(TeacherError, match=f"{file} {message}") as error:
            TorchvisionDetector(SSDLITE, replace(OPTIONS, weights=str(tmp_path / file)))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "layer"), [(SSDLITE, "regression"), (SSDLITE, "classification"), (FASTER, "cls_score")]
)
def test_a_model_that_gives_nan_fails_the_batch(tmp_path: Path, name: str, layer: str) -> None:
    """Torchvision itself would return no boxes where the scores are NaN."""
    state = random_state(name)
    key = [key for key in state if layer in key and key.endswith("weight")][-1]
    save_file({**state, key: torch.full_like(state[key], float("nan"))}, tmp_path / "nan.safetensors")
    teacher = TorchvisionDetector(name, replace(OPTIONS, weights=str(tmp_path / "nan.safetensors")))
    with pytest.raises(TeacherError, match="NaN"):
        teacher.predict([picture(64, 64)])


def test_an_error_of_torch_is_a_sentence(weights: Callable[[str], str]) -> None:
    teacher = TorchvisionDetector(SSDLITE, replace(OPTIONS, weights=weights(SSDLITE)))
    grey = picture(64, 64)[..., [0, 0]]  # two channels
    with pytest.raises(TeacherError, match="torchvision's model failed: ") as error:
        teacher.predict([grey])
    assert "\n" not in str(error.value)

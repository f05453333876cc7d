"""Torchvision's classifiers and segmenters as teachers, against the bare models behind torchvision's own transforms."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model, get_model_weights, list_models, segmentation
from torchvision.transforms import functional

from teachers import load_teacher
from teachers.base import ClassProbabilities, SemanticMap, TeacherError, TeacherOptions, fingerprint
from teachers.from_torchvision.pixels import TorchvisionClassifier, TorchvisionSegmenter
from teachers.from_torchvision.weights import state_sha256

SMALL = "mobilenet_v3_small"
LRASPP, DEEPLAB, FCN = "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"
OUTPUTS = 4
OPTIONS = TeacherOptions(classes=("a", "b", "c", "d"), batch_size=2, device="cpu")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[:height, :width]


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.tensor(image).permute(2, 0, 1)


@cache
def bare_model(name: str, outputs: int = OUTPUTS, aux_loss: bool = False) -> Any:
    """A model that has learnt nothing, but whose outputs differ between places and between images."""
    torch.manual_seed(0)
    keywords: dict[str, Any] = {"weights_backbone": None} if name in list_models(module=segmentation) else {}
    keywords |= {"aux_loss": True} if aux_loss else {}
    keywords |= {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = get_model(name, weights=None, num_classes=outputs, **keywords)
    side = 299 if name == "inception_v3" else 96
    pictures = torch.stack([tensor(picture(side, side, seed)) / 128 - 1 for seed in (8, 9)])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # statistics of these pictures, so that the signal does not fade with depth
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and len(module.weight) == outputs:
            torch.nn.init.normal_(module.weight, std=0.1)
            last = module
    with torch.no_grad():
        if name != "googlenet":
            model.train()(pictures)
        seen: list[torch.Tensor] = []
        hook = last.register_forward_hook(lambda _, inputs, output: seen.append(output))
        model.eval()(pictures)
        hook.remove()
        if seen and name != LRASPP:
            spread, mean = (f(seen[0].transpose(0, 1).flatten(1), 1) for f in (torch.std, torch.mean))
            last.weight /= spread.reshape(-1, *[1] * (last.weight.ndim - 1))
            last.bias.copy_((last.bias - mean) / spread)
    return model


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Name of a model -> its weights in a .safetensors file."""
    folder = tmp_path_factory.mktemp("weights")

    def path(name: str, **keywords: Any) -> str:
        file = folder / f"{name}-{len(keywords)}.safetensors"
        if not file.exists():
            save_file(bare_model(name, **keywords).state_dict(), file)
        return str(file)

    return path


IMAGES = [picture(100, 80), picture(32, 32, 1), picture(40, 300, 2), picture(1, 1, 3)]


@pytest.mark.parametrize("name", [SMALL, "squeezenet1_1", "googlenet", "inception_v3", "regnet_x_400mf"])
def test_a_classifier_gives_the_softmax_of_the_bare_model(name: str, weights: Callable[..., str]) -> None:
    teacher = load_teacher(f"torchvision:{name}", replace(OPTIONS, weights=weights(name)))
    images = IMAGES[1:3] if name != SMALL else IMAGES
    found = teacher.predict(images)
    prepare = get_model_weights(name).DEFAULT.transforms()
    for image, one in zip(images, found, strict=True):
        with torch.inference_mode():
            expected = bare_model(name)(prepare(tensor(image))[None]).softmax(1)[0].numpy()
        assert isinstance(one, ClassProbabilities)
        np.testing.assert_allclose(one.probabilities, expected, atol=1e-5)
    assert name != SMALL or np.ptp([one.probabilities for one in found], axis=0).max() > 1e-4
    assert teacher.classes == ("a", "b", "c", "d")
    assert teacher.description["kind"] == "classification"
    assert teacher.description["floor"] == 0
    assert json.loads(json.dumps(teacher.description)) == teacher.description
    assert teacher.predict([]) == []


def test_a_strip_is_cut_before_it_is_enlarged(weights: Callable[..., str]) -> None:
    """Whole it would become 256 x 12,800,000 pixels: 9.8 GB."""
    teacher = TorchvisionClassifier(SMALL, replace(OPTIONS, weights=weights(SMALL)))
    strip = np.full((2, 100_000, 3), 255, np.uint8)
    strip[:, 49_992:50_008] = picture(2, 16)
    (whole,), (own,) = teacher.predict([strip]), teacher.predict([strip[:, 49_992:50_008]])
    np.testing.assert_array_equal(whole.probabilities, own.probabilities)


def test_min_size_replaces_resize_and_crop(weights: Callable[..., str]) -> None:
    teacher = TorchvisionClassifier(SMALL, replace(OPTIONS, weights=weights(SMALL), min_size=32))
    with torch.inference_mode():
        batch = functional.normalize(tensor(IMAGES[1])[None] / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        expected = bare_model(SMALL)(batch).softmax(1)[0].numpy()
    np.testing.assert_allclose(teacher.predict([IMAGES[1]])[0].probabilities, expected, atol=1e-6)


def test_outputs_that_are_no_class_are_left_out(weights: Callable[..., str]) -> None:
    classes = ("a", "N/A", "c", "d")
    plain = TorchvisionClassifier(SMALL, replace(OPTIONS, weights=weights(SMALL)))
    teacher = TorchvisionClassifier(SMALL, replace(OPTIONS, weights=weights(SMALL), classes=classes))
    assert teacher.classes == ("a", "c", "d")
    whole, part = plain.predict(IMAGES[:1])[0].probabilities, teacher.predict(IMAGES[:1])[0].probabilities
    np.testing.assert_array_equal(part, whole[[0, 2, 3]])
    maps = TorchvisionSegmenter(LRASPP, replace(OPTIONS, weights=weights(LRASPP), classes=classes))
    both = TorchvisionSegmenter(LRASPP, replace(OPTIONS, weights=weights(LRASPP)))
    expected = both.predict_probabilities(IMAGES[:1])[0][[0, 2, 3]]
    np.testing.assert_array_equal(maps.predict_probabilities(IMAGES[:1])[0], expected)
    np.testing.assert_array_equal(maps.predict(IMAGES[:1])[0].labels, expected.argmax(0))


@pytest.mark.parametrize(("name", "aux_loss"), [(LRASPP, False), (DEEPLAB, True), (FCN, False)])
def test_a_segmenter_gives_the_map_of_the_bare_model(name: str, aux_loss: bool, weights: Callable[..., str]) -> None:
    file = weights(name, aux_loss=True) if aux_loss else weights(name)
    model = bare_model(name, aux_loss=True) if aux_loss else bare_model(name)
    teacher = load_teacher(f"torchvision:{name}", replace(OPTIONS, weights=file))
    images = [picture(64, 80), picture(70, 33, 1)]
    prepare = get_model_weights(name).DEFAULT.transforms(resize_size=None)
    for image, found in zip(images, teacher.predict(images), strict=True):
        with torch.inference_mode():
            expected = model(prepare(tensor(image))[None])["out"][0].softmax(0).numpy()
        assert isinstance(found, SemanticMap)
        np.testing.assert_array_equal(found.labels, expected.argmax(0))
        np.testing.assert_allclose(found.confidence / 255, expected.max(0), atol=0.6 / 255)
        np.testing.assert_allclose(teacher.predict_probabilities([image])[0], expected, atol=1e-6)
        assert name != FCN or len(np.unique(found.labels)) > 1
    assert teacher.description["kind"] == "semantic"
    assert json.loads(json.dumps(teacher.description)) == teacher.description
    assert teacher.predict([]) == []


@pytest.mark.parametrize(
    ("options", "shape", "seen"),
    [
        ({"min_size": 48, "upscale": True}, (32, 40), (48, 60)),
        ({"min_size": 48}, (32, 40), (32, 40)),
        ({"min_size": 48}, (96, 150), (48, 75)),
        ({"min_size": 48}, (150, 96), (75, 48)),
        ({"min_size": 48, "max_size": 60}, (96, 192), (30, 60)),
        ({"max_size": 60}, (20, 120), (10, 60)),
        ({"max_size": 30}, (2, 900), (1, 30)),
    ],
)
def test_maps_are_of_the_image_whatever_size_the_model_sees(
    options: dict[str, Any], shape: tuple[int, int], seen: tuple[int, int], weights: Callable[..., str]
) -> None:
    teacher = TorchvisionSegmenter(LRASPP, replace(OPTIONS, weights=weights(LRASPP), **options))
    image = picture(*shape)
    with torch.inference_mode():
        small = functional.resize(tensor(image), list(seen), antialias=True) if shape != seen else tensor(image)
        batch = functional.normalize(small[None] / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        logits = bare_model(LRASPP)(batch)["out"]
        expected = torch.nn.functional.interpolate(logits, size=shape, mode="bilinear").softmax(1)[0].numpy()
    # torchvision's resize leaves out what it does at float precision: one grey level of the resized image
    np.testing.assert_allclose(teacher.predict_probabilities([image])[0], expected, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch_mates(weights: Callable[..., str]) -> None:
    images = [picture(*shape, seed=i) for i, shape in enumerate([(40, 50), (50, 40), (40, 50), (33, 90), (40, 50)])]
    segmenter = TorchvisionSegmenter(LRASPP, replace(OPTIONS, weights=weights(LRASPP)))
    classifier = TorchvisionClassifier(SMALL, replace(OPTIONS, weights=weights(SMALL)))
    maps, classes = segmenter.predict_probabilities(images), classifier.predict(images)
    for image, planes, one in zip(images, maps, classes, strict=True):
        np.testing.assert_allclose(segmenter.predict_probabilities([image])[0], planes, atol=1e-3)
        np.testing.assert_allclose(classifier.predict([image])[0].probabilities, one.probabilities, atol=1e-3)


def publish(name: str, state: dict[str, torch.Tensor], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision takes a file that is already in its folder of downloads."""
    downloads = folder / "hub" / "checkpoints"
    downloads.mkdir(parents=True, exist_ok=True)
    torch.save(state, downloads / get_model_weights(name).DEFAULT.url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(folder))


def test_published_classifier_weights_bring_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = bare_model(SMALL, 1000).state_dict()
    publish(SMALL, state, tmp_path, monkeypatch)
    teacher = load_teacher(f"torchvision:{SMALL}", TeacherOptions(weights="DEFAULT", device="cpu"))
    assert len(teacher.classes) == len(set(teacher.classes)) == 1000
    assert (teacher.classes[0], teacher.classes[999]) == ("tench", "toilet tissue")
    assert teacher.description["weights_sha256"] == state_sha256(state)
    assert teacher.predict(IMAGES[:1])[0].probabilities.sum() == pytest.approx(1, abs=1e-4)


def test_published_segmenter_weights_bring_classes_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(LRASPP, bare_model(LRASPP, 21).state_dict(), tmp_path, monkeypatch)
    teacher = load_teacher(f"torchvision:{LRASPP}", TeacherOptions(weights="DEFAULT", device="cpu"))
    assert len(teacher.classes) == 21
    assert (teacher.classes[0], teacher.classes[15]) == ("background", "person")
    assert teacher.description["resize"]["min_size"] == 520


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (SMALL, {"floor": 0.3}, r"floor=0.3 has no meaning for mobilenet_v3_small, a classifier"),
        (SMALL, {"nms_iou": 0.3}, r"nms_iou=0.3 has no meaning"),
        (SMALL, {"max_size": 300}, r"max_size=300 has no meaning"),
        (LRASPP, {"max_detections": 3}, r"max_detections=3 has no meaning for lraspp.*, a segmenter"),
        (SMALL, {"weights": None}, r"needs weights"),
        (SMALL, {"classes": None}, r"has 4 outputs and no class names"),
        (LRASPP, {"classes": ("a", "b", "c")}, r"3 classes given for 4 outputs of lraspp.*: give 4"),
        (SMALL, {"classes": ("a", "b", "c", "c")}, r"must be different names, not a, b, c, c"),
        (SMALL, {"classes": ("N/A",) * 4}, r"must be different names, not none"),
        ("resnet18", {}, r"holds no weights of resnet18: it lacks fc\.weight"),
        (DEEPLAB, {}, r"holds no weights of deeplab.*: it lacks classifier\.4\.weight"),
    ],
)
def test_a_teacher_that_cannot_be_loaded_says_why(
    name: str, options: dict[str, Any], message: str, weights: Callable[..., str]
) -> None:
    settings = replace(OPTIONS, **{"weights": weights(LRASPP if name == LRASPP else SMALL), **options})
    with pytest.raises(TeacherError, match=message) as error:
        load_teacher(f"torchvision:{name}", settings)
    assert "\n" not in str(error.value)


def test_every_setting_is_in_the_fingerprint(weights: Callable[..., str]) -> None:
    base = replace(OPTIONS, weights=weights(SMALL))
    prints = [
        fingerprint(TorchvisionClassifier(SMALL, replace(base, **change)).description)
        for change in ({}, {"min_size": 64}, {"dtype": "bfloat16"}, {"classes": ("a", "b", "c", "N/A")})
    ]
    base = replace(OPTIONS, weights=weights(LRASPP))
    prints += [
        fingerprint(TorchvisionSegmenter(LRASPP, replace(base, **change)).description)
        for change in ({}, {"min_size": 64}, {"max_size": 64}, {"upscale": True}, {"dtype": "bfloat16"})
    ]
    assert len(set(prints)) == 9


def test_a_model_that_fails_or_gives_nan_fails_the_batch(tmp_path: Path, weights: Callable[..., str]) -> None:
    state = dict(bare_model(LRASPP).state_dict())
    state["classifier.high_classifier.bias"] = torch.full((OUTPUTS,), float("nan"))
    save_file(state, tmp_path / "nan.safetensors")
    teacher = TorchvisionSegmenter(LRASPP, replace(OPTIONS, weights=str(tmp_path / "nan.safetensors")))
    with pytest.raises(TeacherError, match="NaN"):
        teacher.predict([picture(32, 32)])
    classifier = TorchvisionClassifier(SMALL, replace(OPTIONS, weights=weights(SMALL)))
    with pytest.raises(TeacherError, match=r"torchvision's model failed: ") as error:
        classifier.predict([picture(32, 32)[..., [0, 0]]])  # two channels
    assert "\n" not in str(error.value)

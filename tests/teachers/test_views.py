"""Test-time views: what is seen is mapped back to the pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from teachers import load_teacher, masks
from teachers.base import (
    ClassProbabilities,
    Detections,
    Prediction,
    Segmenter,
    SemanticMap,
    Teacher,
    TeacherError,
    TeacherOptions,
    Views,
    fingerprint,
)
from teachers.fused.views import View, ViewsTeacher
from teachers.networks.build import build_network
from teachers.networks.checkpoints import save_checkpoint
from teachers.networks.config import NetworkConfig

CLASSES = ("red", "green")


def painted(boxes: Sequence[tuple[int, int, int, int, int]], height: int = 120, width: int = 160) -> np.ndarray:
    """A black image with filled rectangles x1, y1, x2, y2, channel."""
    image = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2, channel in boxes:
        image[y1:y2, x1:x2, channel] = 255
    return image


class Finder:
    """Finds the extent of what is more than half red, and green, in the image it is shown; also as masks or maps.

    It is as sure of a red object as it is far left: a mirror changes that.
    """

    classes = CLASSES
    batch_size = 3

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.description = {"kind": kind, "classes": list(CLASSES), "floor": 0.05}
        self.runtime: dict[str, Any] = {}
        self.seen: list[tuple[int, ...]] = []
        self.trained_on = ["aa"]

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        assert len(images) <= self.batch_size
        self.seen += [image.shape[:2] for image in images]
        if self.kind == "classification":
            return [ClassProbabilities(self._share(image)) for image in images]
        if self.kind == "semantic":
            return [SemanticMap.of(one) for one in self.predict_probabilities(images)]
        return [self._find(image) for image in images]

    def predict_probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.seen += [image.shape[:2] for image in images]
        red = [image[:, :, 0].astype(np.float32) / 255 for image in images]
        return [np.stack([one, 1 - one]) for one in red]

    @staticmethod
    def _share(image: np.ndarray) -> np.ndarray:
        """How red, and how green, the left half is."""
        return (image[:, : image.shape[1] // 2, :2].mean((0, 1)) / 255).astype(np.float32)

    def _find(self, image: np.ndarray) -> Detections:
        boxes, scores, labels, planes = [], [], [], []
        for label in range(2):
            plane = image[:, :, label] > 127
            if plane.any():
                rows, columns = np.nonzero(plane)
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                scores.append(0.5 + 0.4 * (1 - columns.mean() / image.shape[1]))
                labels.append(label)
                planes.append(plane)
        size = {"width": image.shape[1], "height": image.shape[0]}
        if self.kind == "detection":
            return Detections.of(boxes, scores, labels, **size)
        quality = [score / 2 for score in scores]
        return Detections.of(boxes, scores, labels, **size, masks=masks.encode(np.array(planes)), quality=quality)


@settings(deadline=None, max_examples=60)
@given(
    flip=st.booleans(),
    scales=st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0]), min_size=1, max_size=4, unique=True),
    corner=st.tuples(st.integers(0, 30), st.integers(0, 20)),
    side=st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_a_marked_object_comes_back_to_the_pixel(
    flip: bool, scales: list[float], corner: tuple[int, int], side: tuple[int, int]
) -> None:
    if scales == [1.0] and not flip:
        return
    x1, y1 = 4 * corner[0], 4 * corner[1]  # so that its edges are between pixels at every scale
    x2, y2 = x1 + 4 * side[0], y1 + 4 * side[1]
    image = painted([(x1, y1, x2, y2, 0), (140, 100, 152, 116, 1)])
    finder = Finder("detection")
    teacher = ViewsTeacher(finder, Views(flip, tuple(scales)))
    assert isinstance(teacher, Teacher)
    (found,) = teacher.predict([image])
    assert isinstance(found, Detections) and len(found) == 2 and found.agree is None
    by_label = np.argsort(found.labels)
    np.testing.assert_allclose(found.boxes[by_label], [[x1, y1, x2, y2], [140, 100, 152, 116]], atol=1e-4)
    assert sorted(finder.seen) == sorted((int(120 * s), int(160 * s)) for s in scales for _ in range(1 + flip))


@settings(deadline=None, max_examples=60)
@given(
    scale=st.floats(0.1, 3),
    flip=st.booleans(),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_boxes_of_any_view_are_mapped_back(scale: float, flip: bool, height: int, width: int, seed: int) -> None:
    """A box of shares of the image has the same shares in the view, mirrored or not."""
    share = np.sort(np.random.default_rng(seed).random((5, 2, 2)), axis=1).reshape(5, 4)
    view = View(scale, flip)
    tall, wide = view.size((height, width, 3))
    assert view.of(np.zeros((height, width, 3), np.uint8)).shape == (tall, wide, 3)
    seen = share[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0] if flip else share
    back = view.boxes_back((seen * [wide, tall, wide, tall]).astype(np.float32), (height, width, 3))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, share * [width, height, width, height], atol=1e-4)


def test_scores_are_averaged_and_the_floor_holds_after_fusion() -> None:
    """Red is a quarter in from the left edge: .8 as it is and .6 in a mirror. Green is found only where it is large."""
    image = painted([(36, 40, 44, 60, 0)])
    image[70:72, 81:83, 1] = 140  # gone once it is blurred
    finder = Finder("detection")
    (found,) = ViewsTeacher(finder, Views(True, (1.0, 0.5))).predict([image])
    assert isinstance(found, Detections)
    np.testing.assert_allclose(found.scores, [0.7, 0.35], atol=0.01)  # green in two of the four views
    finder.description["floor"] = 0.4
    (found,) = ViewsTeacher(finder, Views(True, (1.0, 0.5))).predict([image])
    assert isinstance(found, Detections) and found.labels.tolist() == [0]
    finder.description["floor"] = 0.05
    (found,) = ViewsTeacher(finder, Views(True, (1.0, 0.5)), max_detections=1).predict([image])
    assert isinstance(found, Detections) and found.labels.tolist() == [0]


@pytest.mark.parametrize("x1", [8, 120])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_mask_comes_back_from_the_view_that_is_surest(x1: int, scale: float) -> None:
    """Far left the image itself is surest, far right its mirror."""
    image = painted([(x1, 20, x1 + 20, 60, 0), (x1 + 8, 20, x1 + 20, 32, 0)])
    image[20:32, x1 : x1 + 8, 0] = 0  # no corner at the top left
    teacher = ViewsTeacher(Finder("instance"), Views(True, (scale,)))
    (found,) = teacher.predict([image])
    assert isinstance(found, Detections) and found.masks is not None and found.quality is not None
    np.testing.assert_array_equal(masks.decode(found.masks, 120, 160)[0], image[:, :, 0] > 127)
    np.testing.assert_allclose(found.boxes, [[x1, 20, x1 + 20, 60]], atol=1e-4)
    assert found.quality[0] > 0.45 - 0.2 * 30 / 160  # half of the higher of two scores
    assert found.scores[0] == pytest.approx(0.7, abs=0.02)  # of their mean
    (nothing,) = teacher.predict([painted([])])
    assert isinstance(nothing, Detections) and len(nothing) == 0


def test_an_object_whose_mask_is_lost_on_the_way_back_is_left_out() -> None:
    class Dots(Finder):
        def _find(self, image: np.ndarray) -> Detections:
            planes = np.zeros((2, *image.shape[:2]), bool)
            planes[0, 11, 11] = planes[1, 20:40, 20:40] = True  # the first is a quarter of a pixel of the image
            size = {"width": image.shape[1], "height": image.shape[0]}
            return Detections.of(
                [[9, 9, 13, 13], [20, 20, 40, 40]], [0.9, 0.8], [0, 1], **size, masks=masks.encode(planes)
            )

    (found,) = ViewsTeacher(Dots("instance"), Views(False, (2.0,))).predict([painted([])])
    assert isinstance(found, Detections) and found.labels.tolist() == [1]
    assert found.masks is not None and masks.area(found.masks, 120, 160).tolist() == [100]


def test_class_probabilities_are_averaged() -> None:
    image = painted([(0, 0, 80, 120, 0), (80, 0, 120, 120, 1)])
    (plain,) = Finder("classification").predict([image])
    (found,) = ViewsTeacher(Finder("classification"), Views(True, (1.0,))).predict([image])
    assert isinstance(plain, ClassProbabilities) and isinstance(found, ClassProbabilities)
    np.testing.assert_allclose(plain.probabilities, [1, 0])
    np.testing.assert_allclose(found.probabilities, [0.5, 0.25], atol=1e-6)


def test_maps_come_back_to_the_pixel_at_the_papers_scales() -> None:
    image = painted([(16, 24, 64, 80, 0)])
    paper = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    finder = Finder("semantic")
    teacher = ViewsTeacher(finder, Views(True, paper))
    assert isinstance(teacher, Segmenter)
    (probabilities,) = teacher.predict_probabilities([image])
    (found,) = teacher.predict([image])
    assert isinstance(found, SemanticMap)
    assert len(finder.seen) == 2 * 2 * len(paper)
    np.testing.assert_array_equal(found.labels == 0, image[:, :, 0] > 127)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    assert found.confidence[:10].min() == 255  # far from any edge
    (only_flip,) = ViewsTeacher(finder, Views(True)).predict_probabilities([image])
    np.testing.assert_allclose(only_flip[0], image[:, :, 0] / 255, atol=1e-6)


@pytest.mark.parametrize("kind", ["detection", "instance", "semantic", "classification"])
def test_an_image_does_not_depend_on_its_batch_mates(kind: str) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (int(h), int(w), 3), dtype=np.uint8) for h, w in rng.integers(5, 60, (7, 2))]
    teacher = ViewsTeacher(Finder(kind), Views(True, (0.8, 1.0, 1.25)))
    assert not teacher.predict([])
    for image, one in zip(images, teacher.predict(images), strict=True):
        (alone,) = teacher.predict([image])
        for name, column in vars(one).items():
            np.testing.assert_array_equal(column, getattr(alone, name))


def test_views_are_part_of_the_fingerprint_and_hide_nothing() -> None:
    finder = Finder("detection")
    ways = [Views(True), Views(False, (1.0, 2.0)), Views(True, (1.0, 2.0)), Views(True, iou=0.6)]
    teachers = [ViewsTeacher(finder, views) for views in ways] + [ViewsTeacher(finder, ways[0], 10)]
    digests = {fingerprint(one.description) for one in (finder, *teachers)}
    assert len(digests) == 6
    assert all(one.trained_on == ["aa"] and one.classes == CLASSES and one.batch_size == 3 for one in teachers)
    assert teachers[0].description["kind"] == "detection"
    plain, other = (ViewsTeacher(Finder("classification"), Views(True, iou=iou)) for iou in (0.5, 0.6))
    assert fingerprint(plain.description) == fingerprint(other.description)  # classes have no boxes to be fused


TINY = NetworkConfig(
    arch="fcos", backbone="timm:test_resnet", classes=CLASSES, size=48, channels=16, head_depth=1, levels=(8, 16)
)


def same(one: Prediction, other: Prediction) -> None:
    for name, column in vars(one).items():
        if isinstance(column, np.ndarray):
            np.testing.assert_allclose(column, getattr(other, name), atol=1e-4)


@pytest.mark.parametrize("arch", ["fcos", "fpn", "linear"])
def test_a_student_sees_a_scale_as_the_same_student_of_that_size(tmp_path: Path, arch: Any) -> None:
    """Resizing the image would show it nothing new: it brings every image to its size."""
    import torch

    torch.manual_seed(0)
    config = replace(TINY, arch=arch)
    network = build_network(config)
    for folder, size in (("own", 48), ("larger", 96)):
        (tmp_path / folder).mkdir()
        save_checkpoint(tmp_path / folder, network, replace(config, size=size), {"step": 1, "trained_on": []})
    options = TeacherOptions(floor=0.0) if arch == "fcos" else TeacherOptions()
    image = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    spec = f"checkpoint:{tmp_path / 'own'}"
    seen = load_teacher(spec, replace(options, tta=Views(scales=(2.0,))))
    own, larger = (load_teacher(f"checkpoint:{tmp_path / name}", options) for name in ("own", "larger"))
    (one,), (other,), (plain,) = (teacher.predict([image]) for teacher in (seen, larger, own))
    if isinstance(one, Detections) and isinstance(other, Detections):  # fused: compare the surest
        one, other = (Detections(found.boxes[:1], found.scores[:1], found.labels[:1]) for found in (one, other))
        assert one.scores[0] != pytest.approx(float(plain.scores[0]), abs=1e-6)  # type: ignore[union-attr]
    same(one, other)
    both = load_teacher(spec, replace(options, tta=Views(scales=(1.0, 2.0))))
    assert fingerprint(both.description) != fingerprint(seen.description)
    same(own.predict([image])[0], plain)  # the size is what it was


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_torchvision_sees_a_scale_as_with_other_sizes(tmp_path: Path, scale: float) -> None:
    import torch
    from torchvision.models import get_model

    torch.manual_seed(0)
    options = TeacherOptions(
        weights=str(tmp_path / "weights.pth"), classes=CLASSES, min_size=64, max_size=160, upscale=True
    )
    torch.save(
        get_model("lraspp_mobilenet_v3_large", weights_backbone=None, num_classes=2).state_dict(), str(options.weights)
    )
    image = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    spec = "torchvision:lraspp_mobilenet_v3_large"
    seen = load_teacher(spec, replace(options, tta=Views(scales=(scale,))))
    other = load_teacher(spec, replace(options, min_size=round(64 * scale), max_size=round(160 * scale)))
    same(seen.predict([image])[0], other.predict([image])[0])


def test_a_model_of_one_size_has_no_scales(tmp_path: Path) -> None:
    import torch
    from torchvision.models import get_model

    options = TeacherOptions(weights=str(tmp_path / "weights.pth"), classes=CLASSES, tta=Views(True, (0.5, 1.0)))
    model = get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=3)
    torch.save(model.state_dict(), str(options.weights))
    with pytest.raises(TeacherError, match="remove scales from tta"):
        load_teacher("torchvision:ssdlite320_mobilenet_v3_large", options)


def test_a_segmenter_without_probabilities_cannot_be_averaged() -> None:
    class Plain:
        classes, batch_size, runtime = CLASSES, 1, {}
        description = Finder("semantic").description

        def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
            return []

    with pytest.raises(TeacherError, match="remove tta"):
        ViewsTeacher(Plain(), Views(True))


@pytest.mark.parametrize(
    ("tta", "said"),
    [
        ({}, "tta must name a view besides the image itself"),
        ({"flip": False, "scales": [1.0]}, "tta must name a view"),
        ({"flip": True, "scales": []}, "one or more different numbers"),
        ({"scales": [0.5, 0.5]}, "one or more different numbers"),
        ({"scales": [0.0, 1.0]}, "between 0.1 and 10"),
        ({"scales": [-1.0]}, "between 0.1 and 10"),
        ({"scales": [float("nan")]}, "between 0.1 and 10"),
        ({"scales": ["big"]}, "valid number"),
        ({"flip": True, "iou": 1.0}, "iou must lie between 0 and 1"),
        ({"flip": True, "rotate": 90}, "rotate"),
        (True, "Views"),
    ],
)
def test_nonsense_is_refused(tta: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(TeacherOptions).validate_python({"tta": tta})


def test_the_options_of_a_recipe() -> None:
    options = TypeAdapter(TeacherOptions).validate_python(
        {"tta": {"flip": True, "scales": [0.8, 1, 1.25]}, "jitter": 10}
    )
    assert options.tta == Views(True, (0.8, 1.0, 1.25)) and options.jitter == 10
    assert TeacherOptions().tta is None

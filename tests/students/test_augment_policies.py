"""Augment-S2 to S4: labels follow what is done to pixels, operations are torchvision's, tables are the papers'."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from students.augment.operations import Colour, Distortion, Shift, motion, recoloured, shifted
from students.augment.policies import NO_BOXES
from students.augment.scene import FIT, S1, S2, S3, S4, Augment, Placement
from students.tasks.detection import DETECTION, Boxes
from students.tasks.instance import INSTANCE, Outlined
from teachers.masks import encode
from tests.helpers.rectangles import extent

GREY, RED = (124, 116, 104), (250, 0, 0)
POLICIES = {"S2": S2, "S3": S3, "S4": S4}


@dataclass(frozen=True)
class Always:
    """A policy that does one and the same to every scene."""

    distortion: Distortion

    def draw(self, width: int, height: int, rng: np.random.Generator, boxes: np.ndarray) -> Distortion:
        return self.distortion


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels that differ from their neighbours, but not by much."""
    rough = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def placed(distortion: Distortion, width: int, height: int, augment: Augment = FIT, seed: int = 0) -> Placement:
    """FIT with this distortion, on a canvas on which the scene keeps its size."""
    chosen = replace(augment, policy=Always(distortion))
    return chosen.place(width, height, max(width, height), np.random.default_rng(seed))


# labels follow pixels


@settings(max_examples=120, deadline=None)
@given(
    policy=st.sampled_from(sorted(POLICIES)),
    width=st.integers(16, 90),
    height=st.integers(16, 90),
    size=st.integers(24, 96),
    seed=st.integers(0, 9999),
    box=st.tuples(*[st.floats(0, 0.6)] * 2, *[st.floats(0.25, 0.4)] * 2),
)
def test_the_mask_of_a_marked_object_stays_inside_its_box(
    policy: str, width: int, height: int, size: int, seed: int, box: tuple[float, ...]
) -> None:
    x1, y1 = int(box[0] * width), int(box[1] * height)
    x2, y2 = math.ceil(x1 + box[2] * width), math.ceil(y1 + box[3] * height)
    mask = np.zeros((height, width), np.uint8)
    mask[y1:y2, x1:x2] = 1
    boxes = np.array([[x1, y1, x2, y2]], np.float32)
    placement = POLICIES[policy].place(width, height, size, np.random.default_rng(seed), boxes)
    (moved,), (visible,) = placement.boxes(boxes)
    assert 0 <= visible <= 1.001 and (moved >= 0).all() and (moved <= np.tile(placement.window, 2)).all()
    laid = placement.labels(mask, 0)
    rows, columns = np.nonzero(laid)
    if len(rows):
        left, top, right, bottom = moved
        assert left - 1 <= columns.min() and columns.max() + 1 <= right + 1
        assert top - 1 <= rows.min() and rows.max() + 1 <= bottom + 1
    if visible == 0:
        assert len(rows) <= 2 * max(laid.shape) * max(placement.zoom)  # a sliver of the edge
    outlined = Outlined(Boxes(boxes, np.array([0]), np.array([False])), encode(mask[None]), height, width)
    tight, _, _, masks = INSTANCE.place(outlined, placement)
    for (left, top, right, bottom), one in zip(tight, masks, strict=True):
        np.testing.assert_array_equal(one, laid)
        if one.any():
            rows, columns = np.nonzero(one)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose([left, top, right, bottom], found, atol=1.01)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("Rotate"), st.floats(-30, 30)),
        st.tuples(st.sampled_from(["ShearX", "ShearY"]), st.floats(-0.3, 0.3)),
        st.tuples(st.sampled_from(["TranslateX", "TranslateY"]), st.floats(-25, 25)),
    ),
    min_size=1,
    max_size=2,
)


def warp_of(chosen: list[tuple[str, float]], width: int, height: int) -> np.ndarray:
    warp = np.eye(3)
    for name, value in chosen:
        warp = motion(name, value, width, height) @ warp
    return warp


@settings(max_examples=80, deadline=None)
@given(chosen=steps, seed=st.integers(0, 999), augment=st.sampled_from([FIT, S1, S3]))
def test_image_map_and_box_of_a_moved_scene_agree(chosen: list[tuple[str, float]], seed: int, augment: Augment) -> None:
    """The colour of the image says where its object is: red there, grey elsewhere, blue beyond the scene."""
    width, height = 96, 72
    mask = np.zeros((height, width), np.uint8)
    mask[20:50, 30:70] = 1
    pixels = np.where(mask[..., None] == 1, RED, (100, 100, 100)).astype(np.uint8)
    boxes = np.array([[30, 20, 70, 50]], np.float32)
    placement = placed(Distortion(warp=warp_of(chosen, width, height)), width, height, augment, seed)
    canvas, laid = placement.image(pixels, (0, 0, 255)), placement.labels(mask, 255)
    edge = (canvas != RED).any(axis=2) & (canvas != (100, 100, 100)).any(axis=2) & (canvas != (0, 0, 255)).any(axis=2)
    far = ~edge
    for step, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        far &= ~np.roll(edge, step, axis)
    expected = np.select([(canvas == RED).all(axis=2), (canvas == (0, 0, 255)).all(axis=2)], [1, 255], 0)
    assert ((expected == laid) | ~far).mean() > 0.97  # the scene's own edge has no mixed colours: a pixel either way
    (moved,), (visible,) = placement.boxes(boxes)
    found = extent(canvas, RED, tolerance=75)
    if found is not None and visible > 0.02:
        left, top, right, bottom = moved
        assert left <= found[0] + 1 and top <= found[1] + 1 and right >= found[2] - 1 and bottom >= found[3] - 1
    wide, high = 40 * placement.zoom[0], 30 * placement.zoom[1]
    counted = (laid == 1).sum() / (wide * high)
    assert visible == pytest.approx(
        counted, abs=1.2 * (wide + high) / (wide * high)
    )  # half a pixel around it, and more


def test_a_box_goes_around_its_moved_corners_as_in_torchvision() -> None:
    boxes = np.array([[40, 30, 60, 50], [55, 40, 58, 70]], np.float32)
    theirs = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(100, 120))
    cases: list[tuple[str, float, Callable[[Any], Any]]] = [
        ("Rotate", 20.0, lambda b: functional.rotate(b, -20.0)),
        ("ShearX", 0.2, lambda b: sheared(b, [0.2, 0])),
        ("ShearY", -0.3, lambda b: sheared(b, [0, -0.3])),
        ("TranslateX", 7.0, lambda b: functional.affine(b, 0.0, [7, 0], 1.0, [0.0, 0.0])),
    ]
    for name, value, oracle in cases:
        placement = placed(Distortion(warp=motion(name, value, 120, 100)), 120, 100)
        moved, visible = placement.boxes(boxes)
        np.testing.assert_allclose(moved, oracle(theirs).numpy(), atol=0.01, err_msg=name)
        np.testing.assert_allclose(visible, 1, atol=1e-5)


def sheared(values: Any, by: list[float], **options: Any) -> Any:
    """torchvision's shear, which is the opposite way and asks for degrees."""
    degrees = [-math.degrees(math.atan(b)) for b in by]
    return functional.affine(values, 0.0, [0, 0], 1.0, degrees, center=[0, 0], **options)


@pytest.mark.parametrize(
    ("name", "value", "oracle"),
    [
        ("Rotate", 25.0, lambda t, o: functional.rotate(t, -25.0, **o)),
        ("Rotate", -10.0, lambda t, o: functional.rotate(t, 10.0, **o)),
        ("ShearX", 0.3, lambda t, o: sheared(t, [0.3, 0], **o)),
        ("ShearY", -0.15, lambda t, o: sheared(t, [0, -0.15], **o)),
        ("TranslateX", -9.0, lambda t, o: functional.affine(t, 0.0, [-9, 0], 1.0, [0.0, 0.0], **o)),
        ("TranslateY", 5.0, lambda t, o: functional.affine(t, 0.0, [0, 5], 1.0, [0.0, 0.0], **o)),
    ],
)
def test_scenes_move_as_in_torchvision(name: str, value: float, oracle: Callable[..., torch.Tensor]) -> None:
    pixels, plane = noise(80, 100), np.random.default_rng(0).integers(0, 5, (10, 10)).astype(np.uint8)
    plane = np.kron(plane, np.ones((8, 10), np.uint8))
    placement = placed(Distortion(warp=motion(name, value, 100, 80)), 100, 80)
    bilinear, nearest = functional.InterpolationMode.BILINEAR, functional.InterpolationMode.NEAREST
    theirs = oracle(tensor(pixels), {"interpolation": bilinear, "fill": [0.0]}).numpy().transpose(1, 2, 0)
    ours = placement.image(pixels, (0, 0, 0))[:80, :100]
    labels = oracle(torch.from_numpy(plane)[None], {"interpolation": nearest, "fill": [255.0]}).numpy()[0]
    whole = np.pad(labels != 255, 2)  # without the edge, where torchvision mixes colours with the fill
    inside = np.asarray(Image.fromarray(whole).convert("L").filter(ImageFilter.MinFilter(5)))[2:-2, 2:-2] > 0
    assert np.abs(ours.astype(int) - theirs)[inside].max() <= 2
    assert (placement.labels(plane, 255)[:80, :100] == labels).mean() > 0.99


@pytest.mark.parametrize(
    ("colour", "oracle"),
    [
        (Colour("AutoContrast", 0), functional.autocontrast),
        (Colour("Equalize", 0), functional.equalize),
        (Colour("Invert", 0), functional.invert),
        (Colour("Posterize", 4), lambda t: functional.posterize(t, 4)),
        (Colour("Solarize", 100), lambda t: functional.solarize(t, 100)),
        (Colour("SolarizeAdd", 110), lambda t: torch.where(t < 128, (t.int() + 110).clamp(max=255).to(t.dtype), t)),
        (Colour("Color", 1.9), lambda t: functional.adjust_saturation(t, 1.9)),
        (Colour("Contrast", 0.3), lambda t: functional.adjust_contrast(t, 0.3)),
        (Colour("Brightness", 1.2), lambda t: functional.adjust_brightness(t, 1.2)),
        (Colour("Sharpness", 1.9), lambda t: functional.adjust_sharpness(t, 1.9)),
    ],
    ids=lambda value: value.name if isinstance(value, Colour) else "",
)
def test_colours_change_as_in_torchvision(colour: Colour, oracle: Callable[[torch.Tensor], torch.Tensor]) -> None:
    pixels = (noise(60, 80) // 2 + 40).astype(np.uint8)
    found = np.asarray(recoloured(Image.fromarray(pixels), [colour])).astype(int)
    expected = oracle(tensor(pixels)).numpy().transpose(1, 2, 0)
    assert np.abs(found - expected).max() <= 2  # of tensors another implementation, which rounds elsewhere
    assert np.abs(found - pixels).max() > 2
    canvas = placed(Distortion(colours=(colour,)), 80, 60).image(pixels, GREY)
    np.testing.assert_array_equal(canvas[:60], found)
    assert (canvas[60:] == GREY).all()


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(sorted(POLICIES)),
    seed=st.integers(0, 9999),
    ids=st.sets(st.integers(0, 255), min_size=1, max_size=5),
    size=st.integers(1, 60),
)
def test_no_new_ids_appear_in_a_map(policy: str, seed: int, ids: set[int], size: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 80, 2).tolist()
    plane = rng.choice(sorted(ids), (height, width)).astype(np.uint8)
    placement = POLICIES[policy].place(width, height, size, rng)
    canvas = placement.labels(plane, 255)
    assert placement.image(np.stack([plane] * 3, axis=2), GREY).shape == (size, size, 3)
    assert canvas.shape == (size, size) and set(np.unique(canvas)) <= ids | {255}


@settings(max_examples=60, deadline=None)
@given(policy=st.sampled_from(sorted(POLICIES)), seed=st.integers(0, 9999))
def test_same_generator_same_bytes_whatever_the_order_of_boxes(policy: str, seed: int) -> None:
    pixels, rng = noise(50, 70), np.random.default_rng(seed)
    boxes = rng.uniform(0, 35, (6, 2, 2)).cumsum(axis=1).reshape(6, 4).astype(np.float32)
    order = rng.permutation(6)
    one, other = (POLICIES[policy](pixels, b, 64, GREY, np.random.default_rng(seed)) for b in (boxes, boxes[order]))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1][order], other[1])
    np.testing.assert_array_equal(one[2][order], other[2])


def test_a_crop_of_a_moved_scene_is_what_the_whole_shows_there() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (240, 240, 3), dtype=np.uint8)
    warp = warp_of([("Rotate", 20.0), ("ShearX", 0.1)], 240, 240)
    policy = Always(Distortion(warp=warp))
    whole = Augment((1.0, 1.0), 0.0, policy).place(240, 240, 120, np.random.default_rng(0)).image(pixels, GREY)
    for seed in range(20):
        crop = Augment((2.0, 2.0), 0.0, policy).place(240, 240, 60, np.random.default_rng(seed))
        left, top = crop.shift
        expected = whole[top : top + 60, left : left + 60].astype(int)
        assert np.abs(crop.image(pixels, GREY) - expected).max() <= 1


def test_a_box_that_reaches_out_of_a_moved_scene_is_cut_off_at_its_edge() -> None:
    boxes = np.array([[-40, -20, 120, 60], [0, 0, 80, 40]], np.float32)
    placement = placed(Distortion(warp=motion("ShearX", 0.3, 80, 40)), 80, 40)
    (beyond, whole), visible = placement.boxes(boxes)
    np.testing.assert_array_equal(beyond, whole)
    assert visible[1] == pytest.approx(1 - 0.3 * 40 * 40 / 2 / (80 * 40)) and visible[0] == pytest.approx(
        visible[1] / 4
    )


def test_a_scene_moved_out_of_sight_leaves_padding() -> None:
    placement = placed(Distortion(warp=motion("TranslateX", 500, 40, 30)), 40, 30)
    boxes, visible = placement.boxes(np.array([[0, 0, 40, 30]], np.float32))
    assert (placement.image(noise(30, 40), RED) == RED).all() and (
        placement.labels(np.zeros((30, 40), np.uint8), 9) == 9
    ).all()
    assert visible[0] == 0 and (boxes[0, 2:] == boxes[0, :2]).all()
    assert placement.boxes(NO_BOXES)[0].shape == (0, 4)


# what is done within boxes, and squares cut out


def test_what_lies_in_a_box_is_moved_within_it_and_its_mask_with_it() -> None:
    plane = np.arange(48, dtype=np.uint8).reshape(6, 8)
    boxes = np.array([[1.5, 1, 4, 4.5]], np.float32)
    expected = plane.copy()
    expected[3:5, 1:4], expected[1:3, 1:4] = plane[1:3, 1:4], 200
    np.testing.assert_array_equal(shifted(plane, [Shift(boxes, 2)], 200), expected)
    expected = plane.copy()
    expected[1:4, 1:4], expected[4:5, 1:4] = plane[2:5, 1:4], 200
    np.testing.assert_array_equal(shifted(plane, [Shift(boxes, -1)], 200), expected)
    assert plane[1, 1] == 9  # not changed in place

    placement = placed(Distortion(shifts=(Shift(boxes, 2),)), 8, 6)
    assert placement.boxes(np.array([[1.5, 1, 4, 4.5], [0, 0, 8, 6]]))[1] == pytest.approx([1.5 / 3.5, 1])
    np.testing.assert_array_equal(placement.labels(plane, 255)[:6], shifted(plane, [Shift(boxes, 2)], 255))
    gone = placed(Distortion(shifts=(Shift(boxes, 50),)), 8, 6)
    found, good, ignored = DETECTION.place(Boxes(boxes, np.array([0]), np.array([False])), gone)
    assert not len(found) and not len(good) and len(ignored) == 1  # nothing is left of it: neither object nor ground


def test_a_square_cut_out_is_paint_only() -> None:
    pixels, plane = noise(30, 40), np.ones((30, 40), np.uint8)
    placement = placed(Distortion(cutouts=((-4.0, 10.0, 6.0, 20.0),)), 40, 30)
    canvas, expected = placement.image(pixels, RED), pixels.copy()
    expected[10:20, :6] = RED
    np.testing.assert_array_equal(canvas[:30], expected)
    assert (placement.labels(plane, 255)[:30] == 1).all()

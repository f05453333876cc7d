"""S1 and large jitter: boxes follow their objects to the pixel, and S1 is what it was, to two levels of 255."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from students.augment.scene import FIT, S1, Augment
from tests.helpers.rectangles import extent

GREY = (100, 100, 100)
RED = (250, 0, 0)
LARGE = Augment(jitter=(0.5, 2.0), flip=0.5)


def scene(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.full((height, width, 3), 100, np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = RED
    return pixels


@pytest.mark.parametrize("augment", [S1, LARGE, FIT], ids=["S1", "large", "fit"])
@pytest.mark.parametrize(
    ("width", "height", "size"), [(120, 90, 96), (90, 120, 96), (300, 200, 96), (60, 33, 128), (128, 128, 128)]
)
def test_a_marked_object_stays_in_its_box(augment: Augment, width: int, height: int, size: int) -> None:
    box = (width // 4, height // 3, width // 4 + width // 3, height // 3 + height // 2)
    pixels, boxes = scene(width, height, box), np.array([box], np.float32)
    seen = 0
    for seed in range(60):
        canvas, moved, visible = augment(pixels, boxes, size, (0, 0, 0), np.random.default_rng(seed))
        assert canvas.shape == (size, size, 3)
        assert canvas.dtype == np.uint8
        found = extent(canvas, RED, tolerance=75)  # at half of the way from grey to red lies the edge
        if visible[0] > 0.02:
            assert found is not None
            np.testing.assert_allclose(moved[0], found, atol=1.0)
            seen += 1
        elif found is not None:  # a sliver
            x1, y1, x2, y2 = found
            assert min(x2 - x1, y2 - y1) <= 2
    assert seen >= 50


def test_every_choice_happens() -> None:
    pixels, box = scene(100, 80, (0, 0, 20, 80)), np.array([[0, 0, 20, 80]], np.float32)
    flipped, padded, cropped = 0, 0, 0
    for seed in range(200):
        canvas, moved, visible = S1(pixels, box, 100, (0, 0, 255), np.random.default_rng(seed))
        padded += bool((canvas[0, -1] == (0, 0, 255)).all())
        cropped += bool(visible[0] < 1)
        flipped += bool(moved[0, 0] > 40)
        assert 0.79 * 80 <= (canvas[:, 0] != (0, 0, 255)).any(axis=1).sum() <= 1.21 * 80  # the scale, by the height
    assert 70 <= flipped <= 130
    assert 70 <= padded <= 130
    assert cropped >= 40


def test_visible_is_the_share_of_the_area_that_is_left() -> None:
    pixels = scene(50, 50, (0, 0, 50, 50))
    boxes = np.array([[0, 0, 50, 50], [0, 0, 25, 25], [25, 25, 50, 50], [30, 30, 30, 40]], np.float32)
    double = Augment(jitter=(2.0, 2.0), flip=0.0)
    for seed in range(20):
        canvas, moved, visible = double(pixels, boxes, 50, GREY, np.random.default_rng(seed))
        assert (canvas == RED).all()
        np.testing.assert_allclose(moved[0], [0, 0, 50, 50])
        np.testing.assert_allclose(visible[0], 0.25)
        areas = (moved[1:3, 2] - moved[1:3, 0]) * (moved[1:3, 3] - moved[1:3, 1])
        np.testing.assert_allclose(visible[1:3], areas / 50**2, rtol=1e-5)
        assert visible[3] == 0


def test_a_box_that_reaches_out_of_the_image_is_clipped_to_it_not_to_the_padding() -> None:
    pixels, box = scene(80, 40, (0, 0, 80, 40)), np.array([[-40, -20, 120, 60]], np.float32)
    canvas, moved, visible = FIT(pixels, box, 80, (0, 0, 0), np.random.default_rng(0))
    assert moved.tolist() == [[0, 0, 80, 40]] == [extent(canvas, RED, tolerance=0)]
    assert visible.tolist() == [0.25]


def test_same_generator_same_result_and_no_boxes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    first, second, other = (
        S1(pixels, np.zeros((0, 4), np.float32), 64, GREY, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert (first[0] != other[0]).any()
    assert first[1].shape == (0, 4)
    assert first[2].shape == (0,)


@pytest.mark.parametrize(("width", "height", "size"), [(60, 45, 60), (120, 90, 60), (45, 60, 90), (61, 37, 50)])
def test_fit_is_torchvisions_antialiased_resize_with_the_longer_side_as_size(
    width: int, height: int, size: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    canvas, _, _ = FIT(pixels, np.zeros((0, 4), np.float32), size, GREY, np.random.default_rng(0))
    scale = size / max(width, height)
    shape = [int(height * scale + 0.5), int(width * scale + 0.5)]
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float(), shape, mode="bilinear", antialias=True
    )
    window = canvas[: shape[0], : shape[1]].astype(np.float32)
    np.testing.assert_allclose(window, expected[0].permute(1, 2, 0).numpy(), atol=1.01)  # Pillow rounds per pass
    rest = np.ones((size, size), bool)
    rest[: shape[0], : shape[1]] = False
    assert (canvas[rest] == GREY).all()
    if size == max(width, height):
        np.testing.assert_array_equal(window, pixels)


# S1 as it was before there were policies, by Pillow alone: labels and boxes are to stay what they were, pixels to two levels


def s1_before(
    pixels: np.ndarray, plane: np.ndarray, boxes: np.ndarray, size: int, fill: Any, flip_p: float, rng: Any
) -> list[np.ndarray]:
    height, width = plane.shape
    flip, scale, right, down = rng.random(4)
    target = round((0.8 + scale * (1.2 - 0.8)) * size)
    scaled = np.array([width, height]) * (target / max(width, height))
    scaled_w, scaled_h = np.maximum(np.floor(scaled + 0.5), 1).astype(int).tolist()
    window_w, window_h = min(scaled_w, size), min(scaled_h, size)
    left, top = int(right * (scaled_w - window_w + 1)), int(down * (scaled_h - window_h + 1))
    zoom = scaled_w / width, scaled_h / height
    x1, y1, x2, y2 = (np.array([left, top, left + window_w, top + window_h]) / np.tile(zoom, 2)).tolist()
    source = x1, y1, min(x2, width), min(y2, height)
    flipped = flip < flip_p
    found = []
    for values, outside, resampling in (
        (pixels, fill, Image.Resampling.BILINEAR),
        (plane, 255, Image.Resampling.NEAREST),
    ):
        canvas = np.empty((size, size, *values.shape[2:]), np.uint8)
        canvas[:] = outside
        shown = np.asarray(Image.fromarray(values).resize((window_w, window_h), resampling, box=source))
        canvas[:window_h, :window_w] = shown[:, ::-1] if flipped else shown
        found.append(canvas)
    moved = boxes.astype(np.float64) * np.tile(zoom, 2) - np.tile((left, top), 2)
    if flipped:
        moved = moved[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [window_w, 0, window_w, 0]
    return [*found, moved.clip(0, [window_w, window_h] * 2).astype(np.float32)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 150), st.integers(0, 999), st.sampled_from([0.0, 0.5]))
def test_s1_is_what_it_was_to_two_levels(width: int, height: int, size: int, seed: int, flip: float) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    plane = rng.integers(0, 5, (height, width), dtype=np.uint8)
    boxes = rng.uniform(-10, 160, (4, 2, 2)).cumsum(axis=1).reshape(4, 4).astype(np.float32)
    expected = s1_before(pixels, plane, boxes, size, GREY, flip, np.random.default_rng(seed))
    placement = replace(S1, flip=flip).place(width, height, size, np.random.default_rng(seed), boxes)
    found = [placement.image(pixels, GREY), placement.labels(plane, 255), placement.boxes(boxes)[0]]
    np.testing.assert_allclose(found[0].astype(int), expected[0].astype(int), atol=2)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)

"""Polygons around masks: what pycocotools and Pillow fill is the mask again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco
from scipy.ndimage import label

from builder.export.polygons import outlines, polygon
from teachers.masks import decode
from tests.helpers.outlines import crossings

RING = np.pad(np.pad(np.zeros((2, 2), bool), 2, constant_values=True), 1)
MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_one_polygon_holds_the_mask(mask: np.ndarray) -> None:
    found = polygon(mask)
    assert np.array_equal(crossings(found, mask.shape), mask)
    assert mask.any() == bool(len(found)) and ((found >= 0) & (found <= mask.shape[::-1])).all()


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_parts_and_holes_are_those_that_scipy_counts(mask: np.ndarray) -> None:
    parts = label(mask)[1]
    holes = label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))[1] - 1
    x_y = [loop.astype(float).T for loop in outlines(mask)]
    areas = [(x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2 for x, y in x_y]
    assert (sum(a > 0 for a in areas), sum(a < 0 for a in areas)) == (parts, holes)
    assert sum(areas) == mask.sum()


@pytest.mark.parametrize("seed", range(3))
def test_pycocotools_fills_nearly_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :160]
    mask = np.zeros((120, 160), bool)
    for cx, cy, r in zip(rng.integers(20, 140, 4), rng.integers(20, 100, 4), rng.integers(5, 25, 4), strict=True):
        mask |= (x - cx) ** 2 + (y - cy) ** 2 < r**2
    codes = coco.frPyObjects([polygon(mask).astype(float).ravel().tolist()], 120, 160)
    filled = decode([coco.merge(codes)["counts"]], 120, 160)[0]
    assert (filled & mask).sum() / (filled | mask).sum() > 0.97


def test_a_hole_stays_open() -> None:
    assert crossings(polygon(RING), RING.shape).sum() == RING.sum() == 32


def test_a_mask_of_many_parts_is_quick() -> None:
    noise = np.random.default_rng(0).random((120, 160)) < 0.2
    assert np.array_equal(crossings(polygon(noise), noise.shape), noise)
    dust = np.tile(np.array([[1, 0], [0, 0]], bool), (75, 100))
    assert len(polygon(dust)) == 6 * 7500 - 2  # four corners each, and there and back

"""IoU and non-maximum suppression, against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou
from torchvision.ops import nms as torchvision_nms

from teachers.boxes import iou_matrix, nms

Scene = tuple[np.ndarray, np.ndarray, np.ndarray]


def scene(seed: int, count: int, size: int = 40, groups: int = 4) -> Scene:
    """Boxes of small integer coordinates, so that touching, equal and empty boxes and equal IoUs are common; distinct
    scores; groups far apart."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, size, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, size // 2, (count, 2))], 1).astype(np.float32)
    scores = (rng.permutation(count).astype(np.float32) + 1) / (count + 1)
    return boxes, scores, rng.integers(-1, groups - 1, count) * 1_000_003


def expected_keep(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, iou: float) -> np.ndarray:
    """Torchvision's NMS, group by group: its batched_nms shifts the coordinates of each group, which rounds them."""
    keep = np.zeros(len(boxes), bool)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        keep[rows[torchvision_nms(torch.tensor(boxes[rows]), torch.tensor(scores[rows]), iou).numpy()]] = True
    return keep


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 60),
    groups=st.integers(1, 6),
    iou=st.sampled_from([0.0, 0.25, 0.3, 1 / 3, 0.5, 0.6, 0.7, 1.0]),
)
def test_nms_is_torchvisions(seed: int, count: int, groups: int, iou: float) -> None:
    boxes, scores, group = scene(seed, count, groups=groups)
    np.testing.assert_array_equal(nms(boxes, scores, group, iou), expected_keep(boxes, scores, group, iou))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 40))
def test_nms_does_not_depend_on_row_order(seed: int, count: int) -> None:
    boxes, _, groups = scene(seed, count)
    rng = np.random.default_rng(seed)
    scores = rng.choice(np.float32([0.25, 0.5]), count)  # ties everywhere
    order = rng.permutation(count)

    def kept_rows(rows: np.ndarray) -> list[tuple[float, ...]]:
        keep = nms(boxes[rows], scores[rows], groups[rows], 0.5)
        return sorted(map(tuple, np.column_stack([boxes, scores, groups])[rows][keep]))

    assert kept_rows(order) == kept_rows(np.arange(count))


def test_nms_of_equal_scores_prefers_the_smaller_coordinates() -> None:
    boxes = np.float32([[2, 0, 12, 10], [1, 0, 11, 10], [0, 0, 10, 10]])
    keep = nms(boxes, np.float32([0.5, 0.5, 0.5]), np.zeros(3, int), 0.5)
    assert keep.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("boxes", "groups", "expected"),
    [
        ([], [], []),
        ([[0, 0, 5, 5]], [7], [True]),
        ([[0, 0, 5, 5]] * 3, [0, 0, 0], [True, False, False]),
        ([[0, 0, 5, 5]] * 3, [0, 1, 0], [True, True, False]),
        ([[0, 0, 0, 5]] * 2, [0, 0], [True, True]),  # no area, no overlap
        ([[0, 0, 10, 10], [0, 0, 10, 5], [0, 4, 10, 10]], [0, 0, 0], [True, True, False]),  # IoU .5 stays, .6 goes
    ],
)
def test_nms_by_hand(boxes: list[list[float]], groups: list[int], expected: list[bool]) -> None:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    keep = nms(array, np.linspace(0.9, 0.1, len(array), dtype=np.float32), np.array(groups, int), 0.5)
    assert keep.dtype == bool
    assert keep.tolist() == expected


def test_nms_of_one_crowded_group() -> None:
    """A group of thousands of boxes needs memory for its rows, not for its pairs."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 400, (3000, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 100, (3000, 2))], 1).astype(np.float32)
    scores = rng.permutation(3000).astype(np.float32)
    keep = nms(boxes, scores, np.zeros(3000, int), 0.5)
    np.testing.assert_array_equal(keep, expected_keep(boxes, scores, np.zeros(3000, int), 0.5))
    assert 0 < keep.sum() < 3000


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 1), (40, 30)])
def test_iou_matrix_is_torchvisions(n: int, m: int) -> None:
    a, b = scene(1, n)[0], scene(2, m)[0] + np.float32(0.25)
    found = iou_matrix(a, b)
    expected = box_iou(torch.tensor(a), torch.tensor(b)).nan_to_num(0).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)

"""Weighted boxes fusion, against the package of its authors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teachers.boxes import Fused, fuse, nms

Boxes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def scene(seed: int, count: int, members: int, classes: int, grid: int | None) -> Boxes:
    """Boxes in a unit square, most of them around a few places, with distinct scores, classes and members. grid: their
    coordinates are multiples of 1 / grid, so that equal boxes and equal overlaps are common."""
    rng = np.random.default_rng(seed)
    places = rng.random((max(1, count // 6), 2))
    corner = places[rng.integers(0, len(places), count)] + rng.normal(0, 0.03, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.02, 0.4, (count, 2))], 1).clip(0, 1)
    if grid:
        boxes = np.round(boxes * grid) / grid
    boxes = boxes.astype(np.float32)
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    scores = rng.random(len(boxes), np.float32)  # distinct, also when weighted: the package orders equal ones by chance
    return boxes, scores, rng.integers(0, classes, len(boxes)), rng.integers(0, members, len(boxes))


def without_doubles(one: Boxes, iou: float) -> Boxes:
    """What is left where no member has boxes of a class that overlap by more than the fusion's IoU."""
    boxes, scores, labels, members = one
    once = nms(boxes, scores, labels * 10 + members, iou)
    return boxes[once], scores[once], labels[once], members[once]


def theirs(one: Boxes, weights: list[float], iou: float) -> np.ndarray:
    """Rows of x1, y1, x2, y2, score, label, sorted."""
    package = pytest.importorskip("ensemble_boxes", reason="needs the package ensemble-boxes")
    boxes, scores, labels, members = one
    lists = [[column[members == n] for n in range(len(weights))] for column in (boxes, scores, labels)]
    fused, score, label = package.weighted_boxes_fusion(*lists, weights=weights, iou_thr=iou, skip_box_thr=0.0)
    return table(fused, np.minimum(score, 1), label)


def table(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    rows = np.column_stack([boxes.reshape(-1, 4), scores, labels])
    return rows[np.lexsort(np.round(rows, 5).T)]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    weights=st.lists(st.sampled_from([0.5, 1.0, 1.5, 3.0]), min_size=1, max_size=4),
    classes=st.integers(1, 5),
    iou=st.sampled_from([0.0, 0.3, 0.5, 0.55, 0.7, 0.9]),
    grid=st.sampled_from([None, 8, 20]),
)
def test_fusion_of_many_images_at_once_is_the_packages(
    seed: int, counts: list[int], weights: list[float], classes: int, iou: float, grid: int | None
) -> None:
    scenes = [scene(seed + n, count, len(weights), classes, grid) for n, count in enumerate(counts)]
    scenes = [without_doubles(one, iou) for one in scenes]
    boxes, scores, labels, members = (np.concatenate(column) for column in zip(*scenes, strict=True))
    groups = np.repeat(np.arange(len(scenes)), [len(one[1]) for one in scenes]) * classes + labels
    found = fuse(boxes, scores, groups, members, np.array(weights), iou)
    assert found.scores.max(initial=0) <= 1
    for image, one in enumerate(scenes):
        own = found.groups // classes == image
        mine = table(found.boxes[own], found.scores[own], found.groups[own] % classes)
        np.testing.assert_allclose(mine, theirs(one, weights, iou), rtol=0, atol=1e-6)
    clusters_are_whole(found, boxes, groups, len(weights))


def clusters_are_whole(found: Fused, boxes: np.ndarray, groups: np.ndarray, members: int) -> None:
    assert len(np.unique(found.best)) == len(found.best)
    assert (groups[found.best] == found.groups).all()
    assert ((found.agree >= 1) & (found.agree <= members)).all()
    assert found.agree.dtype == np.int16
    assert (np.diff(found.groups) >= 0).all()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 60), members=st.integers(1, 3))
def test_row_order_decides_nothing(seed: int, count: int, members: int) -> None:
    boxes, _, groups, member = scene(seed, count, members, 3, 8)
    rng = np.random.default_rng(seed)
    scores = rng.choice(np.float32([0.25, 0.5]), len(boxes))  # ties everywhere
    order = rng.permutation(len(boxes))
    weights = np.ones(members)
    one = fuse(boxes, scores, groups, member, weights, 0.5)
    two = fuse(boxes[order], scores[order], groups[order], member[order], weights, 0.5)
    for name in ("boxes", "scores", "groups", "agree"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(boxes[one.best], boxes[order][two.best])


def test_fusion_by_hand() -> None:
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 12], [50, 50, 60, 60], [0, 0, 10, 10], [4, 4, 4, 9]])
    scores, members = np.float32([0.9, 0.6, 0.5, 0.8, 0.9]), np.array([0, 1, 1, 0, 0])
    found = fuse(boxes, scores, np.array([3, 3, 3, 7, 3]), members, np.array([1.0, 1.0]), 0.55)
    np.testing.assert_allclose(
        found.boxes, [[0, 0, 10, (9 + 0.6 * 12) / 1.5], [50, 50, 60, 60], [0, 0, 10, 10]], rtol=1e-6
    )
    np.testing.assert_allclose(found.scores, [0.75, 0.25, 0.4], rtol=1e-6)
    assert (found.groups.tolist(), found.agree.tolist(), found.best.tolist()) == ([3, 3, 7], [2, 1, 1], [0, 2, 3])


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**32), count=st.integers(0, 60), members=st.integers(1, 3), iou=st.sampled_from([0.3, 0.55])
)
def test_what_a_member_says_twice_counts_once(seed: int, count: int, members: int, iou: float) -> None:
    """Fusion of all is fusion of each member's surest; of two, what one alone found has at most half its score."""
    boxes, scores, labels, member = all_boxes = scene(seed, count, members, 2, 20)
    weights = np.ones(members)
    found = fuse(boxes, scores, labels, member, weights, iou)
    single = fuse(*(without_doubles(all_boxes, iou)[n] for n in (0, 1, 2, 3)), weights, iou)
    for name in ("boxes", "scores", "groups", "agree"):
        np.testing.assert_array_equal(getattr(found, name), getattr(single, name))
    alone = found.agree == 1
    np.testing.assert_allclose(found.scores[alone], scores[found.best[alone]] / members, rtol=1e-6)


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_a_box_drawn_twice_by_one_of_two_has_half_its_score(shift: int) -> None:
    boxes = np.float32([[0, 0, 20, 20], [shift, 0, 20 + shift, 20]])
    found = fuse(boxes, np.float32([0.9, 0.8]), np.zeros(2, int), np.zeros(2, int), np.ones(2), 0.55)
    np.testing.assert_allclose(found.scores, [0.45])
    assert (found.agree.tolist(), found.best.tolist()) == ([1], [0])
    np.testing.assert_array_equal(found.boxes, boxes[:1])


def test_one_member_that_repeats_itself_neither_agrees_with_itself_nor_passes_1() -> None:
    boxes = np.tile(np.float32([[0, 0, 10, 10]]), (3, 1))
    found = fuse(boxes, np.float32([1, 0.9, 0.95]), np.zeros(3, int), np.zeros(3, int), np.array([3.0, 1.0]), 0.5)
    assert found.agree.tolist() == [1]
    assert found.scores.tolist() == [0.75]  # its weight is 3 of 4; the package: 1.425
    np.testing.assert_allclose(found.boxes, boxes[:1], rtol=1e-6)


def test_scores_of_0_are_no_division_by_0() -> None:
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 11]])
    found = fuse(boxes, np.zeros(2, np.float32), np.zeros(2, int), np.array([0, 1]), np.ones(2), 0.5)
    assert found.boxes.tolist() == [[0, 0, 10, 10]]
    assert (found.scores.tolist(), found.agree.tolist()) == ([0], [2])


def test_one_crowded_group_beside_small_ones_needs_memory_for_its_rows() -> None:
    import tracemalloc

    rng = np.random.default_rng(0)
    count, small = 2000, 20_000
    corner = rng.uniform(0, 400, (count + small, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 100, (count + small, 2))], 1).astype(np.float32)
    groups = np.append(np.zeros(count, int), 1 + np.arange(small) // 2)
    scores, members = rng.random(len(boxes), np.float32), rng.integers(0, 3, len(boxes))
    tracemalloc.start()
    fuse(boxes, scores, groups, members, np.ones(3), 0.55)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # every group as wide as the largest: 10,001 x 2,000 clusters x 48 bytes, 960 MB

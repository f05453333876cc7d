"""Run-length masks, against NumPy's counting of pixels and pycocotools' own reading of annotations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from teachers import masks
from teachers.base import TeacherError
from tests.helpers.mutated import changed

HEIGHT, WIDTH = 13, 17


def blobs(seed: int, count: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Rectangles with holes, single pixels and empty masks, bool (N, H, W)."""
    rng = np.random.default_rng(seed)
    planes = np.zeros((count, height, width), bool)
    for plane in planes:
        top, left = rng.integers(0, height), rng.integers(0, width)
        plane[top : top + rng.integers(0, 8), left : left + rng.integers(0, 8)] = True
        plane &= rng.random((height, width)) < rng.choice([0.8, 1.0])
    return planes


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    both = (a[:, None] & b[None]).sum((2, 3))
    either = (a[:, None] | b[None]).sum((2, 3))
    return np.divide(both, either, out=np.zeros(both.shape), where=either > 0)


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 9))
def test_codes_say_what_the_pixels_say(seed: int, count: int) -> None:
    planes, others = blobs(seed, count), blobs(seed + 1, 4)
    codes, more = masks.encode(planes), masks.encode(others.astype(np.float32) * 0.5)
    np.testing.assert_array_equal(masks.decode(codes, HEIGHT, WIDTH), planes)
    assert masks.area(codes, HEIGHT, WIDTH).tolist() == planes.sum((1, 2)).tolist()
    np.testing.assert_allclose(masks.iou_matrix(codes, more, HEIGHT, WIDTH), overlaps(planes, others))
    for plane, box in zip(planes, masks.bounds(codes, HEIGHT, WIDTH), strict=True):
        rows, columns = np.nonzero(plane)
        if len(rows):
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        else:
            assert box[0] == box[2] and box[1] == box[3]
    mirrored = masks.decode(masks.flipped(codes, HEIGHT, WIDTH), HEIGHT, WIDTH)
    np.testing.assert_array_equal(mirrored, planes[:, :, ::-1])
    assert all(masks.covers(code, HEIGHT, WIDTH) for code in codes)


def test_a_crowd_takes_the_share_of_what_lies_in_it() -> None:
    crowd, inside = np.zeros((2, 1, 10, 10), bool)
    crowd[0, :, :8], inside[0, 2:4, 6:10] = True, True
    a, b = masks.encode(inside), masks.encode(crowd)
    assert masks.iou_matrix(a, b, 10, 10, np.array([True])).tolist() == [[0.5]]
    assert masks.iou_matrix(a, b, 10, 10, np.array([False])).tolist() == [[4 / 84]]


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 40), iou=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_nms_is_greedy_and_blind_to_row_order(seed: int, count: int, iou: float) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 2, count)
    shapes = np.array([[HEIGHT, WIDTH], [9, 11]])
    planes = [blobs(int(rng.integers(0, 2**32)), 1, *shapes[n])[0] for n in images]
    codes = [masks.encode(plane[None])[0] for plane in planes]
    boxes = np.array([masks.bounds([code], *shapes[n])[0] for code, n in zip(codes, images, strict=True)]).reshape(
        -1, 4
    )
    groups = images * 7 + rng.integers(0, 2, count)
    scores = rng.permutation(count).astype(np.float32)
    keep = masks.nms(codes, shapes[images], boxes, scores, groups, iou)

    expected = np.zeros(count, bool)
    for n in np.argsort(-scores):
        rivals = [m for m in np.flatnonzero(expected) if groups[m] == groups[n]]
        expected[n] = all(overlaps(planes[n][None], planes[m][None])[0, 0] <= iou for m in rivals)
    np.testing.assert_array_equal(keep, expected)

    tied, order = np.full(count, 0.5, np.float32), rng.permutation(count)
    rows = masks.nms(codes, shapes[images], boxes, tied, groups, iou)
    again = masks.nms([codes[n] for n in order], shapes[images][order], boxes[order], tied, groups[order], iou)
    said = sorted((groups[n], codes[n]) for n in np.flatnonzero(rows))
    assert said == sorted((groups[n], codes[n]) for n in order[again])


def test_nms_of_one_crowded_group_goes_block_by_block() -> None:
    planes = np.repeat(blobs(3, 40, 40, 40), 5, axis=0)
    codes = masks.encode(planes)
    scores = np.linspace(1, 0, len(codes), dtype=np.float32)
    size = np.tile([40, 40], (len(codes), 1))
    keep = masks.nms(codes, size, np.zeros((len(codes), 4)), scores, np.zeros(len(codes), int), 0.9)
    assert len(codes) > 2 * masks.BLOCK
    filled = planes.any((1, 2))
    assert (np.flatnonzero(keep & filled) % 5 == 0).all()  # of five equal masks the first


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' decode, with NumPy 2
def test_segmentations_of_every_form_are_read_as_pycocotools_reads_them() -> None:
    judge = COCO()
    judge.imgs = {1: {"height": HEIGHT, "width": WIDTH}}
    plane = blobs(5, 1)[0] | (np.indices((HEIGHT, WIDTH)).sum(0) == 9)
    runs = np.flatnonzero(np.diff(np.r_[False, plane.T.ravel(), False].astype(int)))
    counts = np.diff(np.r_[0, runs, plane.size]).tolist()
    code = masks.encode(plane[None])[0]
    forms: list[Any] = [
        [[1.5, 2, 9, 2.5, 8, 10]],
        [[1, 1, 6, 1, 6, 6, 1, 6], [10, 3, 15, 3, 12.2, 9]],
        {"size": [HEIGHT, WIDTH], "counts": counts},
        {"size": [HEIGHT, WIDTH], "counts": code.decode()},
        {"size": [HEIGHT, WIDTH], "counts": code},
    ]
    for form in forms:
        expected = judge.annToMask({"image_id": 1, "segmentation": form})
        found = masks.decode([masks.from_segmentation(form, HEIGHT, WIDTH)], HEIGHT, WIDTH)[0]
        np.testing.assert_array_equal(found, expected.astype(bool))
    np.testing.assert_array_equal(
        masks.decode([masks.from_segmentation(forms[2], HEIGHT, WIDTH)], HEIGHT, WIDTH)[0], plane
    )


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [["a", 2, 3, 4, 5, 6]],
        [[float("nan"), 2, 3, 4, 5, 6]],
        [[1e9, 2, 3, 4, 5, 6]],
        7,
        None,
        {"counts": "abc"},
        {"size": [HEIGHT, WIDTH + 1], "counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": [5]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": [HEIGHT, WIDTH], "counts": "0" * 9},
        {"size": [HEIGHT, WIDTH], "counts": "é"},
        {"size": [HEIGHT, WIDTH], "counts": "oooooooooooooooooooo"},
    ],
)
def test_what_is_no_mask_is_an_error_in_a_sentence(wrong: Any) -> None:
    with pytest.raises(TeacherError, match=f"image of {WIDTH}x{HEIGHT} pixels is no mask"):
        masks.from_segmentation(wrong, HEIGHT, WIDTH)


@st.composite
def damaged_codes(draw: st.DrawFn) -> bytes:
    """Any bytes, digits only, or the code of a mask with some bytes changed, put in or taken out."""
    how = draw(st.sampled_from(["bytes", "digits", "changed"]))
    if how != "changed":
        return draw(st.binary(max_size=12) if how == "bytes" else st.lists(st.integers(48, 111), max_size=9).map(bytes))
    code = bytearray(masks.encode(blobs(draw(st.integers(0, 99)), 1))[0])
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(code) - 1))
        code[place : place + draw(st.integers(0, 2))] = bytes(draw(st.lists(st.integers(48, 111), max_size=2))) or b"0"
    return bytes(code)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools with NumPy 2
@settings(deadline=None, max_examples=500)
@given(code=damaged_codes())
def test_a_damaged_code_is_refused_or_read_as_pycocotools_reads_it(code: bytes) -> None:
    segmentation = {"size": [HEIGHT, WIDTH], "counts": code}
    if not masks.covers(code, HEIGHT, WIDTH):
        with pytest.raises(TeacherError, match=r"^[^\n]+ is no mask: [^\n]+$"):
            masks.from_segmentation(segmentation, HEIGHT, WIDTH)
        with pytest.raises(TeacherError, match=r"^[^\n]+: get it again[^\n]+$"):
            masks.decode([code], HEIGHT, WIDTH)
        return
    read = masks.from_segmentation(segmentation, HEIGHT, WIDTH)
    theirs = coco_masks.decode([{"size": [HEIGHT, WIDTH], "counts": read}])[..., 0] == 1
    assert np.array_equal(masks.decode([read], HEIGHT, WIDTH)[0], theirs)
    assert masks.pixels(read) == HEIGHT * WIDTH and masks.area([read], HEIGHT, WIDTH)[0] == theirs.sum()


def filled(counts: list[int]) -> dict[str, Any]:
    """Run lengths with one more for the rest of the image, if any."""
    return {"size": [HEIGHT, WIDTH], "counts": [*counts, HEIGHT * WIDTH - sum(counts)]}


OUTLINES = (
    [[1.5, 2, 9, 2.5, 8, 10], [1, 1, 6, 1, 6, 6, 1, 6]],
    {"size": [HEIGHT, WIDTH], "counts": [20, 3, 10, 5, HEIGHT * WIDTH - 38]},
    {"size": [HEIGHT, WIDTH], "counts": masks.encode(blobs(5, 1))[0].decode()},
)
NUMBERS = st.one_of(
    st.integers(-3, 300), st.floats(-30, 30), st.integers(-(2**65), 2**65), st.sampled_from([1e5, 1e300, -0.0])
)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools with NumPy 2
@settings(deadline=None, max_examples=200)
@given(
    st.one_of(
        st.sampled_from([json.dumps(outline).encode() for outline in OUTLINES]).flatmap(changed),
        st.lists(st.lists(NUMBERS, min_size=6, max_size=10), max_size=3),
        st.lists(st.integers(0, 60), max_size=8).map(filled),
    )
)
@example([[1e5, 1e5, -1e5, 1e5, -1e5, -1e5]])
@example({"size": "1\n2", "counts": [HEIGHT * WIDTH]})
def test_any_outline_is_refused_or_read_as_pycocotools_reads_it(outline: Any) -> None:
    """200 polygons and run lengths a run, of any values."""
    try:
        code = masks.from_segmentation(outline, HEIGHT, WIDTH)
    except TeacherError as error:
        said = str(error)
    else:
        judge = COCO()
        judge.imgs = {1: {"height": HEIGHT, "width": WIDTH}}
        expected = judge.annToMask({"image_id": 1, "segmentation": outline})
        assert masks.covers(code, HEIGHT, WIDTH)
        np.testing.assert_array_equal(masks.decode([code], HEIGHT, WIDTH)[0], expected.astype(bool))
        return
    assert len(said.splitlines()) == 1


def test_a_resized_mask_keeps_its_edges() -> None:
    plane = np.zeros((1, 20, 30), bool)
    plane[0, 4:10, 6:20] = True
    codes = masks.encode(plane)
    double = masks.resized(codes, (20, 30), (40, 60))
    np.testing.assert_array_equal(masks.decode(double, 40, 60)[0], plane[0].repeat(2, 0).repeat(2, 1))
    assert masks.resized(double, (40, 60), (20, 30)) == codes
    assert masks.resized(codes, (20, 30), (20, 30)) == codes


@pytest.mark.parametrize("count", [255, 256, 700])
def test_an_image_may_have_more_masks_than_a_byte_counts(count: int) -> None:
    """As many cells on a slide; pycocotools holds their number in a byte where it counts areas."""
    planes = blobs(count, count)
    codes = masks.encode(planes)
    assert masks.area(codes, HEIGHT, WIDTH).tolist() == planes.sum((1, 2)).tolist()
    assert masks.bounds(codes, HEIGHT, WIDTH).shape == (count, 4)
    assert masks.iou_matrix(codes, codes[:3], HEIGHT, WIDTH).shape == (count, 3)


def test_a_line_beside_a_polygon_covers_nothing_as_in_pycocotools() -> None:
    square, line = [4.0, 4.0, 20.0, 4.0, 20.0, 20.0, 4.0, 20.0], [1.0, 1.0, 30.0, 30.0]
    expected = coco_masks.merge(coco_masks.frPyObjects([square, line], 32, 32))["counts"]
    assert masks.from_segmentation([square, line], 32, 32) == masks.from_segmentation([square], 32, 32) == expected
    for other in ([line], [line, square], [square, []]):  # which pycocotools takes for boxes, or for nothing it knows
        with pytest.raises(TeacherError, match="a polygon needs three points or more"):
            masks.from_segmentation(other, 32, 32)

"""Instance masks as COCO's compressed run-length codes: what they cover, how they overlap, suppression. The only
`pycocotools.mask` import.

A code is the ASCII `counts` of one mask (bytes), without the image's size, which every function is told: height and
width in pixels of the upright image. Codes of one call belong to images of one size, except in `nms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from teachers.base import TeacherError
from teachers.boxes import score_order
from teachers.errors import brief
from teachers.runs import covers as covers
from teachers.runs import pixels as pixels
from teachers.runs import runs_of

FAR = 100_000
"""Pixels; pycocotools walks along a polygon's sides step by step, wherever they lead."""
MOST = 255
"""Masks whose area pycocotools 2.0 counts at a time: it holds their number in a byte, and fails with NumPy 2."""
BLOCK = 64
"""Masks that suppress at once: bounds memory by BLOCK x masks of a group."""


def encode(masks: np.ndarray) -> tuple[bytes, ...]:
    """Codes of N masks: (N, H, W), bool, or numbers that are 0 outside a mask."""
    if not len(masks):
        return ()
    # one at a time: pycocotools wants columns first, and a copy of a whole stack would double its memory
    return tuple(bytes(coco.encode(np.asfortranarray(mask != 0, np.uint8))["counts"]) for mask in masks)


def decode(codes: Sequence[bytes], height: int, width: int) -> np.ndarray:
    """Pixels of the masks, bool (N, H, W). (pycocotools' own decode warns with NumPy 2.) Raises TeacherError for a code
    that is of no image of this size."""
    planes = np.zeros((len(codes), height, width), bool)
    for plane, code in zip(planes, codes, strict=True):
        if not covers(code, height, width):
            raise TeacherError(f"a mask is of no image of {width}x{height} pixels: get it again from where it came")
        runs = runs_of(code)
        plane[:] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
    return planes


def area(codes: Sequence[bytes], height: int, width: int) -> np.ndarray:
    """Pixels in each mask, int64 (N,)."""
    if not codes:
        return np.zeros(0, np.int64)
    blocks = [codes[n : n + MOST] for n in range(0, len(codes), MOST)]
    return np.concatenate([coco.area(_records(block, height, width)) for block in blocks]).astype(np.int64)


def bounds(codes: Sequence[bytes], height: int, width: int) -> np.ndarray:
    """The smallest `xyxy` box, float32 (N, 4), around each mask's pixels; of no area if the mask is empty."""
    if not codes:
        return np.zeros((0, 4), np.float32)
    box = np.asarray(coco.toBbox(_records(codes, height, width)), np.float32).reshape(-1, 4)
    box[:, 2:] += box[:, :2]
    return box


def iou_matrix(
    a: Sequence[bytes], b: Sequence[bytes], height: int, width: int, crowd: np.ndarray | None = None
) -> np.ndarray:
    """Intersection over union of every mask of `a` (N) with every mask of `b` (M): float64 (N, M), 0 where both are
    empty. crowd: bool (M,); with a crowd of `b` the share of a's area that lies in it (COCO's rule)."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    flags = [0] * len(b) if crowd is None else np.asarray(crowd).astype(np.uint8).tolist()
    overlap = np.asarray(coco.iou(_records(a, height, width), _records(b, height, width), flags), np.float64)
    return np.nan_to_num(overlap, copy=False)


def nms(
    codes: Sequence[bytes], sizes: np.ndarray, boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, iou: float
) -> np.ndarray:
    """Greedy non-maximum suppression inside each group by mask IoU: which masks to keep, bool (N,), in the order given.

    sizes: int (N, 2), height and width of each mask's image, the same throughout a group; boxes: (N, 4), scores: (N,)
    and groups: (N,) as in teachers.boxes.nms. From the highest score down, a mask is kept unless its IoU with a kept
    one of its group is above `iou`. Equal scores are taken in order of x1, y1, x2, y2 and code, so that the order of
    rows decides nothing. Memory is linear in the masks of a group.
    """
    keep = np.zeros(len(codes), bool)
    by_code = np.array(sorted(range(len(codes)), key=codes.__getitem__), np.intp)
    boxes, scores, groups = np.asarray(boxes), np.asarray(scores), np.asarray(groups)
    order = by_code[score_order(boxes[by_code], scores[by_code], groups[by_code])]
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    for rows in np.split(order, starts) if len(order) else []:
        height, width = (int(side) for side in sizes[rows[0]])
        left = rows
        while left.size:
            head = left[:BLOCK]
            alive = np.ones(len(left), bool)
            if len(left) > 1:
                overlap = iou_matrix([codes[n] for n in head], [codes[n] for n in left], height, width)
                for n in range(len(head)):
                    if alive[n]:
                        alive[n + 1 :] &= overlap[n, n + 1 :] <= iou
            keep[head[alive[: len(head)]]] = True
            left = left[len(head) :][alive[len(head) :]]
    return keep


def from_segmentation(segmentation: Any, height: int, width: int) -> bytes:
    """The code of a COCO annotation's `segmentation`: polygons (`[[x, y, …], …]`), or a run-length record whose counts
    are a list, text or bytes. Raises TeacherError for anything else and for a record of another size."""
    try:
        if not isinstance(segmentation, Mapping):
            polygons = [list(polygon) for polygon in segmentation]
            if not {type(v) for polygon in polygons for v in polygon} <= {int, float}:
                raise ValueError("a corner of a polygon is no number")
            whole = [polygon for polygon in polygons if len(polygon) >= 6]  # a point or a line covers nothing
            if whole[:1] != polygons[:1] or not whole or any(len(polygon) % 2 or not polygon for polygon in polygons):
                raise ValueError("a polygon needs three points or more, x and y of each")
            if not all(abs(v) <= FAR for polygon in polygons for v in polygon):
                raise ValueError(f"a corner of a polygon is farther than {FAR} pixels")
            return bytes(coco.merge(coco.frPyObjects(whole, height, width))["counts"])
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"its size is {brief(repr(segmentation['size']))}")
        counts = segmentation["counts"]
        if isinstance(counts, list):
            if not counts or not set(map(type, counts)) <= {int}:
                raise ValueError("its counts are no whole numbers")
            if sum(counts) != height * width or min(counts) < 0:
                raise ValueError("its counts do not add up to its pixels")
            return bytes(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"])
        code = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
        if not covers(code, height, width):
            raise ValueError("its counts do not add up to its pixels")
        return code
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TeacherError(f"a segmentation of an image of {width}x{height} pixels is no mask: {error}") from error


def flipped(codes: Sequence[bytes], height: int, width: int) -> tuple[bytes, ...]:
    """The masks seen in a mirror: left is right."""
    return _each(codes, height, width, lambda mask: mask[:, ::-1])


def resized(codes: Sequence[bytes], size: tuple[int, int], to: tuple[int, int]) -> tuple[bytes, ...]:
    """The masks of an image of `size` (height, width), brought to another: a pixel is in where a bilinear resampling,
    antialiased, is at least half."""
    if size == to:
        return tuple(codes)

    def resize(mask: np.ndarray) -> np.ndarray:
        grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(to[::-1], Image.Resampling.BILINEAR)
        return np.asarray(grey) >= 128

    return _each(codes, *size, resize)


def _each(
    codes: Sequence[bytes], height: int, width: int, change: Callable[[np.ndarray], np.ndarray]
) -> tuple[bytes, ...]:
    """Masks decoded, changed and encoded one at a time."""
    return tuple(encode(change(decode([code], height, width)[0])[None])[0] for code in codes)


def _records(codes: Sequence[bytes], height: int, width: int) -> list[dict[str, Any]]:
    return [{"size": [height, width], "counts": code} for code in codes]

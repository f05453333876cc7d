"""The columns of objects that `where` can name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from builder.rules.objects import Objects


def sql_columns(objects: Objects, classes: Sequence[str], optional: frozenset[str]) -> dict[str, Any]:
    """builder.rules.where.COLUMNS, and those of `optional` that these objects have."""
    width, height = (objects.boxes[:, 2:] - objects.boxes[:, :2]).T
    x1, y1, x2, y2 = objects.boxes.T
    size = objects.image_size[objects.image]
    label = pa.array(objects.label.astype(np.int32), mask=None if objects.aside is None else ~objects.ours)
    return {
        "class": pa.DictionaryArray.from_arrays(label, pa.array(classes, pa.string())),
        "name": pa.DictionaryArray.from_arrays(objects.image.astype(np.int32), pa.array(objects.name, pa.string())),
        "score": objects.score,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "width": width,
        "height": height,
        "area": width * height,
        "aspect": width / height,
        "image_width": size[:, 0],
        "image_height": size[:, 1],
    } | {name: column for name in optional if (column := _optional(objects, name)) is not None}


def _optional(objects: Objects, name: str) -> np.ndarray | None:
    """A column of builder.rules.where.OPTIONAL, None where there is none; empty where there are no objects at all."""
    if not len(objects.score):
        return np.zeros(0, np.float32)
    column: np.ndarray | None
    if name == "mask_area":
        return None if objects.rle is None else mask_areas(objects)
    column = getattr(objects, name)
    return column


def mask_areas(objects: Objects) -> np.ndarray:
    """Pixels of each object's mask, int64 (N,)."""
    from teachers import masks

    area = np.zeros(len(objects.score), np.int64)
    order = np.argsort(objects.image, kind="stable")
    codes = [] if objects.rle is None else objects.rle[order].tolist()
    cuts = np.flatnonzero(np.diff(objects.image[order], prepend=-1, append=-1)).tolist()
    for a, b in pairwise(cuts):
        width, height = objects.image_size[objects.image[order[a]]].tolist()
        area[order[a:b]] = masks.area(codes[a:b], height, width)
    return area

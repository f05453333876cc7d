"""What cannot be meant of boxes or masks in human labels: said, or refused, before anybody learns from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builder.truth.masks import read_mask_values
from builder.truth.records import Truth, TruthError
from teachers.base import VOID
from teachers.errors import warn

FEW = 3
"""Boxes from which on their places tell anything."""
FAR, MANY = 0.1, 0.2
"""The share of an image's side that a box reaches beyond it to be far outside, and the share of all boxes that do so
from which on they are told: of objects that the frame cuts off, and that are marked whole, few do."""

LOOKED_AT = 32
"""Masks that are looked at, spread evenly: all of them would take minutes."""


def check_masks(truth: Truth, source: Path) -> None:
    """Warn of values, other than 255 (VOID), that some masks hold and no class has. Raises TruthError for a mask that
    cannot be read."""
    places = np.linspace(0, len(truth.images) - 1, LOOKED_AT).round().astype(int)
    chosen = np.unique(places) if truth.images else places[:0]
    counts, holding = np.zeros(VOID + 1, np.int64), 0
    for place in chosen:
        values = np.bincount(read_mask_values(truth.images[place]).ravel(), minlength=VOID + 1)
        counts, holding = counts + values, holding + bool(values[len(truth.classes) : VOID].any())
    nameless = np.flatnonzero(counts[len(truth.classes) : VOID]) + len(truth.classes)
    if len(nameless):
        more = f" and {len(nameless) - 3} more" if len(nameless) > 3 else ""
        warn(
            f"{holding} of {len(chosen)} masks of {source} that were looked at hold values without a line in "
            f"classes.txt ({', '.join(map(str, nameless[:3]))}{more}: {counts[nameless].sum() / counts.sum():.1%} of "
            "their pixels): they count for nothing, as void (255) does; if classes are meant, add their lines"
        )


def check_boxes(truth: Truth, source: Path) -> None:
    """Warn of boxes that stand twice, that end before they begin, or that lie far or wholly outside of their images.

    Raises TruthError where all of them lie in the first pixel, as shares of an image that are read as pixels do.
    """
    total = sum(len(image.boxes) for image in truth.images)
    written = total + truth.repeated_boxes + truth.dropped_boxes
    if truth.repeated_boxes:
        warn(
            f"{truth.repeated_boxes} of {total + truth.repeated_boxes} boxes of {source} stand twice, with the same "
            "class and corners: each counts once, as merged exports are meant"
        )
    if truth.inverted_boxes:
        warn(
            f"{truth.inverted_boxes} of {written} boxes of {source} end before "
            "they begin (x2 < x1 or y2 < y1) and are left out, so that predictions of these objects count as wrong: "
            "correct them"
        )
    if truth.outside_boxes:
        warn(
            f"{truth.outside_boxes} of {written} boxes of {source} lie wholly outside of their images and are left "
            "out, as no object can be seen there: correct them"
        )
    if total < FEW:
        return
    boxes = np.concatenate([image.boxes for image in truth.images])
    size = np.repeat([(i.width, i.height) for i in truth.images], [len(i.boxes) for i in truth.images], axis=0)
    if boxes[:, 2:].max() <= 1 and size.min() > 1:
        raise TruthError(
            f"all {total} boxes of {source} lie in the first pixel of their images: they seem to be shares of the "
            "image, but boxes are pixels here: multiply them by its width and height"
        )
    far = int((np.maximum(boxes[:, 2:] / size - 1, -boxes[:, :2] / size) > FAR).any(axis=1).sum())
    far, all_boxes = far + truth.outside_boxes, total + truth.outside_boxes
    if far > MANY * all_boxes:
        warn(
            f"{far} of {all_boxes} boxes of {source} reach far beyond their images: check their form (COCO's bbox is "
            "x, y, width, height; VOC's corners are x1, y1, x2, y2; YOLO's are a centre and sides) and the images' "
            "sizes"
        )

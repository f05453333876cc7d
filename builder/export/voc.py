"""A version as Pascal VOC XML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from builder.export.items import Item, new, write_image
from builder.store.manifest import Manifest

LEAST = 2
"""Pixels of the least side of a VOC box: at one pixel its corners coincide, which readers take for no box."""


def write_voc(folder: Path, manifest: Manifest, items: Iterable[Item], counts: Counter[str]) -> None:
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    with open(folder / "ImageSets" / "Main" / "train.txt", "w", encoding="utf-8") as listing:
        for item in items:
            write_image(folder / "JPEGImages", item)
            listing.write(f"{item.file.with_suffix('')}\n")
            with new(folder / "Annotations" / item.file.with_suffix(".xml")) as file:
                tree = _voc_tree(item, manifest.classes, counts)
                ElementTree.indent(tree)
                file.write(ElementTree.tostring(tree, encoding="utf-8") + b"\n")


def _voc_tree(item: Item, classes: Sequence[str], counts: Counter[str]) -> ElementTree.Element:
    size = (item.label["width"], item.label["height"])
    tree = ElementTree.Element("annotation")
    _texts(tree, folder="JPEGImages", filename=item.file.name)
    _texts(ElementTree.SubElement(tree, "source"), database="Tutelage", annotation=item.label["key"])
    _texts(ElementTree.SubElement(tree, "size"), width=size[0], height=size[1], depth=3)
    _texts(tree, segmented=0)
    corners = whole_pixels(item.xywh, size)
    for box, category, score, ignore in zip(corners.tolist(), item.category, item.score, item.ignore, strict=True):
        fits = min(size) >= LEAST and category >= 0
        counts["left_out" if not fits else "ignored" if ignore else "kept"] += 1
        if fits:
            node = ElementTree.SubElement(tree, "object")
            _texts(node, name=classes[category], pose="Unspecified", truncated=0, difficult=int(ignore))
            sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            _texts(ElementTree.SubElement(node, "bndbox"), **sides)
            _texts(node, score=f"{score:.6f}")
    return tree


def whole_pixels(xywh: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """VOC's corners xmin, ymin, xmax, ymax of boxes float64 (N, 4): int64, pixels counted from 1, both inside the box
    and the image (size: width, height), at least LEAST wide and high where the image is."""
    limit = np.array(size)
    low = np.clip(np.rint(xywh[:, :2]), 0, np.maximum(limit - LEAST, 0))
    high = np.clip(np.rint(xywh[:, :2] + xywh[:, 2:]), np.minimum(low + LEAST, limit), limit)
    return np.concatenate([low + 1, high], axis=1).astype(np.int64)


def _texts(node: ElementTree.Element, **values: object) -> None:
    """A child with a text for each value."""
    for name, value in values.items():
        ElementTree.SubElement(node, name).text = str(value)

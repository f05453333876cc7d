"""A field of detections in a FiftyOne dataset that was exported as FiftyOneDataset."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from builder.errors import BuildError, brief
from builder.label.replay.stored import Size, Stored, StoredObjects, is_number, is_score, label_places, objects
from builder.store.files import sha256_file
from builder.store.names import canonical
from builder.truth.ids import LARGEST_SIDE
from teachers.base import TeacherOptions
from teachers.limits import MAX_PIXELS

LARGEST_MASK = 256 << 20
"""Bytes of an object's mask, unpacked: a byte for each pixel of the largest image that is read."""


def read_fiftyone_field(folder: Path, content: Any, field: str, options: TeacherOptions) -> Stored:
    """The Detections in `field` of an export's samples.json, else in its only field whose objects have a confidence;
    masks, if every object has one, which need the metadata (`compute_metadata()`) of their images.

    An image is called by its `filepath`. One without the field was not looked at; an empty list says that nothing was
    found. Classes: the option `classes`, else all that occur, sorted. Raises BuildError, naming the image, for objects
    without a confidence, a box or a class.
    """
    path = folder / "samples.json"
    samples = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise BuildError(f"{path} has no list of samples: export the dataset as FiftyOneDataset again")
    field = field or _only_field(samples, path)
    sizes: dict[str, Size | None] = {}
    given: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        held = sample.get(field)
        if held is None:
            continue
        if not isinstance(sample.get("filepath"), str):
            raise BuildError(f"{path} has a sample without a filepath: export the dataset as FiftyOneDataset again")
        name = canonical(sample["filepath"])
        if not _is_detections(held):
            raise BuildError(
                f"{path}: field {field} of {brief(name)} holds no Detections: name another as {folder}#FIELD"
            )
        facts = sample.get("metadata")
        if facts is not None and not isinstance(facts, dict):
            raise BuildError(f"{path}: {brief(name)} has the metadata {brief(repr(facts))}: export the dataset again")
        if name in sizes:
            raise BuildError(f"{path}: {brief(name)} stands twice: keep one")
        sizes[name] = _size(facts or {}, f"{path}: {brief(name)}")
        given[name] = held["detections"]
    if not sizes:
        raise BuildError(f"{path} has no field {brief(repr(field))}: name one of its fields of detections")
    for name, many in given.items():
        if not all(isinstance(item.get("label"), str) and item["label"] for item in many):
            raise BuildError(f"{path}: {brief(name)} has an object without a label: give each a class")
        if any(item.get("mask_path") and item.get("mask") is None for item in many):
            raise BuildError(f"{path}: {brief(name)} has masks in files: read them into `mask` before the export")
    classes, place = label_places((item["label"] for many in given.values() for item in many), options, path)
    masked = all(item.get("mask") is not None for many in given.values() for item in many) and any(given.values())
    return objects(
        "instance" if masked else "detection",
        classes,
        sizes,
        {
            name: _objects(many, place, masked, sizes[name], f"{path}: {brief(name)}")
            for name, many in given.items()
            if many
        },
        options,
        path,
        digests={"results": sha256_file(path), "images": None, "field": field},
        relative=True,
    )


def _size(facts: Mapping[str, Any], where: str) -> Size | None:
    """Width and height that the metadata of a sample state, None where there are none."""
    sides = (facts.get("width"), facts.get("height"))
    if sides == (None, None):
        return None
    if not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides):
        raise BuildError(f"{where} has the size {brief(repr(sides))} in its metadata: call compute_metadata() again")
    return sides  # type: ignore[return-value]


def _is_detections(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("_cls") == "Detections"
        and isinstance(value.get("detections"), list)
        and all(isinstance(item, dict) for item in value["detections"])
    )


def _only_field(samples: list[dict[str, Any]], path: Path) -> str:
    fields = {
        name
        for sample in samples
        for name, value in sample.items()
        if _is_detections(value) and any(item.get("confidence") is not None for item in value["detections"])
    }
    if len(fields) != 1:
        there = f"the fields {', '.join(sorted(fields))}" if fields else "no field"
        raise BuildError(f"{path} has {there} of detections with confidences: name one as {path.parent}#FIELD")
    return fields.pop()


def _objects(
    many: list[Mapping[str, Any]], place: Mapping[str, int], masked: bool, size: Size | None, where: str
) -> StoredObjects:
    rows = np.zeros((len(many), 6))
    for n, item in enumerate(many):
        box, score = item.get("bounding_box"), item.get("confidence")
        good = isinstance(box, list) and len(box) == 4 and all(is_number(side) for side in box)
        if not good or not is_number(score) or not is_score(score):
            what = f"confidence {brief(score)}" if good else f"bounding_box {brief(box)}"
            raise BuildError(f"{where} has an object with the {what}: give the field of a model's predictions")
        x, y, width, height = map(float, box or ())
        rows[n] = x, y, x + width, y + height, float(score), place[item["label"]]
    if not masked:
        return StoredObjects(rows)
    if size is None:
        raise BuildError(f"{where} has masks, but no size: call compute_metadata() before the export")
    return StoredObjects(rows, [_code(item["mask"], row, size, where) for item, row in zip(many, rows, strict=True)])


def _code(mask: Any, row: np.ndarray, size: Size, where: str) -> bytes:
    """The code of a mask that fills its box, as FiftyOne stores it: a compressed NumPy array in base 64. One that is
    not as large as its box is resampled, a pixel being in where it is at least half."""
    from teachers import masks

    try:
        packed = zlib.decompressobj()
        plain = packed.decompress(base64.b64decode(mask["$binary"]["base64"], validate=True), LARGEST_MASK)
        if not packed.eof:
            raise ValueError(f"cut, or larger than {LARGEST_MASK >> 20} MiB")
        plane = np.load(io.BytesIO(plain), allow_pickle=False)
        small = Image.fromarray((np.asarray(plane) != 0).astype(np.uint8) * 255)
    except (KeyError, TypeError, ValueError, OSError, EOFError, MemoryError, zlib.error) as error:
        raise BuildError(f"{where} has a mask that cannot be read ({brief(error)}): export it again") from None
    width, height = size
    if width * height > MAX_PIXELS:
        raise BuildError(f"{where} has {width}x{height} pixels, more than {MAX_PIXELS}: give smaller images")
    x1, x2 = (min(max(round(float(side) * width), 0), width) for side in (row[0], row[2]))
    y1, y2 = (min(max(round(float(side) * height), 0), height) for side in (row[1], row[3]))
    whole = np.zeros((1, height, width), np.uint8)
    if x2 > x1 and y2 > y1:
        whole[0, y1:y2, x1:x2] = np.asarray(small.resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR)) >= 128
    return masks.encode(whole)[0]

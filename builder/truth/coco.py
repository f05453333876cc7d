"""Labels in COCO JSON: boxes, and outlines as run-length codes of whole images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import BuildError, brief
from builder.scan.sources import find_images
from builder.store.names import canonical, first_repeated
from builder.store.text import read_json
from builder.truth.ids import Id, as_numbers, read_id
from builder.truth.records import LARGEST, NO_CLASSES, Marks, Truth, TruthError, assemble
from teachers.base import TeacherError


def read_coco(path: Path, images: Path | None = None, outlines: bool = False) -> Truth:
    """Detection labels from a COCO JSON; the images lie where `find_images` says. Outlines (`segmentation`) are
    read only if asked for; `ignore` marks difficult objects. Ids are numbers or text (`read_id`).

    Raises TruthError for a file that is missing, no JSON or no COCO labels, an annotation without a finite box or of an
    unknown image or category, a category or image that stands twice, and images that are not found.
    """
    content = _load(path)
    try:
        ids, classes = read_categories(content["categories"], path)
        records: list[dict[str, Any]] = content["images"]
        names = [str(record["file_name"]) for record in records]
        image_ids = [read_id(record["id"]) for record in records]
        sizes = [(int(record["width"]), int(record["height"])) for record in records]
        notes: list[dict[str, Any]] = content["annotations"]
        places = _positions([read_id(note["image_id"]) for note in notes], image_ids, "image_id", path)
        categories = _positions([read_id(note["category_id"]) for note in notes], ids, "category_id", path)
        boxes = _boxes(notes, path)
        crowd = np.array([note.get("iscrowd", 0) for note in notes], bool)
        ignore = np.array([note.get("ignore", 0) for note in notes], bool)
        area = np.array([note.get("area", np.nan) for note in notes], np.float64)
    except KeyError as error:
        raise TruthError(
            f"{path}: an entry lacks the key {brief(error)}, so these are no COCO detection labels"
        ) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise TruthError(f"{path}: an entry has a value of the wrong type ({brief(error)}): correct the file") from None
    _check_repeated(image_ids, names, path)
    try:
        files = find_images(path, names, images)
    except BuildError as error:
        raise TruthError(str(error)) from None
    codes = None
    if outlines:
        codes = read_outlines(notes, places, sizes, path)
    marks = Marks(places, categories, boxes, crowd, ignore & ~crowd, area, codes)
    return assemble(names, files, sizes, marks, classes, as_numbers(ids), as_numbers(image_ids))


def read_outlines(
    notes: Sequence[dict[str, Any]], places: np.ndarray, sizes: Sequence[tuple[int, int]], path: Path
) -> list[bytes]:
    """COCO's compressed run-length code (`counts`) of the `segmentation` of every annotation, polygons or run lengths.

    places: int (N,), the position of each annotation's image in `sizes` (width, height). Raises TruthError, in one
    sentence, for an annotation without one, or with one that is no mask of its image.
    """
    from teachers.masks import from_segmentation

    codes = []
    for note, place in zip(notes, places.tolist(), strict=True):
        if not note.get("segmentation"):
            raise TruthError(
                f"{path}: annotation {note.get('id')} has no outline (segmentation): draw it, or use boxes"
            )
        width, height = sizes[place]
        try:
            codes.append(from_segmentation(note["segmentation"], height, width))
        except TeacherError as error:
            raise TruthError(f"{path}: annotation {note.get('id')}: {brief(str(error))}: correct it") from None
    return codes


def _load(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except BuildError as error:
        raise TruthError(f"label file {error}") from None
    if not isinstance(content, dict):
        raise TruthError(f"label file {path} is no COCO object with images, annotations and categories")
    return content


def _check_repeated(ids: Sequence[Id], names: Sequence[str], path: Path) -> None:
    """Raises TruthError for an image that stands twice."""
    id, count = Counter(ids).most_common(1)[0] if ids else (None, 0)
    if count > 1:
        raise TruthError(f"{path}: image id {brief(repr(id))} stands {count} times: keep one")
    if (name := first_repeated(names)) is not None:
        raise TruthError(f"{path}: image file {brief(repr(name))} stands twice: keep one")


def read_categories(records: list[dict[str, Any]], path: Path) -> tuple[tuple[Id, ...], tuple[str, ...]]:
    """Ids and names of a COCO file's `categories`, in its order. Raises TruthError if one stands twice, ValueError for
    an id that is none."""
    ids = tuple(read_id(record["id"]) for record in records)
    names = tuple(canonical(str(record["name"])) for record in records)
    for what, values in (("id", ids), ("name", tuple(name for name in names if name not in NO_CLASSES))):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise TruthError(f"{path}: two categories have the {what} {brief(repr(repeated[0]))}: rename one")
    return ids, names


def _boxes(notes: list[dict[str, Any]], path: Path) -> np.ndarray:
    """float64 (N, 4), `xywh`."""
    listed = [note["bbox"] for note in notes]
    wrong = next((i for i, box in enumerate(listed) if not isinstance(box, list) or len(box) != 4), None)
    if wrong is not None:
        note, box = notes[wrong].get("id"), listed[wrong]
        raise TruthError(
            f"{path}: annotation {note} has the box {brief(repr(box))} instead of [x, y, width, height]: correct it"
        )
    boxes = np.array(listed, np.float64).reshape(-1, 4)
    infinite = np.flatnonzero(~(np.abs(boxes) < LARGEST).all(axis=1))  # a null became NaN
    if len(infinite):
        note, box = notes[infinite[0]].get("id"), listed[infinite[0]]
        raise TruthError(f"{path}: annotation {note} has the box {brief(repr(box))}, which is not finite: correct it")
    return boxes


def _positions(values: list[Id], known: Sequence[Id], what: str, path: Path) -> np.ndarray:
    """Where each value stands in `known`; int64. Raises TruthError for one that does not."""
    table = {value: position for position, value in enumerate(known)}
    try:
        return np.array([table[value] for value in values], np.int64)
    except KeyError as error:
        count = sum(value not in table for value in values)
        there = f" (there are such as {brief(repr(known[0]))})" if known else ""
        raise TruthError(
            f"{path}: {count} annotations have an unknown {what}, {brief(error)} first{there}: correct them"
        ) from None

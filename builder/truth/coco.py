"""Labels in COCO JSON: boxes, and outlines as run-length codes of whole images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import BuildError, brief
from builder.scan.sources import find_images
from builder.store.names import canonical, first_repeated
from builder.store.text import read_json
from builder.truth.ids import AREA, BOX, FILE, FLAG, NAME, SIDE, Id, as_numbers, column, entries_of, id_column
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
        ids, classes = read_categories(content, path)
        image_ids, names, sizes = read_listed(content, path)
        notes = entries_of(content, "annotations", path)
        places = _positions(id_column(notes, "image_id", path, "annotations"), image_ids, "image_id", path)
        categories = _positions(id_column(notes, "category_id", path, "annotations"), ids, "category_id", path)
        boxes = _boxes(notes, path)
        crowd = np.array(column(notes, "iscrowd", FLAG, path, "annotations"), bool)
        ignore = np.array(column(notes, "ignore", FLAG, path, "annotations"), bool)
        area = np.array(column(notes, "area", AREA, path, "annotations"), np.float64)
        files = find_images(path, names, images)
    except TruthError:
        raise
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


def read_listed(content: Any, path: Path) -> tuple[list[Id], list[str], list[tuple[int, int]]]:
    """Id, file name and size (width, height) of each of a COCO file's `images`. Raises BuildError, naming the entry,
    for one that lacks any of these, and TruthError for one that stands twice."""
    records = entries_of(content, "images", path)
    ids = id_column(records, "id", path, "images")
    names: list[str] = column(records, "file_name", FILE, path, "images")
    sides = (map(int, column(records, side, SIDE, path, "images")) for side in ("width", "height"))
    _check_repeated(ids, names, path)
    return ids, names, list(zip(*sides, strict=True))


def _check_repeated(ids: Sequence[Id], names: Sequence[str], path: Path) -> None:
    """Raises TruthError for an image that stands twice."""
    id, count = Counter(ids).most_common(1)[0] if ids else (None, 0)
    if count > 1:
        raise TruthError(f"{path}: image id {brief(repr(id))} stands {count} times: keep one")
    if (name := first_repeated(names)) is not None:
        raise TruthError(f"{path}: image file {brief(repr(name))} stands twice: keep one")


def read_categories(content: Any, path: Path) -> tuple[tuple[Id, ...], tuple[str, ...]]:
    """Ids and names of a COCO file's `categories`, in its order. Raises BuildError, naming the entry, for one that
    lacks any of these, and TruthError if one stands twice."""
    records = entries_of(content, "categories", path)
    ids = tuple(id_column(records, "id", path, "categories"))
    names = tuple(canonical(str(name)) for name in column(records, "name", NAME, path, "categories"))
    for what, values in (("id", ids), ("name", tuple(name for name in names if name not in NO_CLASSES))):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise TruthError(f"{path}: two categories have the {what} {brief(repr(repeated[0]))}: rename one")
    return ids, names


def _boxes(notes: list[dict[str, Any]], path: Path) -> np.ndarray:
    """float64 (N, 4), `xywh`."""
    listed = column(notes, "bbox", BOX, path, "annotations")
    flat = list(chain.from_iterable(listed))
    if set(map(type, flat)) <= {int, float}:
        boxes = np.array(flat, np.float64).reshape(-1, 4)
        wrong = np.flatnonzero(~(np.abs(boxes) < LARGEST).all(axis=1)).tolist()
    else:
        boxes = np.zeros((0, 4))
        wrong = [n for n, box in enumerate(listed) if not {type(side) for side in box} <= {int, float}]
    if wrong:
        box = brief(repr(listed[wrong[0]]))
        raise TruthError(f"{path}: annotations[{wrong[0]}].bbox is {box}, not four finite numbers: correct it")
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

"""COCO results: boxes, or masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import BuildError, brief
from builder.label.replay.stored import Size, Stored, StoredObjects, is_number, objects
from builder.store.files import sha256_file
from builder.store.names import canonical
from builder.store.text import read_json
from builder.truth.coco import read_categories
from builder.truth.ids import Id
from builder.truth.records import NO_CLASSES
from teachers.base import TeacherError, TeacherOptions


def read_coco_results(results: Path, records: Any, images: Path | None, options: TeacherOptions) -> Stored:
    """COCO results (`[{image_id, category_id, bbox: [x, y, w, h], score}, …]`), pixels; with a `segmentation` (a
    run-length code or polygons) in every one they are masks, whose boxes are those around them.

    `images` is a COCO JSON whose `images` give each id its file name and whose `categories` give the classes. An image
    listed there without results has nothing on it. Results of categories that are no classes
    (builder.truth.records.NO_CLASSES) are left out. Raises BuildError for files that do not fit each other.
    """
    options.refuse("COCO results, whose images name the classes", "classes")
    if images is None:
        raise BuildError(
            f"replay:{results} needs `images`, the COCO JSON that names the images and classes of the results"
        )
    listing = read_json(images)
    try:
        ids, names = read_categories(listing["categories"], images)
        listed = _listed(listing["images"], images)
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(f"{images} is no COCO JSON with images and categories ({brief(repr(error))})") from None
    classes = tuple(name for name in names if name not in NO_CLASSES)
    place = {name: n for n, name in enumerate(classes)}
    label = {id: place.get(name, -1) for id, name in zip(ids, names, strict=True)}
    if not isinstance(records, list):
        raise BuildError(f"{results} is no list of COCO results: give the file that holds one")
    masked = any(isinstance(record, dict) and "segmentation" in record for record in records)
    by_id = _by_image(results, records, dict(listed.values()), label, masked)
    return objects(
        "instance" if masked else "detection",
        classes,
        {name: size for name, (_, size) in listed.items()},
        {name: by_id[id] for name, (id, _) in listed.items() if id in by_id},
        options,
        results,
        digests={"results": sha256_file(results), "images": sha256_file(images)},
        listing=images.name,
    )


def _listed(records: list[dict[str, Any]], path: Path) -> dict[str, tuple[int, Size]]:
    """File name (NFC) -> id and size."""
    by_id: dict[str, tuple[int, Size]] = {}
    for record in records:
        name = canonical(str(record["file_name"]))
        if name in by_id:
            raise BuildError(f"{path}: image file {brief(repr(name))} stands twice: keep one")
        by_id[name] = int(record["id"]), (int(record["width"]), int(record["height"]))
    repeated = [id for id, count in Counter(id for id, _ in by_id.values()).items() if count > 1]
    if repeated:
        raise BuildError(f"{path}: image id {repeated[0]} stands twice: keep one")
    return by_id


def _by_image(
    path: Path, records: list[Any], sizes: Mapping[int, Size], label: Mapping[Id, int], masked: bool
) -> dict[int, StoredObjects]:
    rows: dict[int, list[list[float]]] = {}
    codes: dict[int, list[bytes]] = {}
    for n, record in enumerate(records):
        try:
            id, category, score = (record[key] for key in ("image_id", "category_id", "score"))
            outline, bbox = (record["segmentation"], [0, 0, 0, 0]) if masked else (None, record["bbox"])
            known, place = id in sizes, label.get(category)
            row = [*bbox, score]
        except (KeyError, TypeError, ValueError) as error:
            raise BuildError(f"{path}: result {n} is no COCO detection ({brief(repr(error))}): correct it") from None
        if not known or place is None:
            what = f"category_id {brief(repr(category))}" if known else f"image_id {brief(repr(id))}"
            raise BuildError(f"{path}: result {n} has {what}, which the COCO JSON of its images does not list")
        if len(row) != 5 or not all(map(is_number, row)) or not 0 <= score <= 1:
            raise BuildError(
                f"{path}: result {n} needs four numbers and a score in 0..1, "
                f"not {brief(repr(bbox))} and {brief(repr(score))}"
            )
        if place < 0:
            continue
        x, y, width, height, score = map(float, row)
        rows.setdefault(id, []).append([x, y, x + width, y + height, score, float(place)])
        if masked:
            codes.setdefault(id, []).append(_code(outline, sizes[id], f"{path}: result {n}"))
    return {id: StoredObjects(np.array(values), codes.get(id)) for id, values in rows.items()}


def _code(outline: Any, size: Size, where: str) -> bytes:
    from teachers import masks

    try:
        return masks.from_segmentation(outline, size[1], size[0])
    except TeacherError as error:
        raise BuildError(f"{where}: {brief(error)}: correct it") from None

"""COCO results: boxes, or masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import BuildError, brief
from builder.label.replay.coco_ids import name_images
from builder.label.replay.stored import Size, Stored, StoredObjects, is_number, is_score, objects
from builder.store.files import sha256_file
from builder.store.names import canonical
from builder.store.text import read_json
from builder.truth.coco import read_categories, read_listed
from builder.truth.ids import Id, read_id
from builder.truth.records import NO_CLASSES
from teachers.base import TeacherError, TeacherOptions


def read_coco_results(results: Path, records: Any, images: Path | None, options: TeacherOptions) -> Stored:
    """COCO results (`[{image_id, category_id, bbox: [x, y, w, h], score}, …]`), pixels; with a `segmentation` (a
    run-length code or polygons) in every one they are masks, whose boxes are those around them.

    `images` is a COCO JSON whose `images` give each id its file name and whose `categories` give the classes. An image
    listed there without results has nothing on it. An image_id is an id of that JSON, number or text, or, where those
    of all results are, the file's name without extension, as Ultralytics writes it (builder.label.replay.coco_ids).
    Results of categories that are no classes (builder.truth.records.NO_CLASSES) are left out. Raises BuildError for
    files that do not fit each other.
    """
    options.refuse("COCO results, whose images name the classes", "classes")
    if images is None:
        raise BuildError(
            f"replay:{results} needs `images`, the COCO JSON that names the images and classes of the results: give "
            "`teacher.images` in the recipe, or `--set images=FILE` on the command line"
        )
    listing = read_json(images)
    ids, names = read_categories(listing, images)
    listed = {canonical(name): (id, size) for id, name, size in zip(*read_listed(listing, images), strict=True)}
    classes = tuple(name for name in names if name not in NO_CLASSES)
    place = {name: n for n, name in enumerate(classes)}
    label = {id: place.get(name, -1) for id, name in zip(ids, names, strict=True)}
    if not isinstance(records, list):
        raise BuildError(f"{results} is no list of COCO results: give the file that holds one")
    masked = any(isinstance(record, dict) and "segmentation" in record for record in records)
    names_of = name_images(records, {name: id for name, (id, _) in listed.items()}, results, images)
    sizes = {name: size for name, (_, size) in listed.items()}
    return objects(
        "instance" if masked else "detection",
        classes,
        sizes,
        _by_image(results, records, names_of, sizes, label, masked),
        options,
        results,
        digests={"results": sha256_file(results), "images": sha256_file(images)},
        listing=images.name,
    )


def _by_image(
    path: Path,
    records: list[Any],
    names_of: Mapping[Id, str],
    sizes: Mapping[str, Size],
    label: Mapping[Id, int],
    masked: bool,
) -> dict[str, StoredObjects]:
    rows: dict[str, list[list[float]]] = {}
    codes: dict[str, list[bytes]] = {}
    for n, record in enumerate(records):
        try:
            id, category = (read_id(record[key]) for key in ("image_id", "category_id"))
            score = record["score"]
            outline, bbox = (record["segmentation"], [0, 0, 0, 0]) if masked else (None, record["bbox"])
            name, place = names_of[id], label.get(category)
            row = [*bbox, score]
        except (KeyError, TypeError, ValueError) as error:
            raise BuildError(f"{path}: result {n} is no COCO detection ({brief(repr(error))}): correct it") from None
        if place is None:
            raise BuildError(
                f"{path}: result {n} has category_id {brief(repr(category))}, which the COCO JSON of its images does "
                f"not list (it has {brief(', '.join(map(str, label)))}; Ultralytics counts classes from 1): correct it"
            )
        if len(row) != 5 or not all(map(is_number, row)) or not is_score(score):
            raise BuildError(
                f"{path}: result {n} needs four numbers and a score in 0..1, "
                f"not {brief(repr(bbox))} and {brief(repr(score))}"
            )
        if place < 0:
            continue
        x, y, width, height, score = map(float, row)
        rows.setdefault(name, []).append([x, y, x + width, y + height, score, float(place)])
        if masked:
            codes.setdefault(name, []).append(_code(outline, sizes[name], f"{path}: result {n}"))
    return {name: StoredObjects(np.array(values), codes.get(name)) for name, values in rows.items()}


def _code(outline: Any, size: Size, where: str) -> bytes:
    from teachers import masks

    try:
        return masks.from_segmentation(outline, size[1], size[0])
    except TeacherError as error:
        raise BuildError(f"{where}: {brief(error)}: correct it") from None

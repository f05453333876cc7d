"""Predictions in a JSON export of Label Studio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import BuildError, brief
from builder.label.replay.addresses import Address, read_address, uploaded
from builder.label.replay.match import common_folder
from builder.label.replay.stored import Size, Stored, StoredObjects, is_number, is_score, label_places, objects
from builder.store.files import sha256_file
from builder.store.names import canonical
from teachers.base import TeacherOptions

SHAPES = {"rectanglelabels": "detection", "polygonlabels": "instance"}
"""Type of a region -> kind of label."""
Region = tuple[str, float, list[float]]
"""Class, score, and x1, y1, x2, y2 or polygon, in shares of the image's sides."""


def read_label_studio_predictions(path: Path, tasks: Any, options: TeacherOptions) -> Stored:
    """The `predictions` of the tasks of a JSON export: rectangles, or polygons (masks), with the score of each region,
    or, where it has none, that of its prediction; at most one prediction a task, all of one `model_version`.

    An image is called by the `name` in its task's data, else by what its address says of its path
    (builder.label.replay.addresses); one that was uploaded, or whose address may be read in several ways, by the only
    image of the pool that it may be. A task without a prediction was not looked at. Classes: the option `classes`, else
    all that occur, sorted. Raises BuildError, naming the task, for anything else.
    """
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise BuildError(f"{path} is no list of tasks: export the project as JSON")
    sizes: dict[str, Size | None] = {}
    addresses: dict[str, Address] = {}
    spelt: dict[str, str] = {}
    regions: dict[str, list[Region]] = {}
    kinds: dict[str, str] = {}
    versions: dict[str, str] = {}
    for number, task in enumerate(tasks, 1):
        where = f"{path}: task {brief(task.get('id', number))}"
        prediction = _prediction(task, where)
        if prediction is None:
            continue
        versions.setdefault(str(prediction.get("model_version") or ""), where)
        address, given = _address(task, where)
        name = address.name
        if name in sizes:
            raise BuildError(
                f"{where} is of image {brief(repr(name))} like one before: keep one, or give `name` in their data"
            )
        sizes[name], regions[name], addresses[name], spelt[name] = None, [], address, given
        for result in _results(prediction, where):
            kind = SHAPES.get(str(result.get("type")))
            if kind is None:
                raise BuildError(
                    f"{where} has a region of type {brief(repr(result.get('type')))}: only rectanglelabels and "
                    "polygonlabels are read"
                )
            kinds[kind] = where
            size, region = _region(result, prediction, where)
            if sizes[name] not in (None, size):
                raise BuildError(f"{where} has regions of images of {sizes[name]} and {size} pixels: correct it")
            sizes[name] = size
            regions[name].append(region)
    for what, several in (("models", versions), ("kinds of regions", kinds)):
        if len(several) > 1:
            (a, b), place = list(several)[:2], list(several.values())[1]
            raise BuildError(f"{place} has predictions of other {what} ({brief(b)!r}, before {brief(a)!r}): export one")
    classes, place_of = label_places((region[0] for many in regions.values() for region in many), options, path)
    masked = "instance" in kinds
    stored = objects(
        "instance" if masked else "detection",
        classes,
        sizes,
        {name: _objects(many, place_of, masked) for name, many in regions.items() if many},
        options,
        path,
        digests={"results": sha256_file(path), "images": None},
        relative=True,
    )
    remedy = "give `name` in the data of each task"
    if any(address.upload for address in addresses.values()):
        remedy = f"Label Studio renames uploads: {remedy}"
    return replace(stored, guesses=_guesses(addresses), hint=f" ({remedy})", remedy=remedy, spelt=spelt)


def _guesses(addresses: Mapping[str, Address]) -> Callable[[str], Sequence[str]]:
    """See Stored.guesses."""
    names: dict[str, list[str]] = {}
    uploads: dict[str, list[str]] = {}
    folder = common_folder(addresses)
    for name, address in addresses.items():
        if address.upload:
            uploads.setdefault(address.upload, []).append(name)
        for other in {*address.others, *(other.removeprefix(folder) for other in address.others)}:
            names.setdefault(other, []).append(name)

    def guesses(image: str) -> Sequence[str]:
        listed = [names.get(image, []), *(uploads.get(form, []) for form in uploaded(image))]
        return sorted({name for several in listed for name in several})

    return guesses


def _objects(regions: list[Region], place: Mapping[str, int], masked: bool) -> StoredObjects:
    rows = np.zeros((len(regions), 6))
    rows[:, 4], rows[:, 5] = [region[1] for region in regions], [place[region[0]] for region in regions]
    if masked:
        return StoredObjects(rows, [region[2] for region in regions])
    rows[:, :4] = [region[2] for region in regions]
    return StoredObjects(rows)


def _prediction(task: Mapping[str, Any], where: str) -> Mapping[str, Any] | None:
    if "data" not in task:
        raise BuildError(f"{where} has no data, so that it is no task: export the project as JSON")
    given = task.get("predictions", [])
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise BuildError(f"{where} has predictions that are no list: export the project as JSON with its predictions")
    if len(given) > 1:
        raise BuildError(f"{where} has {len(given)} predictions: export those of one model")
    return given[0] if given else None


def _results(prediction: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    results = prediction.get("result")
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise BuildError(f"{where} has a prediction without a list of results: export the project as JSON again")
    return results


def _address(task: Mapping[str, Any], where: str) -> tuple[Address, str]:
    """The address of a task's image, and as it is written."""
    data = task.get("data")
    data = data if isinstance(data, dict) else {}
    if isinstance(data.get("name"), str):
        return Address(canonical(data["name"])), data["name"]
    address = data.get("image") or next((value for value in data.values() if isinstance(value, str)), None)
    if not isinstance(address, str) or not address:
        raise BuildError(f"{where} does not say of which image it is: give its data an image or a name")
    return read_address(address), address


def _region(result: Mapping[str, Any], prediction: Mapping[str, Any], where: str) -> tuple[Size | None, Region]:
    value = result.get("value")
    value = value if isinstance(value, dict) else {}
    match value.get(str(result.get("type"))):
        case [str(label)]:
            pass
        case other:
            raise BuildError(f"{where} has a region of the classes {brief(repr(other))}: give it exactly one")
    score = _number(result.get("score", prediction.get("score")), where, "score")
    if not is_score(score):
        raise BuildError(f"{where} has the score {score:g}, outside 0..1: correct it")
    sides = [result.get(f"original_{side}") for side in ("width", "height")]
    size = None
    if sides != [None, None]:
        width, height = (_number(side, where, "original size") for side in sides)
        size = (round(width), round(height))
    if result.get("type") == "polygonlabels":
        points = value.get("points")
        if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
            raise BuildError(f"{where} has a polygon without points: correct it")
        return size, (label, score, [_number(side, where, "point") / 100 for point in points for side in point])
    if _number(value.get("rotation", 0), where, "rotation"):
        raise BuildError(f"{where} has a {brief(label)} box that is turned: only upright ones are read")
    x, y, width, height = (_number(value.get(name), where, name) / 100 for name in ("x", "y", "width", "height"))
    return size, (label, score, [x, y, x + width, y + height])


def _number(value: Any, where: str, name: str) -> float:
    if not is_number(value):
        raise BuildError(f"{where} has the {name} {brief(repr(value))}, which is no number: correct it")
    return float(value)

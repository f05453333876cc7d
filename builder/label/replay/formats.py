"""Predictions that other tools stored: which format they have, and a reader for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from builder.errors import BuildError
from builder.label.replay.stored import Stored, StoredFormat
from builder.store.text import read_json
from teachers.base import TeacherOptions


def read_stored(results: Path, images: Path | None, options: TeacherOptions) -> Stored:
    """The predictions at `results`, in `options.format`, or the one their content shows:

    - coco: a JSON list of COCO results, boxes or masks; `images` is the COCO JSON of their images and categories.
    - label_studio: a JSON export of Label Studio, whose tasks have predictions of rectangles or polygons.
    - fiftyone: a folder with samples.json, as FiftyOne's FiftyOneDataset exports; `FOLDER#FIELD` says which field.
    - yolo: a folder of text files, with confidences; `images`, if given, a list (.txt) of the images looked at.
    - csv: class probabilities; a column `name` and one for each class.
    - maps: a folder with `labels/`, `confidence/` and classes.txt.

    Raises BuildError for what is none of these or does not hold together.
    """
    results, _, field = _split(results)
    format, content = _recognise(results, options.format)
    if format not in ("coco", "yolo") and images is not None:
        raise BuildError(f"images = {images} is for COCO results and YOLO files; {results} ({format}) names its own")
    if field and format != "fiftyone":
        raise BuildError(f"{results}#{field} names a field, but {results} is no FiftyOne export ({format}): remove it")
    match format:
        case "coco":
            from builder.label.replay.coco import read_coco_results

            return read_coco_results(results, content, images, options)
        case "label_studio":
            from builder.label.replay.label_studio import read_label_studio_predictions

            return read_label_studio_predictions(results, content, options)
        case "fiftyone":
            from builder.label.replay.fiftyone import read_fiftyone_field

            return read_fiftyone_field(results, content, field, options)
        case "yolo":
            from builder.label.replay.yolo import read_yolo_predictions

            return read_yolo_predictions(results, images, options)
        case "csv":
            from builder.label.replay.probabilities import read_probabilities

            return read_probabilities(results, options)
        case "maps":
            from builder.label.replay.maps import read_maps

            return read_maps(results, options)


def _split(results: Path) -> tuple[Path, str, str]:
    """The path, and the field that stands behind a `#`, unless that is part of a name."""
    if results.exists() or "#" not in results.name:
        return results, "", ""
    name, sign, field = results.name.rpartition("#")
    return results.with_name(name), sign, field


def _recognise(results: Path, stated: str | None) -> tuple[StoredFormat, Any]:
    """The format and, of a JSON file, its content."""
    if stated is not None and stated not in get_args(StoredFormat):
        raise BuildError(f"format = {stated!r} is none of {', '.join(get_args(StoredFormat))}: write one, or nothing")
    folder = results.is_dir()
    if folder and stated in (None, "fiftyone") and (results / "samples.json").is_file():
        return "fiftyone", read_json(results / "samples.json")
    if folder and stated in (None, "maps") and (results / "labels").is_dir() and (results / "confidence").is_dir():
        return "maps", None
    if folder and stated in (None, "maps") and next((results / "labels").glob("**/*.png"), None):
        raise BuildError(
            f"{results / 'labels'} has maps without a confidence: put 255 times the probability of each pixel's class "
            f"into {results / 'confidence'}, a PNG of the same name for each"
        )
    if folder and stated in (None, "yolo") and next(results.rglob("*.txt"), None):
        return "yolo", None
    if folder:
        raise BuildError(
            f"{results} holds no stored predictions: give a folder of YOLO text files, a FiftyOne export "
            "(samples.json) or maps (labels/ and confidence/)"
        )
    if stated == "csv" or (stated is None and results.suffix.lower() == ".csv"):
        return "csv", None
    content = read_json(results)
    if stated in (None, "coco", "label_studio"):
        tasks = isinstance(content, list) and bool(content) and isinstance(content[0], dict) and "data" in content[0]
        return ("label_studio" if (tasks and stated is None) or stated == "label_studio" else "coco"), content
    raise BuildError(f"{results} is a file, but format {stated} is a folder: give the folder, or another format")

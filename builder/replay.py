"""Stored predictions of others, replayed as if a teacher made them now: COCO results."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from builder import BuildError, brief
from builder.engine import Advance, default_workers
from builder.files import sha256_file
from builder.label import Result, decode_ahead
from builder.pool import Chunk, PoolImage
from builder.predictions import UNLISTED, Failure
from builder.truth import NO_CLASSES, read_categories
from teachers.base import Detections, TeacherOptions

AHEAD = 64
"""Decoded images that may wait."""


class Replay:
    """COCO results (`[{image_id, category_id, bbox: [x, y, w, h], score}, …]`) as a Labeller.

    `images` is a COCO JSON whose `images` give each id its file name and whose `categories` give the classes. An image
    listed there without results has nothing on it; one that is not listed fails, as does one that cannot be decoded or
    is not of the listed size. Names are relative to the pool's source, or all below one folder that the pool's are
    relative to. Results of categories that are no classes (builder.truth.NO_CLASSES) are left out.
    Raises BuildError for files that do not fit each other.
    """

    def __init__(self, results: Path, images: Path | None, options: TeacherOptions, workers: int | None = None) -> None:
        options.refuse("replay", "nms_iou", "top_k", "min_size", "max_size", "upscale", "dtype", "weights", "classes")
        if images is None:
            raise BuildError(
                f"replay:{results} needs `images`, the COCO JSON that names the images and classes of the results"
            )
        listing, records = _load(images), _load(results)
        try:
            ids, names = read_categories(listing["categories"], images)
            self._listed = _listed(listing["images"], images)
        except (KeyError, TypeError, ValueError) as error:
            raise BuildError(f"{images} is no COCO JSON with images and categories ({brief(repr(error))})") from None
        self.classes = tuple(name for name in names if name not in NO_CLASSES)
        place = {name: n for n, name in enumerate(self.classes)}
        label = {id: place.get(name, -1) for id, name in zip(ids, names, strict=True)}
        self._found = _by_image(results, records, {id for id, _, _ in self._listed.values()}, label)
        folders = {name.rpartition("/")[0] for name in self._listed}
        self._prefix = f"{folders.pop()}/" if len(folders) == 1 and "" not in folders else ""
        self._options, self._name, self._workers = options, images.name, workers or default_workers()
        self.description: Mapping[str, Any] = {
            "kind": "detection",
            "family": "replay",
            "classes": list(self.classes),
            "floor": options.floor,
            "max_detections": options.max_detections,
            "results": sha256_file(results),
            "images": sha256_file(images),
        }
        self.runtime: Mapping[str, Any] = {}

    def lists(self, image: PoolImage) -> bool:
        """Predictions are stored by the images' bytes, but listed by their names, which can be mended."""
        listed = self._find(image)
        return listed is not None and listed[1:] == (image.width, image.height)

    def _find(self, image: PoolImage) -> tuple[int, int, int] | None:
        """Its id, width and height in the listing."""
        return self._listed.get(image.name) or self._listed.get(self._prefix + image.name)

    def results(self, chunks: Iterable[Chunk], advance: Advance) -> Iterator[list[Result]]:
        for chunk, decoded in decode_ahead(chunks, self._workers, AHEAD):
            yield [self._result(image, pixels) for image, pixels in zip(chunk.images, decoded, strict=True)]
            advance(len(chunk))

    def _result(self, image: PoolImage, pixels: np.ndarray | Failure) -> Result:
        if isinstance(pixels, Failure):
            return pixels
        listed = self._find(image)
        if listed is None:
            return Failure(f"not among the images of {self._name}", UNLISTED)
        id, width, height = listed
        if (width, height) != (image.width, image.height):
            return Failure(f"is {image.width}x{image.height}, but {width}x{height} in {self._name}", UNLISTED)
        rows = self._found.get(id, np.zeros((0, 6)))
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        size = {"width": image.width, "height": image.height}
        floor, limit = self._options.floor, self._options.max_detections
        return Detections.of(boxes, rows[:, 4], rows[:, 5], **size, floor=floor, limit=limit)


def _listed(records: list[dict[str, Any]], path: Path) -> dict[str, tuple[int, int, int]]:
    """File name (NFC) -> id, width and height, pixels."""
    found: dict[str, tuple[int, int, int]] = {}
    for record in records:
        name = unicodedata.normalize("NFC", str(record["file_name"]))
        if name in found:
            raise BuildError(f"{path}: image file {brief(repr(name))} stands twice: keep one")
        found[name] = int(record["id"]), int(record["width"]), int(record["height"])
    repeated = [id for id, count in Counter(id for id, _, _ in found.values()).items() if count > 1]
    if repeated:
        raise BuildError(f"{path}: image id {repeated[0]} stands twice: keep one")
    return found


def _load(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise BuildError(f"{path} cannot be read ({error.strerror}): give an existing file") from None
    except orjson.JSONDecodeError as error:
        raise BuildError(f"{path} is not JSON ({error})") from None


def _by_image(path: Path, records: Any, ids: set[int], label: Mapping[int, int]) -> dict[int, np.ndarray]:
    """Image id -> float64 (N, 6): x, y, w, h, score, label."""
    rows: dict[int, list[list[float]]] = {}
    if not isinstance(records, list):
        raise BuildError(f"{path} is no list of COCO results: give the file that holds one")
    for n, record in enumerate(records):
        try:
            id, category, bbox, score = (record[key] for key in ("image_id", "category_id", "bbox", "score"))
            known, place = id in ids, label.get(category)
            row = [*(float(side) for side in bbox), float(score)]
        except (KeyError, TypeError, ValueError) as error:
            raise BuildError(f"{path}: result {n} is no COCO detection ({brief(repr(error))}): correct it") from None
        if not known or place is None:
            what = f"category_id {brief(repr(category))}" if known else f"image_id {brief(repr(id))}"
            raise BuildError(f"{path}: result {n} has {what}, which the COCO JSON of its images does not list")
        if len(row) != 5 or not all(map(math.isfinite, row)) or not 0 <= row[4] <= 1:
            raise BuildError(
                f"{path}: result {n} needs four numbers and a score in 0..1, "
                f"not {brief(repr(bbox))} and {brief(repr(score))}"
            )
        if place >= 0:
            rows.setdefault(id, []).append([*row, float(place)])
    return {id: np.array(values) for id, values in rows.items()}

"""Stored predictions of others, replayed as if a teacher made them now: COCO results."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from builder import BuildError
from builder.engine import Advance
from builder.files import sha256_file
from builder.label import Result
from builder.pool import Chunk, PoolImage
from builder.predictions import Failure
from teachers.base import Detections, TeacherOptions


class Replay:
    """COCO results (`[{image_id, category_id, bbox: [x, y, w, h], score}, …]`) as a Labeller.

    `images` is a COCO JSON whose `images` give each id its file name and whose `categories` give the classes. An image
    listed there without results has nothing on it; one that is not listed fails. Images are found by their name in the
    pool, else by their file name alone where that is unambiguous. Raises BuildError for files that do not fit.
    """

    def __init__(self, results: Path, images: Path | None, options: TeacherOptions) -> None:
        options.refuse("replay", "nms_iou", "top_k", "min_size", "max_size", "upscale", "dtype", "weights", "classes")
        if images is None:
            raise BuildError(
                f"replay:{results} needs `images`, the COCO JSON that names the images and classes of the results"
            )
        listing, records = _load(images), _load(results)
        try:
            categories = [(int(c["id"]), str(c["name"])) for c in listing["categories"]]
            names = {int(i["id"]): str(i["file_name"]) for i in listing["images"]}
        except (KeyError, TypeError, ValueError) as error:
            raise BuildError(f"{images} is no COCO JSON with images and categories ({error!r})") from None
        self.options, self.listing = options, images
        self.classes = tuple(name for _, name in categories)
        self._found = _by_image(results, records, names, {id: n for n, (id, _) in enumerate(categories)})
        self._id = {name: id for id, name in names.items()}
        base = Counter(name.rpartition("/")[2] for name in self._id)
        self._base = {b: id for name, id in self._id.items() if base[b := name.rpartition("/")[2]] == 1}
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

    def results(self, chunks: Iterable[Chunk], advance: Advance) -> Iterator[list[Result]]:
        for chunk in chunks:
            yield [self._result(image) for image in chunk.images]
            advance(len(chunk.images))

    def _result(self, image: PoolImage) -> Result:
        id = self._id.get(image.name, self._base.get(image.name.rpartition("/")[2]))
        if id is None:
            return Failure(f"not among the images of {self.listing.name}")
        if image.state != "ok":
            return Failure(image.error or image.state)
        rows = self._found.get(id, np.zeros((0, 6)))
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        return Detections.of(
            boxes,
            rows[:, 4],
            rows[:, 5],
            width=image.width,
            height=image.height,
            floor=self.options.floor,
            limit=self.options.max_detections,
        )


def _load(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except OSError as error:
        raise BuildError(f"{path} cannot be read ({error.strerror}): give an existing file") from None
    except orjson.JSONDecodeError as error:
        raise BuildError(f"{path} is not JSON ({error})") from None


def _by_image(path: Path, records: Any, names: Mapping[int, str], label: Mapping[int, int]) -> dict[int, np.ndarray]:
    """Image id -> float64 (N, 6): x, y, w, h, score, label."""
    rows: dict[int, list[list[float]]] = {}
    try:
        for n, record in enumerate(records):
            id, category = record["image_id"], record["category_id"]
            if id not in names or category not in label:
                what = f"image_id {id}" if id not in names else f"category_id {category}"
                raise BuildError(f"{path}: result {n} has {what}, which the COCO JSON of its images does not list")
            row = [*(float(v) for v in record["bbox"]), float(record["score"]), float(label[category])]
            if len(row) != 6 or not all(map(math.isfinite, row)):
                raise BuildError(
                    f"{path}: result {n} needs four numbers and one, not bbox {record['bbox']}, score {record['score']}"
                )
            rows.setdefault(id, []).append(row)
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(f"{path} is no list of COCO results: record {n if rows else 0} has no {error}") from None
    return {id: np.array(values) for id, values in rows.items()}

"""Human labels: COCO JSON as images with boxes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from builder import BuildError
from teachers.images import ImageError, decode_rgb

NO_CLASSES = frozenset({"N/A", "background", "__background__"})
"""Category names that stand for "nothing here": they are no classes, and their boxes no objects."""
LARGEST = float(np.finfo(np.float32).max) / 2
"""Above it x + width is infinite."""


class TruthError(BuildError):
    """Labels that cannot be used. The message is one sentence for the user."""


@dataclass(frozen=True)
class LabelledImage:
    """An image and what people marked in it.

    name: `file_name` in the label file; path: where the image lies; width, height: pixels, as the label file says;
    boxes: float32 (N, 4) `xyxy`, pixels of the upright image, possibly reaching out of it; labels: int16 (N,),
    positions in the truth's `classes`; crowd: bool (N,), regions full of uncounted objects; area: float32 (N,), COCO's
    `area` (of the outline, where there is one), else the box's; image_id: `id` in the label file.
    """

    name: str
    path: Path
    width: int
    height: int
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    image_id: int


@dataclass(frozen=True)
class Truth:
    """Labelled images in the order of their file, those without objects included.

    category_ids: the file's id of each class. dropped_boxes: boxes left out, for having no area or a category that is
    no class.
    """

    classes: tuple[str, ...]
    images: list[LabelledImage]
    category_ids: tuple[int, ...]
    dropped_boxes: int = 0


def read_coco(path: Path, images: Path | None = None) -> Truth:
    """Detection labels from a COCO JSON; the images lie where `find_image_root` says. Outlines are not read.

    Raises TruthError for a file that is missing, no JSON or no COCO labels, an annotation without a finite box or of an
    unknown image or category, a category or image that stands twice, and images that are not found.
    """
    content = _load(path)
    try:
        ids, classes = read_categories(content["categories"], path)
        records: list[dict[str, Any]] = content["images"]
        names = [str(record["file_name"]) for record in records]
        image_ids = [int(record["id"]) for record in records]
        sizes = [(int(record["width"]), int(record["height"])) for record in records]
        notes: list[dict[str, Any]] = content["annotations"]
        places = _positions([note["image_id"] for note in notes], image_ids, "image_id", path)
        categories = _positions([note["category_id"] for note in notes], ids, "category_id", path)
        boxes = _boxes(notes, path)
        crowd = np.array([note.get("iscrowd", 0) for note in notes], bool)
        area = np.array([note.get("area", np.nan) for note in notes], np.float64)
    except KeyError as error:
        raise TruthError(f"{path}: an entry lacks the key {error}, so these are no COCO detection labels") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise TruthError(f"{path}: an entry has a value of the wrong type ({error}): correct the file") from None
    for what, values in (("image id", image_ids), ("image file", names)):
        value, count = Counter(values).most_common(1)[0] if values else (None, 0)
        if count > 1:
            raise TruthError(f"{path}: {what} {value!r} stands {count} times: keep one")
    root = find_image_root(path, names, images)

    is_class = np.array([name not in NO_CLASSES for name in classes], bool)
    good = (boxes[:, 2:] > 0).all(axis=1) & is_class[categories]
    order = np.flatnonzero(good)
    order = order[np.argsort(places[order], kind="stable")]  # by image, within it as in the file
    ends = np.searchsorted(places[order], np.arange(len(names)), side="right").tolist()
    area = np.where(np.isnan(area), boxes[:, 2] * boxes[:, 3], area)[order].astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    boxes, crowd = boxes[order].astype(np.float32), crowd[order]
    labels = (np.cumsum(is_class) - 1)[categories[order]].astype(np.int16)

    found: list[LabelledImage] = []
    for name, (width, height), number, start, end in zip(names, sizes, image_ids, [0, *ends], ends, strict=False):
        own = slice(start, end)
        objects = (boxes[own], labels[own], crowd[own], area[own])
        found.append(LabelledImage(name, root / name, width, height, *objects, number))
    return Truth(
        classes=tuple(name for name in classes if name not in NO_CLASSES),
        images=found,
        category_ids=tuple(number for name, number in zip(classes, ids, strict=True) if name not in NO_CLASSES),
        dropped_boxes=len(good) - len(order),
    )


def find_image_root(path: Path, file_names: Sequence[str], images: Path | None = None) -> Path:
    """The folder that has all `file_names` of the label file `path`: `images` where told, else the file's own folder,
    else `images/` beside it. Raises TruthError if none has all."""
    candidates = [images] if images else [path.parent, path.parent / "images"]
    missing: list[str] = []
    for folder in candidates:
        absent = [name for name in file_names if not (folder / name).is_file()]
        if not absent:
            return folder
        if not missing or len(absent) < len(missing):
            missing = absent
    where = " nor in ".join(map(str, candidates))
    raise TruthError(
        f"{path}: {len(missing)} of {len(file_names)} images, {missing[0]!r} first, are not in {where}: "
        "say where they are with --images DIR"
    )


def read_pixels(image: LabelledImage) -> np.ndarray:
    """The image as upright RGB, uint8 (H, W, 3). Raises TruthError if it cannot be read or is not of the stated size,
    since its boxes then belong to other pixels."""
    try:
        pixels = decode_rgb(image.path.read_bytes())
    except (OSError, ImageError) as error:
        raise TruthError(f"labelled image {image.path} cannot be used: {error}: replace it or take it out") from error
    height, width = pixels.shape[:2]
    if (width, height) != (image.width, image.height):
        raise TruthError(
            f"labelled image {image.path} is {width}x{height} upright, but its labels were made for "
            f"{image.width}x{image.height}: correct the labels (an EXIF rotation moves boxes)"
        )
    return pixels


def subset(truth: Truth, limit: int, seed: int) -> Truth:
    """`limit` images at random, in file order. With the same seed a smaller subset is part of every larger one."""
    digests = [hashlib.sha256(f"{seed}:{image.name}".encode()).digest() for image in truth.images]
    chosen = sorted(sorted(range(len(digests)), key=digests.__getitem__)[:limit])
    return replace(truth, images=[truth.images[i] for i in chosen])


def _load(path: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise TruthError(f"label file {path} cannot be read ({error.strerror}): check its path") from None
    except orjson.JSONDecodeError as error:
        raise TruthError(f"label file {path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise TruthError(f"label file {path} is no COCO object with images, annotations and categories")
    return content


def read_categories(records: list[dict[str, Any]], path: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Ids and names of a COCO file's `categories`, in its order. Raises TruthError if one stands twice."""
    ids = tuple(int(record["id"]) for record in records)
    names = tuple(str(record["name"]) for record in records)
    for what, values in (("id", ids), ("name", tuple(name for name in names if name not in NO_CLASSES))):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            raise TruthError(f"{path}: two categories have the {what} {repeated[0]!r}: rename one")
    return ids, names


def _boxes(notes: list[dict[str, Any]], path: Path) -> np.ndarray:
    """float64 (N, 4), `xywh`."""
    listed = [note["bbox"] for note in notes]
    wrong = next((i for i, box in enumerate(listed) if not isinstance(box, list) or len(box) != 4), None)
    if wrong is not None:
        note, box = notes[wrong].get("id"), listed[wrong]
        raise TruthError(f"{path}: annotation {note} has the box {box!r} instead of [x, y, width, height]: correct it")
    boxes = np.array(listed, np.float64).reshape(-1, 4)
    infinite = np.flatnonzero(~(np.abs(boxes) < LARGEST).all(axis=1))  # a null became NaN
    if len(infinite):
        note, box = notes[infinite[0]].get("id"), listed[infinite[0]]
        raise TruthError(f"{path}: annotation {note} has the box {box}, which is not finite: correct it")
    return boxes


def _positions(values: list[Any], known: Sequence[int], what: str, path: Path) -> np.ndarray:
    """Where each value stands in `known`; int64. Raises TruthError for one that does not."""
    table = {value: position for position, value in enumerate(known)}
    try:
        return np.array([table[value] for value in values], np.int64)
    except KeyError as error:
        count = sum(value not in table for value in values)
        raise TruthError(f"{path}: {count} annotations have an unknown {what}, {error} first: correct them") from None

"""What every format of stored predictions becomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np

from builder.errors import BuildError, brief
from builder.kinds import kind_of
from builder.store.files import digest, sha256_file
from teachers.base import Detections, Kind, Prediction, TeacherError, TeacherOptions
from teachers.errors import warn
from teachers.limits import MAX_BYTES

StoredFormat = Literal["coco", "label_studio", "fiftyone", "yolo", "csv", "maps"]
FARTHEST = 1e9
"""Pixels, or shares, from an image to a corner: a float32 holds it, and nobody means it."""
TWICE = 0.1
"""The share of boxes that stand twice, by more than which results were written twice."""
Size = tuple[int, int]
"""Width and height, pixels of the upright image."""


@dataclass(frozen=True)
class Stored:
    """Predictions of others for the images they list.

    sizes: of each listed image by its name, None where the format does not say; stems: names may have no extension.
    read: name, width, height -> its prediction; raises BuildError. listing: what lists the images, for errors; hint:
    what else to do about one that is not listed. digests: SHA-256 of what decides the predictions, by what it is.
    guesses: the name of an image that is not listed by it -> the listed names that it may have become. remedy: what to
    do where a listed name may be that of two images. spelt: a listed name -> as the file has it, where that differs.
    """

    kind: Kind
    classes: tuple[str, ...]
    sizes: Mapping[str, Size | None]
    read: Callable[[str, int, int], Prediction]
    listing: str
    digests: Mapping[str, str | None]
    stems: bool = False
    hint: str = ""
    guesses: Callable[[str], Sequence[str]] | None = None
    remedy: str = "rename one"
    spelt: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredObjects:
    """The objects of one image. rows: float64 (N, 6): x1, y1, x2, y2, score, label (-1: no class).

    masks: N codes of the whole image, or polygons `[x, y, …]` in shares of its sides; None where there are boxes only.
    """

    rows: np.ndarray
    masks: Sequence[bytes | Sequence[float]] | None = None


HIGHEST = 1.001
"""A score that is taken for 1, as those of a teacher that runs here (teachers.base.Detections.of)."""
NOTHING = StoredObjects(np.zeros((0, 6)))
SLACK = 0.05
"""Share of an image's side by which a model's boxes may reach beyond it."""


def objects_reader(
    objects_of: Mapping[str, StoredObjects], options: TeacherOptions, path: Path, *, relative: bool
) -> Callable[[str, int, int], Detections]:
    """`Stored.read` of boxes and masks. relative: boxes are in shares of the image's sides. path: for errors."""

    def read(name: str, width: int, height: int) -> Detections:
        stored = objects_of.get(name, NOTHING)
        boxes, scores, labels = stored.rows[:, :4], stored.rows[:, 4], stored.rows[:, 5]
        codes = None
        if relative:
            boxes = boxes * np.array([width, height, width, height], np.float64)
        if stored.masks is not None:
            from teachers import masks

            try:
                codes = [m if isinstance(m, bytes) else _draw(m, width, height) for m in stored.masks]
            except TeacherError as error:
                raise BuildError(f"{path}: {brief(name)}: {error}: correct it") from None
            boxes = masks.bounds(codes, height, width)
        floor, limit = options.floor, options.max_detections
        return Detections.of(boxes, scores, labels, width=width, height=height, floor=floor, limit=limit, masks=codes)

    return read


def _draw(polygon: Sequence[float], width: int, height: int) -> bytes:
    from teachers import masks

    return masks.from_segmentation([(np.reshape(polygon, (-1, 2)) * [width, height]).ravel().tolist()], height, width)


def objects(
    kind: Kind,
    classes: tuple[str, ...],
    sizes: Mapping[str, Size | None],
    objects_of: Mapping[str, StoredObjects],
    options: TeacherOptions,
    path: Path,
    *,
    digests: Mapping[str, str | None],
    listing: str = "",
    relative: bool = False,
) -> Stored:
    """Boxes or masks of the listed images. Raises BuildError for classes that are not different names, and for boxes
    that are not what they should be."""
    if not classes or len(set(classes)) < len(classes):
        raise BuildError(f"{path} has the classes {brief(', '.join(classes))!r}: give one or more different names")
    if not kind_of(kind).outlines:
        _check_boxes(objects_of, sizes, path, relative=relative)
    else:  # an image without objects has masks, too: none
        objects_of = {name: StoredObjects(NOTHING.rows, ()) for name in sizes} | dict(objects_of)
    read = objects_reader(objects_of, options, path, relative=relative)
    return Stored(kind, classes, sizes, read, listing or path.name, digests)


def _check_boxes(
    objects_of: Mapping[str, StoredObjects], sizes: Mapping[str, Size | None], path: Path, *, relative: bool
) -> None:
    """Raise BuildError for a box whose sides are below 0, for boxes in shares where pixels are meant, and if most boxes
    reach beyond their images by more than SLACK, which corners do that are read as sides. Warn of boxes that are wholly
    outside, and of those that stand twice."""
    names = [name for name in objects_of if relative or sizes.get(name)]
    if not names:
        return
    boxes = np.concatenate([objects_of[name].rows[:, :4] for name in names])
    count = [len(objects_of[name].rows) for name in names]
    extent = np.repeat([(1, 1) if relative else sizes[name] or (1, 1) for name in names], count, axis=0)
    turned = np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    if len(turned):
        raise BuildError(f"{path}: {brief(_owner(names, count, turned[0]))} has a box with a side below 0: correct it")
    huge = np.flatnonzero((np.abs(boxes) > FARTHEST).any(axis=1))
    if len(huge):
        raise BuildError(
            f"{path}: {brief(_owner(names, count, huge[0]))} has a box with a corner at "
            f"{np.abs(boxes[huge[0]]).max():g}, where no image is: correct it"
        )
    if not relative and len(boxes) and boxes.max() <= 1 < extent.min():
        raise BuildError(
            f"{path}: all boxes lie inside one pixel: give x, y, width and height in pixels, not in shares"
        )
    far = (boxes[:, :2] < -SLACK * extent) | (boxes[:, 2:] > (1 + SLACK) * extent)
    beyond = np.flatnonzero(far.any(axis=1))
    if 2 * len(beyond) > len(boxes):
        unit = "shares of the image" if relative else "pixels"
        raise BuildError(
            f"{path}: {len(beyond)} of {len(boxes)} boxes, first on {brief(_owner(names, count, beyond[0]))}, reach "
            f"beyond their images: give x, y, width and height in {unit}, not two corners"
        )
    outside = int(((boxes[:, :2] >= extent) | (boxes[:, 2:] <= 0)).any(axis=1).sum())
    if outside:
        warn(
            f"{path}: {outside} of {len(boxes)} boxes lie wholly outside of their images and are left out, as no "
            "object can be seen there: correct them"
        )
    rows = np.concatenate([objects_of[name].rows for name in names])
    different = len(np.unique(np.column_stack([np.repeat(np.arange(len(names)), count), rows]), axis=0))
    if len(rows) - different > TWICE * len(rows):
        warn(
            f"{path}: {len(rows) - different} of {len(rows)} boxes stand twice on their image, with the same class and "
            "score, as in results that were written or merged twice: keep each once (or set keep.nms)"
        )


def _owner(names: Sequence[str], count: Sequence[int], row: int) -> str:
    """Whose box a row is of all, `count` of each name."""
    return names[int(np.searchsorted(np.cumsum(count), row, side="right"))]


def is_number(value: Any) -> TypeGuard[float]:
    """Of a JSON file: a finite number, not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_score(value: float) -> bool:
    """Of a number: whether it is a probability; one that rounding brought a little above 1 becomes 1."""
    return 0 <= value <= HIGHEST


def label_places(seen: Iterable[str], options: TeacherOptions, path: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Classes, those of the options, else all that were seen, sorted; and the position of each. Raises BuildError for
    one that the options do not name, and for none at all."""
    names = set(seen)
    classes = options.classes or tuple(sorted(names))
    if unknown := sorted(names - set(classes)):
        raise BuildError(
            f"{path} has the class {brief(repr(unknown[0]))}, which the option classes does not name: add it"
        )
    nameless = next((name for name in classes if not name.strip() or "\0" in name), None)
    if nameless is not None:
        raise BuildError(f"{path} has an object of the class {nameless!r}, which is no name: correct it there")
    if not classes or len(set(classes)) < len(classes):
        raise BuildError(f"{path} names no class: set the teacher option classes to different names")
    return classes, {name: n for n, name in enumerate(classes)}


def digest_files(root: Path, files: Sequence[Path]) -> str:
    """SHA-256 of the names below `root` and the content of all these files, whatever their order. Raises BuildError for
    one that cannot be read, or is larger than MAX_BYTES."""
    root = root.absolute()  # which lists of files give, whatever `root` is relative to
    try:
        for file in files:
            if file.stat().st_size > MAX_BYTES:
                raise BuildError(f"{file} has more than {MAX_BYTES >> 20} MiB: replace it or take it out")
        return digest(sorted([file.absolute().relative_to(root).as_posix(), sha256_file(file)] for file in files))
    except OSError as error:
        raise BuildError(f"{error.filename} cannot be read ({error.strerror}): replace it or take it out") from None

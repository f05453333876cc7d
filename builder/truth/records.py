"""Human labels of every format in one record: which image shows what, and which images belong together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from builder.errors import BuildError
from builder.scan.entries import Entry, mtime_of
from builder.store.files import digest, sha256_file
from builder.store.names import canonical
from teachers.files import read_regular
from teachers.images import ImageError, decode_rgb
from teachers.limits import MAX_BYTES

TruthKind = Literal["detection", "classification", "semantic"]
Format = Literal["coco", "voc", "yolo", "classes", "masks"]
Split = Literal["train", "val", "test", "all"]
"""A part of a data set that names its parts, as YOLO's data.yaml does; `all` of them."""
CountedFrom = Literal[0, 1]
"""What the corners of Pascal VOC boxes call the first pixel (builder.truth.voc.read_voc)."""

NO_CLASSES = frozenset({"N/A", "background", "__background__"})
"""Category names that stand for "nothing here": they are no classes, and their boxes no objects."""
LARGEST = 1e7
"""Pixels beyond which no corner of a box can be meant: ten times the largest side of an image."""


class TruthError(BuildError):
    """Labels that cannot be used. The message is one sentence for the user."""


@dataclass(frozen=True)
class LabelledImage:
    """An image and what people marked in it.

    name: its path relative to the folder of images, NFC; path: where it lies; width, height: pixels, as the label file
    says, else those of the upright image.
    boxes: float32 (N, 4) `xyxy`, pixels of the upright image, possibly reaching out of it; labels: int16 (N,),
    positions in the truth's `classes`; crowd: bool (N,), regions full of uncounted objects; area: float32 (N,), COCO's
    `area` (of the outline, where there is one), else the box's; image_id: `id` in a COCO file whose ids are numbers,
    else 1, 2, …
    difficult: bool (N,), single objects that count neither as found nor as missed (VOC's `difficult`, COCO's `ignore`).
    unit: the group it belongs to (a sequence, a patient); "": it stands alone.
    label: position in `classes` of a classification image, None where it shows none of them. mask: PNG of a semantic
    image (`builder.truth.masks.read_mask`). masks: COCO's compressed run-length code of each box's outline, where
    they were asked for (`read_truth`).
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
    difficult: np.ndarray
    unit: str = ""
    label: int | None = None
    mask: Path | None = None
    masks: tuple[bytes, ...] | None = None


@dataclass(frozen=True)
class Truth:
    """Labelled images in the order of their file or of their names, those without objects included.

    Attributes:
        classes: names; positions in it are the ids of labels.
        images: with what people marked in them.
        category_ids: what the files call each class: COCO's id, YOLO's number, the value of a mask's pixel.
        dropped_boxes: boxes left out, for having no area, none in their image, or a category that is no class.
        kind: what the labels are.
        split: the part of a data set that they are, as far as the data set says.
        repeated_boxes: boxes left out, for standing a second time in their image, with the same class and flags.
        inverted_boxes: those of dropped_boxes that end before they begin.
        outside_boxes: those of dropped_boxes that lie wholly outside of their images.
    """

    classes: tuple[str, ...]
    images: list[LabelledImage]
    category_ids: tuple[int, ...]
    dropped_boxes: int = 0
    kind: TruthKind = "detection"
    split: Split | None = None
    repeated_boxes: int = 0
    inverted_boxes: int = 0
    outside_boxes: int = 0

    @property
    def marked_classes(self) -> list[str]:
        """The classes of which something is marked; of maps, whose masks are not read for it, all."""
        if self.kind == "semantic":
            return list(self.classes)
        marked = [np.unique(image.labels) for image in self.images if len(image.labels)]
        whole = [image.label for image in self.images if image.label is not None]
        return [self.classes[n] for n in np.unique(np.concatenate([np.array(whole, int), *marked]))]


@dataclass(frozen=True)
class Marks:
    """What people marked, in columns of N rows in any order: the common form of all formats of boxes.

    image, category: int64, positions of the image and of the class in the lists that `assemble` is given; xywh: float64
    (N, 4), pixels; crowd, difficult: bool; area: float64, NaN for the box's own; codes: run-length codes of outlines.
    """

    image: np.ndarray
    category: np.ndarray
    xywh: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    area: np.ndarray
    codes: Sequence[bytes] | None = None


def without_boxes(
    number: int,
    name: str,
    path: Path,
    size: tuple[int, int],
    *,
    label: int | None = None,
    mask: Path | None = None,
) -> LabelledImage:
    """An image that is labelled as a whole, or pixel by pixel. size: width and height."""
    none = np.zeros(0, bool)
    boxes, labels, area = np.zeros((0, 4), np.float32), np.zeros(0, np.int16), np.zeros(0, np.float32)
    return LabelledImage(name, path, *size, boxes, labels, none, area, number, none, label=label, mask=mask)


def check_detection(truth: Truth, what: object = "the truth") -> None:
    """Raises TruthError if the truth, named `what`, holds no boxes but classes or maps."""
    if truth.kind != "detection":
        raise TruthError(
            f"{what} holds {truth.kind} labels, but boxes are needed: give a COCO JSON, VOC or YOLO labels"
        )


def check_measurable(truth: Truth, what: object) -> None:
    """Raises TruthError if the labels, named `what`, hold no object that can be found or missed."""
    images = truth.images
    if not any(len(image.labels) or image.label is not None or image.mask for image in images):
        raise TruthError(
            f"labels {what} have {len(images)} images and not one object: check that the objects of these images are "
            "in there"
        )
    if truth.kind != "detection" or not all((image.crowd | image.difficult).all() for image in images):
        return
    total, crowds = sum(len(image.crowd) for image in images), sum(int(image.crowd.sum()) for image in images)
    told = "crowds (iscrowd)" if crowds == total else f"crowds ({crowds}) or difficult" if crowds else "difficult"
    hint = "CVAT writes iscrowd for masks that were drawn with its brush: set it" if crowds else "set the flag"
    raise TruthError(f"all {total} objects of {what} are {told}, so that nothing can be measured: {hint} to 0")


def unit_of(name: str, group: str) -> str:
    """The unit that `group` (see `read_truth`) finds in an image's name. Raises TruthError if it finds none."""
    if group == "folder":
        unit = name.rpartition("/")[0]
        if not unit:
            raise TruthError(f"group folder: image {name!r} lies in no folder: group by a regular expression")
        return unit
    try:
        match = re.search(group, name)
    except re.error as error:
        raise TruthError(f"group {group!r} is neither folder nor a regular expression ({error}): correct it") from None
    if match is not None and match.re.groups == 0:
        raise TruthError(f"group {group!r} has no group: put what names the unit in parentheses")
    if match is None or not match.group(1):
        raise TruthError(f"group {group!r} finds no unit in image {name!r}: make it match every image")
    return str(match.group(1))


def split(truth: Truth) -> tuple[Truth, Truth]:
    """The halves `tune` and `certify`, by a bit of the SHA-256 of each image's unit, or of its name where it has none:
    an image stays in its half whatever joins it, and no unit is cut. With few units a half may be empty."""
    halves: tuple[list[LabelledImage], list[LabelledImage]] = ([], [])
    for image in truth.images:
        halves[hashlib.sha256((image.unit or image.name).encode()).digest()[-1] & 1].append(image)
    tune, certify = (replace(truth, images=half) for half in halves)
    return tune, certify


def entries(truth: Truth) -> list[Entry]:
    """The images as entries of a pool, under the same names; one that is gone stays, and fails when it is read."""
    listed = []
    for image in truth.images:
        try:
            status = image.path.stat()
            size, mtime = status.st_size, mtime_of(status)
        except OSError:
            size, mtime = 0, 0
        listed.append(Entry(image.name, str(image.path.absolute()), 0, size, mtime))
    return listed


def truth_digest(truth: Truth, sha256_by_name: Mapping[str, str]) -> str:
    """SHA-256, hex, of what the truth says of which images: the same for copies elsewhere, under other names, in
    another order. Raises KeyError for an image without a hash in `sha256_by_name`."""
    records = []
    for image in truth.images:
        shown = [truth.classes[label] for label in image.labels]
        columns: list[Sequence[Any]] = [shown, image.boxes.tolist(), image.crowd.tolist(), image.difficult.tolist()]
        if image.masks is not None:
            columns.append([code.decode() for code in image.masks])
        rows = zip(*columns, strict=True)
        if image.masks is not None:
            rows = ((*row, code.decode()) for row, code in zip(rows, image.masks, strict=True))  # type: ignore[assignment]
        label = "" if image.label is None else truth.classes[image.label]
        mask = sha256_file(image.mask) if image.mask else ""
        records.append([sha256_by_name[image.name], label, mask, sorted(map(list, rows))])
    return digest({"kind": truth.kind, "classes": sorted(truth.classes), "images": sorted(records)})


def assemble(
    names: Sequence[str],
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    marks: Marks,
    classes: Sequence[str],
    ids: Sequence[int],
    image_ids: Sequence[int] | None = None,
) -> Truth:
    """Boxes in columns as the truth of these images (sizes: width, height); what has no area in its image or a category
    that is no class, and what stands twice, is dropped and counted. ids: the file's, of `classes`."""
    is_class = np.array([name not in NO_CLASSES for name in classes], bool)
    good = (marks.xywh[:, 2:] > 0).all(axis=1) & is_class[marks.category]
    start, extent = marks.xywh[:, :2], np.array(sizes, np.float64).reshape(-1, 2)[marks.image]
    outside = good & ((start >= extent) | (start + marks.xywh[:, 2:] <= 0)).any(axis=1)
    good &= ~outside
    dropped, repeated = np.count_nonzero(~good), good & _repeated(marks)
    order = np.flatnonzero(good & ~repeated)
    order = order[np.argsort(marks.image[order], kind="stable")]  # by image, within it as in the file
    ends = np.searchsorted(marks.image[order], np.arange(len(names)), side="right").tolist()
    xywh = marks.xywh[order]
    area = np.where(np.isnan(marks.area[order]), xywh[:, 2] * xywh[:, 3], marks.area[order]).astype(np.float32)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32)
    labels = (np.cumsum(is_class) - 1)[marks.category[order]].astype(np.int16)
    crowd, difficult = marks.crowd[order], marks.difficult[order]
    images = []
    starts, numbers = [0, *ends], image_ids or range(1, len(names) + 1)
    for n, (name, path, (width, height), number) in enumerate(zip(names, paths, sizes, numbers, strict=True)):
        rows = slice(starts[n], ends[n])
        objects = (boxes[rows], labels[rows], crowd[rows], area[rows])
        codes = None if marks.codes is None else tuple(marks.codes[row] for row in order[rows])
        images.append(
            LabelledImage(canonical(name), path, width, height, *objects, number, difficult[rows], masks=codes)
        )
    known = [(name, number) for name, number in zip(classes, ids, strict=True) if name not in NO_CLASSES]
    return Truth(
        tuple(name for name, _ in known),
        images,
        tuple(number for _, number in known),
        dropped_boxes=int(dropped),
        repeated_boxes=int(np.count_nonzero(repeated)),
        inverted_boxes=int((marks.xywh[:, 2:] < 0).any(axis=1).sum()),
        outside_boxes=int(np.count_nonzero(outside)),
    )


def _repeated(marks: Marks) -> np.ndarray:
    """Which rows say the same of an image as one before them; bool (N,). Of outlines, the same codes."""
    columns = [*marks.xywh.T, marks.category, marks.crowd, marks.difficult, marks.image]
    if marks.codes is not None:
        columns.insert(0, np.unique(np.array(marks.codes, object), return_inverse=True)[1])
    order = np.lexsort(columns)
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        same &= column[order[1:]] == column[order[:-1]]
    repeated = np.zeros(len(order), bool)
    repeated[order[1:][same]] = True
    return repeated


def read_pixels(image: LabelledImage) -> np.ndarray:
    """The image as upright RGB, uint8 (H, W, 3). Raises TruthError if it cannot be read or is not of the stated size,
    since its boxes then belong to other pixels."""
    try:
        pixels = decode_rgb(read_regular(image.path, MAX_BYTES), image.width * image.height)
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

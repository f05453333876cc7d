"""Human labels from Pascal VOC XML."""

from __future__ import annotations

import os.path
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from builder.errors import brief
from builder.truth.listing import by_stem, list_images, read_lines, upright_sizes
from builder.truth.records import LARGEST, NO_CLASSES, Marks, Truth, TruthError, assemble

SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class _Annotation:
    """One XML file. size: width, height as stated, None where they are not; boxes: SIDES as written."""

    file: Path
    filename: str
    size: tuple[int, int] | None
    names: list[str]
    boxes: list[list[float]]
    difficult: list[bool]


def read_voc(source: Path, images: Path | None = None) -> Truth:
    """Detection labels from a folder with `Annotations/` and `JPEGImages/` (or `images/`), a folder with the XML beside
    the images, or a list of stems (`ImageSets/Main/val.txt`) of the first; an image without XML is no part of it.

    Corners are pixels that belong to the box, the top left one of the image is (1, 1) (VOC development kit), so that a
    box spans [xmin - 1, xmax] here. A box whose corners, as written, have no area between them is a click: dropped and
    counted. An XML belongs to the image of the same stem, else to its `filename`. Classes: those that occur, sorted.
    Raises TruthError for XML that is broken or lacks a box, a missing image, and a list that is not of this layout.
    """
    root = source if source.is_dir() else source.parent.parent.parent
    folder = root / "Annotations" if (root / "Annotations").is_dir() else root
    if source.is_dir():
        files = sorted(folder.rglob("*.xml"))
        if not files:
            raise TruthError(f"{source} has no XML file: give a folder of Pascal VOC labels")
    else:
        stems = [re.sub(r"\s+-?[01]$", "", line) for line in read_lines(source)]  # lists of one class add a flag
        files = [folder / f"{stem}.xml" for stem in stems]
        absent = next((n for n, file in enumerate(files) if not os.path.isfile(file)), None)
        if absent is not None:
            raise TruthError(
                f"{source}: entry {absent + 1}, {brief(repr(stems[absent]))}, has no XML file in {folder}: give a "
                "folder of Pascal VOC labels, or a list of stems two folders below it (ImageSets/Main/val.txt)"
            )
    notes = [_read(file) for file in files]
    beside = (root / "JPEGImages", root / "images")
    where = images or next((place for place in beside if place.is_dir()), folder)
    listed = list_images(where)
    alike = by_stem(list(listed))
    names = [_find(note, folder, listed, alike, where) for note in notes]
    paths = [listed[name] for name in names]
    unknown = [n for n, note in enumerate(notes) if note.size is None]
    measured = dict(zip(unknown, upright_sizes([paths[n] for n in unknown]), strict=True))
    sizes = [note.size or measured[n] for n, note in enumerate(notes)]

    classes = sorted({name for note in notes for name in note.names} - NO_CLASSES)
    place = {name: number for number, name in enumerate([*classes, *NO_CLASSES])}
    corners = np.array([box for note in notes for box in note.boxes], np.float64).reshape(-1, 4)
    span = corners[:, 2:] - corners[:, :2]
    marks = Marks(
        image=np.repeat(np.arange(len(notes)), [len(note.boxes) for note in notes]),
        category=np.array([place[name] for note in notes for name in note.names], np.int64),
        xywh=np.concatenate([corners[:, :2] - 1, np.where(span > 0, span + 1, 0)], axis=1),
        crowd=np.zeros(len(corners), bool),
        difficult=np.array([flag for note in notes for flag in note.difficult], bool),
        area=np.full(len(corners), np.nan),
    )
    return assemble(names, paths, sizes, marks, [*classes, *NO_CLASSES], range(1, len(place) + 1))


def _read(file: Path) -> _Annotation:
    try:
        tree = ElementTree.parse(file).getroot()
    except OSError as error:
        raise TruthError(f"label file {file} cannot be read ({error.strerror}): check its path") from None
    except ElementTree.ParseError as error:
        raise TruthError(f"label file {file} is not XML: {error}") from None
    if tree.tag != "annotation":
        raise TruthError(
            f"label file {file} is no Pascal VOC annotation but <{brief(tree.tag)}>: take it out of the folder"
        )
    names: list[str] = []
    boxes: list[list[float]] = []
    difficult: list[bool] = []
    for number, item in enumerate(tree.findall("object"), 1):
        where = f"{file}: object {number}"
        name = (item.findtext("name") or "").strip()
        if not name:
            raise TruthError(f"{where} has no name: correct it")
        box = item.find("bndbox")
        where = f"{where} ({brief(name)})"
        if box is None:
            raise TruthError(f"{where} has no bndbox: correct it")
        names.append(name)
        boxes.append([_number(box.findtext(side), f"{where} has the {side}") for side in SIDES])
        flag = (item.findtext("difficult") or "0").strip()
        if flag not in ("0", "1"):
            raise TruthError(f"{where} has the difficult {brief(repr(flag))}: correct it to 0 or 1")
        difficult.append(flag == "1")
    stated = [tree.findtext(f"size/{side}") for side in ("width", "height")]
    width, height = (0 if text is None else int(_number(text, f"{file}: size has the value")) for text in stated)
    size = (width, height) if width > 0 and height > 0 else None  # some tools write 0
    return _Annotation(file, (tree.findtext("filename") or "").strip(), size, names, boxes, difficult)


def _number(text: str | None, what: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not abs(value) < LARGEST:
        raise TruthError(f"{what} {brief(repr(text))}, which is no number: correct it")
    return value


def _find(
    note: _Annotation, folder: Path, listed: Mapping[str, Path], stems: Mapping[str, Sequence[str]], where: Path
) -> str:
    """The name of the image that an XML file belongs to."""
    stem = unicodedata.normalize("NFC", note.file.relative_to(folder).with_suffix("").as_posix())
    stated = unicodedata.normalize("NFC", (Path(stem).parent / note.filename).as_posix())
    same = stems.get(stem, [])
    if len(same) == 1:
        return same[0]
    if stated in listed and note.filename:
        return stated
    if same:
        raise TruthError(f"label file {note.file} fits {same[0]} and {same[1]}: remove one")
    raise TruthError(
        f"label file {note.file}: neither {Path(stem).name!r} with an image's extension nor its filename "
        f"{brief(repr(note.filename))} is in {where}: say where the images are with --images DIR, or "
        "`images` in a recipe"
    )

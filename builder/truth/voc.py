"""Human labels from Pascal VOC XML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from builder.errors import BuildError, brief
from builder.store.markup import xml_tree
from builder.store.names import Folder, canonical, first_repeated
from builder.truth.listing import by_stem, list_images, read_lines, upright_sizes
from builder.truth.records import LARGEST, NO_CLASSES, CountedFrom, Marks, Truth, TruthError, assemble
from teachers.errors import warn

SIDES = ("xmin", "ymin", "xmax", "ymax")
LAYOUTS = (("Annotations", "JPEGImages"), ("Annotations", "images"), ("labels", "data"))
"""Folders of XML and of images: the development kit's, and FiftyOne's."""


@dataclass(frozen=True)
class _Annotation:
    """One XML file. size: width, height as stated, None where they are not; boxes: SIDES as written; counted_from: what
    the tool that wrote it calls the first pixel, None where it cannot be told."""

    file: Path
    filename: str
    size: tuple[int, int] | None
    names: list[str]
    boxes: list[list[float]]
    difficult: list[bool]
    counted_from: CountedFrom | None


def read_voc(source: Path, images: Path | None = None, counted_from: CountedFrom | None = None) -> Truth:
    """Detection labels from a folder with `Annotations/` and `JPEGImages/` (or `images/`; FiftyOne: `labels/` and
    `data/`), a folder with the XML beside the images, or a list of stems (`ImageSets/Main/val.txt`) of the first; an
    image without XML is no part of it.

    Counted from 1, corners are pixels that belong to the box, the top left one of the image is (1, 1) (VOC development
    kit), so that a box spans [xmin - 1, xmax] here. Counted from 0, as FiftyOne and others do, they are its edges, and
    it spans [xmin, xmax]. Unless `counted_from` says, a corner at 0 proves 0, as FiftyOne's empty `database` does; a
    corner at 1 and none at 0, or VOC's own `database`, stands for 1; where there is neither, 1 is taken, with a
    warning. A box whose corners, as written, have no area between them is a click: dropped and counted.

    An XML belongs to the image of the same stem, else to its `filename`. Classes: those that occur, sorted.
    Raises TruthError for XML that is broken or lacks a box, a missing image or one with two XML files, and a list that
    is not of this layout.
    """
    root = source if source.is_dir() else source.parent.parent.parent
    folder, where = _folders(root, images)
    notes = [_read(file) for file in _files(source, folder)]
    listed = list_images(where)
    alike = by_stem(list(listed))
    names = [_find(note, folder, listed, alike, where) for note in notes]
    if (twice := first_repeated(names)) is not None:
        one, other = [note.file for note, name in zip(notes, names, strict=True) if name == twice][:2]
        raise TruthError(f"label files {one} and {other} are both of {twice}: keep one")
    paths = [listed[name] for name in names]
    unknown = [n for n, note in enumerate(notes) if note.size is None]
    measured = dict(zip(unknown, upright_sizes([paths[n] for n in unknown]), strict=True))
    sizes = [note.size or measured[n] for n, note in enumerate(notes)]

    classes = sorted({name for note in notes for name in note.names} - NO_CLASSES)
    place = {name: number for number, name in enumerate([*classes, *NO_CLASSES])}
    corners = np.array([box for note in notes for box in note.boxes], np.float64).reshape(-1, 4)
    first = _counted_from(notes, corners, source) if counted_from is None else counted_from
    span = corners[:, 2:] - corners[:, :2]
    marks = Marks(
        image=np.repeat(np.arange(len(notes)), [len(note.boxes) for note in notes]),
        category=np.array([place[name] for note in notes for name in note.names], np.int64),
        xywh=np.concatenate([corners[:, :2] - first, np.where(span > 0, span + first, np.minimum(span, 0))], axis=1),
        crowd=np.zeros(len(corners), bool),
        difficult=np.array([flag for note in notes for flag in note.difficult], bool),
        area=np.full(len(corners), np.nan),
    )
    return assemble(names, paths, sizes, marks, [*classes, *NO_CLASSES], range(1, len(place) + 1))


def _folders(root: Path, images: Path | None) -> tuple[Path, Path]:
    """Those of the XML and of the images."""
    there = [(root / xml, root / beside) for xml, beside in LAYOUTS if next((root / xml).rglob("*.xml"), None)]
    folder = there[0][0] if there else root
    where = next((beside for xml, beside in there if xml == folder and beside.is_dir()), folder)
    return folder, images or where


def _files(source: Path, folder: Path) -> list[Path]:
    if source.is_dir():
        if files := sorted(folder.rglob("*.xml")):
            return files
        raise TruthError(f"{source} has no XML file: give a folder of Pascal VOC labels")
    files, below = [], Folder(folder)
    for number, line in enumerate(read_lines(source), 1):
        stem = re.sub(r"\s+-?[01]$", "", line)  # lists of one class add a flag
        file = below.find(f"{stem}.xml")
        if file is None:
            raise TruthError(
                f"{source}: entry {number}, {brief(repr(stem))}, has no XML file in {folder}: give a folder of Pascal "
                "VOC labels, or a list of stems two folders below it (ImageSets/Main/val.txt)"
            )
        files.append(file)
    return files


def _counted_from(notes: Sequence[_Annotation], corners: np.ndarray, source: Path) -> CountedFrom:
    """What the corners of a set call its first pixel, as far as they, or the tool that wrote them, show."""
    lowest = np.floor(corners[:, :2])
    signs = {note.counted_from for note in notes}
    if 0 in signs or (lowest == 0).any():
        return 0
    if len(corners) and 1 not in signs and not (lowest == 1).any():
        warn(
            f"{source} does not show whether the corners of its boxes count pixels from 1, as Pascal VOC does, or from "
            "0, as FiftyOne, Datumaro and others do: they are read from 1; say counted_from: 0 if that is wrong"
        )
    return 1


def _read(file: Path) -> _Annotation:
    try:
        tree = xml_tree(file)
    except BuildError as error:
        raise TruthError(f"label file {error}") from None
    if tree.tag != "annotation":
        raise TruthError(
            f"label file {file} is no Pascal VOC annotation but <{brief(tree.tag)}>: take it out of the folder"
        )
    names: list[str] = []
    boxes: list[list[float]] = []
    difficult: list[bool] = []
    for number, item in enumerate(tree.findall("object"), 1):
        where = f"{file}: object {number}"
        name = canonical((item.findtext("name") or "").strip())
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
    filename = (tree.findtext("filename") or "").strip()
    return _Annotation(file, filename, size, names, boxes, difficult, _written_by(tree))


def _written_by(tree: Element) -> CountedFrom | None:
    """What the tool that wrote a file calls the first pixel: FiftyOne, which leaves `database` and `segmented` empty,
    and the makers of VOC and we, who name theirs, can be told."""
    database, segmented = tree.findtext("source/database"), tree.findtext("segmented")
    if database == "" and segmented == "":
        return 0
    return 1 if re.match(r"the voc\d{4} database|tutelage$", database or "", re.I) else None


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
    stem = canonical(note.file.relative_to(folder).with_suffix("").as_posix())
    stated = canonical((Path(stem).parent / note.filename).as_posix())
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

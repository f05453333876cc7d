"""YOLO text files with confidences, as Ultralytics' `save_txt=True save_conf=True` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from builder.errors import BuildError, brief
from builder.label.replay.stored import Stored, StoredObjects, digest_files, is_score, objects
from builder.scan.entries import is_image
from builder.store.files import sha256_file
from builder.store.names import canonical
from builder.truth.listing import read_lines
from builder.truth.records import NO_CLASSES
from builder.truth.yolo import SLACK
from builder.truth.yolo_index import find_index, read_index
from builder.truth.yolo_sets import NO_LABELS
from teachers.base import TeacherOptions

CONFIDENCE = "confidence-"
"""How the name of a file of confidences begins; the label file's follows."""
Row = tuple[float, list[float]]
"""Confidence and polygon or cx, cy, w, h, in shares of the image's sides."""


def read_yolo_predictions(folder: Path, images: Path | None, options: TeacherOptions) -> Stored:
    """A folder of `STEM.txt`, also in folders, each of the image of that path without its extension: rows of `class cx
    cy w h confidence`, shares of the image's sides, or, for masks, `class x1 y1 x2 y2 x3 y3 … confidence`. Confidences
    may lie in a file of their own, `confidence-STEM.txt`, a line for each row, as Autodistill writes them.

    The classes are the option `classes`, else those of a data.yaml, obj.names or classes.txt in the folder or one
    of the three above. An
    empty file says that nothing was found. Tools write no file for such an image, so that `images`, a list (.txt) with
    an image a line, is needed to tell it from one that was not looked at. Raises BuildError for a row that is none.
    """
    texts = {
        _stem(path.relative_to(folder)): path for path in sorted(folder.rglob("*.txt")) if path.stem not in NO_LABELS
    }
    confidences = _confidences(texts)
    files = {stem: path for stem, path in texts.items() if path not in confidences.values()}
    classes, place = _classes(folder, options)
    parsed = {stem: _read_rows(path, place, confidences.get(stem)) for stem, path in files.items()}
    shapes = {len(row[1][1]) == 4 for rows in parsed.values() for row in rows}
    if len(shapes) > 1:
        raise BuildError(f"{folder} has rows of boxes and rows of polygons: give predictions of one model")
    masked = shapes == {False}
    stem_of = _listed(images) if images else {stem: stem for stem in files}
    if images and (lonely := sorted(files.keys() - stem_of.values())):
        raise BuildError(f"{files[lonely[0]]} is of an image that {images} does not list: add it")
    stored = objects(
        "instance" if masked else "detection",
        classes,
        dict.fromkeys(stem_of),
        {name: _objects(rows, masked) for name, stem in stem_of.items() if (rows := parsed.get(stem))},
        options,
        folder,
        digests={
            "results": digest_files(folder, list(texts.values())),
            "images": sha256_file(images) if images else None,
        },
        listing=images.name if images else folder.absolute().name,
        relative=True,
    )
    if images:
        return replace(stored, stems=True)
    return replace(
        stored,
        stems=True,
        hint=" (if nothing was found there, list it in `images`)",
        remedy="rename one, or list in `images` those that were looked at",
    )


def _listed(images: Path) -> dict[str, str]:
    """Each image of a list -> the stem of its label file. A line without an image's extension is a stem itself."""
    stem_of: dict[str, str] = {}
    by_stem: dict[str, str] = {}
    for line in read_lines(images):
        name = canonical(Path(line).as_posix())
        stem = _stem(Path(line)) if is_image(name) else name
        if by_stem.setdefault(stem, name) != name:
            raise BuildError(f"{images}: {by_stem[stem]} and {name} would share a label file: rename one")
        stem_of[name] = stem
    return stem_of


def _stem(path: Path) -> str:
    return canonical(path.with_suffix("").as_posix())


def _classes(folder: Path, options: TeacherOptions) -> tuple[tuple[str, ...], dict[int, int]]:
    """The classes, and the place of each number in them, -1 for one that is no class."""
    index = read_index(find_index(folder.absolute())) if options.classes is None else None
    ids = index.numbers if index else range(len(options.classes or ()))
    names = index.classes if index else options.classes or ()
    classes = tuple(name for name in names if name not in NO_CLASSES)
    where = {name: n for n, name in enumerate(classes)}
    return classes, {id: where.get(name, -1) for id, name in zip(ids, names, strict=True)}


def _objects(rows: list[tuple[int, Row]], masked: bool) -> StoredObjects:
    kept = [(place, *row) for place, row in rows if place >= 0]
    table = np.zeros((len(kept), 6))
    table[:, 4], table[:, 5] = [row[1] for row in kept], [row[0] for row in kept]
    if masked:
        return StoredObjects(table, [row[2] for row in kept])
    x, y, w, h = np.reshape([row[2] for row in kept], (-1, 4)).T
    table[:, :4] = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
    return StoredObjects(table)


def _confidences(texts: Mapping[str, Path]) -> dict[str, Path]:
    """Stem of a label file -> the file of its rows' confidences: one number a line, where the other has more."""
    found = {}
    for stem in texts:
        beside = str(PurePosixPath(stem).with_name(CONFIDENCE + PurePosixPath(stem).name))
        if beside in texts and all(len(line.split()) == 1 for line in read_lines(texts[beside])):
            found[stem] = texts[beside]
    return found


def _read_rows(path: Path, place: Mapping[int, int], confidence: Path | None) -> list[tuple[int, Row]]:
    """The rows of a label file; confidence: the file of theirs, if it is another."""
    lines = read_lines(path)
    if confidence is not None:
        scores = read_lines(confidence)
        if len(scores) != len(lines):
            raise BuildError(f"{path} has {len(lines)} rows, but {confidence} {len(scores)}: write both again")
        short = next((n for n, line in enumerate(lines, 1) if len(line.split()) % 2 == 0), None)
        if short is not None:
            raise BuildError(f"{path}: row {short} has a confidence of its own: take {confidence} out")
        lines = [f"{line} {score}" for line, score in zip(lines, scores, strict=True)]
    return [_read_row(line, place, f"{path}: row {number}") for number, line in enumerate(lines, 1)]


def _read_row(line: str, place: Mapping[int, int], where: str) -> tuple[int, Row]:
    try:
        category, *values = (float(part) for part in line.split())
    except ValueError:
        raise BuildError(f"{where} is {brief(repr(line))}, not class cx cy w h confidence: correct it") from None
    if len(values) == 4:
        raise BuildError(
            f"{where} has no confidence: predict with save_conf=True, or put those of all rows of NAME.txt into "
            f"{CONFIDENCE}NAME.txt, one a line"
        )
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise BuildError(
            f"{where} has {len(values)} numbers behind its class, not cx cy w h or a polygon, and a confidence: "
            "predict with save_conf=True, without tracks"
        )
    if category not in place:
        raise BuildError(f"{where} has class {brief(line.split()[0])}, which has no name: add it to the names")
    *shape, score = values
    wrong = next((value for value in shape if not -SLACK <= value <= 1 + SLACK), None)
    if wrong is not None or not is_score(score):
        what = f"the confidence {score:g}" if wrong is None else f"{wrong:g}, no share of the image"
        raise BuildError(f"{where} has {what}, outside 0..1: correct it")
    return place[int(category)], (score, shape)

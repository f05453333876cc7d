"""Human labels from YOLO text files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from builder.errors import brief
from builder.store.names import canonical
from builder.truth.listing import by_stem, read_lines, upright_sizes
from builder.truth.records import Marks, Split, Truth, TruthError, assemble
from builder.truth.yolo_index import YoloIndex
from builder.truth.yolo_sets import NO_LABELS, YoloSet, find_set
from teachers.errors import warn

Box = tuple[float, float, float, float]
"""cx, cy, w, h as shares of the image's sides."""
SLACK = 0.01
"""How far a normalised number may lie outside [0, 1]: what Ultralytics allows for rounding."""


def read_yolo(source: Path, images: Path | None = None, split: Split = "val", stated: bool = False) -> Truth:
    """Detection labels from YOLO text files, of Ultralytics or of Darknet (CVAT's YOLO 1.1, LabelImg).

    `source` is a data.yaml or obj.data, or the folder it lies in: the images of its `split`, or all where it names no
    splits; a list of images; or a folder of images in a data set (`data/images/val`, `data/val`), with all below it.
    The classes are the `names` of the YAML, the lines of an obj.names or those of a classes.txt, which may lie up to
    three folders above. stated: the user asked for this split, which must then be there.

    The label file of `…/images/…/a.jpg` is `…/labels/…/a.txt`, with the last `images`; elsewhere it lies beside the
    image. With `images`, that is the folder of images, and labels lie in `labels/` of the source, or in the source. An
    image without label file has no objects. Names are relative to the data set (or to `images`). A row is `class cx cy
    w h`, shares of the upright image's width and height; a sixth number is a confidence, which people do not have: it
    is left out with a warning; more are a polygon, read as its box, or keypoints, where the YAML says so (`kpt_shape`).
    Raises TruthError for a row that is none of this or names no class, labels without an image, and no labels at all.
    """
    labelled = find_set(source, images, split, stated)
    names, paths, files = list(labelled.images), list(labelled.images.values()), labelled.labels
    for same in by_stem(names).values():
        if len(same) > 1:
            raise TruthError(f"{same[0]} and {same[1]} of {labelled.base} would share a label file: rename one")
    _check_pairs(labelled, images or source)
    if labelled.split in ("val", "test") and labelled.twin == "train":
        warn(f"{labelled.index.file}: {labelled.split} is the same as train, so that a model may have learned from it")

    sizes = upright_sizes(paths)
    index = labelled.index
    place = {number: position for position, number in enumerate(index.numbers)}
    counts, categories = [], []
    rows: list[list[float]] = []
    confident: list[Path] = []
    for file, (width, height) in zip(files, sizes, strict=True):
        objects, has_confidence = _read_rows(file, place, index) if os.path.lexists(file) else ([], False)
        confident += [file] if has_confidence else []
        counts.append(len(objects))
        for category, (cx, cy, w, h) in objects:
            categories.append(category)
            rows.append([(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height])
    if confident:
        warn(
            f"{len(confident)} of {len(files)} label files, {confident[0]} first, have confidences, as predictions of "
            "a model do: as labels of people these measure nothing, so give those that people made"
        )
    total = len(rows)
    marks = Marks(
        image=np.repeat(np.arange(len(files)), counts),
        category=np.array(categories, np.int64),
        xywh=np.array(rows, np.float64).reshape(-1, 4),
        crowd=np.zeros(total, bool),
        difficult=np.zeros(total, bool),
        area=np.full(total, np.nan),
    )
    truth = assemble(names, paths, sizes, marks, index.classes, index.numbers)
    return replace(truth, split=labelled.split)


def _check_pairs(labelled: YoloSet, where: Path) -> None:
    """Every label file in folders named `labels` has its image, and there are labels at all."""
    files, base = labelled.labels, labelled.base
    if not files:
        raise TruthError(
            f"{where} holds no images: give the folder of a YOLO data set, or --images DIR (`images` in a recipe)"
        )
    if not any(file.is_file() for file in files):
        raise TruthError(
            f"none of {len(files)} images of {where} has a label file, {files[0]} first: check the folders"
        )
    if labelled.listed:
        return
    expected = {canonical(str(file)) for file in files}
    above = {file.parent for file in files if "labels" in (base.name, *file.relative_to(base).parts)}
    for folder in sorted(folder for folder in above if folder.is_dir()):
        there = sorted(file for file in folder.glob("*.txt") if file.stem not in NO_LABELS)
        lonely = [file for file in there if canonical(str(file)) not in expected]
        if lonely:
            raise TruthError(f"{len(lonely)} of {len(there)} label files, {lonely[0]} first, have no image in {where}")


def _read_rows(file: Path, place: Mapping[int, int], index: YoloIndex) -> tuple[list[tuple[int, Box]], bool]:
    """(position of the class, (cx, cy, w, h)) of each row, normalised; and whether a row has a confidence."""
    objects, has_confidence = [], False
    for number, line in enumerate(read_lines(file), 1):
        try:
            category, *values = (float(part) for part in line.split())
        except ValueError:
            raise TruthError(f"{file}: row {number} is {brief(repr(line))}, not class cx cy w h: correct it") from None
        if index.keypoints:
            values = _without_keypoints(values, index, f"{file}: row {number}")
        if len(values) not in (4, 5) and (len(values) < 6 or len(values) % 2):
            raise TruthError(f"{file}: row {number} has {len(values)} numbers after its class, not 4: correct it")
        if category not in place:
            raise TruthError(
                f"{file}: row {number} has class {brief(line.split()[0])}, which {index.file.name} does not name: "
                "add it"
            )
        wrong = next((value for value in values if not -SLACK <= value <= 1 + SLACK), None)
        if wrong is not None:
            raise TruthError(f"{file}: row {number} has {wrong:g}, not a share of the image in 0..1: normalise it")
        has_confidence |= len(values) == 5
        if len(values) < 6:
            cx, cy, width, height = values[:4]
        else:
            x, y = values[::2], values[1::2]
            cx, cy, width, height = (max(x) + min(x)) / 2, (max(y) + min(y)) / 2, max(x) - min(x), max(y) - min(y)
        objects.append((place[int(category)], (cx, cy, width, height)))
    return objects, has_confidence


def _without_keypoints(values: list[float], index: YoloIndex, where: str) -> list[float]:
    if len(values) not in (4, 4 + index.keypoints):
        raise TruthError(
            f"{where} has {len(values)} numbers after its class, not 4 and {index.keypoints} of keypoints (kpt_shape "
            f"of {index.file.name}): correct it"
        )
    return values[:4]

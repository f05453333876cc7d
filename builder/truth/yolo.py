"""Human labels from YOLO text files."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from builder.errors import brief
from builder.truth.coco import read_categories
from builder.truth.ids import as_numbers
from builder.truth.listing import YAML, by_stem, list_images, read_lines, upright_sizes
from builder.truth.records import Marks, Truth, TruthError, assemble

NO_LABELS = frozenset({"classes"})
"""Text files that may lie among the labels and are none."""
SLACK = 0.01
"""How far a normalised number may lie outside [0, 1]: what Ultralytics allows for rounding."""


def read_yolo(source: Path, images: Path | None = None) -> Truth:
    """Detection labels from YOLO text files: `source` is a folder, or the YAML in it; the classes are the `names` of
    its YAML, or of one up to three folders above. Only one part of a data set is read where its folder is given
    (`data/images/val`, `data/val`); the paths in the YAML are not followed.

    The label file of `…/images/…/a.jpg` is `…/labels/…/a.txt`, with the last `images`; elsewhere it lies beside the
    image. With `images`, that is the folder of images, and labels lie in `labels/` of the source, or in the source. An
    image without label file has no objects. Names are relative to the folder of the YAML (or to `images`). A row is
    `class cx cy w h`, shares of the upright image's width and height; a sixth number is a confidence, which people do
    not have, and is left out; more are a polygon, read as its box.
    Raises TruthError for a row that is none of this or names no class, labels without an image, and no labels at all.
    """
    root = (source if source.is_dir() else source.parent).absolute()
    names_file = source.absolute() if source.is_file() else find_yaml(root)
    ids, classes = read_names(names_file)
    where = images.absolute() if images else root
    paths = list(list_images(where).values())
    base = where if images else names_file.parent
    names = [path.relative_to(base).as_posix() for path in paths]  # the same, whichever part of the set is read
    for same in by_stem(names).values():
        if len(same) > 1:
            raise TruthError(f"{same[0]} and {same[1]} of {base} would share a label file: rename one")
    if images:
        base = root / "labels" if (root / "labels").is_dir() else root
    files = [base / (PurePosixPath(name).with_suffix(".txt") if images else _label_file(name)) for name in names]
    _check_pairs(files, base, where)

    sizes = upright_sizes(paths)
    place = {number: position for position, number in enumerate(ids)}
    counts, categories = [], []
    rows: list[list[float]] = []
    for file, (width, height) in zip(files, sizes, strict=True):
        objects = _read_rows(file, place) if file.is_file() else []
        counts.append(len(objects))
        for category, (cx, cy, w, h) in objects:
            categories.append(category)
            rows.append([(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height])
    total = len(rows)
    marks = Marks(
        image=np.repeat(np.arange(len(files)), counts),
        category=np.array(categories, np.int64),
        xywh=np.array(rows, np.float64).reshape(-1, 4),
        crowd=np.zeros(total, bool),
        difficult=np.zeros(total, bool),
        area=np.full(total, np.nan),
    )
    return assemble(names, paths, sizes, marks, classes, ids)


def find_yaml(folder: Path) -> Path:
    """The only YAML with `names` in a folder, or `data.yaml` in one of the three above it."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in YAML]
    if len(files) > 1 and folder / "data.yaml" in files:
        files = [folder / "data.yaml"]
    files = files or [path for above in folder.parents[:3] if (path := above / "data.yaml").is_file()][:1]
    if len(files) == 1:
        return files[0]
    if files:
        raise TruthError(
            f"{folder} has {files[0].name} and {files[1].name}: give the one with the names of the classes"
        )
    raise TruthError(
        f"{folder} has no data.yaml, nor have the three folders above: write one with the names of classes"
    )


def read_names(file: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Numbers and names of the classes."""
    try:
        content = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TruthError(f"{file} is no YAML ({brief(error)}): correct it") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(str(number).isdecimal() for number in names):
        raise TruthError(f"{file} has no names, a list or a mapping from numbers to classes: add them")
    ids, classes = read_categories([{"id": number, "name": name} for number, name in names.items()], file)
    return tuple(as_numbers(ids)), classes


def _label_file(name: str) -> PurePosixPath:
    parts = PurePosixPath(name).with_suffix(".txt").parts
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts = (*parts[:last], "labels", *parts[last + 1 :])
    return PurePosixPath(*parts)


def _check_pairs(files: Sequence[Path], base: Path, where: Path) -> None:
    """Every label file in folders named `labels` has its image, and there are labels at all. base: above the files."""
    if not files:
        raise TruthError(
            f"{where} holds no images: give the folder of a YOLO data set, or --images DIR (`images` in a recipe)"
        )
    if not any(file.is_file() for file in files):
        raise TruthError(
            f"none of {len(files)} images of {where} has a label file, {files[0]} first: check the folders"
        )
    expected = {unicodedata.normalize("NFC", str(file)) for file in files}
    for folder in sorted({file.parent for file in files if "labels" in (base.name, *file.relative_to(base).parts)}):
        there = sorted(file for file in folder.glob("*.txt") if file.stem not in NO_LABELS)
        lonely = [file for file in there if unicodedata.normalize("NFC", str(file)) not in expected]
        if lonely:
            raise TruthError(f"{len(lonely)} of {len(there)} label files, {lonely[0]} first, have no image in {where}")


def _read_rows(file: Path, place: Mapping[int, int]) -> list[tuple[int, tuple[float, float, float, float]]]:
    """(position of the class, (cx, cy, w, h)) of each row, normalised."""
    objects = []
    for number, line in enumerate(read_lines(file), 1):
        try:
            category, *values = (float(part) for part in line.split())
        except ValueError:
            raise TruthError(f"{file}: row {number} is {brief(repr(line))}, not class cx cy w h: correct it") from None
        if len(values) not in (4, 5) and (len(values) < 6 or len(values) % 2):
            raise TruthError(f"{file}: row {number} has {len(values)} numbers after its class, not 4: correct it")
        if category not in place:
            raise TruthError(
                f"{file}: row {number} has class {brief(line.split()[0])}, which data.yaml does not name: add it"
            )
        wrong = next((value for value in values if not -SLACK <= value <= 1 + SLACK), None)
        if wrong is not None:
            raise TruthError(f"{file}: row {number} has {wrong:g}, not a share of the image in 0..1: normalise it")
        if len(values) < 6:
            cx, cy, width, height = values[:4]
        else:
            x, y = values[::2], values[1::2]
            cx, cy, width, height = (max(x) + min(x)) / 2, (max(y) + min(y)) / 2, max(x) - min(x), max(y) - min(y)
        objects.append((place[int(category)], (cx, cy, width, height)))
    return objects

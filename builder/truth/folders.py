"""Human labels as folders: one per class, or one of masks beside the images; a table of classes."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from builder.errors import brief
from builder.truth.listing import READERS, by_stem, list_images, read_lines, upright_sizes
from builder.truth.records import NO_CLASSES, LabelledImage, Truth, TruthError

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "pool", "unlabelled"})
IGNORE = 255
"""Value of a pixel that counts for nothing."""


def read_classes(source: Path, images: Path | None = None) -> Truth:
    """Classification labels from a folder of folders: `cat/a.jpg`, also deeper (`cat/b/c.jpg`), shows a cat (as
    torchvision's ImageFolder). Classes are sorted; images in a folder that is no class (`background`) have no label.

    Raises TruthError for images outside all folders, folders that are parts of a data set (`train`, `val`), and none.
    """
    if images:
        raise TruthError(f"folders of classes hold their own images: give {images} as the labels, without --images")
    if not source.is_dir():
        raise TruthError(f"{source} is no folder of folders of images: check its path")
    listed = list_images(source)
    outside = next((name for name in listed if "/" not in name), None)
    if outside:
        raise TruthError(f"image {outside} of {source} lies in no folder that names its class: move it into one")
    folders = sorted({name.partition("/")[0] for name in listed})
    if not folders:
        raise TruthError(f"{source} holds no folder with images: give a folder with one for each class")
    if SPLITS.issuperset(folders):
        raise TruthError(f"{source} holds parts of a data set, not classes: give one of them, {source / folders[0]}")
    classes = tuple(name for name in folders if name not in NO_CLASSES)
    place = {name: number for number, name in enumerate(classes)}
    sizes = upright_sizes(list(listed.values()))
    found = [
        _image(number, name, path, size, label=place.get(name.partition("/")[0]))
        for number, ((name, path), size) in enumerate(zip(listed.items(), sizes, strict=True), 1)
    ]
    return Truth(classes, found, tuple(range(len(classes))), kind="classification")


def read_table(source: Path, images: Path | None = None) -> Truth:
    """Classification labels from a `.csv` with a first line of names, `file` and `class` among them; the other columns
    are not looked at. Files lie relative to `images`, else to the table; a row without a class shows none of them.

    Classes are those of the `classes.txt` beside the table, in its order, else the table's, sorted. Raises TruthError
    for a table without the two columns or rows, a file that is missing or stands twice, and an unknown class.
    """
    root, lines = images or source.parent, read_lines(source)
    table = csv.DictReader(lines)
    if not {"file", "class"} <= set(table.fieldnames or ()):
        raise TruthError(f"{source} has no columns file and class: name them in its first line")
    rows = [(unicodedata.normalize("NFC", row["file"] or ""), (row["class"] or "").strip()) for row in table]
    if not rows:
        raise TruthError(f"{source} has no rows: give one for each image")
    beside = source.parent / "classes.txt"
    told = {name for _, name in rows if name} - NO_CLASSES
    classes = tuple(read_lines(beside)) if beside.is_file() else tuple(sorted(told))
    unknown = sorted(told.difference(classes))
    if unknown:
        raise TruthError(f"{source} has the class {brief(repr(unknown[0]))}, which is not in {beside}: add it there")
    files = [file for file, _ in rows]
    if twice := next((file for file, count in Counter(files).items() if count > 1), None):
        raise TruthError(f"{source} lists {brief(repr(twice))} twice: keep one")
    gone = next((file for file in files if not (root / file).is_file()), None)
    if gone is not None:
        raise TruthError(
            f"{source} lists {brief(repr(gone))}, which is not in {root}: say where with --images DIR, or `images` in "
            "a recipe"
        )
    place = {name: number for number, name in enumerate(classes)}
    sizes = upright_sizes([root / file for file in files])
    found = [
        _image(number, file, root / file, size, label=place.get(name))
        for number, ((file, name), size) in enumerate(zip(rows, sizes, strict=True), 1)
    ]
    return Truth(classes, found, tuple(range(len(classes))), kind="classification")


def read_masks(source: Path, images: Path | None = None) -> Truth:
    """Semantic labels from a folder with `images/`, `masks/` and `classes.txt`, or a list of stems (`val.txt`) in it.

    `masks/STEM.png`, 8-bit grey or palette, belongs to `images/STEM.*`; the value of a pixel is its class's line in
    classes.txt, counted from 0, and a value without a line is to be ignored. `background` is a class like any other
    here: a pixel that shows nothing else is a statement. Without a list, images without a mask are left out.
    Raises TruthError for a missing or unusable mask, image or classes.txt, and a mask of another size than its image.
    """
    root = source if source.is_dir() else source.parent
    classes = tuple(read_lines(root / "classes.txt"))
    repeated = next((name for name in classes if classes.count(name) > 1), None)
    if repeated is not None or not 0 < len(classes) <= IGNORE:
        what = f"{brief(repr(repeated))} twice" if repeated is not None else f"{len(classes)} lines"
        raise TruthError(f"{root / 'classes.txt'} has {what}: give 1 to {IGNORE} classes, one a line")
    listed, masks = list_images(images or root / "images"), list_images(root / "masks")
    wanted = read_lines(source) if source.is_file() else [name.rpartition(".")[0] for name in masks]
    twice = next((stem for stem in wanted if wanted.count(stem) > 1), None) if len(set(wanted)) < len(wanted) else None
    if twice is not None:
        raise TruthError(
            f"{brief(repr(twice))} stands twice in {source if source.is_file() else root / 'masks'}: keep one"
        )
    names, stems = [], by_stem(list(listed))
    for stem in wanted:
        same = stems.get(stem, [])
        if len(same) != 1 or f"{stem}.png" not in masks:
            what = "mask" if len(same) == 1 else "image" if not same else f"single image ({', '.join(same)})"
            raise TruthError(f"{brief(repr(stem))} of {source} has no {what} in {root}: mend the list or the folders")
        names.append(same[0])
    paths, drawn = [listed[name] for name in names], [masks[f"{stem}.png"] for stem in wanted]
    sizes = upright_sizes(paths)
    _check_masks(drawn, sizes)
    found = [
        _image(number, name, path, size, mask=mask)
        for number, (name, path, size, mask) in enumerate(zip(names, paths, sizes, drawn, strict=True), 1)
    ]
    return Truth(classes, found, tuple(range(len(classes))), kind="semantic")


def read_mask(image: LabelledImage, classes: int) -> np.ndarray:
    """The map of a semantic image: uint8 (H, W), positions in the truth's classes, whose number is `classes`, and 255
    where nothing is said. Raises TruthError if it cannot be read."""
    try:
        with Image.open(str(image.mask)) as file:
            values = np.array(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise TruthError(f"mask {image.mask} cannot be read ({error}): replace it or take it out") from None
    return np.where(values < classes, values, IGNORE).astype(np.uint8)


def _check_masks(masks: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    with ThreadPoolExecutor(READERS) as threads:
        headers = list(threads.map(_mask_header, masks))
    for path, (mode, size), wanted in zip(masks, headers, sizes, strict=True):
        if mode not in ("L", "P"):
            raise TruthError(f"mask {path} has pixels of mode {mode}: save it as an 8-bit grey or palette PNG")
        if size != wanted:
            raise TruthError(
                f"mask {path} is {size[0]}x{size[1]}, but its image {wanted[0]}x{wanted[1]} upright: correct it"
            )


def _mask_header(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        with Image.open(path) as file:
            return file.mode, file.size
    except (OSError, ValueError, SyntaxError) as error:
        raise TruthError(f"mask {path} cannot be read ({error}): replace it or take it out") from None


def _image(
    number: int,
    name: str,
    path: Path,
    size: tuple[int, int],
    *,
    label: int | None = None,
    mask: Path | None = None,
) -> LabelledImage:
    """An image without boxes."""
    none = np.zeros(0, bool)
    boxes, labels, area = np.zeros((0, 4), np.float32), np.zeros(0, np.int16), np.zeros(0, np.float32)
    return LabelledImage(name, path, *size, boxes, labels, none, area, number, none, label=label, mask=mask)

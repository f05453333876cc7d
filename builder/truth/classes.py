"""Classes of images: a folder for each, or a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from builder.errors import BuildError, brief
from builder.store.names import Folder, canonical
from builder.store.text import read_rows
from builder.truth.class_names import read_class_lines
from builder.truth.listing import list_images, upright_sizes
from builder.truth.records import NO_CLASSES, Truth, TruthError, without_boxes

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "pool", "unlabelled"})


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
    labelled = [
        without_boxes(number, name, path, size, label=place.get(name.partition("/")[0]))
        for number, ((name, path), size) in enumerate(zip(listed.items(), sizes, strict=True), 1)
    ]
    return Truth(classes, labelled, tuple(range(len(classes))), kind="classification")


def read_table(source: Path, images: Path | None = None) -> Truth:
    """Classification labels from a `.csv` with a first line of names, `file` and `class` among them; the other columns
    are not looked at. Files lie relative to `images`, else to the table; a row without a class shows none of them.

    Classes are those of the `classes.txt` beside the table, in its order, else the table's, sorted. Raises TruthError
    for a table without the two columns or rows, a file that is missing or stands twice, and an unknown class.
    """
    root, rows = images or source.parent, _rows(source)
    if not rows:
        raise TruthError(f"{source} has no rows: give one for each image")
    beside = source.parent / "classes.txt"
    named = {name for _, name in rows if name} - NO_CLASSES
    classes = read_class_lines(beside) if beside.is_file() else tuple(sorted(named))
    unknown = sorted(named.difference(classes))
    if unknown:
        raise TruthError(f"{source} has the class {brief(repr(unknown[0]))}, which is not in {beside}: add it there")
    files = [file for file, _ in rows]
    if twice := next((file for file, count in Counter(files).items() if count > 1), None):
        raise TruthError(f"{source} lists {brief(repr(twice))} twice: keep one")
    folder = Folder(root)
    paths = {file: folder.find(file) for file in files}
    gone = next((file for file, path in paths.items() if path is None), None)
    if gone is not None:
        raise TruthError(
            f"{source} lists {brief(repr(gone))}, which is not in {root}: say where with --images DIR, or `images` in "
            "a recipe"
        )
    place = {name: number for number, name in enumerate(classes)}
    there = [path for path in paths.values() if path is not None]
    sizes = upright_sizes(there)
    labelled = [
        without_boxes(number, file, path, size, label=place.get(name))
        for number, ((file, name), path, size) in enumerate(zip(rows, there, sizes, strict=True), 1)
    ]
    return Truth(classes, labelled, tuple(range(len(classes))), kind="classification")


def _rows(source: Path) -> list[tuple[str, str]]:
    """File and class of each row of a table."""
    try:
        header, *rows = [[cell.strip() for cell in row] for _, row in read_rows(source)] or [[]]
    except BuildError as error:
        raise TruthError(str(error)) from None
    if not {"file", "class"} <= set(header):
        raise TruthError(f"{source} has no columns file and class: name them in its first line")
    columns = header.index("file"), header.index("class")
    padded = ([*row, *[""] * (len(header) - len(row))] for row in rows)
    return [(canonical(row[columns[0]]), canonical(row[columns[1]])) for row in padded]

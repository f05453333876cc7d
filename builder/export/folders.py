"""Versions of maps and of image classes as folders, in layouts that builder.truth.read reads again."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from builder.errors import BuildError
from builder.export.items import write

if TYPE_CHECKING:
    from builder.export.items import Item


LABELS_CSV = "labels.csv"
COLUMNS = ("file", "class", "score", "source")


def write_masks(folder: Path, classes: Sequence[str], items: Iterable[Item], counts: Counter[str]) -> None:
    """`images/`, `masks/` (8-bit PNG, a position in `classes.txt`, 255 for void) and `classes.txt`."""
    _write_names(folder, classes)
    for item in items:
        if item.data is not None:
            write(folder / "images" / item.file, item.data)
        write(folder / "masks" / item.file.with_suffix(".png"), item.rest)
        counts["kept"] += sum(item.label["pixels"]["kept"])
        counts["ignored"] += sum(item.label["pixels"]["ignored"])


def write_classes(folder: Path, classes: Sequence[str], items: Iterable[Item], counts: Counter[str]) -> None:
    """A folder of images for each class, `labels.csv` with the class and score of each, and `classes.txt`."""
    for name in classes:
        if name in (".", "..") or not name or set(name) & set("/\\\0"):
            raise BuildError(f"class {name!r} cannot be the name of a folder: rename it with keep.classes")
    _write_names(folder, classes)
    with open(folder / LABELS_CSV, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for item in items:
            place = item.file
            name = classes[item.label["label"]]
            if item.data is not None:
                place = PurePosixPath(name) / item.file
                write(folder / place, item.data)
            rows.writerow([place, name, f"{item.label['score']:.6f}", item.label["source"]])
            counts["kept"] += 1


def _write_names(folder: Path, classes: Sequence[str]) -> None:
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), "utf-8")

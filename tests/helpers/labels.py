"""Labels as other tools write them, for tests that read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from builder.truth.read import read_truth
from builder.truth.records import Truth, TruthError


def save(path: Path, size: tuple[int, int] = (20, 10), turned: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    Image.new("RGB", size).save(path, exif=exif)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def voc(
    *objects: tuple[str, Sequence[object]],
    difficult: int = 0,
    filename: str = "a.jpg",
    size: tuple[int, int] | None = (20, 10),
) -> str:
    """An annotation with these (name, (xmin, ymin, xmax, ymax)); the first is `difficult`."""
    rows = "".join(
        f"<object><name>{name}</name><difficult>{difficult if n == 0 else 0}</difficult><part><name>head</name><bndbox>"
        "<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for n, (name, box) in enumerate(objects)
    )
    said = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{said}{rows}</annotation>"


def names(truth: Truth) -> list[str]:
    return [image.name for image in truth.images]


def refused(source: Path, *words: str, **options: object) -> None:
    with pytest.raises(TruthError) as error:
        read_truth(source, **options)  # type: ignore[arg-type]
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)

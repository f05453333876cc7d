"""Human labels of any format: recognise it, and read it with its reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from builder.truth.classes import read_classes, read_table
from builder.truth.coco import read_coco
from builder.truth.listing import LAYOUT, YAML
from builder.truth.masks import read_masks
from builder.truth.records import Format, Truth, TruthError, check_detection, unit_of
from builder.truth.voc import read_voc
from builder.truth.yolo import read_yolo
from teachers.images import file_extensions


def read_truth(
    source: Path | str,
    images: Path | str | None = None,
    format: Format | None = None,
    group: str | None = None,
    outlines: bool = False,
) -> Truth:
    """Read human labels of any format.

    Args:
        source: a COCO JSON, a Pascal VOC folder or list, a YOLO folder or its YAML, folders of classes, a CSV of
            classes, or folders of images and masks.
        images: the folder of the image files, where it is not the one that the format has them in.
        format: where it cannot be recognised (`recognise`).
        group: what names an image's unit (a sequence, a patient): `folder`, the folder in its name, or a regular
            expression whose first group, searched for in the name, does.
        outlines: read those of a COCO JSON as well.

    Returns:
        The labelled images, in the order of their file or of their names.

    Raises:
        TruthError: for labels that cannot be used.
    """
    source = Path(source)
    if not source.exists():
        raise TruthError(f"labels {source} do not exist: give a COCO JSON or a folder of VOC, YOLO, classes or masks")
    truth = read_format(source, format or recognise(source), None if images is None else Path(images), outlines)
    if group is None:
        return truth
    return replace(truth, images=[replace(image, unit=unit_of(image.name, group)) for image in truth.images])


def read_detection(source: Path | str, images: Path | str | None = None) -> Truth:
    """`read_truth` for those who need boxes. Raises TruthError for labels of another kind."""
    truth = read_truth(source, images)
    check_detection(truth, source)
    return truth


def read_format(source: Path, format: Format, images: Path | None, outlines: bool = False) -> Truth:
    """Labels of a known format; outlines: see `read_truth`. Raises TruthError as its reader does, and for outlines of a
    format that has none."""
    if outlines and format != "coco":
        raise TruthError(f"{source} ({format}) has no outlines of objects: give a COCO JSON with segmentation")
    match format:
        case "coco":
            return read_coco(only_json(source), images, outlines)
        case "voc":
            return read_voc(source, images)
        case "yolo":
            return read_yolo(source, images)
        case "classes":
            return read_table(source, images) if source.is_file() else read_classes(source, images)
        case "masks":
            return read_masks(source, images)
        case _:
            raise TruthError(f"format {format!r} is none of {', '.join(get_args(Format))}")


def only_json(source: Path) -> Path:
    """A COCO file, or the only `.json` of a folder. Raises TruthError if there are several, or none."""
    if not source.is_dir():
        return source
    names = sorted(path.name for path in source.glob("*.json"))
    if len(names) != 1:
        there = f"{len(names)} JSON files, {', '.join(names[:3])}" if names else "no JSON file"
        raise TruthError(f"{source} has {there}: name the COCO JSON that is meant")
    return source / names[0]


def recognise(source: Path) -> Format:
    """The format of labels, by what lies there: a `.json` (COCO); a `.csv` (classes); `Annotations/` or `.xml` files
    (VOC); a `.yaml`, or `labels/` beside images (YOLO); `masks/`; else folders of images (classes). A list (`.txt`) is
    VOC's where `Annotations/` lies two folders above it, and of masks beside `masks/`.

    Raises TruthError, with what was found and the choices, unless exactly one fits.
    """
    signs = _signs_of_folder(source) if source.is_dir() else _signs_of_file(source)
    if len(signs) == 1:
        return next(iter(signs))
    choices = ", ".join(get_args(Format))
    if signs:
        seen = " and ".join(f"{what} ({format})" for format, what in signs.items())
        raise TruthError(f"{source} has {seen}: say which labels are meant with format, one of {choices}")
    raise TruthError(f"{source} has no labels of a known format: give one of {choices} (format says which)")


def _signs_of_file(source: Path) -> dict[Format, str]:
    match source.suffix.lower():
        case ".json":
            return {"coco": source.name}
        case ".csv":
            return {"classes": source.name}
        case ".yaml" | ".yml":
            return {"yolo": source.name}
        case ".txt":
            signs: dict[Format, str] = {}
            if (source.parent / "masks").is_dir():
                signs["masks"] = "masks/ beside it"
            if (source.parent.parent.parent / "Annotations").is_dir():
                signs["voc"] = "Annotations/ two folders above it"
            return signs
    return {}


def _signs_of_folder(source: Path) -> dict[Format, str]:
    signs: dict[Format, str] = {}
    if file := next(source.glob("*.json"), None):
        signs["coco"] = file.name
    if (source / "Annotations").is_dir():
        signs["voc"] = "Annotations/"
    elif file := next(source.glob("*.xml"), None) or next(source.glob("*/*.xml"), None):
        signs["voc"] = file.relative_to(source).as_posix()
    if file := next((path for path in sorted(source.iterdir()) if path.suffix in YAML), None):
        signs["yolo"] = file.name
    elif (source / "labels").is_dir():
        signs["yolo"] = "labels/"
    if (source / "masks").is_dir():
        signs["masks"] = "masks/"
    if not signs and (root := next((f for f in source.absolute().parents[:3] if (f / "data.yaml").is_file()), None)):
        signs["yolo"] = f"{root / 'data.yaml'} above it"
    if not signs:
        inside = (path for path in sorted(source.iterdir()) if path.is_dir() and path.name not in LAYOUT)
        if named := next((folder for folder in inside if not folder.name.startswith(".") and _has_image(folder)), None):
            signs["classes"] = f"{named.name}/ with images"
    return signs


def _has_image(folder: Path) -> bool:
    return any(path.suffix[1:].lower() in file_extensions() for path in folder.rglob("*"))

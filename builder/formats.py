"""Which format human labels have, and the images in their folders."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from builder.sources import EXTENSIONS, list_source
from builder.truth import Format, Truth, TruthError, read_coco
from teachers.images import ImageError, read_header

READERS = 4
"""Threads that read files."""
LAYOUT = frozenset({"images", "labels", "masks", "Annotations", "JPEGImages", "ImageSets"})
"""Folders that belong to a format, and so are no classes."""
YAML = (".yaml", ".yml")


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
        found = " and ".join(f"{what} ({format})" for format, what in signs.items())
        raise TruthError(f"{source} has {found}: say which labels are meant with format, one of {choices}")
    raise TruthError(f"{source} has no labels of a known format: give one of {choices} (format says which)")


def read_format(source: Path, format: Format, images: Path | None, outlines: bool = False) -> Truth:
    """Labels of a known format; outlines: see `read_truth`. Raises TruthError as its reader does, and for outlines of a
    format that has none."""
    if outlines and format != "coco":
        raise TruthError(f"{source} ({format}) has no outlines of objects: give a COCO JSON with segmentation")
    match format:
        case "coco":
            return read_coco(only_json(source), images, outlines)
        case "voc":
            from builder.voc import read_voc

            return read_voc(source, images)
        case "yolo":
            from builder.yolo import read_yolo

            return read_yolo(source, images)
        case "classes":
            from builder.folders import read_classes, read_table

            return read_table(source, images) if source.is_file() else read_classes(source, images)
        case "masks":
            from builder.folders import read_masks

            return read_masks(source, images)
        case _:
            raise TruthError(f"format {format!r} is none of {', '.join(get_args(Format))}")


def only_json(source: Path) -> Path:
    """A COCO file, or the only `.json` of a folder. Raises TruthError if there are several, or none."""
    if not source.is_dir():
        return source
    found = sorted(path.name for path in source.glob("*.json"))
    if len(found) != 1:
        there = f"{len(found)} JSON files, {', '.join(found[:3])}" if found else "no JSON file"
        raise TruthError(f"{source} has {there}: name the COCO JSON that is meant")
    return source / found[0]


def list_images(folder: Path) -> dict[str, Path]:
    """Every image below a folder, by its name: its path relative to the folder, NFC; sorted, hidden ones left out."""
    if not folder.is_dir():
        raise TruthError(f"{folder} is no folder of images: check its path")
    found: dict[str, Path] = {}
    for entry in sorted(list_source(str(folder))):
        if entry.offset:
            continue  # inside a tar
        if entry.name in found:
            raise TruthError(f"{found[entry.name]} and {entry.uri} have the same name in Unicode's NFC: rename one")
        found[entry.name] = Path(entry.uri)
    return found


def by_stem(names: Sequence[str]) -> dict[str, list[str]]:
    """Names of images by their path without extension."""
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(name.rpartition(".")[0], []).append(name)
    return stems


def upright_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Width and height of each image, pixels, after its EXIF rotation. Raises TruthError for one that is none."""
    with ThreadPoolExecutor(READERS) as threads:
        return list(threads.map(_upright_size, paths))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without the spaces around them, empty ones left out. Raises TruthError."""
    try:
        return [stripped for line in path.read_text("utf-8-sig").splitlines() if (stripped := line.strip())]
    except OSError as error:
        raise TruthError(f"{path} cannot be read ({error.strerror}): check its path") from None
    except UnicodeDecodeError as error:
        raise TruthError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None


def _upright_size(path: Path) -> tuple[int, int]:
    try:
        header = read_header(path.read_bytes())
    except (OSError, ImageError) as error:
        raise TruthError(f"labelled image {path} cannot be used: {error}: replace it or take it out") from error
    return header.width, header.height


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
    if found := next(source.glob("*.json"), None):
        signs["coco"] = found.name
    if (source / "Annotations").is_dir():
        signs["voc"] = "Annotations/"
    elif found := next(source.glob("*.xml"), None) or next(source.glob("*/*.xml"), None):
        signs["voc"] = found.relative_to(source).as_posix()
    if found := next((path for path in sorted(source.iterdir()) if path.suffix in YAML), None):
        signs["yolo"] = found.name
    elif (source / "labels").is_dir():
        signs["yolo"] = "labels/"
    if (source / "masks").is_dir():
        signs["masks"] = "masks/"
    if not signs and (found := next((f for f in source.absolute().parents[:3] if (f / "data.yaml").is_file()), None)):
        signs["yolo"] = f"{found / 'data.yaml'} above it"
    if not signs:
        inside = (path for path in sorted(source.iterdir()) if path.is_dir() and path.name not in LAYOUT)
        if found := next((folder for folder in inside if not folder.name.startswith(".") and _has_image(folder)), None):
            signs["classes"] = f"{found.name}/ with images"
    return signs


def _has_image(folder: Path) -> bool:
    return any(path.suffix[1:].lower() in EXTENSIONS for path in folder.rglob("*"))

"""Human labels of any format: recognise it, and read it with its reader."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

from builder.errors import brief
from builder.truth.classes import read_classes, read_table
from builder.truth.coco import read_coco
from builder.truth.doubts import check_boxes, check_masks
from builder.truth.masks import read_masks
from builder.truth.options import USUAL, LabelOptions, Part
from builder.truth.recognise import recognise
from builder.truth.records import CountedFrom, Format, Split, Truth, TruthError, check_detection, unit_of
from builder.truth.voc import read_voc
from builder.truth.yolo import read_yolo


def read_truth(
    source: Path | str,
    images: Path | str | None = None,
    format: Format | None = None,
    group: str | None = None,
    outlines: bool = False,
    split: Split = "val",
    counted_from: CountedFrom | None = None,
) -> Truth:
    """Read human labels of any format.

    Args:
        source: a COCO JSON, a Pascal VOC folder or list, a YOLO or Darknet folder, its data.yaml or obj.data, folders
            of classes, a CSV of classes, or folders of images and masks. `data.yaml#train` says which split is meant.
        images: the folder of the image files, where it is not the one that the format has them in.
        format: where it cannot be recognised (`recognise`).
        group: what names an image's unit (a sequence, a patient): `folder`, the folder in its name, or a regular
            expression whose first group, searched for in the name, does.
        outlines: read those of a COCO JSON as well.
        split: the part that is meant by a data.yaml that names several, unless the source says; `all` of them.
        counted_from: what the corners of Pascal VOC boxes call the first pixel, where they do not show it.

    Returns:
        The labelled images, in the order of their file or of their names.

    Raises:
        TruthError: for labels that cannot be used.
    """
    path, stated = divided(source)
    for place in (path, images):
        _check_here(str(place))
    if not path.exists():
        raise TruthError(f"labels {path} do not exist: give a COCO JSON or a folder of VOC, YOLO, classes or masks")
    format = format or recognise(path)
    if stated and format != "yolo":
        raise TruthError(f"{source} names a split, but {path} ({format}) has none: leave #{stated} out")
    if counted_from is not None and format != "voc":
        raise TruthError(f"counted_from is about Pascal VOC, but {path} is {format}: leave it out")
    if outlines and format != "coco":
        raise TruthError(f"{path} ({format}) has no outlines of objects: give a COCO JSON with segmentation")
    where = None if images is None else Path(images)
    match format:
        case "coco":
            truth = read_coco(only_json(path), where, outlines)
        case "voc":
            truth = read_voc(path, where, counted_from)
        case "yolo":
            truth = read_yolo(path, where, stated or split, stated is not None)
        case "classes":
            truth = read_table(path, where) if path.is_file() else read_classes(path, where)
        case "masks":
            truth = read_masks(path, where)
            check_masks(truth, path)
        case _:
            raise TruthError(f"format {format!r} is none of {', '.join(get_args(Format))}")
    check_boxes(truth, path)
    if group is None:
        return truth
    return replace(truth, images=[replace(image, unit=unit_of(image.name, group)) for image in truth.images])


def read_section(options: LabelOptions, part: Part, outlines: bool = False) -> Truth:
    """`read_truth` of a section of a recipe. part: what the section is for, which says which split is meant where it
    does not say."""
    source = options.source if options.split is None else f"{options.source}#{options.split}"
    return read_truth(
        source,
        options.images,
        options.format,
        options.group,
        outlines,
        USUAL[part],
        options.counted_from,
    )


def divided(source: Path | str) -> tuple[Path, Split | None]:
    """The path of labels, and the split that stands behind a `#`, unless that is part of a name. Raises TruthError for
    one that is none."""
    path = Path(source)
    name, sign, split = path.name.rpartition("#")
    if not sign or path.exists():
        return path, None
    if split not in get_args(Split):
        raise TruthError(f"{source} names the split {brief(repr(split))}: give one of {', '.join(get_args(Split))}")
    return path.with_name(name), split  # type: ignore[return-value]


def named(source: str, split: Split | None) -> str:
    """What a source is called where its split is not plain from its name: `data.yaml#val`."""
    path = Path(source)
    return source if split in (None, path.name) or path.name.endswith(f"#{split}") else f"{source}#{split}"


def read_detection(source: Path | str, images: Path | str | None = None) -> Truth:
    """`read_truth` for those who need boxes. Raises TruthError for labels of another kind."""
    truth = read_truth(source, images)
    check_detection(truth, source)
    return truth


def only_json(source: Path) -> Path:
    """A COCO file, or the only `.json` of a folder, or of `annotations/` in it. Raises TruthError unless it is one."""
    if not source.is_dir():
        return source
    files = sorted(source.glob("*.json")) or sorted(source.glob("annotations/*.json"))
    if len(files) != 1:
        there = f"{len(files)} JSON files, {', '.join(file.name for file in files[:3])}" if files else "no JSON file"
        raise TruthError(f"{source} has {there}: name the COCO JSON that is meant")
    return files[0]


def _check_here(place: str) -> None:
    """Raise TruthError for an address, of which a path has one slash: human labels and their images lie on a disk."""
    if address := re.match("([a-z][a-z0-9+.-]+):/+(.*)", place):
        raise TruthError(f"{address[1]}://{address[2]} is an address, and human labels are read from a disk: fetch it")

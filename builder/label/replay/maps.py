"""Semantic maps in a folder: a pair of PNGs for each image."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from builder.errors import BuildError, brief
from builder.label.replay.stored import Stored, digest_files
from builder.truth.class_names import read_class_lines
from builder.truth.listing import list_images
from builder.truth.masks import read_plane
from teachers.base import VOID, SemanticMap, TeacherOptions


def read_maps(folder: Path, options: TeacherOptions) -> Stored:
    """A folder with classes.txt (a class a line), `labels/STEM.png` and `confidence/STEM.png`, where STEM is the path
    of the image without its extension. Both are 8-bit grey (or palette) and as large as the image: positions in
    classes.txt, 255 for none, and 255 times the probability. Raises BuildError for what is missing, and on reading for
    maps of another size or with a value that is no class."""
    options.refuse("maps, which are stored whole", "floor", "max_detections", "classes")
    classes = read_class_lines(folder / "classes.txt")
    if not 0 < len(classes) <= VOID or len(set(classes)) < len(classes):
        raise BuildError(f"{folder / 'classes.txt'} has {len(classes)} lines: give 1 to {VOID} different classes")
    labels, confidence = (_planes(folder / part) for part in ("labels", "confidence"))
    if lonely := sorted(labels.keys() ^ confidence.keys()):
        there, lacks = ("labels", "confidence") if lonely[0] in labels else ("confidence", "labels")
        raise BuildError(f"{folder / there} has {brief(lonely[0])}.png, but {lacks} has not: add it, or take it out")

    def read(name: str, width: int, height: int) -> SemanticMap:
        planes = [
            read_plane(labels[name], ("L", "P"), (width, height)),
            read_plane(confidence[name], ("L",), (width, height)),  # a palette's indices are no confidences
        ]
        wrong = np.setdiff1d(planes[0], [*range(len(classes)), VOID])
        if len(wrong):
            raise BuildError(
                f"{labels[name]} has the value {wrong[0]}, but classes.txt {len(classes)} classes: correct it"
            )
        return SemanticMap(*planes)

    files = [folder / "classes.txt", *labels.values(), *confidence.values()]
    digests = {"results": digest_files(folder, files), "images": None}
    listing = f"{folder.absolute().name}/labels"
    return Stored("semantic", classes, dict.fromkeys(labels), read, listing, digests, stems=True)


def _planes(folder: Path) -> dict[str, Path]:
    """The PNGs of a folder by their path without extension."""
    planes: dict[str, Path] = {}
    for name, path in list_images(folder).items():
        stem, extension = os.path.splitext(name)
        if extension.lower() != ".png":
            raise BuildError(f"{folder / name} is no PNG: save maps as 8-bit grey PNGs, or take it out")
        if stem in planes:
            raise BuildError(f"{planes[stem]} and {path} are of one image: take one out")
        planes[stem] = path
    return planes

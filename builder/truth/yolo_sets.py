"""Which images a YOLO or Darknet data set holds, which of them a split takes, and where the label file of each lies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath

from builder.errors import brief
from builder.store.names import Folder
from builder.truth.listing import list_images, read_lines
from builder.truth.records import Split, TruthError
from builder.truth.yolo_index import YoloIndex, find_index, locate, read_index

IMAGE_FOLDERS = ("images", "JPEGImages")
"""In place of the last of these in an image's path its label file has `labels`."""
NO_LABELS = frozenset({"classes"})
"""Stems of text files that may lie among the labels and are none."""


@dataclass(frozen=True)
class YoloSet:
    """Images and their label files, which need not all be there.

    images: by their names, relative to the data set. labels: of each, in their order. base: above all label files.
    listed: a list says which images these are, so that there may be label files of others. split: the one they are of,
    None where nothing says; twin: another one of the same images.
    """

    index: YoloIndex
    images: Mapping[str, Path]
    labels: Sequence[Path]
    base: Path
    listed: bool = False
    split: Split | None = None
    twin: str = ""


def find_set(source: Path, images: Path | None, split: Split, stated: bool) -> YoloSet:
    """The images and label files of a data set, or of the part of it that `source` is.

    source: a data.yaml or obj.data, or the folder it lies in; a list of images (`train.txt`); a folder of images in a
    data set. images: see `read_yolo`. split: which one is meant where an index names several; stated: the user asked
    for it. Raises TruthError for a split that is not named, and for a folder that holds several.
    """
    folder = (source if source.is_dir() else source.parent).absolute()
    is_list = source.is_file() and source.suffix == ".txt"
    index = read_index(source.absolute() if source.is_file() and not is_list else find_index(folder))
    if is_list:
        return _of_places(index, [source.absolute()], images)
    if index.file.parent == folder and index.splits:
        chosen = index.choose(split, stated)
        labels = _label_folder(index, chosen) if images else None
        places = [] if labels else index.places(chosen)
        of_split = _of_files(index, labels, images) if labels and images else _of_places(index, places, images)
        known = chosen if chosen == split else None  # what CVAT calls `train` is all there is
        return replace(of_split, split=known, twin=index.twin(chosen))
    if stated and not index.splits:
        raise TruthError(f"{source}#{split}: {index.file} names no splits: leave #{split} out")
    return replace(_below(index, folder, images), split=_split_of(index, folder, split, stated))


def _below(index: YoloIndex, folder: Path, images: Path | None) -> YoloSet:
    """All images below a folder, or below `images`, with their label files below it."""
    if images:
        return _of_files(index, folder / "labels" if (folder / "labels").is_dir() else folder, images)
    above = index.file.parent
    base = above if folder.is_relative_to(above) else folder
    paths = list_images(folder).values()
    named = {path.relative_to(base).as_posix(): path for path in paths}  # the same, whichever part of the set is read
    return YoloSet(index, named, _label_files(named, Folder(base)), base)


def _of_files(index: YoloIndex, base: Path, images: Path) -> YoloSet:
    """All images below a folder, with their label files below another."""
    where, labels = images.absolute(), Folder(base)
    named = {path.relative_to(where).as_posix(): path for path in list_images(where).values()}
    files = [PurePosixPath(name).with_suffix(".txt") for name in named]
    return YoloSet(index, named, [labels.find(file) or base / file for file in files], base)


def _label_folder(index: YoloIndex, split: Split) -> Path | None:
    """The folder of the label files of a split, if the index names one folder of its images, which may be elsewhere."""
    texts = {text for name, named in index.splits.items() if split in (name, "all") for text in named}
    folders = {_label_path(PurePosixPath(text) / "image").parent for text in texts}
    place = locate(Folder(index.root), str(min(folders))) if len(folders) == 1 else None
    return place if place and place.is_dir() else None


def _of_places(index: YoloIndex, places: Iterable[Path], images: Path | None) -> YoloSet:
    """The images in these folders and lists."""
    root, below, listed = index.root, Folder(index.root), False
    named: dict[str, Path] = {}
    labels: list[Path] = []
    for place in places:
        if place.is_dir():
            if images is not None:
                raise TruthError(
                    f"{index.file} names folders of images, {place} first, so that --images {images} could be of any: "
                    "give the folder of its label files as the labels"
                )
            paths = list(list_images(place).values())
            found = {_name(path, root): path for path in paths}
            named |= found
            labels += _label_files(found, below)
            continue
        listed, beside = True, Folder(place.parent)
        for line, image in _listed(place, beside, below, images):
            name = _name(image, root) if images is None else image.relative_to(images).as_posix()
            if name in named:
                raise TruthError(f"{place} lists {brief(line)}, but {image} is another line's image too: keep one")
            named[name] = image
            labels.append(_label_of_line(line, beside, below) if images else _label_files({name: image}, below)[0])
    return YoloSet(index, named, labels, root, listed)


def _listed(file: Path, beside: Folder, below: Folder, images: Path | None) -> Iterator[tuple[str, Path]]:
    """Each line of a list, and its image: beside the list, or below the data set. Raises TruthError for one that is
    not there."""
    elsewhere = Folder(images) if images else None
    for line in read_lines(file):
        parts = PurePath(line.replace("\\", "/")).parts
        if elsewhere:
            ends = (PurePath(*parts[n:]) for n in range(parts[:1] == ("/",), len(parts)))
            image = next((found for end in ends if (found := elsewhere.find(end))), None)
        else:
            image = locate(beside, line) or locate(below, line)
        if image is None or not image.is_file():
            raise TruthError(
                f"{file} lists {brief(repr(line))}, which is not in {images or below.root}: export the labels with "
                "their images, or say where these are with --images DIR, or `images` in a recipe"
            )
        yield line, image


def _label_of_line(line: str, beside: Folder, below: Folder) -> Path:
    """The label file of a listed image that lies elsewhere."""
    nominal = _label_path(PurePosixPath(line.replace("\\", "/")))
    return locate(beside, str(nominal)) or locate(below, str(nominal)) or below.root / nominal


def _label_files(named: Mapping[str, Path], below: Folder) -> list[Path]:
    """The label file of each image, by its path relative to the folder, where it lies inside."""
    root, files = below.root, []
    for path in named.values():
        file = _label_path(path.relative_to(root) if path.is_relative_to(root) else path)
        files.append(below.find(file) or root / file)
    return files


def _label_path(image: PurePath) -> PurePosixPath:
    parts = PurePosixPath(image).with_suffix(".txt").parts
    places = [n for n, part in enumerate(parts[:-1]) if part in IMAGE_FOLDERS]
    if places:
        parts = (*parts[: places[-1]], "labels", *parts[places[-1] + 1 :])
    return PurePosixPath(*parts)


def _name(image: Path, root: Path) -> str:
    """Relative to the data set; of an image outside, from the first folder that both share."""
    return os.path.relpath(image, root).replace("../", "up/")


def _split_of(index: YoloIndex, folder: Path, split: Split, stated: bool) -> Split | None:
    """The split that a folder of images is in. Raises TruthError if it holds several, or another than was asked for."""
    held: list[Split] = []
    for name, texts in index.splits.items():
        places = [place for text in texts if (place := locate(Folder(index.root), text)) and place.is_dir()]
        if any(folder.is_relative_to(place) or place.is_relative_to(folder) for place in map(Path.resolve, places)):
            held.append(name)
    if split == "all" or not held:
        return None
    if len(held) > 1 and index.twin(held[0]) not in held:
        raise TruthError(
            f"{folder} holds the splits {' and '.join(held)} of {index.file}: give {index.file.name}#{split}, or the "
            "folder of one"
        )
    if stated and split not in held:
        raise TruthError(f"{folder} holds the {held[0]} split of {index.file}, not {split}: give its folder")
    return split if split in held else held[0]

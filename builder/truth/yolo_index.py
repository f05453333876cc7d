"""What a data set of YOLO or Darknet says of itself: its classes, and which images belong to which split."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.errors import brief
from builder.store.names import Folder
from builder.truth.class_names import YAML, names_in, read_names, read_settings
from builder.truth.listing import read_lines
from builder.truth.records import Split, TruthError

KEYS: Mapping[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Keys of a data.yaml or obj.data -> the split whose images they name."""
NAMES = ("data.yaml", "obj.names", "_darknet.labels", "classes.txt")
"""Files with the names of the classes, best first."""
ABOVE = 3
"""How many folders above the labels these may lie."""


@dataclass(frozen=True)
class YoloIndex:
    """A data.yaml or obj.data. root: what its paths are relative to; splits: the folders and lists of each, as written;
    numbers, classes: what label files call each class, and its name; keypoints: numbers of a row after its box."""

    file: Path
    root: Path
    splits: Mapping[Split, Sequence[str]]
    numbers: tuple[int, ...]
    classes: tuple[str, ...]
    keypoints: int = 0

    def places(self, split: Split) -> list[Path]:
        """The folders and lists of a split, or of all. Raises TruthError for one that is not there."""
        if split == "all":
            return list(dict.fromkeys(place for each in self.splits for place in self.places(each)))
        places = []
        for text in self.splits[split]:
            place = locate(Folder(self.root), text)
            if place is None:
                raise TruthError(
                    f"{self.file}: {split} is {brief(text)}, which is not in {self.root}: correct it, or give the "
                    "folder of images instead"
                )
            places.append(place)
        return places

    def twin(self, split: Split) -> str:
        """Another split of the same folders and lists, if there is one."""
        others = (other for other in self.splits if other != split and self.splits[other] == self.splits.get(split))
        return next(others, "")

    def choose(self, split: Split | None, stated: bool) -> Split:
        """The split to read. stated: the user asked for it. Raises TruthError where there is no such split."""
        if split == "all" or split in self.splits:
            return split  # type: ignore[return-value]
        named = list(self.splits)
        if self.file.suffix not in YAML and len(named) == 1 and not stated:
            return named[0]  # CVAT calls what has no subset `train`
        raise TruthError(
            f"{self.file} names no {split} split ({', '.join(named)} alone): give {self.file.name}#{named[0]} if these "
            "are the images that are meant, or other labels"
        )


def read_index(file: Path) -> YoloIndex:
    """The index of a data set, or only its classes, where `file` (see `find_index`) says no more. Raises TruthError for
    one that does not hold together."""
    if file.suffix == ".data":
        return _read_darknet(file)
    if file.suffix not in YAML:
        return YoloIndex(file, file.parent, {}, *read_names(file))
    settings = read_settings(file)
    numbers, classes = names_in(settings, file)
    splits: dict[Split, Sequence[str]] = {}
    for key, split in KEYS.items():
        value = settings.get(key) or []
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(path, str) for path in value):
            raise TruthError(f"{file}: {key} is neither a path nor a list of paths: correct it")
        if value and split not in splits and value != ["null"]:
            splits[split] = value
    stated = settings.get("path")
    root = file.parent / stated if isinstance(stated, str) and stated else file.parent
    shape = settings.get("kpt_shape")
    sides = [int(side) for side in shape] if isinstance(shape, list) and all(map(str.isdecimal, shape)) else []
    keypoints = sides[0] * sides[1] if len(sides) == 2 else 0
    return YoloIndex(file, root if os.path.isdir(root) else file.parent, splits, numbers, classes, keypoints)


def find_index(folder: Path) -> Path:
    """The file that says most of the labels in a folder: an index in it, the only YAML in it, or one of NAMES in it or
    in one of the three folders above. Raises TruthError if there is none, or more than one that could be meant."""
    for suffixes, usual in (((".data",), "obj.data"), (YAML, "data.yaml")):
        files = [path for path in sorted(folder.iterdir()) if path.suffix in suffixes]
        if folder / usual in files or len(files) == 1:
            return folder / usual if folder / usual in files else files[0]
        if files:
            raise TruthError(
                f"{folder} has {files[0].name} and {files[1].name}: give the one with the names of the classes"
            )
    places = [folder, folder / "labels", *folder.absolute().parents[:ABOVE]]
    for name in NAMES:
        if file := next((place / name for place in places if (place / name).is_file()), None):
            return file
    raise TruthError(
        f"{folder} has no data.yaml (nor obj.names or classes.txt), nor have the three folders above: write one with "
        "the names of classes"
    )


def locate(folder: Folder, written: str) -> Path | None:
    """The file or folder that an index or a list means by a path: relative to `folder`, where tools also write a
    `data/` or `../` that is not there (CVAT, Darknet, Roboflow), or the backslashes of Windows."""
    for text in dict.fromkeys((written, written.replace("\\", "/"))):
        path = PurePosixPath(text)
        paths = [path, PurePosixPath(*path.parts[1:])] if path.parts[:1] in (("data",), ("..",)) else [path]
        for each in paths:
            if os.path.isdir(folder.root / each):
                return folder.root / each
            if file := folder.find(each):
                return file
    return None


def _read_darknet(file: Path) -> YoloIndex:
    """The index in an obj.data: lines of `key = value`."""
    pairs = [line.partition("=") for line in read_lines(file) if not line.startswith("#")]
    settings = {key.strip().lower(): value.strip() for key, _, value in pairs}
    root = next(
        (r for r in (file.parent, file.parent.parent) if locate(Folder(r), settings.get("names", ""))), file.parent
    )
    names = locate(Folder(root), settings.get("names", ""))
    if names is None or not names.is_file():
        raise TruthError(
            f"{file} names no file with the classes that is there (names = {brief(settings.get('names', ''))}): "
            "correct it"
        )
    numbers, classes = read_names(names)
    if settings.get("classes", str(len(classes))) != str(len(classes)):
        raise TruthError(
            f"{file} says classes = {brief(settings['classes'])}, but {names} has {len(classes)}: correct one of them"
        )
    splits: dict[Split, Sequence[str]] = {split: [settings[key]] for key, split in KEYS.items() if settings.get(key)}
    return YoloIndex(file, root, splits, numbers, classes)

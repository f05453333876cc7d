"""Which format labels have, by what lies there. A layout that is not read is never taken for another that is."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from PIL import Image

from builder.errors import brief
from builder.scan.entries import is_image
from builder.truth.class_names import YAML
from builder.truth.records import Format, TruthError
from builder.truth.yolo_index import ABOVE

LABEL_FILES = frozenset(
    ".txt .json .jsonl .ndjson .xml .csv .tsv .yaml .yml .names .data .labels .mat .npy .npz .parquet .record .tfrecord"
    " .pkl .h5 .hdf5 .db .sqlite".split()
)
"""Extensions of files that may say what images show."""
NO_LABELS = re.compile(r"(read[-_ ]?me|license|licence|copying|notice|citation|changelog|requirements)\b.*", re.I)
"""Names of files that say nothing of images."""
NEVER = (
    r"images|imgs|img\d|labels|masks|annotations|jpegimages|imagesets|segmentation(class|object)(aug|raw)?"
    r"|leftimg8bit|gtfine|gtcoarse|(image|label)_[0-3]"
)
"""Names of folders that are parts of a layout, and never classes."""
PARTS = (
    NEVER + r"|image|img|label|mask|annots?|gt|ground[-_ ]?truth|seg(mentation)?s?|rgb|depth"
    r"|(obj_)?(train|training|val|valid|validation|test|testing|trainval|pool|unlabell?ed|dev)(\d{4})?"
    r"([-_ ]?(data|set|images?|imgs?|labels?|masks?|annot(ation)?s?))?"
)
"""Names of folders that are parts of a data set, where there are no others."""
OURS = {"classes.txt", "labels.csv"}
"""Files that our own export puts beside folders of classes."""
LAYOUTS = "a COCO JSON, Pascal VOC, YOLO with its data.yaml or obj.names, a CSV of classes, or images/ and masks/"
"""What is read."""
PEEKED = 8
"""Images of each folder that are looked at, to tell masks from classes."""


def recognise(source: Path) -> Format:
    """The format of labels, by what lies there:

    - coco: a `.json`, or a folder with one, or with `annotations/` that has one;
    - voc: `Annotations/`, or `.xml` files; a list (`.txt`) two folders below `Annotations/`;
    - yolo: a `.yaml`, an obj.data or obj.names, `labels/` with text files, or text files beside images and the names of
      the classes in the folder or above; a list of images beside any of these;
    - masks: `masks/`, or a list beside it;
    - classes: a `.csv`; else folders of images, with nothing that may be labels, and whose names are no parts of data
      sets.

    Raises TruthError, with what was found and the choices, unless exactly one fits.
    """
    signs = _signs_of_folder(source) if source.is_dir() else _signs_of_file(source)
    if len(signs) > 1 and "coco" in signs and not _is_coco(source / signs["coco"]):
        del signs["coco"]  # the notes.json of Label Studio's YOLO export
    if len(signs) == 1:
        return next(iter(signs))
    choices = ", ".join(get_args(Format))
    if signs:
        seen = " and ".join(f"{what} ({format})" for format, what in signs.items())
        raise TruthError(f"{source} has {seen}: say which labels are meant with format, one of {choices}")
    if source.is_dir() and _check_classes(source):
        return "classes"
    raise TruthError(f"{source} has no labels of a known format: give one of {choices} (format says which)")


def _signs_of_file(source: Path) -> dict[Format, str]:
    match source.suffix.lower():
        case ".json":
            return {"coco": source.name}
        case ".csv":
            return {"classes": source.name}
        case ".yaml" | ".yml" | ".data":
            return {"yolo": source.name}
        case ".txt":
            signs: dict[Format, str] = {}
            if (source.parent / "masks").is_dir():
                signs["masks"] = "masks/ beside it"
            if (source.parent.parent.parent / "Annotations").is_dir():
                signs["voc"] = "Annotations/ two folders above it"
            if not signs and (file := _first(source.parent, (*YAML, ".data", ".names"))):
                signs["yolo"] = f"{file.name} beside it"
            return signs
    return {}


def _signs_of_folder(source: Path) -> dict[Format, str]:
    signs: dict[Format, str] = {}
    index = _first(source, (*YAML, ".data", ".names"))
    files: dict[Format, Path | None] = {
        "coco": _match(source, "*.json", "annotations/*.json"),
        "voc": _match(source, "*.xml", "*/*.xml", "Annotations/**/*.xml"),
        "yolo": index or _match(source, "labels/**/*.txt") or _beside_image(source),
    }
    signs |= {format: file.relative_to(source).as_posix() for format, file in files.items() if file}
    if (source / "masks").is_dir():
        signs["masks"] = "masks/"
    if not signs and (
        root := next((f for f in source.absolute().parents[:ABOVE] if (f / "data.yaml").is_file()), None)
    ):
        signs["yolo"] = f"{root / 'data.yaml'} above it"
    return signs


def _match(source: Path, *patterns: str) -> Path | None:
    return next((file for pattern in patterns for file in source.glob(pattern)), None)


def _first(folder: Path, suffixes: Sequence[str]) -> Path | None:
    return next((path for path in sorted(folder.iterdir()) if path.suffix in suffixes), None)


def _beside_image(source: Path) -> Path | None:
    """A text file beside an image of its stem, in the folder or those in it."""
    for folder in (source, *sorted(path for path in source.iterdir() if path.is_dir())):
        names = set(os.listdir(folder))
        stems = (name.rpartition(".")[0] for name in sorted(names) if is_image(name))
        if stem := next((stem for stem in stems if f"{stem}.txt" in names), None):
            return folder / f"{stem}.txt"
    return None


def _is_coco(file: Path) -> bool:
    """Whether a JSON may be COCO's; one in UTF-16 may."""
    with open(file, "rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data[:2] in (b"\xff\xfe", b"\xfe\xff") or data.find(b'"annotations"') >= 0


def _check_classes(source: Path) -> bool:
    """Whether folders of images can be classes of them: False where there are none. Raises TruthError, with the reason,
    where they may be something else."""
    images, others = _tree(source)
    folders = sorted({name.partition("/")[0] for name in images if "/" in name})
    if not folders:
        return False
    parts = [name for name in folders if re.fullmatch(PARTS, name, re.I)]
    never = [name for name in folders if re.fullmatch(NEVER, name, re.I)]
    if len(parts) == len(folders) and not never:
        raise TruthError(f"{source} holds parts of a data set, not classes: give one of them, {source / folders[0]}")
    if others:
        reason = f"{brief(others[0])} may say what its images show, in a layout that is not read"
    elif never:
        reason = f"{never[0]}/ is no class, and this a layout that is not read"
    elif len(folders) == 1:
        reason = f"{folders[0]}/ alone has images, which makes no classes"
    elif masks := _masks(source, images, folders):
        reason = f"{masks}/ looks like masks of the images beside it"
    else:
        return True
    raise TruthError(f"{source}: {reason}: give {LAYOUTS}; or say format classes, if its folders are classes")


def _tree(source: Path) -> tuple[list[str], list[str]]:
    """Names of the images and of the files that may be labels below a folder, hidden ones left out, sorted."""
    images: list[str] = []
    others: list[str] = []
    for place, folders, files in os.walk(source, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = Path(place).relative_to(source)
        for name in files:
            if is_image(name):
                images.append((base / name).as_posix())
            elif os.path.splitext(name)[1].lower() in LABEL_FILES and not NO_LABELS.fullmatch(name):
                others.append((base / name).as_posix())
    return sorted(images), sorted(set(others) - OURS)


def _masks(source: Path, images: Sequence[str], folders: Sequence[str]) -> str:
    """A folder whose images have the names of those in another, and are grey or of a palette where those are not."""
    inside = {folder: [name for name in images if name.startswith(f"{folder}/")] for folder in folders}
    stems = {
        folder: [os.path.splitext(name)[0].partition("/")[2] for name in names] for folder, names in inside.items()
    }
    for folder in folders:
        for other in folders:
            if other != folder and stems[folder] == stems[other]:
                modes = [[_mode(source / name) for name in inside[place][:PEEKED]] for place in (folder, other)]
                if set(modes[0]) <= {"RGB", "CMYK", "RGBA"} and set(modes[1]) <= {"L", "P", "1", "I;16", "I"}:
                    return other
    return ""


def _mode(path: Path) -> str:
    try:
        with Image.open(path) as file:
            return file.mode
    except (OSError, ValueError, SyntaxError):
        return ""

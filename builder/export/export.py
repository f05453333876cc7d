"""A version as a folder of COCO, YOLO or Pascal VOC labels, of maps or of classes, for tools that read those.

Image files keep their names in the pool's source; of two that would share a label file (`a.jpg`, `a.png`) the
second gets a part of its key. Without `images` no image is written, and labels name those of the source.

coco: `annotations.json` and `images/`; scores in `score`, who decided (teacher or human) in `source`, ignored
objects with `iscrowd` and `ignore` 1, category ids from 1 in the version's order.
yolo: `data.yaml`, `images/`, `labels/` (`class cx cy w h`, what trainers read) and `predictions/` (the same rows
with the score as sixth number, Ultralytics' `save_conf`; its trainer refuses such a file as a label). Folders of
the source down to its last `images` are left away, since readers look for that name. With human labels each part
has its folders, `pseudo`, `labelled` and `val`, and classes stand in the order of the human labels.
voc: `JPEGImages/`, `Annotations/` and `ImageSets/Main/train.txt`; scores in `<score>`, ignored objects as
`<difficult>`. Corners are whole pixels counted from 1, so that sides move by up to half a pixel (more for a box
below LEAST pixels, which is widened; left out where the image itself is smaller).
Of masks coco has `segmentation` as run lengths, and yolo one polygon each (builder.export.polygons: `class x y x y
…`, in `predictions/` the score behind it); voc has their boxes.
masks, classes: see builder.export.folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import get_args

from builder.engine import Track, silent
from builder.errors import BuildError
from builder.export.coco import write_coco
from builder.export.exported import README, Exported, readme, remarks, title
from builder.export.folders import write_classes, write_masks
from builder.export.ignored import Ignored, without_ignored
from builder.export.items import Item, named, version_items
from builder.export.merged import LABELLED, VAL, HumanLabels, read_human
from builder.export.voc import write_voc
from builder.export.yolo import below_images, write_data_yaml, write_yolo
from builder.kinds import Format, kind_of
from builder.store.files import new_tree
from builder.store.manifest import Manifest
from builder.store.shards import ShardError
from builder.store.version import Version, check_version

PSEUDO = "pseudo"


def export_version(
    version: Version,
    out: Path | str,
    format: Format,
    *,
    images: bool = True,
    ignored: Ignored | None = None,
    labels: Path | str | None = None,
    val: Path | str | None = None,
    track: Track = silent,
    note: Callable[[str], None] = lambda sentence: None,
) -> Exported:
    """Write a version's images and labels below `out`, which appears whole or not at all; memory is flat. The
    layout of each format: see builder.export.export.

    Args:
        version: a complete version.
        out: the folder, which must not be there, be empty, or hold this very export already.
        format: `coco`, `yolo`, `voc`, `masks` or `classes`, one that its kind of labels has.
        images: whether image files are written.
        ignored: what becomes of ignored regions of boxes and masks (builder.export.ignored.Ignored): by default they
            are marked in coco and voc, and painted over in yolo, which would teach them as background.
        labels: human labels to be exported beside the version, to yolo: images of both are written once, as human.
        val: human labels to measure on, where `labels` name no `val` of their own.
        track: shows how far it is (builder.engine.Track).
        note: is given a sentence for each thing that people should know of what was written.

    Returns:
        What was written, and what the format could not hold.

    Raises:
        BuildError: `out` holds something else, the format is none of its kind or cannot do what is asked for, or the
            version is damaged.
        TruthError: human labels that cannot be used.
    """
    check_version(version)
    manifest = version.manifest
    how = _treatment(version, format, ignored, images)
    human = _human(version, format, labels, val, images, note)
    out = Path(out)
    if out.exists() and not _may_become(out, manifest, format):
        raise BuildError(f"{out} exists and is not empty: give a new folder, or remove this one")
    counts: Counter[str] = Counter()
    with new_tree(out.resolve()) as folder, track("export", manifest.stored) as advance:
        try:
            _write(folder, version, format, how, images, human, counts, advance)
        except ShardError as error:
            raise BuildError(f"{version.folder} is damaged: {error}: verify it, and build or pull it again") from None
        except FileExistsError as error:
            place = Path(str(error.filename)).relative_to(folder)
            raise BuildError(f"two images of {version.folder} would share {place}: export with images") from None
        done = Exported(**{field.name: counts[field.name] for field in fields(Exported)})
        if not done.images and done.dropped + done.twins:
            raise BuildError(
                f"no image of {version.ref} is left to export: {done.twins} are human-labelled too, and {done.dropped} "
                "hold ignored regions that cannot be got rid of so: give other labels, or treat these otherwise"
            )
        told = list(remarks(done, format, how, images))
        if format == "yolo":
            classes = human.classes if human else manifest.classes
            write_data_yaml(folder, classes, _parts(images, human), [f"{version.ref}: pseudo-labels", *told])
        (folder / README).write_text(readme(manifest, format, how, done, told), "utf-8")
    for sentence in told:
        note(sentence)
    return done


def _may_become(out: Path, manifest: Manifest, format: Format) -> bool:
    """Whether what is there is empty, or looks like this export: of one that was killed in its last moment. What is
    there is compared file by file at the end (builder.store.files.new_tree)."""
    if not out.is_dir() or not any(out.iterdir()):
        return out.is_dir()
    note = out / README
    return note.is_file() and note.read_bytes().startswith(title(manifest, format).encode())


def _parts(images: bool, human: HumanLabels | None) -> dict[str, str | list[str]]:
    """The folders of YOLO's train and val."""
    if human:
        return {"train": [f"images/{PSEUDO}", f"images/{LABELLED}"], "val": f"images/{VAL}"}
    return {"train": "images", "val": "images"} if images else {}


def _treatment(version: Version, format: Format, asked: Ignored | None, images: bool) -> Ignored:
    """What becomes of ignored regions. Raises BuildError if the kind has no such format, or the format cannot do it."""
    manifest = version.manifest
    kind = kind_of(manifest.kind)
    if format not in kind.formats:
        raise BuildError(
            f"{version.folder} holds {manifest.kind} labels, which cannot be exported to {format}: "
            f"give the format {' or '.join(kind.formats)}"
        )
    if asked is not None and asked not in get_args(Ignored):
        raise BuildError(f"ignored = {asked!r} is none of {', '.join(get_args(Ignored))}")
    if not kind.overlaps and asked not in (None, "mark"):
        raise BuildError(f"{version.ref} has no ignored regions to {asked}: its {kind.noun} are kept, or left out")
    if format == "yolo" and asked == "mark":
        raise BuildError("yolo has no mark for ignored regions: choose paint, crop, drop or background")
    how: Ignored = asked or ("paint" if format == "yolo" else "mark")
    if how in ("paint", "crop") and not images and (asked or manifest.ignored):
        raise BuildError(
            f"{manifest.ignored} ignored regions can be neither painted over nor cut off without images, and trainers "
            "would learn them as background: choose background for them if they may, drop, or write images"
        )
    return how


def _human(
    version: Version,
    format: Format,
    labels: Path | str | None,
    val: Path | str | None,
    images: bool,
    note: Callable[[str], None],
) -> HumanLabels | None:
    if labels is None:
        if val is not None:
            raise BuildError(f"labels {val} to measure on want labels to train on beside them: give those too (--with)")
        return None
    if format != "yolo" or not images:
        raise BuildError(f"human labels are written beside a version to yolo, with images: leave out {labels}")
    classes, kind = version.manifest.classes, kind_of(version.manifest.kind)
    return read_human(str(labels), None if val is None else str(val), classes, kind, note)


def _write(
    folder: Path,
    version: Version,
    format: Format,
    how: Ignored,
    images: bool,
    human: HumanLabels | None,
    counts: Counter[str],
    advance: Callable[[int], None],
) -> None:
    """All files but those that say how many there are."""
    manifest = version.manifest

    def prepared(items: Iterable[Item], part: str = "", way: Ignored = how, count: str = "images") -> Iterator[Item]:
        shared = partial(_label_file, folder, format, part, manifest.classes)
        return without_ignored(named(items, shared), way, folder, counts, count)

    items = version_items(version, images, counts, advance)
    match format:
        case "coco":
            write_coco(folder, manifest, prepared(items), counts)
        case "voc":
            write_voc(folder, manifest, prepared(items), counts)
        case "masks":
            write_masks(folder, manifest.classes, prepared(items), counts)
        case "classes":
            write_classes(folder, manifest.classes, prepared(items), counts)
        case "yolo":
            if images:
                items = (replace(item, file=below_images(item.file)) for item in items)
            if human is None:
                write_yolo(folder, "", prepared(items), counts)
                return
            labelled, val = (human.items(part, counts) for part in (LABELLED, VAL))
            write_yolo(folder, LABELLED, prepared(labelled, LABELLED, how, LABELLED), counts, scored=False)
            write_yolo(folder, VAL, prepared(val, VAL, "background"), counts, scored=False)  # what is measured stays
            write_yolo(folder, PSEUDO, prepared(human.others(items, manifest.classes, counts), PSEUDO), counts)


def _label_file(folder: Path, format: Format, part: str, classes: Sequence[str], item: Item) -> Path:
    """A file of an image that no other may have."""
    match format:
        case "yolo":
            return folder / "labels" / part / item.file.with_suffix(".txt")
        case "voc":
            return folder / "Annotations" / item.file.with_suffix(".xml")
        case "masks":
            return folder / "masks" / item.file.with_suffix(".png")
        case "classes":
            return folder / classes[item.label["label"]] / item.file
        case _:
            return folder / "images" / item.file

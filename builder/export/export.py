"""A version as a folder of COCO, YOLO or Pascal VOC labels, of maps or of classes, for tools that read those."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.engine import Track, silent
from builder.errors import BuildError
from builder.export.coco import write_coco
from builder.export.folders import write_classes, write_masks
from builder.export.items import version_items
from builder.export.voc import write_voc
from builder.export.yolo import write_yolo
from builder.kinds import Format, kind_of
from builder.store.files import TEMPORARY, sync_folder
from builder.store.shards import ShardError
from builder.store.version import Version, check_version


@dataclass(frozen=True)
class Exported:
    """What was written. kept: objects, of maps pixels, of classes images; ignored: regions (or pixels), as far as the
    format can say them; left_out: boxes that it cannot say; removed: images of the version's tombstones, skipped."""

    images: int
    kept: int
    ignored: int
    left_out: int
    removed: int


def export_version(
    version: Version, out: Path | str, format: Format, *, images: bool = True, track: Track = silent
) -> Exported:
    """Write a version's images and labels below `out`, which appears whole or not at all; memory is flat.

    Files are named by their keys, `/` becoming `_`, since YOLO's readers look for the last `images/` of a path; without
    `images` no image is written, and labels name the images by their names in the pool's source.
    coco: `annotations.json` and `images/`; scores in `score`, who decided (teacher or human) in `source`, ignored
    objects with `iscrowd` and `ignore` 1, category ids from 1 in the version's order.
    yolo: `data.yaml`, `images/`, `labels/` (`class cx cy w h`, what trainers read) and `predictions/` (the same rows
    with the score as sixth number, Ultralytics' `save_conf`; its trainer refuses such a file as a label). Ignored
    objects cannot be said there: left out and counted.
    voc: `JPEGImages/`, `Annotations/` and `ImageSets/Main/train.txt`; scores in `<score>`, ignored objects as
    `<difficult>`. Corners are whole pixels counted from 1, so that sides move by up to half a pixel (more for a box
    below LEAST pixels, which is widened; left out where the image itself is smaller).
    Of masks coco has `segmentation` as run lengths, and yolo one polygon each (builder.export.polygons: `class x y x y
    …`, in `predictions/` the score behind it); voc has their boxes.
    masks, classes: see builder.export.folders.

    Args:
        version: a complete version.
        out: the folder, which must not be there or be empty.
        format: `coco`, `yolo`, `voc`, `masks` or `classes`, one that its kind of labels has.
        images: whether image files are written.
        track: shows how far it is (builder.engine.Track).

    Returns:
        What was written, and what the format could not hold.

    Raises:
        BuildError: `out` is not empty, the format is none of its kind, or the version is damaged.
    """
    check_version(version)
    manifest = version.manifest
    formats = kind_of(manifest.kind).formats
    if format not in formats:
        raise BuildError(
            f"{version.folder} holds {manifest.kind} labels, which cannot be exported to {format}: "
            f"give --format {' or '.join(formats)}"
        )
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BuildError(f"{out} exists and is not empty: give a new folder, or remove this one")
    counts: Counter[str] = Counter()
    with _new_tree(out.resolve()) as folder, track("export", manifest.stored) as advance:
        items = version_items(version, images, counts, advance)
        try:
            match format:
                case "coco":
                    write_coco(folder, manifest, items, counts)
                case "yolo":
                    write_yolo(folder, manifest, items, counts)
                case "voc":
                    write_voc(folder, manifest, items, counts)
                case "masks":
                    write_masks(folder, manifest.classes, items, counts)
                case "classes":
                    write_classes(folder, manifest.classes, items, counts)
        except ShardError as error:
            raise BuildError(f"{version.folder} is damaged: {error}: verify it, and build or pull it again") from None
        except FileExistsError as error:
            place = Path(str(error.filename)).relative_to(folder)
            raise BuildError(f"two images of {version.folder} would share {place}: export with images") from None
    return Exported(**{name: counts[name] for name in ("images", "kept", "ignored", "left_out", "removed")})


@contextmanager
def _new_tree(path: Path) -> Iterator[Path]:
    """A fresh folder, which may get folders of its own, that becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        os.sync()  # once for all: to sync every small file by itself takes many times as long
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)

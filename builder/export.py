"""A version as a folder of COCO, YOLO or Pascal VOC labels, of maps or of classes, for tools that read those."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
import orjson
import yaml

from builder import BuildError
from builder.balance import is_copy
from builder.engine import Track, silent
from builder.export_folders import new, write_classes, write_masks
from builder.files import TEMPORARY, sync_folder
from builder.kinds import Format, kind_of
from builder.manifest import Manifest, read_manifest
from builder.polygons import polygon
from builder.shards import ShardError, read_bytes, read_samples
from teachers.images import FORMATS

LEAST = 2
"""Pixels of the least side of a VOC box: at one pixel its corners coincide, which readers take for no box."""


@dataclass(frozen=True)
class Exported:
    """What was written. kept: objects, of maps pixels, of classes images; ignored: regions (or pixels), as far as the
    format can say them; left_out: boxes that it cannot say; removed: images of the version's tombstones, skipped."""

    images: int
    kept: int
    ignored: int
    left_out: int
    removed: int


@dataclass(frozen=True)
class Item:
    """One image of a version. file: where its image is, or would be, relative to the folder of images; label: its JSON;
    rest: what else its sample holds. Of objects: xywh: float64 (N, 4), pixels; category: int; score: float; ignore:
    bool; source: teacher or human; codes: of masks, run-length counts."""

    file: PurePosixPath
    data: bytes | None
    label: dict[str, Any]
    xywh: np.ndarray
    category: list[int]
    score: list[float]
    ignore: list[bool]
    source: list[str]
    codes: list[str] | None
    rest: bytes


def export(version: Path, out: Path, format: Format, *, images: bool = True, track: Track = silent) -> Exported:
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
    Of masks coco has `segmentation` as run lengths, and yolo one polygon each (builder.polygons: `class x y x y …`, in
    `predictions/` the score behind it); voc has their boxes.
    masks, classes: see builder.export_folders.
    Raises BuildError for an `out` that is not empty, a format that its kind of labels has not, and a damaged version.
    """
    manifest = read_manifest(version)
    formats = kind_of(manifest.kind).formats
    if format not in formats:
        raise BuildError(
            f"{version} holds {manifest.kind} labels, which cannot be exported to {format}: "
            f"give --format {' or '.join(formats)}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BuildError(f"{out} exists and is not empty: give a new folder, or remove this one")
    counts: Counter[str] = Counter()
    with _new_tree(out.resolve()) as folder, track("export", manifest.stored) as advance:
        items = _items(version, manifest, images, counts, advance)
        try:
            match format:
                case "coco":
                    _write_coco(folder, manifest, items, counts)
                case "yolo":
                    _write_yolo(folder, manifest, items, counts)
                case "voc":
                    _write_voc(folder, manifest, items, counts)
                case "masks":
                    write_masks(folder, manifest.classes, items, counts)
                case "classes":
                    write_classes(folder, manifest.classes, items, counts)
        except ShardError as error:
            raise BuildError(f"{version} is damaged: {error}: verify it, and build or pull it again") from None
        except FileExistsError as error:
            place = Path(str(error.filename)).relative_to(folder)
            raise BuildError(f"two images of {version} would share {place}: export with images") from None
    return Exported(**{name: counts[name] for name in ("images", "kept", "ignored", "left_out", "removed")})


def _items(version: Path, manifest: Manifest, images: bool, counts: Counter[str], advance: Any) -> Iterator[Item]:
    """The samples of all shards in order."""
    removed, member = set(manifest.tombstones), kind_of(manifest.kind).member
    for shard in manifest.shards:
        path = version / "data" / shard.name
        for sample in read_samples(path):
            advance(1)
            if is_copy(sample.key):
                continue
            if sample.key in removed:
                counts["removed"] += 1
                continue
            label = orjson.loads(read_bytes(path, sample.members["json"]))
            extension = next(name for name in sample.members if name in FORMATS.values())
            data = read_bytes(path, sample.members[extension]) if images else None
            file = PurePosixPath(f"{sample.key.replace('/', '_')}.{extension}") if images else _source_name(label)
            rest = read_bytes(path, sample.members[member]) if member else b""
            counts["images"] += 1
            yield _item(file, data, label, rest)


def _item(file: PurePosixPath, data: bytes | None, label: dict[str, Any], rest: bytes) -> Item:
    objects = label.pop("objects", {})
    xywh = np.array(objects.get("bbox", []), np.float64).reshape(-1, 4)
    source = objects.get("source", ["teacher"] * len(xywh))  # versions from before there were overrides
    category, score, ignore = (objects.get(name, []) for name in ("category", "score", "ignore"))
    return Item(file, data, label, xywh, category, score, ignore, source, objects.get("segmentation"), rest)


def _source_name(label: dict[str, Any]) -> PurePosixPath:
    """The image's name in its source. A version may come from elsewhere: no name leads out of the folder."""
    name = PurePosixPath(label["name"])
    if name.is_absolute() or ".." in name.parts or not name.name or "\0" in label["name"]:
        raise BuildError(f"image {label['key']} has the name {label['name']!r}, which is no path inside a folder")
    return name


def _write_coco(folder: Path, manifest: Manifest, items: Iterable[Item], counts: Counter[str]) -> None:
    """Annotations wait in a file of their own until the images are through."""
    licences = manifest.provenance.get("licences", {})
    info = {"description": f"{manifest.name}@{manifest.version}", "version": manifest.id, "licences": licences}
    categories = [{"id": number, "name": name} for number, name in enumerate(manifest.classes, 1)]
    rest = folder / "annotations.part"
    with ExitStack() as files:
        head = files.enter_context(open(folder / "annotations.json", "wb"))
        tail = files.enter_context(open(rest, "w+b"))
        head.write(b'{"info":%b,"categories":%b,"images":[' % (orjson.dumps(info), orjson.dumps(categories)))
        number = 0
        for image_id, item in enumerate(items, 1):
            _write_image(folder / "images", item)
            record = {"id": image_id, "file_name": str(item.file), **item.label}
            head.write((b"\n" if image_id == 1 else b",\n") + orjson.dumps(record))
            codes = item.codes or [""] * len(item.source)
            size = [item.label["height"], item.label["width"]]
            for box, category, score, ignore, source, code in zip(
                item.xywh.tolist(), item.category, item.score, item.ignore, item.source, codes, strict=True
            ):
                if category < 0:
                    counts["left_out"] += 1  # of a class that the class map ignores: a region of no category
                    continue
                flag = int(ignore)
                note = {"id": number + 1, "image_id": image_id, "category_id": category + 1, "bbox": box}
                area = box[2] * box[3]
                if code:
                    note["segmentation"] = {"size": size, "counts": code}
                    area = _mask_area(code, size)
                note |= {"area": area, "score": score, "iscrowd": flag, "ignore": flag, "source": source}
                tail.write((b",\n" if number else b"\n") + orjson.dumps(note))
                number += 1
                counts["ignored" if ignore else "kept"] += 1
        head.write(b'],\n"annotations":[')
        tail.seek(0)
        shutil.copyfileobj(tail, head)
        head.write(b"]}\n")
    rest.unlink()


def _mask_area(code: str, size: Sequence[int]) -> float:
    from teachers.masks import area

    return float(area([code.encode()], *size)[0])


def _write_yolo(folder: Path, manifest: Manifest, items: Iterable[Item], counts: Counter[str]) -> None:
    content = {"train": "images", "val": "images", "nc": len(manifest.classes), "names": manifest.classes}
    note = f"# {manifest.name}@{manifest.version}: pseudo-labels. Let val be images with human labels.\n"
    (folder / "data.yaml").write_text(note + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    for item in items:
        _write_image(folder / "images", item)
        width, height = item.label["width"], item.label["height"]
        rows = []
        codes = item.codes or [""] * len(item.source)
        for (x, y, w, h), category, score, ignore, code in zip(
            item.xywh.tolist(), item.category, item.score, item.ignore, codes, strict=True
        ):
            counts["left_out" if ignore else "kept"] += 1
            if not ignore:
                shares = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                if code:
                    shares = tuple((_outline(code, width, height) / (width, height)).ravel().tolist())
                rows.append((" ".join([str(category), *(f"{share:.8f}" for share in shares)]), score))
        name = item.file.with_suffix(".txt")
        with new(folder / "labels" / name) as file:
            file.write("".join(f"{row}\n" for row, _ in rows).encode())
        with new(folder / "predictions" / name) as file:
            file.write("".join(f"{row} {score:.6f}\n" for row, score in rows).encode())


def _outline(code: str, width: int, height: int) -> np.ndarray:
    """The corners of a mask's polygon, pixels, int64 (V, 2)."""
    from teachers.masks import bounds, decode

    codes = [code.encode()]
    (x1, y1, x2, y2), (mask,) = bounds(codes, height, width)[0].astype(int), decode(codes, height, width)
    found: np.ndarray = polygon(mask[y1:y2, x1:x2]) + np.array([x1, y1])
    return found


def _write_voc(folder: Path, manifest: Manifest, items: Iterable[Item], counts: Counter[str]) -> None:
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    with open(folder / "ImageSets" / "Main" / "train.txt", "w", encoding="utf-8") as listing:
        for item in items:
            _write_image(folder / "JPEGImages", item)
            listing.write(f"{item.file.with_suffix('')}\n")
            with new(folder / "Annotations" / item.file.with_suffix(".xml")) as file:
                tree = _voc_tree(item, manifest.classes, counts)
                ElementTree.indent(tree)
                file.write(ElementTree.tostring(tree, encoding="utf-8") + b"\n")


def _voc_tree(item: Item, classes: Sequence[str], counts: Counter[str]) -> ElementTree.Element:
    size = (item.label["width"], item.label["height"])
    tree = ElementTree.Element("annotation")
    _texts(tree, folder="JPEGImages", filename=item.file.name)
    _texts(ElementTree.SubElement(tree, "source"), database="Tutelage", annotation=item.label["key"])
    _texts(ElementTree.SubElement(tree, "size"), width=size[0], height=size[1], depth=3)
    _texts(tree, segmented=0)
    corners = whole_pixels(item.xywh, size)
    for box, category, score, ignore in zip(corners.tolist(), item.category, item.score, item.ignore, strict=True):
        fits = min(size) >= LEAST and category >= 0
        counts["left_out" if not fits else "ignored" if ignore else "kept"] += 1
        if fits:
            node = ElementTree.SubElement(tree, "object")
            _texts(node, name=classes[category], pose="Unspecified", truncated=0, difficult=int(ignore))
            sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            _texts(ElementTree.SubElement(node, "bndbox"), **sides)
            _texts(node, score=f"{score:.6f}")
    return tree


def whole_pixels(xywh: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """VOC's corners xmin, ymin, xmax, ymax of boxes float64 (N, 4): int64, pixels counted from 1, both inside the box
    and the image (size: width, height), at least LEAST wide and high where the image is."""
    limit = np.array(size)
    low = np.clip(np.rint(xywh[:, :2]), 0, np.maximum(limit - LEAST, 0))
    high = np.clip(np.rint(xywh[:, :2] + xywh[:, 2:]), np.minimum(low + LEAST, limit), limit)
    return np.concatenate([low + 1, high], axis=1).astype(np.int64)


def _texts(node: ElementTree.Element, **values: object) -> None:
    """A child with a text for each value."""
    for name, value in values.items():
        ElementTree.SubElement(node, name).text = str(value)


def _write_image(folder: Path, item: Item) -> None:
    if item.data is not None:
        with new(folder / item.file) as file:
            file.write(item.data)


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

"""Pictures of a version's images with their boxes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from builder.errors import BuildError
from builder.kinds import kind_of
from builder.report.colours import OUTCOMES, TEXT_ON
from builder.report.paint import legend_strip, outline_masks, painted
from builder.store.keys import original
from builder.store.manifest import Manifest
from builder.store.shards import Sample, read_bytes, read_samples
from builder.words import percent

CELL, MARGIN, CAPTION = 320, 8, 18
SMALLEST, LARGEST = 640, 1600
"""Pixels, the longer side of the picture of one image."""
DASH = 6
DROPPED = 6
"""Dropped boxes that a small picture shows, the best-scored."""

Row = Mapping[str, Any]
"""One row of labels.parquet."""


def contact_sheet(version: Path, manifest: Manifest, path: Path, *, images: int = 12, columns: int = 4) -> None:
    """A PNG of evenly spread images of a version with their labels: kept (green), ignored (amber) and dropped (grey)
    boxes, masks among them outlined; maps in their classes' colours; a class with its score.

    Dropped boxes are drawn thin, the 6 best-scored of an image; images that are tombstones are left out. Raises
    BuildError if the version has no images.
    """
    total = manifest.samples
    wanted = {n * total // min(images, total) for n in range(min(images, total))} if total > 0 else set[int]()
    seen: list[_Seen] = []
    for position, (tar, sample) in enumerate(_alive(version, manifest)):
        if position in wanted:
            seen.append(_see(tar, sample, manifest))
        if len(seen) == len(wanted):
            break
    if not seen:
        raise BuildError(f"{manifest.name}@{manifest.version} has no images to draw")
    rows = _rows(version, [original(one.label["key"]) for one in seen])
    drawn = [_cell(one, rows[original(one.label["key"])], manifest) for one in seen]
    depth = [MARGIN] * min(columns, len(drawn))
    places = []
    for cell in drawn:  # each into the column that is shortest so far
        column = depth.index(min(depth))
        places.append((MARGIN + column * (CELL + MARGIN), depth[column]))
        depth[column] += cell.height + MARGIN
    sheet = Image.new("RGB", (max(420, len(depth) * (CELL + MARGIN) + MARGIN), max(depth)), "white")
    for cell, place in zip(drawn, places, strict=True):
        sheet.paste(cell, place)
    sheet = _with_legend(sheet, manifest, f"{manifest.name}@{manifest.version}")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


def draw_image(version: Path, manifest: Manifest, key: str, path: Path) -> None:
    """A PNG of the image `key` of a version with every box that the teacher predicted on it; its map beside it.

    Dropped boxes are thin, without text beyond the best-scored. Raises BuildError for a key that the version does not
    hold, or holds no longer.
    """
    ref = f"{manifest.name}@{manifest.version}"
    if key in manifest.tombstones:
        raise BuildError(f"image {key!r} was removed before {ref} was built: draw it from the parent version")
    for shard in manifest.shards:
        tar = version / "data" / shard.name
        for sample in read_samples(tar):
            if sample.key == key:
                seen = _see(tar, sample, manifest)
                break
        else:
            continue
        break
    else:
        raise BuildError(f"no image {key!r} in {ref}: keys are in the column `key` of its labels.parquet")
    longer = max(seen.picture.size)
    shown = _draw(seen, _rows(version, [original(key)])[original(key)], manifest,
                  min(max(longer, SMALLEST), LARGEST) / longer, dropped=None)  # fmt: skip
    page = Image.new("RGB", (max(shown.width, 420), shown.height), "white")
    page.paste(shown, (0, 0))
    page = _with_legend(page, manifest, key[-max(1, (page.width - 320) // 8) :])
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, "PNG")


def _alive(version: Path, manifest: Manifest) -> Iterator[tuple[Path, Sample]]:
    """Each sample that is no tombstone, and its shard."""
    gone = set(manifest.tombstones)
    for shard in manifest.shards:
        tar = version / "data" / shard.name
        yield from ((tar, sample) for sample in read_samples(tar) if sample.key not in gone)


@dataclass(frozen=True)
class _Seen:
    """An image, its label JSON, and the bytes of its map, if it has one."""

    picture: Image.Image
    label: dict[str, Any]
    plane: bytes | None


def _see(tar: Path, sample: Sample, manifest: Manifest) -> _Seen:
    data, label = (read_bytes(tar, sample.members[name]) for name in (manifest.features[0], "json"))
    plane = read_bytes(tar, sample.members["seg.png"]) if "seg.png" in sample.members else None
    return _Seen(_decode(data), orjson.loads(label), plane)


def _decode(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _rows(version: Path, keys: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of labels.parquet of each of these images."""
    table = pq.read_table(version / "labels.parquet", filters=[("key", "in", list(keys))])
    rows: dict[str, list[Row]] = {key: [] for key in keys}
    for row in table.to_pylist():
        rows[row["key"]].append(row)
    return rows


def _resized(picture: Image.Image, scale: float) -> Image.Image:
    sides = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(sides, Image.Resampling.LANCZOS)


def _cell(seen: _Seen, rows: Sequence[Row], manifest: Manifest) -> Image.Image:
    """One image, CELL pixels wide, with its labels (kept boxes on top, a map below) and a caption."""
    scale = min(CELL / seen.picture.width, 3 * CELL / seen.picture.height)
    shown = _draw(seen, rows, manifest, scale, dropped=DROPPED, below=True)
    cell = Image.new("RGB", (CELL, shown.height + CAPTION), "white")
    cell.paste(shown, (0, 0))
    caption = f"{seen.label['name'][-24:]}   {_caption(seen, rows, manifest)}"
    ImageDraw.Draw(cell).text((2, shown.height + 2), caption, fill="black", font=ImageFont.load_default(11))
    return cell


def _caption(seen: _Seen, rows: Sequence[Row], manifest: Manifest) -> str:
    match manifest.kind:
        case "semantic":
            pixels = max(1, seen.picture.width * seen.picture.height)
            return f"{percent(sum(seen.label['pixels']['kept']) / pixels)} of the pixels kept"
        case "classification":
            return f"{manifest.classes[seen.label['label']]} {seen.label['score']:.2f}"
        case _:
            counts = {outcome: sum(r["outcome"] == outcome for r in rows) for outcome in OUTCOMES}
            return " · ".join(f"{n} {outcome}" for outcome, n in counts.items())


def _draw(
    seen: _Seen, rows: Sequence[Row], manifest: Manifest, scale: float, dropped: int | None, below: bool = False
) -> Image.Image:
    """The image scaled, with what its kind has to show. below: where its map is, else beside it."""
    shown = _resized(seen.picture, scale)
    if seen.plane is not None:
        width, height = shown.size
        both = Image.new("RGB", (width, 2 * height + 2) if below else (2 * width + 4, height), "white")
        both.paste(shown, (0, 0))
        both.paste(painted(shown, seen.plane), (0, height + 2) if below else (width + 4, 0))
        return both
    if manifest.kind == "classification":
        return shown
    if manifest.kind == "instance":
        drawn = [row for row in rows if row["outcome"] != "dropped"]
        colours = [OUTCOMES[row["outcome"]] for row in drawn]
        outline_masks(shown, [row["rle"] for row in drawn], seen.picture.size, colours)
    _boxes(shown, rows, scale, manifest.classes, dropped=dropped)
    return shown


def _boxes(shown: Image.Image, rows: Sequence[Row], scale: float, classes: Sequence[str], dropped: int | None) -> None:
    """Draw boxes into an image scaled by `scale`; of the dropped ones the best-scored `dropped` (None: all)."""
    draw = ImageDraw.Draw(shown)
    font = ImageFont.load_default(11)
    ranked = sorted(rows, key=lambda r: (-r["score"], r["label"], r["x1"], r["y1"], r["x2"], r["y2"]))
    for outcome in ("dropped", "ignored", "kept"):
        layer = [row for row in ranked if row["outcome"] == outcome]
        for place, row in reversed(list(enumerate(layer[:dropped] if outcome == "dropped" else layer))):
            box = [row[side] * scale for side in ("x1", "y1", "x2", "y2")]
            bounds = (shown.width - 2, shown.height - 2, shown.width - 1, shown.height - 1)
            box = [max(0, min(side, bound)) for side, bound in zip(box, bounds, strict=True)]
            outline(draw, box, outcome)
            if outcome != "dropped" or (dropped is None and place < DROPPED):
                name = classes[row["label"]] if row["label"] >= 0 else "other"
                text = f"{name} {row['score']:.2f}"
                corner = (box[0] + 2, max(0.0, box[1] - 13))
                draw.rectangle(draw.textbbox(corner, text, font=font), fill=OUTCOMES[outcome])
                draw.text(corner, text, fill=TEXT_ON[outcome], font=font)


def outline(draw: ImageDraw.ImageDraw, box: Sequence[float], outcome: str, thick: int = 2) -> None:
    """A box (xyxy pixels): kept `thick` pixels wide, ignored dashed, dropped 1 pixel wide."""
    colour = OUTCOMES[outcome]
    if outcome != "ignored":
        draw.rectangle(list(box), outline=colour, width=thick if outcome == "kept" else 1)
        return
    x1, y1, x2, y2 = box
    dash = DASH * thick // 2
    for a, b, c, d in ((x1, y1, x2, y1), (x1, y2, x2, y2), (x1, y1, x1, y2), (x2, y1, x2, y2)):
        length = int(max(c - a, d - b))
        for start in range(0, length + 1, 2 * dash):
            end = min(start + dash, length)
            if c > a:
                draw.line([a + start, b, a + end, d], fill=colour, width=thick)
            else:
                draw.line([a, b + start, c, b + end], fill=colour, width=thick)


def _with_legend(page: Image.Image, manifest: Manifest, title: str) -> Image.Image:
    """The page with a line below it that says what its colours mean."""
    font = ImageFont.load_default(13)
    strip = legend_strip(manifest, page.width) if manifest.kind == "semantic" else None
    sheet = Image.new("RGB", (page.width, page.height + 28 + (strip.height if strip else 0)), "white")
    sheet.paste(page, (0, 0))
    if strip:
        sheet.paste(strip, (0, page.height))
    draw = ImageDraw.Draw(sheet)
    x, y = MARGIN, sheet.height - 22
    for outcome in OUTCOMES if kind_of(manifest.kind).overlaps else ():
        outline(draw, (x, y + 2, x + 14, y + 14), outcome)
        draw.text((x + 20, y), outcome, fill="black", font=font)
        x += 100
    draw.text((x, y), title, fill="black", font=font)
    return sheet

"""Pictures of a version's images with their boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from builder.errors import BuildError
from builder.kinds import kind_of
from builder.report.colours import OUTCOMES
from builder.report.kinds import ReportKind, Row, Seen, report_kind
from builder.report.paint import DROPPED, colour_strip, outline, picture_of
from builder.store.keys import original
from builder.store.labels import checked_table, read_label
from builder.store.manifest import Manifest
from builder.store.shards import Sample
from builder.store.version import Version

CELL, MARGIN, CAPTION = 320, 8, 18
SMALLEST, LARGEST = 640, 1600
"""Pixels, the longer side of the picture of one image."""


def contact_sheet(version: Version, path: Path, *, images: int = 12, columns: int = 4) -> None:
    """A PNG of evenly spread images of a version with their labels: kept (green), ignored (amber) and dropped (grey)
    boxes, masks among them outlined; maps in their classes' colours; a class with its score.

    Dropped boxes are drawn thin, the 6 best-scored of an image; images that are tombstones are left out. Raises
    BuildError if the version has no images.
    """
    manifest, total = version.manifest, version.manifest.samples
    wanted = {n * total // min(images, total) for n in range(min(images, total))} if total > 0 else set[int]()
    chosen = list(islice((shown for n, shown in enumerate(_alive(version)) if n in wanted), len(wanted)))
    if not chosen:
        raise BuildError(f"{version.ref} has no images to draw")
    rows, kind = _rows(version, [original(sample.key) for sample in chosen]), report_kind(manifest.kind)
    drawn = [_cell(_see(sample, manifest, rows), kind) for sample in chosen]
    depth = [MARGIN] * min(columns, len(drawn))
    places = []
    for cell in drawn:  # each into the column that is shortest so far
        column = depth.index(min(depth))
        places.append((MARGIN + column * (CELL + MARGIN), depth[column]))
        depth[column] += cell.height + MARGIN
    sheet = Image.new("RGB", (max(420, len(depth) * (CELL + MARGIN) + MARGIN), max(depth)), "white")
    for cell, place in zip(drawn, places, strict=True):
        sheet.paste(cell, place)
    sheet = _with_legend(sheet, manifest, version.ref)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


def draw_image(version: Version, key: str, path: Path) -> None:
    """A PNG of the image `key` of a version with every box that the teacher predicted on it; its map beside it.

    Dropped boxes are thin, without text beyond the best-scored. Raises BuildError for a key that the version does not
    hold, or holds no longer.
    """
    manifest, ref = version.manifest, version.ref
    if key in manifest.tombstones:
        raise BuildError(f"image {key!r} was removed before {ref} was built: draw it from the parent version")
    for shard in manifest.shards:
        for sample in version.samples(shard):
            if sample.key == key:
                seen = _see(sample, manifest, _rows(version, [original(key)]))
                break
        else:
            continue
        break
    else:
        raise BuildError(f"no image {key!r} in {ref}: keys are in the column `key` of its labels.parquet")
    longer = max(seen.picture.size)
    shown = report_kind(manifest.kind).draw(seen, min(max(longer, SMALLEST), LARGEST) / longer, None, False)
    page = Image.new("RGB", (max(shown.width, 420), shown.height), "white")
    page.paste(shown, (0, 0))
    page = _with_legend(page, manifest, key[-max(1, (page.width - 320) // 8) :])
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path, "PNG")


def _alive(version: Version) -> Iterator[Sample]:
    """Each sample that is no tombstone."""
    gone = set(version.manifest.tombstones)
    for shard in version.manifest.shards:
        yield from (sample for sample in version.samples(shard) if sample.key not in gone)


def _see(sample: Sample, manifest: Manifest, rows: Mapping[str, Sequence[Row]]) -> Seen:
    label, member = read_label(sample, manifest), kind_of(manifest.kind).member
    content = sample.read(member) if member else b""
    return Seen(picture_of(sample, manifest), label, rows[original(sample.key)], manifest.classes, content)


def _rows(version: Version, keys: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of labels.parquet of each of these images."""
    table = pq.read_table(checked_table(version), filters=[("key", "in", list(keys))])
    rows: dict[str, list[Row]] = {key: [] for key in keys}
    for row in table.to_pylist():
        rows[row["key"]].append(row)
    return rows


def _cell(seen: Seen, kind: ReportKind) -> Image.Image:
    """One image, CELL pixels wide, with its labels (kept boxes on top, a map below) and a caption."""
    scale = min(CELL / seen.picture.width, 3 * CELL / seen.picture.height)
    shown = kind.draw(seen, scale, DROPPED, True)
    cell = Image.new("RGB", (CELL, shown.height + CAPTION), "white")
    cell.paste(shown, (0, 0))
    caption = f"{seen.label['name'][-24:]}   {kind.caption(seen)}"
    ImageDraw.Draw(cell).text((2, shown.height + 2), caption, fill="black", font=ImageFont.load_default(11))
    return cell


def _with_legend(page: Image.Image, manifest: Manifest, title: str) -> Image.Image:
    """The page with a line below it that says what its colours mean."""
    font = ImageFont.load_default(13)
    legend = report_kind(manifest.kind).legend(manifest)
    strip = colour_strip(legend, page.width) if legend else None
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

"""Boxes, masks and maps drawn into pictures: objects in the colour of their outcome, pixels in that of their class."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from builder.errors import BuildError, brief
from builder.report.colours import FAINT, OUTCOMES, TEXT_ON, VOID_COLOUR
from builder.store.manifest import Manifest
from builder.store.shards import Sample
from builder.store.version import Version
from teachers.base import VOID
from teachers.images import ImageError, check_pixels, decode_rgb
from teachers.limits import MAX_PIXELS

FIRST = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#8c564b", "#7f3c8d", "#1b4d3e")
"""Of the first classes, told apart by the colour-blind as far as so many can be; others follow the golden angle."""
DASH = 6
DROPPED = 6
"""Dropped boxes that a small picture shows, and that have a text in a large one: the best-scored."""
STRENGTH = 0.72
"""How much of a map covers its image, the rest shows through."""
WIDTH = 470
"""Pixels of the picture of a map and its image, side by side."""
SHOWN = 24
"""Classes in a legend."""


def class_colour(label: int) -> str:
    """`#rrggbb`, always the same for a position in the class list."""
    if label < len(FIRST):
        return FIRST[label]
    red, green, blue = colorsys.hls_to_rgb(label * 0.618034 % 1, (0.36, 0.52, 0.68)[label % 3], 0.75)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def map_legend(manifest: Manifest) -> list[tuple[str, str]]:
    """Name and colour of the classes with kept pixels, those with the most first, and of void."""
    kept = [manifest.per_class[name]["kept"] for name in manifest.classes]
    order = sorted((n for n, count in enumerate(kept) if count), key=lambda n: (-kept[n], n))
    named = [(manifest.classes[n], class_colour(n)) for n in order[:SHOWN]]
    more = [(f"and {len(order) - SHOWN} more", "#ffffff")] if len(order) > SHOWN else []
    return [*named, *more, ("void", VOID_COLOUR)]


def painted(picture: Image.Image, plane: bytes) -> Image.Image:
    """A map (the bytes of a `seg.png`) in its classes' colours over its image, in shades of grey, of any size. Raises
    BuildError for a map that cannot be read."""
    table = [channel for n in range(VOID) for channel in _rgb(class_colour(n))] + [*_rgb(VOID_COLOUR)]
    try:
        with Image.open(io.BytesIO(plane)) as file:
            check_pixels(*file.size, MAX_PIXELS)
            labels = file.resize(picture.size, Image.Resampling.NEAREST)
        labels.putpalette(table)
    except (OSError, ValueError, SyntaxError, ImageError, Image.DecompressionBombError) as error:
        raise BuildError(f"a map of the version cannot be read ({brief(error)}): run `tutelage verify` on it") from None
    return Image.blend(picture.convert("L").convert("RGB"), labels.convert("RGB"), STRENGTH)


def picture_of(sample: Sample, manifest: Manifest) -> Image.Image:
    """The image of a sample, in colour. Raises BuildError for one that cannot be read."""
    try:
        return Image.fromarray(decode_rgb(sample.read(manifest.features[0])))
    except ImageError as error:
        file = sample.members[manifest.features[0]].file
        raise BuildError(f"{file}: image {sample.key} {error}: run `tutelage verify` on the version") from None


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def resized(picture: Image.Image, scale: float) -> Image.Image:
    """A picture of other size."""
    sides = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(sides, Image.Resampling.LANCZOS)


def draw_boxes(
    shown: Image.Image, rows: Sequence[Mapping[str, Any]], scale: float, classes: Sequence[str], dropped: int | None
) -> None:
    """Draw boxes (rows of labels.parquet) into an image scaled by `scale`: of the dropped ones the
    best-scored `dropped`, or all (None)."""
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


def outline_masks(shown: Image.Image, codes: Sequence[bytes], size: tuple[int, int], colours: Sequence[str]) -> None:
    """Tint masks (run-length codes of an image of `size`, width and height) in a picture of it of any size, and draw
    their outlines; empty codes are passed over."""
    from teachers.masks import decode

    for code, colour in zip(codes, colours, strict=True):
        if not code:
            continue
        (mask,) = decode([code], size[1], size[0])
        inside = Image.fromarray(mask.astype(np.uint8) * 255).resize(shown.size, Image.Resampling.NEAREST)
        tint(shown, inside, colour)


def tint(shown: Image.Image, inside: Image.Image, colour: str, thick: int = 1) -> None:
    """Tint what lies inside (255 of 0 to 255, of the picture's size), and draw its outline `thick` pixels wide."""
    paint = Image.new("RGB", shown.size, colour)
    shown.paste(paint, mask=inside.point(lambda value: value // 4))
    edge = np.asarray(inside) > 0
    core = edge.copy()
    for _ in range(thick):
        before = core.copy()
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            core &= np.roll(before, step, axis)
    shown.paste(paint, mask=Image.fromarray((edge & ~core).astype(np.uint8) * 255))


def map_pictures(version: Version, most: int) -> Iterator[tuple[str, bytes]]:
    """Key, and JPEG of image and map side by side, of so many images spread evenly over a version, tombstones left
    out."""
    manifest = version.manifest
    gone, total = set(manifest.tombstones), manifest.samples
    wanted = {n * total // min(most, total) for n in range(min(most, total))} if total > 0 else set[int]()
    position = -1
    for shard in manifest.shards:
        for sample in version.samples(shard):
            if sample.key in gone:
                continue
            position += 1
            if position in wanted:
                yield sample.key, _side_by_side(picture_of(sample, manifest), sample.read("seg.png"))


def _side_by_side(picture: Image.Image, plane: bytes) -> bytes:
    width = WIDTH // 2 - 2
    picture = picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (WIDTH, picture.height), "white")
    page.paste(picture, (0, 0))
    page.paste(painted(picture, plane), (WIDTH - width, 0))
    out = io.BytesIO()
    page.save(out, "JPEG", quality=85, subsampling=0)
    return out.getvalue()


def colour_strip(legend: Sequence[tuple[str, str]], width: int) -> Image.Image:
    """Names and their colours as a picture of this width."""
    rows, x, y = [], 8, 6
    font = ImageFont.load_default(13)
    for name, colour in legend:
        step = 34 + 7 * len(name)
        if x + step > width and x > 8:
            x, y = 8, y + 20
        rows.append((x, y, name, colour))
        x += step
    strip = Image.new("RGB", (width, y + 24), "white")
    draw = ImageDraw.Draw(strip)
    for x, y, name, colour in rows:
        draw.rectangle([x, y + 2, x + 14, y + 14], fill=colour, outline=FAINT)
        draw.text((x + 20, y), name, fill="black", font=font)
    return strip

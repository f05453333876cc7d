"""What becomes of ignored regions, which are neither object nor background, in formats that have no mark for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from builder.export.items import Item, with_extension
from builder.export.painting import Corners, largest_free, painted, rewritten

Ignored = Literal["mark", "paint", "crop", "drop", "background"]
"""mark: as the format says it. paint: painted over with their surroundings, but for what lies under kept boxes. crop:
images are cut to the largest rectangle that holds all kept boxes whole and no ignored region. drop: images that hold
ignored regions are left out. background: as if there were none."""
CHANGED = "changed.txt"
"""Lists the images whose pixels are not the original's."""
LEAST_SIDE = 32
"""Pixels of the shorter side of a crop, below which its image is left out."""


def without_ignored(
    items: Iterable[Item], how: Ignored, folder: Path, counts: Counter[str], count: str = "images"
) -> Iterator[Item]:
    """The items without ignored regions, unless they are to be marked; images that cannot be had without them are left
    out. The names of changed images are added to the file CHANGED of the folder. count: what the items are counted
    as."""
    for item in items:
        if how == "mark" or not any(item.ignore):
            yield item
            continue
        match how:
            case "paint":
                made: Item | None = _painted(item, counts)
            case "crop":
                made = _cropped(item)
            case "drop":
                made = None
            case _:
                made = item
        if made is None:
            counts[count] -= 1
            counts["dropped"] += 1
            counts["left_out"] += len(item.ignore)
            continue
        if how != "paint":
            counts["left_out"] += sum(item.ignore)
        if made is not item:
            counts["changed"] += 1
            with open(folder / CHANGED, "a", encoding="utf-8") as file:
                file.write(f"{made.file}\n")
        yield _kept_only(made)


def _kept_only(item: Item) -> Item:
    """The item without its ignored regions."""
    rows = [n for n, ignore in enumerate(item.ignore) if not ignore]
    return replace(
        item,
        xywh=item.xywh[rows],
        category=[item.category[n] for n in rows],
        score=[item.score[n] for n in rows],
        ignore=[False] * len(rows),
        source=[item.source[n] for n in rows],
        codes=None if item.codes is None else [item.codes[n] for n in rows],
    )


def _painted(item: Item, counts: Counter[str]) -> Item | None:
    """The image with its ignored regions painted over; itself where all of them lie under kept boxes."""
    width, height = item.size
    shown = np.zeros((height, width), bool)
    for (x1, y1, x2, y2), ignore in zip(_corners(item), item.ignore, strict=True):
        if not ignore:
            shown[y1:y2, x1:x2] = True
    hole = np.zeros_like(shown)
    for region in _regions(item):
        left = region & ~shown
        counts["painted" if 2 * left.sum() > region.sum() else "covered"] += 1
        hole |= left
    if not hole.any():
        return item
    return _changed(item, partial(painted, hole=hole, shown=shown))


def _regions(item: Item) -> Iterator[np.ndarray]:
    """The pixels of each ignored region, bool (H, W): its mask where it has one, else its box."""
    from teachers.masks import decode

    width, height = item.size
    for n, (x1, y1, x2, y2) in enumerate(_corners(item)):
        if item.ignore[n]:
            region = np.zeros((height, width), bool)
            region[y1:y2, x1:x2] = True
            code = item.codes[n] if item.codes else ""
            yield decode([code.encode()], height, width)[0] if code else region


def _cropped(item: Item) -> Item | None:
    """The image cut to what holds its kept boxes and no ignored region; None where that cannot be, or is too small, and
    for an image of which nothing is kept."""
    corners, size = _corners(item), item.size
    kept = np.array([box for box, ignore in zip(corners, item.ignore, strict=True) if not ignore]).reshape(-1, 4)
    if not len(kept):
        return None
    x1, y1 = (int(side) for side in kept[:, :2].min(axis=0))
    x2, y2 = (int(side) for side in kept[:, 2:].max(axis=0))
    regions = [box for box, ignore in zip(corners, item.ignore, strict=True) if ignore]
    cut = largest_free((x1, y1, x2, y2), regions, size)
    if cut is None or min(cut[2] - cut[0], cut[3] - cut[1]) < LEAST_SIDE:
        return None
    left, upper, right, lower = cut
    made = _changed(item, lambda pixels: pixels[upper:lower, left:right])
    label = item.label | {"width": right - left, "height": lower - upper}
    codes = None if item.codes is None else [_cut_code(code, item.size, cut) for code in item.codes]
    return replace(made, label=label, xywh=item.xywh - np.array([left, upper, 0, 0]), codes=codes)


def _cut_code(code: str, size: tuple[int, int], cut: Corners) -> str:
    from teachers.masks import decode, encode

    if not code:
        return code
    left, upper, right, lower = cut
    mask = decode([code.encode()], size[1], size[0])[:, upper:lower, left:right]
    return encode(np.ascontiguousarray(mask))[0].decode()


def _changed(item: Item, change: Callable[[np.ndarray], np.ndarray]) -> Item:
    """The item with other pixels."""
    data, format = rewritten(item.data or b"", item.format, change, item.label["name"])
    return replace(item, data=data, format=format, file=with_extension(item.file, format))


def _corners(item: Item) -> list[Corners]:
    """The boxes in whole pixels of the image, widened to them."""
    width, height = item.size
    low = np.floor(item.xywh[:, :2]).clip(0, [width, height]).astype(int)
    high = np.ceil(item.xywh[:, :2] + item.xywh[:, 2:]).clip(0, [width, height]).astype(int)
    return [(x1, y1, x2, y2) for (x1, y1), (x2, y2) in zip(low.tolist(), high.tolist(), strict=True)]

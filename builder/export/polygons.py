"""Masks as polygons, for formats that have nothing else: one closed outline along the sides of pixels.

Parts and holes of a mask are joined by bridges of no width, there and back between their nearest corners, as
Ultralytics joins the parts of COCO's objects: what is inside stays the same by the even-odd rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

TURN = {(1, 0): (0, 1), (0, 1): (-1, 0), (-1, 0): (0, -1), (0, -1): (1, 0)}
"""The direction (x, y) to the right of each, y pointing down."""


Corner = tuple[int, int]
"""x, y."""
Side = tuple[Corner, Corner]
"""Where it ends, and its direction."""
MANY = 100
"""Outlines that are joined one after the other; what a noisy mask has beyond is joined to these."""


def polygon(mask: np.ndarray) -> np.ndarray:
    """One polygon around a mask, bool (H, W): int64 (V, 2), x and y of its corners in pixels, 0 to W and H; V is 0 for
    an empty mask."""
    loops = sorted(outlines(mask), key=lambda loop: (-abs(_area(loop)), loop.tolist()))
    whole = loops[0] if loops else np.zeros((0, 2), np.int64)
    for loop in loops[1:MANY]:
        whole = _joined(whole, [loop])
    return _joined(whole, loops[MANY:])


def _joined(whole: np.ndarray, loops: Sequence[np.ndarray]) -> np.ndarray:
    """A polygon with these outlines, each there and back from its nearest corner."""
    parts: dict[int, list[np.ndarray]] = {}
    for loop in loops:
        away = ((whole[:, None] - loop[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(int(away.argmin()), away.shape)
        part = np.roll(loop, -int(there), axis=0)
        parts.setdefault(int(here), []).extend((part, part[:1], whole[here : here + 1]))
    corners, last = list[np.ndarray](), 0
    for place, detours in sorted(parts.items()):
        corners += (whole[last : place + 1], *detours)
        last = place + 1
    return np.concatenate([*corners, whole[last:]])


def outlines(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The closed outlines of a mask, int64 (V, 2) each: clockwise around parts, the other way round around holes.
    Pixels that touch at a corner alone are parts of their own."""
    sides = _sides(mask)
    for start in list(sides):
        while sides[start]:
            end, way = sides[start].pop()
            corners = [start]
            while out := _onwards(sides[end], way, closed=end == start):
                corners.append(end)
                sides[end].remove(out)
                end, way = out
            yield np.array(corners, np.int64)


def _onwards(sides: Sequence[Side], way: Corner, closed: bool) -> Side | None:
    """The side after one that came this way: to the right, which stays at the same pixel, where two parts touch; None
    where the outline is closed."""
    right = next((side for side in sides if side[1] == TURN[way]), None)
    return right or (None if closed else sides[0])


def _sides(mask: np.ndarray) -> dict[Corner, list[Side]]:
    """The straight sides of a mask by the corner where they begin, with the mask to their right."""
    sides: dict[Corner, list[Side]] = {}
    for flat, plane in ((True, mask), (False, mask.T)):
        padded = np.pad(plane.astype(np.int8), 1)
        step = np.diff(padded, axis=0)[:, 1:-1]  # along lines between rows (or columns): 1 where the mask begins
        for sign in (1, -1):
            edge = np.diff(np.pad(step == sign, ((0, 0), (1, 1))).astype(np.int8), axis=1)
            line, first = np.nonzero(edge == 1)
            _, last = np.nonzero(edge == -1)  # in the same order, run by run
            forward = (sign == 1) == flat
            begin, end = (first, last) if forward else (last, first)
            for at, a, b in zip(line.tolist(), begin.tolist(), end.tolist(), strict=True):
                way = 1 if forward else -1
                side = ((b, at), (way, 0)) if flat else ((at, b), (0, way))
                sides.setdefault((a, at) if flat else (at, a), []).append(side)
    return sides


def _area(loop: np.ndarray) -> float:
    """Of a closed outline, signed."""
    x, y = loop.T.astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2

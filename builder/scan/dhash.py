"""A perceptual hash: the difference hash, horizontally and vertically, of an image's bytes.

N. Krawetz, "Kind of Like That" (hackerfactor.com, 2013): an image shrunk to 9x8 grey cells gives a bit for each pair of
neighbours in a row, set where it grows brighter to the right. Here 8x9 cells give as many bits downwards beside them,
since 64 bits are few for a million images. Images that look alike differ in few of the 128 bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from builder.scan.likeness import THUMB
from teachers.images import GreyImage, ImageError, decode_grey

CELLS = 8
BITS = 2 * CELLS * CELLS
SIDE = 64
"""Pixels a side, at least, that are averaged into the cells of a row."""
MIN_SLOPES = BITS // 4
"""Neighbours, at least, that must differ by a grey level. An image with fewer is nearly flat, as all flat ones are: it
gets no hash, and is like another only if its bytes are the same."""


def look(data: bytes, orientation: int | None = None, known_pixels: int = 0) -> tuple[str, bytes]:
    """The hash of an image's bytes as of `dhash`, and its upright grey thumbnail of THUMB x THUMB cells, a byte each;
    both empty for an image that is nearly flat or cannot be decoded."""
    try:
        grey = decode_grey(data, SIDE, orientation, known_pixels)
    except ImageError:
        return "", b""
    hash = hash_grey(grey)
    if not hash:
        return "", b""
    rows, columns = grey.pixels.shape
    shares = _shares(rows, grey.height, THUMB), _shares(columns, grey.width, THUMB)
    cells = shares[0] @ grey.pixels.astype(np.float64) @ shares[1].T / (grey.height * grey.width)
    return hash, _turned(cells, grey.orientation).round().astype(np.uint8).tobytes()


def dhash(data: bytes, orientation: int | None = None, known_pixels: int = 0) -> str:
    """The hash of an image's bytes, 32 hex digits; "" for an image that is nearly flat or cannot be decoded.
    `orientation`: EXIF, if it is known already; `known_pixels`: as of teachers.images.decode_rgb.

    The same on every machine that decodes to the same pixels: all sums are whole numbers below 2^53.
    """
    try:
        return hash_grey(decode_grey(data, SIDE, orientation, known_pixels))
    except ImageError:
        return ""


def hash_grey(grey: GreyImage) -> str:
    """The hash of a grey image, turned upright, or "" if it is nearly flat."""
    pixels = grey.pixels.astype(np.float64)
    rows, columns = grey.pixels.shape
    across = _shares(rows, grey.height, CELLS) @ pixels @ _shares(columns, grey.width, CELLS + 1).T
    down = _shares(rows, grey.height, CELLS + 1) @ pixels @ _shares(columns, grey.width, CELLS).T
    if grey.orientation >= 5:
        across, down = down, across
    across, down = (_turned(cells, grey.orientation) for cells in (across, down))
    steps = np.concatenate([np.diff(across, axis=1).ravel(), np.diff(down, axis=0).ravel()])
    if np.count_nonzero(np.abs(steps) >= grey.height * grey.width) < MIN_SLOPES:
        return ""
    return np.packbits(steps > 0).tobytes().hex()


def _turned(cells: np.ndarray, orientation: int) -> np.ndarray:
    """The cells of the upright image (EXIF 2.32, tag 274)."""
    if orientation >= 5:
        cells = cells.T
    if orientation in (2, 3, 6, 7):
        cells = cells[:, ::-1]
    return cells[::-1] if orientation in (3, 4, 7, 8) else cells


@lru_cache(256)
def _shares(pixels: int, extent: int, cells: int) -> np.ndarray:
    """How much of each pixel lies in each of `cells` equal cells of `extent` eighths of a pixel: float64 (cells,
    pixels), in units of which a cell has `extent`."""
    edge = np.arange(cells)[:, None] * extent
    start = np.arange(pixels)[None] * 8 * cells
    return np.clip(np.minimum(edge + extent, start + 8 * cells) - np.maximum(edge, start), 0, None).astype(np.float64)

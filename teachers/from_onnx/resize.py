"""Images brought to a model's size, bilinear, as the models' own code does it."""

from __future__ import annotations

import numpy as np
from PIL import Image

ONE = 1 << 11
"""A share of 1 between two pixels, in OpenCV's whole numbers."""


def resized(image: np.ndarray, height: int, width: int, antialias: bool) -> np.ndarray:
    """An RGB image, uint8 (H, W, 3), at another size: by Pillow, or without antialiasing as OpenCV's INTER_LINEAR has
    it, to the last bit but for a pixel in some thousands (modules/imgproc/src/resize.cpp: shares in 2,048ths, sums cut
    off after each direction)."""
    if antialias:
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if image.shape[:2] == (height, width):
        return image
    (top, bottom, above, below), (left, right, before, after) = (
        _neighbours(size, given) for size, given in zip((height, width), image.shape, strict=False)
    )
    rows, place = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    looked_at = image[rows]
    across = np.take(looked_at, left, axis=1) * before[:, None]
    across += np.take(looked_at, right, axis=1) * after[:, None]
    across >>= 4
    pixels = across[place[:height]] * above[:, None, None] >> 16
    pixels += across[place[height:]] * below[:, None, None] >> 16
    pixels += 2
    pixels >>= 2
    return pixels.astype(np.uint8)


def _neighbours(size: int, given: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each of `size` pixels along a side of `given`: the pixels before and after it, and the share of each."""
    centre = (np.arange(size) + 0.5) * (given / size) - 0.5
    before = np.floor(centre).clip(0, given - 1).astype(np.intp)
    share = np.where((centre < 0) | (centre >= given - 1), 0, centre - before).astype(np.float32)
    shares = (np.rint(part * ONE).astype(np.int32) for part in (1 - share, share))
    return before, np.minimum(before + 1, given - 1), *shares

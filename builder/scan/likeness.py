"""Whether two images are one picture: re-encoded, resized or lightly cropped, but not another frame of the same scene.

Both are seen as grey thumbnails. One is laid over the other by the crop, gain and offset that fit best (B. Lucas,
T. Kanade, "An Iterative Image Registration Technique", IJCAI 1981; robust weights after Geman and McClure), since a
crop of two hundredths moves every edge. What is left over decides, in two ways: its size against the picture's own
contrast, and its largest hundredth against what half a pixel of misfit, or a re-encoding, would leave there, which
finds the small object that two frames of a fixed camera differ in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

THUMB = 32
"""Cells a side of a thumbnail."""
MAX_CROP = 0.08
"""Share of a side that may be missing at either end."""
STEPS = 8
FLAT = 2.0
"""Grey levels that are added to a picture's contrast, so that noise on a plain one is not much."""
NOISE, MISFIT = 4.0, 0.5
"""Grey levels, and share of the step to a neighbouring cell, that are expected to be left over in a cell."""
TOP = THUMB * THUMB // 100
"""Cells that are looked at for a local difference: a hundredth."""


@dataclass(frozen=True)
class Misfit:
    """What is left over of pairs, float64 (N,) each. whole: RMS over the picture's contrast; local: mean of the largest
    hundredth, in units of what is expected."""

    whole: np.ndarray
    local: np.ndarray


def misfit(images: np.ndarray, others: np.ndarray) -> Misfit:
    """How badly images, uint8 (N, THUMB, THUMB), are crops of others of the same shape."""
    image, other = _smooth(images.astype(np.float64)), _smooth(others.astype(np.float64))
    pairs = len(image)
    crop = np.zeros((pairs, 4))
    left, laid = np.full((pairs, THUMB, THUMB), np.inf), other
    error = np.full(pairs, np.inf)
    for step in range(STEPS + 1):
        warped = _crop(other, crop)
        fitted = _gain(image, warped)
        rest = image - fitted
        now = np.square(rest).mean((1, 2))
        better = (now < error)[:, None, None]
        left, laid, error = np.where(better, rest, left), np.where(better, fitted, laid), np.minimum(now, error)
        if step < STEPS:
            crop = np.clip(crop + _move(image, warped, rest), -MAX_CROP, MAX_CROP)
    contrast = images.reshape(pairs, -1).std(1) + FLAT
    local = np.abs(left) / (NOISE + MISFIT * np.maximum(_steepest(laid), _steepest(image)))
    largest = np.partition(local.reshape(pairs, -1), -TOP, axis=1)[:, -TOP:]
    return Misfit(np.sqrt(error) / contrast, largest.mean(1))


def _smooth(images: np.ndarray) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4


def _crop(images: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Each image without these shares of its sides, (N, 4): left, right, top, bottom; bilinear."""
    middle = (np.arange(THUMB) + 0.5) / THUMB

    def places(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = (low[:, None] + middle * (1 - low - high)[:, None]) * THUMB - 0.5
        place = np.clip(place, 0, THUMB - 1)
        first = np.minimum(place.astype(np.int64), THUMB - 2)
        return first, place - first

    column, right = places(crop[:, 0], crop[:, 1])
    row, down = places(crop[:, 2], crop[:, 3])
    pair = np.arange(len(images))[:, None]
    rows = images[pair, row] * (1 - down)[..., None] + images[pair, row + 1] * down[..., None]
    pair, line = pair[..., None], np.arange(THUMB)[None, :, None]
    right = right[:, None]
    return rows[pair, line, column[:, None]] * (1 - right) + rows[pair, line, column[:, None] + 1] * right


def _gain(image: np.ndarray, warped: np.ndarray) -> np.ndarray:
    """`warped` with the gain and offset that bring it nearest to `image`."""
    mean, other = image.mean((1, 2), keepdims=True), warped.mean((1, 2), keepdims=True)
    shape = warped - other
    gain = (shape * (image - mean)).sum((1, 2), keepdims=True) / (np.square(shape).sum((1, 2), keepdims=True) + 1e-3)
    return gain * shape + mean


def _move(image: np.ndarray, warped: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The step of the crop (N, 4) that a Gauss-Newton iteration takes, beside gain and offset."""
    pairs = len(image)
    middle = (np.arange(THUMB) + 0.5) / THUMB
    down, across = np.gradient(warped, axis=(1, 2))
    slopes = [
        across * (1 - middle) * THUMB,
        -across * middle * THUMB,
        down * (1 - middle)[:, None] * THUMB,
        -down * middle[:, None] * THUMB,
        warped,
        np.ones_like(warped),
    ]
    jacobian = np.stack(slopes, -1).reshape(pairs, -1, len(slopes))
    scale = 3 * np.median(np.abs(rest).reshape(pairs, -1), axis=1)[:, None] + 1e-3
    weight = 1 / (1 + np.square(rest.reshape(pairs, -1) / scale))
    weighted = (jacobian * weight[..., None]).transpose(0, 2, 1)
    normal = weighted @ jacobian + np.diag([0.1] * 4 + [1e-3] * 2)
    wanted = weighted @ (image - warped).reshape(pairs, -1, 1)
    return np.linalg.solve(normal, wanted)[:, :4, 0]


def _steepest(images: np.ndarray) -> np.ndarray:
    """The largest step from each cell to one of its eight neighbours."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    steps = [
        np.abs(padded[:, y : y + THUMB, x : x + THUMB] - images) for y in range(3) for x in range(3) if (y, x) != (1, 1)
    ]
    return np.max(steps, axis=0)

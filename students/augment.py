"""Augment-S1 of "Rethinking Pre-training and Self-training" (arXiv 2006.06882): flip, scale jitter, random crop or pad.

The jitter is the one S3 and S4 enlarge to (0.5, 2.0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Augment:
    """Random flip and scale of a scene, cut and padded to a square.

    jitter: s ~ U(jitter) makes the longer side `round(s * size)`; the aspect is kept, as in the paper's code.
    flip: probability of a horizontal flip.
    """

    jitter: tuple[float, float]
    flip: float

    def __call__(
        self, pixels: np.ndarray, boxes: np.ndarray, size: int, fill: tuple[int, int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An image, uint8 (H, W, 3), and its boxes, (N, 4) `xyxy` pixels, as (canvas, boxes, visible).

        canvas: uint8 (size, size, 3): a random window of the scaled image if that is larger, padded at bottom and right
        with `fill` where it is smaller. boxes: float32 (N, 4), pixels of the canvas, clipped to the image on it, so
        without extent if outside. visible: float32 (N,), the share of each box's area that is left.
        """
        flip, scale, right, down = rng.random(4)  # always four draws, so that no option shifts the next one's
        low, high = self.jitter
        height, width = pixels.shape[:2]
        target = round((low + scale * (high - low)) * size)
        scaled = np.array([width, height]) * (target / max(width, height))
        scaled_w, scaled_h = np.maximum(np.floor(scaled + 0.5), 1).astype(int).tolist()
        window_w, window_h = min(scaled_w, size), min(scaled_h, size)
        left, top = int(right * (scaled_w - window_w + 1)), int(down * (scaled_h - window_h + 1))

        zoom = np.array([scaled_w / width, scaled_h / height] * 2)  # what the rounding made of the scale, per axis
        shift = np.array([left, top] * 2)
        source = np.array([left, top, left + window_w, top + window_h]) / zoom
        window = np.asarray(
            Image.fromarray(pixels).resize(
                (window_w, window_h), Image.Resampling.BILINEAR, box=_within(source, width, height)
            )
        )
        moved = boxes.astype(np.float64) * zoom - shift
        if flip < self.flip:
            window = window[:, ::-1]
            moved = moved[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [window_w, 0, window_w, 0]

        canvas = np.empty((size, size, 3), np.uint8)
        canvas[:] = fill
        canvas[:window_h, :window_w] = window
        clipped = moved.clip(0, [window_w, window_h] * 2)
        visible = _area(clipped) / np.maximum(_area(moved), 1e-9)  # 0 for a box that never had an area
        return canvas, clipped.astype(np.float32), visible.astype(np.float32)


S1 = Augment(jitter=(0.8, 1.2), flip=0.5)
FIT = Augment(jitter=(1.0, 1.0), flip=0.0)
"""No augmentation: the longer side becomes `size`, the rest is padding, as where the network is used."""


def _within(box: np.ndarray, width: int, height: int) -> tuple[float, float, float, float]:
    """The box as Pillow wants it: not a rounding error outside of the image."""
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, min(x2, width), min(y2, height)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

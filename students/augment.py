"""Augment-S1 of "Rethinking Pre-training and Self-training" (arXiv 2006.06882): flip, scale jitter, random crop or pad.

The jitter is the one S3 and S4 enlarge to (0.5, 2.0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Placement:
    """Where a scene lands on a square canvas: the same window of its pixels, boxes and label maps.

    source: the window, (x1, y1, x2, y2) in pixels of the scene; window: its width and height on the canvas, from the
    top left corner; zoom: canvas pixels per scene pixel, per axis; shift: where the window begins in the scaled scene;
    flip: whether it is mirrored; size: the canvas's side, pixels.
    """

    source: tuple[float, float, float, float]
    window: tuple[int, int]
    zoom: tuple[float, float]
    shift: tuple[int, int]
    flip: bool
    size: int

    def image(self, pixels: np.ndarray, fill: tuple[int, int, int]) -> np.ndarray:
        """An image, uint8 (H, W, 3), as its canvas, uint8 (size, size, 3), padded with `fill`."""
        canvas = np.empty((self.size, self.size, 3), np.uint8)
        canvas[:] = fill
        return self._laid(pixels, canvas, Image.Resampling.BILINEAR)

    def labels(self, plane: np.ndarray, outside: int) -> np.ndarray:
        """A label map or mask, uint8 (H, W), as uint8 (size, size): each pixel is one of the map's, never a mixture of
        several; `outside` beyond the scene."""
        canvas = np.full((self.size, self.size), outside, np.uint8)
        return self._laid(plane, canvas, Image.Resampling.NEAREST)

    def boxes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes, (N, 4) `xyxy` pixels of the scene, as (boxes, visible): float32 (N, 4), pixels of the canvas, clipped
        to the scene on it, so without extent if outside; float32 (N,), the share of each box's area that is left."""
        width, height = self.window
        moved = boxes.astype(np.float64) * np.tile(self.zoom, 2) - np.tile(self.shift, 2)
        if self.flip:
            moved = moved[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
        clipped = moved.clip(0, [width, height] * 2)
        visible = _area(clipped) / np.maximum(_area(moved), 1e-9)  # 0 for a box that never had an area
        return clipped.astype(np.float32), visible.astype(np.float32)

    def _laid(self, plane: np.ndarray, canvas: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
        width, height = self.window
        shown = np.asarray(Image.fromarray(plane).resize((width, height), resampling, box=self.source))
        canvas[:height, :width] = shown[:, ::-1] if self.flip else shown
        return canvas


@dataclass(frozen=True)
class Augment:
    """Random flip and scale of a scene, cut and padded to a square.

    jitter: s ~ U(jitter) makes the longer side `round(s * size)`; the aspect is kept, as in the paper's code.
    flip: probability of a horizontal flip.
    """

    jitter: tuple[float, float]
    flip: float

    def place(self, width: int, height: int, size: int, rng: np.random.Generator) -> Placement:
        """Where a scene of width x height pixels lands: a random window of it if it is scaled to more than `size`."""
        flip, scale, right, down = rng.random(4)  # always four draws, so that no option shifts the next one's
        low, high = self.jitter
        target = round((low + scale * (high - low)) * size)
        scaled = np.array([width, height]) * (target / max(width, height))
        scaled_w, scaled_h = np.maximum(np.floor(scaled + 0.5), 1).astype(int).tolist()
        window_w, window_h = min(scaled_w, size), min(scaled_h, size)
        left, top = int(right * (scaled_w - window_w + 1)), int(down * (scaled_h - window_h + 1))

        zoom = scaled_w / width, scaled_h / height  # what the rounding made of the scale, per axis
        source = np.array([left, top, left + window_w, top + window_h]) / np.tile(zoom, 2)
        within = _within(source, width, height)
        return Placement(within, (window_w, window_h), zoom, (left, top), bool(flip < self.flip), size)

    def __call__(
        self, pixels: np.ndarray, boxes: np.ndarray, size: int, fill: tuple[int, int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An image, uint8 (H, W, 3), and boxes, (N, 4) `xyxy` pixels, as (canvas, boxes, visible): see Placement."""
        placement = self.place(pixels.shape[1], pixels.shape[0], size, rng)
        return placement.image(pixels, fill), *placement.boxes(boxes)


S1 = Augment(jitter=(0.8, 1.2), flip=0.5)
FIT = Augment(jitter=(1.0, 1.0), flip=0.0)
"""No augmentation: the longer side becomes `size`, the rest is padding, as where the network is used."""


def _within(box: np.ndarray, width: int, height: int) -> tuple[float, float, float, float]:
    """The box as Pillow wants it: not a rounding error outside of the image."""
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, min(x2, width), min(y2, height)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

"""Which pixels a polygon covers, by counting crossings."""

from __future__ import annotations

import math

import numpy as np


def crossings(corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which pixel centres are inside by the even-odd rule: how many upright sides are to the left of each."""
    starts = np.zeros((shape[0], shape[1] + 1), int)
    for (x1, y1), (x2, y2) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
        for row in range(min(y1, y2), max(y1, y2)):
            starts[row, math.ceil(x1 + (x2 - x1) * (row + 0.5 - y1) / (y2 - y1) - 0.5)] += 1
    return np.cumsum(starts, axis=1)[:, :-1] % 2 == 1

"""Match a teacher's raw predictions with human labels: which are right, and which objects are found.

Greedy by falling score within class and image, as COCOeval does, for all images and classes at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IOUS = (0.5, 0.75)
"""The overlaps at which predictions are matched."""


@dataclass(frozen=True)
class Matches:
    """Raw predictions of labelled images in columns, and what they were matched with.

    classes: the teacher's, C names. shared: bool (C,), classes that the labels know too; only their predictions are
    here. names: the I images. unit: int64 (I,), which images belong together (a sequence, a patient; else each its
    own), positions 0..U-1.
    Predictions, N rows in any order: image int64, label int16 (the teacher's), score float32, area float32 (pixels),
    right and counted bool (T, N) at the T overlaps of IOUS: matched to an object that counts; right or wrong, that is
    not matched to a crowd or difficult object.
    Objects, M rows: object_image int64, object_label int16 (the teacher's class, -1 for one it does not know),
    object_area float32, object_counts bool (no crowd, not difficult), found float32 (T, M), the score of the
    prediction matched to it, NaN for none.
    """

    classes: tuple[str, ...]
    shared: np.ndarray
    names: tuple[str, ...]
    unit: np.ndarray
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    area: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    object_image: np.ndarray
    object_label: np.ndarray
    object_area: np.ndarray
    object_counts: np.ndarray
    found: np.ndarray

    @property
    def images(self) -> int:
        return len(self.names)

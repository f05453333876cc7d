"""Matches that were drawn, of a teacher whose scores mean what they should."""

from __future__ import annotations

import numpy as np

from builder.evidence.certify import sequence, steps
from builder.evidence.matching import Matches
from builder.rules.scores import PoolScores, Scored, cells_at

CLASSES = ("cat", "dog", "bird")


def some_matches(seed: int, images: int = 60, per_image: int = 8, grid: int = 0, sharpness: float = 2.0) -> Matches:
    """Predictions that are right with probability score ** sharpness, a tenth of them on crowds; each right one has its
    object, and others are missed. `grid`: scores are multiples of 1 / grid, so that ties are common."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), rng.integers(0, per_image + 1, images))
    score = rng.random(len(image), np.float32)
    score = (np.round(score * grid) / grid).astype(np.float32) if grid else score
    label = rng.choice(3, len(image), p=[0.8, 0.15, 0.05]).astype(np.int16)
    right = rng.random(len(image)) < score.astype(np.float64) ** sharpness
    right = np.stack([right, right & (rng.random(len(image)) < 0.8)])
    counted = (rng.random(len(image)) < 0.9) | right
    rows = np.flatnonzero(right[0])
    missed = rng.integers(0, images, images // 3)
    found = np.where(right[:, rows], score[rows], np.float32(np.nan))
    return Matches(
        classes=CLASSES,
        shared=np.ones(3, bool),
        names=tuple(f"{n}.jpg" for n in range(images)),
        unit=np.arange(images) // 2,
        image=image,
        label=label,
        score=score,
        area=np.full(len(image), 100, np.float32),
        right=right,
        counted=counted,
        object_image=np.r_[image[rows], missed],
        object_label=np.r_[label[rows], rng.integers(-1, 3, len(missed))].astype(np.int16),
        object_area=np.full(len(rows) + len(missed), 100, np.float32),
        object_counts=np.ones(len(rows) + len(missed), bool),
        object_score=np.concatenate([found, np.full((2, len(missed)), np.nan, np.float32)], axis=1),
    )


def sequence_of(score: np.ndarray, images: float, expected: float, b: int, floor: float) -> np.ndarray:
    """The fixed sequence of one class of a pool with these scores. images: truth images over pool images."""
    rows = Scored(np.arange(len(score)), np.zeros(len(score), np.int64), score.astype(np.float32))
    scores = PoolScores.of(rows, len(score), 1)
    counts = steps(int(scores.above([0])[0]), images, expected, b)
    (tail,) = scores.tails([[0]], [cells_at(scores.above([0]), counts)])
    return sequence(tail, counts, floor)

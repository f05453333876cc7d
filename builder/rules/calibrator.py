"""Calibration maps: a raw score becomes the share of such scores that is right."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from builder.sections import Fraction, Section
from builder.store.manifest import Manifest
from builder.store.provenance import recorded

Kind = Literal["temperature", "isotonic"]
EPSILON = 1e-6
"""Scores are kept so far from 0 and 1 before their logit is taken."""


class Temperature(Section):
    """logit(score) / temperature, as Guo et al. (arXiv 1706.04599) scale a classifier's logits."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def __call__(self, score: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-logit_of(score) / self.temperature))


class Isotonic(Section):
    """A rising curve through these points, straight between them and level outside (Zadrozny and Elkan, KDD 2002)."""

    score: Annotated[list[Fraction], Field(min_length=1)]
    right: Annotated[list[Fraction], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_a_curve(self) -> Isotonic:
        if len(self.score) != len(self.right):
            raise ValueError(f"{len(self.score)} scores and {len(self.right)} values are no curve")
        if sorted(self.score) != self.score or sorted(self.right) != self.right:
            raise ValueError("the curve does not rise")
        return self

    def __call__(self, score: np.ndarray) -> np.ndarray:
        return np.interp(score, self.score, self.right)


class Calibrator(Section):
    """Turns scores into the share of right predictions at that score; part of a version's manifest.

    iou: overlap that makes a prediction right. classes: the teacher's, in its order. own: maps of the classes with
    enough predictions (OWN_MAP); pooled: of all others.
    """

    kind: Kind
    iou: float
    classes: list[str]
    pooled: Temperature | Isotonic
    own: dict[str, Temperature | Isotonic] = Field(default_factory=dict)

    def __call__(self, label: np.ndarray, score: np.ndarray) -> np.ndarray:
        """label: int16 (N,), positions in `classes`; score: float32 (N,). float32 (N,) in [0, 1], not falling in the
        score of a class."""
        calibrated = self.pooled(score.astype(np.float64))
        for position, name in enumerate(self.classes):
            if name in self.own:
                rows = label == position
                calibrated[rows] = self.own[name](score[rows].astype(np.float64))
        return calibrated.clip(0, 1).astype(np.float32)


def calibrator_of(manifest: Manifest) -> Calibrator | None:
    """The calibration that a version's thresholds act on, None for none. Raises BuildError for what is none."""
    stored = manifest.provenance.calibration
    return (
        None
        if stored is None
        else recorded(f"{manifest.name}@{manifest.version}", "provenance.calibration", Calibrator, stored)
    )


def logit_of(score: np.ndarray) -> np.ndarray:
    clipped = np.clip(score, EPSILON, 1 - EPSILON)
    return np.log(clipped) - np.log1p(-clipped)

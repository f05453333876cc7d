"""What people said of a version's objects, wherever they said it, as overrides of the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Box = tuple[float, float, float, float]
"""xyxy, pixels of the upright image."""


@dataclass(frozen=True)
class Shown:
    """An object as a reviewer sees it. id: `KEY#N`, N its row among those of its image in labels.parquet; sha256: of the
    image's original bytes; outcome: kept, ignored or dropped; score: what thresholds act on."""

    id: str
    key: str
    sha256: str
    label: str
    box: Box
    score: float
    outcome: str


@dataclass(frozen=True)
class Edited:
    """An object as it comes back from a person. id: that of the shown object, None for one that the person drew.
    verdict: what a tag says of it, None where only its label or box may have changed."""

    id: str | None
    key: str
    label: str
    box: Box
    verdict: Literal["accept", "reject"] | None
    author: str

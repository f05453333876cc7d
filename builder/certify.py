"""Thresholds for a precision one may stand behind: Korn-Graubard bounds along a fixed sequence, and exact bets."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Group(BaseModel):
    """Classes that share a threshold, and the evidence for it; part of a version's manifest.

    threshold: kept from here on; None: nothing is kept. units: n, truth images or declared units in `certify`; kept and
    correct: K and C at the threshold; effective: n*; p_value, lower: of the accepted step (1 - delta confidence).
    support: expected truth support of the group, from the pool's scores; needed: b. reason: why it is not certified.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    classes: list[str]
    rule: Literal["score", "precision", "density", "balance", "mixture", "top_box"]
    threshold: float | None
    certified: bool = False
    reason: str = ""
    target: float | None = None
    delta: float | None = None
    iou: float | None = None
    bound: str | None = None
    units: int | None = None
    kept: int | None = None
    correct: int | None = None
    effective: float | None = None
    p_value: float | None = None
    lower: float | None = None
    support: float | None = None
    needed: int | None = None

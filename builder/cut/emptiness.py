"""Versions that would teach nothing are not written, unless somebody insists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from builder.errors import BuildError
from builder.kinds import LabelKind
from builder.rules.reasons import KEPT, Reason
from builder.store.provenance import Group
from builder.words import count

WAYS_ON = {
    Reason.CLASS_IGNORED: "let keep.classes keep a class",
    Reason.CLASS_DROPPED: "let keep.classes keep a class",
    Reason.CAP: "raise keep.max_per_image",
    Reason.WHERE_FALSE: "change keep.where",
    Reason.WHERE_NULL: "change keep.where",
    Reason.WHERE_NAN: "change keep.where",
    Reason.SIZE: "lower keep.min_size",
    Reason.UNCERTAIN: "raise keep.uncertainty",
}
"""What to change where this is the commonest reason of those above their threshold, or of all where none is; for others
the threshold."""
INSIST = "or insist on a version that keeps nothing: --allow-empty, in Python allow_empty=True"


def check_kept(
    name: str, kind: LabelKind, images: int, reasons: Sequence[int] | np.ndarray, groups: Sequence[Group]
) -> None:
    """Raise BuildError, with the counted reasons and what to change, if nothing is kept of a pool. What people rejected
    is their word: where there is any of it, the version may be empty.

    Args:
        name: the dataset.
        kind: of its labels.
        images: those that are not left out, and could be read.
        reasons: predictions by Reason, of maps pixels.
        groups: where the thresholds come from.
    """
    numbers = {reason: int(reasons[reason]) for reason in Reason if int(reasons[reason])}
    if not images or Reason.REJECTED in numbers or any(reason.outcome == KEPT for reason in numbers):
        return
    if not numbers:
        raise BuildError(
            f"{name} would teach nothing: the teacher gives no {kind.noun} on {count(images)} images: look at its "
            f"floor, its preprocessing and its decoder, or give other images; {INSIST}"
        )
    ranked = sorted(numbers, key=lambda reason: -numbers[reason])
    listed = "; ".join(f"{reason.words}: {count(numbers[reason])}" for reason in ranked)
    above = [reason for reason in ranked if reason in WAYS_ON and reason.outcome is None]
    way_on = WAYS_ON.get((above or ranked)[0]) or _lower(groups)
    raise BuildError(
        f"{name} would teach nothing: none of {count(sum(numbers.values()))} predicted {kind.noun} on {count(images)} "
        f"images is kept ({listed}): {way_on}, {INSIST}"
    )


def _lower(groups: Sequence[Group]) -> str:
    """What to do about thresholds that are too high."""
    rule = groups[0].rule if groups else "score"
    if all(group.threshold is None for group in groups):
        why = next((f" ({group.reason})" for group in groups if group.reason), "")
        return f"no class has a threshold{why}: change keep.{rule}, or add labelled images"
    lowest = min(group.threshold for group in groups if group.threshold is not None)
    return f"lower keep.{rule}, whose lowest threshold is {lowest:.4g}"

"""From which score on objects of each class are kept, and from which on ignored: the one place where it is worked
out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from builder.errors import BuildError
from builder.rules.objects import Thresholds
from builder.store.provenance import Group

EVERY_OTHER = "*"
"""Stands for the classes that are not named."""


def limits(
    groups: Sequence[Group],
    classes: Sequence[str],
    ignore: float | Mapping[str, float] | None,
    *,
    top_box: bool = False,
) -> Thresholds:
    """Groups of classes as arrays, each class with its ignore threshold: the group's own, else `ignore`
    (`keep.ignore`: one number or one by class, None for none), never above its threshold; none where the group's
    objects are background. Raises BuildError as `per_class`."""
    place = {name: position for position, name in enumerate(classes)}
    kept_from = np.full(len(classes), np.inf, np.float32)
    ignored_from = kept_from.copy() if ignore is None else per_class(ignore, classes, "ignore")
    for group in groups:
        members = [place[name] for name in group.classes]
        if group.threshold is not None:
            kept_from[members] = group.threshold
        if group.ignore is not None:
            ignored_from[members] = group.ignore
        if group.background:
            ignored_from[members] = np.inf
    return Thresholds(kept_from, np.minimum(ignored_from, kept_from), tuple(groups), top_box=top_box)


def per_class(value: float | Mapping[str, float], classes: Sequence[str], key: str) -> np.ndarray:
    """`keep.KEY`, one number or one by class, as float32 (C,). Raises BuildError for a class that is unknown, or that
    is given none."""
    if not isinstance(value, Mapping):
        return np.full(len(classes), value, np.float32)
    known = f"its classes are {', '.join(classes[:12])}{', …' if len(classes) > 12 else ''}"
    for name in value:
        if name not in classes and name != EVERY_OTHER:
            raise BuildError(f"keep.{key} names class {name!r}, which the teacher does not know: {known}")
    for name in classes:
        if name not in value and EVERY_OTHER not in value:
            raise BuildError(
                f"keep.{key} gives no number for class {name!r}: add it, or {EVERY_OTHER!r} for all others"
            )
    return np.array([value.get(name, value.get(EVERY_OTHER)) for name in classes], np.float32)

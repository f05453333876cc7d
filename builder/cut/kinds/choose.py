"""The one place that chooses how labels of a kind are written."""

from __future__ import annotations

from builder.cut.kinds.boxes import BOXES, MASKS
from builder.cut.kinds.classes import CLASSES
from builder.cut.kinds.kind import Kind
from builder.cut.kinds.maps import MAPS
from builder.kinds import kind_of


def cut_kind(name: str) -> Kind:
    """How labels of the kind of this name are written. Raises BuildError for one that this Tutelage does not know."""
    match kind_of(name).name:
        case "detection":
            return BOXES
        case "instance":
            return MASKS
        case "semantic":
            return MAPS
        case "classification":
            return CLASSES

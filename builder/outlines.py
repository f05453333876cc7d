"""The outlines of a COCO file's objects as run-length codes of whole images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder import brief
from builder.truth import TruthError
from teachers.base import TeacherError


def read_outlines(
    notes: Sequence[dict[str, Any]], places: np.ndarray, sizes: Sequence[tuple[int, int]], path: Path
) -> list[bytes]:
    """COCO's compressed run-length code (`counts`) of the `segmentation` of every annotation, polygons or run lengths.

    places: int (N,), the position of each annotation's image in `sizes` (width, height). Raises TruthError, in one
    sentence, for an annotation without one, or with one that is no mask of its image.
    """
    from teachers.masks import from_segmentation

    codes = []
    for note, place in zip(notes, places.tolist(), strict=True):
        if not note.get("segmentation"):
            raise TruthError(
                f"{path}: annotation {note.get('id')} has no outline (segmentation): draw it, or use boxes"
            )
        width, height = sizes[place]
        try:
            codes.append(from_segmentation(note["segmentation"], height, width))
        except TeacherError as error:
            raise TruthError(f"{path}: annotation {note.get('id')}: {brief(str(error))}: correct it") from None
    return codes

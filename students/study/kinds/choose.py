"""The record of a kind of labels in a study. Choosing one happens here alone."""

from __future__ import annotations

from pathlib import Path

from builder.errors import BuildError
from students.study.kinds.base import Outcomes, StudyKind
from students.study.kinds.boxes import BOXES
from students.study.kinds.classes import CLASSES
from students.study.kinds.maps import MAPS
from teachers.base import Kind


def study_kind(kind: Kind) -> StudyKind:
    """The record of labels (builder.truth.records.Truth) or versions of this kind."""
    match kind:
        case "detection" | "instance":
            return BOXES
        case "semantic":
            return MAPS
        case "classification":
            return CLASSES


def read_outcomes(path: Path) -> Outcomes:
    """What the `write_outcomes` of any kind wrote. Raises BuildError for another file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        columns = {name: table[name].to_pylist() for name in table.column_names}
        kind = next((kind for kind in (BOXES, MAPS, CLASSES) if kind.column in columns), None)
        if kind is None:
            raise BuildError(f"{path} holds no outcomes of test images: run `tutelage study` again")
        return kind.read_outcomes(tuple(columns["name"]), columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise BuildError(f"{path} holds no outcomes of test images ({error}): run `tutelage study` again") from None

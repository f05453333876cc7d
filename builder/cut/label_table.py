"""labels.parquet: every object of a version, with what became of it and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from builder.cut.kinds.kind import SOURCES
from builder.kinds import LabelKind
from builder.label.predictions import BOX
from builder.rules.overruling import Overruled
from builder.rules.reasons import OUTCOMES, REASONS
from builder.store.files import new_file

LABELS = pa.schema(
    [("key", pa.string()), ("label", pa.int16()), ("score", pa.float32()), ("calibrated", pa.float32())]
    + [(side, pa.float32()) for side in BOX]
    + [("outcome", pa.string()), ("reason", pa.string()), ("source", pa.string())]
)
"""Columns of labels.parquet, of every kind. After them come a kind's own (builder.kinds) and those of SOMETIMES."""
SOMETIMES = {
    "quality": pa.float32(),
    "agree": pa.int16(),
    "uncertainty": pa.float32(),
    "teacher_label": pa.int16(),
}
"""Columns where there are any: the quality of a mask, how many teachers of an ensemble found the object, how uncertain
its box is, and, with a class map, a position in the teacher's classes. What people added has none of the first three.
"""
REPEATED = ["key", "label", "outcome", "reason", "source"]
"""Columns worth a dictionary: for the other numbers, hardly ever equal, looking for one takes most of the writing."""


def write_labels(path: Path, kind: LabelKind, keys: Sequence[str], made: Overruled) -> None:
    """A part of the table: the objects of images with these keys, in their order."""
    objects, decision = made.objects, made.decision
    boxes = {side: np.ascontiguousarray(objects.boxes[:, n]) for n, side in enumerate(BOX)}
    schema, more = LABELS, dict[str, Any]()
    field = kind.column
    if field is not None:
        schema = schema.append(field)
        values = getattr(objects, field.name)  # None in a shard whose images have no objects
        more[field.name] = pa.nulls(len(objects.score), field.type) if values is None else values
    for name, type in SOMETIMES.items():
        if (optional := getattr(objects, name)) is not None:
            schema = schema.append(pa.field(name, type))
            more[name] = pa.array(optional, type, mask=np.isnan(optional)) if type == pa.float32() else optional
    table = pa.table(
        {
            "key": pa.array(keys, pa.string()).take(pa.array(objects.image)),
            "label": objects.label,
            "score": objects.score,
            "calibrated": pa.nulls(len(objects.score), pa.float32())
            if objects.calibrated is None
            else objects.calibrated,
            **boxes,
            "outcome": pa.array(OUTCOMES).take(pa.array(decision.outcome)),
            "reason": pa.array(REASONS).take(pa.array(decision.reason)),
            "source": pa.array(SOURCES).take(pa.array(made.human.astype(np.int8))),
            **more,
        },
        schema=schema,
    )
    with new_file(path) as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=REPEATED)


def join_labels(path: Path, parts: Sequence[Path]) -> None:
    """One table of parts, one after the other; what only some of them have is null in the others."""
    schema = pa.unify_schemas([pq.read_schema(part) for part in parts])
    with new_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=REPEATED) as writer:
        for part in parts:
            with pq.ParquetFile(part) as rows:
                table = rows.read()
            for field in schema:
                if field.name not in table.column_names:
                    table = table.append_column(field, pa.nulls(len(table), field.type))
            writer.write_table(table.select(schema.names))

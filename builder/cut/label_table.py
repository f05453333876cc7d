"""labels.parquet: every object of a version, with what became of it and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from builder.cut.kinds.kind import SOURCES
from builder.kinds import LabelKind
from builder.label.predictions import BOX
from builder.rules.overruling import Before, Overruled
from builder.rules.reasons import OUTCOMES, REASONS
from builder.store.files import new_file
from builder.store.labels import BEFORE, BOX_BEFORE, LABELS, RLE_BEFORE, SOFT_BEFORE, SOMETIMES

REPEATED = ["key", "label", "outcome", "reason", "source", "reason_before"]
"""Columns worth a dictionary: for the other numbers, hardly ever equal, looking for one takes most of the writing."""


def write_labels(
    path: Path, kind: LabelKind, keys: Sequence[str], made: Overruled, soft: Mapping[int, np.ndarray]
) -> None:
    """A part of the table: the objects of images with these keys, in their order. soft: by row, the probabilities of
    SOFT_BEFORE."""
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
    if made.before is not None and made.human.any():
        before = _before(made, made.before, soft)
        more |= before
        schema = pa.schema([*schema, *(pa.field(name, column.type) for name, column in before.items())])
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


def _before(made: Overruled, before: Before, soft: Mapping[int, np.ndarray]) -> dict[str, pa.Array]:
    """The columns of BEFORE, and of RLE_BEFORE and SOFT_BEFORE where there are any."""
    there = made.human & (before.row >= 0)
    row, null = np.maximum(before.row, 0), ~there
    theirs = before.objects

    def taken(column: np.ndarray, type: pa.DataType, null: np.ndarray = null) -> pa.Array:
        values = column[row] if len(column) else np.zeros(len(row), column.dtype)  # all were added
        return pa.array(values, type, mask=null)

    columns = {"label_before": taken(theirs.label, BEFORE["label_before"])}
    columns |= {name: taken(theirs.boxes[:, n], pa.float32()) for n, name in enumerate(BOX_BEFORE)}
    columns["reason_before"] = taken(np.array(REASONS)[before.decision.reason], pa.string())
    if theirs.rle is not None and made.objects.rle is not None:
        lost = there & (made.objects.rle == b"")
        if lost.any():
            columns[RLE_BEFORE] = taken(theirs.rle, pa.binary(), ~lost)
    if soft:
        values = [soft[n].tolist() if n in soft else None for n in range(len(row))]
        columns[SOFT_BEFORE] = pa.array(values, pa.list_(pa.float32()))
    return columns


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

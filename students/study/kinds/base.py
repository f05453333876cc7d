"""What one kind of labels needs of a study. A new kind adds a file with a StudyKind, and a line in `choose`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from builder.store.files import new_file
from builder.store.manifest import Manifest
from builder.truth.records import LabelledImage, Truth

Named = Sequence[tuple[LabelledImage, str]]
"""Labelled images, and their names in a pool."""


class Outcomes(Protocol):
    """What became of each image that a cell was measured on: from it the cell's metric follows for any choice of these
    images, an image counting as often as it is drawn."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def metric(self, weights: np.ndarray) -> np.ndarray:
        """The metric for each row of `weights`, int (draws, images): how often an image counts; float64 (draws,), NaN
        where there is nothing to measure."""


@dataclass(frozen=True)
class StudyKind:
    """One kind of labels as a study writes, replays, counts and measures them.

    labels: the file that builder.truth.read.read_truth reads a share of the labels from. write_labels: (folder, truth,
    names of its images below their root) writes it.
    predictions, listing: the files that a `replay:` teacher is named by, in the folder where write_predictions (folder,
    truth, named images of it) writes labels as predictions of people who are always right.
    kept: of a version's manifest, its labels: objects or images; of maps the share of all pixels.
    write_outcomes: (path, truth, Measured.per_image) writes a Parquet with a row per image, `name` among its columns.
    column: one that no other kind has. read_outcomes: (names, columns as lists) -> the outcomes.
    """

    labels: str
    write_labels: Callable[[Path, Truth, Sequence[str]], None]
    predictions: str
    listing: str | None
    write_predictions: Callable[[Path, Truth, Named], None]
    kept: Callable[[Manifest], float]
    write_outcomes: Callable[[Path, Truth, Sequence[Any]], None]
    column: str
    read_outcomes: Callable[[tuple[str, ...], Mapping[str, list[Any]]], Outcomes]


def labels_kept(manifest: Manifest) -> float:
    """Objects, or images."""
    return manifest.kept


def write_classes(folder: Path, truth: Truth) -> None:
    """The `classes.txt` of a folder."""
    (folder / "classes.txt").write_text("\n".join(truth.classes) + "\n")


def write_columns(path: Path, columns: Mapping[str, tuple[str, Sequence[Any]]]) -> None:
    """Columns as a Parquet: of each its type, as Arrow names it (`list<…>` for rows that are lists), and its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def arrow(name: str) -> pa.DataType:
        return pa.list_(arrow(name[5:-1])) if name.startswith("list<") else pa.type_for_alias(name)

    schema = pa.schema([(name, arrow(kind)) for name, (kind, _) in columns.items()])
    with new_file(path) as file:
        rows = {name: rows for name, (_, rows) in columns.items()}
        pq.write_table(pa.table(rows, schema), file, compression="zstd")

"""What a study found: one row per cell, and how it is kept in `results.parquet`, which anything reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import BuildError
from builder.store.files import new_file

if TYPE_CHECKING:
    import pyarrow as pa


RESULTS = "results.parquet"
ARMS = (
    "supervised",
    "longer",
    "continued",
    "self-training",
    "doubly-robust",
    "continued-student",
    "joint",
    "self-training+joint",
    "ceiling",
    "placebo",
)
"""In the order of tables and plots. `longer`: supervised for the teacher's steps and the student's. `doubly-robust`:
self-training with that loss, for which further teachers label the labelled images that they have not learned from.
`continued`: the teacher, trained on for the student's steps; `continued-student`: a student that starts from it.
`joint`: beside other labelled sets. `ceiling`: beside the pool with its true labels. `placebo`: the labelled images in
its place."""


@dataclass(frozen=True)
class CellResult:
    """One trained network: a cell of the grid.

    cell: digest of all that decides it. fraction: of the labelled images, of which `labelled` were trained on. alpha: 0
    for arms without a second stream. round: 1 but for iterated self-training. seed: the replicate; cells of one seed,
    fraction, augment and init share subset, start and order, so that arms are paired by it.
    metric: `accuracy`, `mIoU` or `AP`, a share in [0, 1] on the test images; value: NaN where the cell failed;
    teacher_value: of the cell's teacher on the same images, NaN without one.
    steps, batch: of this network, images per step over both streams; teacher_steps: 0 without a teacher; with
    rounds it and the seconds of teachers and labelling are those of all rounds before. The seconds are of one machine,
    not to be compared between machines; a teacher shared by several cells counts in full in each.
    pool: images beside the labelled ones, 0 for none; kept: labels kept on them (objects, images, or a share of the
    pixels), NaN for none. per_image: Parquet that students.study.kinds wrote, relative to the folder of the
    results; empty for none.
    error: why the cell failed, a sentence; empty if it did not. Failed cells stay rows, and tables say n.
    """

    study: str
    cell: str
    arm: str
    augment: str
    init: str
    fraction: float
    labelled: int
    alpha: float
    round: int
    seed: int
    metric: str
    value: float
    teacher_value: float = math.nan
    steps: int = 0
    teacher_steps: int = 0
    batch: int = 0
    train_seconds: float = math.nan
    teacher_seconds: float = math.nan
    label_seconds: float = math.nan
    pool: int = 0
    kept: float = math.nan
    per_image: str = ""
    error: str = ""

    @property
    def done(self) -> bool:
        """Whether it has a figure."""
        return not self.error and not math.isnan(self.value)


def in_order(results: Sequence[CellResult]) -> list[CellResult]:
    """The same rows whatever order they came in: by arm as in ARMS, then by all that decides a cell."""
    place = {arm: number for number, arm in enumerate(ARMS)}
    return sorted(
        results,
        key=lambda r: (
            r.augment,
            r.init,
            r.fraction,
            place.get(r.arm, len(ARMS)),
            r.arm,
            r.alpha,
            r.round,
            r.seed,
            r.cell,
        ),
    )


def schema() -> pa.Schema:
    """Columns and types of results.parquet: the fields of CellResult; a figure that is not there is null."""
    import pyarrow as pa

    types = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    return pa.schema(
        [pa.field(f.name, types[str(f.type)], nullable=str(f.type) == "float") for f in fields(CellResult)]
    )


def write_results(path: Path, results: Sequence[CellResult]) -> None:
    """results.parquet: a row per cell, in the order of `in_order`; NaN as null; seconds to the tenth. The same rows
    give the same bytes, in any order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f.name: [getattr(result, f.name) for result in in_order(results)] for f in fields(CellResult)}
    for name, values in columns.items():
        if name.endswith("_seconds"):
            values = [round(value, 1) for value in values]
        columns[name] = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    with new_file(path) as file:
        pq.write_table(pa.table(columns, schema()), file, compression="zstd")


def read_results(path: Path) -> list[CellResult]:
    """The rows of a results.parquet. Raises BuildError for a file that is none, or has other columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise BuildError(f"{path} cannot be read as results of a study ({error}): run `tutelage study` again") from None
    if not table.schema.equals(schema()):
        raise BuildError(f"{path} has other columns than results of a study: run `tutelage study` again to write it")
    rows: list[dict[str, Any]] = [
        {name: math.nan if value is None else value for name, value in row.items()} for row in table.to_pylist()
    ]
    return [CellResult(**row) for row in rows]

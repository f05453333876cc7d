"""A teacher's raw predictions on disk: Parquet, one folder a chunk, one row an image and one row an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builder import BuildError
from builder.files import new_folder, write_file
from builder.pool import Chunk
from builder.store import Store
from teachers.base import Detections

META = "meta.json"
MAX_ERRORS = 20
"""How many reasons are told of images that cannot be read; the others are counted."""
BOX = ("x1", "y1", "x2", "y2")
UNCERTAINTY = "uncertainty"
IMAGES = pa.schema(
    [("sha256", pa.string()), ("status", pa.string()), ("error", pa.string()), ("n_objects", pa.int32())]
)
OBJECTS = pa.schema(
    [("sha256", pa.dictionary(pa.int32(), pa.string())), ("label", pa.int16()), ("score", pa.float32())]
    + [(side, pa.float32()) for side in BOX]
)
STATUS = IMAGES.get_field_index("status")
OK, ERROR, REMOVED, UNLISTED = "ok", "error", "removed", "unlisted"


@dataclass(frozen=True)
class Failure:
    """Why an image has no predictions. status: `error` (it cannot be read), `removed` (it left the pool before) or
    `unlisted` (stored results do not know its name, or not in this size)."""

    error: str
    status: str = ERROR


@dataclass(frozen=True)
class ChunkPredictions:
    """The predictions of a chunk as columns.

    status, error: one string per image, in the chunk's order. image: int64 (N,), position of each object's image in the
    chunk, not falling; label int16 (N,); score float32 (N,); boxes float32 (N, 4), xyxy pixels of the upright image.
    uncertainty: float32 (N,), where the teacher gave one.
    """

    status: list[str]
    error: list[str]
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    uncertainty: np.ndarray | None = None


def write_chunk(folder: Path, chunk: Chunk, results: Sequence[Detections | Failure]) -> None:
    """Put a chunk's predictions at `folder`, whole or not at all. An image without objects has its row all the same."""
    found = [r if isinstance(r, Detections) else None for r in results]
    failed = [r if isinstance(r, Failure) else None for r in results]
    counts = np.array([len(f) if f else 0 for f in found], np.int32)
    sha256 = chunk.rows["sha256"].to_pylist()
    images = pa.table(
        {
            "sha256": sha256,
            "status": [f.status if f else OK for f in failed],
            "error": [f.error if f else "" for f in failed],
            "n_objects": counts,
        },
        schema=IMAGES,
    )
    some = [f for f in found if f]
    boxes = np.concatenate([f.boxes for f in some] or [np.zeros((0, 4), np.float32)])
    columns: dict[str, Any] = {
        "sha256": pa.DictionaryArray.from_arrays(np.repeat(np.arange(len(sha256), dtype=np.int32), counts), sha256),
        "label": np.concatenate([f.labels for f in some] or [np.zeros(0, np.int16)]),
        "score": np.concatenate([f.scores for f in some] or [np.zeros(0, np.float32)]),
    } | {side: np.ascontiguousarray(boxes[:, n]) for n, side in enumerate(BOX)}
    with new_folder(folder) as temporary:
        pq.write_table(images, temporary / "images.parquet", compression="zstd")
        pq.write_table(pa.table(columns, schema=OBJECTS), temporary / "objects.parquet", compression="zstd")


def read_chunk(folder: Path, columns: Sequence[str] | None = None) -> ChunkPredictions:
    """The predictions `write_chunk` put there. `columns`: only these of the objects' (label, score, x1, …,
    uncertainty), which is quicker; the others are zeros, uncertainty None. Raises BuildError if they are missing or
    damaged."""
    images = _read(folder / "images.parquet", ["status", "error", "n_objects"])
    objects = _read(folder / "objects.parquet", [*(columns or ("label", "score", *BOX, UNCERTAINTY))])
    counts = images["n_objects"].to_numpy()
    image = np.repeat(np.arange(len(counts)), counts)
    if len(image) != objects.num_rows:
        raise BuildError(
            f"predictions in {folder} announce {len(image)} objects and hold {objects.num_rows}: label again"
        )

    def column(name: str, kind: type[np.number[Any]]) -> np.ndarray:
        return objects[name].to_numpy() if name in objects.column_names else np.zeros(len(image), kind)

    boxes = np.zeros((len(image), len(BOX)), np.float32)
    for place, side in enumerate(BOX if columns is None or set(BOX) & set(columns) else ()):
        boxes[:, place] = column(side, np.float32)
    return ChunkPredictions(
        images["status"].to_pylist(),
        images["error"].to_pylist(),
        image,
        column("label", np.int16),
        column("score", np.float32),
        boxes,
        objects[UNCERTAINTY].to_numpy() if UNCERTAINTY in objects.column_names else None,
    )


@dataclass(frozen=True)
class FailedImage:
    """position: in the chunk. status and error: see Failure."""

    position: int
    status: str
    error: str


def read_failures(folder: Path) -> list[FailedImage]:
    """The images of a finished chunk that have no predictions. Raises BuildError if its files are damaged."""
    path = folder / "images.parquet"
    with _opened(path) as file:
        groups = [file.metadata.row_group(n).column(STATUS).statistics for n in range(file.num_row_groups)]
        if all(group and group.has_min_max and group.min == group.max == OK for group in groups):
            return []  # the file's own summary says so: a pool of a million images has thousands of such files
        table = _columns(file, path, ["status", "error"])
    rows = zip(table["status"].to_pylist(), table["error"].to_pylist(), strict=True)
    return [FailedImage(position, status, error) for position, (status, error) in enumerate(rows) if status != OK]


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    with _opened(path) as file:
        return _columns(file, path, columns)


def _opened(path: Path) -> pq.ParquetFile:
    """The file, a fifth of the time of `pq.read_table`, which first looks for a data set around it."""
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _columns(file: pq.ParquetFile, path: Path, columns: Sequence[str]) -> pa.Table:
    """These columns, uncertainty only if the file has it."""
    try:
        known = file.schema_arrow.names
        if missing := set(columns) - {*known, UNCERTAINTY}:
            raise pa.ArrowKeyError(f"no column {min(missing)}")
        return file.read(columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> BuildError:
    reason = str(error).partition("\n")[0]
    return BuildError(f"predictions {path} cannot be read ({reason}): remove its folder and label again")


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Say, once, what made the predictions below `folder`."""
    if not (folder / META).exists():
        write_file(folder / META, orjson.dumps(meta, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_meta(folder: Path) -> dict[str, Any]:
    """spec, description (with kind, classes, floor), runtime, license. Raises BuildError."""
    try:
        meta: dict[str, Any] = orjson.loads((folder / META).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise BuildError(f"{folder / META} cannot be read ({error}): label again") from None
    return meta


def describe(store: Store, name: str) -> dict[str, Any]:
    """What a teacher's predictions hold: its spec, counts, and the images that could not be read."""
    folder = store.predictions / name
    meta = read_meta(folder)
    paths = sorted(folder.glob("*/images.parquet"))
    images = objects = unreadable = 0
    errors: list[str] = []
    for path in paths:
        table = _read(path, ["sha256", "status", "error", "n_objects"])
        failed = table.filter(pc.is_in(table["status"], pa.array([ERROR, UNLISTED])))
        images, objects = images + table.num_rows, objects + (pc.sum(table["n_objects"]).as_py() or 0)
        unreadable += failed.num_rows
        rows = zip(failed["sha256"].to_pylist(), failed["error"].to_pylist(), strict=True)
        errors += [f"{sha256[:12]}: {error}" for sha256, error in rows][: MAX_ERRORS - len(errors)]
    value = {
        "predictions": name,
        "teacher": meta["spec"],
        "floor": meta["description"]["floor"],
        "chunks": len(paths),
        "images": images,
        "objects": objects,
        "unreadable": unreadable,
    }
    return value | ({"errors": errors} if errors else {})


def find_predictions(store: Store, prefix: str) -> str:
    """The full fingerprint for a prefix. Raises BuildError if there is none, or several."""
    matches = store.match(store.predictions, prefix)
    if len(matches) == 1:
        return matches[0]
    known = ", ".join(m[:12] for m in matches or store.ids(store.predictions)) or "none yet: run `tutelage label` first"
    raise BuildError(
        f"predictions {prefix!r} are {'ambiguous' if matches else 'not'} in {store.root}: it holds {known}"
    )

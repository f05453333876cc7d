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
BOX = ("x1", "y1", "x2", "y2")
IMAGES = pa.schema(
    [("sha256", pa.string()), ("status", pa.string()), ("error", pa.string()), ("n_objects", pa.int32())]
)
OBJECTS = pa.schema(
    [("sha256", pa.dictionary(pa.int32(), pa.string())), ("label", pa.int16()), ("score", pa.float32())]
    + [(side, pa.float32()) for side in BOX]
)
OK, ERROR, REMOVED = "ok", "error", "removed"


@dataclass(frozen=True)
class Failure:
    """Why an image has no predictions. status: `error` (it cannot be read) or `removed` (it left the pool before)."""

    error: str
    status: str = ERROR


@dataclass(frozen=True)
class ChunkPredictions:
    """The predictions of a chunk as columns.

    status, error: one string per image, in the chunk's order. image: int64 (N,), position of each object's image in the
    chunk, not falling; label int16 (N,); score float32 (N,); boxes float32 (N, 4), xyxy pixels of the upright image.
    """

    status: list[str]
    error: list[str]
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    boxes: np.ndarray


def write_chunk(folder: Path, chunk: Chunk, results: Sequence[Detections | Failure]) -> None:
    """Put a chunk's predictions at `folder`, whole or not at all. An image without objects has its row all the same."""
    found = [r if isinstance(r, Detections) else None for r in results]
    failed = [r if isinstance(r, Failure) else None for r in results]
    counts = np.array([len(f) if f else 0 for f in found], np.int32)
    sha256 = [image.sha256 for image in chunk.images]
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


def read_chunk(folder: Path) -> ChunkPredictions:
    """The predictions `write_chunk` put there. Raises BuildError if they are missing or damaged."""
    images = _read(folder / "images.parquet")
    objects = _read(folder / "objects.parquet", ["label", "score", *BOX])
    counts = images["n_objects"].to_numpy()
    image = np.repeat(np.arange(len(counts)), counts)
    if len(image) != objects.num_rows:
        raise BuildError(
            f"predictions in {folder} announce {len(image)} objects and hold {objects.num_rows}: label again"
        )
    boxes = np.stack([objects[side].to_numpy() for side in BOX], axis=1)
    label, score = objects["label"].to_numpy(), objects["score"].to_numpy()
    return ChunkPredictions(images["status"].to_pylist(), images["error"].to_pylist(), image, label, score, boxes)


@dataclass(frozen=True)
class FailedImage:
    """position: in the chunk. status and error: see Failure."""

    position: int
    status: str
    error: str


def read_failures(folder: Path) -> list[FailedImage]:
    """The images of a finished chunk that have no predictions. Raises BuildError if its files are damaged."""
    table = _read(folder / "images.parquet", ["status", "error"])
    rows = zip(table["status"].to_pylist(), table["error"].to_pylist(), strict=True)
    return [FailedImage(position, status, error) for position, (status, error) in enumerate(rows) if status != OK]


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None, columns=columns)
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise BuildError(f"predictions {path} cannot be read ({reason}): remove its folder and label again") from None


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
    parts = [_read(path) for path in sorted(folder.glob("*/images.parquet"))]
    images = pa.concat_tables(parts) if parts else IMAGES.empty_table()
    failed = images.filter(pc.equal(images["status"], ERROR))
    errors = [
        f"{sha256[:12]}: {error}"
        for sha256, error in zip(*(failed[c].to_pylist() for c in ("sha256", "error")), strict=True)
    ]
    value = {
        "predictions": name,
        "teacher": meta["spec"],
        "floor": meta["description"]["floor"],
        "chunks": len(parts),
        "images": images.num_rows,
        "objects": pc.sum(images["n_objects"]).as_py() or 0,
        "unreadable": failed.num_rows,
    }
    return value | ({"errors": errors[:20]} if errors else {})


def find_predictions(store: Store, prefix: str) -> str:
    """The full fingerprint for a prefix. Raises BuildError if there is none, or several."""
    matches = store.match(store.predictions, prefix)
    if len(matches) == 1:
        return matches[0]
    known = ", ".join(m[:12] for m in matches or store.ids(store.predictions)) or "none yet: run `tutelage label` first"
    raise BuildError(
        f"predictions {prefix!r} are {'ambiguous' if matches else 'not'} in {store.root}: it holds {known}"
    )

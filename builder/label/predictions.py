"""A teacher's raw predictions on disk: Parquet, one folder a chunk, one row an image and one row an object.

All kinds are rows of objects with a label and a score. A class of an image is one object, as large as the image, with
the probabilities of all classes beside the image. A semantic map is an object for each class and confidence that
occurs, with the number of its pixels; the maps themselves lie beside (builder.label.maps).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builder.errors import BuildError
from builder.label.maps import MEND, PackedMap, pack, score, write_maps
from builder.label.meta import read_meta
from builder.scan.pool import Chunk
from builder.store.files import new_folder
from builder.store.store import Store
from builder.store.sums import read_checked, write_sums
from teachers.base import ClassProbabilities, Detections, Prediction, SemanticMap

MAX_ERRORS = 20
"""How many reasons are told of images that cannot be read; the others are counted."""
BOX = ("x1", "y1", "x2", "y2")
OPTIONAL = {
    "rle": pa.binary(),
    "quality": pa.float32(),
    "agree": pa.int16(),
    "uncertainty": pa.float32(),
    "pixels": pa.int32(),
}
"""Columns of objects that only some teachers fill."""
MANY, TOP = 1000, 100
"""With more than so many classes, only so many probabilities of an image are stored."""
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
    Where the teacher gave them, else None: rle, object (N,), masks of the image's size in COCO's compressed code;
    quality float32 (N,), of the masks; agree int16 (N,), teachers that found it; uncertainty float32 (N,), of the
    boxes; pixels int32 (N,), that the row stands for.
    """

    status: list[str]
    error: list[str]
    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    rle: np.ndarray | None = None
    quality: np.ndarray | None = None
    agree: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    pixels: np.ndarray | None = None


def write_chunk(folder: Path, chunk: Chunk, results: Sequence[Prediction | PackedMap | Failure]) -> None:
    """Put a chunk's predictions at `folder`, whole or not at all. An image without objects has its row all the same."""
    packed = [pack(r) if isinstance(r, SemanticMap) else r for r in results]
    sizes = zip(*(chunk.rows[side].to_pylist() for side in ("width", "height")), strict=True)
    columns = [None if isinstance(r, Failure) else _rows(r, *size) for r, size in zip(packed, sizes, strict=True)]
    failed = [r if isinstance(r, Failure) else None for r in packed]
    counts = np.array([len(f["score"]) if f else 0 for f in columns], np.int32)
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
    for name, column in _probabilities(packed).items():
        images = images.append_column(name, column)
    objects = _objects([f for f in columns if f], counts, sha256)
    maps = {n: r for n, r in enumerate(packed) if isinstance(r, PackedMap)}
    with new_folder(folder) as temporary:
        pq.write_table(images, temporary / "images.parquet", compression="zstd")
        pq.write_table(objects, temporary / "objects.parquet", compression="zstd")
        if maps:
            write_maps(temporary, maps)
        write_sums(temporary)


def _rows(prediction: Detections | ClassProbabilities | PackedMap, width: int, height: int) -> dict[str, Any]:
    """The objects of one image in columns: label, score, boxes, and those of OPTIONAL that there are."""
    if isinstance(prediction, Detections):
        columns: dict[str, Any] = {"label": prediction.labels, "score": prediction.scores, "boxes": prediction.boxes}
        columns |= {"rle": prediction.masks} | {
            name: getattr(prediction, name) for name in ("quality", "agree", "uncertainty")
        }
        return {name: column for name, column in columns.items() if column is not None}
    if isinstance(prediction, ClassProbabilities):
        best = int(prediction.probabilities.argmax())
        columns = {"label": np.array([best], np.int16), "score": prediction.probabilities[best : best + 1]}
    else:
        columns = {"label": prediction.label, "score": score(prediction.level), "pixels": prediction.pixels}
    return columns | {"boxes": np.tile(np.array([[0, 0, width, height]], np.float32), (len(columns["score"]), 1))}


def _objects(parts: Sequence[dict[str, Any]], counts: np.ndarray, sha256: Sequence[str]) -> pa.Table:
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(f["boxes"] for f in parts)])
    columns: dict[str, Any] = {
        "sha256": pa.DictionaryArray.from_arrays(np.repeat(np.arange(len(sha256), dtype=np.int32), counts), sha256),
        "label": np.concatenate([np.zeros(0, np.int16), *(f["label"] for f in parts)]),
        "score": np.concatenate([np.zeros(0, np.float32), *(f["score"] for f in parts)]),
    } | {side: np.ascontiguousarray(boxes[:, n]) for n, side in enumerate(BOX)}
    schema = OBJECTS
    for name, kind in OPTIONAL.items():
        if any(name in f for f in parts):
            schema = schema.append(pa.field(name, kind))
            pieces = [pa.array(f[name], kind) if name in f else pa.nulls(len(f["score"]), kind) for f in parts]
            columns[name] = pa.concat_arrays(pieces)
    return pa.table(columns, schema=schema)


def _probabilities(results: Sequence[Any]) -> dict[str, pa.Array]:
    """Of classified images: float16 lists of all, or of the TOP best and their labels; NaN and -1 for the others."""
    probabilities = [r.probabilities for r in results if isinstance(r, ClassProbabilities)]
    if not probabilities:
        return {}
    rows = np.full((len(results), len(probabilities[0])), np.nan, np.float32)
    rows[[isinstance(r, ClassProbabilities) for r in results]] = probabilities

    def listed(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    if rows.shape[1] <= MANY:
        return {"probabilities": listed(rows.astype(np.float16))}
    best = np.argsort(-rows, axis=1, kind="stable")[:, :TOP]
    top = np.take_along_axis(rows, best, axis=1)
    labels = np.where(np.isnan(top), -1, best).astype(np.int16)
    return {"top_label": listed(labels), "top_probability": listed(top.astype(np.float16))}


def read_probabilities(folder: Path, classes: int) -> np.ndarray:
    """The class probabilities of each image of a chunk, float32 (I, classes): NaN for images without any, 0 for classes
    that were not stored. Raises BuildError if there are none, or they are damaged."""
    path = folder / "images.parquet"
    with _opened(path) as file:
        names = [name for name in file.schema_arrow.names if name in ("probabilities", "top_label", "top_probability")]
        if not names:
            raise BuildError(f"predictions in {folder} hold no class probabilities: they are not of a classifier")
        table = _columns(file, path, names)
    lists = {name: table[name].combine_chunks() for name in names}
    values = {
        name: array.values.to_numpy().reshape(len(table), -1) if len(table) else np.zeros((0, 0))
        for name, array in lists.items()
    }
    if "probabilities" in values:
        return values["probabilities"].astype(np.float32).reshape(len(table), classes)
    label, top = values["top_label"], values["top_probability"]
    probabilities = np.zeros((len(table), classes), np.float32)
    np.put_along_axis(probabilities, np.maximum(label, 0).astype(np.int64), top.astype(np.float32), axis=1)
    probabilities[(label < 0).any(axis=1)] = np.nan
    return probabilities


def read_chunk(folder: Path, columns: Sequence[str] | None = None) -> ChunkPredictions:
    """The predictions `write_chunk` put there. `columns`: only these of the objects' (label, score, x1, …, or of
    OPTIONAL), which is quicker; the others are zeros, those of OPTIONAL None. Raises BuildError if they are missing or
    damaged."""
    path = folder / "images.parquet"
    with _opened(path) as file:
        states = () if _is_complete(file) else ("status", "error")
        images = _columns(file, path, [*states, "n_objects"])
    objects = _read(folder / "objects.parquet", [*(columns or ("label", "score", *BOX, *OPTIONAL))])
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
        images["status"].to_pylist() if states else [OK] * len(counts),
        images["error"].to_pylist() if states else [""] * len(counts),
        image,
        column("label", np.int16),
        column("score", np.float32),
        boxes,
        **{name: _optional(objects[name], name) for name in OPTIONAL if name in objects.column_names},
    )


def _optional(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """An optional column; what an image lacks, which others of its chunk have, is NaN, 0 or an empty mask."""
    kind = OPTIONAL[name]
    if column.null_count and not pa.types.is_floating(kind):
        column = pc.fill_null(column, pa.scalar(b"" if name == "rle" else 0, kind))
    return column.to_numpy()


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
        if _is_complete(file):
            return []
        table = _columns(file, path, ["status", "error"])
    rows = zip(table["status"].to_pylist(), table["error"].to_pylist(), strict=True)
    return [FailedImage(position, status, error) for position, (status, error) in enumerate(rows) if status != OK]


def _is_complete(images: pq.ParquetFile) -> bool:
    """Whether a chunk's own summary says that every image of it was labelled: a pool of a million images has thousands
    of such files."""
    groups = [images.metadata.row_group(n).column(STATUS).statistics for n in range(images.num_row_groups)]
    return all(group and group.has_min_max and group.min == group.max == OK for group in groups)


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    with _opened(path) as file:
        return _columns(file, path, columns)


def _opened(path: Path) -> pq.ParquetFile:
    """The file, checked against its sum, a fifth of the time of `pq.read_table`, which first looks for a data set
    around it. It is read once, hashed and parsed from memory: what is checked is what is used."""
    try:
        return pq.ParquetFile(pa.BufferReader(read_checked(path, MEND)))
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _columns(file: pq.ParquetFile, path: Path, columns: Sequence[str]) -> pa.Table:
    """These columns, those of OPTIONAL only if the file has them."""
    try:
        known = {*file.schema_arrow.names}
        if missing := set(columns) - known - {*OPTIONAL}:
            raise pa.ArrowKeyError(f"no column {min(missing)}")
        return file.read(columns=[name for name in columns if name in known], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> BuildError:
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return BuildError(f"predictions {path} cannot be read ({reason}): {MEND}")


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
        "kind": meta["description"]["kind"],
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

"""Semantic maps as FiftyOne draws them, which takes 0 for background and draws nothing there: every class is one more
than in shards and predictions, and void is 0."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from builder.browse.pictures import Media, Planes
from builder.cut.kinds.maps import taught_maps
from builder.engine import Track, silent
from builder.errors import BuildError
from builder.label.maps import png, read_maps
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Thresholds
from builder.scan.pool import Chunk, Pool, read_pool
from builder.store.files import locked, new_folder
from builder.store.shards import ShardError, ShardRecord
from builder.store.store import Store
from builder.store.sums import write_sums
from builder.store.version import Version
from builder.versions.media import LOCK, cache_folder, cache_name, file_name

MEMBER = "seg.png"


def drawable(plane: np.ndarray) -> np.ndarray:
    """Positions of classes, uint8, with 255 for none, as FiftyOne has them."""
    shifted: np.ndarray = plane + np.uint8(1)  # 255 wraps to 0
    return shifted


def pool_planes(store: Store, version: Version, track: Track = silent) -> Callable[[Media], Planes | None]:
    """A function that gives the maps of an image in the version's shards, None for any other image.

    They are files in the store's cache, a folder for each shard, written once; with the teacher's own maps where the
    store holds its predictions. Raises BuildError for a shard or a map that cannot be read.
    """
    manifest = version.manifest
    inputs = manifest.provenance.inputs
    predictions = store.predictions / inputs.predictions
    pool = _pool(store, inputs.pool) if inputs.predictions and predictions.is_dir() else None
    suffix = f"-app-{predictions.name[:12]}" if pool else "-app"
    cache = cache_folder(store)
    folders = {record.name: cache / f"{cache_name(record)}{suffix}" for record in manifest.shards}
    missing = [record for record in manifest.shards if not folders[record.name].is_dir()]
    if missing:
        with (
            track("maps", sum(record.samples for record in missing)) as advance,
            locked(cache / LOCK, "the cache of images", sweep=[cache], wait=True),
        ):
            for record in missing:
                if not folders[record.name].is_dir():  # another process was faster
                    with new_folder(folders[record.name]) as temporary:
                        _write(temporary, version, record, pool, predictions)
                        write_sums(temporary)
                advance(record.samples)

    def planes(media: Media) -> Planes | None:
        if media.shard is None:
            return None
        paths = [folders[media.shard].absolute() / file_name(media.key, e) for e in _EXTENSIONS]
        return Planes(*(path if path.is_file() else None for path in paths)) if paths[0].is_file() else None  # type: ignore[arg-type]

    return planes


_EXTENSIONS = ("pseudo.png", "teacher.png", "confidence.png")


def _pool(store: Store, id: str) -> Pool | None:
    try:
        return read_pool(store, id)
    except BuildError:
        return None


def _write(folder: Path, version: Version, record: ShardRecord, pool: Pool | None, predictions: Path) -> None:
    try:
        for sample in version.samples(record):
            with Image.open(io.BytesIO(sample.read(MEMBER))) as file:
                (folder / file_name(sample.key, _EXTENSIONS[0])).write_bytes(png(drawable(np.array(file))))
    except (ShardError, KeyError, OSError) as error:
        raise BuildError(
            f"{version.data / record.name} cannot be used ({error}): run `tutelage verify --repair` on the version"
        ) from None
    for chunk in pool.chunks(*record.chunks) if pool else ():
        there = [(n, image.key) for n, image in enumerate(chunk.images)]
        there = [(n, key) for n, key in there if (folder / file_name(key, _EXTENSIONS[0])).is_file()]
        if not there or not (predictions / chunk.digest).is_dir():
            continue
        with read_maps(predictions / chunk.digest) as maps:
            for n, key in there:
                answer = maps[n]
                for extension, plane in zip(_EXTENSIONS[1:], (drawable(answer.labels), answer.confidence), strict=True):
                    (folder / file_name(key, extension)).write_bytes(png(plane))


def truth_planes(
    labelled: LabelledPool, chunk: Chunk, thresholds: Thresholds, places: Sequence[int]
) -> Iterator[Planes]:
    """The maps of these labelled images of a chunk, of which there are few: not as files."""
    taught = taught_maps(labelled, [chunk], thresholds, places)
    with read_maps(labelled.predictions / chunk.digest) as maps:
        for place, data in zip(places, taught, strict=True):
            with Image.open(io.BytesIO(data)) as file:
                plane = drawable(np.array(file))
            yield Planes(plane, drawable(maps[place].labels), maps[place].confidence)

"""The images of a version: where each lies in its shards, and as files, for programs that cannot look into a tar."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from builder.engine import Track, silent
from builder.errors import BuildError
from builder.store.files import TEMPORARY, digest, locked, new_folder, sha256_file
from builder.store.keys import is_copy
from builder.store.labels import read_label
from builder.store.manifest import Manifest
from builder.store.shards import Member, Sample, ShardError, ShardRecord
from builder.store.store import Store
from builder.store.sums import SUMS, write_sums
from builder.store.version import Version

LOCK = ".lock"
ADVANCE = 256
"""Images after which the bar moves."""


@dataclass(frozen=True)
class ShardImage:
    """An image of a version. name: in the source; sha256: of its original bytes; width, height: upright pixels; shard:
    its name; image, label: its members."""

    key: str
    name: str
    sha256: str
    width: int
    height: int
    shard: str
    image: Member
    label: Member


def images_of(version: Version) -> Iterator[ShardImage]:
    """The images of a version in the order of its shards, without tombstones and copies; streams, and reads
    no image's bytes. Raises BuildError for a shard that cannot be read."""
    manifest = version.manifest
    gone = set(manifest.tombstones)
    for record, samples in version.shards():
        try:
            for sample in samples:
                if sample.key not in gone and not is_copy(sample.key):
                    yield _image(record.name, sample, manifest)
        except (ShardError, OSError, KeyError):
            path = version.data / record.name
            raise BuildError(f"{path} cannot be read: run `tutelage verify --repair` on the version") from None


def _image(shard: str, sample: Sample, manifest: Manifest) -> ShardImage:
    image, label = sample.members[manifest.features[0]], read_label(sample, manifest)
    sides = label["width"], label["height"]
    return ShardImage(sample.key, label["name"], label["sha256"], *sides, shard, image, sample.members["json"])


class Extracted(Mapping[str, Path]):
    """The image files of a version by key, without a list of them: a key is looked for in the folder of the shard where
    the last one was, then in the others. Iteration is in no order."""

    def __init__(self, folders: list[Path], extension: str, tombstones: frozenset[str]) -> None:
        self._folders, self._extension, self._gone, self._last = folders, extension, tombstones, 0

    def __getitem__(self, key: str) -> Path:
        if key not in self._gone:
            name = file_name(key, self._extension)
            for place in (self._last, *range(len(self._folders))):
                path = self._folders[place] / name
                if path.is_file():
                    self._last = place
                    return path
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        for folder in self._folders:
            names = (path.name.removesuffix(f".{self._extension}") for path in folder.iterdir() if path.name != SUMS)
            keys = (name.replace(".", "/") for name in names)
            yield from (key for key in keys if key not in self._gone)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def file_name(key: str, extension: str) -> str:
    """A key as the name of one file: `/` becomes `.`, which no key holds."""
    return f"{key.replace('/', '.')}.{extension}"


def cache_folder(store: Store) -> Path:
    """Below it a folder for each shard, named by its SHA-256: versions with the same shard share it."""
    return store.root / "cache"


def cache_name(record: ShardRecord) -> str:
    """What its folder begins with there: the SHA-256 of its tar, or, where the images are shared, a digest of its
    labels and of their tars: equal labels may be of images that were re-encoded in another way."""
    if not record.labels:
        return record.sha256
    return digest([record.labels.sha256, *(tar.sha256 for tar in record.images)])


def _can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder, which need not be there."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return os.access(there, os.W_OK)


@cache
def _scratch() -> Path:
    """In the place of the cache of a store that cannot be written: a folder that goes with this process."""
    folder = tempfile.mkdtemp(prefix="tutelage-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def extracted(store: Store, version: Version, track: Track = silent, *, extension: str | None = None) -> Extracted:
    """A version's images, or another member of its samples, as files in the store's cache; what is there already is
    not written again.

    A shard is extracted whole or not at all, after its hash was checked. Where the store cannot be written, the files
    last as long as this process. Raises BuildError for a damaged shard, saying
    how to mend it, and OSError as the disk does.
    """
    manifest, place = version.manifest, cache_folder(store)
    suffix, extension = f"-{extension}" if extension else "", extension or manifest.features[0]
    targets = [place / f"{cache_name(record)}{suffix}" for record in manifest.shards]
    missing = {t: record for t, record in zip(targets, manifest.shards, strict=True) if not t.is_dir()}
    if missing and not _can_be_written(place):
        place = _scratch()
        targets = [place / target.name for target in targets]
        missing = {t: record for t, record in zip(targets, manifest.shards, strict=True) if not t.is_dir()}
    if missing:
        with (
            track("extract", sum(record.samples for record in missing.values())) as advance,
            locked(place / LOCK, "the cache of images", sweep=[place], wait=True),
        ):
            for target, record in missing.items():
                if not target.is_dir():  # another process was faster
                    _extract(version, record, extension, target, advance)
    return Extracted(targets, extension, frozenset(manifest.tombstones))


def _extract(
    version: Version, record: ShardRecord, extension: str, target: Path, advance: Callable[[int], None]
) -> None:
    path = version.data / record.name
    try:
        if not record.labels and sha256_file(version.shard(record)) != record.sha256:
            raise ShardError(f"{path.name} has another SHA-256 than the manifest says")
        with new_folder(target) as temporary:
            samples = version.samples(record)
            while batch := list(islice(samples, ADVANCE)):
                for sample in batch:
                    if is_copy(sample.key):
                        continue
                    (temporary / file_name(sample.key, extension)).write_bytes(sample.members[extension].read())
                advance(len(batch))
            write_sums(temporary)
    except FileNotFoundError as error:
        raise BuildError(f"{error.filename or path} is not there: run `tutelage verify --repair`") from None
    except (ShardError, KeyError) as error:
        raise BuildError(f"{path} cannot be used ({error}): run `tutelage verify --repair` on the version") from None


def unused(store: Store, shards: frozenset[str]) -> list[Path]:
    """Folders of the cache that belong to none of the shards of these SHA-256: for `gc`."""
    cache = cache_folder(store)
    folders = sorted(cache.iterdir()) if cache.is_dir() else []
    return [f for f in folders if f.is_dir() and f.name[:64] not in shards and not f.name.startswith(TEMPORARY)]

"""What nothing in a store refers to any more, and its removal. Whatever a running process has locked is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import BuildError
from builder.scan.pool import pointers, read_pool
from builder.store.files import TEMPORARY, discard, locked
from builder.store.locks import take_lock
from builder.store.manifest import MANIFEST, read_manifest
from builder.store.shared.tars import ImageTars
from builder.store.store import Store
from builder.store.version import WORK
from builder.versions.history import folder_bytes
from builder.versions.media import LOCK, cache_folder, cache_name, unused


@dataclass(frozen=True)
class Garbage:
    """A file or folder that nothing refers to. kind: version, temporary, pool, predictions, fetched, cached or images.
    why: in words. lock: the file whose holder may remove it."""

    path: Path
    kind: str
    why: str
    bytes: int
    lock: Path


@dataclass(frozen=True)
class Found:
    """garbage: what may be removed. busy: what a running process has locked, which is why something may be missing."""

    garbage: list[Garbage]
    busy: list[str]


def find(store: Store, *, predictions: bool = False) -> Found:
    """Everything in the store that nothing refers to; chunks of predictions, which cost a teacher's time, only if they
    are asked for. Writes nothing. Raises BuildError if a manifest or a pool cannot be read: who knows what it needs.

    A pool is needed by complete versions and by the last scan of a source, a chunk of predictions by a pool. While
    something runs, pools and predictions all stay.
    """
    return _find(store, predictions, [lock for lock in (store.lock, *_locks(store)) if _is_held(lock)])


def _find(store: Store, predictions: bool, locks: list[Path]) -> Found:
    """locks: those that another process holds."""
    busy = [str(lock.relative_to(store.root)) for lock in locks]
    garbage = [g for g in (*_temporaries(store), *_versions(store)) if g.lock not in locks]
    if not busy:
        garbage += [*_fetched(store), *_cached(store), *_images(store)]
        needed = _needed(store)
        unused = [id for id in store.ids(store.pools) if id not in needed]
        why = "no version and no last scan of a source refers to it"
        garbage += [_garbage(store.pools / id, "pool", why, store.pools / ".lock") for id in unused]
        if predictions:
            garbage += _chunks(store, set(store.ids(store.pools)) - set(unused))
    return Found(sorted(garbage, key=lambda g: g.path), busy)


def collect(store: Store, *, predictions: bool = False) -> Found:
    """Remove what `find` finds; returns what is removed. A thing whose lock was taken meanwhile stays and is `busy`.
    Raises BuildError while a scan, label or build has the store in use: between the stages of a build nothing else
    tells what it needs."""
    if not store.root.is_dir():
        return Found([], [])
    with locked(store.lock, f"store {store.root}", sweep=[]):
        return _collect(store, _find(store, predictions, [lock for lock in _locks(store) if _is_held(lock)]))


def leftovers(store: Store) -> list[Garbage]:
    """What killed processes left half-written, unfinished versions among it; nothing that a running one holds."""
    return [g for g in (*_temporaries(store), *_versions(store)) if not _is_held(g.lock)]


def sweep(store: Store) -> list[Garbage]:
    """Remove what killed processes left half-written, but unfinished versions, which their build goes on with."""
    return _collect(store, Found([g for g in leftovers(store) if g.kind == "temporary"], [])).garbage


def _collect(store: Store, found: Found) -> Found:
    removed: list[Garbage] = []
    busy = list(found.busy)
    for lock in sorted({g.lock for g in found.garbage}):
        lockable = [g for g in found.garbage if g.lock == lock]
        try:
            with locked(lock, str(lock.parent), sweep=[]):
                removed += [g for g in lockable if _remove(g)]
        except BuildError:
            busy.append(str(lock.relative_to(store.root)))
    return Found(sorted(removed, key=lambda g: g.path), sorted(busy))


def _remove(garbage: Garbage) -> bool:
    if garbage.kind == "version" and (garbage.path / MANIFEST).exists():
        return False  # a build finished it between the look and the lock
    if garbage.path.is_dir():
        if garbage.path.name.startswith(TEMPORARY):
            shutil.rmtree(garbage.path)
        else:
            discard(garbage.path)
    else:
        garbage.path.unlink(missing_ok=True)
    return True


def _garbage(path: Path, kind: str, why: str, lock: Path) -> Garbage:
    return Garbage(path, kind, why, folder_bytes(path), lock)


def _areas(store: Store) -> Iterator[tuple[Path, Path]]:
    """(folder, the lock whose holder may sweep it)."""
    for folder in (store.pools, store.pools / "sources", *(store.pools / id for id in store.ids(store.pools))):
        yield folder, store.pools / ".lock"
    for id in store.ids(store.predictions):
        yield store.predictions / id, store.predictions / id / ".lock"
    for dataset in _folders(store.datasets):
        yield dataset, dataset / ".lock"
        for version in store.versions(dataset.name):
            for folder in (version, *_folders(version)):
                yield folder, dataset / f".lock-{version.name}"
    for folder in (*_folders(store.tagged), *_folders(store.root / "certify"), *_folders(store.root / "reviews")):
        yield folder, folder / ".lock"
    yield cache_folder(store), cache_folder(store) / LOCK
    tars = ImageTars(store.root)
    yield from ((folder, tars.lock) for folder in _folders(tars.folder))


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def _locks(store: Store) -> list[Path]:
    return sorted({lock for _, lock in _areas(store)})


def _is_held(lock: Path) -> bool:
    try:
        with open(lock, "rb") as file:
            return not take_lock(file)
    except FileNotFoundError:
        return False


def _temporaries(store: Store) -> Iterator[Garbage]:
    unfinished = {
        folder for name in store.names() for folder in store.versions(name) if not (folder / MANIFEST).exists()
    }
    for folder, lock in _areas(store):
        if not folder.is_dir() or folder in unfinished or folder.parent in unfinished:
            continue  # an unfinished version goes as a whole
        for path in sorted(folder.iterdir()):
            if path.name.startswith(TEMPORARY):
                yield _garbage(path, "temporary", "what a killed process left half-written", lock)
            elif path.name == WORK:
                yield _garbage(path, "temporary", "parts of a version that is complete", lock)


def _versions(store: Store) -> Iterator[Garbage]:
    for name in store.names():
        for folder in store.versions(name):
            if not (folder / MANIFEST).exists():
                why = "its build has not finished, and is not running"
                yield _garbage(folder, "version", why, folder.parent / f".lock-{folder.name}")


def _needed(store: Store) -> set[str]:
    """Ids that a complete version's manifest or a scanned source names, wherever in them."""
    complete = (folder for name in store.names() for folder in store.versions(name) if (folder / MANIFEST).is_file())
    needed = {text for folder in complete for text in _texts(read_manifest(folder).provenance.stored())}
    return needed.union(*(_texts(pointer) for pointer in pointers(store)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _fetched(store: Store) -> Iterator[Garbage]:
    """What builder.hub.remote fetched, by version."""
    remote = store.root / "remote"
    for folder in (id for org in _folders(remote) for name in _folders(org) for id in _folders(name)):
        yield _garbage(folder, "fetched", "a copy from the Hub, fetched again when it is needed", remote / ".lock")


def _cached(store: Store) -> Iterator[Garbage]:
    """Extracted images (builder.versions.media) of shards that no complete version in the store holds."""
    complete = (folder for name in store.names() for folder in store.versions(name) if (folder / MANIFEST).is_file())
    shards = frozenset(cache_name(shard) for folder in complete for shard in read_manifest(folder).shards)
    for folder in unused(store, shards):
        why = "images of a shard that no version holds, extracted again when they are needed"
        yield _garbage(folder, "cached", why, cache_folder(store) / LOCK)


def _images(store: Store) -> Iterator[Garbage]:
    """Image tars that no complete version shares."""
    tars = ImageTars(store.root)
    complete = (folder for name in store.names() for folder in store.versions(name) if (folder / MANIFEST).is_file())
    needed = {tar.name for folder in complete for shard in read_manifest(folder).shards for tar in shard.images}
    for path in sorted(path for folder in _folders(tars.folder) for path in folder.iterdir()):
        if path.stem not in needed and not path.name.startswith("."):
            yield _garbage(path, "images", "images that no version shares, written again when they are", tars.lock)


def _chunks(store: Store, pools: Iterable[str]) -> Iterator[Garbage]:
    """Chunks of predictions that belong to none of these pools."""
    needed = {chunk.digest for id in sorted(pools) for chunk in read_pool(store, id).index}
    for id in store.ids(store.predictions):
        folder = store.predictions / id
        for digest in store.ids(folder):
            if digest not in needed:
                yield _garbage(folder / digest, "predictions", "no pool holds this chunk any more", folder / ".lock")

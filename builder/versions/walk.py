"""Walk a store and read every byte of it: what is bad, what nobody can verify, and what killed processes left.

Files that were hashed before in this process are hashed again. Of what has no digest, since it was written before there
were any, only that it can be read, and that it fits what it is named after, is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Literal

import orjson
import pyarrow.parquet as pq

from builder.cut.basis import lost_corrections
from builder.engine import Track, run, silent
from builder.errors import BuildError
from builder.label.meta import META, read_meta
from builder.label.predictions import read_chunk
from builder.rules.overrides import load_overrides, overrides_path
from builder.scan.pool import FILE, SOURCES, UNREADABLE, FirstPool, Pool, read_pointer, read_pool
from builder.store.files import digest, is_sealed, read_stored, sha256_file, unseal
from builder.store.history import HISTORY, read_history
from builder.store.manifest import MANIFEST, read_manifest
from builder.store.store import Store
from builder.store.sums import SUMS, forget_checked, wrong_files
from builder.store.version import OVERRIDES, Version
from builder.versions.garbage import leftovers
from builder.versions.health import verify
from builder.versions.media import cache_folder
from builder.versions.verify import problems
from teachers.errors import TutelageError

State = Literal["bad", "unverified", "left over"]
Area = Literal[
    "pool", "source", "teacher", "chunk", "version", "tag", "review", "certify", "history", "cache", "left over"
]
ADOPT = "`tutelage fsck --adopt` trusts it as it is now"
ANEW = "the next scan of its source begins anew"


@dataclass(frozen=True)
class Fault:
    """Something in a store that is not as it should be. path: the file or folder; what: is wrong with it, in words;
    again: how it can be made again, "" if that is not known."""

    path: Path
    area: Area
    state: State
    what: str
    again: str = ""


def faults(store: Store, *, workers: int | None = None, track: Track = silent) -> Iterator[Fault]:
    """Everything in a store that is bad, unverified or left over, in the order in which it is to be mended. Raises
    BuildError where there is no store: to find nothing wrong with it would mislead whoever mistyped its name."""
    if not store.root.is_dir():
        raise BuildError(f"there is no store {store.root} to check: give --store an existing one")
    forget_checked()
    yield from _sources(store)
    yield from _pools(store, track)
    yield from _predictions(store, workers, track)
    yield from _small(store)
    yield from _versions(store, workers, track)
    yield from _tags(store)
    yield from _caches(store, track)
    yield from (Fault(g.path, "left over", "left over", g.why, "`tutelage gc` removes it") for g in leftovers(store))


def _pools(store: Store, track: Track) -> Iterator[Fault]:
    ids = store.ids(store.pools)
    with track("pools", len(ids)) as advance:
        for id in ids:
            folder = store.pools / id
            again = f"`tutelage fsck --repair` scans {_source_of(store, id) or 'its source'} again"
            wrong = list(wrong_files(folder, {FILE}) or _pool_faults(store, id))
            yield from (Fault(folder, "pool", "bad", what, again) for what in wrong)
            if not (wrong or (folder / SUMS).exists()):
                yield _unverified(folder, "pool")
            advance(1)


def _source_of(store: Store, id: str) -> str:
    """What was scanned last into a pool; "" if nothing readable says it."""
    for path in sorted((store.pools / SOURCES).glob("*.json")):
        try:
            pointer = read_pointer(path) or {}
        except BuildError:
            continue
        if pointer.get("pool") == id:
            return str(pointer.get("source") or pointer.get("labels") or "")
    return ""


def _pool_faults(store: Store, id: str) -> Iterator[str]:
    """Where a pool is not what its id and its summary say. One of the first has no summary, only rows and an id."""
    try:
        try:
            pool = read_pool(store, id)
        except FirstPool as error:
            pool = error.pool
        found, counts, lost = _counted(pool)
    except BuildError as error:
        yield str(error).partition(": ")[0]
        return
    if found != id:
        yield f"its rows are those of pool {found[:12]}"
    elif pool.counts and (counts != {state: n for state, n in pool.counts.items() if n} or lost != pool.lost):
        yield "its summary does not count its rows"
    for chunk in pool.chunks():
        if hashlib.sha256("\n".join(chunk.rows["sha256"].to_pylist()).encode()).hexdigest() != chunk.digest:
            yield f"chunk {chunk.index} is not that of its summary"
            return


def _counted(pool: Pool) -> tuple[str, dict[str, int], int]:
    """The id that the rows of a pool make (builder.scan.census), how many there are by state, and how many of them are
    unreadable outside all chunks."""
    id, comma, counts, lost = hashlib.sha256(b"["), b"", dict[str, int](), 0
    for table in pool.tables(("key", "sha256", "chunk", "state")):
        for key, sha256, chunk, state in zip(*(column.to_pylist() for column in table.columns), strict=True):
            id.update(comma + orjson.dumps([key, sha256, chunk, state]))
            comma = b","
            counts[state] = counts.get(state, 0) + 1
            lost += state == UNREADABLE and chunk < 0
    id.update(b"]")
    return id.hexdigest(), counts, lost


def _sources(store: Store) -> Iterator[Fault]:
    for path in sorted((store.pools / SOURCES).glob("*.json")):
        try:
            pointer = read_pointer(path)
        except BuildError as error:
            yield Fault(path, "source", "bad", _reason(error, path), f"remove it, and {ANEW}")
            continue
        if pointer and not (store.pools / pointer["pool"] / FILE).is_file():
            yield Fault(path, "source", "bad", f"its pool {pointer['pool'][:12]} is gone", f"remove it, and {ANEW}")
        elif not _is_sealed(path):
            yield _unverified(path, "source")


def _predictions(store: Store, workers: int | None, track: Track) -> Iterator[Fault]:
    again = "`tutelage fsck --repair` labels it again"
    for id in store.ids(store.predictions):
        folder = store.predictions / id
        try:
            meta = read_meta(folder)
        except BuildError as error:
            mend = "`tutelage label` writes it anew once it is removed"
            yield Fault(folder / META, "teacher", "bad", _reason(error, folder / META), mend)
            classes = None
        else:
            classes = len(meta["description"]["classes"])
            if not _is_sealed(folder / META):
                yield _unverified(folder / META, "teacher")
        chunks = [folder / name for name in store.ids(folder)]

        def look(chunk: Path, stop: Event, classes: int | None = classes) -> list[str]:
            files = {"images.parquet", "objects.parquet"}
            return list(wrong_files(chunk, files) or _chunk_faults(chunk, classes))

        with track("chunks", len(chunks)) as advance:
            for chunk, wrong in zip(chunks, run(look, chunks, workers), strict=True):
                yield from (Fault(chunk, "chunk", "bad", what, again) for what in wrong)
                if not (wrong or (chunk / SUMS).exists()):
                    yield _unverified(chunk, "chunk")
                advance(1)


def _chunk_faults(folder: Path, classes: int | None) -> Iterator[str]:
    """Where a chunk of predictions, whose files are as they were written, does not hold together."""
    try:
        chunk = read_chunk(folder)
        table = pq.read_table(folder / "images.parquet", columns=["sha256"], partitioning=None)
        hashes = table["sha256"].to_pylist()
    except BuildError as error:
        yield str(error).partition(": ")[0]
        return
    if hashlib.sha256("\n".join(hashes).encode()).hexdigest() != folder.name:
        yield "its images are not those of its name"
    if len(chunk.label) and not 0 <= int(chunk.label.min()) <= int(chunk.label.max()) < (classes or 1 << 15):
        yield "it holds a label that the teacher does not have"


def _versions(store: Store, workers: int | None, track: Track) -> Iterator[Fault]:
    for name in store.names():
        for folder in (folder for folder in store.versions(name) if (folder / MANIFEST).is_file()):
            ref = f"{name}@{folder.name}"
            try:
                version = Version.open(folder, claimed=False)  # verify tells it
            except BuildError as error:
                again = f"remove it and build the recipe of {ref} again, which finds all else"
                yield Fault(folder / MANIFEST, "version", "bad", _reason(error, folder / MANIFEST), again)
                continue
            again = f"`tutelage verify --repair {ref}`"
            try:
                wrong = verify(version, store, workers=workers, track=track).problems
            except BuildError:  # of a tag, the history or another version, which is told by itself
                wrong = tuple(problems(version, workers=workers, track=track))
            for problem in wrong:
                manifest = problem.what.startswith(MANIFEST)
                advice = "" if problem.stray and not manifest else again
                yield Fault(folder, "version", "bad", problem.what, "restore it from a copy" if manifest else advice)
            if not wrong and not is_pinned(store, version):
                yield Fault(folder, "version", "unverified", "nobody noted its manifest when it was made", ADOPT)


def is_pinned(store: Store, version: Version) -> bool:
    """Whether the store's history knows a version's manifest; while it cannot be read, that is not told."""
    try:
        event = read_history(store.root).get(version.ref)
    except BuildError:
        return True
    return event is not None and event.what != "removed" and event.manifest != ""


def _tags(store: Store) -> Iterator[Fault]:
    for path in _files(store.tagged, "*/*"):
        name, tag = path.parent.name, path.name
        try:
            store.version(f"{name}@{tag}", claimed=False)
        except BuildError as error:
            again = f"run `tutelage tag --force {name}@VERSION {tag}` or `tutelage tag --delete {name} {tag}`"
            yield Fault(path, "tag", "bad", _reason(error, path), again)
            continue
        if not _is_sealed(path):
            yield _unverified(path, "tag")


def _small(store: Store) -> Iterator[Fault]:
    """What people said and did: reviews, audits, uses of the certify half, history."""
    by_people = "restore it from a copy"
    for path in (*_files(store.root / "reviews", "*/*"), *_files(store.root / "reviews", "*/audits/*")):
        if path.suffix == ".json":
            yield from _read(path, "review", _review_reader(path), by_people)
    for name in store.names():
        with suppress(BuildError):  # of the history or a manifest, which are told by themselves
            if lost := lost_corrections(store, name):
                what, _, again = lost.partition(": ")
                yield Fault(overrides_path(store, name), "review", "bad", what, again)
    for path in _files(store.root / "certify", "*/images.json"):
        yield from _read(path, "certify", _certify, by_people, named=True)
    if (store.root / HISTORY).exists():
        yield from _read(store.root / HISTORY, "history", lambda path: read_history(path.parent), by_people)


def _read(
    path: Path, area: Area, read: Callable[[Path], object], again: str, *, named: bool = False
) -> Iterator[Fault]:
    """The fault of a small file, if it has one. named: whether its name is the digest of what it holds."""
    try:
        read(path)
    except (TutelageError, OSError, ValueError) as error:
        yield Fault(path, area, "bad", _reason(error, path), again)
        return
    if not (named or _is_audit(path) or _is_sealed(path)):
        yield _unverified(path, area)


def _review_reader(path: Path) -> Callable[[Path], object]:
    if path.name == OVERRIDES:
        return load_overrides
    return _audit if _is_audit(path) else _sealed


def _is_audit(path: Path) -> bool:
    return path.parent.name == "audits" and not path.name.endswith(".verdicts.json")


def _audit(path: Path) -> None:
    if digest(read_stored(path))[:12] != path.stem.rpartition("-")[2]:
        raise BuildError(f"{path} is damaged (its name is not the digest of what it holds): draw the audit again")


def _certify(path: Path) -> None:
    if digest(read_stored(path)) != path.parent.name:
        raise BuildError(f"{path} is damaged (its folder is not named after it): restore it")


def _sealed(path: Path) -> None:
    content: Any = read_stored(path)
    if not isinstance(content, list):  # of before there were digests
        unseal(content, path)


def _caches(store: Store, track: Track) -> Iterator[Fault]:
    """What was fetched or extracted, and is again when it is needed."""
    folders = sorted(path for path in cache_folder(store).glob("*") if path.is_dir() and path.name[0] != ".")
    again = "remove it: it is made again when it is needed"
    with track("caches", len(folders)) as advance:
        for folder in folders:
            yield from (Fault(folder, "cache", "bad", what, again) for what in wrong_files(folder))
            if not (folder / SUMS).exists():
                yield _unverified(folder, "cache")
            advance(1)
    for manifest in _files(store.root / "remote", f"*/*/*/{MANIFEST}"):
        folder = manifest.parent
        try:
            if sha256_file(manifest) != folder.name:
                raise BuildError(f"{manifest} is damaged (its folder is not named after it): fetch it again")
            stated = read_manifest(folder)
        except (BuildError, OSError) as error:
            yield Fault(folder, "cache", "bad", _reason(error, manifest), again)
            continue
        sums = {f"data/{shard.name}": shard.sha256 for shard in stated.shards} | stated.files
        for name, sha256 in sums.items():
            if (folder / name).is_file() and sha256_file(folder / name) != sha256:
                yield Fault(folder, "cache", "bad", f"{name}: its bytes are not those of the manifest", again)


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith("."))


def _is_sealed(path: Path) -> bool:
    content = read_stored(path)
    return isinstance(content, dict) and is_sealed(content)


def _unverified(path: Path, area: Area) -> Fault:
    return Fault(path, area, "unverified", "it has no digest", ADOPT)


def _reason(error: Exception, path: Path) -> str:
    """A message without the path that stands beside it, and without the next step."""
    said = " ".join(str(error).replace(str(path), "it").split())
    return said.rpartition("): ")[0] + ")" if "): " in said else said.partition(": ")[0]

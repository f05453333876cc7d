"""The state of a whole store, its repair, and digests for what was written before there were any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from builder.engine import Track, silent
from builder.errors import BuildError
from builder.evidence.holdout import load_labels
from builder.label.labeller import Labeller
from builder.label.load import load_labeller
from builder.label.meta import read_meta
from builder.label.predictions import write_chunk
from builder.label.section import TeacherSection
from builder.recipe.recipe import Recipe
from builder.scan.pool import CHUNK_SIZE, SOURCES, Pool, read_pointer, read_pool
from builder.scan.scanner import scan_pool
from builder.store.files import (
    TEMPORARY,
    canonical_json,
    digest,
    discard,
    is_sealed,
    locked,
    read_stored,
    seal,
    sha256_file,
    sync_folder,
    unseal,
    write_file,
)
from builder.store.history import HISTORY
from builder.store.history import adopt as adopt_versions
from builder.store.manifest import MANIFEST, read_manifest
from builder.store.store import Store, check_store
from builder.store.sums import read_sums, write_sums
from builder.store.version import Version
from builder.truth.options import LabelOptions
from builder.versions.garbage import sweep
from builder.versions.health import verify
from builder.versions.walk import Fault, faults
from teachers.base import fingerprint
from teachers.errors import TutelageError
from teachers.files import read_regular
from teachers.limits import MAX_PIXELS

FLIPPED = 1 << 14
"""Bytes of a small file, at most, of which each bit is turned in search of the one that a disk flipped: of more it
would take minutes, since the time grows with the square."""
LOST = "more of it is damaged than one bit, and nothing else says what it was"


@dataclass(frozen=True)
class Checked:
    """The state of a store. faults: what is bad, unverified or left over now; repaired: what was and is no more;
    adopted: files and folders that got a digest."""

    faults: tuple[Fault, ...]
    repaired: tuple[Fault, ...] = ()
    adopted: tuple[Path, ...] = ()

    @property
    def bad(self) -> tuple[Fault, ...]:
        return tuple(fault for fault in self.faults if fault.state == "bad")


def fsck(
    store: Store,
    *,
    repair: bool = False,
    adopt: bool = False,
    allow_code: bool = False,
    workers: int | None = None,
    track: Track = silent,
) -> Checked:
    """Read every byte of a store, and make again what is bad if that is asked for.

    Args:
        store: the one to look at.
        repair: scan bad pools, label bad chunks and build bad files of versions again, turn back a flipped bit of what
            cannot be made, and sweep what was left half-written. Nothing takes a place that is not proved to be what
            was there.
        adopt: give what is readable but was written before there were digests its digest, as it is now.
        allow_code: see teachers.load_teacher.
        workers: threads; None for one a core.
        track: reports progress.

    Returns:
        What is wrong; what cannot be repaired says why, and what then.

    Raises:
        BuildError: there is no store, or another process uses it, where digests are to be given.
    """
    check_store(store)
    before = tuple(faults(store, workers=workers, track=track))
    reasons: dict[tuple[Path, str], str] = {}
    after = before
    if repair and any(fault.state != "unverified" for fault in before):
        for fault in {(fault.path, fault.area): fault for fault in before if fault.state == "bad"}.values():
            try:
                _Repair(store, allow_code, workers, track).of(fault)
            except (TutelageError, OSError) as error:
                reasons[fault.path, fault.area] = f"cannot be repaired: {error}"
        sweep(store)
        after = tuple(faults(store, workers=workers, track=track))
    adopted = _give_digests(store, after) if adopt else ()
    left = [replace(f, again=reasons.get((f.path, f.area), f.again)) for f in after if f.path not in adopted]
    return Checked(tuple(left), tuple(fault for fault in before if fault not in after), adopted)


@dataclass(frozen=True)
class _Repair:
    """How each part of a store is made again. Raises TutelageError where it cannot be."""

    store: Store
    allow_code: bool
    workers: int | None
    track: Track

    def of(self, fault: Fault) -> None:
        path, area = fault.path, fault.area
        match area:
            case "pool":
                self._pool(path.name)
            case "chunk":
                self._chunk(path)
            case "version" if path.name != MANIFEST:
                verify(
                    Version.open(path, claimed=False), self.store, repair=True, workers=self.workers, track=self.track
                )
            case "cache":
                discard(path)
            case _:
                self._file(fault)

    def _file(self, fault: Fault) -> None:
        path, is_right = fault.path, _is_right(fault.path, fault.area)
        data = read_regular(path) if path.exists() else b""
        why = "it is as it was written" if is_right(data) else LOST if data else "nothing is left of it"
        whole = flipped_back(data, is_right) if len(data) <= FLIPPED and why is LOST else None
        whole = self._pointer(path) if whole is None and fault.area == "source" else whole
        if whole is None:
            raise BuildError(f"{why}: {fault.again}")
        write_file(path, whole)

    def _pointer(self, path: Path) -> bytes | None:
        """What the last scan of a source must have noted, where only one pool can be it."""
        found = []
        for pool in _readable(self.store):
            key = {"source": os.path.abspath(pool.source), "images": None, "limit": None}
            if digest(key) == path.stem:
                found.append({**key, "pool": pool.id})
        if len(found) > 1:
            raise BuildError(f"{len(found)} pools are of that source, and nothing says which was scanned last")
        return canonical_json(seal(found[0])) if found else None

    def _pool(self, id: str) -> None:
        """Scan its source again, which writes nothing if another pool comes of it."""
        pointer = next((p for p in _pointers(self.store) if p["pool"] == id), None)
        if pointer is None:
            raise BuildError("it is of no source's last scan: restore it from a copy, or build its versions anew")
        if "labels" in pointer:
            section = LabelOptions.model_validate(
                {"source": pointer["labels"], **{k: v for k, v in pointer.items() if k not in ("labels", "pool")}}
            )
            load_labels(section, self.store, written=section.source, workers=self.workers, track=self.track)
            return
        why: BuildError | None = None
        for chunk_size, max_pixels in _ways(self.store, id):
            try:
                scan_pool(
                    pointer["source"],
                    self.store,
                    images=pointer.get("images"),
                    limit=pointer.get("limit"),
                    member=pointer.get("member"),
                    chunk_size=chunk_size,
                    max_pixels=max_pixels,
                    workers=self.workers,
                    track=self.track,
                )
                return
            except BuildError as error:
                why = why or error
        raise why or BuildError("nobody knows how it was scanned")

    def _chunk(self, folder: Path) -> None:
        """Label it again; what the teacher says now takes its place only if it is what it said before."""
        predictions = folder.parent
        meta = read_meta(predictions)
        pool, number = _pool_of(self.store, folder.name)
        labeller = self._labeller(predictions.name, meta)
        scratch = predictions / f"{TEMPORARY}repair-{folder.name}"
        with (
            self.store.in_use(),
            locked(predictions / ".lock", f"predictions {predictions.name[:12]}", sweep=[predictions]),
            self.track("label", pool.index[number].images) as advance,
        ):
            chunk = next(pool.pick([number]))
            write_chunk(scratch, chunk, next(iter(labeller.of(pool).results([chunk], advance))))
            other = sorted(name for name in read_sums(scratch, "") or () if not _same(scratch, folder, name))
            if other:
                discard(scratch)
                raise BuildError(
                    f"its teacher says something else now ({', '.join(other)} would be others, and so would versions "
                    f"made of them): to accept that, remove {folder} and label again"
                )
            discard(folder)
            os.rename(scratch, folder)
            sync_folder(predictions)

    def _labeller(self, id: str, meta: dict[str, Any]) -> Labeller:
        """The teacher of these predictions, as the recipes of versions name it, or as it was named when it labelled."""
        why = ""
        for section in _sections(self.store, id, meta):
            try:
                labeller = load_labeller(section, self.workers, self.allow_code)
            except (TutelageError, ModuleNotFoundError) as error:
                why = why or str(error)
                continue
            if fingerprint(labeller.description) == id:
                return labeller
            why = why or "what is there is another one"
        raise BuildError(f"its teacher {meta['spec']} is not at hand ({why}): label from where it is")


def flipped_back(data: bytes, is_right: Callable[[bytes], bool]) -> bytes | None:
    """The bytes with the one bit turned that makes them right, None if no single one does."""
    for place in range(len(data)):
        for bit in range(8):
            candidate = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            if is_right(candidate):
                return candidate
    return None


def _is_right(path: Path, area: str) -> Callable[[bytes], bool]:
    """Whether bytes are what a small file must have held: they fit their own digest, or their name."""

    def right(data: bytes) -> bool:
        try:
            content = orjson.loads(data)
            if area == "certify":
                return digest(content) == path.parent.name
            if not is_sealed(content):
                return path.parent.name == "audits" and digest(content)[:12] == path.stem.rpartition("-")[2]
            rest = unseal(content, path)
        except (ValueError, TypeError, BuildError):
            return False
        return area != "source" or digest({k: v for k, v in rest.items() if k != "pool"}) == path.stem

    return right


def _same(new: Path, old: Path, name: str) -> bool:
    """Whether a file is what the sums of an old folder say, or, where these are damaged, what it still holds; nobody
    can tell where there were none."""
    try:
        sums = read_sums(old, "")
    except BuildError:
        sums = {}
    sha256 = sha256_file(new / name)
    if sums is None:
        return True
    return sha256 in sums.get(name, set()) or ((old / name).is_file() and sha256_file(old / name) == sha256)


def _pointers(store: Store) -> Iterator[dict[str, Any]]:
    """Those that can be read."""
    for path in sorted((store.pools / SOURCES).glob("*.json")):
        try:
            pointer = read_pointer(path)
        except BuildError:
            continue
        if pointer:
            yield pointer


def _readable(store: Store) -> Iterator[Pool]:
    for id in store.ids(store.pools):
        try:
            yield read_pool(store, id)
        except BuildError:
            continue


def _pool_of(store: Store, chunk: str) -> tuple[Pool, int]:
    """A pool that holds the chunk of this digest, and its number there."""
    for pool in _readable(store):
        for number, facts in enumerate(pool.index):
            if facts.digest == chunk:
                return pool, number
    raise BuildError("no pool holds its images any more: `tutelage gc --predictions` removes it")


def _recipes(store: Store, input: Literal["pool", "predictions"], id: str) -> Iterator[Recipe]:
    """Of the versions that were made of a pool, or of predictions, as far as they can be read."""
    for name in store.names():
        for folder in (folder for folder in store.versions(name) if (folder / MANIFEST).is_file()):
            try:
                made = read_manifest(folder, claimed=False).provenance
                if getattr(made.inputs, input) == id:
                    yield Recipe.model_validate(made.recipe)
            except (BuildError, ValueError):
                continue


def _ways(store: Store, id: str) -> dict[tuple[int, int], None]:
    """Chunk sizes and most pixels with which a pool may have been scanned, the likeliest first."""
    recipes = _recipes(store, "pool", id)
    return dict.fromkeys([*((r.pool.chunk, r.pool.max_pixels) for r in recipes), (CHUNK_SIZE, MAX_PIXELS)])


def _sections(store: Store, id: str, meta: dict[str, Any]) -> Iterator[TeacherSection]:
    """What may name the teacher of these predictions, the likeliest first."""
    yield from (recipe.teacher for recipe in _recipes(store, "predictions", id))
    spec = {"spec": meta["spec"], "license": meta.get("license", "unknown")}
    yield TeacherSection.model_validate(spec)
    yield TeacherSection.model_validate({**spec, "floor": meta["description"]["floor"]})


def _give_digests(store: Store, found: tuple[Fault, ...]) -> tuple[Path, ...]:
    """Give all that is unverified a digest. Of folders it is said since when; a small file is sealed as it is."""
    paths = tuple(fault.path for fault in found if fault.state == "unverified")
    if not paths:
        return ()
    today = datetime.now(UTC).date().isoformat()
    with locked(store.lock, f"store {store.root}", sweep=[]):
        versions = [
            Version.open(fault.path) for fault in found if (fault.area, fault.state) == ("version", "unverified")
        ]
        if versions or store.root / HISTORY in paths:
            adopt_versions(store.root, {version.ref: version.manifest for version in versions})
        for path in paths:
            if path == store.root / HISTORY or path in {version.folder for version in versions}:
                continue  # sealed now
            if path.is_dir():
                write_sums(path, f"unverified before {today}")
                continue
            content = read_stored(path)
            sealed = seal({"images": content} if isinstance(content, list) else content)
            write_file(path, orjson.dumps(sealed, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return paths

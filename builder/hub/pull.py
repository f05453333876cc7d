"""Bring a version from the Hub, or from an object store, into the store, verified against its manifest."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Literal

from builder.engine import Track, run, silent
from builder.errors import BuildError
from builder.hub.bucket import is_bucket
from builder.hub.remote import RemoteVersion, open_remote
from builder.hub.repository import PREFIX, parse_ref
from builder.store.files import TEMPORARY, locked, new_folder
from builder.store.history import record
from builder.store.manifest import MANIFEST, read_manifest
from builder.store.store import NAME, Store, check_store
from builder.store.trust import Trust
from builder.store.version import DATA

FETCHERS = 4
"""Files that are fetched side by side."""


@dataclass(frozen=True)
class Pulled:
    """A version in the store. state: pulled; there (it was there already); would (a dry run). fetched: files that came
    over the line now, or would; bytes: of the shards among them."""

    version: str
    id: str
    folder: Path
    state: Literal["pulled", "there", "would"]
    fetched: int = 0
    bytes: int = 0


def pull(ref: str, store: Store, *, name: str | None = None, dry_run: bool = False, track: Track = silent) -> Pulled:
    """Fetch a published version into a store. Every file is checked by its hash before it has its name, and the folder
    appears whole. What an interrupted pull fetched is kept.

    Args:
        ref: `org/name@v3`, a tag, branch or commit in place of `v3`; without one the newest. Of an object store
            `s3://bucket/prefix/name@v3`.
        store: gets it as `datasets/NAME/vN`.
        name: of the dataset in the store, if not its own.
        dry_run: only say what would be fetched.
        track: shows how far it is (builder.engine.Track).

    Returns:
        The version's name in the store, its folder, and what was fetched.

    Raises:
        BuildError: the store has another version of this name and number, or `name` is none.
        HubError, RemoteError: there is no such version, it is damaged, or that place cannot be reached.
    """
    check_store(store)
    if name is not None and not NAME.fullmatch(name):
        raise BuildError(f"dataset name {name!r} must be 1 to 64 letters, digits, - or _: give another --name")
    ref = ref if is_bucket(ref) else f"{PREFIX}{parse_ref(ref)}"
    version = replace(open_remote(ref, store, write=not dry_run), trust=Trust())
    manifest = version.manifest
    target = store.datasets / (name or manifest.name) / manifest.version
    outcome = Pulled(f"{target.parent.name}@{target.name}", manifest.id, target, "there")
    if _is_there(target, manifest.id):
        return outcome
    missing = [job for job in _jobs(version) if not (version.folder / job.name).is_file()]
    size = sum(job.bytes for job in missing)
    if dry_run:
        return replace(outcome, state="would", fetched=len(missing), bytes=size)
    with store.in_use():  # or `gc` would take away what is fetched
        with track("fetch", size) as advance:
            for job in run(partial(_fetch, version), missing, FETCHERS):
                advance(job.bytes)
        with locked(target.parent / f".lock-{target.name}", outcome.version, sweep=[]):
            for half in target.parent.glob(f"{TEMPORARY}{target.name}-*"):  # of a killed pull
                shutil.rmtree(half)
            if not _is_there(target, manifest.id):
                record(store.root, outcome.version, manifest, "pulled")  # what is there would not be recorded again
                _place(version, target)
    return replace(outcome, state="pulled", fetched=len(missing), bytes=size)


def _is_there(target: Path, id: str) -> bool:
    """Whether the version is in the store. Raises BuildError if another one has its place."""
    ref, advice = f"{target.parent.name}@{target.name}", "pull it under another name with --name"
    if (target / MANIFEST).is_file():
        here = read_manifest(target).id
        if here != id:
            raise BuildError(f"{ref} is here with id {here[:12]}, which is not {id[:12]}: {advice}")
        return True
    if target.exists():
        raise BuildError(f"{ref} is being built here, and its build has not finished: {advice}")
    return False


@dataclass(frozen=True)
class _Job:
    """A file to fetch. bytes: of a shard; 0 for the others, of which no manifest says it."""

    name: str
    sha256: str
    bytes: int


def _jobs(version: RemoteVersion) -> Iterator[_Job]:
    """Every file but the manifest."""
    yield from (_Job(name, sha256, 0) for name, sha256 in version.manifest.files.items())
    yield from (_Job(f"{DATA}/{shard.name}", shard.sha256, shard.bytes) for shard in version.manifest.shards)


def _fetch(version: RemoteVersion, job: _Job, stop: Event) -> _Job:
    if not stop.is_set():
        version.fetched(job.name, job.sha256)
    return job


def _place(version: RemoteVersion, target: Path) -> None:
    """The fetched files as a version of the store: linked where the disk can, so that they take no more room."""
    try:
        with new_folder(target) as temporary:
            for job in _jobs(version):
                _link(version.fetched(job.name, job.sha256), temporary / job.name)
            shutil.copyfile(version.folder / MANIFEST, temporary / MANIFEST)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise BuildError(f"another process put {target.parent.name}@{target.name} there: run this again") from None


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)

"""What is published of a version: its files as they travel, and what became of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import BinaryIO, Literal, cast

from builder.engine import Track, run, silent
from builder.errors import BuildError
from builder.report.quality import licences
from builder.store.files import sha256_file
from builder.store.manifest import MANIFEST, Manifest, manifest_bytes
from builder.store.provenance import UNKNOWN
from builder.store.shared.joined import JoinedFile
from builder.store.version import DATA, Version

Contents = Path | bytes | BinaryIO


@dataclass(frozen=True)
class Published:
    """What became of it. state: published; finished (the commit was there, its tag was not); there (all was); or would
    (a dry run). commit: that the tag stands for, "" in a dry run. sent: files the repository did not have, `bytes`
    together; unchanged: how many it had; deleted: files that are no longer in the version."""

    version: str
    id: str
    repo: str
    tag: str
    address: str
    state: Literal["published", "finished", "there", "would"]
    commit: str = ""
    sent: list[str] = field(default_factory=list)
    bytes: int = 0
    unchanged: int = 0
    deleted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LocalFile:
    """A file of a version. name: below the version, and in the repository; contents: where they lie, or they
    themselves."""

    name: str
    contents: Contents
    sha256: str
    bytes: int


def checked_files(
    version: Version, manifest: Manifest, workers: int | None = None, track: Track = silent
) -> list[LocalFile]:
    """Every file of a version as it is published, by name, after its hash was compared with the manifest's. manifest:
    the version's `plain_manifest`. Raises BuildError for the first that differs, or that lies there without being part
    of it."""
    shared = version.manifest.is_shared
    named = manifest.files | ({} if shared else {f"{DATA}/{shard.name}": shard.sha256 for shard in manifest.shards})
    todo = [(name, sha256, version.folder / name) for name, sha256 in sorted(named.items())]
    advice = f"run `tutelage verify --repair {version.ref}`"

    def check(job: tuple[str, str, Path], stop: Event) -> LocalFile:
        name, sha256, path = job
        if not path.is_file():
            raise BuildError(f"{name} of {version.ref} is missing: {advice}")
        if sha256_file(path) != sha256:
            raise BuildError(f"{name} of {version.ref} is not the file of its manifest: {advice}")
        return LocalFile(name, path, sha256, path.stat().st_size)

    version.check_files()
    files = []
    with track("check", sum(path.stat().st_size for _, _, path in todo if path.is_file())) as advance:
        for file in run(check, todo, workers):
            files.append(file)
            advance(file.bytes)
    for stated, shard in zip(version.manifest.shards, manifest.shards, strict=True) if shared else ():
        tar = cast(BinaryIO, io.BufferedReader(JoinedFile(version.samples(stated))))
        files.append(LocalFile(f"{DATA}/{shard.name}", tar, shard.sha256, shard.bytes))
    said = manifest_bytes(manifest)
    return [*files, LocalFile(MANIFEST, said, hashlib.sha256(said).hexdigest(), len(said))]


def warnings_of(manifest: Manifest) -> Iterator[str]:
    """What to know before a version is shared."""
    for what, name in (("source", "source images"), ("teacher", "teacher")):
        if licences(manifest)[what] == UNKNOWN:
            yield f"the licence of the {name} is unknown: find out whether you may share this version"

"""A version wherever it lies: in the store, or on the Hub, whose files are then fetched when they are first needed.

What is fetched comes to lie in `store/remote/ORG/NAME/ID/`, laid out like a version; a file has its name there only
once its SHA-256 is that of the manifest. Whatever is missing there is fetched again, so the folder may go at any time.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from builder import BuildError
from builder.files import locked, sha256_file, sync_folder, write_file
from builder.hub import Hub
from builder.manifest import FILE, Manifest, ShardRecord, read_manifest
from builder.repository import PREFIX, HubError, Ref, parse_ref
from builder.store import NAME, VERSION, Store

WORK = ".work"


@dataclass(frozen=True)
class Origin:
    """Where a version is fetched from. ref: as it was asked for; commit: what that stood for."""

    ref: Ref
    commit: str


@dataclass(frozen=True)
class Version:
    """A complete version. folder: with its manifest, and where its other files lie or come to lie. origin: None for one
    that is all here. `shard` and `file` raise HubError and OSError."""

    folder: Path
    manifest: Manifest
    origin: Origin | None = None

    @property
    def ref(self) -> str:
        return f"{PREFIX}{self.origin.ref}" if self.origin else f"{self.manifest.name}@{self.manifest.version}"

    def shard(self, record: ShardRecord) -> Path:
        """The file of one of the manifest's shards, fetched and its hash checked if it was not here yet."""
        return self.here(f"data/{record.name}", record.sha256)

    def file(self, name: str) -> Path:
        """Another file of the version by its name in `manifest.files`, in the same way. Raises HubError if it has no
        such file."""
        if name not in self.manifest.files:
            raise HubError(f"{self.ref} has no {name}: it has {', '.join(self.manifest.files) or 'shards only'}")
        return self.here(name, self.manifest.files[name])

    def here(self, name: str, sha256: str) -> Path:
        """The file of this name and SHA-256 (hex), which the manifest states."""
        path = self.folder / name
        if self.origin and not path.is_file():
            self._fetch(self.origin, name, sha256, path)
        return path

    def _fetch(self, origin: Origin, name: str, sha256: str, path: Path) -> None:
        work = self.folder / WORK / name.replace("/", "%")
        with locked(work.with_name(f".lock-{work.name}"), f"{name} of {self.ref}", sweep=[], wait=True):
            if path.is_file():  # another process was faster
                return
            shutil.rmtree(work, ignore_errors=True)  # of a killed one
            work.mkdir(parents=True)
            try:
                fetched = Hub(origin.ref.repo).download(origin.commit, name, work)
                if sha256_file(fetched) != sha256:
                    raise HubError(
                        f"{name} of {self.ref} is not the file of its manifest: ask its publisher to look at it"
                    )
                sync_folder(fetched)  # of a file it syncs the contents
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(fetched, path)
                sync_folder(path.parent)
            finally:
                shutil.rmtree(work, ignore_errors=True)


def is_remote(ref: str) -> bool:
    return ref.startswith(PREFIX)


def open_version(ref: str, store: Store, *, write: bool = True) -> Version:
    """The version that `ref` names: on the Hub (`hf://org/name@v3`, `hf://org/name` for the newest), else in the store
    (`Store.version`). Of one on the Hub only the manifest is fetched, and not even that kept if there is nothing to
    `write`. Raises BuildError if there is none, or if it is not a version as Tutelage publishes them."""
    if not is_remote(ref):
        folder = store.version(ref)
        return Version(folder, read_manifest(folder))
    wanted = parse_ref(ref)
    hub = Hub(wanted.repo)
    origin = Origin(wanted, hub.resolve(wanted.revision))
    contents, manifest = remote_manifest(hub, origin.commit)
    folder = store.root / "remote" / wanted.repo / manifest.id
    if write and (not (folder / FILE).is_file() or (folder / FILE).read_bytes() != contents):
        write_file(folder / FILE, contents)
    return Version(folder, manifest, origin)


def remote_manifest(hub: Hub, commit: str) -> tuple[bytes, Manifest]:
    """The manifest of a repository at a commit: its bytes, and what they say. Raises HubError if it has none, one that
    does not fit its id, or one that names files outside of the version."""
    with TemporaryDirectory(prefix="tutelage-") as temporary:
        path = hub.download(commit, FILE, Path(temporary))
        try:
            contents, manifest = path.read_bytes(), read_manifest(path.parent)
        except BuildError:
            raise HubError(
                f"{FILE} of {hub.repo} at {commit[:12]} is damaged or of a newer Tutelage: update, or publish it again"
            ) from None
    names = [*manifest.files, *(f"data/{shard.name}" for shard in manifest.shards)]
    strange = [name for name in names if not _lies_inside(name)]
    if strange or not (NAME.fullmatch(manifest.name) and VERSION.fullmatch(manifest.version)):
        raise HubError(f"{FILE} of {hub.repo} at {commit[:12]} names {strange or manifest.name!r}: do not use it")
    return contents, manifest


def _lies_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and str(PurePosixPath(name)) == name and not any(p == "/" or p.startswith(".") for p in parts)

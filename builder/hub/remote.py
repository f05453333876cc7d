"""A version wherever it lies: in the store, on the Hub, or in an object store; files of one that lies elsewhere are
fetched when they are first needed.

What is fetched comes to lie in `store/remote/ORG/NAME/DIGEST/` (ORG is `buckets` for object stores), laid out like a
version; a file has its name there only once its SHA-256 is that of the manifest. DIGEST is the manifest's own, since
versions with one id may have different cards and reports. Whatever is missing there is fetched again, so the folder may
go at any time."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from builder.buckets.address import is_remote
from builder.errors import BuildError
from builder.hub.bucket import BucketOrigin, find_in_bucket, is_bucket
from builder.hub.client import Hub
from builder.hub.line import MOST_FILE
from builder.hub.repository import PREFIX, HubError, Ref, parse_ref
from builder.store.files import locked, make_folder, sha256_file, sync_folder, write_file
from builder.store.manifest import MANIFEST, Manifest, read_manifest
from builder.store.store import Store, check_store
from builder.store.trust import Trust
from builder.store.version import DATA, WORK, Version

MEND = "do not use it, and have it published again"
MOST_MANIFEST = 1 << 27
"""Bytes of a manifest."""


@dataclass(frozen=True)
class HubOrigin:
    """Where a version is fetched from. asked: as it was asked for; commit: what that stood for."""

    asked: Ref
    commit: str

    @property
    def ref(self) -> str:
        return f"{PREFIX}{self.asked}"

    def fetch(self, name: str, folder: Path, most: int) -> Path:
        """The file as `folder/name`, unchecked but for its length. Raises HubError."""
        return Hub(self.asked.repo).download(self.commit, name, folder, most)


@dataclass(frozen=True, repr=False)
class RemoteVersion(Version):
    """A version on the Hub, or in an object store. folder: with its manifest, and where its other files come to lie.
    `shard` and `file` fetch what was not here yet, or what the disk has damaged, and raise HubError and OSError."""

    origin: HubOrigin | BucketOrigin

    @property
    def ref(self) -> str:
        """As it was asked for: hf://ORG/NAME@vN, s3://BUCKET/PREFIX/NAME@vN."""
        return self.origin.ref

    @property
    def is_remote(self) -> bool:
        return True

    def _checked(self, name: str, sha256: str) -> Path:
        return self.fetched(name, sha256)

    def fetched(self, name: str, sha256: str) -> Path:
        """The file of this name and SHA-256 (hex), which the manifest states."""
        path = self.folder / name
        if not self._is_sound(name, sha256, path):
            self._fetch(name, sha256, path)
        return path

    def _is_sound(self, name: str, sha256: str, path: Path) -> bool:
        """Whether a fetched file is here, and whole: nobody can repair it but by fetching it again."""
        if not path.is_file():
            return False
        return self.trust is None or self.trust.holds(self.folder, name, sha256)

    def _bytes(self, name: str) -> int:
        """That a file may have: as many as the manifest says of a shard."""
        sizes = {f"{DATA}/{shard.name}": shard.bytes for shard in self.manifest.shards}
        return sizes.get(name, MOST_FILE)

    def _fetch(self, name: str, sha256: str, path: Path) -> None:
        work = self.folder / WORK / name.replace("/", "%")
        with locked(work.with_name(f".lock-{work.name}"), f"{name} of {self.ref}", sweep=[], wait=True):
            if self._is_sound(name, sha256, path):  # another process was faster
                return
            shutil.rmtree(work, ignore_errors=True)  # of a killed one
            work.mkdir(parents=True)
            try:
                fetched = self.origin.fetch(name, work, self._bytes(name))
                if sha256_file(fetched) != sha256:
                    raise HubError(
                        f"{name} of {self.ref} is not the file of its manifest: ask its publisher to look at it"
                    )
                sync_folder(fetched)  # of a file it syncs the contents
                make_folder(path.parent)
                os.replace(fetched, path)
                sync_folder(path.parent)
            finally:
                shutil.rmtree(work, ignore_errors=True)


def open_version(ref: Path | str, store: Store, *, write: bool = True) -> Version:
    """Open a version by its name.

    Args:
        ref: NAME, NAME@v3, NAME@TAG, NAME@latest or a folder (a Path always is one); `hf://org/name@v3` for one on
            the Hub, `s3://bucket/prefix/name@v3` for one in an object store.
        store: where versions lie, and what is fetched of those elsewhere.
        write: whether the manifest of one that lies elsewhere may be kept in the store.

    Returns:
        The version. Of one that lies elsewhere shards and other files are fetched when they are first needed, which is
        enough to train on it, to measure on it, to export, explain and compare it; to verify, review or publish it,
        `pull` it.

    Raises:
        BuildError: there is no such version, or its manifest is damaged.
        HubError, RemoteError: there is none of this name, or that place cannot be reached.
    """
    check_store(store)
    return open_remote(str(ref), store, write=write) if isinstance(ref, str) and is_remote(ref) else store.version(ref)


def open_remote(ref: str, store: Store, *, write: bool = True) -> RemoteVersion:
    """The version elsewhere that `ref` names: `hf://org/name@v3` or `s3://bucket/prefix/name@v3`, or without @v3 the
    newest. Only the manifest is fetched, and not even that kept if there is nothing to `write`. Raises BuildError if
    there is none, or if it is not a version as Tutelage publishes them."""
    origin: HubOrigin | BucketOrigin
    if is_bucket(ref):
        origin = find_in_bucket(ref)
        contents = origin.manifest()
        with TemporaryDirectory(prefix="tutelage-") as temporary:
            (Path(temporary) / MANIFEST).write_bytes(contents)
            manifest = _plain(Path(temporary), f"{MANIFEST} of {origin.ref}")
        home = f"buckets/{manifest.name}"
    else:
        wanted = parse_ref(ref)
        hub, home = Hub(wanted.repo), wanted.repo
        origin = HubOrigin(wanted, hub.resolve(wanted.revision))
        contents, manifest = remote_manifest(hub, origin.commit)
    folder = store.root / "remote" / home / hashlib.sha256(contents).hexdigest()
    if write and (not (folder / MANIFEST).is_file() or (folder / MANIFEST).read_bytes() != contents):
        write_file(folder / MANIFEST, contents)
    trust = Trust(folder / ".checked", hashing=not store.trust)
    return RemoteVersion(folder, manifest, origin, trust=trust)


def remote_manifest(hub: Hub, commit: str) -> tuple[bytes, Manifest]:
    """The manifest of a repository at a commit: its bytes, and what they say. Raises HubError if it has none, or one
    that cannot be that of a version, as one that names files outside of it."""
    with TemporaryDirectory(prefix="tutelage-") as temporary:
        path = hub.download(commit, MANIFEST, Path(temporary), MOST_MANIFEST)
        return path.read_bytes(), _plain(path.parent, f"{MANIFEST} of {hub.repo} at {commit[:12]}")


def _plain(folder: Path, told: str) -> Manifest:
    """The manifest in a folder, of a version with its images. told: what messages call it. Raises HubError."""
    try:
        manifest = read_manifest(folder, told=told, mend=MEND)
    except BuildError as error:
        raise HubError(str(error)) from None
    if manifest.is_shared:
        raise HubError(f"{told} is of a version that holds labels only, without its images: {MEND}")
    return manifest

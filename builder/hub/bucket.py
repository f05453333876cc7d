"""Versions in object stores: `BUCKET/PREFIX/NAME/vN/` holds the files of NAME@vN as the store's folder does, with plain
tars, and its manifest, which is written last.

`s3://BUCKET/PREFIX/NAME@vN` names such a version, `s3://BUCKET/PREFIX/NAME` the newest there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from builder.buckets.address import checked_address, is_remote, join
from builder.buckets.files import exists, fetch, folders_in, read_whole, stat
from builder.cluster import Cluster
from builder.engine import Track, silent
from builder.hub.files import Published, warnings_of
from builder.hub.repository import PREFIX, HubError
from builder.store.manifest import MANIFEST, MAX_BYTES, VERSION, manifest_bytes
from builder.store.shared.materialize import plain_manifest
from builder.store.shared.upload import check_room, is_there, upload_version
from builder.store.version import DATA, Version


def is_bucket(ref: object) -> bool:
    """Whether a name of a version is an address, and not one of the Hub's."""
    return is_remote(ref) and not str(ref).startswith(PREFIX)


@dataclass(frozen=True)
class BucketOrigin:
    """Where a version is fetched from. ref: as it was asked for, with its number; folder: the address of its files."""

    ref: str
    folder: str

    def manifest(self) -> bytes:
        """The bytes of its manifest. Raises HubError if there is none."""
        try:
            return read_whole(join(self.folder, MANIFEST), MAX_BYTES)
        except FileNotFoundError:
            home, _, _ = self.folder.rpartition("/")
            known = ", ".join(_versions(home)) or "none"
            raise HubError(f"{self.ref} is no version: of those of {home} there are {known}") from None

    def fetch(self, name: str, folder: Path, most: int) -> Path:
        """The file as `folder/name`, unchecked but for its length. Raises HubError, and RemoteError."""
        address, path = join(self.folder, name), folder / name
        try:
            size = stat(address).bytes
            if size > most:
                raise HubError(f"{name} of {self.ref} has {size} bytes, more than its manifest says: do not use it")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                for piece in fetch(address, size):
                    file.write(piece)
        except FileNotFoundError:
            raise HubError(f"{self.ref} has no {name}: have it published again") from None
        return path


def find_in_bucket(ref: str) -> BucketOrigin:
    """Where the version lies that an address names, with its number or, without one, the newest. Raises HubError if
    there is none, RemoteError if nobody can tell."""
    address, at, wanted = ref.rpartition("@")
    if not at or "/" in wanted:
        address, wanted = ref, ""
    home = join(checked_address(address), "")  # with no // in it
    if wanted and not VERSION.fullmatch(wanted):
        raise HubError(f"{ref} names no version: write {home}@vN, or {home} for the newest")
    if not wanted:
        found = _versions(home)
        if not found:
            raise HubError(f"{home} holds no version: write s3://BUCKET/PREFIX/NAME@vN, as `tutelage publish` names it")
        wanted = found[-1]
    return BucketOrigin(f"{home}@{wanted}", join(home, wanted))


def _versions(home: str) -> list[str]:
    """The complete versions of a dataset, the newest last."""
    names = sorted((name for name in folders_in(home) if VERSION.fullmatch(name)), key=lambda name: int(name[1:]))
    return [name for name in names if exists(join(home, f"{name}/{MANIFEST}"))]


def publish_to_bucket(
    version: Version,
    uri: str,
    *,
    dry_run: bool = False,
    workers: int | None = None,
    track: Track = silent,
    cluster: Cluster | None = None,
) -> Published:
    """Publish a version to an object store; see builder.hub.publish.publish. Raises RemoteError and BuildError."""
    if re.search(r"@[^/]*$", uri):
        raise HubError(f"{uri} names a version: give the address without @, below which {version.ref} is to lie")
    home = join(checked_address(uri), version.manifest.name)
    folder = join(home, version.manifest.version)
    version.check_files()
    manifest = plain_manifest(version, workers, track, cluster)
    size, names = sum(shard.bytes for shard in manifest.shards), [f"{DATA}/{shard.name}" for shard in manifest.shards]
    outcome = Published(
        version.ref, manifest.id, home, manifest.version, folder, "would", warnings=list(warnings_of(manifest))
    )
    if dry_run and not is_there(folder, manifest_bytes(manifest)):
        check_room(folder, manifest)
        return Published(**{**vars(outcome), "sent": [*names, *sorted(manifest.files), MANIFEST], "bytes": size})
    _, files = upload_version(version, folder, manifest, track, cluster)
    total = len(manifest.shards) + len(manifest.files) + 1
    sent = [file for file in files if file.sent]
    return Published(
        **{
            **vars(outcome),
            "state": "published" if files else "there",
            "sent": [*(file.name for file in sent), *([MANIFEST] if files else [])],
            "bytes": sum(file.bytes for file in sent),
            "unchanged": total - len(sent) - bool(files),
        }
    )

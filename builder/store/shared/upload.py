"""A version in an object store: below one address lie its files, as in a folder, and last its manifest. Before that is
there, nothing of it is a version; a second try goes on with what is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from builder.buckets.address import checked_address, join
from builder.buckets.files import list_files, read_whole
from builder.buckets.line import RemoteError
from builder.buckets.upload import check_written, has, put_new, upload, upload_file
from builder.cluster import Cluster
from builder.engine import Track, in_order, silent
from builder.store.manifest import MANIFEST, MAX_BYTES, Manifest, manifest_bytes
from builder.store.shards import ShardRecord
from builder.store.shared.pieces import tar_of
from builder.store.version import DATA, Version

UPLOADS = 8
"""Files that are sent at once."""


class Sent(NamedTuple):
    """A file of a version below its address. sent: whether it travelled now."""

    name: str
    bytes: int
    sent: bool


def upload_shard(version: Version, record: ShardRecord, plain: ShardRecord, folder: str) -> Sent:
    """Bring a shard to an address of a version as a plain tar, joined with its images on the way where the version
    shares them. record: of the version's manifest; plain: of its `plain_manifest`. Raises RemoteError and
    BuildError."""
    name = f"{DATA}/{plain.name}"
    if record.labels:
        sent = upload(partial(tar_of, version, record), join(folder, name), plain.bytes, plain.sha256)
    else:
        sent = upload_file(version.shard(record), join(folder, name), plain.bytes, plain.sha256)
    return Sent(name, plain.bytes, sent)


def upload_other(version: Version, name: str, folder: str) -> Sent:
    """Bring another file of a version to its address. Raises RemoteError and BuildError."""
    path = version.file(name)
    size = path.stat().st_size
    return Sent(name, size, upload_file(path, join(folder, name), size, version.manifest.files[name]))


def upload_version(
    version: Version, folder: str, plain: Manifest, track: Track = silent, cluster: Cluster | None = None
) -> tuple[Manifest, list[Sent]]:
    """Bring a version to an address.

    Args:
        version: complete, of either kind.
        folder: the address, below which nothing else may lie.
        plain: the version's manifest where its shards are plain tars.
        track: shows how far it is.
        cluster: whose nodes send the files; they must see the version's store. The manifest is written from here.

    Returns:
        That manifest, and its files; none where the version was there already.

    Raises:
        RemoteError: something else lies there, or the store cannot be used.
        BuildError: a file of the version is damaged or missing.
    """
    folder, contents = join(checked_address(folder), ""), manifest_bytes(plain)  # with no // in it
    check_written(folder)
    if is_there(folder, contents):
        return plain, []
    check_room(folder, plain)
    seen = version.absolute() if cluster else version
    jobs: list[partial[Sent]] = [
        partial(upload_shard, seen, record, shard, folder)
        for record, shard in zip(version.manifest.shards, plain.shards, strict=True)
    ]
    jobs += [partial(upload_other, seen, name, folder) for name in sorted(plain.files)]
    files = []
    with track("upload", sum(shard.bytes for shard in plain.shards)) as advance:
        for file in cluster.map(_sent, jobs) if cluster else in_order(_sent, jobs, UPLOADS, 2 * UPLOADS):
            files.append(file)
            advance(file.bytes if file.name.startswith(f"{DATA}/") else 0)
    _finish(version, folder, plain, files, contents)
    return plain, files


def _sent(job: partial[Sent]) -> Sent:
    return job()


def _finish(version: Version, folder: str, plain: Manifest, files: Sequence[Sent], contents: bytes) -> None:
    """Write the manifest, if every file is there: somebody else may have written another version meanwhile."""
    hashes = plain.files | {f"{DATA}/{shard.name}": shard.sha256 for shard in plain.shards}

    def check(file: Sent) -> None:
        if not has(join(folder, file.name), file.bytes, hashes[file.name]):
            raise RemoteError(f"{join(folder, file.name)} is not the file of {version.ref}: somebody else writes there")

    for _ in in_order(check, files, 2 * UPLOADS, 4 * UPLOADS):
        pass
    if not put_new(join(folder, MANIFEST), contents):
        is_there(folder, contents)


def is_there(folder: str, contents: bytes) -> bool:
    """Whether the version of this manifest lies at an address. Raises RemoteError if another one does."""
    try:
        found = read_whole(join(folder, MANIFEST), MAX_BYTES)
    except FileNotFoundError:
        return False
    if found != contents:
        raise RemoteError(f"{folder} holds another version already, and never changes: give another address")
    return True


def check_room(folder: str, plain: Manifest) -> None:
    """Raise RemoteError if anything lies at an address that is no file of the version."""
    names = {*plain.files, *(f"{DATA}/{shard.name}" for shard in plain.shards), MANIFEST}
    for file in list_files(folder):
        if file.uri.removeprefix(f"{folder}/") not in names:
            raise RemoteError(f"{folder} holds {file.uri.removeprefix(f'{folder}/')}, and is to hold a version alone")

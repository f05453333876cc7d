"""A version that shares its images as the plain tars that one with its images inside would have."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import IO

from builder.buckets.address import is_remote
from builder.cluster import Cluster
from builder.engine import Track, run, silent, until
from builder.errors import BuildError
from builder.store.files import new_file, new_tree
from builder.store.manifest import FORMAT, Manifest, write_manifest
from builder.store.shards import ShardRecord, shard_name
from builder.store.shared.pieces import tar_of as tar_of
from builder.store.shared.upload import upload_version
from builder.store.version import DATA, Version


def shard_named(version: Version, name: str) -> ShardRecord:
    """The shard of this name or number: `train-000012.tar`, `000012` or `12`. Raises BuildError if there is none."""
    wanted = shard_name(int(name)) if name.isdecimal() else name
    for record in version.manifest.shards:
        if record.name == wanted:
            return record
    shards = version.manifest.shards
    raise BuildError(f"{version.ref} has no shard {name}: it has {shards[0].name} to {shards[-1].name}")


def plain_manifest(
    version: Version, workers: int | None = None, track: Track = silent, cluster: Cluster | None = None
) -> Manifest:
    """What the manifest of a version says where its shards are plain tars; those of one that shares its images are read
    for it, by the nodes of a cluster if there is one, and every member of them is hashed. Raises as `tar_of`."""
    if not version.manifest.is_shared:
        return version.manifest
    shards = []
    with track("join", version.manifest.stored) as advance:
        for record in _plain(version, None, workers, cluster):
            shards.append(record)
            advance(record.samples)
    return version.manifest.model_copy(update={"shards": shards, "format": FORMAT})


def materialize(
    version: Version,
    out: Path | str,
    workers: int | None = None,
    track: Track = silent,
    cluster: Cluster | None = None,
) -> Manifest:
    """Write a version with its images into a new folder, or to an address: all its files, and its shards as plain tars,
    which any reader of WebDataset takes. Of a version that shares its images the tars are, byte for byte, those of the
    same version with the images inside; its id is the same.

    Args:
        version: complete, of either kind.
        out: the folder, which may be there only if it holds just that; or `s3://bucket/prefix`
            (builder.store.shared.upload).
        workers: threads that write; None for one a core.
        track: shows how far it is.
        cluster: whose nodes write or send the shards, in place of this machine's threads; they must see the version's
            store and the folder.

    Returns:
        What its manifest says there.

    Raises:
        BuildError: a file of the version is damaged or missing, or something else is at `out`.
    """
    if is_remote(str(out)):
        return upload_version(version, str(out), plain_manifest(version, workers, track, cluster), track, cluster)[0]
    manifest = version.manifest
    with new_tree(Path(out)) as folder, track("materialize", manifest.stored) as advance:
        shards = []
        for record in _plain(version, folder / DATA, workers, cluster):
            shards.append(record)
            advance(record.samples)
        for name in manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(version.file(name), folder / name)
        plain = manifest.model_copy(update={"shards": shards, "format": FORMAT} if manifest.is_shared else {})
        write_manifest(folder, plain)
    return plain


def _plain(
    version: Version, folder: Path | None, workers: int | None, cluster: Cluster | None
) -> Iterator[ShardRecord]:
    """The records of a version's shards where their tars are plain, which are written to `folder`, if there is one."""
    shards = version.manifest.shards
    if cluster is not None:
        return cluster.map(partial(_write, version.absolute(), folder and folder.absolute(), None), shards)
    return run(lambda record, stop: _write(version, folder, stop, record), shards, workers)


def _write(version: Version, folder: Path | None, stop: Event | None, record: ShardRecord) -> ShardRecord:
    if folder is None:
        return _joined(version, record, stop, None)
    with new_file(folder / record.name) as file:
        return _joined(version, record, stop, file)


def _joined(version: Version, record: ShardRecord, stop: Event | None, file: IO[bytes] | None) -> ShardRecord:
    """What a manifest says of a shard whose tar is plain, which is written to `file`, if there is one."""
    hashed, size = hashlib.sha256(), 0
    pieces = tar_of(version, record)
    for piece in until(stop, pieces) if stop else pieces:
        if file:
            file.write(piece)
        hashed.update(piece)
        size += len(piece)
    if size != record.bytes or (record.sha256 and hashed.hexdigest() != record.sha256):
        raise BuildError(f"{record.name} of {version.ref} is not what its manifest says: run `tutelage verify` on it")
    said = record.model_dump(exclude={"labels", "images"}, exclude_unset=True)
    return ShardRecord(**said | {"sha256": hashed.hexdigest()})

"""The tar of a shard in pieces, whether its version shares its images or not."""

from __future__ import annotations

from collections.abc import Iterator

from builder.errors import BuildError
from builder.store.shards import ShardError, ShardRecord
from builder.store.shared.joined import joined_tar, plain_tar
from builder.store.version import Version


def tar_of(version: Version, record: ShardRecord) -> Iterator[bytes]:
    """The tar of a shard, in pieces, a sample each: joined with its images, if the version shares them. Every member is
    hashed on its way. Raises BuildError, before the mark at the tar's end, for one that is not what the manifest
    says."""
    try:
        if record.labels:
            yield from joined_tar(version.rows(record), version.samples(record))
        else:
            yield from plain_tar(version.samples(record))
    except ShardError as error:
        raise BuildError(f"{version.ref} is damaged ({error}): run `tutelage verify --repair {version.ref}`") from None

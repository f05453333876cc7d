"""The image tars of a shared version that are bad: found, written again beside the store's, and proved before they take
their place. What is there may be all that is left of its images: it goes for nothing less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import orjson

from builder.errors import BuildError
from builder.scan.pool import Pool
from builder.store.files import sha256_file
from builder.store.shards import ShardRecord, TarRecord, read_samples
from builder.store.version import Version


def bad_tars(version: Version, pool: Pool, numbers: Sequence[int]) -> dict[str, TarRecord]:
    """Those of these shards that are not what the manifest says, by name. What is said of one that is whole itself is
    written again, where its images and labels tell it."""
    bad: dict[str, TarRecord] = {}
    for shard in version.manifest.shards:
        if int(shard.name[6:12]) in numbers:
            tars = [tar for tar in shard.images if not version.image_tars.is_whole(tar)]
            how = _reencoded(version, shard) if tars else {}
            scanned = {i.key: i.sha256 for chunk in pool.chunks(*shard.chunks) for i in chunk.images} if tars else {}
            bad |= {tar.name: tar for tar in tars if not version.image_tars.say_again(tar, how, scanned)}
    return bad


def _reencoded(version: Version, shard: ShardRecord) -> Mapping[str, str]:
    """How the images of a shard were re-encoded, by key, where its labels are whole."""
    if shard.labels:
        path = version.data / shard.labels.name
        with suppress(BuildError, OSError, ValueError, LookupError):
            if sha256_file(path) == shard.labels.sha256:
                return {s.key: str(orjson.loads(s.read("json"))["reencoded"]) for s in read_samples(path)}
    return {}

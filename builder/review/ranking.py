"""Which images a person should look at first: those whose review is likely to change most.

An image gains from three things, each from 0 to below or at 1, and their sum is its gain:

- near: how much of it hangs on thresholds. Each box within NEAR of its class's threshold counts 1 at the threshold and
  falls to 0 at that distance; a sum m of these gives m / (1 + m).
- rare: 1 - log(1 + k) / log(1 + K) of its rarest class, K kept objects of the most frequent class and k of its own.
  Boxes count that are kept, ignored or near.
- disagreement: with the version before (its parent, else the number before): n objects that were added, removed, moved
  or changed between kept and ignored give n / (1 + n). Where several teachers were asked, the share of them that do not
  agree, its mean over boxes that are kept, ignored or near, if that is more.

Of the POOL best per image asked for, images are then taken greedily by gain x novelty: novelty is the distance of the
image's difference hash (builder.scan.dhash) to the nearest one taken, in halves of its bits, at most 1. Images as alike
as near-duplicates are never taken twice. What is picked so is no sample: nothing about precision may be estimated from
it.

Images that people went through are remembered in `reviews/NAME/looked_at.json` of the store, by their SHA-256, so that
the next queue is about others.
"""

from __future__ import annotations

import glob
import math
import os
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builder.errors import BuildError
from builder.report.quality import thresholds
from builder.rules.overrides import overrides_path, read_overrides
from builder.scan.dhash import BITS, dhash
from builder.scan.pool import read_pool
from builder.store.files import canonical_json, locked, read_stored, seal, unseal, write_file
from builder.store.labels import checked_table
from builder.store.manifest import Manifest
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.history import version_before
from builder.versions.media import images_of

NEAR = 0.1
"""Of score: the distance from the threshold at which a box is no longer near."""
POOL = 20
"""Images that diversity chooses from, per image asked for."""
ALIKE = 4
"""Bits of BITS by which near-duplicates differ at most, where the recipe says nothing."""
WHOLE = 1_000_000
"""Figures are summed as whole numbers of this part: sums of floats would depend on the order of rows."""
LOOKED_AT = "looked_at.json"
MEMORY = "512MB"
"""Of DuckDB; beyond it, it goes to disk."""


@dataclass(frozen=True)
class Candidate:
    """An image and why it is worth a look; each figure as the module says. novelty: when it was taken."""

    key: str
    gain: float
    near: float
    rare: float
    disagreement: float
    novelty: float = 1.0


def rank(
    store: Store,
    version: Version,
    budget: int,
    skip: Collection[str] = (),
    *,
    left_out: bool = False,
) -> list[Candidate]:
    """At most `budget` images of a version, the most worth a person's look first, without those of the keys `skip`.
    left_out: with images that are in no shard, since nothing on them is kept; the App alone can show them.
    Deterministic; memory grows with the budget and `skip` alone, but for 16 bytes an image while their hashes are
    looked up. Raises BuildError for a version whose labels cannot be read."""
    ranked = candidates(store, version, POOL * budget, skip, left_out=left_out)
    bits = _hashes(store, version, [candidate.key for candidate in ranked])
    alike = version.manifest.provenance.inputs.images.near_duplicates
    return diverse(ranked, bits, budget, ALIKE if alike is None else alike)


def remember(store: Store, name: str, looked_at: Collection[str]) -> None:
    """Note the images (SHA-256) that people went through, changed or not, beside the overrides of dataset `name`."""
    path = overrides_path(store, name).with_name(LOOKED_AT)
    if not set(looked_at) - set(_remembered(path)):
        return
    with locked(path.parent / ".lock", f"the reviews of {name}", sweep=[path.parent], wait=True):
        write_file(path, canonical_json(seal({"images": sorted({*_remembered(path), *looked_at})})))


def _remembered(path: Path) -> list[str]:
    """SHA-256s. Raises BuildError if the file is damaged."""
    mend = "run `tutelage fsck --repair`, or remove it, and images that people went through are queued again"
    try:
        content = read_stored(path) if os.path.lexists(path) else []
    except (OSError, orjson.JSONDecodeError):
        content = None
    hashes = content if isinstance(content, list) else unseal(content, path, mend).get("images")  # a list: of before
    if not isinstance(hashes, list) or not all(isinstance(sha256, str) for sha256 in hashes):
        raise BuildError(f"{path} is damaged: {mend}")
    return hashes


def gone_through(store: Store, version: Version) -> set[str]:
    """The keys of a version's images that people went through, or changed by an override that is in force."""
    manifest = version.manifest
    path = overrides_path(store, version.dataset)
    known = {
        *_remembered(path.with_name(LOOKED_AT)),
        *(override.sha256 for override in read_overrides(store, version.dataset)),
    }
    if not known:
        return set()
    pool = manifest.provenance.inputs.pool
    if pool in store.match(store.pools, pool):  # it knows images that are in no shard, too
        wanted, keys = pa.array(sorted(known), pa.string()), set[str]()
        for table in read_pool(store, pool).tables(("key", "sha256", "state")):
            mine = pc.and_(pc.is_in(table["sha256"], wanted), pc.equal(table["state"], "ok"))
            keys.update(table.filter(mine)["key"].to_pylist())
        return keys
    return {image.key for image in images_of(version) if image.sha256 in known}


def candidates(
    store: Store, version: Version, most: int, skip: Collection[str] = (), *, left_out: bool = False
) -> list[Candidate]:
    """The images with the greatest gain, by falling gain, then key; those without any are left out, and so are those of
    the keys `skip`. left_out: see `rank`."""
    import duckdb

    manifest, path = version.manifest, checked_table(version)
    try:
        columns = pq.read_schema(path).names
        with tempfile.TemporaryDirectory() as spill:
            config: dict[str, Any] = {"memory_limit": MEMORY, "temp_directory": spill}
            with duckdb.connect(":memory:", config=config) as sql:
                sql.register("classes", _classes(manifest))
                sql.register("changed", _changed(store, version, most))
                sql.register("gone", pa.table({"key": pa.array(sorted({*manifest.tombstones, *skip}), pa.string())}))
                query = _query(path, columns, in_shards=bool(manifest.images.get("empty")) and not left_out)
                return [Candidate(*row) for row in sql.execute(query, {"most": most}).fetchall()]
    except (OSError, pa.ArrowException, duckdb.Error) as error:
        reason = str(error).partition("\n")[0]
        raise BuildError(f"{path} cannot be read ({reason}): run `tutelage verify --repair` on the version") from None


def _query(path: Path, columns: Sequence[str], in_shards: bool) -> str:
    confidence = "coalesce(calibrated, score)" if "calibrated" in columns else "score"
    teachers = "source = 'teacher'" if "source" in columns else "true"
    every = f"(SELECT max(agree) FROM read_parquet({_quoted(path)}))"  # 0: what people added
    apart = f"avg(round({WHOLE} * (1 - nullif(agree, 0) / {every}))::BIGINT) FILTER (outcome <> 'dropped' OR near > 0)"
    # images without a kept object may not be in the shards: no tool but the App could show them
    there = "bool_or(outcome = 'kept')" if in_shards else "true"
    return f"""
        WITH objects AS (
            SELECT labels.*, rare AS rarity, CASE WHEN {teachers}
                AND (outcome = 'kept' OR reason IN ('ignore_band', 'below_threshold'))
                THEN round({WHOLE} * greatest(0, 1 - abs({confidence} - threshold) / {NEAR}))::BIGINT
                ELSE 0 END AS near
            FROM read_parquet({_quoted(path)}) AS labels JOIN classes USING (label)
            WHERE key NOT IN (SELECT key FROM gone)),
        images AS (
            SELECT key, coalesce(sum(near), 0) / {WHOLE} AS mass,
                coalesce(max(rarity) FILTER (outcome <> 'dropped' OR near > 0), 0) AS rare,
                coalesce({apart if "agree" in columns else 0}, 0) / {WHOLE} AS apart
            FROM objects GROUP BY key HAVING {there}),
        parts AS (
            SELECT key, mass / (1 + mass) AS near, rare, greatest(apart, coalesce(n / (1.0 + n), 0)) AS disagreement
            FROM images LEFT JOIN changed USING (key))
        SELECT key, near + rare + disagreement AS gain, near, rare, disagreement
        FROM parts WHERE gain > 0 ORDER BY gain DESC, key LIMIT $most
    """


def _quoted(path: Path) -> str:
    return "'" + glob.escape(str(path)).replace("'", "''") + "'"  # the reader takes * and [ for patterns


def _classes(manifest: Manifest) -> pa.Table:
    """label, threshold (far away for a class of which nothing is kept) and rarity of each class."""
    threshold = np.nan_to_num(thresholds(manifest).kept_from, nan=2.0)
    kept = [manifest.per_class[name]["kept"] for name in manifest.classes]
    most = max(kept, default=0)
    rare = [1 - math.log1p(n) / math.log1p(most) if most else 0.0 for n in kept]
    return pa.table(
        {"label": pa.array(range(len(kept)), pa.int16()), "threshold": threshold, "rare": pa.array(rare, pa.float64())}
    )


def _changed(store: Store, version: Version, most: int) -> pa.Table:
    """How many objects changed on the images that changed most since the version before."""
    from builder.versions.diff import diff

    before = version_before(version, store)
    most_changed = diff(before, version, limit=most).most_changed if before else {}
    changes = {key: changed.weight[0] for key, changed in most_changed.items()}
    return pa.table({"key": pa.array(list(changes), pa.string()), "n": pa.array(list(changes.values()), pa.int64())})


def _hashes(store: Store, version: Version, keys: Sequence[str]) -> np.ndarray:
    """The difference hashes of these images, uint8 (N, BITS / 8); all zeros for one that has none. They are the pool's
    where the store holds it, else computed from the shards."""
    place = {key: n for n, key in enumerate(keys)}
    bits = np.zeros((len(keys), BITS // 8), np.uint8)
    pool = version.manifest.provenance.inputs.pool
    if pool in store.match(store.pools, pool):
        wanted = pa.array(keys, pa.string())
        for table in read_pool(store, pool).tables(("key", "dhash", "state")):
            part = table.filter(pc.and_(pc.is_in(table["key"], wanted), pc.equal(table["state"], "ok")))
            for key, value in zip(part["key"].to_pylist(), part["dhash"].to_pylist(), strict=True):
                bits[place[key]] = _bits(value)
        return bits
    for image in images_of(version) if place else ():
        if image.key in place:
            bits[place.pop(image.key)] = _bits(dhash(image.image.read()))
            if not place:
                break
    return bits


def _bits(value: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(value or "0" * (BITS // 4)), np.uint8)


def diverse(ranked: Sequence[Candidate], bits: np.ndarray, budget: int, alike: int) -> list[Candidate]:
    """At most `budget` of the candidates, greedily by gain x novelty, equal ones in the order given. bits: uint8 (N,
    BITS / 8), their hashes; one of zeros is as far from all others as images are that have nothing in common."""
    gain = np.array([candidate.gain for candidate in ranked])
    distance = np.full(len(ranked), BITS // 2)
    unknown = np.flatnonzero(~bits.any(axis=1))
    left = np.ones(len(ranked), bool)
    taken: list[Candidate] = []
    while left.any() and len(taken) < budget:
        novelty = np.minimum(1.0, distance / (BITS // 2))
        best = int(np.argmax(np.where(left, gain * novelty, -1.0)))
        taken.append(replace(ranked[best], novelty=float(novelty[best])))
        differ = np.unpackbits(bits ^ bits[best], axis=1).sum(axis=1)
        differ[unknown if bits[best].any() else slice(None)] = BITS // 2
        distance = np.minimum(distance, differ)
        left &= distance > alike
        left[best] = False
    return taken

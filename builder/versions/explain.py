"""Why one image is in a version or not, and why each label predicted on it is kept, ignored or dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow.compute as pc

from builder.cut.left_out import read_left_out
from builder.errors import BuildError, brief
from builder.kinds import kind_of
from builder.label.predictions import read_failures
from builder.rules.overrides import APPLIED, Override, load_fates, who
from builder.scan.pool import DUPLICATE, OK, REMOVED, UNREADABLE, Pool, read_pool
from builder.store.keys import is_copy
from builder.store.labels import read_label, rows_of
from builder.store.provenance import Inputs
from builder.store.shards import Sample, ShardError, ShardRecord
from builder.store.store import Store, check_store
from builder.store.version import LEFT_OUT, OVERRIDES, Version, check_version
from builder.versions.reasons import BOX, Reasons, Row

SHORTEST = 4
"""Characters of a key or SHA-256 that may stand for it."""
SHOWN = 5
"""Keys listed where several match."""


@dataclass(frozen=True)
class Reason:
    """One raw prediction. score: the teacher's; calibrated: None without calibration; box: xyxy pixels of the upright
    image, None for classes and maps, which are of the whole; outcome: kept, ignored or dropped; reason:
    builder.rules.reasons.REASONS; threshold: of its class, None if nothing of it is kept; whence: where the threshold
    comes from; why: the whole story in a sentence; pixels: of maps, which are told by class and reason with their mean
    score."""

    label: str
    score: float
    calibrated: float | None
    box: tuple[float, float, float, float] | None
    outcome: str
    reason: str
    threshold: float | None
    whence: str
    why: str
    pixels: int | None = None


@dataclass(frozen=True)
class Explanation:
    """state: what became of the image: written, tombstone, empty, unreadable, duplicate, removed, leak, near_duplicate
    or left_out; why: in words. name, sha256: "" where neither the pool nor a shard knows them. objects: by falling
    score. unmet: what people said of the image that found no object, in sentences."""

    version: str
    key: str
    name: str
    sha256: str
    state: str
    why: str
    objects: list[Reason]
    unmet: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Image:
    key: str
    name: str = ""
    sha256: str = ""
    state: str = OK
    error: str = ""
    chunk: int = -1


FIELDS = ("key", "name", "sha256", "state", "error", "chunk")


def explain(version: Version, wanted: str, store: Store) -> Explanation:
    """Tell all that a version can say of an image: its state, and of each object what became of it and why.

    Args:
        version: the one that is asked.
        wanted: the image's key or its name in the source, else the beginning of its key or SHA-256, at least 4
            characters.
        store: holds the pool and the predictions that the version was made of.

    Returns:
        The image, its objects with their reasons, and what people said of it that was not applied.

    Raises:
        BuildError: no image matches, or several do.
        TypeError: for a name in place of a version, or anything but text in place of a key.
    """
    check_version(version)
    check_store(store)
    if not isinstance(wanted, str):
        raise TypeError(f"{brief(repr(wanted))} is no text: give the key, the name or the SHA-256 of an image")
    manifest = version.manifest
    image = _find(store, version, wanted)
    shard = _shard_of(version, image)
    rows = _objects(version, image.key)
    state, why = _fate(store, version, image, shard, rows)
    fates = _fates(version, image)
    reasons = Reasons(manifest, [override for override, fate in fates.items() if fate == APPLIED])
    objects = [
        Reason(
            reasons.label(row),
            row["score"],
            row.get("calibrated"),
            (row["x1"], row["y1"], row["x2"], row["y2"]) if kind_of(manifest.kind).overlaps else None,
            row["outcome"],
            row["reason"],
            reasons.threshold(row),
            reasons.whence(row),
            reasons.why(row, rows),
            row.get("pixels"),
        )
        for row in rows
    ]
    unmet = [_unmet(override, fate) for override, fate in fates.items() if fate != APPLIED]
    return Explanation(version.ref, image.key, image.name, image.sha256, state, why, objects, unmet)


def _fates(version: Version, image: _Image) -> dict[Override, str]:
    """What people said of an image, and what became of it."""
    fates = load_fates(version.overrides) if version.has(OVERRIDES) else {}
    return {override: fate for override, fate in fates.items() if override.sha256 == image.sha256}


def _unmet(override: Override, fate: str) -> str:
    at = ", ".join(f"{side:.1f}" for side in override.box)
    said = f"{override.action} of a {override.label} at {at} by {who(override)}"
    return f"{said}: {fate}, since no object is there"


def _find(store: Store, version: Version, wanted: str) -> _Image:
    """The image in the version's pool; where that is gone, or does not know it, in its shards."""
    id = version.manifest.provenance.inputs.pool
    scanned = id in store.match(store.pools, id)
    matches = (_in_pool(read_pool(store, id), wanted) if scanned else []) or _in_shards(version, wanted)
    exact = [image for image in matches if wanted in (image.key, image.name)] or matches
    holders = [image for image in exact if image.chunk >= 0] if len({i.sha256 for i in exact}) == 1 else exact
    if len(holders or exact) == 1:
        return (holders or exact)[0]
    if exact:
        listed = ", ".join(sorted(image.key for image in exact)[:SHOWN]) + (", …" if len(exact) > SHOWN else "")
        raise BuildError(f"{wanted!r} stands for {len(exact)} images of {version.ref} ({listed}): give more of it")
    raise BuildError(
        f"no image {wanted!r} in {version.ref} or its pool: give a key (column `key` of its labels.parquet), a name in "
        f"the source, or the first {SHORTEST} or more characters of a key or SHA-256"
    )


def _in_pool(pool: Pool, wanted: str) -> list[_Image]:
    images: list[_Image] = []
    for rows in pool.tables(FIELDS):
        matches = pc.or_(pc.equal(rows["key"], wanted), pc.equal(rows["name"], wanted))
        if len(wanted) >= SHORTEST:
            for name in ("key", "sha256"):
                matches = pc.or_(matches, pc.starts_with(rows[name], wanted))
        images += (_Image(**row) for row in rows.filter(matches).to_pylist())
    return images


def _in_shards(version: Version, wanted: str) -> list[_Image]:
    images: list[_Image] = []
    for _, sample in _samples(version, version.manifest.shards):
        label = read_label(sample, version.manifest)
        image = _Image(sample.key, label["name"], label["sha256"], chunk=0)
        begins = len(wanted) >= SHORTEST and (image.key.startswith(wanted) or image.sha256.startswith(wanted))
        if (begins or wanted in (image.key, image.name)) and not is_copy(sample.key):
            images.append(image)
    return images


def _samples(version: Version, shards: Sequence[ShardRecord]) -> Iterator[tuple[ShardRecord, Sample]]:
    for shard in shards:
        try:
            for sample in version.samples(shard):
                yield shard, sample
        except (ShardError, OSError):
            raise BuildError(f"{version.data / shard.name} cannot be read: run `tutelage verify --repair`") from None


def _shard_of(version: Version, image: _Image) -> str:
    """The name of the shard that holds an image, "" if none does."""
    shards = version.manifest.shards
    known = [shard for shard in shards if shard.chunks[0] <= image.chunk < shard.chunks[1]]
    return next((shard.name for shard, sample in _samples(version, known or shards) if sample.key == image.key), "")


def _objects(version: Version, key: str) -> list[Row]:
    """The rows of labels.parquet of an image, best first."""
    rows = rows_of(version, key)
    return sorted(rows, key=lambda row: (-row["score"], row["label"], *(row[side] for side in BOX)))


def _fate(store: Store, version: Version, image: _Image, shard: str, rows: Sequence[Row]) -> tuple[str, str]:
    """What became of an image, and why."""
    manifest, ref = version.manifest, version.ref
    kind, inputs = kind_of(manifest.kind), manifest.provenance.inputs
    if image.key in manifest.tombstones:
        return "tombstone", f"it left its source after an earlier version: it still lies in data/{shard}, to be skipped"
    if shard:
        number = [row.get("pixels", 1) for row in rows]
        kept, ignored = (
            sum(n for n, row in zip(number, rows, strict=True) if row["outcome"] == outcome)
            for outcome in ("kept", "ignored")
        )
        if kind.single:
            return "written", f"it is in data/{shard}"
        return (
            "written",
            f"it is in data/{shard} with {kept} kept and {ignored} ignored of {sum(number)} predicted {kind.noun}",
        )
    if image.state == UNREADABLE:
        return UNREADABLE, f"it could not be read: {image.error}"
    if image.state == DUPLICATE:
        return DUPLICATE, f"another image stands for it: {image.error}"
    if image.state == REMOVED:
        return REMOVED, f"it was no longer in its source when {ref} was built"
    if failure := _failure(store, inputs, image):
        return UNREADABLE, f"the teacher could not read it: {failure}"
    for state, why in _kept_out(version, image):
        return state, why
    nothing = not any(row["outcome"] == "kept" for row in rows)
    if nothing and kind.single:
        return "empty", "its class is not kept, and an image without one cannot be here"
    if nothing and inputs.images.drop_empty:
        number = sum(row.get("pixels", 1) for row in rows)
        return "empty", f"none of the {number} {kind.noun} predicted on it is kept, and images.drop_empty is set"
    return "left_out", f"it is in the pool of {ref}, but not in its shards: run `tutelage verify {ref}`"


def _failure(store: Store, inputs: Inputs, image: _Image) -> str:
    """Why the teacher has no predictions of an image, as far as pool and predictions are still there."""
    try:
        for chunk in read_pool(store, inputs.pool).chunks(image.chunk, image.chunk + 1):
            place = chunk.rows["sha256"].to_pylist().index(image.sha256)
            folder = store.predictions / inputs.predictions / chunk.digest
            return next((f.error for f in read_failures(folder) if f.position == place), "")
    except (BuildError, KeyError, ValueError):
        pass
    return ""


def _kept_out(version: Version, image: _Image) -> Iterator[tuple[str, str]]:
    """Whether it is a leak or a near-duplicate, which the version has a list of."""
    if version.has(LEFT_OUT):
        left_out = read_left_out(version.left_out)
        for state, images in left_out.by_state.items():
            if image.sha256 in images:
                yield state, f"it was left out: {images[image.sha256]}"

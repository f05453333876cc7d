"""Build again what is damaged in a complete version, from what its manifest says it was made of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from builder import BuildError
from builder.calibrate import Calibrator
from builder.card import card
from builder.card_chart import FILE as CHART
from builder.card_chart import classes_chart
from builder.certify import Group
from builder.cut import CARD, LABELS_FILE, REPORT, held, parent_shards
from builder.engine import Track, run, silent
from builder.files import TEMPORARY, discard, sha256_file, sync_folder, write_file
from builder.kinds import kind_of
from builder.label_table import join_labels
from builder.labelled import LabelledPool, pool_scores
from builder.left_out import FILE as LEFT_OUT
from builder.left_out import LeftOut, find_left_out, read_left_out
from builder.manifest import Manifest, read_manifest, write_manifest
from builder.overrides import FILE as OVERRIDES
from builder.overrides import (
    Override,
    by_image,
    dump_overrides,
    load_overrides,
    overrides_digest,
    read_overrides,
    settled,
)
from builder.parent import ParentVersion, find_parent, settled_by
from builder.pool import Pool, read_pool
from builder.rules import Keep
from builder.samples import ShardJob, Writing, write_job
from builder.scores import PoolScores
from builder.store import Store
from builder.thresholds import with_ignore


def repair(folder: Path, store: Store, numbers: Sequence[int], workers: int, track: Track = silent) -> None:
    """Build the shards of these numbers of a complete version again, and its other files if they are not what the
    manifest says. Nothing is put in place that has not the manifest's SHA-256.

    Raises BuildError if the store no longer holds what the version was made of, or gives other bytes.
    """
    manifest = read_manifest(folder)
    with store.in_use(), held(folder):
        recalled = recall(folder, manifest, store)
        scratch = folder / f"{TEMPORARY}repair"
        discard(scratch)
        labels_bad = not _is_intact(folder, manifest, LABELS_FILE)
        there = replace(recalled.writing, folder=scratch)
        jobs = [ShardJob(n, range(*chunks), there) for n, chunks in enumerate(manifest.provenance.get("plan", []))]
        overrides_bad = not _is_intact(folder, manifest, OVERRIDES)
        wanted = jobs if labels_bad or overrides_bad else [job for job in jobs if job.number in numbers]
        with track("repair", sum(len(job.chunks) for job in wanted)) as advance:
            for job, _ in zip(wanted, run(write_job, wanted, workers), strict=True):
                advance(len(job.chunks))
        for shard in manifest.shards:
            if int(shard.name[6:12]) in numbers:
                _put(scratch / "data" / shard.name, folder / "data" / shard.name, shard.sha256)
        if labels_bad:
            join_labels(scratch / LABELS_FILE, [job.labels for job in jobs])
            _put(scratch / LABELS_FILE, folder / LABELS_FILE, manifest.files[LABELS_FILE])
        if overrides_bad:
            fates = settled(recalled.overrides, [orjson.loads(job.record.read_bytes()) for job in jobs])
            write_file(scratch / OVERRIDES, dump_overrides(recalled.overrides, fates))
            _put(scratch / OVERRIDES, folder / OVERRIDES, manifest.files[OVERRIDES])
        as_sealed = manifest.model_copy(update={"files": {}})
        texts = {CARD: card(as_sealed).encode(), LEFT_OUT: recalled.left_out.table().encode()}
        for name, text in (texts | {CHART: classes_chart(as_sealed)}).items():
            if not _is_intact(folder, manifest, name):
                write_file(scratch / name, text)
                _put(scratch / name, folder / name, manifest.files[name])
        if not _is_intact(folder, manifest, REPORT):
            _repair_report(folder, scratch, manifest, pool_scores(recalled.writing.labelled, workers, track))
        discard(scratch)


def _repair_report(folder: Path, scratch: Path, manifest: Manifest, scores: PoolScores) -> None:
    """The report is made of the pool's scores, the shards and labels.parquet, and with human labels of these too, which
    are in no store."""
    from builder.report import write_report

    discard(scratch)
    scratch.mkdir()
    for name in ("data", LABELS_FILE):
        (scratch / name).symlink_to(folder.resolve() / name)
    write_report(scratch, manifest.model_copy(update={"files": {}}), scores, None)
    has_labels = manifest.provenance["inputs"]["truth"] is not None
    if has_labels and sha256_file(scratch / REPORT) != manifest.files[REPORT]:
        discard(scratch)
        raise BuildError(
            f"{folder / REPORT} cannot be built again, since it shows human labels, which a store does not hold: build "
            "its recipe into another store and copy it from there (all else in this version is as it was)"
        )
    _put(scratch / REPORT, folder / REPORT, manifest.files[REPORT])


def _is_intact(folder: Path, manifest: Manifest, name: str) -> bool:
    """Whether a file is as the manifest says, or one that the version does not have."""
    known = manifest.files.get(name)
    return known is None or ((folder / name).is_file() and sha256_file(folder / name) == known)


def _put(new: Path, old: Path, sha256: str) -> None:
    if sha256_file(new) != sha256:
        raise BuildError(
            f"{old} cannot be built again: an image, the predictions or the tool changed since, and the bytes would "
            "differ; what is there was left as it is"
        )
    old.parent.mkdir(exist_ok=True)
    os.replace(new, old)
    sync_folder(old.parent)


@dataclass(frozen=True)
class Recalled:
    """What a complete version was written with, into no folder yet, what it left out, and what people had said."""

    writing: Writing
    left_out: LeftOut
    overrides: list[Override]


def recall(folder: Path, manifest: Manifest, store: Store) -> Recalled:
    """How a complete version was made, from its manifest and the store. Shards that serve are looked for in itself and
    in its parent; without the parent, all is built from the pool."""
    said = manifest.provenance
    inputs = said["inputs"]
    keep, pool = Keep.model_validate(inputs["keep"]), read_pool(store, inputs["pool"])
    parent = _parent(said["parent"], store)
    left_out = _left_out(folder, manifest, store, pool, parent)
    groups = [Group.model_validate(group) for group in said["thresholds"]]
    calibration = Calibrator.model_validate(said["calibration"]) if said["calibration"] else None
    predictions, classes = store.predictions / inputs["predictions"], tuple(manifest.classes)
    labelled = LabelledPool(pool, predictions, classes, keep, calibration, left_out.states)
    shards = [parent_shards(folder, manifest, pool)]
    shards += [parent_shards(parent.folder, parent.manifest, pool)] if parent else []
    limits, gone = with_ignore(keep, groups, classes), frozenset(manifest.tombstones)
    drop_empty, extension = inputs["images"]["drop_empty"], manifest.features[0]
    said_by_people = _overrides(folder, manifest, store)
    writing = Writing(
        Path(),
        labelled,
        limits,
        drop_empty,
        extension,
        tuple(shards),
        gone,
        overrides=by_image(said_by_people),
        kind=kind_of(manifest.kind),
        balance=tuple(said["balance"]) if "balance" in said else None,
    )
    return Recalled(writing, left_out, said_by_people)


def _overrides(folder: Path, manifest: Manifest, store: Store) -> list[Override]:
    """As the version's own file says, or as they are in force still."""
    if OVERRIDES not in manifest.files:
        return []
    if _is_intact(folder, manifest, OVERRIDES):
        return load_overrides(folder / OVERRIDES)
    found = read_overrides(store, manifest.name)
    if overrides_digest(found) != manifest.provenance["inputs"]["overrides"]:
        raise BuildError(
            f"{folder / OVERRIDES} is damaged, and the overrides in force are others by now: restore it from a copy"
        )
    return found


def _parent(said: Mapping[str, Any] | None, store: Store) -> ParentVersion | None:
    """The parent, unless it was removed."""
    try:
        return find_parent(said["version"], store, said["id"]) if said else None
    except BuildError:
        return None


def _left_out(folder: Path, manifest: Manifest, store: Store, pool: Pool, parent: ParentVersion | None) -> LeftOut:
    """As the version's own file says, or found again."""
    if LEFT_OUT not in manifest.files:
        return LeftOut({}, {})
    if _is_intact(folder, manifest, LEFT_OUT):
        return read_left_out(folder / LEFT_OUT)
    inputs = manifest.provenance["inputs"]
    references = {name: read_pool(store, id) for name, id in inputs["references"].items()}
    near = inputs["images"]["near_duplicates"]
    settled = settled_by(parent, pool, near) if parent and not inputs["resolve"] else None
    return find_left_out(pool, references, inputs["gates"]["leak_distance"], near, settled)


def write_missing_report(folder: Path, store: Store, workers: int, track: Track = silent) -> None:
    """Give a version that was built without a report one: of the pool's scores and the shards, without the curves that
    need the labels. Its id stays what it is."""
    from builder.report import write_report

    manifest = read_manifest(folder)
    with store.in_use(), held(folder):
        scores = pool_scores(recall(folder, manifest, store).writing.labelled, workers, track)
        write_report(folder, manifest, scores, None)
        files = {**manifest.files, REPORT: sha256_file(folder / REPORT)}
        write_manifest(folder, manifest.model_copy(update={"files": files}))

"""Build again what is damaged in a complete version, from what its manifest says it was made of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from builder import BuildError
from builder.calibrate import Calibrator
from builder.card import card
from builder.certify import Group
from builder.cut import CARD, LABELS_FILE, REPORT, held, join_labels, parent_shards
from builder.engine import Track, run, silent
from builder.files import TEMPORARY, discard, sha256_file, sync_folder, write_file
from builder.labelled import LabelledPool, pool_scores
from builder.manifest import Manifest, read_manifest, write_manifest
from builder.plan import find_left_out, find_parent
from builder.pool import read_pool
from builder.rules import Keep
from builder.samples import ShardJob, Writing, write_job
from builder.store import Store
from builder.thresholds import with_ignore


def repair(folder: Path, store: Store, numbers: Sequence[int], workers: int, track: Track = silent) -> None:
    """Build the shards of these numbers of a complete version again, and labels.parquet and the card if they are not
    what the manifest says. Nothing is put in place that has not the manifest's SHA-256.

    Raises BuildError if the store no longer holds what the version was made of, or gives other bytes.
    """
    manifest = read_manifest(folder)
    writing = recall(manifest, store)
    with held(folder):
        scratch = folder / f"{TEMPORARY}repair"
        discard(scratch)
        labels_bad = not _is_intact(folder, manifest, LABELS_FILE)
        there = replace(writing, folder=scratch)
        jobs = [ShardJob(n, range(*chunks), there) for n, chunks in enumerate(manifest.provenance.get("plan", []))]
        wanted = jobs if labels_bad else [job for job in jobs if job.number in numbers]
        with track("repair", sum(len(job.chunks) for job in wanted)) as advance:
            for job, _ in zip(wanted, run(write_job, wanted, workers), strict=True):
                advance(len(job.chunks))
        for shard in manifest.shards:
            if int(shard.name[6:12]) in numbers:
                _put(scratch / "data" / shard.name, folder / "data" / shard.name, shard.sha256)
        if labels_bad:
            join_labels(scratch, jobs)
            _put(scratch / LABELS_FILE, folder / LABELS_FILE, manifest.files[LABELS_FILE])
        if not _is_intact(folder, manifest, CARD):
            write_file(scratch / CARD, card(manifest.model_copy(update={"files": {}})).encode())
            _put(scratch / CARD, folder / CARD, manifest.files[CARD])
        discard(scratch)


def _is_intact(folder: Path, manifest: Manifest, name: str) -> bool:
    return (folder / name).is_file() and sha256_file(folder / name) == manifest.files[name]


def _put(new: Path, old: Path, sha256: str) -> None:
    if sha256_file(new) != sha256:
        raise BuildError(
            f"{old} cannot be built again: an image, the predictions or the tool changed since, and the bytes would "
            "differ; what is there was left as it is"
        )
    old.parent.mkdir(exist_ok=True)
    os.replace(new, old)
    sync_folder(old.parent)


def recall(manifest: Manifest, store: Store) -> Writing:
    """What a complete version was written with, from its manifest and the store; into no folder yet."""
    said = manifest.provenance
    inputs = said["inputs"]
    keep, pool = Keep.model_validate(inputs["keep"]), read_pool(store, inputs["pool"])
    references = {name: read_pool(store, id) for name, id in inputs["references"].items()}
    left_out = find_left_out(pool, references, inputs["gates"]["leak_distance"], inputs["images"]["near_duplicates"])
    groups = [Group.model_validate(group) for group in said["thresholds"]]
    calibration = Calibrator.model_validate(said["calibration"]) if said["calibration"] else None
    folder, classes = store.predictions / inputs["predictions"], tuple(manifest.classes)
    labelled = LabelledPool(pool, folder, classes, keep, calibration, left_out.states)
    parent = None
    if said["parent"]:
        parent = parent_shards(find_parent(said["parent"]["version"], store, said["parent"]["id"]), pool)
    limits = with_ignore(keep, groups, classes)
    return Writing(Path(), labelled, limits, inputs["images"]["drop_empty"], manifest.features[0], parent)


def write_missing_report(folder: Path, store: Store, workers: int, track: Track = silent) -> None:
    """Give a version that was built without a report one: of the pool's scores and the shards, without the curves that
    need the labels. Its id stays what it is."""
    from builder.report import write_report

    manifest = read_manifest(folder)
    scores = pool_scores(recall(manifest, store).labelled, workers, track)
    with held(folder):
        write_report(folder, manifest, scores, None)
        files = {**manifest.files, REPORT: sha256_file(folder / REPORT)}
        write_manifest(folder, manifest.model_copy(update={"files": files}))

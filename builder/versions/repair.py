"""Build again what is damaged in a complete version, from what its manifest says it was made of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from builder.cut.label_table import join_labels
from builder.cut.left_out import LEFT_OUT
from builder.cut.recall import is_intact, recall
from builder.cut.samples import ShardJob, write_job
from builder.cut.version import CARD, LABELS_FILE, REPORT, held
from builder.engine import Track, run, silent
from builder.errors import BuildError
from builder.report.card import card
from builder.report.card_chart import CHART, classes_chart
from builder.rules.labelled import pool_scores
from builder.rules.overrides import (
    OVERRIDES,
    dump_overrides,
    settled,
)
from builder.rules.scores import PoolScores
from builder.store.files import TEMPORARY, discard, sha256_file, sync_folder, write_file
from builder.store.manifest import Manifest, read_manifest, write_manifest
from builder.store.store import Store


def repair(folder: Path, store: Store, numbers: Sequence[int], workers: int | None, track: Track = silent) -> None:
    """Build the shards of these numbers of a complete version again, and its other files if they are not what the
    manifest says. Nothing is put in place that has not the manifest's SHA-256.

    Raises BuildError if the store no longer holds what the version was made of, or gives other bytes.
    """
    manifest = read_manifest(folder)
    with store.in_use(), held(folder):
        recalled = recall(folder, manifest, store)
        scratch = folder / f"{TEMPORARY}repair"
        discard(scratch)
        labels_bad = not is_intact(folder, manifest, LABELS_FILE)
        there = replace(recalled.writing, folder=scratch)
        jobs = [ShardJob(n, range(*chunks), there) for n, chunks in enumerate(manifest.provenance.plan)]
        overrides_bad = not is_intact(folder, manifest, OVERRIDES)
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
            if not is_intact(folder, manifest, name):
                write_file(scratch / name, text)
                _put(scratch / name, folder / name, manifest.files[name])
        if not is_intact(folder, manifest, REPORT):
            _repair_report(folder, scratch, manifest, pool_scores(recalled.writing.labelled, workers, track))
        discard(scratch)


def _repair_report(folder: Path, scratch: Path, manifest: Manifest, scores: PoolScores) -> None:
    """The report is made of the pool's scores, the shards and labels.parquet, and with human labels of these too, which
    are in no store."""
    from builder.report.index import write_report

    discard(scratch)
    scratch.mkdir()
    for name in ("data", LABELS_FILE):
        (scratch / name).symlink_to(folder.resolve() / name)
    write_report(scratch, manifest.model_copy(update={"files": {}}), scores, None)
    has_labels = manifest.provenance.inputs.truth is not None
    if has_labels and sha256_file(scratch / REPORT) != manifest.files[REPORT]:
        discard(scratch)
        raise BuildError(
            f"{folder / REPORT} cannot be built again, since it shows human labels, which a store does not hold: build "
            "its recipe into another store and copy it from there (all else in this version is as it was)"
        )
    _put(scratch / REPORT, folder / REPORT, manifest.files[REPORT])


def _put(new: Path, old: Path, sha256: str) -> None:
    if sha256_file(new) != sha256:
        raise BuildError(
            f"{old} cannot be built again: an image, the predictions or the tool changed since, and the bytes would "
            "differ; what is there was left as it is"
        )
    old.parent.mkdir(exist_ok=True)
    os.replace(new, old)
    sync_folder(old.parent)


def report_page(store: Store, version: str, *, workers: int | None = None, track: Track = silent) -> Path:
    """The report page of a version, written now if it was built without one.

    Args:
        store: holds the version, and for a report that is missing the pool and the predictions it was made of.
        version: NAME, NAME@v3, NAME@TAG or a folder.
        workers: threads; None for one a core.
        track: reports progress.

    Returns:
        The path of the page. One that is written now has not the curves that need the labels.

    Raises:
        BuildError: there is no such version, or the store no longer holds what it was made of.
    """
    from builder.report.index import write_report

    folder = store.version(version)
    if (folder / REPORT).is_file():
        return folder / REPORT
    manifest = read_manifest(folder)
    with store.in_use(), held(folder):
        scores = pool_scores(recall(folder, manifest, store).writing.labelled, workers, track)
        write_report(folder, manifest, scores, None)
        files = {**manifest.files, REPORT: sha256_file(folder / REPORT)}
        write_manifest(folder, manifest.model_copy(update={"files": files}))
    return folder / REPORT

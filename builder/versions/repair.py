"""Build again what is damaged in a complete version, from what its manifest says it was made of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import orjson

from builder.cut.label_table import join_labels
from builder.cut.recall import recall
from builder.cut.samples import ShardJob, write_job
from builder.cut.version import held
from builder.engine import Track, run, silent
from builder.errors import BuildError
from builder.report.card import card
from builder.report.card_chart import classes_chart
from builder.rules.counting import pool_scores
from builder.rules.fates import image_keys, settled
from builder.rules.overrides import dump_overrides
from builder.rules.scores import PoolScores
from builder.scan.pool import Pool
from builder.store.files import TEMPORARY, digest, discard, make_folder, sha256_file, sync_folder, write_file
from builder.store.index import join_index
from builder.store.manifest import write_manifest
from builder.store.shards import ShardRecord, TarRecord, read_samples
from builder.store.shared.tars import ImageTars, Mended
from builder.store.store import Store
from builder.store.version import CARD, CHART, CLAIM, DATA, INDEX, LABELS, LEFT_OUT, OVERRIDES, REPORT, Version


def repair(
    version: Version, store: Store, numbers: Sequence[int], workers: int | None = None, track: Track = silent
) -> None:
    """Build the shards of these numbers of a complete version again, and its other files if they are not what the
    manifest says. Nothing is put in place that has not the manifest's SHA-256.

    Raises BuildError if the store no longer holds what the version was made of, or gives other bytes.
    """
    version = replace(version, trust=None)  # or nothing of it could be read
    manifest = version.manifest
    with store.in_use(), held(version.folder), _scratch(version) as scratch:
        recalled = recall(version, store)
        bad = _bad_tars(version, recalled.writing.labelled.pool, numbers)
        tars = Mended(version.image_tars, bad, scratch.folder) if manifest.is_shared else None
        writing = replace(recalled.writing, folder=scratch.folder, tars=tars)
        jobs = [ShardJob(n, range(*chunks), writing) for n, chunks in enumerate(manifest.provenance.plan)]
        labels_bad, index_bad, overrides_bad = (not version.is_intact(name) for name in (LABELS, INDEX, OVERRIDES))
        wanted = jobs if labels_bad or index_bad or overrides_bad else [job for job in jobs if job.number in numbers]
        with track("repair", sum(len(job.chunks) for job in wanted)) as advance:
            for job, _ in zip(wanted, run(write_job, wanted, workers), strict=True):
                advance(len(job.chunks))
        for shard, tar in manifest.tars:
            if int(shard.name[6:12]) in numbers:
                _put(scratch.data / tar.name, version.data / tar.name, tar.sha256)
        if tars:
            _put_images(bad.values(), tars, version.image_tars)
        if labels_bad:
            join_labels(scratch.labels, [job.labels for job in jobs])
            _put(scratch.labels, version.labels, manifest.files[LABELS])
        if index_bad:
            join_index(scratch.sample_index, [job.index for job in jobs if job.result().shard])
            _put(scratch.sample_index, version.sample_index, manifest.files[INDEX])
        if overrides_bad:
            rows = [row for job in jobs for row in job.result().overrides]
            fates = settled(recalled.overrides, rows)
            write_file(scratch.overrides, dump_overrides(recalled.overrides, fates, image_keys(rows)))
            _put(scratch.overrides, version.overrides, manifest.files[OVERRIDES])
        texts = {CARD: card(scratch.manifest).encode(), LEFT_OUT: recalled.left_out.table().encode()}
        for name, text in (texts | {CHART: classes_chart(scratch.manifest)}).items():
            if not version.is_intact(name):
                write_file(scratch.folder / name, text)
                _put(scratch.folder / name, version.folder / name, manifest.files[name])
        if not version.is_intact(REPORT):
            _repair_report(version, scratch, pool_scores(recalled.writing.labelled, workers, track))
        claim, inputs = version.folder / CLAIM, digest(manifest.provenance.inputs.claimed()).encode()
        if claim.is_file() and claim.read_bytes() != inputs:
            write_file(claim, inputs)


def _bad_tars(version: Version, pool: Pool, numbers: Sequence[int]) -> dict[str, TarRecord]:
    """The image tars of these shards that are not what the manifest says, by name. They are written again beside the
    store's, and proved, before they take their place: what is there may be all that is left of their images. What is
    said of one that is whole itself is written again here, where its images and labels tell it."""
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


@contextmanager
def _scratch(version: Version) -> Iterator[Version]:
    """A place to build in, beside the files of a version, which is gone when the block ends; whoever holds the version
    next sweeps that of a killed repair."""
    folder = version.folder / f"{TEMPORARY}repair"
    try:
        tars = version.image_tars if version.manifest.is_shared else None
        yield Version(folder, version.manifest.model_copy(update={"files": {}}), tars=tars)
    finally:
        discard(folder)


def _repair_report(version: Version, scratch: Version, scores: PoolScores) -> None:
    """The report is made of the pool's scores, the shards and labels.parquet, and with human labels of these too, which
    are in no store."""
    from builder.report.index import write_report

    discard(scratch.folder)
    scratch.folder.mkdir()
    for name in (DATA, LABELS):
        (scratch.folder / name).symlink_to(version.folder.resolve() / name)
    write_report(scratch, scores, None)
    has_labels = version.manifest.provenance.inputs.truth is not None
    if has_labels and sha256_file(scratch.report) != version.manifest.files[REPORT]:
        raise BuildError(
            f"{version.report} cannot be built again, since it shows human labels, which a store does not hold: build "
            "its recipe into another store and copy it from there (all else in this version is as it was)"
        )
    _put(scratch.report, version.report, version.manifest.files[REPORT])


def _put_images(bad: Iterable[TarRecord], mended: Mended, tars: ImageTars) -> None:
    """Image tars that were written again, and what is said of them."""
    for tar in bad:
        new, old = mended.path(tar.name), tars.path(tar.name)
        if not mended.holds(tar):
            raise _other(old)
        _put(new, old, tar.sha256)
        write_file(old.with_suffix(".json"), new.with_suffix(".json").read_bytes())


def _other(path: Path) -> BuildError:
    return BuildError(
        f"{path} cannot be built again: an image, the predictions or the tool changed since, and the bytes would "
        "differ; what is there was left as it is"
    )


def _put(new: Path, old: Path, sha256: str) -> None:
    if sha256_file(new) != sha256:
        raise _other(old)
    make_folder(old.parent)
    os.replace(new, old)
    sync_folder(old.parent)


def report_page(version: Version, store: Store, *, workers: int | None = None, track: Track = silent) -> Path:
    """The report page of a version, written now if it was built without one.

    Args:
        version: the one that the page is about.
        store: holds, for a report that is missing, the pool and the predictions that the version was made of.
        workers: threads; None for one a core.
        track: reports progress.

    Returns:
        The path of the page. One that is written now has not the curves that need the labels.

    Raises:
        BuildError: the store no longer holds what it was made of.
    """
    from builder.report.index import write_report

    if REPORT not in version.manifest.files or not version.report.is_file():
        with store.in_use(), held(version.folder):
            scores = pool_scores(recall(version, store).writing.labelled, workers, track)
            write_report(version, scores, None)
            files = {**version.manifest.files, REPORT: sha256_file(version.report)}
            write_manifest(version.folder, version.manifest.model_copy(update={"files": files}))
    return version.report

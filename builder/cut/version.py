"""Cut a version: pool + predictions + rules → shards, labels.parquet, card, report, manifest.

The shard is the unit of work and of resume. Its samples depend on the pool alone (whole chunks, up to `max_mb` and
`max_images`), so a threshold never moves an image to another shard. What is finished lies in `.work/` until the
manifest is written. What is decided before the first shard is written is builder.cut.plan's.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from builder.cut.basis import Basis
from builder.cut.emptiness import check_kept
from builder.cut.images import Form, others
from builder.cut.label_table import join_labels
from builder.cut.left_out import CHANGED, LEAK
from builder.cut.parent import Parent, made_by_review, ranges
from builder.cut.plan import Plan, decide_all
from builder.cut.samples import EMPTY, WRITTEN, ShardJob, Writing, write_job
from builder.engine import Track, run, silent
from builder.errors import BuildError
from builder.kinds import kind_of
from builder.recipe.recipe import Recipe
from builder.report.card import card
from builder.report.card_chart import classes_chart
from builder.rules.fates import image_keys, settled, summary
from builder.rules.overrides import by_image, dump_overrides
from builder.rules.reasons import REASONS, Reason
from builder.scan.metadata import STRIPPED
from builder.scan.pool import DUPLICATE, REMOVED, UNREADABLE, Pool
from builder.store.files import digest, discard, locked, sha256_file, write_file
from builder.store.history import record, say_what_for
from builder.store.index import join_index
from builder.store.manifest import (
    FORMAT,
    MANIFEST,
    SHARED_FORMAT,
    Manifest,
    as_read,
    id_of,
    read_manifest,
    write_manifest,
)
from builder.store.provenance import Inputs, Provenance
from builder.store.shared.tars import ImageTars
from builder.store.store import Store, check_store
from builder.store.version import CARD, CHART, DATA, INDEX, LABELS, LEFT_OUT, OVERRIDES, REPORT, WORK, Version
from teachers.errors import warn

WRITABLE = {"jpg", "png", "webp"}
"""Formats that an image can be brought to."""
RARE = {"heic", "avif", "jp2"}
"""Formats that few readers of shards know: their images are brought to another one."""


@dataclass(frozen=True)
class Cut(Version):
    """A version that was cut, and how many of its shards this run wrote (0: all was there) or took from the parent."""

    shards_written: int


def cut_version(
    basis: Basis,
    store: Store,
    *,
    name: str,
    workers: int | None = None,
    written: Recipe | None = None,
    report: bool = True,
    allow_empty: bool = False,
    allow_partial: bool = False,
    message: str = "",
    track: Track = silent,
) -> Cut:
    """Make the version of a dataset that a basis leads to: built, finished where it was interrupted, or found complete.

    Args:
        basis: what it is made from.
        store: where it is put, as the next number of its dataset, or under the number that it has already.
        name: the dataset.
        workers: threads that read and write; None for one a core. They change no byte.
        written: the recipe as its author wrote it, where the basis's has other paths (`Recipe.rooted`).
        report: whether it gets a report page.
        allow_empty: write a version in which the rules keep nothing, too.
        allow_partial: write it also where classes that `keep.precision` cannot certify hold most labelled objects.
        message: what it is for, in the store's history; of a version that was complete before, too.
        track: shows how far it is (builder.engine.Track).

    Returns:
        The version, and how many of its shards were written now.

    Raises:
        BuildError: rules that do not fit the teacher or cannot be certified, unlabelled chunks, an image that changed
            since its scan, or nothing that is kept.
        GateFailed: before anything is written.
    """
    check_store(store)
    inputs = basis.inputs()
    if made := made_by_review(store, name, inputs):
        return _complete(store, made.folder, message)
    folder = store.claim(name, digest(inputs.claimed()), partial(_still_serves, basis.pool))
    with held(folder):
        if not folder.is_dir():  # collected as abandoned in the moment before we held it
            raise BuildError(f"another process removed {name}@{folder.name}: run this again")
        if (folder / MANIFEST).exists():
            return _complete(store, folder, message)
        try:
            plan = decide_all(
                basis, store, inputs, workers, track, allow_empty=allow_empty, allow_partial=allow_partial
            )
        except BuildError:
            if not (folder / DATA).exists():  # the number is free again, for the recipe that mends it
                discard(folder)
            raise
        jobs = shard_jobs(basis, plan, folder, ImageTars(store.root))
        pending = [job for job in jobs if not job.is_done]
        with track("cut", sum(basis.pool.index[n].images for job in pending for n in job.chunks)) as advance:
            for images_done in run(write_job, pending, workers):
                advance(images_done)
        inputs, plan = _without_changed(jobs, inputs, plan)
        provenance = plan.provenance(inputs, written or basis.options, [job.chunks for job in jobs])
        manifest = _finish(folder, jobs, plan, provenance, report, allow_empty)
        record(store.root, f"{name}@{folder.name}", manifest, "built", message)
        shutil.rmtree(folder / WORK)
    _warn_of_changed(manifest)
    return Cut(folder, manifest, len(pending))


def _without_changed(jobs: Sequence[ShardJob], inputs: Inputs, plan: Plan) -> tuple[Inputs, Plan]:
    """Both, with the images that were left out since the disk holds other bytes than were scanned."""
    if changed := {sha256: name for job in jobs for sha256, name in job.result().changed.items()}:
        inputs = inputs.model_copy(update={"changed": sorted(changed)})
        plan = replace(plan, left_out=plan.left_out.with_changed(changed))
    return inputs, plan


def _still_serves(pool: Pool, folder: Path) -> bool:
    """Whether a version may be taken for a build of the same inputs: not one that lacks images of the pool which the
    disk had changed, and which are mended by now."""
    changed = {*read_manifest(folder).provenance.inputs.changed} if (folder / MANIFEST).is_file() else None
    return not changed or changed == others(i for i in pool.images() if i.sha256 in changed).keys()


def _warn_of_changed(manifest: Manifest) -> None:
    if count := manifest.images.get(CHANGED, 0):
        warn(
            f"{count} images of {manifest.name}@{manifest.version} are left out, since their bytes are no longer those "
            f"that were scanned: {LEFT_OUT} names them; restore them and build again"
        )


def _complete(store: Store, folder: Path, message: str) -> Cut:
    """A version that was there already, with the message that is given now. Where its build was killed in its last
    moment, the history may not know of it yet."""
    ref = f"{folder.parent.name}@{folder.name}"
    if (folder / WORK).exists():
        manifest = read_manifest(folder)
        record(store.root, ref, manifest, "built", message)
        shutil.rmtree(folder / WORK, ignore_errors=True)
    else:
        version = store.version(ref)
        version.check_files()
        manifest = version.manifest
        say_what_for(store.root, ref, manifest, message)
    _warn_of_changed(manifest)
    return Cut(folder, manifest, 0)


def held(folder: Path) -> AbstractContextManager[None]:
    """A version's folder for us alone, rid of what a killed build left half-written."""
    sweep = [folder, folder / DATA, folder / WORK, folder / "report"]
    return locked(folder.parent / f".lock-{folder.name}", f"{folder.parent.name}@{folder.name}", sweep=sweep)


def shard_jobs(basis: Basis, plan: Plan, folder: Path, tars: ImageTars) -> list[ShardJob]:
    """One job a shard: the parent's shards first, over the same chunks, then new ones. tars: of the store."""
    options = basis.options
    parent = basis.parent
    parents = (parent_shards(parent, basis.pool),) if parent else ()
    extension = _extension(basis)
    writing = Writing(
        folder,
        plan.labelled,
        plan.thresholds,
        options.images.drop_empty,
        Form(extension, basis.stored, options.shards.strip_metadata, options.images.reading),
        parents,
        overrides=by_image(basis.overrides),
        kind=kind_of(basis.kind),
        balance=plan.balance,
        tars=tars if options.shards.images == "shared" else None,
    )
    plan_of_chunks = ranges(basis.pool, options.shards, basis.parent)
    return [ShardJob(number, chunks, writing) for number, chunks in enumerate(plan_of_chunks)]


def parent_shards(version: Version, pool: Pool) -> Parent:
    """What shards over `pool`, a later scan, may take from this version."""
    columns = ("key", "state")

    def keys(removed: bool) -> Iterator[str]:
        for table in pool.tables(columns):
            rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
            yield from (key for key, state in rows if (state == REMOVED) == removed)

    gone = set(keys(removed=True))
    renewed = frozenset(key for key in keys(removed=False) if key in gone) if gone else frozenset[str]()
    return Parent(version, {shard.name: shard for shard in version.manifest.shards}, renewed)


def _extension(basis: Basis) -> str:
    """The extension of all images of the version: the parent's, whose shards are to serve, or the pool's own format if
    it has one that readers know (and that can be written upright)."""
    parent, asked = basis.parent, basis.options.shards.image_format
    if parent and basis.takes_over and parent.inputs.shards.image_format == asked:
        inherited = parent.manifest.features[0]
        if inherited in WRITABLE:
            return inherited
    formats = {format for format, _ in basis.pool.formats}
    rotated = any(is_rotated for _, is_rotated in basis.pool.formats)
    if basis.options.shards.strip_metadata and not formats <= STRIPPED:
        return asked
    if len(formats) == 1 and not formats <= RARE and (not rotated or formats <= WRITABLE):
        return formats.pop()
    return asked


def _finish(
    folder: Path, jobs: Sequence[ShardJob], plan: Plan, provenance: Provenance, report: bool, allow_empty: bool
) -> Manifest:
    """Join the shards' records: labels.parquet, card, report, and the manifest, which makes the version complete."""
    basis, pool, name = plan.basis, plan.basis.pool, folder.parent.name
    results = [job.result() for job in jobs]
    shards = [result.shard for result in results if result.shard]
    images = sum((Counter(result.images) for result in results), Counter[str]())
    images[DUPLICATE] += pool.count(DUPLICATE)
    images[UNREADABLE] += pool.lost
    kind, classes = jobs[0].writing.kind, list(basis.classes)
    reasons = np.sum([result.reasons for result in results], axis=0)
    try:
        if not allow_empty:
            check_kept(name, kind, images[WRITTEN] + images[EMPTY], reasons, plan.thresholds.groups)
        if not shards:
            words = {LEAK: "also in labelled, truth or test"}
            listed = ", ".join(f"{n} are {words.get(s, s)}" for s, n in images.items() if n)
            advice = "lower the thresholds, or give other images"
            if images[LEAK]:
                pair = next((s for s in plan.left_out.leaks.values() if "looks like" in s), "")
                advice = "give other images"
                advice += f", or, where they are others ({pair}), set gates.leak_distance: null" if pair else ""
            raise BuildError(f"nothing to write for {name}: of {len(pool)} images {listed}: {advice}")
    except BuildError:
        discard(folder)
        raise
    join_labels(folder / LABELS, [job.labels for job in jobs])
    join_index(folder / INDEX, [job.index for job, result in zip(jobs, results, strict=True) if result.shard])
    features = [jobs[0].writing.form.extension, "json", *([kind.member] if kind.member else [])]
    totals = {o: np.sum([result.per_class[o] for result in results], axis=0) for o in ("predicted", "kept", "ignored")}
    tombstones = sorted(key for result in results for key in result.tombstones)
    states = [WRITTEN, EMPTY, UNREADABLE, DUPLICATE, REMOVED]
    states += sorted(set(images) - {*states}) if tombstones or plan.left_out.states else []
    if basis.overrides:
        rows = [row for result in results for row in result.overrides]
        fates = settled(basis.overrides, rows)
        write_file(folder / OVERRIDES, dump_overrides(basis.overrides, fates, image_keys(rows)))
        provenance = provenance.model_copy(update={"overrides": summary(fates)})
    manifest = Manifest(
        format=SHARED_FORMAT if jobs[0].writing.tars else FORMAT,
        name=name,
        version=folder.name,
        id="",
        kind=kind.name,
        classes=classes,
        features=features,
        shards=shards,
        tombstones=tombstones,
        images={s: images[s] for s in states} | {"pool": len(pool)},
        objects={reason: int(n) for reason, n in zip(REASONS, reasons, strict=True)}
        | {"predicted": int(reasons.sum() - reasons[Reason.ADDED])},
        per_class={c: {o: int(totals[o][n]) for o in totals} for n, c in enumerate(classes)},
        files={},
        provenance=provenance,
    )
    manifest = manifest.model_copy(update={"id": id_of(manifest)})
    return seal(Version(folder, as_read(manifest)), plan, report)


def seal(version: Version, plan: Plan, report: bool) -> Manifest:
    """Write card and report from the manifest, and last the manifest with their hashes. Both are made from what a
    reader of the manifest will see, so that a repair gives the same bytes."""
    manifest = version.manifest
    write_file(version.card, card(manifest).encode())
    write_file(version.chart, classes_chart(manifest))
    names = [LABELS, INDEX, CARD, CHART, *([OVERRIDES] if manifest.provenance.overrides else [])]
    if plan.left_out.states:
        write_file(version.left_out, plan.left_out.table().encode())
        names.append(LEFT_OUT)
    if report:
        from builder.report.index import write_report

        write_report(version, plan.scores, plan.tune)
        names.append(REPORT)
    manifest = manifest.model_copy(update={"files": {name: sha256_file(version.folder / name) for name in names}})
    write_manifest(version.folder, manifest)
    return manifest

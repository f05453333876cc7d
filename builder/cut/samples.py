"""One shard of a version: predictions and rules to samples, their tar, and what happened to every object."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import orjson

from builder.cut.balance import balanced
from builder.cut.images import Form, OtherBytes, Said, image_tar, not_here, others, write_inside, write_shared
from builder.cut.kinds.choose import cut_kind
from builder.cut.kinds.kind import Kind
from builder.cut.label_table import write_labels
from builder.cut.left_out import CHANGED
from builder.cut.parent import Parent
from builder.cut.results import ShardResult, Written
from builder.engine import until
from builder.kinds import DETECTION, LabelKind
from builder.rules.keep import RULES
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Thresholds
from builder.rules.overrides import Override
from builder.rules.overruling import Overruled
from builder.rules.reasons import IGNORED, KEPT, REASONS
from builder.rules.scores import counted
from builder.scan.pool import OK, REMOVED, Chunk, PoolImage
from builder.store.files import digest
from builder.store.index import contents_of, write_part
from builder.store.keys import copy_key
from builder.store.shards import Part, ShardRecord, shard_name
from builder.store.shared.tars import ImageTars
from builder.store.version import DATA, WORK
from teachers.depth import PLAIN

FORMAT = 7
"""Raised whenever the same inputs might give other files, so that an old claim is not taken for a new build."""
SHARD_FORMAT = 4
"""Raised only when the same inputs would give other bytes of a shard: then none of an older version serves again."""
WRITTEN, EMPTY, TOMBSTONE = "written", "empty", "tombstone"


@dataclass(frozen=True)
class Writing:
    """What all shards of a version share. folder: of the version. labelled: the pool, with its calibration and the
    images to leave out. parents: whose shards are looked at in turn. tombstones: keys of
    removed images that are written all the same, for a repair; None: the parents' shards tell. overrides: by SHA-256 of
    their image. balance: images kept of each class of the whole pool, where `keep.balance` repeats and thins them.
    form: of its images. tars: where its images go, if they are shared."""

    folder: Path
    labelled: LabelledPool
    thresholds: Thresholds
    drop_empty: bool
    form: Form
    parents: tuple[Parent, ...] = ()
    tombstones: frozenset[str] | None = None
    overrides: Mapping[str, Sequence[Override]] = field(default_factory=dict)
    kind: LabelKind = DETECTION
    balance: tuple[int, ...] | None = None
    tars: ImageTars | None = None

    @property
    def writer(self) -> Kind:
        """How labels of its kind are written."""
        return cut_kind(self.kind.name)

    @cached_property
    def rules(self) -> str:
        """Digest of what, beside the images, decides what is written of them."""
        unset = {"classes"} if self.labelled.keep.classes is None else set()  # so that older shards still serve
        keep = self.labelled.keep.model_dump(exclude={*RULES, "ignore", "calibration", *unset})
        calibrate = self.labelled.calibrate
        sides = [
            np.where(np.isfinite(side), side, -1).tolist() for side in (self.thresholds.keep, self.thresholds.ignore)
        ]
        decisive = [SHARD_FORMAT, self.labelled.predictions.name, keep, sides, self.thresholds.top_box, self.drop_empty]
        decisive += [self.form.extension, calibrate.model_dump() if calibrate else None]
        if self.balance is not None and self.labelled.keep.balance:
            decisive.append([self.labelled.keep.balance.images, list(self.balance)])
        if self.form.strip:
            decisive.append("strip_metadata")
        if self.form.reading != PLAIN:
            decisive.append(self.form.reading.description)
        return digest(decisive)


@dataclass(frozen=True)
class ShardJob:
    """All that one worker needs to write one shard. chunks: of the pool."""

    number: int
    chunks: range
    writing: Writing

    @property
    def name(self) -> str:
        return shard_name(self.number)

    @property
    def path(self) -> Path:
        """Of its tar."""
        return self.writing.folder / DATA / self.name

    @property
    def record(self) -> Path:
        """Says, once it is there, that the shard is complete, and what is in it."""
        return self.writing.folder / WORK / f"{self.number:06d}.json"

    @property
    def labels(self) -> Path:
        """This shard's part of labels.parquet."""
        return self.record.with_suffix(".parquet")

    @property
    def index(self) -> Path:
        """This shard's part of index.parquet."""
        return self.record.with_suffix(".index.parquet")

    @property
    def images(self) -> list[PoolImage]:
        """Of its chunks, removed ones included."""
        pool = self.writing.labelled.pool
        return [image for chunk in pool.chunks(self.chunks.start, self.chunks.stop) for image in chunk.images]

    @property
    def is_done(self) -> bool:
        """Whether its record is there, with the image tars that it needs, and images that were other than scanned when
        it was written still are."""
        if not self.record.exists():
            return False
        result, tars = self.result(), self.writing.tars
        if tars and result.shard and not all(map(tars.holds, result.shard.images)):
            return False
        changed = result.changed
        return not changed or changed.keys() == others(i for i in self.images if i.sha256 in changed).keys()

    def result(self) -> ShardResult:
        """Of a shard that is complete."""
        return ShardResult.read(self.record)


def write_job(job: ShardJob, stop: Event) -> int:
    """Write a shard, its parts of labels.parquet and index.parquet and, last, the record that says so. Returns its
    images.

    If the parent version has the same shard, its file is taken as it is, with images that were removed since: their
    keys become tombstones. Images that the disk has changed since they were scanned are left out.
    """
    writing = job.writing
    chunks = list(writing.labelled.pool.chunks(job.chunks.start, job.chunks.stop))
    images = [image for chunk in chunks for image in chunk.images]
    changed: dict[str, str] = {}
    while True:
        try:
            chosen, written = _write(job, chunks, images, changed, stop)
            break
        except OtherBytes as error:
            changed |= error.names
    soft = writing.writer.remember(chosen.labelled, chunks, chosen.made)
    write_labels(job.labels, writing.kind, [image.key for image in images], chosen.made, soft)
    if written:
        write_part(job.index, written.tar.rows)
    objects = chosen.made.objects
    there = ~np.isin(objects.image, chosen.tombstones)
    ShardResult(
        shard=_shard_record(job, written, chosen) if written else None,
        tombstones=[key for n in chosen.tombstones for key in chosen.keys(n, images)],
        images=Counter(chosen.fate),
        overrides=_settled(chosen, images),
        reasons=_number(chosen.made.decision.reason, there, objects.pixels, len(REASONS)),
        per_class=_per_class(chosen, there, len(writing.labelled.classes)),
        changed=changed,
    ).write(job.record)
    return len(images)


def _write(
    job: ShardJob, chunks: Sequence[Chunk], images: Sequence[PoolImage], changed: Mapping[str, str], stop: Event
) -> tuple[_Chosen, Written | None]:
    """What is made of a shard's images without those that changed, and the shard that was written or taken over, None
    if no image is in it. Raises OtherBytes for more images that changed: for all of them, or the shard would be begun
    again for each."""
    writing = job.writing
    known = writing.tombstones
    gone = frozenset(image.sha256 for image in images if known and image.key in known)
    chosen = _choose(writing, images, chunks, gone, changed)
    for parent in writing.parents:
        shard = parent.shards.get(job.name)
        if shard is None or shard.chunks != (job.chunks.start, job.chunks.stop):
            continue
        if known is None:
            gone = parent.still_there(job.name, images)
        with_gone = chosen if gone == chosen.gone else _choose(writing, images, chunks, gone, changed)
        if with_gone.inputs == shard.inputs and (taken := parent.take(shard, job.path, writing.tars)):
            return with_gone, taken
    if not chosen.places:
        return chosen, None
    if writing.form.stored:
        for parent in writing.parents:
            parent.check(job.name)
    said = until(stop, _said(writing, chunks, images, chosen))
    try:
        if not writing.tars:
            return chosen, write_inside(job.path, said, writing.form)
        needed = {images[place].key for place in chosen.places}
        used = [chunk for chunk in chunks if any(image.key in needed for image in chunk.images)]
        tars = [image_tar(writing.tars, chunk, writing.form, needed, changed) for chunk in until(stop, used)]
        return chosen, write_shared(job.path, said, writing.form, tars)
    except OtherBytes as error:
        raise OtherBytes(error.names | others(images[place] for place in chosen.places)) from None


@dataclass(frozen=True)
class _Chosen:
    """What rules and people make of a shard's images. labels: of the teacher's objects, with `image`, before anybody
    changed them. gone: SHA-256 of removed images that count as if they were there. fate: what becomes of each image.
    places: of those that are written. inputs: digest of all that decides the bytes. repeats: how many samples an image
    becomes, where that is not one, by its position. labelled: as it was looked at."""

    made: Overruled
    label: np.ndarray
    image: np.ndarray
    pixels: np.ndarray | None
    labelled: LabelledPool
    repeats: Mapping[int, int]
    gone: frozenset[str]
    fate: list[str]
    places: list[int]
    inputs: str

    @property
    def tombstones(self) -> list[int]:
        return [n for n in self.places if self.fate[n] == TOMBSTONE]

    def keys(self, place: int, images: Sequence[PoolImage]) -> list[str]:
        """Of the samples that an image becomes."""
        return [copy_key(images[place].key, number) for number in range(self.repeats.get(place, 1))]


def _choose(
    writing: Writing,
    images: Sequence[PoolImage],
    chunks: Sequence[Chunk],
    gone: frozenset[str],
    changed: Mapping[str, str],
) -> _Chosen:
    excluded = {**dict.fromkeys(changed, CHANGED), **writing.labelled.excluded}
    labelled = replace(writing.labelled, revived=gone, excluded=excluded)
    objects, decision, states = writing.writer.decide(labelled, chunks, writing.thresholds)
    overrides = {
        n: writing.overrides[image.sha256]
        for n, image in enumerate(images if writing.overrides else ())
        if states[n] == OK and image.sha256 in writing.overrides
    }
    made = writing.writer.overrule(objects, decision, overrides, labelled.classes)
    repeats: Mapping[int, int] = {}
    if writing.balance is not None and labelled.keep.balance:
        keys = [image.key for image in images]
        made, repeats = balanced(made, keys, labelled.keep.balance.images, writing.balance)
    kept = np.bincount(made.objects.image[made.decision.outcome == KEPT], minlength=len(states))
    drop_empty = writing.drop_empty or writing.kind.single  # no class, no `cls`
    places = [n for n, state in enumerate(states) if state == OK and (kept[n] or not drop_empty)]
    written = set(places)
    fate = [
        state if state != OK else REMOVED if image.state == REMOVED else EMPTY
        for state, image in zip(states, images, strict=True)
    ]
    for n in written:
        fate[n] = TOMBSTONE if images[n].state == REMOVED else WRITTEN
    samples = [[images[n].key, images[n].name, images[n].sha256, *map(asdict, overrides.get(n, ()))] for n in places]
    inputs = hashlib.sha256(writing.rules.encode() + orjson.dumps(samples)).hexdigest()
    return _Chosen(made, objects.label, objects.image, objects.pixels, labelled, repeats, gone, fate, places, inputs)


def _settled(chosen: _Chosen, images: Sequence[PoolImage]) -> list[tuple[dict[str, Any], str]]:
    """The overrides of these images, tombstoned ones left out, JSON-ready, with the image's key; and what became of
    each."""
    gone = {images[n].sha256 for n in chosen.tombstones}
    keys = {image.sha256: image.key for image in images}
    return [
        (asdict(override) | {"key": keys[override.sha256]}, state)
        for override, state in chosen.made.states.items()
        if override.sha256 not in gone
    ]


def _per_class(chosen: _Chosen, there: np.ndarray, classes: int) -> dict[str, list[int]]:
    """Objects by outcome and class. there: bool (N,), those that are on no tombstoned image."""
    objects, decision = chosen.made.objects, chosen.made.decision
    rows = {
        "predicted": (chosen.label, ~np.isin(chosen.image, chosen.tombstones), chosen.pixels),
        "kept": (objects.label, there & (decision.outcome == KEPT), objects.pixels),
        "ignored": (objects.label, there & (decision.outcome == IGNORED), objects.pixels),
    }
    return {name: _number(label, mask & (label >= 0), pixels, classes) for name, (label, mask, pixels) in rows.items()}


def _number(values: np.ndarray, rows: np.ndarray, pixels: np.ndarray | None, length: int) -> list[int]:
    """How often each value occurs among these rows; of maps in pixels."""
    numbers: list[int] = counted(values[rows], None if pixels is None else pixels[rows], length).tolist()
    return numbers


def _shard_record(job: ShardJob, written: Written, chosen: _Chosen) -> ShardRecord:
    def count(places: Sequence[int], code: int) -> int:
        rows = (chosen.made.decision.outcome == code) & np.isin(chosen.made.objects.image, places)
        pixels = chosen.made.objects.pixels
        return int(rows.sum() if pixels is None else pixels[rows].sum(dtype=np.int64))

    return ShardRecord(
        name=job.name,
        bytes=written.tar.bytes,
        sha256=written.tar.sha256,
        samples=written.tar.samples,
        kept=count(chosen.places, KEPT),
        ignored=count(chosen.places, IGNORED),
        tombstones=sum(chosen.repeats.get(n, 1) for n in chosen.tombstones),
        skipped_kept=count(chosen.tombstones, KEPT),
        skipped_ignored=count(chosen.tombstones, IGNORED),
        contents=contents_of(written.tar.rows),
        chunks=(job.chunks.start, job.chunks.stop),
        inputs=chosen.inputs,
        **written.shared,
    )


def _said(writing: Writing, chunks: Sequence[Chunk], images: Sequence[PoolImage], chosen: _Chosen) -> Iterator[Said]:
    """The samples: of each its label JSON, and what else its kind has."""
    kind = writing.kind
    labels = writing.writer.samples(chosen.labelled, chunks, writing.thresholds, chosen.made, chosen.places)
    for place, (fields, rest) in zip(chosen.places, labels, strict=True):
        if writing.form.stored and not images[place].bytes:
            raise not_here(images[place].key, writing.parents[0].version.ref)
        more: list[Part] = [(kind.member, rest)] if kind.member else []
        for number, key in enumerate(chosen.keys(place, images)):
            yield Said(images[place], key, ({"copy": number} if kind.single else {}) | fields, more)

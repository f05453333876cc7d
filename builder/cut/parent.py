"""A version that another one goes on from, and what follows from it for the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from builder.cut.left_out import LeftOut, read_left_out, settle
from builder.cut.results import Written
from builder.errors import BuildError
from builder.recipe.recipe import ShardOptions
from builder.scan.duplicates import Settled
from builder.scan.pool import REMOVED, Pool, PoolImage, read_pool
from builder.store.files import make_folder, new_file, sha256_file, sync_folder
from builder.store.index import contents_of, follow, rows_of_shard
from builder.store.manifest import MANIFEST
from builder.store.provenance import SOLVED_AGAIN, TAKEN_OVER, Inputs, ParentRecord
from builder.store.shards import SampleRow, ShardFile, ShardRecord
from builder.store.shared.tars import ImageTars
from builder.store.store import Store
from builder.store.version import INDEX, LEFT_OUT, Version


@dataclass(frozen=True)
class Parent:
    """A version whose shards may serve again, and its shards by name. renewed: keys of images whose bytes changed
    since, so that the key stands for another image now and the old sample may not stay."""

    version: Version
    shards: Mapping[str, ShardRecord]
    renewed: frozenset[str] = frozenset()

    def still_there(self, name: str, images: Sequence[PoolImage]) -> frozenset[str]:
        """SHA-256 of removed images whose samples lie in the shard of this name. Raises BuildError if that is damaged:
        who knows which do."""
        removed = {image.key: image.sha256 for image in images if image.state == REMOVED}
        if not removed:
            return frozenset()
        keys = [sample.key for sample in self.version.samples(self.shards[name])]
        return frozenset(removed[key] for key in keys if key in removed and key not in self.renewed)

    def check(self, name: str) -> None:
        """Raise BuildError if a shard that images are taken from is not what the manifest says."""
        record = self.shards[name]
        files = [(self.version.image_tars.path(tar.name), tar.sha256) for tar in record.images]
        for path, sha256 in files or [(self.version.data / name, record.sha256)]:
            if not path.is_file() or sha256_file(path) != sha256:
                raise BuildError(f"{path} is missing or damaged: put {self.version.ref} there again from where it came")

    def take(self, record: ShardRecord, target: Path, tars: ImageTars | None) -> Written | None:
        """Link a shard into place, or the labels of one that shares its images; None if it is not what the manifest
        says, or of the other kind. target: the shard's tar; tars: where the images are, if they are to be shared."""
        labels = record.labels
        if bool(labels) != bool(tars) or not all(tars and tars.holds(tar) for tar in record.images):
            return None
        source = self.version.data / (labels.name if labels else record.name)
        if not source.is_file() or sha256_file(source) != (labels.sha256 if labels else record.sha256):
            return None
        rows = self._rows(record, source)
        if rows is None:
            return None
        _link(source, target.with_name(source.name))
        file = ShardFile(record.samples, record.bytes, record.sha256, tuple(rows))
        return Written(file, labels, tuple(record.images))

    def _rows(self, record: ShardRecord, source: Path) -> list[SampleRow] | None:
        """What the index says of a shard, or, where there is none or it is damaged, the shard itself; None for one that
        shares its images."""
        if self.version.has(INDEX):
            with suppress(BuildError):
                rows = self.version.rows(record)
                if contents_of(rows) == record.contents and follow(rows, record.bytes):
                    return rows
        return None if record.labels else rows_of_shard(source)


def _link(source: Path, target: Path) -> None:
    make_folder(target.parent)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)  # versions never change: both may be the same file
    except OSError:
        with open(source, "rb") as old, new_file(target) as file:
            shutil.copyfileobj(old, file)
    sync_folder(target.parent)  # before the record says that it is there


OF = " of "
"""Between the name of a reference and the parent version it was taken over from."""


@dataclass(frozen=True)
class ParentVersion(Version):
    """A version to go on from, the pool it was cut from, and their store."""

    pool: Pool
    store: Store = field(repr=False)

    @property
    def inputs(self) -> Inputs:
        """Of its build (Basis.inputs)."""
        return self.manifest.provenance.inputs

    def record(self, taken_over: bool) -> ParentRecord:
        """What the other's manifest says of it. taken_over: whether its thresholds are."""
        thresholds = TAKEN_OVER if taken_over else SOLVED_AGAIN
        return ParentRecord(
            version=self.ref,
            id=self.manifest.id,
            manifest=self.manifest.pin,
            pool=self.pool.id,
            thresholds=thresholds,
        )

    @cached_property
    def references(self) -> dict[str, Pool]:
        """The sets that had to stay out of it. Raises BuildError if one is no longer in the store."""
        pools = {}
        for name, id in sorted(self.inputs.references.items()):
            try:
                pools[name if OF in name else f"{name}{OF}{self.ref}"] = read_pool(self.store, id)
            except BuildError:
                raise BuildError(
                    f"pool {id[:12]}, the {name} images of parent {self.ref}, is gone, so leaks of them would pass: "
                    f"give it as {name.partition(OF)[0]} in the recipe to scan it again, or set resolve: true"
                ) from None
        return pools

    def read_left_out(self) -> LeftOut:
        """What it left out. Raises BuildError if the file is not what it was."""
        if not self.has(LEFT_OUT):
            return LeftOut({}, {})
        if not self.is_intact(LEFT_OUT):
            raise BuildError(f"{self.left_out} is damaged: run `tutelage verify --repair {self.ref}` first")
        return read_left_out(self.left_out)


def find_parent(ref: str, store: Store, id: str = "", pin: str = "") -> ParentVersion:
    """The version to go on from, with its pool. Raises BuildError if either is not in the store, or not of this id and
    with this `Manifest.pin`, where they are given."""
    version = store.version(ref)
    manifest = version.manifest
    if id and id != manifest.id:
        raise BuildError(f"parent {ref} has id {manifest.id[:12]}, not {id[:12]}: it is another version")
    if pin and pin != manifest.pin:
        raise BuildError(f"parent {ref} has another manifest than when it was built on: it was edited, so restore it")
    if not manifest.provenance.plan:
        raise BuildError(f"parent {ref} was built by an older Tutelage: build it again, then go on from that")
    return ParentVersion(
        version.folder, manifest, read_pool(store, manifest.provenance.inputs.pool), store, trust=version.trust
    )


REVIEWED = {"parent", "resolve", "references", "overrides"}
"""Inputs in which a version that a review made differs from the one that was reviewed."""


def made_by_review(store: Store, name: str, inputs: Inputs) -> Version | None:
    """The version that a review has made already of what a build with these inputs would make anew: of the same
    inputs, but for the overrides that are in force now, with thresholds taken over that would be solved again."""
    folders = [folder for folder in store.versions(name) if (folder / MANIFEST).is_file()]
    versions = [Version.open(folder) for folder in folders] if inputs.overrides and not inputs.parent else []
    for place, version in reversed([*enumerate(versions)]):
        made = version.manifest.provenance
        if made.inputs.overrides != inputs.overrides:
            continue
        earlier = {older.manifest.id: older.manifest.provenance for older in versions[:place]}
        while made.parent and made.parent.taken_over and made.parent.id in earlier:
            before = earlier.pop(made.parent.id)  # once: a version may say the same as the one before it
            if made.inputs.stored(exclude=REVIEWED) != before.inputs.stored(exclude=REVIEWED):
                break
            made = before
        is_of_review = made is not version.manifest.provenance
        if is_of_review and made.inputs.stored(exclude={"overrides"}) == inputs.stored(exclude={"overrides"}):
            return version
    return None


def settled_by(parent: ParentVersion, pool: Pool, near: int | None) -> Settled | None:
    """Near-duplicates of `pool` as the parent decided them, so that its shards stay as they are even where the image
    is gone that another looked like; None where it asked for another distance."""
    if near is None or parent.inputs.images.near_duplicates != near:
        return None
    return settle(pool, parent.pool, parent.read_left_out())


def ranges(pool: Pool, options: ShardOptions, parent: ParentVersion | None) -> Iterator[range]:
    """The chunks of each shard: the parent's shards where its pool's chunks are the first of this one's, then whole
    consecutive chunks, as many as fit into original image bytes and images, at least one."""
    start = 0
    if parent:
        plan = parent.manifest.provenance.plan
        last = plan[-1][1] if plan else 0
        before, now = ([chunk.digest for chunk in side.index[:last]] for side in (parent.pool, pool))
        if before == now:
            yield from (range(first, stop) for first, stop in plan)
            start = last
    size = images = 0
    for n, chunk in enumerate(pool.index[start:], start):
        size, images = size + chunk.bytes, images + chunk.images
        if n > start and (size > options.max_mb * 1_000_000 or images > options.max_images):
            yield range(start, n)
            start, size, images = n, chunk.bytes, chunk.images
    if start < len(pool.index):
        yield range(start, len(pool.index))

"""How a complete version was made: from its manifest and the store, for whoever makes it or one like it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.cut.basis import Basis
from builder.cut.left_out import LeftOut, find_left_out, read_left_out
from builder.cut.parent import ParentVersion, find_parent, settled_by
from builder.cut.samples import Writing
from builder.cut.version import Cut, cut_version, parent_shards
from builder.engine import Track, silent
from builder.errors import BuildError
from builder.kinds import kind_of
from builder.recipe.recipe import Recipe
from builder.rules.calibrator import Calibrator
from builder.rules.keep import Keep
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Thresholds
from builder.rules.overrides import Override, by_image, load_overrides, overrides_digest, read_overrides
from builder.scan.pool import Pool, read_pool
from builder.store.manifest import Manifest
from builder.store.provenance import ParentRecord
from builder.store.store import Store
from builder.store.version import LEFT_OUT, OVERRIDES, Version


@dataclass(frozen=True)
class MadeBy:
    """What decided on the labels of a complete version. predictions: the teacher's folder, which may be gone."""

    keep: Keep
    thresholds: Thresholds
    calibrate: Calibrator | None
    predictions: Path
    classes: tuple[str, ...]

    def labelled(self, pool: Pool, excluded: Mapping[str, str] | None = None) -> LabelledPool:
        """A pool with the teacher's predictions as the version's rules see them. excluded: see LabelledPool."""
        return LabelledPool(pool, self.predictions, self.classes, self.keep, self.calibrate, excluded or {})


def made_by(manifest: Manifest, store: Store) -> MadeBy:
    """The rules and the teacher of a version, from its manifest."""
    provenance, classes = manifest.provenance, tuple(manifest.classes)
    keep = Keep.model_validate(provenance.inputs.keep)
    return MadeBy(
        keep,
        keep.limits(provenance.thresholds, classes),
        Calibrator.model_validate(provenance.calibration) if provenance.calibration else None,
        store.predictions / provenance.inputs.predictions,
        classes,
    )


@dataclass(frozen=True)
class Recalled:
    """What a complete version was written with, into no folder yet, what it left out, and what people had said."""

    writing: Writing
    left_out: LeftOut
    overrides: list[Override]


def recall(version: Version, store: Store) -> Recalled:
    """How a complete version was made, from its manifest and the store. Shards that serve are looked for in itself and
    in its parent; without the parent, all is built from the pool. Raises BuildError if the pool is gone."""
    manifest, inputs = version.manifest, version.manifest.provenance.inputs
    pool, made = read_pool(store, inputs.pool), made_by(manifest, store)
    parent = _parent(manifest.provenance.parent, store)
    left_out = _left_out(version, store, pool, parent)
    overrides = _overrides(version, store)
    writing = Writing(
        Path(),
        made.labelled(pool, left_out.states),
        made.thresholds,
        inputs.images.drop_empty,
        manifest.features[0],
        tuple(parent_shards(each, pool) for each in (version, parent) if each),
        frozenset(manifest.tombstones),
        overrides=by_image(overrides),
        kind=kind_of(manifest.kind),
        balance=manifest.provenance.balance,
    )
    return Recalled(writing, left_out, overrides)


def _overrides(version: Version, store: Store) -> list[Override]:
    """As the version's own file says, or as they are in force still."""
    if not version.has(OVERRIDES):
        return []
    if version.is_intact(OVERRIDES):
        return load_overrides(version.overrides)
    overrides = read_overrides(store, version.manifest.name)
    if overrides_digest(overrides) != version.manifest.provenance.inputs.overrides:
        raise BuildError(
            f"{version.overrides} is damaged, and the overrides in force are others by now: restore it from a copy"
        )
    return overrides


def _parent(record: ParentRecord | None, store: Store) -> ParentVersion | None:
    """The parent, unless it was removed."""
    try:
        return find_parent(record.version, store, record.id) if record else None
    except BuildError:
        return None


def _left_out(version: Version, store: Store, pool: Pool, parent: ParentVersion | None) -> LeftOut:
    """As the version's own file says, or found again."""
    if not version.has(LEFT_OUT):
        return LeftOut({}, {})
    if version.is_intact(LEFT_OUT):
        return read_left_out(version.left_out)
    inputs = version.manifest.provenance.inputs
    references = {name: read_pool(store, id) for name, id in inputs.references.items()}
    near = inputs.images.near_duplicates
    settled = settled_by(parent, pool, near) if parent and not inputs.resolve else None
    return find_left_out(pool, references, inputs.gates.leak_distance, near, settled)


def new_version(
    store: Store, version: Version, workers: int | None, track: Track = silent, *, report: bool = True
) -> Cut:
    """The version that comes of a complete one with the overrides that are in force now: the same recipe, thresholds
    taken over, shards that no override touches linked. Made from the manifest and the store alone.

    Raises BuildError if the version is not the store's own, or the store no longer holds what it was made of.
    """
    with store.in_use():
        return _cut_again(store, version, workers, track, report)


def _cut_again(store: Store, version: Version, workers: int | None, track: Track, report: bool) -> Cut:
    manifest, ref = version.manifest, version.ref
    home = store.datasets / manifest.name / manifest.version
    if version.folder.resolve() != home.resolve():
        raise BuildError(
            f"{version.folder} is no version of {store.root}: build it there, then its overrides can make another"
        )
    try:
        parent = find_parent(ref, store, manifest.id)
    except BuildError as error:
        raise BuildError(
            f"{ref} cannot be cut again here, since what it was made of is gone or was never here ({error}): the "
            "overrides are kept for a build of its recipe"
        ) from None
    predictions = store.predictions / parent.inputs.predictions
    if not predictions.is_dir():
        raise BuildError(
            f"{ref} cannot be cut again here, since the store lacks its predictions {predictions.name[:12]}: the "
            "overrides are kept for a build of its recipe"
        )
    written = Recipe.model_validate({**manifest.provenance.recipe, "parent": ref, "resolve": False, "review": True})
    basis = Basis(
        parent.pool,
        predictions,
        written,
        manifest.provenance.teacher.spec,
        parent=parent,
        overrides=tuple(read_overrides(store, manifest.name)),
    )
    return cut_version(basis, store, name=manifest.name, workers=workers, report=report, track=track)

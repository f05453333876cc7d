"""How a complete version was made: from its manifest and the store, for whoever makes it or one like it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from builder.cut.basis import Basis, overrides_in_force
from builder.cut.from_version import FromVersion
from builder.cut.images import Form
from builder.cut.left_out import LeftOut, find_left_out, read_left_out
from builder.cut.parent import ParentVersion, find_parent, settled_by
from builder.cut.restored import check_restorable, restore
from builder.cut.samples import EMPTY, Writing
from builder.cut.version import Cut, cut_version, parent_shards
from builder.engine import Track, silent
from builder.errors import BuildError
from builder.kinds import kind_of
from builder.recipe.reading import explain, with_settings
from builder.recipe.recipe import recipe_of
from builder.rules.calibrator import Calibrator, calibrator_of
from builder.rules.keep import RULES, Keep, keep_of
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Thresholds
from builder.rules.overrides import (
    Override,
    adopt,
    by_image,
    load_overrides,
    overrides_digest,
    read_overrides,
)
from builder.scan.pool import Pool, read_pool
from builder.store.manifest import Manifest
from builder.store.provenance import ParentRecord
from builder.store.store import Store
from builder.store.version import CLAIM, LEFT_OUT, OVERRIDES, Version, check_here

RECUT = ("score", "top_box", "mixture")
"""Sources of thresholds that need nothing but scores."""


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
    keep = keep_of(manifest)
    return MadeBy(
        keep,
        keep.limits(provenance.thresholds, classes),
        calibrator_of(manifest),
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
        Form(manifest.features[0], False, inputs.shards.strip_metadata, inputs.images.reading),
        tuple(parent_shards(each, pool) for each in (version, parent) if each),
        frozenset(manifest.tombstones),
        overrides=by_image(overrides),
        kind=kind_of(manifest.kind),
        balance=manifest.provenance.balance,
        tars=version.image_tars if manifest.is_shared else None,
    )
    return Recalled(writing, left_out, overrides)


def _overrides(version: Version, store: Store) -> list[Override]:
    """As the version's own file says, or as they are in force still."""
    if not version.has(OVERRIDES):
        return []
    if version.is_intact(OVERRIDES):
        return load_overrides(version.overrides)
    overrides = read_overrides(store, version.dataset)
    if overrides_digest(overrides) != version.manifest.provenance.inputs.overrides:
        raise BuildError(
            f"{version.overrides} is damaged, and the overrides in force are others by now: restore it from a copy"
        )
    return overrides


def _parent(record: ParentRecord | None, store: Store) -> ParentVersion | None:
    """The parent, unless it was removed."""
    try:
        return find_parent(record.version, store, record.id, record.manifest) if record else None
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
    left_out = find_left_out(pool, references, inputs.gates.leak_distance, near, settled)
    if not inputs.changed:
        return left_out
    changed = {*inputs.changed}
    return left_out.with_changed({image.sha256: image.name for image in pool.images() if image.sha256 in changed})


def new_version(
    store: Store,
    version: Version,
    workers: int | None,
    track: Track = silent,
    *,
    report: bool = True,
    message: str = "",
) -> Cut:
    """The version that comes of a complete one with the overrides that are in force now: the same recipe, thresholds
    taken over, shards that no override touches linked. Made from the manifest and the store; where the store lacks its
    pool or predictions, as where it was pulled, from the version itself, which gives the same shards.
    message: what it is for.

    Raises BuildError if the version is not the store's own, and as `check_cut_again`.
    """
    with store.in_use(), basis_again(store, version, workers) as basis:
        return cut_version(
            basis, store, name=version.dataset, workers=workers, report=report, message=message, track=track
        )


def recut(
    version: Version,
    store: Store,
    settings: Sequence[str],
    *,
    workers: int | None = None,
    report: bool = True,
    allow_empty: bool = False,
    message: str = "",
    track: Track = silent,
) -> Cut:
    """Cut a version with other rules, as a child of one that is there; where the store lacks what that was made of,
    among the images that are in it (see `lacks`).

    Args:
        version: the one to go on from.
        store: holds it, and gets the new one.
        settings: `keep.KEY=VALUE` each. A new source of thresholds takes the place of the old one; it must need no
            human labels (RECUT).
        workers: threads; None for one a core.
        report: whether it gets a report page.
        allow_empty: write a version in which the rules keep nothing, too.
        message: what it is for, in the store's history.
        track: shows how far it is.

    Returns:
        The new version.

    Raises:
        BuildError: rules that cannot be, or that need what is not there; and as `check_cut_again`.
    """
    keep = changed_rules(version, settings)
    with store.in_use(), basis_again(store, version, workers, keep=keep.model_dump(), resolve=True) as basis:
        return cut_version(
            basis,
            store,
            name=version.dataset,
            workers=workers,
            report=report,
            allow_empty=allow_empty,
            message=message,
            track=track,
        )


def changed_rules(version: Version, settings: Sequence[str]) -> Keep:
    """The rules of a version with these settings. Raises BuildError as `recut`."""
    content: dict[str, Any] = {"keep": dict(version.manifest.provenance.inputs.keep)}
    for setting in settings:
        key = setting.partition("=")[0].split(".")
        if key[0] != "keep" or len(key) < 2:
            raise BuildError(f"--set {setting!r} is no rule: give keep.KEY=VALUE, such as keep.score=0.6")
        if key[1] in RULES:
            content["keep"] |= {name: None for name in RULES if name != key[1]}
        with_settings(content, setting)
    try:
        keep = Keep.model_validate(content["keep"])
    except ValidationError as error:
        raise BuildError(f"the rules of {version.ref} with these settings cannot be: {explain(error, Keep)}") from None
    before = keep_of(version.manifest)
    if keep.rule not in RECUT or keep.calibration != "none" or keep.classes != before.classes:
        raise BuildError(
            f"a version is cut again by {', '.join(f'keep.{name}' for name in RECUT)}, without calibration and with "
            "the same classes: all else needs human labels or the teacher, so build its recipe"
        )
    return keep


def check_cut_again(store: Store, version: Version) -> None:
    """Raise BuildError for a version of which corrections can make no other in this store: to be asked before people
    begin."""
    check_here(version)
    home = store.datasets / version.dataset / version.folder.resolve().name
    if version.folder.resolve() != home.resolve():
        raise BuildError(
            f"{version.folder} is no version of {store.root}: build or pull it there, then its corrections can make "
            "another"
        )
    if not is_at_home(store, version):
        check_restorable(version)


def adopt_overrides(store: Store, version: Version) -> None:
    """Put what people said of a version elsewhere, before it was pulled, into force here, too; what people of this
    store said of the same objects comes after it."""
    if (version.folder / CLAIM).is_file() or not version.has(OVERRIDES):
        return  # it was built here: they are in force already, as far as nobody took them back
    adopt(store, version.dataset, load_overrides(version.overrides))


def is_at_home(store: Store, version: Version) -> bool:
    """Whether the store has what a version was made of: its pool, and the teacher's predictions of all of it."""
    inputs = version.manifest.provenance.inputs
    if not inputs.pool or inputs.pool not in store.match(store.pools, inputs.pool):
        return False
    predictions = store.predictions / inputs.predictions
    return all((predictions / chunk.digest).is_dir() for chunk in read_pool(store, inputs.pool).index)


def lacks(store: Store, version: Version) -> str:
    """What nobody can correct of a version in a store that has not what it was made of, in one sentence; "" where all
    can be."""
    if is_at_home(store, version):
        return ""
    manifest = version.manifest
    if kind_of(manifest.kind).pixels:
        parts = ["what the teacher said of void pixels"]
    else:
        count = manifest.images.get(EMPTY, 0)
        parts = [f"the pictures of {count} images on which nothing was kept"] if count else []
    parts += ["the human labels behind its thresholds"] if manifest.provenance.truth else []
    if not parts:
        return ""
    return (
        f"{version.ref} was made elsewhere: what is made of it is cut from its own shards, in which "
        f"{' and '.join(parts)} are not"
    )


@contextmanager
def basis_again(store: Store, version: Version, workers: int | None = None, **changes: Any) -> Iterator[Basis]:
    """What a complete version is made from again, with the overrides that are in force now, while the block is open.
    changes: of its recipe. Raises BuildError as `check_cut_again`."""
    check_cut_again(store, version)
    manifest, ref = version.manifest, version.ref
    recipe = recipe_of(manifest, **{"parent": ref, "resolve": False, "review": True, **changes})
    spec = manifest.provenance.teacher.spec
    predictions = store.predictions / manifest.provenance.inputs.predictions
    adopt_overrides(store, version)
    overrides = overrides_in_force(store, version.dataset)
    if is_at_home(store, version):
        parent = find_parent(ref, store, manifest.id)
        yield Basis(parent.pool, predictions, recipe, spec, parent=parent, overrides=overrides)
        return
    left_out = read_left_out(version.file(LEFT_OUT)) if version.has(LEFT_OUT) else LeftOut({}, {})
    with TemporaryDirectory(prefix="tutelage-") as folder:
        restored = restore(version, left_out, Path(folder), workers)
        parent = ParentVersion(version.folder, manifest, restored.pool, store, trust=version.trust)
        yield FromVersion(
            restored.pool,
            predictions,
            recipe,
            spec,
            parent=parent,
            overrides=overrides,
            restored=restored,
            restored_left_out=left_out,
        )

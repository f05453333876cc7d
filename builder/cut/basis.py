"""All that a version is made from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.cut.left_out import LeftOut, find_left_out
from builder.cut.parent import OF, ParentVersion, settled_by
from builder.cut.samples import FORMAT
from builder.errors import BuildError
from builder.evidence.holdout import EVIDENCE, Labels
from builder.label.meta import read_meta
from builder.label.predictions import read_failures
from builder.recipe.recipe import Recipe
from builder.rules.calibrator import Calibrator
from builder.rules.keep import version_classes
from builder.rules.labelled import LabelledPool
from builder.rules.overrides import Override, overrides_digest, overrides_path, read_overrides
from builder.scan.pool import Pool
from builder.store.files import digest
from builder.store.history import read_history
from builder.store.manifest import MANIFEST, read_manifest
from builder.store.provenance import GateInputs, ImageInputs, Inputs, ShardInputs
from builder.store.store import Store
from builder.store.version import OVERRIDES
from teachers.base import Kind
from teachers.errors import warn


@dataclass(frozen=True)
class Basis:
    """The pool, predictions, rules and labels of a version.

    Args:
        pool: its images.
        predictions: the folder of a teacher's predictions of them and of human labels.
        options: the recipe; of it the rules, gates and what becomes of images and shards.
        spec: what names the teacher, for people to read.
        truth: human labels to calibrate and certify on.
        references: the sets that must stay out of the pool, by name (labelled, truth, test).
        parent: the version that this one goes on from.
        trained_on: SHA-256, hex, of the images that the teacher says it was trained on.
        overrides: what people said of the dataset's objects, sorted.
    """

    pool: Pool
    predictions: Path
    options: Recipe
    spec: str
    truth: Labels | None = None
    references: Mapping[str, Pool] = field(default_factory=dict)
    parent: ParentVersion | None = None
    trained_on: frozenset[str] = frozenset()
    overrides: tuple[Override, ...] = ()

    @property
    def stored(self) -> bool:
        """Whether the images lie in a version's shards, as they are to be written."""
        return False

    @property
    def meta(self) -> dict[str, Any]:
        return read_meta(self.predictions)

    @property
    def classes(self) -> tuple[str, ...]:
        return version_classes(self.options.keep, self.meta["description"])

    @property
    def kind(self) -> Kind:
        kind: Kind = self.meta["description"]["kind"]
        return kind

    @property
    def floor(self) -> float:
        return float(self.meta["description"]["floor"])

    @property
    def takes_over(self) -> bool:
        """Whether thresholds are the parent's."""
        return self.parent is not None and not self.options.resolve

    @property
    def guarded(self) -> dict[str, Pool]:
        """All sets that must stay out: `references`, and those behind thresholds that are taken over."""
        known = {pool.id for pool in self.references.values()}
        inherited = self.parent.references if self.parent and self.takes_over else {}
        return {**self.references, **{name: pool for name, pool in inherited.items() if pool.id not in known}}

    def inputs(self) -> Inputs:
        """All that decides a version.

        Raises BuildError if chunks of the pool have no predictions.
        """
        options = self.options
        unset = {"classes"} if options.keep.classes is None else set[str]()  # so that older versions are found
        return Inputs(
            format=FORMAT,
            pool=self.pool.id,
            predictions=self.predictions.name,
            keep=options.keep.model_dump(exclude=unset),
            images=ImageInputs.model_validate(options.images.model_dump()),
            shards=ShardInputs.model_validate(options.shards.model_dump()),
            gates=GateInputs.model_validate(options.gates.model_dump()),
            licenses=[options.pool.license, options.teacher.license],
            unlabelled=self._unlabelled(),
            truth=self.truth.digest if self.truth else self._parents_truth,
            references=self._reference_ids(),
            parent=self.parent.manifest.id if self.parent else None,
            resolve=options.resolve,
            overrides=overrides_digest(self.overrides),
        )

    def _unlabelled(self) -> str:
        """Digest of the images without predictions."""
        missing = sum(not (self.predictions / chunk.digest).is_dir() for chunk in self.pool.index)
        if missing:
            raise BuildError(
                f"{missing} chunks of pool {self.pool.id[:12]} have no predictions of {self.predictions.name[:12]}: "
                "label it first"
            )
        absent = [
            [chunk.digest, [failed.position for failed in read_failures(self.predictions / chunk.digest)]]
            for chunk in self.pool.index
        ]
        return digest([[chunk, positions] for chunk, positions in absent if positions])

    def _reference_ids(self) -> dict[str, str]:
        """The pools that have to stay out, by name."""
        return {name: pool.id for name, pool in sorted(self.guarded.items())}

    def left_out(self) -> LeftOut:
        """The images of the pool that may not be used."""
        near, gates = self.options.images.near_duplicates, self.options.gates
        settled = settled_by(self.parent, self.pool, near) if self.parent and self.takes_over else None
        return find_left_out(self.pool, self.guarded, gates.leak_distance, near, settled)

    def labelled(self, calibration: Calibrator | None, left_out: LeftOut) -> LabelledPool:
        """The pool as the rules see it."""
        return LabelledPool(self.pool, self.predictions, self.classes, self.options.keep, calibration, left_out.states)

    @property
    def _parents_truth(self) -> str | None:
        return self.parent.inputs.truth if self.parent and self.takes_over else None


def overlap(basis: Basis) -> dict[str, list[str]]:
    """truth or test -> names of its images that the teacher says it was trained on."""
    return {
        name: [image.name for image in pool.images() if image.sha256 in basis.trained_on]
        for name, pool in basis.guarded.items()
        if name.partition(OF)[0] in (*EVIDENCE, "test")
    }


def overrides_in_force(store: Store, name: str) -> tuple[Override, ...]:
    """What people said of a dataset (builder.rules.overrides.read_overrides), with a warning where it is lost. Raises
    BuildError if it is damaged."""
    if lost := lost_corrections(store, name):
        warn(f"{lost}, and this goes on without them")
        return ()
    return tuple(read_overrides(store, name))


def lost_corrections(store: Store, name: str) -> str:
    """That the newest version of a dataset that was built here has corrections and their file is gone, with what brings
    it back; "" where that is not so."""
    path = overrides_path(store, name)
    if os.path.lexists(path):
        return ""
    history = read_history(store.root)
    built = [f for f in store.versions(name) if (e := history.get(f"{name}@{f.name}")) and e.what == "built"]
    complete = [folder for folder in built if (folder / MANIFEST).is_file()]
    if not complete or read_manifest(complete[-1]).provenance.overrides is None:
        return ""
    return (
        f"the corrections of {name}@{complete[-1].name} are gone from {path}: copy {complete[-1] / OVERRIDES} there, "
        "or pull them again"
    )

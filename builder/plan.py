"""All that is decided before a version's first shard is written: which images, which thresholds, and whether at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builder import BuildError, gates
from builder.calibrate import Calibrator
from builder.certify import Group
from builder.engine import Track
from builder.files import digest
from builder.holdout import Halves, Labels, halves
from builder.labelled import LabelledPool, Tally, pool_kept, pool_scores, tally
from builder.manifest import Manifest, read_manifest
from builder.matching import Matches
from builder.pool import Pool, read_pool
from builder.predictions import read_failures, read_meta
from builder.recipe import Recipe
from builder.rules import RULES, Thresholds
from builder.samples import FORMAT
from builder.scores import PoolScores
from builder.store import Store
from builder.thresholds import Evidence, solve, with_ignore

LEAK, NEAR_DUPLICATE = "leak", "near_duplicate"


@dataclass(frozen=True)
class ParentVersion:
    """A version to go on from, and the pool it was cut from."""

    folder: Path
    manifest: Manifest
    pool: Pool


@dataclass(frozen=True)
class Basis:
    """What a version is made from: a pool, a teacher's predictions of it (their folder) and of human labels, the sets
    that must stay out (labelled, truth, test), the parent, and the recipe's options.

    trained_on: SHA-256 of the images that the teacher was trained on, where it says so. license: of the teacher.
    """

    pool: Pool
    predictions: Path
    options: Recipe
    spec: str
    truth: Labels | None = None
    references: Mapping[str, Pool] = field(default_factory=dict)
    parent: ParentVersion | None = None
    trained_on: frozenset[str] = frozenset()

    @property
    def meta(self) -> dict[str, Any]:
        return read_meta(self.predictions)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.meta["description"]["classes"])

    @property
    def floor(self) -> float:
        return float(self.meta["description"]["floor"])

    @property
    def takes_over(self) -> bool:
        """Whether thresholds are the parent's."""
        return self.parent is not None and not self.options.resolve

    def inputs(self) -> dict[str, Any]:
        """All that decides a version, JSON-ready: two builds with equal inputs are the same version.

        Raises BuildError if chunks of the pool have no predictions.
        """
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
        options = self.options
        return {
            "format": FORMAT,
            "pool": self.pool.id,
            "predictions": self.predictions.name,
            **{name: getattr(options, name).model_dump() for name in ("keep", "images", "shards", "gates")},
            "licenses": [options.pool.license, options.teacher.license],
            "unlabelled": digest([[chunk, positions] for chunk, positions in absent if positions]),
            "truth": self.truth.digest if self.truth else None,
            "references": {name: pool.id for name, pool in sorted(self.references.items())},
            "parent": self.parent.manifest.id if self.parent else None,
            "resolve": options.resolve,
        }


@dataclass(frozen=True)
class Plan:
    """What was decided, and the evidence for it."""

    labelled: LabelledPool
    thresholds: Thresholds
    scores: PoolScores
    tune: Matches | None
    calibration: Calibrator | None
    findings: Sequence[gates.Finding]
    truth: Mapping[str, Any] | None
    left_out: LeftOut
    basis: Basis

    def provenance(self) -> dict[str, Any]:
        basis = self.basis
        licences = {"source": basis.options.pool.license, "teacher": basis.options.teacher.license}
        parent = basis.parent
        return {
            "teacher": {**basis.meta, "spec": basis.spec, "license": licences["teacher"]},
            "licences": licences,
            "thresholds": [group.model_dump() for group in self.thresholds.groups],
            "calibration": self.calibration.model_dump() if self.calibration else None,
            "truth": self.truth,
            "gates": [finding.record() for finding in self.findings],
            "parent": parent
            and {
                "version": f"{parent.manifest.name}@{parent.manifest.version}",
                "id": parent.manifest.id,
                "thresholds": "taken over" if basis.takes_over else "solved again",
            },
        }


def decide_all(basis: Basis, store: Store, inputs: Mapping[str, Any], workers: int, track: Track) -> Plan:
    """Find what must stay out, solve the thresholds, count what they do to the whole pool, and ask the gates.

    Raises BuildError for rules that do not fit the teacher or cannot be certified, and GateFailed.
    """
    options = basis.options
    check_parent(basis)
    left_out = find_left_out(basis.pool, basis.references, options.gates.leak_distance, options.images.near_duplicates)
    findings = [gates.leak(options.gates, left_out.leaks)] if basis.references else []
    findings += [one for one in [gates.teacher_overlap(options.gates, overlap(basis))] if one and basis.trained_on]
    gates.stop_at_failure(findings)
    split = halves(basis.truth, basis.predictions, options.keep) if basis.truth else None
    calibration = _calibration(basis, split.tune if split else None)
    if split and calibration:
        split = split.calibrated(calibration)
    labelled = LabelledPool(basis.pool, basis.predictions, basis.classes, options.keep, calibration, left_out.states)
    scores = pool_scores(labelled, workers, track)
    thresholds = _thresholds(basis, labelled, scores, split, workers)
    shared = split.tune.shared if split else np.ones(len(basis.classes), bool)
    counted = tally(labelled, thresholds, shared, workers, track)
    findings += _findings(basis, counted, thresholds, split)
    gates.stop_at_failure(findings)
    truth = None
    if split and not basis.takes_over:
        truth = split.used(store, basis.predictions.name, options.keep, thresholds)
    if basis.takes_over and basis.parent:  # the evidence for its thresholds is the parent's
        truth = basis.parent.manifest.provenance.get("truth")
    return Plan(
        labelled, thresholds, scores, split.tune if split else None, calibration, findings, truth, left_out, basis
    )


def find_parent(ref: str, store: Store, id: str | None = None) -> ParentVersion:
    """The version to go on from, with its pool. Raises BuildError if either is not in the store, or not of this id."""
    folder = store.version(ref)
    manifest = read_manifest(folder)
    if id not in (None, manifest.id):
        raise BuildError(f"parent {ref} has id {manifest.id[:12]}, not {str(id)[:12]}: it is another version")
    if "plan" not in manifest.provenance:
        raise BuildError(f"parent {ref} was built by an older Tutelage: build it again, then go on from that")
    return ParentVersion(folder, manifest, read_pool(store, manifest.provenance["inputs"]["pool"]))


def check_parent(basis: Basis) -> None:
    """Raise BuildError if the parent's thresholds do not fit what this version is made from."""
    if not basis.takes_over or basis.parent is None:
        return
    old = basis.parent.manifest
    ref = f"{old.name}@{old.version}"
    inputs = old.provenance.get("inputs", {})
    if inputs.get("predictions") != basis.predictions.name:
        raise BuildError(
            f"parent {ref} was cut from another teacher's predictions, whose scores mean something else: "
            "set resolve: true to solve the thresholds again"
        )
    now = basis.options.keep.model_dump()
    changed = [key for key in (*RULES, "ignore", "calibration") if now[key] != inputs["keep"].get(key)]
    if changed:
        raise BuildError(
            f"keep.{changed[0]} differs from that of parent {ref}, whose thresholds are taken over: "
            "set resolve: true to solve them again, or restore it"
        )


@dataclass(frozen=True)
class LeftOut:
    """Pool images that may not be used, SHA-256 -> sentence: those that are also labelled, truth or test ones, or
    nearly so, and those that are nearly the same as an earlier one."""

    leaks: Mapping[str, str]
    near_duplicates: Mapping[str, str]

    def table(self) -> str:
        """CSV: what became of each image, its SHA-256, and why."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["state", "sha256", "why"])
        for sha256, state in sorted(self.states.items()):
            writer.writerow([state, sha256, self.leaks.get(sha256) or self.near_duplicates[sha256]])
        return out.getvalue()

    @property
    def states(self) -> dict[str, str]:
        return {**dict.fromkeys(self.near_duplicates, NEAR_DUPLICATE), **dict.fromkeys(self.leaks, LEAK)}


def find_left_out(pool: Pool, references: Mapping[str, Pool], leak_distance: int | None, near: int | None) -> LeftOut:
    """references: the labelled, truth and test sets. Distances in bits of the images' hashes; leak_distance of None:
    equal bytes only; near of None: near-duplicates may stay."""
    if not references and near is None:
        return LeftOut({}, {})
    from builder.duplicates import leaks, near_duplicates

    return LeftOut(
        leaks(pool, references, leak_distance) if references else {},
        near_duplicates(pool, near) if near is not None else {},
    )


def overlap(basis: Basis) -> dict[str, list[str]]:
    """truth or test -> names of its images that the teacher says it was trained on."""
    return {
        name: [image.name for image in pool.images() if image.sha256 in basis.trained_on]
        for name, pool in basis.references.items()
        if name in ("truth", "test")
    }


def _calibration(basis: Basis, tune: Matches | None) -> Calibrator | None:
    from builder.calibrate import fit

    if basis.options.keep.calibration == "none":
        return None
    if basis.takes_over and basis.parent:
        return Calibrator.model_validate(basis.parent.manifest.provenance["calibration"])
    if tune is None:
        raise BuildError("keep.calibration is fitted on human labels, and there are none: add truth: LABELS")
    iou = basis.options.keep.precision.iou if basis.options.keep.precision else 0.5
    return fit(tune, basis.options.keep.calibration, iou)


def _thresholds(
    basis: Basis, labelled: LabelledPool, scores: PoolScores, split: Halves | None, workers: int
) -> Thresholds:
    keep = basis.options.keep
    if basis.takes_over and basis.parent:
        groups = [Group.model_validate(group) for group in basis.parent.manifest.provenance["thresholds"]]
        return with_ignore(keep, groups, basis.classes)
    kept = partial(pool_kept, labelled, workers=workers)
    return solve(
        keep,
        Evidence(
            basis.classes,
            basis.floor,
            scores=scores,
            per_image=split.per_image if split else None,
            certify=split.certify if split else None,
            pool_kept=kept,
        ),
    )


def _findings(basis: Basis, counted: Tally, thresholds: Thresholds, split: Halves | None) -> list[gates.Finding]:
    options, classes = basis.options.gates, basis.classes
    kept = dict(zip(classes, counted.per_class["kept"].tolist(), strict=True))
    images = counted.images.get("ok", 0)
    wanted = [c for n, c in enumerate(classes) if split is None or split.objects[n] > 0]
    found = [
        gates.min_precision(options, thresholds.groups, kept),
        gates.coverage(options, kept, wanted) if images else None,
    ]
    if split:
        found.append(gates.density(options, classes, counted.per_class["kept"], images, split.per_image, split.objects))
        found.append(gates.shift(options, counted.sample, split.sample(thresholds)))
    return [finding for finding in found if finding]


def ranges(pool: Pool, max_bytes: int, parent: ParentVersion | None) -> Iterator[range]:
    """The chunks of each shard: the parent's shards where its pool's chunks are the first of this one's, then whole
    consecutive chunks, as many as fit `max_bytes` of original image bytes, at least one."""
    start = 0
    if parent:
        plan = parent.manifest.provenance.get("plan", [])
        last = plan[-1][1] if plan else 0
        before, now = ([chunk.digest for chunk in side.index[:last]] for side in (parent.pool, pool))
        if before == now:
            yield from (range(first, stop) for first, stop in plan)
            start = last
    total, sizes = 0, [chunk.bytes for chunk in pool.index]
    for n in range(start, len(sizes)):
        if n > start and total + sizes[n] > max_bytes:
            yield range(start, n)
            start, total = n, 0
        total += sizes[n]
    if start < len(sizes):
        yield range(start, len(sizes))

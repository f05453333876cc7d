"""All that is decided before a version's first shard is written: which images, which thresholds, and whether at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as installed_version

import numpy as np

from builder.cut.basis import Basis, overlap
from builder.cut.emptiness import check_kept
from builder.cut.findings import findings_of
from builder.cut.left_out import LeftOut
from builder.engine import Track
from builder.errors import BuildError
from builder.evidence import gates
from builder.evidence.holdout import Halves, halves
from builder.evidence.matching import Matches
from builder.evidence.planning import Need, check_likely
from builder.evidence.planning import plan as plan_needs
from builder.evidence.thresholds import Evidence, check_partial, solve
from builder.evidence.uses import count_use, use_of
from builder.kinds import kind_of
from builder.recipe.recipe import Recipe
from builder.rules.calibrator import Calibrator, calibrator_of
from builder.rules.counting import pool_kept, pool_scores
from builder.rules.keep import class_map, keep_of
from builder.rules.labelled import LabelledPool, Tally, tally
from builder.rules.objects import Thresholds
from builder.rules.overrides import check_labels
from builder.rules.scores import PoolScores
from builder.scan.pool import OK
from builder.store.files import digest
from builder.store.provenance import (
    Finding,
    Inputs,
    Licences,
    Provenance,
    TeacherRecord,
    TruthRecord,
)
from builder.store.store import Store


@dataclass(frozen=True)
class Plan:
    """What was decided, and the evidence for it. balance: images kept of each class, where `keep.balance` repeats and
    thins them."""

    labelled: LabelledPool
    thresholds: Thresholds
    scores: PoolScores
    tune: Matches | None
    calibration: Calibrator | None
    findings: Sequence[Finding]
    truth: TruthRecord | None
    left_out: LeftOut
    basis: Basis
    balance: tuple[int, ...] | None = None

    def provenance(self, inputs: Inputs, written: Recipe, chunks: Sequence[range]) -> Provenance:
        """What the version's manifest says of this plan. written: the recipe, as it was. chunks: of each shard."""
        basis, license = self.basis, self.basis.options.teacher.license
        provenance = Provenance(
            tool=f"tutelage {installed_version('tutelage')}",
            recipe=written.published().model_dump(mode="json"),
            inputs=inputs,
            teacher=TeacherRecord.model_validate({**basis.meta, "spec": basis.spec, "license": license}),
            licences=Licences(source=basis.options.pool.license, teacher=license),
            thresholds=[group.whole() for group in self.thresholds.groups],
            calibration=self.calibration.model_dump() if self.calibration else None,
            truth=self.truth,
            gates=list(self.findings),
            overrides=None,
            parent=basis.parent.record(basis.takes_over) if basis.parent else None,
            plan=[(shard.start, shard.stop) for shard in chunks],
        )
        return provenance if self.balance is None else provenance.model_copy(update={"balance": self.balance})


def decide_all(
    basis: Basis,
    store: Store,
    inputs: Inputs,
    workers: int | None,
    track: Track,
    *,
    allow_empty: bool = False,
    allow_partial: bool = False,
) -> Plan:
    """Find what must stay out, solve the thresholds, count what they do to the whole pool, and ask the gates.

    Raises BuildError for rules that do not fit the teacher or cannot be certified (for most of the labelled objects,
    unless `allow_partial`), or keep nothing (unless `allow_empty`), and GateFailed.
    """
    options = basis.options
    check_parent(basis)
    check_labels(basis.overrides, basis.classes, "correct it in the store's reviews, or set review: false")
    if kind_of(basis.kind).pixels and basis.overrides:
        raise BuildError(
            f"dataset {basis.options.name} has {len(basis.overrides)} overrides of boxes, which say nothing of a map's "
            "pixels: set review: false, or give this dataset another name"
        )
    left_out = basis.left_out()
    findings = [gates.leak(options.gates, left_out.leaks, left_out.note)] if inputs.references else []
    if basis.trained_on and (finding := gates.teacher_overlap(options.gates, overlap(basis))):
        findings.append(finding)
    if options.keep.classes and (mapped := class_map(options.keep, basis.meta["description"])):
        findings.append(gates.unmapped(mapped.unnamed, options.keep.classes.others, len(mapped.teacher)))
    gates.stop_at_failure(findings)
    split = halves(basis.truth, basis.predictions, options.keep) if basis.truth else None
    calibration = _calibration(basis, split.tune if split else None)
    split = split.calibrated(calibration) if split and calibration else split
    labelled = basis.labelled(calibration, left_out)
    scores = pool_scores(labelled, workers, track)
    needs, uses = list[Need](), 0
    if split and options.keep.precision and not basis.takes_over:  # before: a build that fails now has looked, too
        usable = digest([basis.pool.id, inputs.unlabelled, sorted(left_out.states)])
        needs, uses = _look(basis, store, split, usable, scores, calibration)
    thresholds = _thresholds(basis, labelled, scores, split, needs, workers)
    if split and not basis.takes_over and not allow_partial:
        check_partial(options.keep, thresholds.groups, basis.classes, split.objects)
    shared = split.tune.shared if split else np.ones(len(basis.classes), bool)
    counted = tally(labelled, thresholds, shared, workers, track)
    truth = split.used(uses, thresholds) if split else None
    if basis.takes_over and basis.parent:  # the evidence for its thresholds is the parent's
        truth = basis.parent.manifest.provenance.truth
    findings += findings_of(basis, counted, scores, thresholds, split, truth)
    gates.stop_at_failure(findings)
    if not allow_empty and not basis.overrides:  # what people add or accept is known once they are applied
        check_kept(options.name, kind_of(basis.kind), counted.images.get(OK, 0), counted.reasons, thresholds.groups)
    return Plan(
        labelled,
        thresholds,
        scores,
        split.tune if split else None,
        calibration,
        findings,
        truth,
        left_out,
        basis,
        _balance(basis, counted),
    )


def _look(
    basis: Basis, store: Store, split: Halves, usable: str, scores: PoolScores, calibration: Calibrator | None
) -> tuple[list[Need], int]:
    """What the certify half can be expected to certify, said before it is looked at, and its uses, this one included.
    usable: see `use_of`."""
    keep = basis.options.keep
    needs = list[Need]()
    if keep.precision:
        needs = plan_needs(split.tune, scores, keep.precision, split.certify.images)
        check_likely([n for n in needs if not n.own], basis.classes, split.objects, keep.precision.target)
    use = use_of(split.digest, basis.predictions.name, usable, scores, keep, calibration)
    return needs, count_use(store, split.images, use)


def _balance(basis: Basis, counted: Tally) -> tuple[int, ...] | None:
    """Images kept of each class, which decide how often each is written: the parent's, where its thresholds are, so
    that its shards serve again."""
    if not kind_of(basis.kind).single or basis.options.keep.balance is None:
        return None
    if basis.takes_over and basis.parent:
        return basis.parent.manifest.provenance.balance
    return tuple(counted.per_class["kept"].tolist())


def check_parent(basis: Basis) -> None:
    """Raise BuildError if the parent's thresholds, or what is certified of them, do not fit what this version is made
    from."""
    if not basis.takes_over or basis.parent is None:
        return
    ref, inputs = basis.parent.ref, basis.parent.inputs
    if inputs.predictions != basis.predictions.name:
        raise BuildError(
            f"parent {ref} was cut from another teacher's predictions, whose scores mean something else: "
            "set resolve: true to solve the thresholds again"
        )
    now, before = (keep.model_dump() for keep in (basis.options.keep, keep_of(basis.parent.manifest)))
    changed = [f"keep.{key}" for key in now if now[key] != before[key]]
    changed += ["truth"] if basis.truth and basis.truth.digest != inputs.truth else []
    if changed:
        raise BuildError(
            f"{changed[0]} differs from that of parent {ref}, whose thresholds are taken over: "
            "set resolve: true to solve them again, or restore it"
        )


def _calibration(basis: Basis, tune: Matches | None) -> Calibrator | None:
    from builder.evidence.calibrate import fit

    if basis.options.keep.calibration == "none":
        return None
    if basis.takes_over and basis.parent:
        return calibrator_of(basis.parent.manifest)
    if tune is None:
        raise BuildError("keep.calibration is fitted on human labels, and there are none: add truth: LABELS")
    iou = basis.options.keep.precision.iou if basis.options.keep.precision else 0.5
    return fit(tune, basis.options.keep.calibration, iou)


def _thresholds(
    basis: Basis,
    labelled: LabelledPool,
    scores: PoolScores,
    split: Halves | None,
    needs: Sequence[Need],
    workers: int | None,
) -> Thresholds:
    keep = basis.options.keep
    if basis.takes_over and basis.parent:
        return keep.limits(basis.parent.manifest.provenance.thresholds, basis.classes)
    kept = partial(pool_kept, labelled, workers=workers)
    return solve(
        keep,
        Evidence(
            basis.classes,
            basis.floor,
            scores=scores,
            per_image=split.per_image(scores) if split else None,
            certify=split.certify if split else None,
            needs=needs,
            pool_kept=kept,
        ),
    )

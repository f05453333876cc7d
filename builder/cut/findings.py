"""What the gates find of a whole pool under solved thresholds."""

from __future__ import annotations

from builder.cut.basis import Basis
from builder.evidence import gates
from builder.evidence.claims import decide_claims
from builder.evidence.holdout import Halves
from builder.kinds import kind_of
from builder.rules.labelled import Tally
from builder.rules.objects import Thresholds
from builder.rules.reasons import Reason
from builder.rules.scores import PoolScores
from builder.scan.pool import OK
from builder.store.provenance import Finding, TruthRecord


def findings_of(
    basis: Basis,
    counted: Tally,
    scores: PoolScores,
    thresholds: Thresholds,
    split: Halves | None,
    truth: TruthRecord | None,
) -> list[Finding]:
    """counted: what the thresholds do to the pool. scores: of the pool. split: the human labels, if there are any;
    truth: what the manifest will say of them."""
    options, classes, kind = basis.options.gates, basis.classes, kind_of(basis.kind)
    asked = basis.options.keep.precision
    kept, ignored = (dict(zip(classes, counted.per_class[o].tolist(), strict=True)) for o in ("kept", "ignored"))
    refused = int(counted.reasons[Reason.WHERE_FALSE :].sum())  # after the threshold, which is as far as evidence goes
    images = counted.images.get(OK, 0)
    judged = decide_claims(thresholds.groups, kept, truth, asked.model_dump() if asked else None)
    findings = [gates.min_precision(options, judged, refused, kind.noun)]
    if images:
        labelled = dict(zip(classes, split.objects.tolist(), strict=True)) if split else None
        findings.append(gates.coverage(options, kept, ignored, labelled, kind))
    if basis.truth:
        findings.append(gates.names(classes, basis.truth.truth))
    if split:
        per_class, expected = counted.per_class["kept"], split.per_image(scores)
        size = scores.per_image if kind.pixels else None
        findings.append(gates.density(options, classes, per_class, images, expected, split.objects, kind.noun, size))
        findings.append(gates.shift(options, counted.sample, split.sample(thresholds)))
    return [finding for finding in findings if finding]

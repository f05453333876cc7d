"""What may be said of the precision of a version (builder.evidence.claims), in words: for the card, the report and the
command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from builder.evidence.claims import Certificate, Claims, claims, groups, keep_section
from builder.kinds import kind_of
from builder.report.headline import at_iou, interval_text
from builder.rules.limits import limits
from builder.rules.objects import Thresholds
from builder.rules.reasons import BY_ACTION
from builder.store.manifest import Manifest
from builder.store.provenance import UNKNOWN, Group, Measured

CONDITION = (
    "If the truth images are exchangeable with the pool and were used neither to train the teacher nor to choose this "
    "recipe, the expected precision of "
)
"""How every certified statement begins."""
SOURCES = {
    "score": "were set by hand",
    "precision": "were to be solved for a precision, which no group of classes reached",
    "density": "follow the density of objects in the labels",
    "balance": "were lowered until enough images showed each class",
    "mixture": "come from the pool's own scores",
    "top_box": "were set by hand and lowered to the best score of an image",
}
"""Rule -> whence its thresholds, after "the thresholds"."""
LATER = ("where", "min_size", "uncertainty")
"""Rules that come after the threshold, so that no certificate covers what they do."""
MOST_BELOW = 12
"""Classes below the target that are named; the others are counted."""


def thresholds(manifest: Manifest) -> Thresholds:
    """From which score on objects of each class are kept and ignored."""
    return limits(groups(manifest), manifest.classes, keep_section(manifest).get("ignore"))


def licences(manifest: Manifest) -> dict[str, str]:
    """Licence of the source images and of the teacher; `unknown` where nobody said."""
    provenance = manifest.provenance
    teacher = provenance.licences.teacher or provenance.teacher.license
    return {"source": provenance.licences.source or UNKNOWN, "teacher": teacher or UNKNOWN}


def used(manifest: Manifest) -> str:
    """The same in words, after "the certify half"."""
    uses = claims(manifest).uses
    return f"used {times(uses)}" if uses else "not used by this version"


def times(n: int) -> str:
    """How often, in words."""
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def expected_quality(manifest: Manifest) -> list[str]:
    """What may be said of the precision of a version, one plain-text paragraph each, and of what nothing may be said.

    The words are those of the statistics behind builder.evidence.certify, no stronger: conditional, asymptotic unless
    `bound: exact`, each group separately unless `family: all`.
    """
    every = claims(manifest)
    if not every.certificates:
        paragraphs = [_nothing_certified(manifest), *_measured(manifest), *_below(manifest, every)]
        return [*paragraphs, *_uncertified(manifest, every), *_by_people(manifest)]
    paragraphs = []
    if every.standing == "adaptive":
        paragraphs.append(
            "Adaptive, no guarantee: the certify half of the truth, or a part of it, has been used "
            f"{times(every.uses)}, builds that failed included, so this recipe may have been chosen on it, which "
            "the condition below excludes."
        )
    for alike in sorted({_alike(certified) for certified in every.certificates}, reverse=True):
        paragraphs.append(_statement(every, [each for each in every.certificates if _alike(each) == alike]))
    paragraphs.append(_meaning(manifest, every))
    paragraphs += [*_of_one_class(manifest, every), *_below(manifest, every)]
    parent = manifest.provenance.parent
    if parent and parent.taken_over:
        paragraphs.append(
            f"The thresholds and their evidence are those of {parent.version}: the condition is about that "
            "version's pool, and about this one's as far as new images are like the old ones."
        )
    return [*paragraphs, *_uncertified(manifest, every), *_by_people(manifest)]


def _by_people(manifest: Manifest) -> Iterator[str]:
    people = sum(manifest.objects.get(reason.key, 0) for reason in BY_ACTION.values())
    if people:
        yield (
            f"People decided on {people} {_noun(manifest)} (accepted, relabelled, moved, added or rejected them): what "
            f"is said of precision is about the teacher's {_noun(manifest)} at these thresholds, before that."
        )


def _alike(certified: Certificate) -> tuple[float, float, float, bool]:
    return certified.target, certified.delta, certified.group.iou or 0.0, certified.exact


def _statement(every: Claims, certified: Sequence[Certificate]) -> str:
    """The certified statement about groups with the same claim; of an adaptive version what a first use would say."""
    target, delta, _, exact = _alike(certified[0])
    together = certified[0].family and len(certified) > 1
    kind = "exact, not asymptotic" if exact else "asymptotic"
    about = "" if exact else "about "
    count = len(certified)
    listed = "; ".join(_members(each.group.classes) for each in certified)
    if together:
        whose, scope = "every one of these groups", "all groups together"
    else:
        whose, scope = "this group", "each group separately"
    lead = f"Certified group: {listed}. " if count == 1 else f"{count} certified groups: {listed}. For each of them: "
    if together:
        lead = f"{count} certified groups: {listed}. For all of them together: "
    if every.standing == "adaptive":
        lead = f"Passed the test on it: {listed}. Only a first use of these labels would say: "
    words = f"{lead}{CONDITION}{whose} is at least {target:g} with confidence {about}{1 - delta:g} ({kind}; {scope})."
    if count > 1 and not together:
        words += f" With {count} groups up to {delta * count:.2g} may miss."
    return words


def _of_one_class(manifest: Manifest, every: Claims) -> Iterator[str]:
    """What the certificate of several classes does not say, and how to have it said."""
    joint = [certified for certified in every.holding if not certified.alone]
    if joint:
        yield (
            f"Of a group of several classes that is the precision of its {_noun(manifest)} together: it says nothing "
            "of one class among them. keep.precision.over: class tests each class by itself, where the labels suffice."
        )
    for certified in joint:
        absent = [name for name in certified.group.classes if name not in certified.kept]
        if absent:
            yield f"Nothing is kept, and so nothing certified, of {_members(absent)}."


def _below(manifest: Manifest, every: Claims) -> Iterator[str]:
    """The classes whose own estimate lies below what was asked for."""
    truth = manifest.provenance.truth
    if not every.flagged or truth is None or every.level is None:
        return
    worst = sorted(every.flagged, key=lambda claim: (claim.estimate.precision or 0.0) if claim.estimate else 0.0)
    listed = "; ".join(
        f"{claim.name} {interval_text(claim.estimate.precision, claim.estimate.low, claim.estimate.high)}"
        for claim in worst[:MOST_BELOW]
        if claim.estimate
    )
    more = f"; and {len(worst) - MOST_BELOW} more" if len(worst) > MOST_BELOW else ""
    target = max(claim.target or 0.0 for claim in worst)
    yield (
        f"Below {target:g} by {'itself' if len(worst) == 1 else 'themselves'} on the {truth.tune} labelled images of "
        f"the tune half ({every.level:.0%} interval, each class's own, which warns of a class and certifies none): "
        f"{listed}{more}."
    )


def _meaning(manifest: Manifest, every: Claims) -> str:
    """What the certified precision is the precision of, and what the evidence was."""
    certified = [each.group for each in every.certificates]
    ious = ", ".join(f"{iou:g}" for iou in sorted({group.iou for group in certified if group.iou is not None}))
    units = sorted({group.units for group in certified if group.units is not None})
    spread = f"{units[0]} to {units[-1]}" if len(units) > 1 else f"{units[0]}" if units else "the"
    text = (
        f"{_right(manifest, ious)} The evidence is {spread} held-out labelled images (or declared units) that "
        "set nothing else; the figure is the certified target, not an estimate, and says nothing of "
        f"{kind_of(manifest.kind).missed}."
    )
    if later := _later(manifest):
        text += f" It is the precision at the threshold, before {later} refused some of these {_noun(manifest)}."
    return text


def _noun(manifest: Manifest) -> str:
    return kind_of(manifest.kind).noun


def _right(manifest: Manifest, ious: str) -> str:
    """When one of the labels counts as right, as a sentence."""
    kind = kind_of(manifest.kind)
    if kind.overlaps:
        when = f" when it {kind.right} {ious}" if ious else ""
    else:
        when = f" when it {kind.right}"
    return f"{'An' if kind.singular[0] in 'aeiou' else 'A'} {kind.singular} counts as right{when}."


def _later(manifest: Manifest) -> str:
    return " and ".join(name for name in LATER if keep_section(manifest).get(name) is not None)


def _nothing_certified(manifest: Manifest) -> str:
    rules = sorted({group.rule for group in groups(manifest)}) or ["score"]
    whence = "; ".join(SOURCES[rule] for rule in rules)
    truth = manifest.provenance.truth
    if truth and measured(manifest):
        return f"Precision not certified: the thresholds {whence}."
    tail = (
        "Labels were at hand, but no threshold was certified on them."
        if truth
        else "No held-out human labels were at hand to measure it."
    )
    return f"Precision unknown: the thresholds {whence}. {tail}"


def measured(manifest: Manifest) -> Measured | None:
    """The precision of what lies above the thresholds on the tune half (builder.evidence.holdout.measure), if it is
    known."""
    truth = manifest.provenance.truth
    measure = truth.measured if truth else None
    return measure if measure and measure.precision is not None else None


def _measured(manifest: Manifest) -> Iterator[str]:
    truth, measure = manifest.provenance.truth, measured(manifest)
    if truth is None or measure is None:
        return
    recall = f", recall {measure.recall:.2f}" if measure.recall is not None else ""
    more = " The calibration was fitted on the same images, which flatters it." if _calibrated(manifest) else ""
    condition = (
        "That is an estimate, for truth images that are exchangeable with the pool and were used neither to train the "
        "teacher nor to choose this recipe."
    )
    if any(group.rule == "density" for group in groups(manifest)):
        condition = (
            "That is no clean estimate: the density rule solved its thresholds on the same images, and at a solved "
            "threshold the measured precision is optimistic."
        )
    if later := _later(manifest):
        more += f" It is the precision at the threshold, before {later} refused some of these {_noun(manifest)}."
    yield (
        f"Measured on the {truth.tune} labelled images of the tune half: {measure.correct} of {measure.kept} "
        f"{_noun(manifest)} that these thresholds keep are right{at_iou(manifest, measure.iou)}, precision "
        f"{measure.precision:.2f} ({measure.level:.0%} interval {measure.low:.2f} to {measure.high:.2f}){recall}, "
        f"all classes together. {condition}{more}"
    )


def _calibrated(manifest: Manifest) -> bool:
    return manifest.provenance.calibration is not None


def _uncertified(manifest: Manifest, every: Claims) -> Iterator[str]:
    """The classes without a certificate, by the reason why."""
    kept = {claim.name: claim.kept for claim in every.classes}
    total = max(1, sum(kept.values()))
    certified = [certificate.group for certificate in every.certificates]
    left = [group for group in groups(manifest) if group not in certified]
    if all(group.rule != "precision" for group in left):
        if left and certified:
            yield f"Not certified, precision unknown: {_members([c for group in left for c in group.classes])}."
        return
    for reason in sorted({group.reason for group in left}):
        for empty in (False, True):
            names = [c for g in left if g.reason == reason and _is_empty(g, kept) == empty for c in g.classes]
            if not names:
                continue
            share = sum(kept.get(name, 0) for name in names) / total
            fate = (
                "nothing is kept of them" if empty else f"precision unknown, {share:.0%} of the kept {_noun(manifest)}"
            )
            why = f" ({reason})" if reason else ""
            yield f"Not certified, {fate}: {_members(names)}{why}."


def _is_empty(group: Group, kept: Mapping[str, int]) -> bool:
    return group.threshold is None or (group.certified and not any(kept.get(name) for name in group.classes))


def _members(classes: Sequence[str]) -> str:
    return classes[0] if len(classes) == 1 else f"{len(classes)} classes ({', '.join(classes)})"

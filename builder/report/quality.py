"""What may be said of the precision of a version: one place for the card, the report and the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from builder.kinds import kind_of
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
NAMED = 4
"""Class names of a group that a table row shows; the rest are counted."""


def groups(manifest: Manifest) -> list[Group]:
    """The thresholds of a version with their evidence; by rule `score` for a manifest that holds none."""
    if manifest.provenance.thresholds:
        return manifest.provenance.thresholds
    score = keep_section(manifest).get("score", 0.5)
    by_class = {
        name: score.get(name, score.get("*")) if isinstance(score, dict) else score for name in manifest.classes
    }
    values = sorted({value for value in by_class.values() if value is not None})
    return [Group(classes=[c for c in by_class if by_class[c] == v], rule="score", threshold=v) for v in values]


def thresholds(manifest: Manifest) -> Thresholds:
    """From which score on objects of each class are kept and ignored."""
    return limits(groups(manifest), manifest.classes, keep_section(manifest).get("ignore"))


def licences(manifest: Manifest) -> dict[str, str]:
    """Licence of the source images and of the teacher; `unknown` where nobody said."""
    provenance = manifest.provenance
    teacher = provenance.licences.teacher or provenance.teacher.license
    return {"source": provenance.licences.source or UNKNOWN, "teacher": teacher or UNKNOWN}


def uses(manifest: Manifest) -> int:
    """How many uses had looked at images of the certify half when the version was built, its own included; 0 if its
    thresholds were not solved on them."""
    return manifest.provenance.truth.uses if manifest.provenance.truth else 0


def used(manifest: Manifest) -> str:
    """The same in words, after "the certify half"."""
    return f"used {times(uses(manifest))}" if uses(manifest) else "not used by this version"


def times(n: int) -> str:
    """How often, in words."""
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def certified_share(manifest: Manifest) -> float:
    """Share of what is kept that are of certified classes."""
    names = {name for group in groups(manifest) if group.certified for name in group.classes}
    kept = {name: counts["kept"] for name, counts in manifest.per_class.items()}
    return sum(kept.get(name, 0) for name in names) / max(1, sum(kept.values()))


def expected_quality(manifest: Manifest) -> list[str]:
    """What may be said of the precision of a version, one plain-text paragraph each, and of what nothing may be said.

    The words are those of the statistics behind builder.evidence.certify, no stronger: conditional, asymptotic unless
    `bound: exact`, each group separately unless `family: all`.
    """
    every = groups(manifest)
    certified = [group for group in every if group.certified]
    if not certified:
        paragraphs = [_nothing_certified(manifest, every), *_measured(manifest), *_uncertified(manifest, every)]
        return [*paragraphs, *_by_people(manifest)]
    paragraphs = []
    if uses(manifest) > 1:
        paragraphs.append(
            "Adaptive, no guarantee: the certify half of the truth, or a part of it, has been used "
            f"{times(uses(manifest))}, builds that failed included, so this recipe may have been chosen on it, which "
            "the condition below excludes."
        )
    for claim in sorted({_claim(group) for group in certified}, reverse=True):
        paragraphs.append(_statement(manifest, [group for group in certified if _claim(group) == claim]))
    paragraphs.append(_meaning(manifest, certified))
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


def _claim(group: Group) -> tuple[float, float, float, str]:
    return group.target or 0.0, group.delta or 0.0, group.iou or 0.0, group.bound or "clustered"


def _statement(manifest: Manifest, certified: Sequence[Group]) -> str:
    """The certified statement about groups with the same claim."""
    target, delta, _, bound = _claim(certified[0])
    options = keep_section(manifest).get("precision")
    options = options if isinstance(options, dict) else {}
    together = options.get("family") == "all" and len(certified) > 1
    if options.get("family") == "all":  # a group's own delta may be its share of the whole
        delta = float(options.get("delta", delta))
    kind = "exact, not asymptotic" if bound == "exact" else "asymptotic"
    about = "" if bound == "exact" else "about "
    count = len(certified)
    listed = "; ".join(_members(group.classes) for group in certified)
    if together:
        whose, scope = "every one of these groups", "all groups together"
    else:
        whose, scope = "this group", "each group separately"
    lead = f"Certified group: {listed}. " if count == 1 else f"{count} certified groups: {listed}. For each of them: "
    if together:
        lead = f"{count} certified groups: {listed}. For all of them together: "
    words = f"{lead}{CONDITION}{whose} is at least {target:g} with confidence {about}{1 - delta:g} ({kind}; {scope})."
    if count > 1 and not together:
        words += f" With {count} groups up to {delta * count:.2g} may miss."
    return words


def _meaning(manifest: Manifest, certified: Sequence[Group]) -> str:
    """What the certified precision is the precision of, and what the evidence was."""
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


def _at(manifest: Manifest, iou: float) -> str:
    return f" at IoU {iou:g}" if kind_of(manifest.kind).overlaps else ""


def _later(manifest: Manifest) -> str:
    return " and ".join(name for name in LATER if keep_section(manifest).get(name) is not None)


def _nothing_certified(manifest: Manifest, every: Sequence[Group]) -> str:
    rules = sorted({group.rule for group in every}) or ["score"]
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
        f"{_noun(manifest)} that these thresholds keep are right{_at(manifest, measure.iou)}, precision "
        f"{measure.precision:.2f} ({measure.level:.0%} interval {measure.low:.2f} to {measure.high:.2f}){recall}, "
        f"all classes together. {condition}{more}"
    )


def _calibrated(manifest: Manifest) -> bool:
    return manifest.provenance.calibration is not None


def _uncertified(manifest: Manifest, every: Sequence[Group]) -> Iterator[str]:
    """The classes without a certificate, by the reason why."""
    kept = {name: counts["kept"] for name, counts in manifest.per_class.items()}
    total = max(1, sum(kept.values()))
    left = [group for group in every if not group.certified]
    if all(group.rule != "precision" for group in left):
        if left and any(group.certified for group in every):
            yield f"Not certified, precision unknown: {_members([c for group in left for c in group.classes])}."
        return
    for reason in sorted({group.reason for group in left}):
        for dropped in (False, True):
            names = [c for g in left if g.reason == reason and (g.threshold is None) == dropped for c in g.classes]
            if not names:
                continue
            share = sum(kept.get(name, 0) for name in names) / total
            fate = (
                "nothing is kept of them"
                if dropped
                else f"precision unknown, {share:.0%} of the kept {_noun(manifest)}"
            )
            why = f" ({reason})" if reason else ""
            yield f"Not certified, {fate}: {_members(names)}{why}."


def _members(classes: Sequence[str]) -> str:
    return classes[0] if len(classes) == 1 else f"{len(classes)} classes ({', '.join(classes)})"


def short_members(classes: Sequence[str]) -> str:
    """The classes of a group as a table row shows them: the first few by name."""
    more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    return ", ".join(classes[:NAMED]) + more


def keep_section(manifest: Manifest) -> Mapping[str, Any]:
    """The `keep` section that the version was cut with."""
    return manifest.provenance.inputs.keep


def certificate(manifest: Manifest, group: Group) -> str:
    """`≥ 0.8 at IoU 0.5`, or `no`; without IoU where overlaps play no part."""
    if not group.certified:
        return "no"
    return f"≥ {group.target:g}" + (_at(manifest, group.iou) if group.iou is not None else "")

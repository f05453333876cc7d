"""What may be said of the precision of a version (builder.evidence.claims), in a line, or in the cells of a table."""

from __future__ import annotations

from collections.abc import Sequence

from builder.evidence.claims import Claims, ClassClaim, claims, groups
from builder.kinds import kind_of
from builder.store.manifest import Manifest
from builder.store.provenance import Group
from builder.words import percent

LISTED = 3
"""Class names in a headline; more are counted."""
UNCERTIFIED = 5
"""Groups that a summary says why they were not certified."""
NAMED = 4
"""Class names of a group that a table row shows; the rest are counted."""


def headline(manifest: Manifest) -> str:
    """The shortest that may be said of the precision of a version, without a full stop."""
    every = claims(manifest)
    match every.standing:
        case "unknown":
            return "Precision unknown"
        case "measured":
            return "Precision not certified"
        case "adaptive":
            return "Adaptive, no guarantee"
    text = f"Precision of at least {every.target:g} certified for {_whom(manifest, every)}"
    if every.share < 1:
        text += f", {percent(every.share)} of the kept {kind_of(manifest.kind).noun}"
    below = [claim.name for claim in every.flagged if claim.certified != "no"]
    if not below:
        return text
    named = _and(below) if len(below) < LISTED else f"{len(below)} of them"
    return f"{text}; {named} look{'s worse by itself' if len(below) == 1 else ' worse by themselves'}"


def short_headline(every: Claims) -> str:
    """The same for a column of a table: `0.8: person, 79 together (93 %)`."""
    if every.target is None:
        return {"measured": "no", "unknown": "unknown"}.get(every.standing, "adaptive, no")
    alone = every.alone if len(every.alone) <= 2 else (f"{len(every.alone)} classes",)
    together = (f"{len(every.together)} together",) if every.together else ()
    share = f" ({percent(every.share)})" if every.share < 1 else ""
    return f"{every.target:g}: {', '.join((*alone, *together))}{share}"


def _whom(manifest: Manifest, every: Claims) -> str:
    """The classes that are certified, each by itself or together."""
    phrases = []
    if len(every.alone) > LISTED:
        phrases.append(f"{len(every.alone)} classes, each by itself")
    elif every.alone:
        phrases.append(_and(every.alone) + (" by itself" if len(every.alone) == 1 else ", each by itself"))
    rarer = "rarer " if any(len(g.classes) == 1 and g.rule == "precision" for g in groups(manifest)) else ""
    for certified in every.holding:
        if certified.alone:
            continue
        kept = certified.kept
        if len(kept) == 1:
            phrases.append(f"a group of {len(certified.group.classes)} classes, of which only {kept[0]} is kept")
        elif len(kept) <= LISTED:
            phrases.append(f"{_and(kept)} together")
        elif len(kept) == len(manifest.classes):
            phrases.append(f"all {len(kept)} classes together")
        else:
            phrases.append(f"the {len(kept)} {rarer}classes together" if rarer else f"{len(kept)} classes together")
    return ", and for ".join(phrases)


def _and(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def at_iou(manifest: Manifest, iou: float) -> str:
    return f" at IoU {iou:g}" if kind_of(manifest.kind).overlaps else ""


def short_members(classes: Sequence[str]) -> str:
    """The classes of a group as a table row shows them: the first few by name."""
    more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    return ", ".join(classes[:NAMED]) + more


def certificate(manifest: Manifest, every: Claims, group: Group) -> str:
    """Of a group's row in a table: `≥ 0.8 at IoU 0.5`, `≥ 0.8 together …` for several classes, or `no`; without IoU
    where overlaps play no part."""
    if not (found := every.certificate(group)):
        return "adaptive" if group.certified and every.standing == "adaptive" else "no"
    together = "" if found.alone else " together"
    return f"≥ {found.target:g}{together}" + (at_iou(manifest, group.iou) if group.iou is not None else "")


def uncertified(manifest: Manifest) -> list[str]:
    """A line for each group that was to be certified and was not, those with the most predictions first: its classes,
    why, and what became of them. Those beyond UNCERTIFIED are counted in one."""
    noun = kind_of(manifest.kind).noun
    missed = [group for group in groups(manifest) if group.rule == "precision" and not group.certified]
    missed.sort(key=lambda group: -sum(manifest.per_class[name]["predicted"] for name in group.classes))
    lines = []
    for group in missed[:UNCERTIFIED]:
        did = "void" if kind_of(manifest.kind).pixels else "background" if group.background else "ignored"
        fate = f"its {noun} are {did}"
        if group.threshold is not None:
            fate = f"kept from {group.threshold:.4g} on all the same"
        lines.append(f"{short_members(group.classes)}: {group.reason}; {fate}")
    if rest := [name for group in missed[UNCERTIFIED:] for name in group.classes]:
        lines.append(f"and {len(rest)} more classes ({short_members(rest)}): the report and --json say why")
    return lines


def interval_text(value: float | None, low: float, high: float) -> str:
    """`0.62 (0.55 to 0.69)`, or `-`."""
    return "-" if value is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def class_certificate(claim: ClassClaim) -> str:
    """Of a class's row in a table."""
    if claim.certified == "no":
        return "no" if claim.kept else "nothing kept"
    return f"≥ {claim.target:g}" if claim.certified == "alone" else "in its group only"


def class_cells(manifest: Manifest) -> dict[str, tuple[str, str, str]]:
    """Of each class by itself: what is certified, its precision, marked where it lies below the target, and its recall;
    empty for a version without such estimates."""
    every = claims(manifest)
    cells = {}
    for claim in every.classes if every.level is not None else ():
        precision = recall = "-"
        if found := claim.estimate:
            below = f", below {claim.target:g}" if claim.flagged else ""
            precision = interval_text(found.precision, found.low, found.high) + below
            recall = interval_text(found.recall, found.recall_low, found.recall_high)
        cells[claim.name] = class_certificate(claim), precision, recall
    return cells


def class_note(manifest: Manifest) -> str:
    """How a table of classes is to be read."""
    truth, level = manifest.provenance.truth, claims(manifest).level
    note = (
        f"Precision and recall at these thresholds on the {truth.tune if truth else 0} labelled images of the tune half"
        f"{at_iou(manifest, truth.measured.iou) if truth and truth.measured else ''}, each with its {level or 0:.0%} "
        "interval: estimates, which warn of a class and certify none. Certified by itself is only a class that was "
        "tested in a sequence of its own (keep.precision.over: class)."
    )
    if manifest.provenance.calibration is not None:
        note += " The calibration was fitted on the same images, which flatters them."
    return note

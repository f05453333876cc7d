"""What the labels that a student learned say of why it is no better: how many, of which classes, and how many right.

Selections are those of the seeds of one setting: shares are of their sums.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from builder.kinds import kind_of
from builder.words import count, percent
from students.doctor.records import Case, Finding, Labels, Selection

NEARLY_ALL = 0.9
"""Kept share of a pool from which on a rule is no filter, where it is not known what is wrong; chosen, not measured.
Where it is known, a rule is none that leaves out fewer than it keeps wrong."""
NEARLY_NOTHING = 0.1
"""Kept share of a pool below which it is hardly used; chosen, not measured."""
HARMLESS = 0.02
"""Wrong share of the kept up to which it is no fault; chosen, not measured."""
CLASS_WRONG = 0.1
"""Wrong share of a class from which it is named."""
FEWEST = 10
"""Kept objects of a class below which its precision is an accident."""
TIMES, POINTS = 2.0, 0.2
"""A class has too large a share if it is so many times, and so much larger than, its share in the labels."""
EXPECTED = 0.01
"""Share of the labels from which a class of which nothing is kept is missed."""
MISSED = 0.5
"""Share of the true objects not kept from which the rest teaches that they are background."""
FASTER = 5.0
"""Passes through the pool for one through the labels from which it is too small for its half of every batch."""
NAMED = 3


def no_filter(case: Case) -> Finding | None:
    """Nearly all of the pool is kept, right or wrong, or more that is wrong than is left out."""
    parts = [part for part in case.selections if not kind_of(part.kind).overlaps and not part.told]
    share, wrong = _share(parts), 1 - _precision(parts)
    if not (share >= NEARLY_ALL if math.isnan(wrong) else wrong >= HARMLESS and 1 - share < share * wrong):
        return None
    shown, so = f", {percent(wrong)} of it wrongly labelled", "so the teacher is surer than it is right"
    if math.isnan(wrong):
        shown, so = "", "so the teacher's errors are in it, however many there are"
    sentence = (
        f"the rule is no filter: {percent(share)} of the pool's {parts[0].noun} are kept at {parts[0].rule}{shown}, "
        f"{so}; raise keep.score, or let held-out labels set it (keep.precision)"
    )
    return Finding("no-filter", sentence, {"kept": share, "wrong": wrong})


def nearly_nothing(case: Case) -> Finding | None:
    """So little of the pool is kept that it can teach little; of boxes and masks, that what is missed is taught as
    background."""
    parts = case.selections
    if not parts:
        return None
    kind, share, recall = kind_of(parts[0].kind), _share(parts), _mean([part.recall for part in parts])
    if not kind.overlaps:
        if not share <= NEARLY_NOTHING:
            return None
        kept = count(sum(part.total for part in parts) / len(parts))
        sentence = (
            f"nearly nothing is kept: {percent(share)} of the pool's {parts[0].noun} ({kept}) at {parts[0].rule}; a "
            "teacher that is so unsure needs more steps, or a lower keep.score"
        )
        return Finding("nearly-nothing", sentence, {"kept": share})
    density = _density(parts)
    if 1 - recall >= MISSED:
        shown = f"{percent(1 - recall)} of the pool's true objects are not kept"
    elif density <= 1 - MISSED and math.isnan(recall):
        shown = f"an image of the pool keeps {percent(density)} of the {parts[0].noun} that a labelled one has"
    else:
        return None
    sentence = (
        f"most objects are taught as background or ignored: {shown} at {parts[0].rule}; lower keep.score for them, "
        "ignore more below it (keep.ignore), or label with a better teacher"
    )
    return Finding("nearly-nothing", sentence, {"recall": recall, "density": density})


def one_sided(case: Case) -> Finding | None:
    """One class has a far larger share of what is kept than of the human labels, or else of the predictions."""
    parts = case.selections
    kept = _sum([part.kept for part in parts])
    if not (total := sum(kept.values())) or len(kept) < 2:
        return None
    usual, whose = _expected(parts)
    name, share = max(((name, n / total) for name, n in kept.items()), key=lambda pair: pair[1] - usual[pair[0]])
    if share < TIMES * usual[name] or share - usual[name] < POINTS:
        return None
    sentence = (
        f"the selection is one-sided: {percent(share)} of the kept {parts[0].noun} are {name}, which is "
        f"{percent(usual[name])} of {whose}; give each class its threshold (keep.score: {{{name}: …}}), or "
        "balance them (keep.balance)"
    )
    return Finding("one-sided", sentence, {"class": name, "share": share, "usual": usual[name]})


def classes_gone(case: Case) -> Finding | None:
    """Classes of which nothing is kept in most seeds, though the labels, or else the predictions, have them."""
    parts = case.selections
    if not parts or not any(part.total for part in parts):
        return None
    usual, whose = _expected(parts)
    names = {name for part in parts for name in part.kept} | set(usual)
    gone = sorted(
        (name for name in names if usual[name] >= EXPECTED and 2 * _without(parts, name) > len(parts)),
        key=lambda name: (-usual[name], name),
    )
    if not gone:
        return None
    share = sum(usual[name] for name in gone)
    sentence = (
        f"nothing is kept of {_listed(gone)}, {percent(share)} of {whose}, so the pool teaches that they do not occur; "
        "lower the threshold of these classes (keep.score by class)"
    )
    return Finding("classes-gone", sentence, {"classes": gone, "share": share})


def imprecise(case: Case) -> Finding | None:
    """Much of what is kept is wrong, in all or of some classes."""
    parts = [part for part in case.selections if part.right]
    if not parts:
        return None
    counts = {name: (0, 0) for part in parts for name in part.right}
    for part in parts:
        for name, right in part.right.items():
            counts[name] = (counts[name][0] + right.kept, counts[name][1] + right.right)
    wrong = 1 - _precision(parts)
    worst = sorted(
        ((name, right / kept) for name, (kept, right) in counts.items() if kept >= FEWEST * len(parts)),
        key=lambda pair: pair[1],
    )
    worst = [(name, precision) for name, precision in worst if 1 - precision >= CLASS_WRONG]
    if not worst and not wrong >= CLASS_WRONG:
        return None
    named = f", least of {', '.join(f'{name} ({percent(p)})' for name, p in worst[:NAMED])}" if worst else ""
    sentence = f"of the kept {parts[0].noun} {percent(1 - wrong)} are right{named}; " + remedy(parts, bool(worst))
    return Finding("imprecise", sentence, {"precision": 1 - wrong, "worst": [name for name, _ in worst]})


def remedy(parts: Sequence[Selection], by_class: bool = False) -> str:
    """What to do about wrong labels: where little is kept already, a higher threshold is none."""
    if parts and all(part.told for part in parts):
        return "all have score 1, so that no threshold tells right from wrong: correct them where they come from"
    if _share([part for part in parts if not kind_of(part.kind).overlaps]) <= NEARLY_NOTHING:
        return "so little is kept that no higher threshold mends that: train the teacher longer"
    if by_class:
        return "give these classes a threshold of their own, or let held-out labels set it (keep.precision)"
    return "keep less and surer labels (keep.precision, or a higher keep.score)"


def unequal_passes(case: Case) -> Finding | None:
    """The second half of every batch goes through the kept pool far more often, or less than once."""
    human, pseudo = case.images
    if not human or not pseudo or not case.steps or not case.batch:
        return None
    seen = case.steps * (case.batch // 2)
    if seen / pseudo >= FASTER * seen / human:
        sentence = (
            f"the {count(pseudo)} images of the pool that are kept are gone through {count(seen / pseudo)} times, the "
            f"{count(human)} labelled ones {count(seen / human)} times, though half of every batch is theirs; keep "
            "more of the pool, or give it less weight (alpha)"
        )
    elif seen < pseudo:
        sentence = (
            f"{count(case.steps)} steps go through {percent(seen / pseudo)} of the {count(pseudo)} images of the pool; "
            "train longer, or label fewer"
        )
    else:
        return None
    return Finding("unequal-passes", sentence, {"human": seen / human, "pseudo": seen / pseudo})


def _expected(parts: Sequence[Selection]) -> tuple[Mapping[str, float], str]:
    """The share of each class that is to be expected, and of what it is: of the human labels, else of the
    predictions."""
    human: list[Labels] = [part.human for part in parts if part.human is not None]
    counts = _sum([labels.by_class for labels in human]) if human else _sum([part.predicted for part in parts])
    whole = max(1, sum(counts.values()))
    shares = defaultdict(float, {name: n / whole for name, n in counts.items()})
    return shares, "the human labels" if human else "what the teacher predicts"


def _without(parts: Sequence[Selection], name: str) -> int:
    return sum(not part.kept.get(name, 0) for part in parts)


def _density(parts: Sequence[Selection]) -> float:
    """Kept on an image of the pool, for each object on a labelled one; NaN where that is not known."""
    human = [part.human for part in parts if part.human is not None and part.human.images]
    usual = _mean([sum(labels.by_class.values()) / labels.images for labels in human])
    ours = _mean([part.total / part.pool for part in parts if part.pool])
    return ours / usual if usual else math.nan


def _share(parts: Sequence[Selection]) -> float:
    return _mean([part.share for part in parts])


def _precision(parts: Sequence[Selection]) -> float:
    kept = sum(right.kept for part in parts for right in part.right.values())
    return sum(right.right for part in parts for right in part.right.values()) / kept if kept else math.nan


def _sum(counts: Sequence[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more classes" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more

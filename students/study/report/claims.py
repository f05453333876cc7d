"""What a study found where the paper claims something (arXiv 2006.06882), and by one rule that looks at contrasts alone
what that makes of its four claims. The result comes first: a claim may be refuted by the figures below it.

Each claim becomes a family of contrasts with an expected sign, and their average, if there are several; Holm's p-values
are over all of these. The claim
- *does not hold* if any of them has the other sign, shown (p < .05);
- *holds here* if all contrasts have the expected sign, shown; *holds in part* if some have, or their average;
- is *not shown* if none is, with LEAST pairs or more somewhere; with fewer everywhere there is a *direction only*;
- is *not tested* if the grid has no such contrast, or none of its pairs is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from students.study.axes import Axes, Cells, Setting, base_arm, find, share, shares
from students.study.compare import LEAST, Comparison, Contrast, average, compare, compare_all
from students.study.report.tables import measured

Verdict = Literal["holds here", "holds in part", "does not hold", "not shown", "direction only", "not tested"]


@dataclass(frozen=True)
class Starts:
    """Which ways to begin, by their names in the grid, are random weights (None: none), pre-trained on labels, and
    pre-trained without."""

    random: str | None
    pretrained: tuple[str, ...]
    self_supervised: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """What a claim is about. name: in a few words; claim: a sentence, the paper's; sign: 1 where its comparisons are
    expected to be higher, -1 lower; higher, lower: what a comparison says that is."""

    name: str
    claim: str
    sign: int
    higher: str = "Better"
    lower: str = "Worse"


@dataclass(frozen=True)
class Claim:
    """comparisons: the last one is the average of the rest, where there are several. result: what was found, in a line,
    whatever was claimed; "" where nothing was. trend: 1 if more of them are higher than lower, -1 the other way, else
    0. why: the verdict in plain words."""

    subject: Subject
    comparisons: tuple[Comparison, ...]
    verdict: Verdict
    result: str
    trend: int
    why: str


def claims(cells: Cells, axes: Axes, starts: Starts) -> list[Claim]:
    """The paper's four claims, in its order."""
    return [
        _pretraining(cells, axes, starts),
        _self_training(cells, axes),
        _adding(cells, axes, starts),
        _self_supervised(cells, axes, starts),
    ]


def judge(comparisons: Sequence[Comparison], sign: int) -> Verdict:
    """The rule above, for the comparisons of a claim."""
    tested = [comparison for comparison in comparisons if comparison.spread.n]
    if not tested:
        return "not tested"
    if any(comparison.sign == -sign for comparison in tested):
        return "does not hold"
    shown = [comparison.sign == sign for comparison in comparisons]
    if all(shown[:-1] or shown):
        return "holds here"
    if any(shown):
        return "holds in part"
    return "not shown" if any(comparison.spread.n >= LEAST for comparison in tested) else "direction only"


def _claim(subject: Subject, contrasts: Sequence[Contrast], cells: Cells, why_not: str, more: str = "") -> Claim:
    family = [*contrasts, average(contrasts)] if len(contrasts) > 1 else contrasts
    comparisons = compare_all(family, cells)
    verdict = judge(comparisons, subject.sign)
    if verdict == "not tested":
        why = "No cells of one seed that it compares are done on both sides." if contrasts else why_not
        return Claim(subject, tuple(comparisons), verdict, "", 0, why)
    tested = [comparison for comparison in comparisons[:-1] or comparisons if comparison.spread.n]
    metric = next(result.metric for seeds in cells.values() for result in seeds.values())
    why = f"{_counted(comparisons, subject.sign)} {more}".strip()
    return Claim(subject, tuple(comparisons), verdict, *_result(subject, tested, metric), why)


def _result(subject: Subject, tested: Sequence[Comparison], metric: str) -> tuple[str, int]:
    """What was found, the more frequent direction first, and that direction, 0 for neither: `Worse in 2 of 2 pairs
    (-15.7 to -2.6 points of AP), 3 seeds: direction only`; of what is not shown only below LEAST seeds."""
    seeds = sorted({comparison.spread.n for comparison in tested})
    few = seeds[-1] < LEAST
    signs = [(c.spread.mean > 0) - (c.spread.mean < 0) if few else c.sign for c in tested]
    ways = sorted([(signs.count(1), subject.higher), (signs.count(-1), subject.lower)], key=lambda way: -way[0])
    found = [f"{word} in {n}" for n, word in ways if n]
    pairs, rest = f"{len(tested)} pair{'s' * (len(tested) > 1)}", signs.count(0)
    if found:
        text = " and ".join([found[0], *(words[0].lower() + words[1:] for words in found[1:])]) + f" of {pairs}"
        text += f", no difference {'' if few else 'shown '}in {rest}" if rest else ""
    else:
        text = f"No difference {'' if few else 'shown '}in {pairs}"
    count = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    text += f" ({_ends(tested)} points of {metric}), {count} seed{'s' * (seeds[-1] > 1)}"
    return text + (": direction only" if few else ""), (sum(signs) > 0) - (sum(signs) < 0)


def _ends(tested: Sequence[Comparison]) -> str:
    means = [100 * comparison.spread.mean for comparison in tested]
    ends = f"{min(means):+.1f}" + (f" to {max(means):+.1f}" if len(means) > 1 else "")
    return ends


def _counted(comparisons: Sequence[Comparison], sign: int) -> str:
    """The comparisons of a claim in one or two sentences."""
    each = comparisons[:-1] or comparisons
    tested = [comparison for comparison in each if comparison.spread.n]
    word, other = ("higher", "lower") if sign > 0 else ("lower", "higher")
    share = f"{len(tested)} of " if len(tested) < len(each) else ""
    ends = _ends(tested) if tested else "-"
    text = f"{share}{len(each)} comparison{'s' * (len(each) > 1)}, mean difference {ends} points"
    text += (
        f", on average {measured(comparisons[-1].spread, signed=True)}"
        if len(each) > 1 and comparisons[-1].spread.n
        else ""
    )
    if all(comparison.spread.n < LEAST for comparison in tested):
        agree = sum(comparison.spread.mean * sign > 0 for comparison in tested)
        return f"{text}: {word}, as claimed, in {agree}; fewer than {LEAST} seeds show no more than a direction."
    shown, against = (sum(comparison.sign == s for comparison in tested) for s in (sign, -sign))
    rest = len(each) - shown - against
    return f"{text}: {word}, as claimed, and shown in {shown}; {other} and shown in {against}; not shown in {rest}."


def _places(cells: Cells, axes: Axes, arm: str, init: str | None = None) -> Iterator[Setting]:
    for augment in axes.augments:
        for start in axes.inits if init is None else (init,):
            for fraction in axes.fractions:
                if (setting := find(cells, arm, augment, start, fraction)) is not None:
                    yield setting


def _less(name: str, cells: Cells, setting: Setting, arm: str, init: str) -> Contrast | None:
    """`one` less the same place with another arm and start."""
    other = find(cells, arm, setting.augment, init, setting.fraction)
    return None if other is None else Contrast(name, ((1, setting), (-1, other)))


def _worth(cells: Cells, init: str, random: str, augment: str, fraction: float) -> Contrast | None:
    """What a start is worth in training on human labels alone, against random weights: as long as a student, or, where
    that was not run, for its teacher's steps as well."""
    for arm in ("supervised", "longer"):
        if setting := find(cells, arm, augment, init, fraction):
            return _less(f"{init} - {random}, {arm}, {augment}, {share(fraction)}", cells, setting, arm, random)
    return None


def _fall(name: str, first: Contrast | None, second: Contrast | None) -> Iterator[Contrast]:
    """How much smaller the second contrast is than the first."""
    if first is not None and second is not None and first.terms != second.terms:
        yield Contrast(name, (*first.terms, *((-weight, setting) for weight, setting in second.terms)))


def _pretraining(cells: Cells, axes: Axes, starts: Starts) -> Claim:
    subject = Subject(
        "What pre-training is worth, as augmentation and labels grow",
        "Stronger augmentation and more labels lessen the value of pre-training, and can turn it negative.",
        1,
        "Less",
        "More",
    )
    contrasts: list[Contrast] = []
    worth = []
    for init in starts.pretrained if starts.random else ():
        random = starts.random or ""
        at = {(a, f): _worth(cells, init, random, a, f) for a in axes.augments for f in axes.fractions}
        weak, strong, few, many = axes.augments[0], axes.augments[-1], axes.fractions[0], axes.fractions[-1]
        for fraction in axes.fractions:
            name = f"({init} - {random}) with {weak} less with {strong}, {share(fraction)}"
            contrasts += _fall(name, at[weak, fraction], at[strong, fraction])
        for augment in axes.augments:
            name = f"({init} - {random}) with {share(few)} less with {share(many)}, {augment}"
            contrasts += _fall(name, at[augment, few], at[augment, many])
        if (last := at[strong, many]) is not None and (figures := compare(last, cells).spread).n:
            worth.append(f"With {strong} and {share(many)} {init} is worth {measured(figures, signed=True)} points.")
    why_not = "It takes a random and a pre-trained start, and two augmentations or two label fractions."
    return _claim(subject, contrasts, cells, why_not, " ".join(worth))


def _self_training(cells: Cells, axes: Axes) -> Claim:
    base = base_arm(axes)
    subject = Subject(
        f"Self-training against {'equally long supervision' if base == 'longer' else 'supervision'}",
        "Self-training helps at every augmentation strength, with few labels and with many.",
        1,
    )
    contrasts = [
        contrast
        for setting in (_places(cells, axes, "self-training") if base else ())
        if (contrast := _less(_named(setting, base or ""), cells, setting, base or "", setting.init)) is not None
    ]
    tried = f"Tested with {', '.join(axes.augments)} and {shares(axes.fractions)}"
    fair = ", at an equal budget." if base == "longer" else ": without the arm longer the budget is not equal."
    why_not = "It takes the arms self-training and longer or supervised."
    return _claim(subject, contrasts, cells, why_not, f"{tried}, against {base}{fair}")


def _adding(cells: Cells, axes: Axes, starts: Starts) -> Claim:
    subject = Subject(
        "Self-training on top of pre-training", "Where pre-training helps, self-training helps on top of it.", 1
    )
    contrasts, base, tried = [], base_arm(axes), False
    for init in (*starts.pretrained, *starts.self_supervised) if base and starts.random else ():
        for setting in _places(cells, axes, "self-training", init):
            worth = _worth(cells, init, starts.random or "", setting.augment, setting.fraction)
            contrast = _less(_named(setting, base or ""), cells, setting, base or "", init)
            if worth is not None and contrast is not None:
                tried = True
                contrasts += [contrast] * _helps(compare(worth, cells))
    why_not = (
        "Pre-training helps nowhere here, so that there is nothing to add to."
        if tried
        else "It takes a random and a pre-trained start, supervised or longer, and with self-training."
    )
    more = (
        "Only where the pre-trained start is better by itself: its interval lies above 0, or, below 5 seeds, its mean."
    )
    return _claim(subject, contrasts, cells, why_not, more)


def _helps(worth: Comparison) -> bool:
    figures = worth.spread
    return figures.low > 0 if figures.n >= LEAST else figures.n > 0 and figures.mean > 0


def _self_supervised(cells: Cells, axes: Axes, starts: Starts) -> Claim:
    subject = Subject(
        "Self-supervised pre-training against random weights",
        "Self-supervised pre-training hurts, too, with many labels and strong augmentation.",
        -1,
    )
    augment, fraction = axes.augments[-1], axes.fractions[-1]
    worths = (_worth(cells, init, starts.random or "", augment, fraction) for init in starts.self_supervised)
    contrasts = [contrast for contrast in worths if contrast is not None]
    why_not = "It takes a random start and one that is pre-trained without labels (SimCLR)."
    return _claim(subject, contrasts, cells, why_not, f"Tested with {augment} and {share(fraction)}.")


def _named(setting: Setting, base: str) -> str:
    return f"self-training - {base}, {setting.augment}, {setting.init} init, {share(setting.fraction)}"

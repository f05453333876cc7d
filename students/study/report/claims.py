"""What a study says of the paper's four claims (arXiv 2006.06882), by one rule that looks at contrasts alone.

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

from students.study.axes import Axes, Cells, Setting, find, share, shares
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
class Claim:
    """sign: 1 where its comparisons are expected to be higher, -1 lower; the last one is the average of the rest, where
    there are several. why: the verdict in plain words."""

    title: str
    sign: int
    comparisons: tuple[Comparison, ...]
    verdict: Verdict
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


def _claim(title: str, sign: int, contrasts: Sequence[Contrast], cells: Cells, why_not: str, more: str = "") -> Claim:
    family = [*contrasts, average(contrasts)] if len(contrasts) > 1 else contrasts
    comparisons = compare_all(family, cells)
    verdict = judge(comparisons, sign)
    if verdict == "not tested":
        why = "No cells of one seed that it compares are done on both sides." if contrasts else why_not
    else:
        why = f"{_counted(comparisons, sign)} {more}".strip()
    return Claim(title, sign, tuple(comparisons), verdict, why)


def _counted(comparisons: Sequence[Comparison], sign: int) -> str:
    """The comparisons of a claim in one or two sentences."""
    each = comparisons[:-1] or comparisons
    tested = [comparison for comparison in each if comparison.spread.n]
    means = [100 * comparison.spread.mean for comparison in tested]
    word, other = ("higher", "lower") if sign > 0 else ("lower", "higher")
    ends = f"{min(means):+.1f}" + (f" to {max(means):+.1f}" if len(means) > 1 else "") if means else "-"
    share = f"{len(tested)} of " if len(tested) < len(each) else ""
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


def _base(axes: Axes) -> str | None:
    """The arm that self-training is held against: equal budget, where it was run."""
    return next((arm for arm in ("longer", "supervised") if arm in axes.arms), None)


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
    """What a start is worth in supervised training, against random weights."""
    name = f"{init} - {random}, supervised, {augment}, {share(fraction)}"
    setting = find(cells, "supervised", augment, init, fraction)
    return None if setting is None else _less(name, cells, setting, "supervised", random)


def _fall(name: str, first: Contrast | None, second: Contrast | None) -> Iterator[Contrast]:
    """How much smaller the second contrast is than the first."""
    if first is not None and second is not None and first.terms != second.terms:
        yield Contrast(name, (*first.terms, *((-weight, setting) for weight, setting in second.terms)))


def _pretraining(cells: Cells, axes: Axes, starts: Starts) -> Claim:
    title = "Stronger augmentation and more labels lessen the value of pre-training, and can turn it negative."
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
    return _claim(title, 1, contrasts, cells, why_not, " ".join(worth))


def _self_training(cells: Cells, axes: Axes) -> Claim:
    title = "Self-training helps at every augmentation strength, with few labels and with many."
    base = _base(axes)
    contrasts = [
        contrast
        for setting in (_places(cells, axes, "self-training") if base else ())
        if (contrast := _less(_named(setting, base or ""), cells, setting, base or "", setting.init)) is not None
    ]
    tried = f"Tested with {', '.join(axes.augments)} and {shares(axes.fractions)}"
    fair = ", at an equal budget." if base == "longer" else ": without the arm longer the budget is not equal."
    why_not = "It takes the arms self-training and longer or supervised."
    return _claim(title, 1, contrasts, cells, why_not, f"{tried}, against {base}{fair}")


def _adding(cells: Cells, axes: Axes, starts: Starts) -> Claim:
    title = "Where pre-training helps, self-training helps on top of it."
    contrasts, base, tried = [], _base(axes), False
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
        else "It takes a random and a pre-trained start, supervised and with self-training."
    )
    more = (
        "Only where the pre-trained start is better by itself: its interval lies above 0, or, below 5 seeds, its mean."
    )
    return _claim(title, 1, contrasts, cells, why_not, more)


def _helps(worth: Comparison) -> bool:
    figures = worth.spread
    return figures.low > 0 if figures.n >= LEAST else figures.n > 0 and figures.mean > 0


def _self_supervised(cells: Cells, axes: Axes, starts: Starts) -> Claim:
    title = "Self-supervised pre-training hurts, too, with many labels and strong augmentation."
    augment, fraction = axes.augments[-1], axes.fractions[-1]
    worths = (_worth(cells, init, starts.random or "", augment, fraction) for init in starts.self_supervised)
    contrasts = [contrast for contrast in worths if contrast is not None]
    why_not = "It takes a random start and one that is pre-trained without labels (SimCLR)."
    return _claim(title, -1, contrasts, cells, why_not, f"Tested with {augment} and {share(fraction)}.")


def _named(setting: Setting, base: str) -> str:
    return f"self-training - {base}, {setting.augment}, {setting.init} init, {share(setting.fraction)}"

"""What a study set out to show, answered in words: its primary contrasts, each with how far the pool's true labels
would go and what the labelled images in the pool's place do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from builder.words import count
from students.study.axes import Cells, described, partner
from students.study.compare import LEAST, Comparison, Contrast, Spread, compare_all, ratio
from students.study.report.tables import NONE, decimals, ends, gained

CONTROLS = ("ceiling", "placebo")
TAUGHT = ("self-training", "doubly-robust")
"""Arms that have labels and start of the controls."""
BASES = ("longer", "supervised")
"""Arms that controls are held against."""
VAGUE = 2.0
"""Width of an interval of shares that is no longer worth saying."""


@dataclass(frozen=True)
class Answer:
    """A primary contrast and its controls.

    where: its setting in words, "" where its arm has one alone. ceiling, placebo: of the same setting, less the arm
    that the contrast is against; None where they were not run, or do not bear on it. share: of the ceiling's gain that
    is the contrast's, with its interval (students.study.compare.ratio), NaN unless the ceiling is shown to be better.
    """

    comparison: Comparison
    where: str
    metric: str
    family: int
    ceiling: Comparison | None
    placebo: Comparison | None
    share: tuple[float, float, float]

    @property
    def arms(self) -> tuple[str, str]:
        """What is compared with what."""
        (_, arm), (_, against) = self.comparison.contrast.terms
        return arm.arm, against.arm

    @property
    def trend(self) -> int:
        """1: higher, -1: lower; 0: neither is shown. Of too few seeds that of their mean."""
        figures = self.comparison.spread
        few = 0 < figures.n < LEAST
        return (figures.mean > 0) - (figures.mean < 0) if few else self.comparison.sign


def answers(primary: Sequence[Comparison], cells: Cells, metric: str) -> list[Answer]:
    """One for each primary contrast. Controls that are no primary contrasts themselves have Holm's p-values over all
    controls of their arm here."""
    known = {comparison.contrast.terms: comparison for comparison in primary}
    beside: dict[tuple[str, Contrast], Comparison] = {}
    for control in CONTROLS:
        made = {one.contrast: contrast for one in primary if (contrast := _control(one, control, cells)) is not None}
        family = list({contrast.terms: contrast for contrast in made.values()}.values())
        held = {one.contrast.terms: one for one in compare_all(family, cells)} | known
        beside |= {(control, contrast): held[other.terms] for contrast, other in made.items()}
    found = []
    for comparison in primary:
        ceiling, placebo = (beside.get((control, comparison.contrast)) for control in CONTROLS)
        shown = ceiling is not None and ceiling.sign > 0
        share = ratio(comparison, ceiling) if ceiling is not None and shown else (math.nan,) * 3
        setting = comparison.contrast.terms[0][1]
        several = sum(other.arm == setting.arm for other in cells) > 1
        where = described(setting, cells) if several else ""
        found.append(Answer(comparison, where, metric, len(primary), ceiling, placebo, share))
    return found


def _control(comparison: Comparison, control: str, cells: Cells) -> Contrast | None:
    """The control less what the contrast is against: of TAUGHT against supervision alone, whose labels and start
    the controls have."""
    (_, arm), (weight, against) = comparison.contrast.terms
    other = partner(arm, cells, control)
    if arm.arm not in TAUGHT or against.arm not in BASES or other is None:
        return None
    return Contrast(f"{control} - {against.arm}, {described(arm, cells)}", ((1, other), (weight, against)))


def headline(answer: Answer) -> tuple[str, str]:
    """The answer in a line of two parts, what was found and how sure that is: `Self-training is 1.6 points of AP above
    longer` and `(95 % interval +0.9 to +2.1, 5 seeds): higher, shown`."""
    comparison, (arm, against) = answer.comparison, answer.arms
    figures, name = comparison.spread, f"{arm[0].upper()}{arm[1:]}"
    if not figures.n:
        return f"{name} against {against} has no figures yet", ""
    seeds = f"{figures.n} of {figures.n + len(comparison.lost)} seeds" if comparison.lost else _seeds(figures.n)
    found = f"{name} is {_distance(figures, answer.metric)} {against}"
    if figures.n < LEAST:
        extent = f"{ends(figures.least, figures.most)} in {seeds}" if figures.n > 1 else seeds
        return found, f"({extent}): direction only"
    extent = ends(figures.low, figures.high, decimals(figures))
    return found, f"({f'95 % interval {extent}' if extent != NONE else 'alike in all'}, {seeds}): {_said(answer)}"


def _said(answer: Answer) -> str:
    """What is shown; an interval that leaves out 0 alone shows nothing among several contrasts."""
    sign, figures = answer.comparison.sign, answer.comparison.spread
    if sign:
        return "higher, shown" if sign > 0 else "lower, shown"
    apart = figures.p < 0.05
    return "no difference shown" + (f" once p is adjusted over {answer.family} contrasts" if apart else "")


def controls(answer: Answer) -> list[str]:
    """Sentences on the ceiling, and on the placebo, where they have figures."""
    said = []
    if answer.ceiling is not None and answer.ceiling.spread.n:
        said.append(_ceiling(answer, answer.ceiling))
    if answer.placebo is not None and answer.placebo.spread.n:
        result = {1: "higher, shown", -1: "lower, shown", 0: "no difference shown"}[answer.placebo.sign]
        few = answer.placebo.spread.n < LEAST
        text = f"The labelled images in the pool's place (placebo): {_gain(answer.placebo)}"
        said.append(f"{text}, {'direction only' if few else result}.")
    return said


def _ceiling(answer: Answer, ceiling: Comparison) -> str:
    arm, against = answer.arms
    if ceiling.spread.n < LEAST:
        return f"The pool's true labels (ceiling): {_gain(ceiling)}, direction only."
    if ceiling.sign < 1:
        shown = "do worse than" if ceiling.sign else "are not shown to be better than"
        return (
            f"The pool's true labels (ceiling) {shown} {against}, {_gain(ceiling)}: nothing shows that labels of this "
            "pool, however right, can help here."
        )
    text = f"The pool's true labels (ceiling) would bring {_gain(ceiling)}"
    whole, low, high = answer.share
    if math.isnan(whole):
        return f"{text}."
    if high - low > VAGUE:
        return f"{text}: how much of it {arm} has cannot be told."
    if whole <= 0:
        return f"{text}: {arm} has none of it."
    extent = "" if math.isnan(low) else f" ({100 * low:.0f} to {100 * high:.0f} %)"
    return f"{text}: {arm} has {100 * whole:.0f} % of it{extent}."


def _gain(comparison: Comparison) -> str:
    return gained(comparison.spread, " points")


def _distance(figures: Spread, metric: str) -> str:
    digits = decimals(figures)
    size = f"{abs(100 * figures.mean):.{digits}f}"
    if not float(size):
        return "level with"
    return f"{size} points of {metric} {'above' if figures.mean > 0 else 'below'}"


def _seeds(n: int) -> str:
    return f"{count(n)} seed{'s' * (n > 1)}"


def columns(found: Sequence[Answer]) -> dict[str, list[str]]:
    """For the table of primary contrasts: the controls that were run, less the same arm; of the ceiling the share."""
    made: dict[str, list[str]] = {}
    for control in CONTROLS:
        held: list[Comparison | None] = [getattr(answer, control) for answer in found]
        if any(one is not None and one.spread.n for one in held):
            made[control] = [NONE if one is None else gained(one.spread) for one in held]
    shares = [math.nan if answer.share[2] - answer.share[1] > VAGUE else answer.share[0] for answer in found]
    if any(not math.isnan(share) for share in shares):
        texts = [NONE if math.isnan(share) else f"{100 * share:.0f} %" for share in shares]
        made = {"ceiling": made.pop("ceiling"), "of it": texts, **made}
    return made

"""The tables of a study, with the axes of the paper's: 2, 3, 4 and 7 of arXiv 2006.06882. One is there only where the
grid has its axes. All figures are 100 times the metric, as in the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from markupsafe import Markup

from builder.report.page import table
from students.study.axes import Axes, Cells, Setting, find, share
from students.study.compare import LEAST, Comparison, Contrast, Spread, compare, spread

NONE = "-"
"""A figure that is not there."""
WAYS = {"higher": 1, "lower": -1}


@dataclass(frozen=True)
class Table:
    """Cells are plain text; the first `names` columns are words, the others figures."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


def markdown(content: Table) -> str:
    """The table under a heading, in GitHub's Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rule = line("---" if place < content.names else "---:" for place in range(len(content.columns)))
    return "\n".join(
        [f"### {content.title}", "", content.note, "", line(content.columns), rule, *map(line, content.rows), ""]
    )


def html(content: Table) -> Markup:
    """The table alone, for a page."""
    names = ["wide" if content.names == 1 else ""] * content.names
    columns = list(zip(content.columns, names + ["num"] * (len(content.columns) - content.names), strict=True))
    return table(columns, content.rows)


def decimals(figures: Spread) -> int:
    """Of its points: 1, and 2 where one would say ± 0.0."""
    return 2 if 100 * (figures.high - figures.low) / 2 < 0.095 else 1


def ends(low: float, high: float, digits: int = 1) -> str:
    """The ends of an interval of differences in points, `+0.9 to +2.1`."""
    return NONE if math.isnan(low) else f"{100 * low:+.{digits}f} to {100 * high:+.{digits}f}"


def gained(figures: Spread, unit: str = "") -> str:
    """A difference with the ends of its interval, `+1.6 points (+0.9 to +2.1)`; below LEAST values of their range."""
    if not figures.n:
        return NONE
    digits = decimals(figures)
    within = (figures.low, figures.high) if figures.n >= LEAST else (figures.least, figures.most)
    extent = NONE if figures.n == 1 else ends(*within, digits)
    mean = round(100 * figures.mean, digits) + 0.0  # no -0.0
    return f"{mean:+.{digits}f}{unit}" + (f" ({extent})" if extent != NONE else "")


def measured(figures: Spread, *, signed: bool = False) -> str:
    """A mean with its interval, `44.3 ± 0.4`; below LEAST values with their range, `44.3 (43.9 to 44.8)`; the sign of
    `signed` is that of a difference. Two decimals where one would say ± 0.0."""
    if not figures.n:
        return NONE
    reach, digits = 100 * (figures.high - figures.low) / 2, decimals(figures)
    mean = f"{100 * figures.mean:+.{digits}f}" if signed else f"{100 * figures.mean:.{digits}f}"
    if not math.isnan(reach):
        return f"{mean} ± {reach:.{digits}f}"
    if figures.n == 1 or figures.least == figures.most:
        return mean
    if signed:
        return f"{mean} ({ends(figures.least, figures.most)})"
    return f"{mean} ({100 * figures.least:.1f} to {100 * figures.most:.1f})"


def at(cells: Cells, setting: Setting | None) -> Spread:
    """The figures of a setting over its seeds."""
    done = cells.get(setting, {}).values() if setting else ()
    return spread([result.value for result in done if result.done])


def gain(cells: Cells, a: Setting | None, b: Setting | None) -> Spread:
    """How much better a is than b, paired over seeds."""
    if a is None or b is None or a == b:
        return spread([])
    return compare(Contrast("", ((1, a), (-1, b))), cells).spread


def tables(cells: Cells, axes: Axes) -> list[Table]:
    """The controls, the paper's tables that these cells have the axes of, and what else was varied."""
    made = [
        *_controls(cells, axes),
        *_by_augment(cells, axes),
        *_by_fraction(cells, axes),
        *_by_init(cells, axes),
        *_joint(cells, axes),
        *_continued(cells, axes),
        *_varied(cells, axes, "alpha", lambda value: f"alpha {value:g}"),
        *_varied(cells, axes, "round", lambda value: f"round {value}"),
    ]
    shown = [content for content in made if any(cell != NONE for row in content.rows for cell in row[content.names :])]
    return shown or [_plain(cells, axes)]


def _note(cells: Cells, axes: Axes, more: str) -> str:
    text = f"Points of 100 ({axes.metric} on the {axes.images} images): mean over n = {len(axes.seeds)} seeds"
    text += f" ± 95 % t-interval, or (least to most) where n is below {LEAST}, no more than a direction"
    short = any(sum(result.done for result in seeds.values()) < len(axes.seeds) for seeds in cells.values())
    text += "; n is given where it is less" if short else ""
    return f"{text}. {more}".strip()


def _shown(cells: Cells, axes: Axes, setting: Setting | None, base: Setting | None = None) -> str:
    """The figures of a setting and, in brackets, how much better than `base` it is; n where it is less than all."""
    figures = at(cells, setting)
    if not figures.n:
        return NONE
    text = measured(figures)
    better = gain(cells, setting, base)
    text += f" [{measured(better, signed=True)}]" if better.n else ""
    return text + (f" (n {figures.n})" if figures.n < len(axes.seeds) else "")


def _by_augment(cells: Cells, axes: Axes) -> Iterator[Table]:
    """Like Table 2."""
    if len(axes.augments) < 2:
        return
    arms = [arm for arm in axes.arms if arm not in ("ceiling", "placebo")]
    for fraction in reversed(axes.fractions):
        rows = []
        for init in axes.inits:
            for arm in arms:
                settings = [find(cells, arm, augment, init, fraction) for augment in axes.augments]
                bases = [find(cells, arms[0], augment, axes.inits[0], fraction) for augment in axes.augments]
                if any(settings):
                    shown = (_shown(cells, axes, setting, base) for setting, base in zip(settings, bases, strict=True))
                    rows.append((init, arm, *shown))
        where = f", {share(fraction)}" if len(axes.fractions) > 1 else ""
        note = f"In brackets: the paired difference from {arms[0]} with {axes.inits[0]} init in the same column."
        title = f"Augmentation, initialisation and self-training{where} (as the paper's Table 2)"
        columns = ("initialisation", "arm", *axes.augments)
        yield Table(title, _note(cells, axes, note), columns, tuple(rows), names=2)


def _by_fraction(cells: Cells, axes: Axes) -> Iterator[Table]:
    """Like Table 3: base → with self-training, the strongest augmentation first."""
    bases = [arm for arm in ("supervised", "longer") if arm in axes.arms]
    if len(axes.fractions) < 2 or "self-training" not in axes.arms or not bases:
        return
    rows = []
    for augment in reversed(axes.augments):
        for init in axes.inits:
            for base in bases:
                shown = [_arrow(cells, axes, base, augment, init, fraction) for fraction in axes.fractions]
                if any(cell != NONE for cell in shown):
                    rows.append((augment, init, base, *shown))
    note = (
        "Base → with self-training [paired difference]. Supervised trains for the student's steps, longer for the "
        "teacher's and the student's: the fair base where the budget counts."
    )
    columns = ("augmentation", "initialisation", "base", *(share(fraction) for fraction in axes.fractions))
    title = "Labels and self-training (as the paper's Table 3)"
    yield Table(title, _note(cells, axes, note), columns, tuple(rows), names=3)


def _arrow(cells: Cells, axes: Axes, base: str, augment: str, init: str, fraction: float) -> str:
    """Means over the seeds that have both."""
    before = find(cells, base, augment, init, fraction)
    after = find(cells, "self-training", augment, init, fraction)
    if before is None or after is None:
        return NONE
    change = compare(Contrast("", ((1, after), (-1, before))), cells)
    if not change.seeds:
        return NONE
    means = [100 * sum(cells[side][s].value for s in change.seeds) / len(change.seeds) for side in (before, after)]
    n = f" (n {len(change.seeds)})" if len(change.seeds) < len(axes.seeds) else ""
    return f"{means[0]:.1f} → {means[1]:.1f} [{measured(change.spread, signed=True)}]{n}"


def _by_init(cells: Cells, axes: Axes) -> Iterator[Table]:
    """Like Table 4: the strongest augmentation and all labels."""
    if len(axes.inits) < 2:
        return
    augment, fraction = axes.augments[-1], axes.fractions[-1]
    base = find(cells, "supervised", augment, axes.inits[0], fraction)
    rows = []
    for arm in ("supervised", "self-training"):
        for init in axes.inits:
            setting = find(cells, arm, augment, init, fraction)
            if setting is not None:
                better = measured(gain(cells, setting, base), signed=True)
                rows.append((init, arm, _shown(cells, axes, setting), better))
    note = f"{augment}, {share(fraction)}. The difference is from {axes.inits[0]} init, supervised, paired over seeds."
    columns = ("initialisation", "arm", axes.metric, "difference")
    title = "Initialisations (as the paper's Table 4)"
    yield Table(title, _note(cells, axes, note), columns, tuple(rows), names=2)


def _joint(cells: Cells, axes: Axes) -> Iterator[Table]:
    """Like Table 7."""
    arms = [arm for arm in ("supervised", "self-training", "joint", "self-training+joint") if arm in axes.arms]
    if "joint" in arms:
        note = "In brackets: the paired difference from the first column. Joint: beside other labelled sets."
        title = "Self-training and joint training (as the paper's Table 7)"
        yield _by_arm(cells, axes, arms, title, note)


def _continued(cells: Cells, axes: Axes) -> Iterator[Table]:
    arms = [arm for arm in ("continued", "continued-student") if arm in axes.arms]
    if "continued-student" in arms:
        note = (
            "Continued: the teacher, trained longer on human labels; continued-student: from the same weights, as "
            "many steps, its own labels added. In brackets: the paired difference from the first column."
        )
        yield _by_arm(cells, axes, arms, "Students that start from their teacher", note)


def _controls(cells: Cells, axes: Axes) -> Iterator[Table]:
    if "ceiling" in axes.arms or "placebo" in axes.arms:
        order = ("longer", "placebo", "self-training", "ceiling")
        arms = [arm for arm in order if arm in axes.arms]
        note = (
            "Placebo: the labelled images in place of the pool; ceiling: the pool with its true labels. In brackets: "
            "the paired difference from the first column."
        )
        yield _by_arm(cells, axes, arms, "Controls", note)


def _plain(cells: Cells, axes: Axes) -> Table:
    """For a grid that has the axes of none of the paper's tables."""
    note = "In brackets: the paired difference from the first column."
    return _by_arm(cells, axes, axes.arms, "Arms", note)


def _by_arm(cells: Cells, axes: Axes, arms: Sequence[str], title: str, note: str) -> Table:
    """A row per augmentation, start and label fraction, a column per arm."""
    rows = []
    for augment in reversed(axes.augments):
        for init in axes.inits:
            for fraction in axes.fractions:
                settings = [find(cells, arm, augment, init, fraction) for arm in arms]
                if any(settings):
                    shown = (_shown(cells, axes, setting, settings[0]) for setting in settings)
                    rows.append((f"{augment}, {init} init, {share(fraction)}", *shown))
    return Table(title, _note(cells, axes, note), ("setting", *arms), tuple(rows))


def _varied(cells: Cells, axes: Axes, field: str, named: Callable[[float], str]) -> Iterator[Table]:
    """What was varied beyond the paper's tables, alpha or rounds: a row per arm and place, a column per value."""
    groups: dict[tuple[str, ...], dict[float, Setting]] = {}
    for setting in cells:
        rest = f"alpha {setting.alpha:g}" if field == "round" else f"round {setting.round}"
        place = (setting.arm, f"{setting.augment}, {setting.init} init, {share(setting.fraction)}", rest)
        groups.setdefault(place, {})[getattr(setting, field)] = setting
    groups = {place: by_value for place, by_value in groups.items() if len(by_value) > 1}
    values = sorted({value for by_value in groups.values() for value in by_value})
    if not groups:
        return
    rows = []
    for (arm, where, rest), by_value in groups.items():
        shown = [
            f"{measured(at(cells, by_value[value]))} (n {at(cells, by_value[value]).n})" if value in by_value else NONE
            for value in values
        ]
        rows.append((arm, f"{where}, {rest}", *shown))
    note = f"Points of 100 ({axes.metric} on the {axes.images} images). The best column of them is no fair choice."
    yield Table(f"By {field}", note, ("arm", "setting", *map(named, values)), tuple(rows), names=2)


def contrast_table(
    title: str,
    note: str,
    compared: Sequence[tuple[Comparison, tuple[float, float]]],
    beside: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Table:
    """Comparisons of one family, each with its interval, the range of its seeds where one has none, and its interval
    over test images. beside: further columns, after the first of these."""
    extents = {
        "95 % interval": [ends(one.spread.low, one.spread.high, decimals(one.spread)) for one, _ in compared],
        "seeds": [ends(one.spread.least, one.spread.most) for one, _ in compared],
    }
    whole = [cell for cell in extents["95 % interval"] if cell != NONE]
    if len(whole) in (0, len(compared)):
        del extents["seeds" if whole else "95 % interval"]
    rows = []
    for number, (comparison, images) in enumerate(compared):
        figures, lost = comparison.spread, len(comparison.lost)
        n = f"{figures.n}" + (f" of {figures.n + lost}" if lost else "")
        mean = f"{100 * figures.mean:+.{decimals(figures)}f}" if figures.n else NONE
        more = (column[number] for column in (*extents.values(), *beside.values()))
        p_values = _p(figures.p), _p(comparison.adjusted)
        rows.append((comparison.contrast.name, reading(comparison), n, mean, *more, *p_values, ends(*images)))
    columns = ("difference", "reading", "n", "mean", *extents, *beside, "p", "p (Holm)", "over images")
    return Table(title, note, columns, tuple(rows), names=2)


def reading(comparison: Comparison) -> str:
    """A comparison in a few words."""
    if not comparison.spread.n:
        return "not tested"
    if comparison.spread.n < LEAST:
        ways = {word: sum(way * value > 0 for value in comparison.by_seed) for word, way in WAYS.items()}
        found = ", ".join(f"{word} in {n}" for word, n in ways.items() if n) or "no difference in all"
        return f"{found} of {comparison.spread.n}: direction only"
    return {1: "higher", -1: "lower", 0: "no difference shown"}[comparison.sign]


def _p(p: float) -> str:
    return NONE if math.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)

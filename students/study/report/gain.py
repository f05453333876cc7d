"""The picture of a study: what self-training adds to equally long supervision, beside the ceiling and the placebo; over
the number of labels where it was varied, else a row per setting and arm. The same results give the same bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from builder.report.colours import GRID, INK
from builder.words import count
from students.study.axes import Axes, Cells, base_arm, find
from students.study.compare import LEAST, LEVEL, Comparison
from students.study.report.plots import COLOURS, WIDE, Plot, compared, draw, drawing, legend, png, svg
from students.study.report.tables import gained

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel


ARMS = ("self-training", "doubly-robust", "ceiling", "placebo")
"""Whose gain is drawn."""
ELSEWHERE = ("supervised", "longer", *ARMS)
"""Arms of which no other plot need draw the differences."""
HIGH, ROW = 3.0, 0.3
"""Inches of a panel, and of a row."""
WORDS = {
    "longer": "longer: the same labels, and as many steps as a teacher and its student have together",
    "supervised": "supervised: the same labels, and as many steps as the student",
    "ceiling": "Ceiling: the pool with its true labels",
    "placebo": "Placebo: the labelled images in place of the pool",
}
NOTE = f"{100 * LEVEL:.0f} % t-intervals from {LEAST} seeds on; dots are the seeds."


@dataclass(frozen=True)
class Part:
    """The gains of one augmentation and start, by arm, along the label fractions."""

    title: str
    lines: dict[tuple[str, str], list[Comparison | None]]


def gain(cells: Cells, axes: Axes) -> Plot | None:
    """The plot `gain`, of the paired differences from the arm that self-training is held against; None without that
    arm, or before the first pair is done."""
    base = base_arm(axes)
    arms = [arm for arm in ARMS if arm in axes.arms]
    places = [(augment, init) for augment in axes.augments for init in axes.inits]
    if len(axes.fractions) > 1:  # a row of panels for each start
        places.sort(key=lambda place: axes.inits.index(place[1]))
    parts = [_part(cells, axes, arms, base or "", *place) for place in places]
    drawn = {arm for part in parts for (arm, _), line in part.lines.items() if any(line)}
    if base is None or not drawn:
        return None
    begun = {init for part in parts for (_, init), line in part.lines.items() if any(line)}
    axes = replace(axes, inits=type(axes.inits)(init for init in axes.inits if init in begun))
    parts = [part for part in parts if any(init in begun for _, init in part.lines)]
    told = [WORDS[arm] for arm in arms if arm in WORDS and arm in drawn]
    note = f"Paired differences from {WORDS[base]}. {''.join(f'{words}. ' for words in told)}{NOTE}"
    says = f"{', '.join(arms)}, less {base}, in points of {axes.metric}"
    return (_over_labels if len(axes.fractions) > 1 else _rows)(parts, cells, axes, base, note, says)


def _part(cells: Cells, axes: Axes, arms: list[str], base: str, augment: str, init: str) -> Part:
    words = [augment] * (len(axes.augments) > 1) + [f"{init} init"] * (len(axes.inits) > 1)
    lines = {}
    for arm in arms:
        places = [(find(cells, arm, augment, init, f), find(cells, base, augment, init, f)) for f in axes.fractions]
        lines[arm, init] = [None if other is None else compared(cells, setting, other) for setting, other in places]
    return Part(", ".join(words), lines)


def _over_labels(parts: list[Part], cells: Cells, axes: Axes, base: str, note: str, says: str) -> Plot:
    across, down = len(axes.augments), len(axes.inits)
    size = 0.7 + WIDE * max(1.35, across), 0.6 + HIGH * down
    with drawing(*size) as figure:
        grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for panel, part in zip(grid.flat, parts, strict=True):
            panel.set_title(part.title, fontsize=9.5)
            panel.axhline(0, color=INK, lw=0.9, zorder=1)
            for place, (line, comparisons) in enumerate(part.lines.items()):
                x = np.arange(len(axes.fractions)) + 0.08 * (place - (len(part.lines) - 1) / 2)
                draw(panel, line, x, comparisons, replace(axes, inits=line[1:]))  # the title says the start
            _axis(panel, "y")
            panel.set_xlim(-0.5, len(axes.fractions) - 0.5)
            panel.set_xticks(range(len(axes.fractions)), _labelled(cells, axes))
        for panel in grid[-1]:
            panel.set_xlabel("labelled images")
        for panel in grid[:, 0]:
            panel.set_ylabel(f"over {base}, points of {axes.metric}")
        legend(figure, list(grid.flat))
        title = f"Gain over {base}, by labels"
        return Plot("gain", title, note, f"{says}, over the number of labels.", size[0], svg(figure), png(figure))


def _rows(parts: list[Part], cells: Cells, axes: Axes, base: str, note: str, says: str) -> Plot:
    """A forest plot."""
    rows: list[tuple[str, Comparison | None]] = []
    for part in parts:
        done = [(arm, line[0]) for (arm, _), line in part.lines.items() if line[0] is not None]
        rows += [(part.title, None)] * bool(done and part.title)
        rows += done
    size = 4.7, 0.75 + ROW * len(rows)
    with drawing(*size) as figure:
        panel = figure.subplots()
        panel.axvline(0, color=INK, lw=0.9, zorder=1)
        for y, (arm, comparison) in enumerate(rows):
            if comparison is not None:
                _row(panel, y, arm, comparison)
        panel.set_ylim(len(rows) - 0.4, -0.6)
        panel.set_yticks(range(len(rows)), [name for name, _ in rows])
        panel.tick_params(axis="y", length=0)
        for text, (_, comparison) in zip(panel.get_yticklabels(), rows, strict=True):
            text.set_fontweight("bold" if comparison is None else "normal")
        panel.spines["left"].set_visible(False)
        _axis(panel, "x")
        panel.set_xlabel(f"over {base}, points of {axes.metric}")
        return Plot("gain", f"Gain over {base}", note, f"{says}.", size[0], svg(figure), png(figure))


def _row(panel: Panel, y: int, arm: str, comparison: Comparison) -> None:
    """The mean, its interval, the seeds, and on the right the figures in words."""
    figures, colour = comparison.spread, COLOURS[arm]
    values = 100 * np.array(comparison.by_seed)
    panel.plot(values, np.full(len(values), y + 0.22), ".", color=colour, ms=6, mew=0, alpha=0.5, zorder=2)
    if not np.isnan(figures.low):
        panel.hlines(y, 100 * figures.low, 100 * figures.high, color=colour, lw=1.6, zorder=3)
    panel.plot(100 * figures.mean, y, "o", color=colour, ms=5.5, zorder=4)
    few = f", {figures.n} seed{'s' * (figures.n > 1)}" if figures.n < LEAST else ""
    words = gained(figures) + few
    panel.annotate(words, (1.02, y), xycoords=("axes fraction", "data"), va="center", annotation_clip=False)


def _axis(panel: Panel, which: Literal["x", "y"]) -> None:
    panel.grid(color=GRID, lw=0.7, axis=which)
    panel.set_axisbelow(True)


def _labelled(cells: Cells, axes: Axes) -> list[str]:
    """The number of labelled images of each fraction, as far as it is known, and its share."""
    ticks = []
    for fraction in axes.fractions:
        counts = [
            result.labelled
            for setting, seeds in cells.items()
            if setting.fraction == fraction
            for result in seeds.values()
        ]
        known = f"{count(float(np.mean(counts)))}\n" if counts else ""
        ticks.append(f"{known}{100 * fraction:.3g} %")
    return ticks

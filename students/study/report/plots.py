"""The plots of a study, like the paper's Figure 1: a metric over augmentation strength, and over labels, with what is
gained below. The same results give the same bytes. Colours are of the arms, lines and marks of the starts."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.report.charts import FONTS, STYLE
from builder.report.colours import FAINT, GRID, HUMAN, IGNORED, INK, KEPT
from students.study.axes import Axes, Cells, Setting, find, share
from students.study.compare import Comparison, Contrast, compare

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Panel
    from matplotlib.figure import Figure


COLOURS = {
    "supervised": INK,
    "longer": "#7d8793",
    "continued": "#b3a394",
    "self-training": KEPT,
    "doubly-robust": "#332288",
    "continued-student": "#56b4e9",
    "joint": HUMAN,
    "self-training+joint": "#cc79a7",
    "ceiling": IGNORED,
    "placebo": "#d55e00",
}
"""Of Okabe and Ito's palette, two greys and an indigo, told apart by the colour-blind."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))
MARKS = "os^D"
WIDE, HIGH = 3.4, 6.4
"""Inches of a column, and of the whole."""
NAMES = ("gain", "augment", "labels")
"""Of the plots, that of students.study.report.gain first."""
CROWDED = ("supervised", "self-training")
"""Arms that are drawn where there are several starts: more lines would hide each other."""
NOTE = "Lines: means over seeds, with 95 % t-intervals from 5 seeds on. Dots: the seeds."
DODGE = 0.05
"""Of the way between two values: how far the lines are set apart, so that their intervals do not hide each other. More
would make steep lines look higher or lower than they are."""
BESIDE = 0.02
"""Of the same: how far the seeds are drawn from their interval."""


@dataclass(frozen=True)
class Plot:
    """name: of its files, without an end; says: what it shows, for those who cannot see it; width: in inches."""

    name: str
    title: str
    note: str
    says: str
    width: float
    svg: bytes
    png: bytes


@dataclass(frozen=True)
class Column:
    """Two panels above each other: the lines' settings, by arm and start, along the axis."""

    title: str
    lines: dict[tuple[str, str], list[Setting | None]]


def plots(cells: Cells, axes: Axes, elsewhere: Sequence[str] = ()) -> list[Plot]:
    """`augment` over augmentation, a column per label fraction, and `labels` over label fractions, a column per
    augmentation: each where the grid has more than one value of that axis. Upper row: the metric; lower row: the paired
    difference from the first arm with the first start at the same place, but for a grid of one start with all arms
    shown like that `elsewhere`. With several starts only the arms of CROWDED are drawn."""
    rows = 1 if len(axes.inits) == 1 and {*axes.arms} <= {*elsewhere} else 2
    arms = axes.arms if len(axes.inits) == 1 else [arm for arm in axes.arms if arm in CROWDED]
    lines = [(arm, init) for arm in arms for init in axes.inits]
    made = []
    if len(axes.augments) > 1:
        columns = [
            Column(share(f), {(arm, i): [find(cells, arm, a, i, f) for a in axes.augments] for arm, i in lines})
            for f in axes.fractions
        ]
        made.append(_plot("augment", "augmentation", axes.augments, columns, rows, cells, axes))
    if len(axes.fractions) > 1:
        columns = [
            Column(a, {(arm, i): [find(cells, arm, a, i, f) for f in axes.fractions] for arm, i in lines})
            for a in axes.augments
        ]
        ticks = [f"{100 * fraction:.3g} %" for fraction in axes.fractions]
        made.append(_plot("labels", "share of the labels", ticks, columns, rows, cells, axes))
    return made


def _plot(
    name: str, label: str, ticks: Sequence[str], columns: list[Column], rows: int, cells: Cells, axes: Axes
) -> Plot:
    first = next(iter(columns[0].lines))
    size = (0.7 + WIDE * max(2, len(columns)), HIGH if rows == 2 else HIGH / 2 + 0.3)
    with drawing(*size) as figure:
        grid = figure.subplots(rows, len(columns), squeeze=False, sharex=True, sharey="row")
        for column, panels in zip(columns, grid.T, strict=True):
            panels[0].set_title(column.title, fontsize=9.5)
            for place, (line, settings) in enumerate(column.lines.items()):
                x = np.arange(len(ticks)) + DODGE * (place - (len(column.lines) - 1) / 2)
                draw(panels[0], line, x, [compared(cells, setting) for setting in settings], axes)
                if rows == 2 and line != first:
                    pairs = zip(settings, column.lines[first], strict=True)
                    draw(panels[1], line, x, [compared(cells, setting, base) for setting, base in pairs], axes)
            for panel in panels:
                panel.grid(color=GRID, lw=0.7, axis="y")
                panel.set_axisbelow(True)
                panel.set_xlim(-0.5, len(ticks) - 0.5)
            panels[-1].set_xticks(range(len(ticks)), ticks)
            panels[-1].set_xlabel(label)
        grid[0, 0].set_ylabel(f"{axes.metric}, points of 100")
        if rows == 2:
            grid[1, 0].set_ylabel(f"over {named(first, axes)}")
            for panel in grid[1]:
                panel.axhline(0, color=FAINT, lw=0.9, zorder=1)
        legend(figure, grid[0])
        says = _says(label, columns, axes) + " Below: the paired difference from the first of them." * (rows == 2)
        return Plot(name, f"Over {label}", NOTE, says, size[0], svg(figure), png(figure))


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of this many inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        yield Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def compared(cells: Cells, setting: Setting | None, base: Setting | None = None) -> Comparison | None:
    """The setting's figures, less those of `base` where it is given; None without any."""
    if setting is None:
        return None
    terms = ((1, setting),) if base is None else ((1, setting), (-1, base))
    comparison = compare(Contrast("", terms), cells)
    return comparison if comparison.seeds else None


def draw(panel: Panel, line: tuple[str, str], x: np.ndarray, comparisons: list[Comparison | None], axes: Axes) -> None:
    """A line through means, their t-intervals, and the seeds as faint dots."""
    known = [(at, comparison) for at, comparison in zip(x, comparisons, strict=True) if comparison is not None]
    if not known:
        return
    arm, init = line
    colour, place = COLOURS.get(arm, INK), axes.inits.index(init)
    style: dict[str, Any] = {"color": colour, "ls": DASHES[place % len(DASHES)], "marker": MARKS[place % len(MARKS)]}
    for at, comparison in known:
        values = 100 * np.array(comparison.by_seed)
        panel.plot(np.full(len(values), at - BESIDE), values, ".", color=colour, ms=5, mew=0, alpha=0.4, zorder=2)
        if not np.isnan(comparison.spread.low):
            panel.vlines(at, 100 * comparison.spread.low, 100 * comparison.spread.high, color=colour, lw=1.2, zorder=3)
    means = [100 * comparison.spread.mean for _, comparison in known]
    panel.plot([at for at, _ in known], means, ms=4.5, lw=1.4, label=named(line, axes), zorder=4, **style)


def named(line: tuple[str, str], axes: Axes) -> str:
    """An arm and its start, where there are several."""
    return line[0] if len(axes.inits) == 1 else f"{line[0]}, {line[1]} init"


def legend(figure: Figure, panels: Sequence[Panel]) -> None:
    """What the lines of these panels are, below them."""
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, text in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=max(1, min(len(handles), int(figure.get_figwidth() / (0.7 + max(map(len, handles), default=0) / 13)))),
        frameon=False,
    )


def _says(label: str, columns: list[Column], axes: Axes) -> str:
    lines = ", ".join(named(line, axes) for line in columns[0].lines)
    where = ", ".join(column.title for column in columns)
    return f"{axes.metric} over {label} ({where}): {lines}."


def svg(figure: Figure) -> bytes:
    """The same bytes whenever and wherever it is drawn."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return file.getvalue().replace(b"'DejaVu Sans'", FONTS.encode())


def png(figure: Figure) -> bytes:
    """As `svg`."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()

"""The charts of a report as SVG: the same figures give the same bytes. Told apart without colour, too."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.evidence.calibrate import Curve, Reliability, at
from builder.report.colours import DROPPED, FAINT, GRID, HATCH, HUMAN, IGNORED, INK, KEPT
from builder.rules.scores import BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BARS = 64
"""Bars of a histogram over [0, 1]; each holds BINS / BARS cells of PoolScores."""
TICKS = (0, 0.25, 0.5, 0.75, 1)
TICK_NAMES = ("0", ".25", ".5", ".75", "1")
POWERS = ("1", "10", "100", "1k", "10k", "100k", "1M", "10M", "100M", "1G", "10G")
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
PLATE = {"boxstyle": "square,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.85}
"""Behind text that may lie on lines."""
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "tutelage",
    "svg.fonttype": "none",  # text as text: small, sharp, and the same bytes whatever the fonts here
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#aab2bd",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.7,
    "path.simplify": True,
}


def histogram(cells: np.ndarray, keep: float, ignore: float, noun: str = "boxes") -> bytes:
    """Scores of one class, int64 (BINS + 1,) as in PoolScores, with the thresholds, NaN for none; noun: what they are
    of. A log scale, since there are far more low scores than high ones."""
    values = cells[:BINS].reshape(BARS, -1).sum(axis=1)
    values[-1] += cells[BINS]
    edges = np.linspace(0, 1, BARS + 1)
    keep_at = keep if np.isfinite(keep) else 1.0
    ignore_at = min(ignore, keep_at) if np.isfinite(ignore) else keep_at
    with _figure(2.75, 1.9) as (figure, svg):
        axes = figure.add_axes((0.19, 0.2, 0.78, 0.62))
        regions = ((0.0, ignore_at, DROPPED, ""), (ignore_at, keep_at, IGNORED, "////"), (keep_at, 1.0, KEPT, ""))
        for low, high, colour, hatch in regions:
            inside = (edges[1:] > low) & (edges[:-1] < high)
            if inside.any():
                n = np.flatnonzero(inside)
                clipped = np.clip(edges[n[0] : n[-1] + 2], low, high)
                edge = HATCH if hatch else colour
                axes.stairs(values[inside], clipped, baseline=0.5, fill=True, color=colour, hatch=hatch, ec=edge, lw=0)
        axes.set_yscale("log")
        top = max(8.0, float(values.max(initial=1)) * 1.5)
        axes.set(xlim=(0, 1), ylim=(0.5, top), xlabel="score")
        axes.set_xticks(TICKS, TICK_NAMES)
        axes.set_ylabel(f"{noun} (log)", labelpad=2)
        axes.minorticks_off()
        powers = POWERS[: int(np.log10(top / 1.4)) + 1]  # plain text: matplotlib's own powers take most of its time
        axes.set_yticks([10**n for n in range(len(powers))], powers)
        _threshold(axes, keep, "keep", "-", 1.24, left=keep > 0.62)
        _threshold(axes, ignore, "ignore", (0, (3, 2)), 1.11, left=ignore > 0.28)
    return svg.getvalue()


def _threshold(
    axes: Axes, at: float, name: str, line: str | tuple[int, tuple[int, int]], height: float, *, left: bool
) -> None:
    if not np.isfinite(at):
        return
    axes.axvline(at, ymax=height, color=INK, lw=1.3, ls=line, clip_on=False)
    axes.annotate(
        f"{name} ≥ {at:.3g}",
        (at, height),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if left else 4, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        zorder=5,
        bbox=PLATE,
    )


def quality(points: Curve, trust: Reliability, keep: float, target: float | None) -> bytes:
    """Precision over recall with the operating point and the target, and beside it the share that is right over the
    score; larger dots stand for more predictions."""
    with _figure(5.6, 2.35) as (figure, svg):
        left = figure.add_axes((0.085, 0.19, 0.385, 0.74))
        right = figure.add_axes((0.595, 0.19, 0.385, 0.74))
        left.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="recall", ylabel="precision")
        right.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="score", ylabel="share right")
        left.plot(points.recall, points.precision, color=HUMAN, lw=1.6, solid_joinstyle="round")
        if target is not None:
            left.axhline(target, color=FAINT, lw=0.9, ls=(0, (3, 2)))
            at_left = (3, -3)  # operating points lie at the right
            left.annotate(f"target {target:g}", (0, target), at_left, textcoords="offset points", va="top", bbox=PLATE)
        _operating_point(left, points, keep)
        right.plot([0, 1], [0, 1], color=FAINT, lw=0.9, ls=(0, (3, 2)))
        right.plot(trust.confidence, trust.right, color=HUMAN, lw=1.2)
        size = 6 + 50 * np.sqrt(trust.count / max(1, int(trust.count.max(initial=1))))
        right.scatter(trust.confidence, trust.right, s=size, color=HUMAN, ec="white", lw=0.7, zorder=3)
        if np.isfinite(keep):
            right.axvline(keep, color=INK, lw=1.1)
        for axes in (left, right):
            axes.set_xticks(TICKS, TICK_NAMES)
            axes.set_yticks(TICKS, TICK_NAMES)
            axes.grid(color=GRID, lw=0.7)
            axes.set_axisbelow(True)
    return svg.getvalue()


def _operating_point(axes: Axes, points: Curve, keep: float) -> None:
    precision, recall, _ = at(points, keep) if np.isfinite(keep) else (np.nan, 0.0, 0)
    if not np.isfinite(precision) or not np.isfinite(recall):
        return
    axes.plot([recall], [precision], "o", ms=8, mfc=KEPT, mec=INK, mew=1.2, clip_on=False, zorder=4)
    side = recall > 0.5
    axes.annotate(
        f"P {precision:.2f}  R {recall:.2f}",
        (recall, precision),
        (-9, -9) if side else (8, 5),
        textcoords="offset points",
        ha="right" if side else "left",
        va="top" if side else "bottom",
        bbox=PLATE,
    )


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    """A figure of this size in inches, and the buffer that holds its SVG when the block ends."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    svg = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), facecolor="none")
        FigureCanvasSVG(figure)
        yield figure, svg
        raw = io.BytesIO()
        figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg.write(raw.getvalue().replace(b"'DejaVu Sans'", FONTS.encode()))

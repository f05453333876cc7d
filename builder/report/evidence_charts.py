"""The pictures of `calibrate` and `sweep` as PNG: the same figures give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.evidence.calibrate import Reliability, curve
from builder.evidence.matching import Matches
from builder.evidence.sweep import Point
from builder.kinds import LabelKind
from builder.report.charts import STYLE
from builder.report.colours import FAINT, GRID, HUMAN, IGNORED, INK, KEPT
from builder.store.files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes


LINES: tuple[tuple[Any, str], ...] = (
    ("-", HUMAN),
    ((0, (5, 2)), KEPT),
    ((0, (1, 1.2)), IGNORED),
    ((0, (5, 1, 1, 1)), INK),
)
"""Told apart without colour, too."""


def plot_calibration(
    path: Path, by_size: Mapping[str, Matches], bins: Mapping[str, Reliability], iou: float, kind: LabelKind
) -> None:
    """Share of right predictions over confidence, raw and calibrated, and precision over recall by size of object."""
    with _panels(path) as (left, right):
        left.plot([0, 1], [0, 1], color=FAINT, lw=0.9)
        for (name, scores), (line, colour), mark in zip(bins.items(), LINES, "os^", strict=False):
            label = f"{name}, error {scores.error:.3f}"
            left.plot(scores.confidence, scores.right, ls=line, color=colour, marker=mark, ms=4, lw=1.4, label=label)
        left.set(xlabel="confidence", ylabel="share right", title="Reliability (equal-mass bins)")
        for (name, matches), (line, colour) in zip(by_size.items(), LINES, strict=False):
            points = curve(matches, iou)
            label = f"{name}, {points.objects} {'objects' if kind.overlaps else kind.noun}"
            right.plot(points.recall, points.precision, ls=line, color=colour, lw=1.4, label=label)
        at = f" at IoU {iou:g}" if kind.overlaps else ""
        right.set(xlabel="recall", ylabel="precision", title=f"Precision and recall{at}")
        for axes in (left, right):
            axes.set(xlim=(0, 1.01), ylim=(0, 1.03))


def plot_sweep(path: Path, points: Sequence[Point], level: float) -> None:
    """Precision and recall with their intervals over the threshold, and beside it what an image of the pool keeps."""
    at = np.array([point.threshold for point in points])
    with _panels(path) as (left, right):
        for name, (line, colour) in zip(("precision", "recall"), LINES, strict=False):
            value, low, high = (
                np.array([getattr(point, name + end) for point in points], np.float64) for end in ("", "_low", "_high")
            )
            left.fill_between(at, low, high, color=colour, alpha=0.18, lw=0)
            left.plot(at, value, ls=line, color=colour, marker="o", ms=3.5, lw=1.4, label=name)
        left.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="threshold", title=f"On tune, with {level:.0%} intervals")
        right.plot(at, [p.per_image for p in points], color=KEPT, marker="o", ms=3.5, lw=1.4, label="kept in the pool")
        objects = points[0].objects_per_image
        right.axhline(objects, color=HUMAN, ls=(0, (5, 2)), lw=1.2, label=f"in the labels, {objects:.5g}")
        right.set(xlim=(0, 1), xlabel="threshold", ylabel="kept an image", title="Density")
        right.set_ylim(bottom=0)


@contextmanager
def _panels(path: Path) -> Iterator[tuple[Axes, Axes]]:
    """Two panels side by side; when the block ends they get their legends and become the PNG at `path`."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**STYLE}
    with rc_context(style):
        figure = Figure(figsize=(9, 4.2), dpi=150, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        yield left, right
        for axes in (left, right):
            axes.grid(color=GRID, lw=0.7)
            axes.set_axisbelow(True)
            axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))
        with new_file(path) as file:
            canvas.print_png(file, metadata={"Software": None})

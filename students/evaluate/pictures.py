"""An evaluation as files: its figures, the confusion and the curves of precision over recall, as tables and drawn."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.errors import BuildError
from builder.report.charts import STYLE
from builder.report.colours import FAINT, GRID, HUMAN, INK
from builder.store.files import canonical_json, write_file
from students.evaluate.measure import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES, MATRIX, CURVES = "evaluation.json", "confusion", "precision_recall"
NUMBERED = 24
"""Classes up to which the cells of a confusion hold their numbers."""
NAMED = 100
"""Classes up to which rows and columns have their names."""
DRAWN = 8
"""Classes, those with the most objects, whose curves have a colour; the others are thin."""
COLOURS = (HUMAN, "#009e73", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#5f4690")
"""Of Okabe and Ito's palette, and two more, told apart by the colour-blind."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)))
POINTS = 2_000
"""Rows of a class in the table of curves, at most."""


def write_evaluation(evaluation: Evaluation, folder: Path | str) -> list[Path]:
    """Write an evaluation's figures, confusion and curves.

    Args:
        evaluation: what `evaluate` gave.
        folder: gets evaluation.json, and confusion and precision_recall as .csv and .png; it is made.

    Returns:
        The files.

    Raises:
        BuildError: if the folder cannot be made or written.
    """
    folder = Path(folder)
    files = {
        FIGURES: canonical_json(evaluation.stored()),
        f"{MATRIX}.csv": _matrix_table(evaluation),
        f"{MATRIX}.png": _matrix_picture(evaluation),
        f"{CURVES}.csv": _curve_table(evaluation),
        f"{CURVES}.png": _curve_picture(evaluation),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(folder / name, content)
    except OSError as error:
        raise BuildError(f"{folder} cannot be written ({error.strerror}): give another folder") from None
    return [folder / name for name in files]


def _table(header: Sequence[object], rows: Iterator[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _matrix_table(evaluation: Evaluation) -> bytes:
    confusion = evaluation.confusion
    rows = zip(confusion.rows, confusion.counts.tolist(), strict=True)
    return _table(("is \\ called", *confusion.columns), ((name, *counts) for name, counts in rows))


def _curve_table(evaluation: Evaluation) -> bytes:
    def rows() -> Iterator[Sequence[object]]:
        scored = evaluation.scored
        for name, label in (("", None), *((name, label) for label, name in enumerate(scored.classes))):
            curve = scored.curve(label)
            chosen = np.unique(
                np.linspace(0, len(curve.threshold) - 1, min(POINTS, len(curve.threshold))).astype(np.int64)
            )
            columns = (curve.threshold, curve.precision, curve.recall, curve.f1)
            for values in zip(*(column[chosen].tolist() for column in columns), strict=True):
                yield name, *(f"{value:.6g}" for value in values)

    return _table(("class", "score", "precision", "recall", "F1"), rows())


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        yield Figure(figsize=(width, height), dpi=150, facecolor="white")


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
    return content.getvalue()


def _matrix_picture(evaluation: Evaluation) -> bytes:
    """Shares of each row, as a shade; counts in the cells where there is room. Without classes that occur nowhere."""
    confusion = evaluation.confusion.of_occurring()
    counts = confusion.counts
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    numbered = max(counts.shape) <= NUMBERED
    side = 0.42 if numbered else 0.16 if max(counts.shape) <= NAMED else 0.05
    longest = max(len(name) for name in (*confusion.rows, *confusion.columns))
    margin = 0.7 + 0.065 * min(longest, 24)
    wide, high = (max(2.2, side * cells) for cells in (counts.shape[1], counts.shape[0]))
    title = f"{_summary(evaluation)}\nshade: share of the row"
    beside = max(0.3, 0.072 * max(map(len, title.splitlines())) - wide)  # the title may be longer than a row
    with _figure(wide + margin + beside, high + margin + 0.75) as figure:
        width, height = figure.get_size_inches()
        axes = figure.add_axes((margin / width, margin / height, wide / width, high / height))
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        small = 8 if numbered else 6
        if max(counts.shape) <= NAMED:
            axes.set_xticks(range(len(confusion.columns)), [_short(n) for n in confusion.columns], rotation=90)
            axes.set_yticks(range(len(confusion.rows)), [_short(n) for n in confusion.rows])
            axes.tick_params(length=0, labelsize=small)
        else:
            axes.set_xticks([])
            axes.set_yticks([])
        axes.set_xlabel("called")
        axes.set_ylabel("is")
        if numbered:
            for (row, column), count in np.ndenumerate(counts):
                if count:
                    colour = "white" if shares[row, column] > 0.55 else INK
                    axes.text(column, row, _number(int(count)), ha="center", va="center", fontsize=6.5, color=colour)
        axes.set_title(title, fontsize=8.5, loc="left", color=INK)
        return _png(figure)


def _curve_picture(evaluation: Evaluation) -> bytes:
    scored = evaluation.scored
    with _figure(6.6, 4.1) as figure:
        axes = figure.add_axes((0.09, 0.12, 0.58, 0.76))
        order = [int(label) for label in np.argsort(-scored.objects, kind="stable") if scored.objects[label]]
        for place, label in enumerate(order):
            curve = scored.curve(label)
            named = place < DRAWN
            axes.plot(
                curve.recall, curve.precision, lw=1.3 if named else 0.6,
                color=COLOURS[place] if named else "#c3cad3", ls=DASHES[place % 2] if named else "-",
                label=_short(scored.classes[label]) if named else None, zorder=3 if named else 1,
            )  # fmt: skip
        if len(order) > DRAWN:
            axes.plot([], [], color="#c3cad3", lw=0.6, label=f"{len(order) - DRAWN} more classes")
        every, here = scored.curve(), scored.figures(evaluation.score)
        axes.plot(every.recall, every.precision, color=INK, lw=2.2, label="all together", zorder=4)
        if here.precision is not None and here.recall is not None:
            name = f"at score {evaluation.score:.3g}"
            axes.plot([here.recall], [here.precision], "o", color=INK, ms=7, mfc="white", mew=1.8, label=name, zorder=5)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
        axes.grid(color=GRID, lw=0.7)
        axes.set_axisbelow(True)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=7.5, labelcolor=INK)
        axes.set_title(_summary(evaluation), fontsize=8.5, loc="left", color=INK)
        axes.tick_params(colors=FAINT)
        return _png(figure)


def _summary(evaluation: Evaluation) -> str:
    return evaluation.counted + (f", score ≥ {evaluation.score:.3g}" if evaluation.score else "")


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _number(count: int) -> str:
    """At most four characters."""
    if count < 10_000:
        return str(count)
    power, unit = next((power, unit) for power, unit in ((9, "G"), (6, "M"), (3, "k")) if count >= 10**power)
    return f"{count / 10**power:.0f}{unit}"

"""The picture of a study: what self-training, the ceiling and the placebo add to longer, as SciPy has the intervals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from students.study.axes import Axes, Cells, axes, index
from students.study.report.gain import gain
from students.study.report.page import write_report
from students.study.report.plots import Plot
from students.study.results import CellResult
from tests.helpers.studies import ARMS, grid, study

EVERY = (*ARMS, "ceiling", "placebo")


def whole(rows: Sequence[CellResult]) -> tuple[Cells, Axes]:
    cells = index(rows)
    return cells, axes(cells, ("S1", "S4"), ("random", "imagenet"), "test")


def drawn(**options: Any) -> Plot | None:
    rows = grid(lambda arm, a, i, f: 0.5 + 0.05 * (arm == "ceiling") / (4 * f), **{"arms": EVERY, **options})
    plot = gain(*whole(rows))
    assert plot == gain(*whole(rows[::-1]))
    return plot


def words(plot: Plot) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg.decode())


@pytest.mark.parametrize(
    ("options", "title", "there", "absent"),
    [
        ({"augments": ["S1"]}, "Gain over longer, by labels", ["100", "25 %", "ceiling", "placebo"], ["S1"]),
        ({}, "Gain over longer, by labels", ["S1", "S4", "labelled images"], ["S1, random init"]),
        (
            {"inits": ["random", "imagenet"]},
            "Gain over longer, by labels",
            ["S1, random init", "S4, imagenet init"],
            [],
        ),
        ({"arms": ARMS}, "Gain over longer, by labels", ["self-training"], ["ceiling"]),
        ({"fractions": [1.0]}, "Gain over longer", ["S1", "S4", "self-training", "placebo"], ["labelled images"]),
        ({"fractions": [1.0], "augments": ["S1"]}, "Gain over longer", ["ceiling"], ["S1"]),
        ({"fractions": [1.0], "arms": ("supervised", "self-training")}, "Gain over supervised", ["self-training"], []),
    ],
)
def test_what_is_drawn(options: dict[str, Any], title: str, there: list[str], absent: list[str]) -> None:
    plot = drawn(**options)
    assert plot is not None and plot.title == title and plot.png.startswith(b"\x89PNG")
    assert {*there} <= {*words(plot)} and not {*absent} & {*words(plot)}
    assert ("Ceiling: the pool" in plot.note) == ("ceiling" in words(plot))


def test_a_start_of_which_nothing_is_done_has_no_panel() -> None:
    rows = grid(lambda *_: 0.5, arms=EVERY, inits=["random", "imagenet"])
    plot = gain(*whole([row for row in rows if row.init == "random" or row.arm == "longer"]))
    assert plot is not None and "S1, random init" in words(plot) and "S1, imagenet init" not in words(plot)


@pytest.mark.parametrize("arms", [["supervised"], ["supervised", "longer"], ["self-training"], ["longer", "joint"]])
def test_without_a_pair_there_is_no_picture(arms: list[str]) -> None:
    assert drawn(arms=arms) is None


@pytest.mark.parametrize("seeds", [1, 3, 5, 9])
def test_the_figures_of_a_row_are_scipys(seeds: int) -> None:
    rows = grid(
        lambda arm, *_: 0.5 + 0.05 * (arm == "ceiling"), arms=EVERY, augments=["S1"], fractions=[1.0], seeds=seeds
    )
    plot = gain(*whole(rows))
    assert plot is not None
    for arm in ("self-training", "ceiling", "placebo"):
        by_arm = [np.array([100 * row.value for row in rows if row.arm == name]) for name in (arm, "longer")]
        gains = by_arm[0] - by_arm[1]
        ends = stats.ttest_rel(*by_arm).confidence_interval(0.95) if seeds >= 5 else (gains.min(), gains.max())
        few = "" if seeds >= 5 else f", {seeds} seed{'s' * (seeds > 1)}"
        extent = f" ({ends[0]:+.1f} to {ends[1]:+.1f})" if seeds > 1 else ""
        assert f"{gains.mean():+.1f}{extent}{few}" in words(plot)


def test_other_plots_leave_out_the_differences_that_it_shows(tmp_path: Path) -> None:
    made = {}
    for name, arms in (("shown", [*ARMS]), ("more", [*ARMS, "joint"])):
        (tmp_path / name).mkdir()
        rows = grid(lambda *_: 0.5, arms=arms)
        recipe = study(grid={"augment": ["S1", "S4"], "fractions": [0.25, 1], "arms": arms})
        write_report(rows, recipe, tmp_path / name)
        made[name] = {file.stem: file.read_text() for file in (tmp_path / name).glob("*.svg")}
    assert {*made["shown"]} == {*made["more"]} == {"gain", "augment", "labels"}
    below = {
        name: {stem for stem, text in files.items() if ">over supervised<" in text} for name, files in made.items()
    }
    assert below == {"shown": set(), "more": {"augment", "labels"}}

"""What a study set out to show is said first: what the contrasts say, with how far true labels would go, and no more."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from students.study.axes import index
from students.study.compare import Comparison, Contrast, arms_compared, compare_all, ratio, spread
from students.study.report.answers import Answer, answers, columns, controls, headline
from students.study.report.page import write_report
from students.study.results import CellResult
from tests.helpers.studies import ARMS, grid, study

EVERY = (*ARMS, "ceiling", "placebo")
PRIMARY = [{"arm": "self-training", "against": "longer"}]


def worth(**gains: float) -> Callable[[str, str, str, float], float]:
    """Figures of arms by what they add to longer."""
    return lambda arm, *_: 0.6 + gains.get(arm.replace("-", "_"), 0.0)


def asked(rows: Sequence[CellResult], arm: str = "self-training", against: str = "longer") -> list[Answer]:
    cells = index(rows)
    return answers(compare_all(arms_compared(cells, arm, against, {}), cells), cells, "accuracy")


def one(value: Callable[[str, str, str, float], float], **more: Any) -> Answer:
    """Of a grid of one setting."""
    options: dict[str, Any] = {"arms": EVERY, "augments": ["S1"], "fractions": [0.5], "noise": 0.003}
    (answer,) = asked(grid(value, **options | more))
    return answer


def paired(*values: Sequence[float]) -> list[Comparison]:
    return [Comparison(Contrast("", ()), tuple(range(len(v))), (), tuple(v), spread(v)) for v in values]


# The share of the ceiling


@given(st.integers(0, 10_000), st.integers(5, 12), st.floats(-0.5, 1.5))
def test_the_ends_of_a_share_are_what_the_t_test_just_refuses(seed: int, n: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.normal(0.05, 0.01, n)
    part = share * whole + rng.normal(0, 0.004, n)
    middle, low, high = ratio(*paired(part.tolist(), whole.tolist()))
    if stats.ttest_1samp(whole, 0).confidence_interval(0.95).low > 0:
        assert low < middle < high and middle == pytest.approx(part.mean() / whole.mean())
        assert [stats.ttest_1samp(part - r * whole, 0).pvalue for r in (low, high)] == pytest.approx(
            [0.05] * 2, rel=1e-5
        )
    else:
        assert math.isnan(middle) and math.isnan(low)


@pytest.mark.parametrize(
    ("part", "whole", "shares"),
    [
        ([0.01, 0.02, 0.03, 0.02], [0.04, 0.05, 0.04, 0.05], [math.nan] * 3),  # too few
        ([0.01] * 5, [0.04] * 5, [0.25, math.nan, math.nan]),  # equal: no interval of no width
        ([0.01] * 5, [0.04, -0.05, 0.03, -0.03, 0.02], [math.nan] * 3),  # of nothing
        ([0.01] * 5, [-0.04, -0.05, -0.04, -0.05, -0.04], [math.nan] * 3),
        ([0.01] * 5, [0.0] * 5, [math.nan] * 3),
    ],
)
def test_there_is_no_share_of_what_is_not_there(part: list[float], whole: list[float], shares: list[float]) -> None:
    assert ratio(*paired(part, whole)) == pytest.approx(shares, nan_ok=True)


def test_a_share_is_over_the_seeds_of_both() -> None:
    rng = np.random.default_rng(0)
    part, whole = rng.normal(0.01, 0.002, 7), rng.normal(0.05, 0.002, 7)
    a, b = paired(part.tolist(), whole.tolist())
    short = replace(b, seeds=(1, 2, 4, 5, 6), by_seed=tuple(whole[[1, 2, 4, 5, 6]].tolist()))
    kept = paired(part[[1, 2, 4, 5, 6]].tolist(), whole[[1, 2, 4, 5, 6]].tolist())
    assert ratio(a, short) == ratio(*kept) != ratio(a, b)


# In words


@pytest.mark.parametrize(
    ("gains", "options", "found", "sure", "trend"),
    [
        ({"self_training": 0.03}, {}, r"Self-training is [23]\.\d points of accuracy above longer",
         r"\(95 % interval \+\d\.\d to \+\d\.\d, 5 seeds\): higher, shown", 1),
        ({"self_training": -0.03}, {}, r"Self-training is [23]\.\d points of accuracy below longer",
         r"\(95 % interval -\d\.\d to -\d\.\d, 5 seeds\): lower, shown", -1),
        ({}, {}, r"Self-training is 0\.\d points of accuracy (above|below) longer",
         r"\(95 % interval -\d\.\d to \+\d\.\d, 5 seeds\): no difference shown", 0),
        ({}, {"noise": 0.0}, "Self-training is level with longer", r"\(alike in all, 5 seeds\): no difference shown", 0),
        ({"self_training": 0.03}, {"seeds": 3}, r"Self-training is [23]\.\d points of accuracy above longer",
         r"\(\+\d\.\d to \+\d\.\d in 3 seeds\): direction only", 1),
        ({"self_training": -0.03}, {"seeds": 1}, r"Self-training is [23]\.\d points of accuracy below longer",
         r"\(1 seed\): direction only", -1),
    ],
)  # fmt: skip
def test_a_contrast_is_said_in_a_line(
    gains: dict[str, float], options: dict[str, Any], found: str, sure: str, trend: int
) -> None:
    answer = one(worth(**gains), **options)
    assert re.fullmatch(found, headline(answer)[0]) and re.fullmatch(sure, headline(answer)[1]), headline(answer)
    assert answer.trend == trend and answer.where == ""


@pytest.mark.parametrize(
    ("gains", "options", "said"),
    [
        ({"self_training": 0.02, "ceiling": 0.06}, {},
         r"The pool's true labels \(ceiling\) would bring \+\d\.\d points \(\+\d\.\d to \+\d\.\d\): self-training has "
         r"[234]\d % of it \(\d\d to \d\d %\)\."),
        ({"self_training": -0.02, "ceiling": 0.06}, {}, r".* would bring \+.* points .*: self-training has none of it\."),
        ({"ceiling": 0.0}, {}, r".* are not shown to be better than longer, .* nothing shows that labels of this pool, "
         r"however right, can help here\."),
        ({"ceiling": -0.05}, {}, r".* do worse than longer, -.* nothing shows .*"),
        ({"self_training": 0.02, "ceiling": 0.06}, {"seeds": 3},
         r"The pool's true labels \(ceiling\): \+\d\.\d points \(\+\d\.\d to \+\d\.\d\), direction only\."),
        ({"self_training": 0.02, "ceiling": 0.06}, {"noise": 0.0}, r".* would bring \+6\.0 points: self-training has 33 % of it\."),
    ],
)  # fmt: skip
def test_the_ceiling_says_what_there_is_to_win(gains: dict[str, float], options: dict[str, Any], said: str) -> None:
    if options.get("noise") == 0.0:
        options = options | {"seeds": 8}  # the sign test of equal differences: 2 / 2^8
    answer = one(worth(**gains), **options)
    ceiling, placebo = controls(answer)
    assert re.fullmatch(said, ceiling), ceiling
    assert placebo.startswith("The labelled images in the pool's place (placebo): ")
    assert placebo.endswith(", direction only." if options.get("seeds") == 3 else ", no difference shown.")


def test_controls_are_said_only_of_what_they_bear_on() -> None:
    rows = grid(worth(ceiling=0.05), arms=EVERY, augments=["S1"], fractions=[0.5])
    assert [len(controls(answer)) for answer in asked(rows, "ceiling", "longer")] == [0]
    assert [len(controls(answer)) for answer in asked(rows, "longer", "supervised")] == [0]
    assert [len(controls(answer)) for answer in asked(rows, "self-training", "supervised")] == [2]
    plain = grid(worth(), augments=["S1"], fractions=[0.5])
    assert [controls(answer) for answer in asked(plain)] == [[]] and columns(asked(plain)) == {}
    lost = [replace(row, value=math.nan, error="killed") if row.arm == "ceiling" else row for row in rows]
    assert [len(controls(answer)) for answer in asked(lost)] == [1]


def test_a_control_that_is_primary_keeps_the_p_value_of_that_family() -> None:
    cells = index(grid(worth(ceiling=0.004), arms=EVERY, augments=["S1"], fractions=[0.5], noise=0.002))
    both = [*arms_compared(cells, "self-training", "longer", {}), *arms_compared(cells, "ceiling", "longer", {})]
    family = compare_all(both, cells)
    first, second = answers(family, cells, "accuracy")
    assert first.ceiling == family[1] and second.ceiling is None
    (alone,) = answers(family[:1], cells, "accuracy")
    assert alone.ceiling is not None and alone.ceiling.adjusted == family[1].spread.p < family[1].adjusted


def test_an_interval_without_0_shows_nothing_among_many() -> None:
    rng = np.random.default_rng(3)
    rows = grid(worth(self_training=0.0027), augments=["S1", "S2", "S4"], fractions=[0.25, 0.5, 1.0], noise=0.0015)
    apart = [a for a in asked(rows) if a.comparison.spread.low > 0 and not a.comparison.sign]
    assert apart and all(
        headline(a)[1].endswith("no difference shown once p is adjusted over 9 contrasts") for a in apart
    )
    assert {a.where for a in asked(rows)} >= {"S1, 25 % of the labels"}
    mixed = [rows[place] for place in rng.permutation(len(rows))]
    assert [headline(a) for a in asked(mixed)] == [headline(a) for a in asked(rows)]


def test_lost_seeds_are_said() -> None:
    rows = grid(worth(self_training=0.03), augments=["S1"], fractions=[0.5], seeds=6)
    rows = [replace(r, value=math.nan, error="x") if (r.arm, r.seed) == ("longer", 2) else r for r in rows]
    assert "5 of 6 seeds): higher" in headline(asked(rows)[0])[1]
    none = [replace(r, value=math.nan, error="x") if r.arm == "longer" else r for r in rows]
    assert headline(asked(none)[0]) == ("Self-training against longer has no figures yet", "")


# First on the page


def test_the_page_and_the_first_table_lead_with_the_answer(tmp_path: Path) -> None:
    sections = {"augment": ["S1"], "fractions": [0.25, 1], "arms": [*EVERY]}
    rows = grid(worth(self_training=0.02, ceiling=0.06), arms=EVERY, augments=["S1"], noise=0.002)
    write_report(rows, study(grid=sections, primary=PRIMARY), tmp_path)
    page, text = (tmp_path / "index.html").read_text(), (tmp_path / "tables.md").read_text()
    places = [page.index(words) for words in ("What the study asked", "above longer", "Gain over longer", "Better in 2 of 2", "Primary contrasts", "Controls")]  # fmt: skip
    assert places == sorted(places) and "Not finished" not in page
    assert text.splitlines()[2].startswith("- 25 % of the labels: **Self-training is 2.") and "](gain.png)" in text
    table = text.partition("### ")[2].partition("### ")[0]
    assert "| 95 % interval | ceiling | of it | placebo |" in table
    assert re.search(r"\| \+6\.\d \(\+\d\.\d to \+\d\.\d\) \| \d\d % \|", table)
    part = [row for row in rows if row.fraction == 0.25]
    write_report(part, study(grid=sections, primary=PRIMARY), tmp_path)
    assert "Not finished: provisional." in (tmp_path / "index.html").read_text().partition("Gain over")[0]


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ("S1", "All teachers learn with S1."),
        ({"policy": "S4", "magnitude": 5}, "All teachers learn with policy S4, magnitude 5."),
        (None, ""),
    ],
)
def test_an_augmentation_of_teachers_is_said(augment: Any, said: str, tmp_path: Path) -> None:
    teacher = {"steps": 5} | ({"augment": augment} if augment else {})
    write_report(grid(lambda *_: 0.5, seeds=2), study(teacher=teacher), tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert said in text and ("All teachers" in text) == bool(augment)

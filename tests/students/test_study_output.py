"""A study's statistics are SciPy's and pycocotools' own, and its page says what the contrasts say and no more."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from builder.errors import BuildError
from builder.truth.records import LabelledImage, Truth
from students.evaluate.coco import evaluate_detections
from students.evaluate.maps import confusion, map_metrics, overlap
from students.study.axes import Setting, axes, find, index
from students.study.compare import (
    LEAST,
    Comparison,
    Contrast,
    arms_compared,
    compare,
    compare_all,
    holm,
    image_interval,
    redraw,
    spread,
)
from students.study.declared import declare
from students.study.kinds.boxes import write_box_outcomes
from students.study.kinds.choose import read_outcomes
from students.study.kinds.classes import write_class_outcomes
from students.study.kinds.maps import write_map_outcomes
from students.study.report.budget import budget_table, missing_table
from students.study.report.claims import Claim, Starts, claims
from students.study.report.page import starts, write_report
from students.study.report.tables import Table, contrast_table, markdown, measured, tables
from students.study.results import CellResult, in_order, read_results, write_results
from teachers.base import Detections
from tests.helpers.studies import ARMS, grid, result, study

STARTS = Starts("random", ("imagenet",), ("simclr",))


def report(results: Sequence[CellResult]) -> list[Table]:
    cells = index(results)
    return tables(cells, axes(cells, ("S1", "S2", "S4"), ("random", "imagenet", "simclr"), "test"))


def judged(results: Sequence[CellResult], ways: Starts = STARTS) -> list[Claim]:
    cells = index(results)
    return claims(cells, axes(cells, ("S1", "S2", "S4"), ("random", "imagenet", "simclr"), "test"), ways)


def difference(results: Sequence[CellResult]) -> Comparison:
    """Self-training less supervised, of cells that differ in nothing else."""
    cells = index(results)
    (contrast,) = arms_compared(cells, "self-training", "supervised", {})
    return compare_all([contrast], cells)[0]


# Results as a file


def test_results_are_read_back_and_read_by_others(tmp_path: Path) -> None:
    rows = [
        result("self-training", 1, 0.71234567, teacher_value=0.5, train_seconds=12.3456, kept=0.25, per_image="a/b"),
        result("supervised", 0, math.nan, error="the loss is not finite"),
    ]
    path = tmp_path / "results.parquet"
    write_results(path, rows)
    again = read_results(path)
    assert [row.arm for row in again] == ["supervised", "self-training"]
    assert again[1].value == 0.71234567 and again[1].train_seconds == 12.3 and again[1].per_image == "a/b"
    assert math.isnan(again[0].value) and math.isnan(again[0].teacher_value) and not again[0].done
    frame = pd.read_parquet(path)
    assert frame.dtypes["value"] == "float64" and frame.dtypes["seed"] == "int64" and frame["value"].isna().sum() == 1
    found = duckdb.sql(f"SELECT arm, avg(value) FROM '{path}' WHERE error = '' GROUP BY arm").fetchall()
    assert found == [("self-training", 0.71234567)]


def test_results_have_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    rows = grid(lambda *_: 0.5)
    write_results(tmp_path / "a", rows)
    write_results(tmp_path / "b", rows[::-1])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert in_order(rows[::-1]) == in_order(rows)


def test_what_is_no_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no parquet")
    pd.DataFrame({"value": [1.0]}).to_parquet(tmp_path / "other")
    for name, says in (("text", "cannot be read"), ("other", "other columns"), ("absent", "cannot be read")):
        with pytest.raises(BuildError, match=says):
            read_results(tmp_path / name)


# Intervals over seeds


@given(st.lists(st.floats(-1, 1), min_size=LEAST, max_size=12).filter(lambda v: max(v) - min(v) > 1e-3))
def test_the_interval_over_seeds_is_scipys(values: list[float]) -> None:
    found = spread(values)
    test = stats.ttest_rel(values, np.zeros(len(values)))
    ends = test.confidence_interval(0.95)
    assert found.p == pytest.approx(test.pvalue, rel=1e-9, abs=1e-15)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "p", "interval"),
    [
        ([], math.nan, False),
        ([0.1], math.nan, False),
        ([0.1, 0.2, 0.3, 0.4], math.nan, False),
        ([0.0] * 5, 1.0, False),
        ([0.1] * 5, 0.0625, False),  # the sign test: 2 / 2^5
        ([0.3 - 0.2, 0.1, 0.1, 0.1, 0.7 - 0.6], 0.0625, False),  # equal but for rounding
        ([0.1, 0.2, 0.3, 0.4, 0.5], stats.ttest_1samp([0.1, 0.2, 0.3, 0.4, 0.5], 0).pvalue, True),
    ],
)
def test_few_seeds_and_equal_ones_give_no_interval(values: list[float], p: float, interval: bool) -> None:
    found = spread(values)
    assert found.n == len(values)
    assert found.p == pytest.approx(p, nan_ok=True)
    assert math.isnan(found.low) == (not interval)


def test_intervals_cover_and_holm_keeps_its_level() -> None:
    """2000 families of 3 true nulls over 5 seeds: 95 % of the intervals hold 0, and at most 5 % of families err."""
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (2000, 3, 5))
    found = [[spread(one) for one in family] for family in values.tolist()]
    assert np.mean([one.low <= 0 <= one.high for family in found for one in family]) == pytest.approx(0.95, abs=0.012)
    wrong = np.mean([(holm(np.array([one.p for one in family])) < 0.05).any() for family in found])
    assert wrong == pytest.approx(0.0496, abs=0.015)


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),  # the example of R's p.adjust documentation
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.02, math.nan], [0.04, math.nan]),  # one without figures still counts as a test
        ([], []),
    ],
)
def test_holm_by_hand(p: list[float], adjusted: list[float]) -> None:
    assert holm(np.array(p)).tolist() == pytest.approx(adjusted, nan_ok=True)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_the_closed_test_of_bonferroni(p: list[float]) -> None:
    """A hypothesis is refused if every set of hypotheses with it is, by Bonferroni (Marcus, Peritz, Gabriel 1976)."""
    places = range(len(p))
    sets = [group for size in range(1, len(p) + 1) for group in itertools.combinations(places, size)]
    wanted = [max(min(1.0, len(g) * min(p[k] for k in g)) for g in sets if place in g) for place in places]
    assert holm(np.array(p)).tolist() == pytest.approx(wanted)


def test_only_pairs_are_compared_and_the_rest_is_named() -> None:
    rows = [
        result(arm, seed, 0.5 + 0.1 * seed + (arm != "supervised") * 0.01 * seed) for arm in ARMS for seed in range(7)
    ]
    rows = [row for row in rows if (row.arm, row.seed) != ("self-training", 2)]
    rows = [replace(r, value=math.nan, error="killed") if (r.arm, r.seed) == ("supervised", 4) else r for r in rows]
    found = difference(rows)
    assert found.seeds == (0, 1, 3, 5, 6) and found.lost == (2, 4)
    assert found.by_seed == pytest.approx((0, 0.01, 0.03, 0.05, 0.06))
    assert found.adjusted == pytest.approx(stats.ttest_rel(found.by_seed, np.zeros(5)).pvalue)
    assert difference(rows[::-1]) == found


def test_rows_of_two_studies_or_twice_the_same_cell_are_refused() -> None:
    row = result("supervised", 0, 0.5)
    with pytest.raises(BuildError, match="twice"):
        index([row, row])
    with pytest.raises(BuildError, match="several studies"):
        index([row, replace(row, seed=1, study="other")])


def test_declared_contrasts_are_of_every_place_that_agrees() -> None:
    cells = index(grid(lambda *_: 0.5))
    assert len(arms_compared(cells, "self-training", "longer", {})) == 4
    one = arms_compared(cells, "self-training", "longer", {"augment": "S4", "fraction": 0.25})
    assert [contrast.name for contrast in one] == ["self-training - longer, S4, 25 % of the labels"]
    assert arms_compared(cells, "self-training", "ceiling", {}) == []


def test_of_several_alphas_the_tables_show_the_usual_one() -> None:
    rows = [result("self-training", 0, 0.5 + alpha / 10, alpha=alpha) for alpha in (0.5, 1.0, 2.0)]
    cells = index([*rows, result("supervised", 0, 0.4)])
    found = find(cells, "self-training", "S1", "random", 1.0)
    assert found is not None and found.alpha == 1.0
    assert len(arms_compared(cells, "self-training", "supervised", {})) == 3
    by_alpha = next(table for table in report([*rows, result("supervised", 0, 0.4)]) if table.title == "By alpha")
    assert by_alpha.columns[2:] == ("alpha 0.5", "alpha 1", "alpha 2")


# Test images, drawn again


def scenes(seed: int, images: int, *, ties: bool) -> tuple[Truth, list[Detections]]:
    """Images with boxes of two classes, found with some noise, and others that are not there."""
    rng = np.random.default_rng(seed)
    made, found = [], []
    for number in range(images):
        n = int(rng.integers(0, 5))
        corner = rng.uniform(0, 60, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 40, (n, 2))], axis=1).astype(np.float32)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        labels, crowd = rng.integers(0, 2, n).astype(np.int16), rng.uniform(size=n) < 0.1
        name = f"{number}.png"
        # image ids fall as places rise: neither is to be taken for the other
        made.append(
            LabelledImage(name, Path(name), 100, 100, boxes, labels, crowd, area, 900 - number, np.zeros(n, bool))
        )
        guess = np.concatenate(
            [boxes + rng.normal(0, 3, boxes.shape), rng.uniform(np.zeros(4), (40, 40, 90, 90), (3, 4))]
        )
        scores = rng.choice([0.25, 0.5, 0.75, 0.9], n + 3) if ties else rng.uniform(0, 1, n + 3)
        names = np.concatenate([labels, rng.integers(0, 2, 3)])
        found.append(Detections.of(guess, scores, names, width=100, height=100))
    return Truth(("a", "b"), made, (3, 7)), found


def test_the_ap_of_outcomes_is_cocoevals_with_equal_scores(tmp_path: Path) -> None:
    for seed in range(3):
        truth, found = scenes(seed, 12, ties=True)
        write_box_outcomes(tmp_path / "boxes", truth, found)
        value = read_outcomes(tmp_path / "boxes").metric(np.ones((1, 12), np.int64))
        assert value[0] == pytest.approx(evaluate_detections(truth, found)["AP"], abs=1e-12)


def test_the_ap_of_outcomes_is_cocoevals_of_the_drawn_images(tmp_path: Path) -> None:
    truth, found = scenes(0, 12, ties=False)
    write_box_outcomes(tmp_path / "boxes", truth, found)
    outcomes = read_outcomes(tmp_path / "boxes")
    assert outcomes.names == tuple(image.name for image in truth.images)
    weights = np.random.default_rng(2).multinomial(12, np.full(12, 1 / 12), size=5)
    for row, value in zip(weights, outcomes.metric(weights), strict=True):
        places = np.repeat(np.arange(12), row)
        drawn = [replace(truth.images[place], image_id=new) for new, place in enumerate(places, 1)]
        real = evaluate_detections(replace(truth, images=drawn), [found[place] for place in places])
        assert value == pytest.approx(real["AP"], abs=1e-12)


def test_the_miou_of_outcomes_is_that_of_the_drawn_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wanted = rng.choice([0, 1, 2, 255], (6, 8, 8))
    found = np.where(rng.uniform(size=wanted.shape) < 0.6, wanted, rng.choice([0, 1, 2, 255], wanted.shape))
    counts = [confusion(one, other, 4) for one, other in zip(wanted, found, strict=True)]  # class 3 is nowhere
    write_map_outcomes(tmp_path / "maps", [str(n) for n in range(6)], [overlap(part) for part in counts])
    outcomes = read_outcomes(tmp_path / "maps")
    weights = rng.multinomial(6, np.full(6, 1 / 6), size=20)
    for row, value in zip(weights, outcomes.metric(weights), strict=True):
        drawn = np.sum([counts[place] for place in np.repeat(np.arange(6), row)], axis=0)
        assert value == pytest.approx(map_metrics(drawn, list("abcd"))["mIoU"])


def with_outcomes(folder: Path, right: dict[tuple[str, int], np.ndarray]) -> list[CellResult]:
    rows = []
    for (arm, seed), hits in right.items():
        row = result(arm, seed, float(hits.mean()), per_image=f"{arm}-{seed}.parquet")
        write_class_outcomes(folder / row.per_image, [f"{n}.png" for n in range(len(hits))], hits)
        rows.append(row)
    return rows


def test_the_interval_over_test_images_is_scipys_paired_bootstrap(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(size=400)
    right = {
        (arm, seed): base + rng.normal(0, 0.2, 400) < 0.6 + 0.06 * (arm != "supervised")
        for arm in ("supervised", "self-training")
        for seed in range(3)
    }
    rows = with_outcomes(tmp_path, right)
    low, high = image_interval(difference(rows), index(rows), redraw(rows, tmp_path))
    gain = sum(right["self-training", s].astype(float) - right["supervised", s] for s in range(3)) / 3
    real = stats.bootstrap((gain,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert (low, high) == pytest.approx((real.low, real.high), abs=0.004)
    assert (low, high) == image_interval(difference(rows[::-1]), index(rows), redraw(rows[::-1], tmp_path))


def test_outcomes_that_do_not_fit_their_results_are_refused(tmp_path: Path) -> None:
    hits = np.array([True, False, True, True])
    rows = with_outcomes(tmp_path, {("supervised", 0): hits, ("self-training", 0): hits})
    with pytest.raises(BuildError, match=r"give accuracy 0\.7500, its result says 0\.7000"):
        redraw([replace(rows[0], value=0.7)], tmp_path)
    write_class_outcomes(tmp_path / rows[0].per_image, list("abcd"), hits)
    with pytest.raises(BuildError, match="other images"):
        redraw(rows, tmp_path)
    pd.DataFrame({"name": ["a"]}).to_parquet(tmp_path / rows[0].per_image)
    with pytest.raises(BuildError, match="holds no outcomes"):
        redraw(rows, tmp_path)


def test_cells_without_outcomes_have_no_interval_over_test_images(tmp_path: Path) -> None:
    rows = [result(arm, seed, 0.5) for arm in ("supervised", "self-training") for seed in range(5)]
    assert all(map(math.isnan, image_interval(difference(rows), index(rows), redraw(rows, tmp_path))))


# Tables


@pytest.mark.parametrize(
    ("values", "signed", "said"),
    [
        ([], False, "-"),
        ([0.443], False, "44.3"),
        ([0.44, 0.45], False, "44.5 (44.0 to 45.0)"),
        ([0.01, -0.02], True, "-0.5 (-2.0 to +1.0)"),
        ([0.44, 0.45, 0.46, 0.47, 0.48], False, "46.0 ± 2.0"),
        ([0.0100, 0.0101, 0.0102, 0.0103, 0.0104], True, "+1.02 ± 0.02"),
        ([0.5] * 6, False, "50.0"),
    ],
)
def test_figures_are_rounded_to_what_they_are_worth(values: list[float], signed: bool, said: str) -> None:
    assert measured(spread(values), signed=signed) == said


TITLES = {
    "2": "(as the paper's Table 2)",
    "3": "(as the paper's Table 3)",
    "4": "(as the paper's Table 4)",
    "7": "(as the paper's Table 7)",
    "controls": "Controls",
    "plain": "Arms",
}


@pytest.mark.parametrize(
    ("varied", "there"),
    [
        ({}, "2 3"),
        ({"augments": ["S4"]}, "3"),
        ({"fractions": [1.0]}, "2"),
        ({"augments": ["S4"], "fractions": [1.0]}, "plain"),
        ({"augments": ["S4"], "fractions": [1.0], "inits": ["random", "simclr"]}, "4"),
        ({"arms": ["supervised"]}, "2"),
        ({"augments": ["S4"], "fractions": [1.0], "arms": [*ARMS, "joint", "self-training+joint"]}, "7"),
        ({"augments": ["S4"], "fractions": [1.0], "arms": [*ARMS, "placebo", "ceiling"]}, "controls"),
    ],
)
def test_a_table_is_there_where_the_grid_has_its_axes(varied: dict[str, Any], there: str) -> None:
    found = report(grid(lambda *_: 0.5, **varied))
    assert {name for name, title in TITLES.items() if any(title in one.title for one in found)} == set(there.split())
    for one in found:
        assert len({len(one.columns), *map(len, one.rows)}) == 1 and one.rows


def test_tables_hold_the_means_and_the_paired_gains() -> None:
    rows = grid(lambda arm, a, i, f: 0.4 + 0.1 * (a == "S4") + 0.2 * f + 0.03 * (arm == "self-training"), noise=0.001)
    two, _, three = report(rows)
    by_name = {(row[0], row[1]): row[2:] for row in two.rows}
    values = [r.value for r in rows if (r.arm, r.augment, r.fraction) == ("self-training", "S4", 1.0)]
    assert two.columns == ("initialisation", "arm", "S1", "S4") and "n = 5 seeds" in two.note
    assert by_name["random", "self-training"][1].startswith(f"{100 * np.mean(values):.1f} ± ")
    base = [r.value for r in rows if (r.arm, r.augment, r.fraction) == ("supervised", "S4", 1.0)]
    assert f"[{100 * (np.mean(values) - np.mean(base)):+.1f} ± 0." in by_name["random", "self-training"][1]
    assert "[" not in by_name["random", "supervised"][1]
    assert three.columns[3:] == ("25 % of the labels", "100 % of the labels")
    assert three.rows[0][:3] == ("S4", "random", "supervised") and "→" in three.rows[0][3]


def test_a_failed_cell_is_listed_and_its_seed_left_out_on_both_sides() -> None:
    rows = grid(lambda *_: 0.5, seeds=6)
    lost = next(
        n for n, r in enumerate(rows) if (r.arm, r.augment, r.fraction, r.seed) == ("self-training", "S4", 1.0, 3)
    )
    rows[lost] = replace(rows[lost], value=math.nan, error="the loss is not finite")
    del rows[0]  # supervised, S1, .25, seed 0
    cells = index(rows)
    where = axes(cells, ("S1", "S4"), ("random",), "test")
    assert [row[2:] for row in missing_table(cells, where).rows] == [
        ("0", "not run yet"),
        ("3", "the loss is not finite"),
    ]
    table = report(rows)[0]
    assert "(n 5)" in next(row for row in table.rows if row[1] == "self-training")[3]
    assert "n is given where it is less" in table.note
    (contrast,) = arms_compared(cells, "self-training", "longer", {"augment": "S4", "fraction": 1.0})
    shown = contrast_table("", "", [(compare(contrast, cells), (math.nan, math.nan))]).rows[0]
    assert shown[2] == "5 of 6" and shown[7] == "-"


def test_the_budget_says_what_teacher_and_labels_cost() -> None:
    rows = [
        result("supervised", 0, 0.5, steps=100, batch=32, train_seconds=60.0),
        result("longer", 0, 0.5, steps=150, batch=32, train_seconds=90.0),
        result("self-training", 0, 0.5, steps=100, batch=32, teacher_steps=50, train_seconds=61.0, teacher_seconds=7300.0,
               label_seconds=400.0, pool=2000, kept=1234.0, teacher_value=0.456),
    ]  # fmt: skip
    cells = index(rows)
    table = budget_table(cells, axes(cells, ("S1",), ("random",), "test"))
    row = dict(zip(table.columns, table.rows[-1], strict=True))
    assert row["steps in all"] == dict(zip(table.columns, table.rows[1], strict=True))["steps in all"] == "150"
    assert (row["teacher"], row["labelling"], row["kept"], row["pool"]) == ("2.0 h", "7 min", "1,234", "2,000")
    assert row["teacher accuracy"] == "45.6"


def test_markdown_tables_keep_their_columns() -> None:
    text = markdown(Table("T", "note", ("a", "b"), (("x | y", "1"), ("z", "2"))))
    assert "| x \\| y | 1 |" in text and "| --- | ---: |" in text


def test_later_rounds_have_their_own_budget() -> None:
    rows = [result("self-training", 0, 0.5, round=n, steps=100, teacher_steps=100 * n - 50) for n in (1, 2)]
    cells = index(rows)
    found = budget_table(cells, axes(cells, ("S1",), ("random",), "test"))
    assert [(row[0], row[found.columns.index("steps in all")]) for row in found.rows] == [
        ("self-training", "150"),
        ("self-training, round 2", "250"),
    ]


def test_students_that_start_from_their_teacher_are_held_against_it() -> None:
    arms = ("continued", "continued-student")
    rows = grid(lambda arm, *_: 0.5 + 0.05 * (arm == arms[1]), arms=arms, noise=0.001)
    table = next(one for one in report(rows) if one.title == "Students that start from their teacher")
    assert table.columns[1:] == arms and all("[+" in row[2] for row in table.rows)


# The four claims


def paper(arm: str, augment: str, init: str, fraction: float) -> float:
    """As the paper found it."""
    worth = {"random": 0.0, "imagenet": 0.06, "simclr": 0.03}[init]
    worth -= (init != "random") * (0.05 * (augment == "S4") + 0.05 * (fraction == 1.0))
    return 0.4 + 0.05 * (augment == "S4") + 0.1 * fraction + worth + 0.04 * (arm == "self-training")


def contrary(arm: str, augment: str, init: str, fraction: float) -> float:
    """The contrary in every claim."""
    worth = {"random": 0.0, "imagenet": 0.02, "simclr": 0.02}[init]
    worth += (init != "random") * (0.05 * (augment == "S4") + 0.05 * (fraction == 1.0))
    return 0.4 + 0.05 * (augment == "S4") + 0.1 * fraction + worth - 0.04 * (arm == "self-training")


INITS = ("random", "imagenet", "simclr")


@pytest.mark.parametrize(
    ("value", "options", "verdicts"),
    [
        (paper, {}, ["holds here"] * 4),
        (contrary, {}, ["does not hold"] * 4),
        (paper, {"seeds": 4}, ["direction only"] * 4),
        (lambda *_: 0.5, {"noise": 0.02}, ["not shown", "not shown", None, "not shown"]),
        (paper, {"inits": ["random"]}, ["not tested", "holds here", "not tested", "not tested"]),
        (paper, {"arms": ["supervised"]}, ["holds here", "not tested", "not tested", "holds here"]),
        (paper, {"augments": ["S4"], "fractions": [1.0]}, ["not tested", "holds here", "not tested", "holds here"]),
    ],
)
def test_the_claims_are_judged_by_their_contrasts(
    value: Any, options: dict[str, Any], verdicts: list[str | None]
) -> None:
    found = judged(grid(value, **{"inits": INITS, "noise": 0.001, **options}))
    for claim, verdict in zip(found, verdicts, strict=True):
        assert verdict in (None, claim.verdict), claim
        assert claim.why and "nan" not in claim.why


@pytest.mark.parametrize(
    ("value", "options", "results"),
    [
        (paper, {"seeds": 3}, [
            "Less in 4 of 4 pairs (+4.9 to +5.1 points of accuracy), 3 seeds: direction only", "Better in 12 of 12 pairs",
            "Better in 4 of 4 pairs", "Worse in 1 of 1 pair (-7.1 points of accuracy), 3 seeds: direction only",
        ]),
        (contrary, {"seeds": 5}, [
            "More in 4 of 4 pairs", "Worse in 12 of 12 pairs (-4.1 to -3.9 points of accuracy), 5 seeds",
            "Worse in 8 of 8 pairs", "Better in 1 of 1 pair (+12.0 points of accuracy), 5 seeds",
        ]),
        (lambda *_: 0.5, {"noise": 0.02}, [
            "No difference shown in 4 pairs (", "No difference shown in 12 pairs (", "", "No difference shown in 1 pair (",
        ]),
        (
            lambda arm, a, i, f: 0.5 + (arm == "self-training") * (0.05 if a == "S4" else -0.05), {},
            ["", "Better in 6 and worse in 6 of 12 pairs (-5.1 to +5.1 ", "", ""],
        ),
        (
            lambda arm, a, i, f: 0.5 - 0.05 * (arm == "self-training" and a == "S4"), {"inits": ["random"]},
            ["", "Worse in 2 of 4 pairs, no difference shown in 2 (-5.0 to +0.0 points of accuracy), 5 seeds", "", ""],
        ),
    ],
)  # fmt: skip
def test_the_result_comes_first_whatever_was_claimed(value: Any, options: dict[str, Any], results: list[str]) -> None:
    found = judged(grid(value, **{"inits": INITS, "noise": 0.001, **options}))
    for claim, start in zip(found, results, strict=True):
        assert claim.result.startswith(start), claim.result
        first = claim.result.partition(" ")[0]
        assert claim.trend == (
            0 if " and " in claim.result else {"Better": 1, "Less": 1, "Worse": -1, "More": -1}.get(first, 0)
        )


def test_the_page_headlines_the_result_and_not_the_claim(tmp_path: Path) -> None:
    rows = grid(contrary, augments=["S1"], seeds=3, noise=0.0)
    write_report(rows, study(grid={"augment": ["S1"], "fractions": [0.25, 1]}, seeds=3), tmp_path)
    page = (tmp_path / "index.html").read_text()
    headlines = re.findall(r"<h2>(.*?)</h2>", page)
    assert headlines[:1] == ["Gain over longer, by labels"]
    assert headlines[1] == "Worse in 2 of 2 pairs (-4.0 to -4.0 points of accuracy), 3 seeds: direction only"
    assert not [words for words in headlines if "helps" in words or "hurts" in words]
    assert "<small>The paper's claim: “Self-training helps" in page


def test_a_claim_that_is_shown_at_one_place_holds_in_part() -> None:
    found = judged(grid(lambda arm, a, i, f: 0.5 + 0.05 * (arm == "self-training" and a == "S4"), noise=0.003))
    assert found[1].verdict == "holds in part"
    assert "as claimed, and shown in 2; lower and shown in 0; not shown in 2" in found[1].why


def test_a_claim_shown_everywhere_holds_though_lost_cells_leave_no_average() -> None:
    rows = grid(lambda arm, *_: 0.5 + 0.05 * (arm == "self-training"), augments=["S1"], seeds=8, noise=0.002)
    lost = {(0.25, 0), (0.25, 1), (0.25, 2), (1.0, 5), (1.0, 6), (1.0, 7)}
    kept = [row for row in rows if row.arm != "self-training" or (row.fraction, row.seed) not in lost]
    claim = judged(kept)[1]
    assert [one.seeds for one in claim.comparisons] == [(3, 4, 5, 6, 7), (0, 1, 2, 3, 4), (3, 4)]
    assert claim.verdict == "holds here"


def test_where_pretraining_helps_nowhere_there_is_nothing_to_add_to() -> None:
    rows = grid(lambda arm, a, i, f: 0.5 - 0.05 * (i == "imagenet"), inits=("random", "imagenet"), noise=0.001)
    claim = judged(rows)[2]
    assert claim.verdict == "not tested" and "helps nowhere" in claim.why


def test_what_a_start_is_worth_is_told_without_the_arm_supervised() -> None:
    """Longer is training on human labels alone, too."""
    rows = grid(lambda arm, a, i, f: 0.5 + 0.05 * (i == "imagenet"), inits=("random", "imagenet"), noise=0.001)
    with_both, without = judged(rows), judged([row for row in rows if row.arm != "supervised"])
    assert [claim.verdict == "not tested" for claim in with_both] == [c.verdict == "not tested" for c in without]
    assert without[0].verdict != "not tested" != without[2].verdict


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_verdicts_do_not_depend_on_the_order_of_rows(seed: int) -> None:
    rows = grid(paper, inits=INITS, seeds=5, noise=0.02)
    mixed = [rows[place] for place in np.random.default_rng(seed).permutation(len(rows))]
    assert [claim.why for claim in judged(mixed)] == [claim.why for claim in judged(rows)]


# The page


def test_the_report_is_whole_and_has_the_same_bytes(tmp_path: Path) -> None:
    primary = [{"arm": "self-training", "against": "longer"}]
    recipe, rows = study(primary=primary), grid(lambda arm, a, i, f: 0.5 + 0.05 * (arm == "self-training"))
    for name, given_rows in (("a", rows), ("b", rows[::-1])):
        (tmp_path / name).mkdir()
        write_report(given_rows, recipe, tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert {*files} == {"results.parquet", "tables.md", "index.html", *(f"{n}.{e}" for n in ("gain", "augment", "labels") for e in ("svg", "png"))}  # fmt: skip
    assert len(read_results(tmp_path / "a" / "results.parquet")) == 60
    page = files["index.html"].decode()
    assert "http" not in page.replace("http://www.w3.org", "") and "<script" not in page
    for said in ("holds here", "Claims not tested", "Primary contrasts", "adjusted over all 4", "Table 2", "Budget"):
        assert said in page
    text = files["tables.md"].decode()
    assert "- **Better in 4 of 4 pairs (+" in text and "“Self-training helps at every" in text and "holds here" in text
    assert "60 networks, measured by accuracy on the test images: 5 seeds" in text


def test_a_report_of_a_study_that_has_hardly_begun(tmp_path: Path) -> None:
    rows = [result("supervised", 0, math.nan, error="the machine went away")]
    with pytest.raises(BuildError, match="no cells yet"):
        write_report([], study(), tmp_path)
    write_report(rows, study(), tmp_path)
    assert "the machine went away" in (tmp_path / "index.html").read_text()
    write_report([*rows, result("self-training", 0, 0.5, fraction=0.25)], study(), tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert "1 of 60 networks (1 failed), measured" in text and "| 0, 1, 2, 3, 4 | not run yet |" in text


def test_what_is_not_yet_run_counts_as_a_test_and_lets_no_claim_hold(tmp_path: Path) -> None:
    rows = grid(lambda arm, a, i, f: 0.5 + 0.05 * (arm == "self-training"), augments=["S1"], noise=0.001)
    recipe = study(primary=[{"arm": "self-training", "against": "longer"}])
    (tmp_path / "labels.svg").write_text("of an earlier report")
    write_report([row for row in rows if row.fraction == 1.0], recipe, tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert "adjusted over all 4" in text and "with many.”: holds in part." in text
    write_report(rows, study(grid={"augment": ["S1"], "fractions": [0.25, 1]}), tmp_path)
    assert "with many.”: holds here." in (tmp_path / "tables.md").read_text()
    assert not (tmp_path / "augment.svg").exists() and (tmp_path / "labels.svg").exists()


def test_what_limits_a_study_is_said(tmp_path: Path) -> None:
    rows, one = grid(lambda *_: 0.5, augments=["S1"], fractions=[1.0]), {"augment": ["S1"], "fractions": [1.0]}
    recipe = study(grid=one, primary=[{"arm": "self-training", "against": "longer"}])
    declare(recipe, tmp_path, begun=False)
    write_report(rows, recipe, tmp_path)
    whole = (tmp_path / "tables.md").read_text()
    assert "with 100 % of the labels they learn from the same images" in whole
    assert "provisional" not in whole and "looks like" not in whole and "before its first figure" in whole
    alike = [f"{n}.png looks like 7.png of test (2 of 128 bits differ)" for n in range(7)]
    later = study(grid=one, primary=[{"arm": "longer", "against": "supervised"}])
    write_report(rows[:-1], later, tmp_path, alike)
    part = (tmp_path / "tables.md").read_text()
    assert "Not finished: verdicts and p-values are provisional" in part
    assert (
        "look like one of test, so that figures may flatter, 7: " in part
        and "4.png looks like" in part
        and "2 more" in part
    )
    assert "Not as declared: these contrasts changed" in part and "before its first figure" not in part
    write_report([replace(row, fraction=0.25) for row in rows], study(grid={"fractions": [0.25]}), tmp_path)
    assert "100 %" not in (tmp_path / "tables.md").read_text()


def test_primary_contrasts_are_of_the_round_whose_budget_is_equal(tmp_path: Path) -> None:
    rows = grid(lambda *_: 0.5, augments=["S1"], fractions=[1.0])
    rows += [replace(row, round=2, cell=row.cell[::-1]) for row in rows if row.arm == "self-training"]
    two = {"rounds": 2, "arms": [*ARMS]}
    for where, count in (({}, 1), ({"round": 2}, 1)):
        primary = [{"arm": "self-training", "against": "longer", "where": where}]
        write_report(rows, study(grid=two, primary=primary), tmp_path)
        text = (tmp_path / "tables.md").read_text()
        assert (
            len(re.findall(r"^\| self-training - longer.*\| - \|$", text, re.MULTILINE)) == count + 1
        )  # and a claim's
        assert ("longer, round 2 |" in text) == bool(where)


def test_comparisons_without_figures_are_not_counted_as_such() -> None:
    rows = grid(lambda *_: 0.5, seeds=2)
    cells = index([row for row in rows if row.augment == "S1"], list(index(rows)))
    claim = claims(cells, axes(cells, ("S1", "S4"), ("random",), "test"), STARTS)[1]
    assert claim.why.startswith("2 of 4 comparisons, mean difference")


def test_figures_on_val_are_said_to_be_no_result(tmp_path: Path) -> None:
    write_report(
        grid(lambda *_: 0.5, seeds=2, augments=["S1"], fractions=[1.0]), study(val="val", measure="val"), tmp_path
    )
    assert "no figure here is a result" in (tmp_path / "tables.md").read_text()


def test_starts_are_told_apart_by_what_they_begin_with() -> None:
    grid_section = {
        "init": {
            "plain": {},
            "in1k": {"pretrained": "DEFAULT"},
            "simclr-pool": {"pretrained": "runs/simclr/backbone.safetensors"},
            "own": {"pretrain": {"steps": 1}},
            "teacher": {"checkpoint": "runs/teacher"},
        }
    }
    assert starts(study(grid=grid_section)) == Starts("plain", ("in1k",), ("simclr-pool", "own"))


def test_contrasts_of_four_cells_are_differences_of_differences() -> None:
    rows = grid(paper, inits=("random", "imagenet"), noise=0.0)
    cells = index(rows)
    at = {key: Setting("supervised", key[0], key[1], 1.0, 0.0, 1) for key in itertools.product(("S1", "S4"), INITS[:2])}
    terms = ((1, at["S1", "imagenet"]), (-1, at["S1", "random"]), (-1, at["S4", "imagenet"]), (1, at["S4", "random"]))
    found = compare(Contrast("", terms), cells)
    assert found.by_seed == pytest.approx([0.05] * 5) and found.spread.p == 0.0625

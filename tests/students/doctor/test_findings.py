"""Each finding by the facts that show it, none by healthy ones, and none where self-training won."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from students.doctor.findings import ORDER, judge
from students.doctor.of_arms import is_above
from students.doctor.records import Case, Gap, Labels, Right, Selection, Training

CLASSES = ("a", "b", "c", "d")


def gap(
    arm: str, against: str, mean: float, *, seeds: int = 5, reach: float = 0.01, value: float = 0.8, least: float = 0
) -> Gap:
    """`reach` on both sides of the mean is the interval; below 5 seeds there is none, and `least` of them counts."""
    low, high = (mean - reach, mean + reach) if seeds >= 5 else (math.nan, math.nan)
    return Gap(arm, against, seeds, mean, low, high, least or mean, value, value - mean)


def selection(**changes: Any) -> Selection:
    """1,000 images of four classes, 200 of each kept, nearly all of them right."""
    healthy: dict[str, Any] = {
        "kind": "classification",
        "noun": "images",
        "rule": "score 0.9",
        "pool": 1000,
        "predicted": dict.fromkeys(CLASSES, 250),
        "kept": dict.fromkeys(CLASSES, 200),
        "human": Labels(100, dict.fromkeys(CLASSES, 25)),
        "right": dict.fromkeys(CLASSES, Right(200, 198, 250, 198)),
    }
    return Selection(**healthy | changes)


def boxes(**changes: Any) -> Selection:
    """200 boxes of each class on 400 images: as many as on 100 labelled ones."""
    of_boxes: dict[str, Any] = {"kind": "detection", "noun": "boxes", "pool": 400, "human": Labels(100, {"a": 200})}
    return selection(**of_boxes | changes)


def training(**changes: Any) -> Training:
    """It learned, and the two streams are alike."""
    healthy: dict[str, Any] = {"steps": 1000, "planned": 1000, "batch": 64, "joint": True, "lr": 0.004}
    healthy |= {"first": 2.3, "before": 0.31, "last": 0.3, "norm": 2.0, "clip_norm": 10.0}
    return Training(**healthy | {"ratio": 1.2, "unclipped": 1.2} | changes)


def case(**changes: Any) -> Case:
    """No better than `longer`, for no reason to be seen."""
    healthy: dict[str, Any] = {"where": "S1", "arm": "self-training", "metric": "accuracy"}
    healthy |= {"students": (training(),), "teachers": (training(joint=False),), "selections": (selection(),)}
    healthy |= {"student": 0.8, "teacher": 0.75, "outcome": gap("self-training", "longer", -0.02)}
    healthy |= {"longer": gap("longer", "supervised", 0.0), "taught": gap("supervised", "teacher", 0.01)}
    healthy |= {"ceiling": gap("ceiling", "longer", 0.05), "steps": 1000, "teacher_steps": 500, "longer_steps": 1500}
    return Case(**healthy | {"batch": 64, "images": (300.0, 800.0)} | changes)


def trained(**changes: Any) -> dict[str, Any]:
    return {"students": (training(**changes),)}


def kept(**changes: Any) -> dict[str, Any]:
    return {"selections": (selection(**changes),)}


ONE_CLASS = {"a": 180, "b": 20, "c": 0, "d": 0}
WRONG = Right(240, 200, 250, 200)
VAL = tuple((100 * n, value) for n, value in enumerate((0.5, 0.7, 0.8, 0.78, 0.75), 1))

FOUND: list[tuple[str, dict[str, Any], str]] = [
    ("no-step", trained(still=0.12), "12 % of the steps moved no weight.*lower lr from 0.004"),
    ("not-learning", trained(first=2.3, before=2.3, last=2.28), "ends at 99 % of what it began with.*another lr"),
    (
        "short-of-steps",
        {"longer": gap("longer", "supervised", 0.06, value=0.4)},
        r"short of steps: 500 more supervised steps \(longer\) are worth 6.0 points of accuracy \(34.0 to 40.0, "
        "interval .5.0 to .7.0 over 5 seeds.*raise train.steps from 1,000",
    ),
    (
        "no-ceiling",
        {"ceiling": gap("ceiling", "longer", -0.07, value=0.33)},
        "even the pool's true labels bring nothing: ceiling is -7.0 points.*33.0 against 40.0.*fewer",
    ),
    (
        "no-ceiling",
        {"ceiling": gap("ceiling", "longer", 0.005, value=0.45)},
        "not even the pool's true labels are shown to bring anything: ceiling is .0.5.*pseudo-labels hardly can",
    ),
    (
        "no-ceiling",
        {"ceiling": gap("ceiling", "longer", 0.0, seeds=1)},
        "not even .* are shown to bring anything.*1 seed",
    ),
    (
        "half-batch",
        {"half": gap("supervised", "placebo", 0.03)},
        r"half of every batch costs 3.0 points of accuracy.*placebo.* ends at 77.0, supervised, with as many steps, "
        "at 80.0",
    ),
    (
        "half-batch",
        {"half": gap("longer", "placebo", 0.03)},
        "half of every batch and the teacher's steps cost 3.0 .* longer, with its teacher's steps as well, at 80.0",
    ),
    (
        "short-teacher",
        {"taught": gap("supervised", "teacher", 0.05)},
        "after 500 it is 5.0 points of accuracy below supervised after 1,000.*raise teacher.steps",
    ),
    (
        "teacher-falling",
        {"teachers": (training(joint=False, before=1.0, last=0.8),)},
        "the teacher stopped while its loss .* fell, by 20 % over the last quarter of 1,000 steps",
    ),
    (
        "teacher-falling",
        {"teachers": (training(joint=False, metric="AP", val=((100, 0.2), (200, 0.3), (300, 0.35))),)},
        "its AP on val goes from 0.300 to 0.350 over its last 100 steps",
    ),
    (
        "no-filter",
        kept(kept=dict.fromkeys(CLASSES, 245), right={}, rule="score 0.5"),
        "98 % of the pool's images are kept at score 0.5, so the teacher's errors are in it.*raise keep.score",
    ),
    (
        "no-filter",
        kept(kept=dict.fromkeys(CLASSES, 218), right=dict.fromkeys(CLASSES, Right(218, 76, 250, 76))),
        "87 % of the pool's images are kept at score 0.9, 65 % of it wrongly labelled, so the teacher is surer than",
    ),
    (
        "short-of-steps",
        {"longer": gap("continued", "supervised", 0.03, seeds=2)},
        r"500 more supervised steps \(continued\) are worth 3.0 points",
    ),
    ("nearly-nothing", kept(kept=dict.fromkeys(CLASSES, 7)), r"2.8 % of the pool's images \(28\) at score 0.9"),
    (
        "nearly-nothing",
        {"selections": (boxes(right=dict.fromkeys(CLASSES, Right(200, 198, 500, 198))),)},
        "60 % of the pool's true objects are not kept",
    ),
    (
        "nearly-nothing",
        {"selections": (boxes(kept={"a": 300}, predicted={"a": 900}, right={}),)},
        "an image of the pool keeps 38 % of the boxes that a labelled one has",
    ),
    (
        "errors-learned",
        {"student": 0.752, **kept(right=dict.fromkeys(CLASSES, Right(200, 190, 250, 190)))},
        r"ends at 75.2 points of accuracy, the teacher at 75.0, and 5.0 % .* is wrong \(.* true labels .* 80.0\)",
    ),
    ("no-better-than-teacher", {"student": 0.74, **kept(right={})}, "no better than its teacher .74.0.*pool_truth"),
    (
        "imprecise",
        kept(right={"a": WRONG, "b": Right(200, 150, 250, 150), "c": Right(200, 199, 250, 199)}),
        r"of the kept images 86 % are right, least of b \(75 %\), a \(83 %\)",
    ),
    ("classes-gone", kept(kept=ONE_CLASS), "nothing is kept of c, d, 50 % of the human labels"),
    ("one-sided", kept(kept=ONE_CLASS), "90 % of the kept images are a, which is 25 % of the human labels"),
    ("one-sided", kept(kept=ONE_CLASS, human=None), "which is 25 % of what the teacher predicts"),
    ("mostly-ignored", trained(ignored=(0.1, 0.6)), "60 % of the pseudo stream teaches nothing.* 10 %.*keep.ignore"),
    (
        "ratio-at-limit",
        trained(ratio=10.0, unclipped=14.0, clip_rate=0.8, alpha=0.5),
        r"at its limit in 80 % of the steps \(10, without the limit 14\).*far easier.*lower alpha from 0.5",
    ),
    (
        "ratio-at-limit",
        trained(ratio=0.1, unclipped=0.0125, clip_rate=0.8),
        "known by heart, so the pseudo-labels outweigh them 8 times",
    ),
    (
        "ratio-multiplies",
        trained(ratio=2.9, unclipped=2.9),
        "multiplies the pseudo loss by 2.9, since.*alpha 0.1 to 0.3",
    ),
    ("unequal-passes", {"images": (800.0, 56.0)}, "the 56 images .* 571 times, the 800 labelled ones 40 times"),
    ("unequal-passes", {"images": (800.0, 64000.0)}, "1,000 steps go through 50 % of the 64,000 images"),
    (
        "overfit",
        trained(last=0.01, before=0.01, steps=500, metric="accuracy", val=VAL),
        "by heart .loss 2.3 to 0.01.*falls to 0.750: its best is 0.800, after 300 of 500 steps",
    ),
    (
        "overfit",
        trained(last=0.01, before=0.01, steps=500, metric="AP", val=((100, 0.5), (200, 0.6), (500, 0.6))),
        "AP on val stands: its best is 0.600, after 200 of 500",
    ),
    ("clipped", trained(clipped=0.9, norm=35.0), "clipped in 90 % of the steps .its norm is 35, clip_norm 10"),
    ("still-falling", trained(before=1.2, last=1.0), "the network stopped while its loss .* fell, by 17 %"),
    ("few-seeds", {"outcome": gap("self-training", "longer", -0.02, seeds=3)}, "3 seeds show a direction only.*run 5"),
    ("few-seeds", {"outcome": gap("self-training", "longer", 0.0)}, "nothing is shown either way: .* .0.0 points"),
]


def test_of_healthy_facts_nothing_is_found() -> None:
    assert judge([case()]) == []
    assert judge([case(selections=(boxes(kept={"a": 700}, right={}),))]) == []
    assert judge([Case()]) == []  # of which nothing is known


@pytest.mark.parametrize(("name", "changes", "says"), FOUND, ids=[f"{n}-{row[0]}" for n, row in enumerate(FOUND)])
def test_each_fault_is_a_sentence_with_its_figure(name: str, changes: dict[str, Any], says: str) -> None:
    findings = {found.name: found for found in judge([case(**changes)])}
    assert name in findings
    sentence = str(findings[name])
    assert re.search(says, sentence) and sentence.startswith("S1: ")
    assert not sentence.endswith(".") and "nan" not in sentence and ". " not in sentence
    beside = findings.keys() - {name}
    assert beside <= {"classes-gone", "one-sided", "errors-learned", "no-better-than-teacher", "imprecise"}, beside


@pytest.mark.parametrize(("name", "changes", "says"), FOUND)
def test_where_self_training_won_it_is_silent(name: str, changes: dict[str, Any], says: str) -> None:
    for won in (gap("self-training", "longer", 0.02), gap("self-training", "longer", 0.01, seeds=2)):
        assert judge([replace(case(**changes), outcome=won)]) == []


@pytest.mark.parametrize(
    ("gain", "pool", "found"),
    [
        (gap("self-training", "longer", 0.02), gap("self-training", "placebo", 0.001), True),
        (gap("self-training", "longer", 0.02), gap("self-training", "placebo", -0.02), True),
        (
            gap("self-training", "longer", 0.02),
            gap("self-training", "placebo", 0.015),
            False,
        ),  # its interval is above 0
        (gap("self-training", "longer", 0.1), gap("self-training", "placebo", 0.06, reach=0.1), False),  # most of it
        (gap("self-training", "longer", -0.02), gap("self-training", "placebo", -0.02), False),
        (gap("self-training", "longer", 0.02), None, False),
    ],
)
def test_a_gain_that_placebo_has_too_is_not_of_the_pool(gain: Gap, pool: Gap | None, found: bool) -> None:
    findings = {each.name: str(each) for each in judge([case(outcome=gain, pool=pool)])}
    assert ("not-of-the-pool" in findings) == found
    if found:
        assert re.search("ends at 80.0 points of accuracy, placebo, .*longer at 78.0", findings["not-of-the-pool"])


def test_of_labels_that_are_somebodys_word_no_filter_is_asked() -> None:
    told = selection(told=True, rule="score 0.5", kept=dict.fromkeys(CLASSES, 250), right={})
    assert judge([case(selections=(told,))]) == []
    wrong = judge([case(selections=(replace(told, right=dict.fromkeys(CLASSES, WRONG)),))])
    assert [each.name for each in wrong] == ["imprecise"] and "all have score 1" in str(wrong[0])


def test_of_a_run_that_has_not_ended_nothing_is_said_of_its_end() -> None:
    broken = training(planned=5000, first=2.3, before=2.3, last=2.2, val=VAL)
    assert judge([case(students=(broken,), teachers=(replace(broken, before=2.9, val=VAL[:3]),))]) == []


def test_every_finding_is_tried_here() -> None:
    assert len({name for name, *_ in FOUND}) == len(ORDER) + 1  # errors_learned has two


@pytest.mark.parametrize(
    ("won", "above"),
    [
        (None, False),
        (gap("a", "b", 0.02), True),
        (gap("a", "b", 0.005), False),  # the interval holds 0
        (gap("a", "b", 0.02, seeds=4), True),
        (gap("a", "b", 0.02, seeds=4, least=-0.01), False),
        (Gap("a", "b", 5, 0.1, math.nan, math.nan, 0.1, 0.8, 0.7), True),  # five equal differences
    ],
)
def test_what_winning_is(won: Gap | None, above: bool) -> None:
    assert is_above(won) is above


def test_the_worst_setting_is_told_first_and_the_others_are_counted() -> None:
    fault = {"longer": gap("longer", "supervised", 0.06)}
    weak = case(**fault, where="S1", outcome=gap("self-training", "longer", -0.01))
    strong = case(**fault | trained(ratio=5.0, unclipped=5.0), where="S4", outcome=gap("self-training", "longer", -0.1))
    found = judge([weak, strong])
    assert [(each.name, each.where) for each in found] == [
        ("short-of-steps", ("S4", "S1")),
        ("ratio-multiplies", ("S4",)),
        ("few-seeds", ("S1",)),
    ]
    assert str(found[0]).startswith("S4 and 1 more: ")


def test_what_the_arms_show_is_not_told_again_from_the_log() -> None:
    falling = {"teachers": (training(joint=False, before=1.0, last=0.8),), **trained(before=1.2, last=1.0)}
    shown = {"taught": gap("supervised", "teacher", 0.05), "longer": gap("longer", "supervised", 0.06)}
    assert [found.name for found in judge([case(**falling, **shown)])] == ["short-of-steps", "short-teacher"]
    no_labels = judge([case(**shown, ceiling=gap("ceiling", "longer", -0.01))])
    assert "short of steps, not of labels" in str(no_labels[0])

"""What is kept, ignored and dropped, by hand and as properties that hold for any input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from builder.errors import BuildError
from builder.evidence.thresholds import Evidence, solve
from builder.rules.apply import decide
from builder.rules.keep import Keep, version_classes
from builder.rules.objects import Objects
from builder.rules.reasons import DROPPED, IGNORED, KEPT, REASONS
from builder.rules.where import Where

CLASSES = ("a", "b")


def objects(*rows: tuple[int, int, float, tuple[float, float, float, float]]) -> Objects:
    """(image, label, score, xyxy) rows of 100 x 80 images."""
    image, label, score, box = zip(*rows, strict=True) if rows else ((), (), (), ())
    images = max(image, default=-1) + 1
    return Objects(
        np.array(image, np.int64), np.array(label, np.int16), np.array(score, np.float32),
        np.array(box, np.float32).reshape(-1, 4), np.tile(np.array([100, 80], np.int32), (images, 1)),
        [f"dir/{n}.jpg" for n in range(images)],
    )  # fmt: skip


BIG, SMALL = (0.0, 0.0, 50.0, 50.0), (0.0, 0.0, 5.0, 30.0)
FAR = (60.0, 40.0, 90.0, 70.0)


@pytest.mark.parametrize(
    ("keep", "rows", "expected"),
    [
        (Keep(), [(0, 0, 0.5, BIG), (0, 0, 0.49, BIG), (0, 0, 0.3, BIG), (0, 0, 0.29, BIG)],
         ["kept", "ignore_band", "ignore_band", "below_threshold"]),
        (Keep(ignore=None), [(0, 0, 0.5, BIG), (0, 0, 0.49, BIG)], ["kept", "below_threshold"]),
        (Keep(score={"a": 0.6, "*": 0.4}), [(0, 0, 0.59, BIG), (0, 1, 0.41, BIG), (0, 0, 0.6, BIG)], ["ignore_band", "kept", "kept"]),
        (Keep(score=0.2, ignore=0.3), [(0, 0, 0.25, BIG)], ["kept"]),  # ignore never lies above the threshold
        (Keep(nms=0.5), [(0, 0, 0.9, BIG), (0, 0, 0.8, BIG), (0, 1, 0.8, BIG), (1, 0, 0.8, BIG)], ["kept", "nms", "kept", "kept"]),
        (Keep(max_per_image=1), [(0, 0, 0.6, BIG), (0, 0, 0.9, FAR), (1, 0, 0.7, BIG)], ["cap", "kept", "kept"]),
        (Keep(nms=0.5, max_per_image=2), [(0, 0, 0.9, BIG), (0, 0, 0.8, BIG), (0, 0, 0.7, FAR)], ["kept", "nms", "kept"]),
        (Keep(where="area >= 200"), [(0, 0, 0.9, BIG), (0, 0, 0.9, SMALL)], ["kept", "where_false"]),
        (Keep(where="CASE WHEN class = 'a' THEN TRUE END"), [(0, 0, 0.9, BIG), (0, 1, 0.9, BIG)], ["kept", "where_null"]),
        (Keep(where="sqrt(x1 - 30) >= 0 OR class = 'b'"), [(0, 0, 0.9, BIG), (0, 0, 0.9, FAR), (0, 1, 0.9, BIG)], ["where_nan", "kept", "kept"]),
        (Keep(where="NOT ln(x1) > 0"), [(0, 0, 0.9, BIG), (0, 0, 0.9, FAR)], ["kept", "where_false"]),  # -inf is less than 0
        (Keep(where="x1 / 0 > y1 AND NOT (x1 - x1) / 0 > y1"), [(0, 0, 0.9, FAR), (0, 0, 0.4, BIG)], ["where_nan", "ignore_band"]),
        (Keep(where="CASE WHEN x1 >= 30 THEN sqrt(x1 - 30) < 6 ELSE TRUE END"), [(0, 0, 0.9, BIG), (0, 0, 0.9, FAR)], ["kept", "kept"]),
        (Keep(where="isnan(sqrt(x1 - 30))"), [(0, 0, 0.9, BIG), (0, 0, 0.9, FAR)], ["kept", "where_false"]),
        (Keep(where="name LIKE '%/1.jpg' AND image_width = 100"), [(0, 0, 0.9, BIG), (1, 0, 0.9, BIG)], ["where_false", "kept"]),
        (Keep(min_size=6), [(0, 0, 0.9, BIG), (0, 0, 0.9, SMALL)], ["kept", "size"]),
        (Keep(where="area >= 200", min_size=6), [(0, 0, 0.9, SMALL), (0, 0, 0.4, SMALL)], ["where_false", "ignore_band"]),
        (Keep(), [], []),
    ],
)  # fmt: skip
def test_reasons_by_hand(keep: Keep, rows: list, expected: list[str]) -> None:
    made = decide(objects(*rows), keep, solve(keep, Evidence(CLASSES, 0.05)), CLASSES)
    assert [REASONS[r] for r in made.reason] == expected


@pytest.mark.parametrize(("refused", "outcome"), [("ignore", IGNORED), ("drop", DROPPED)])
def test_refused_objects_become_ignored_unless_told_otherwise(refused: str, outcome: int) -> None:
    keep = Keep(score=0.5, nms=0.9, where="area >= 200", refused=refused)
    made = decide(
        objects((0, 0, 0.9, SMALL), (0, 0, 0.8, SMALL), (0, 0, 0.1, BIG)),
        keep,
        solve(keep, Evidence(CLASSES, 0.05)),
        CLASSES,
    )
    assert list(made.outcome) == [outcome, DROPPED, DROPPED]


box = st.tuples(*(st.integers(0, 60) for _ in range(2)), *(st.integers(1, 40) for _ in range(2))).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)
rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(1, 100).map(lambda n: n / 100), box), max_size=30
)
keeps = st.builds(
    Keep, score=st.integers(10, 95).map(lambda n: n / 100), ignore=st.none() | st.integers(0, 100).map(lambda n: n / 100),
    nms=st.none() | st.just(0.5), max_per_image=st.none() | st.integers(1, 4), min_size=st.none() | st.just(8.0),
    where=st.sampled_from([None, "area > 200", "class = 'a'"]), refused=st.sampled_from(["ignore", "drop"]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(rows=rows, keep=keeps, seed=st.integers(0, 99))
def test_each_object_has_one_outcome_whatever_the_order_of_rows(rows: list, keep: Keep, seed: int) -> None:
    columns, thresholds = objects(*rows), solve(keep, Evidence(CLASSES, 0.05))
    made = decide(columns, keep, thresholds, CLASSES)
    assert len(made.outcome) == len(rows) and set(made.outcome) <= {KEPT, IGNORED, DROPPED}
    assert ((made.reason == 0) == (made.outcome == KEPT)).all()
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = replace(
        columns, **{name: getattr(columns, name)[order] for name in ("image", "label", "score", "boxes")}
    )
    again = decide(shuffled, keep, thresholds, CLASSES)
    told = sorted((rows[n], made.reason[n]) for n in range(len(rows)))
    assert told == sorted((rows[order[n]], again.reason[n]) for n in range(len(rows)))


@settings(max_examples=60, deadline=None)
@given(rows=rows, low=st.integers(10, 90), step=st.integers(1, 10), nms=st.none() | st.just(0.5))
def test_raising_a_threshold_never_adds_a_box(rows: list, low: int, step: int, nms: float | None) -> None:
    kept = []
    for score in (low / 100, (low + step) / 100):
        keep = Keep(score=score, nms=nms)
        kept.append(decide(objects(*rows), keep, solve(keep, Evidence(CLASSES, 0.05)), CLASSES).outcome == KEPT)
    assert not (kept[1] & ~kept[0]).any()


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (Keep(score={"a": 0.5, "cat": 0.5}), "'cat', which the teacher does not know: its classes are a, b"),
        (Keep(score={"a": 0.5}), "no number for class 'b'"),
        (Keep(score=0.04), "below the floor 0.05"),
    ],
)
def test_rules_that_do_not_fit_the_teacher(keep: Keep, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        solve(keep, Evidence(CLASSES, 0.05))


@pytest.mark.parametrize("name", ["tab\tx", "line\nend", "person\x92s", "\x7f"])
def test_a_name_that_no_manifest_can_hold_is_refused_before_a_version_has_it(name: str) -> None:
    teacher = {"kind": "detection", "classes": ["🐶 'dog' \"", name]}
    with pytest.raises(BuildError, match=r"^class '.*' holds a tab, .* keep.classes.map") as told:
        version_classes(Keep(), teacher)
    assert "\n" not in str(told.value)
    keep = Keep.model_validate({"classes": {"map": {name: "x"}}})
    assert version_classes(keep, teacher) == ("🐶 'dog' \"", "x")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("area >=", "no SQL expression"),
        ("area >= 1; DROP TABLE objects", "no SQL expression"),
        ("(SELECT 1) = 1", "uses subquery"),
        ("1=1) UNION SELECT (2=2", "one expression"),
        ("1=1) AS a, (2=2", "one expression"),
        ("read_text('/etc/passwd') = 'x'", "calls read_text"),
        ("getenv('HOME') = 'x'", "calls getenv"),
        ("count(*) > 1", "calls count"),
        ("sum(x1) OVER () > 1", "uses window"),
        ("colour = 'red'", "names 'colour': the columns are class, score"),
        ("area", "gives float"),
        ("COLUMNS(*) > 1", "uses star"),
        (" AND ".join(["score > 0"] * 2_000), "has 27,995 characters: shorten it to 20,000"),
        ("+".join(["score"] * 80) + " > 1", "nested deeper than 64 levels"),
        ("- " * 400 + "score > 1", "nested deeper than 64 levels"),
        (f"{'(CASE WHEN ' * 12}x1{' > 0 THEN x1 ELSE x2 END)' * 12} > 0", "conditions within conditions"),
        ("\ud800", "is no text"),
    ],
)
def test_where_is_locked_down(expression: str, message: str) -> None:
    with pytest.raises(BuildError, match=message.replace("(", r"\(").replace("*", r"\*")) as refused:
        Where(expression)
    assert len(str(refused.value)) < 600 and "\n" not in str(refused.value)
    with pytest.raises((ValidationError, BuildError)):
        Keep(where=expression)

"""The diff of two versions: against a slow one written here, and what must hold of any two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.versions.changes import Changes, Diff, Side
from builder.versions.diff import compare

CLASSES = ("cat", "dog")
Object = tuple[str, str, tuple[float, float, float, float], float, float | None, str]
"""Key, class, box xyxy, score, calibrated score, outcome."""


def write_side(path: Path, objects: Sequence[Object], keys: Sequence[str], classes: Sequence[str] = CLASSES) -> Side:
    columns: dict[str, Any] = {
        "key": pa.array([o[0] for o in objects], pa.string()),
        "label": pa.array([classes.index(o[1]) for o in objects], pa.int16()),
        "score": pa.array([o[3] for o in objects], pa.float32()),
        "calibrated": pa.array([o[4] for o in objects], pa.float32()),
    }
    for n, side in enumerate(("x1", "y1", "x2", "y2")):
        columns[side] = pa.array([o[2][n] for o in objects], pa.float32())
    columns["outcome"] = pa.array([o[5] for o in objects], pa.string())
    pq.write_table(pa.table(columns), path)
    return Side(path, classes, [list(keys)])


def by_hand(a: Sequence[Object], b: Sequence[Object]) -> Changes:
    """One image and class at a time, one pair after the other."""
    total = Counter[str]()
    shown = [Counter(o for o in side if o[5] != "dropped") for side in (a, b)]
    left = [list((side - other).elements()) for side, other in (shown, shown[::-1])]
    for group in {o[:2] for side in left for o in side}:
        first, second = ([o for o in side if o[:2] == group] for side in left)
        by_score = [sorted(side, key=lambda o: (-o[3], -(o[4] or 0), o[5] == "ignored")) for side in (first, second)]
        pairs = []
        for box in {o[2] for o in first}:
            pairs += list(zip(*([o for o in side if o[2] == box] for side in by_score), strict=False))
        for p, q in pairs:
            first.remove(p)
            second.remove(q)
        rank = lambda o: (*o[2], -o[3], -(o[4] if o[4] is not None else -1), o[5] == "ignored")  # noqa: E731
        near = sorted(
            ((-iou(p[2], q[2]), min(rank(p), rank(q)), max(rank(p), rank(q)), p, q) for p, q in product(first, second)),
            key=lambda pair: pair[:3],
        )
        for negative, _, _, p, q in near:
            if -negative >= 0.5 and p in first and q in second:
                first.remove(p)
                second.remove(q)
                pairs.append((p, q))
        total["removed"] += len(first)
        total["added"] += len(second)
        for p, q in pairs:
            total["moved"] += p[2] != q[2]
            total["rescored"] += p[2] == q[2] and p[3:5] != q[3:5]
            total["kept_to_ignored"] += (p[5], q[5]) == ("kept", "ignored")
            total["ignored_to_kept"] += (q[5], p[5]) == ("kept", "ignored")
    return Changes(**total)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


boxes = st.builds(
    lambda x, y, w, h: (float(x), float(y), float(x + w), float(y + h)),
    *(st.integers(0, 3), st.integers(0, 3), st.integers(3, 6), st.integers(3, 6)),
)
scores = st.sampled_from([0.25, 0.5, 0.75])
objects = st.tuples(
    st.sampled_from(["one", "two"]),
    st.sampled_from(CLASSES),
    boxes,
    scores,
    st.sampled_from([None, 0.5, 0.625]),
    st.sampled_from(["kept", "kept", "ignored", "dropped"]),
)
sides = st.lists(objects, max_size=14)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(a=sides, b=sides, data=st.data())
def test_any_two_versions(tmp_path: Path, a: list[Object], b: list[Object], data: st.DataObject) -> None:
    keys = ["one", "two", "three"]
    first, second = write_side(tmp_path / "a.parquet", a, keys), write_side(tmp_path / "b.parquet", b, keys)
    there, back = compare(first, second), compare(second, first)
    assert back == there.mirrored()
    assert compare(first, first).empty and not compare(first, first).classes
    assert there.total == by_hand(a, b)
    assert there.total == sum(there.classes.values(), Changes()) == sum(there.most_changed.values(), Changes())
    shuffled = data.draw(st.permutations(a))
    assert compare(write_side(tmp_path / "c.parquet", shuffled, keys[::-1]), second) == there


def thing(key: str = "one", box: tuple[float, ...] = (0, 0, 10, 10), **other: Any) -> Object:
    row = {"class": "cat", "score": 0.5, "calibrated": None, "outcome": "kept"} | other
    return (key, row["class"], box, row["score"], row["calibrated"], row["outcome"])  # type: ignore[return-value]


CASES: list[tuple[str, list[Object], list[Object], dict[str, int]]] = [
    ("nothing", [], [], {}),
    ("the same", [thing()], [thing()], {}),
    ("added", [], [thing()], {"added": 1}),
    ("moved a little", [thing()], [thing(box=(1, 0, 11, 10))], {"moved": 1}),
    ("moved too far", [thing()], [thing(box=(6, 0, 16, 10))], {"added": 1, "removed": 1}),
    ("IoU exactly a half", [thing(box=(0, 0, 10, 10))], [thing(box=(0, 0, 10, 5))], {"moved": 1}),
    ("rescored", [thing()], [thing(score=0.75)], {"rescored": 1}),
    ("calibrated anew", [thing(calibrated=0.5)], [thing(calibrated=0.25)], {"rescored": 1}),
    ("calibrated first", [thing()], [thing(calibrated=0.25)], {"rescored": 1}),
    ("kept to ignored", [thing()], [thing(outcome="ignored")], {"kept_to_ignored": 1}),
    ("ignored to kept", [thing(outcome="ignored")], [thing()], {"ignored_to_kept": 1}),
    ("now dropped", [thing()], [thing(outcome="dropped")], {"removed": 1}),
    ("moved and ignored", [thing()], [thing(box=(1, 0, 11, 10), outcome="ignored")], {"moved": 1, "kept_to_ignored": 1}),
    ("another class", [thing()], [thing(**{"class": "dog"})], {"added": 1, "removed": 1}),
    ("one copy less", [thing(), thing()], [thing()], {"removed": 1}),
    ("the equal one is the partner", [thing(), thing(score=0.75)], [thing()], {"removed": 1}),
    (
        "the best of those with the same box are partners",
        [thing(score=0.75, outcome="ignored"), thing(score=0.5)],
        [thing(score=0.25)],
        {"removed": 1, "rescored": 1, "ignored_to_kept": 1},
    ),
    ("an image B lacks", [thing("gone")], [], {"removed": 1, "on_gone_images": 1}),
    ("an image B has more", [], [thing("new")], {"added": 1, "on_new_images": 1}),
    ("minus zero", [thing(box=(-0.0, 0, 10, 10))], [thing(box=(0.0, 0, 10, 10))], {}),
    ("of an image in neither", [thing("left out")], [], {}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "a", "b", "expected"), CASES, ids=[case[0] for case in CASES])
def test_what_changed(tmp_path: Path, what: str, a: list[Object], b: list[Object], expected: dict[str, int]) -> None:
    folder = tmp_path / "a [odd] *name's"  # DuckDB takes these for patterns
    folder.mkdir()
    found = compare(
        write_side(folder / "a.parquet", a, ["one", "gone"]), write_side(folder / "b.parquet", b, ["one", "new"])
    )
    assert found.total == Changes(**expected)
    assert found.images == {"added": 1, "removed": 1, "common": 1, "changed": found.images["changed"]}
    assert (found.added_images, found.removed_images) == (["new"], ["gone"])
    assert list(found.most_changed) == (["one"] if found.images["changed"] else [])


def test_classes_are_matched_by_name_and_labels_without_calibration_are_read(tmp_path: Path) -> None:
    first = write_side(tmp_path / "a.parquet", [thing(), thing(**{"class": "dog"})], ["one"])
    second = write_side(tmp_path / "b.parquet", [thing()], ["one"], ("bird", "cat"))
    table = pq.read_table(tmp_path / "b.parquet").drop_columns(["calibrated"])
    pq.write_table(table, tmp_path / "b.parquet")
    assert compare(first, second).classes == {"dog": Changes(removed=1)}


def test_the_most_changed_images_come_first_and_mere_scores_last(tmp_path: Path) -> None:
    a = [thing(f"k{n}", score=0.25) for n in range(5) for _ in range(3)] + [thing("k7"), thing("k8"), thing("k8")]
    b = [thing(f"k{n}", score=0.75) for n in range(5) for _ in range(3)]
    keys = [f"k{n}" for n in range(10)]
    found = compare(write_side(tmp_path / "a.parquet", a, keys), write_side(tmp_path / "b.parquet", b, keys), limit=3)
    assert list(found.most_changed) == ["k8", "k7", "k0"]
    assert found.images["changed"] == 7 and found.most_changed["k0"] == Changes(rescored=3)


def test_large_random_versions_agree_with_the_slow_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rounds; several blocks of images, whose limits would otherwise fall inside images."""
    monkeypatch.setattr("builder.versions.diff.BLOCK", 100)
    monkeypatch.setattr("builder.versions.pairing.PAIRS", 7)
    rng = np.random.default_rng(3)

    def side() -> list[Object]:
        found = []
        for n in range(400):
            for x, y, w, h in rng.integers([0, 0, 8, 8], [12, 12, 20, 20], (6, 4)).tolist():
                found.append(thing(f"k{n:03d}", (x, y, x + w, y + h), score=float(rng.integers(1, 4)) / 4))
        return found

    a, b = side(), side()
    keys = sorted({o[0] for o in a})
    found = compare(write_side(tmp_path / "a.parquet", a, keys), write_side(tmp_path / "b.parquet", b, keys))
    assert found.total == by_hand(a, b) and found.total.moved > 100


def test_a_diff_has_every_figure_once() -> None:
    assert {f.name for f in fields(Diff)} == {
        *("total", "classes", "images", "added_images", "removed_images", "most_changed", "people", "quality")
    }

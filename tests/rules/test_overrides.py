"""Overrides: how a batch joins what was said before, and what they do to a teacher's objects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from builder.errors import BuildError
from builder.rules.apply import decide
from builder.rules.keep import Keep
from builder.rules.objects import Decision, Objects, Thresholds
from builder.rules.overrides import (
    APPLIED,
    ORPHANED,
    WAITING,
    Box,
    Override,
    add_overrides,
    dump_overrides,
    load_overrides,
    merge,
    overrides_digest,
    read_overrides,
)
from builder.rules.overruling import Overruled, overrule
from builder.rules.reasons import DROPPED, IGNORED, KEPT, REASONS
from builder.store.store import Store
from tests.helpers.pools import tree

A, B = "a" * 64, "b" * 64
CLASSES = ("cat", "dog", "bird")
SIZE = (200, 100)
HERE, NEAR, FAR = (10.0, 10.0, 30.0, 30.0), (12.0, 11.0, 32.0, 31.0), (100.0, 50.0, 140.0, 90.0)
ELSE = (60.0, 10.0, 80.0, 30.0)

Row = tuple[str, float, Box]


def decided(rows: list[Row], *, keep: float = 0.5, image: int = 0, **rules: Any) -> tuple[Objects, Decision]:
    """Objects of one image (class, score, box), and what a threshold makes of them; ignored from .3 on."""
    objects = Objects(
        np.full(len(rows), image),
        np.array([CLASSES.index(name) for name, _, _ in rows], np.int16),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([box for _, _, box in rows], np.float32).reshape(-1, 4),
        np.array([SIZE] * (image + 1), np.int32),
        [],
    )
    sides = [np.full(len(CLASSES), value, np.float32) for value in (keep, min(0.3, keep))]
    return objects, decide(objects, Keep.model_validate({"score": keep, **rules}), Thresholds(*sides), CLASSES)


def put(rows: list[Row], said: list[Override], **options: Any) -> Overruled:
    return overrule(*decided(rows, **options), {0: said}, CLASSES)


def told(made: Overruled) -> list[tuple[str, str, Box]]:
    """Class, reason and box of each object, sorted."""
    objects, decision = made.objects, made.decision
    rows = zip(objects.label.tolist(), decision.reason.tolist(), objects.boxes.tolist(), strict=True)
    return sorted((CLASSES[label], REASONS[reason], tuple(box)) for label, reason, box in rows)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([Override(A, HERE, "accept", "cat")], [("cat", "accepted", HERE), ("dog", "below_threshold", FAR)]),
        ([Override(A, NEAR, "reject", "cat")], [("cat", "rejected", HERE), ("dog", "below_threshold", FAR)]),
        ([Override(A, FAR, "accept", "dog")], [("cat", "kept", HERE), ("dog", "accepted", FAR)]),
        (
            [Override(A, HERE, "relabel", "bird", was="cat")],
            [("bird", "relabelled", HERE), ("dog", "below_threshold", FAR)],
        ),
        ([Override(A, HERE, "move", "cat", NEAR)], [("cat", "moved", NEAR), ("dog", "below_threshold", FAR)]),
        (
            [Override(A, ELSE, "add", "bird", ELSE)],
            [("bird", "added", ELSE), ("cat", "kept", HERE), ("dog", "below_threshold", FAR)],
        ),
        (
            [Override(A, NEAR, "add", "cat", NEAR)],  # the teacher's box of the class there is the same object
            [("cat", "added", NEAR), ("cat", "superseded", HERE), ("dog", "below_threshold", FAR)],
        ),
        (
            [Override(A, HERE, "add", "bird", HERE)],  # another class was seen there and left
            [("bird", "added", HERE), ("cat", "kept", HERE), ("dog", "below_threshold", FAR)],
        ),
    ],
)
def test_what_a_verdict_does(said: list[Override], expected: list[tuple[str, str, Box]]) -> None:
    made = put([("cat", 0.9, HERE), ("dog", 0.1, FAR)], said)
    assert told(made) == expected
    assert set(made.states.values()) == {APPLIED}
    codes = {"kept": KEPT, "below_threshold": DROPPED, "rejected": DROPPED, "superseded": DROPPED}
    assert [codes.get(REASONS[r], KEPT) for r in made.decision.reason] == made.decision.outcome.tolist()
    counts = np.bincount(made.decision.outcome, minlength=3)
    assert counts.sum() == 2 + made.decision.reason.tolist().count(REASONS.index("added"))
    assert made.predicted.sum() == 2


def test_an_added_object_has_score_one_and_what_a_teacher_scored_keeps_its_score() -> None:
    objects, decision = decided([("cat", 0.25, HERE)])
    objects = replace(objects, calibrated=np.array([0.125], np.float32))
    said = [Override(A, HERE, "accept", "cat"), Override(A, ELSE, "add", "dog", ELSE)]
    made = overrule(objects, decision, {0: said}, CLASSES).objects
    assert made.calibrated is not None
    assert (made.score.tolist(), made.calibrated.tolist()) == ([0.25, 1.0], [0.125, 1.0])
    assert made.score.dtype == made.calibrated.dtype == np.float32 and made.label.dtype == np.int16


@pytest.mark.parametrize(
    ("rows", "said", "expected"),
    [
        # two classes on one box: the verdict is on the one that was shown
        ([("cat", 0.6, HERE), ("dog", 0.5, HERE)], Override(A, HERE, "reject", "dog"), ["kept", "rejected"]),
        (
            [("cat", 0.6, HERE), ("dog", 0.1, HERE)],
            Override(A, HERE, "relabel", "dog", was="cat"),
            ["relabelled", "superseded"],
        ),
        # the best by IoU, whatever its class
        ([("dog", 0.6, HERE), ("cat", 0.9, NEAR)], Override(A, HERE, "reject", "cat"), ["rejected", "kept"]),
        ([("dog", 0.6, NEAR)], Override(A, HERE, "accept", "cat"), ["accepted"]),
        ([("dog", 0.6, ELSE)], Override(A, HERE, "accept", "cat"), ["kept"]),
        # what NMS suppressed is no object while its survivor is there
        ([("cat", 0.6, HERE), ("cat", 0.9, NEAR)], Override(A, HERE, "accept", "cat"), ["nms", "accepted"]),
    ],
)
def test_which_object_a_verdict_is_on(rows: list[Row], said: Override, expected: list[str]) -> None:
    made = put(rows, [said], nms=0.5 if len({name for name, _, _ in rows}) == 1 and len(rows) > 1 else None)
    assert [REASONS[reason] for reason in made.decision.reason] == expected


def test_each_object_meets_one_verdict_and_the_closest_has_it() -> None:
    rows: list[Row] = [("cat", 0.6, HERE), ("cat", 0.7, NEAR)]
    said = [Override(A, HERE, "accept", "cat"), Override(A, NEAR, "reject", "cat")]
    assert [REASONS[r] for r in put(rows, said).decision.reason] == ["accepted", "rejected"]
    made = put(rows[:1], said)
    assert [REASONS[r] for r in made.decision.reason] == ["accepted"]
    assert made.states == {said[0]: APPLIED, said[1]: WAITING}


def test_a_reject_suppresses_what_a_lower_threshold_would_bring_back_in_its_place() -> None:
    rows: list[Row] = [("cat", 0.9, HERE), ("cat", 0.4, NEAR), ("dog", 0.4, NEAR), ("cat", 0.4, ELSE)]
    made = put(rows, [Override(A, HERE, "reject", "cat")], keep=0.2)
    assert [REASONS[r] for r in made.decision.reason] == ["rejected", "rejected", "kept", "kept"]
    spoken_for = [Override(A, HERE, "reject", "cat"), Override(A, NEAR, "accept", "cat")]
    assert [REASONS[r] for r in put(rows, spoken_for, keep=0.2).decision.reason][:2] == ["rejected", "accepted"]
    stronger: list[Row] = [("cat", 0.3, HERE), ("cat", 0.9, NEAR)]
    assert [REASONS[r] for r in put(stronger, [Override(A, HERE, "reject", "cat")]).decision.reason] == [
        "rejected",
        "kept",
    ]


@pytest.mark.parametrize("action", ["accept", "relabel", "move"])
def test_a_verdict_without_its_object_is_orphaned_and_changes_nothing(action: Any) -> None:
    one = Override(A, FAR, action, "dog", ELSE if action == "move" else None, was="cat" if action == "relabel" else "")
    made = put([("cat", 0.9, HERE)], [one])
    assert told(made) == [("cat", "kept", HERE)] and made.states == {one: ORPHANED}


def test_boxes_end_at_the_image() -> None:
    over, out = (190.0, -5.0, 260.0, 20.0), (300.0, 0.0, 310.0, 10.0)
    said = [Override(A, HERE, "move", "cat", over), Override(A, out, "add", "dog", out)]
    made = put([("cat", 0.9, HERE)], said)
    assert told(made) == [("cat", "moved", (190.0, 0.0, 200.0, 20.0))]
    assert made.states == {said[0]: APPLIED, said[1]: ORPHANED}


def test_verdicts_survive_another_threshold_and_another_teacher() -> None:
    rng = np.random.default_rng(5)
    boxes: list[Box] = [(x, y, x + 24.0, y + 20.0) for x in (10.0, 60.0, 110.0) for y in (10.0, 55.0)]
    rows: list[Row] = [(CLASSES[n % 2], 0.4 + 0.1 * n, box) for n, box in enumerate(boxes)]
    moved = tuple(v + 3.0 for v in boxes[3])
    said = [
        Override(A, boxes[0], "accept", "cat"),
        Override(A, boxes[1], "reject", "dog"),
        Override(A, boxes[2], "relabel", "bird", was="cat"),
        Override(A, boxes[3], "move", "dog", moved),  # type: ignore[arg-type]
    ]
    for keep in (0.05, 0.5, 0.95):
        for teacher in range(5):
            jittered = [
                (name, score, tuple(v + float(rng.uniform(-2, 2)) * bool(teacher) for v in box))
                for name, score, box in rows
            ]
            made = put(jittered, said, keep=keep)  # type: ignore[arg-type]
            assert [REASONS[r] for r in made.decision.reason[:4]] == ["accepted", "rejected", "relabelled", "moved"]
            assert [CLASSES[c] for c in made.objects.label[:4]] == ["cat", "dog", "bird", "dog"]
            assert made.objects.boxes[3].tolist() == list(moved)


CELLS: list[Box] = [(x, y, x + 20.0, y + 20.0) for x in (0.0, 40.0, 80.0) for y in (0.0, 40.0)]
shifted = st.builds(
    lambda box, dx, dy: tuple(np.float32(v + d).item() for v, d in zip(box, (dx, dy, dx, dy), strict=True)),
    st.sampled_from(CELLS),
    st.integers(0, 8),
    st.integers(0, 8),
)
verdicts = st.builds(
    lambda box, action, label, drawn, was, author: Override(
        A, box, action, label, drawn if action in ("move", "add") else None, author, was if action == "relabel" else ""
    ),
    shifted,
    st.sampled_from(["accept", "reject", "relabel", "move", "add"]),
    st.sampled_from(CLASSES),
    shifted,
    st.sampled_from(CLASSES),
    st.sampled_from(["ann", "bob"]),
)
predictions = st.tuples(st.sampled_from(CLASSES), st.integers(1, 9).map(lambda n: n / 10), shifted)


@settings(deadline=None, max_examples=200)
@given(st.lists(predictions, max_size=8), st.lists(verdicts, max_size=5), st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_that_of_overrides_matters(
    rows: list[Row], said: list[Override], random: Any
) -> None:
    one = put(rows, said)
    shuffled, again = rows.copy(), said.copy()
    random.shuffle(shuffled)
    random.shuffle(again)
    other = put(shuffled, again)
    assert told(one) == told(other) and one.states == other.states
    assert int(one.predicted.sum()) == len(rows)
    assert set(one.decision.outcome[one.human].tolist()) <= {KEPT, DROPPED}


@given(st.lists(predictions, max_size=8))
def test_no_overrides_change_nothing(rows: list[Row]) -> None:
    objects, decision = decided(rows)
    made = overrule(objects, decision, {}, CLASSES)
    assert made.objects is objects and made.decision is decision
    ignored = overrule(objects, decision, {0: []}, CLASSES)
    assert (ignored.decision.outcome == decision.outcome).all() and not ignored.human.any()


def test_other_images_are_left_alone_and_rows_stay_together() -> None:
    parts = [decided([("cat", 0.9, HERE), ("dog", 0.35, FAR)], image=n) for n in range(3)]
    objects = Objects(
        *(np.concatenate([getattr(part, name) for part, _ in parts]) for name in ("image", "label", "score", "boxes")),
        np.array([SIZE] * 3, np.int32),
        [],
    )
    decision = Decision(*(np.concatenate([getattr(d, name) for _, d in parts]) for name in ("outcome", "reason")))
    made = overrule(objects, decision, {1: [Override(A, ELSE, "add", "bird", ELSE)]}, CLASSES)
    assert made.objects.image.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert made.decision.outcome.tolist() == [KEPT, IGNORED, KEPT, IGNORED, KEPT, KEPT, IGNORED]


# merging


MERGES = [
    ("accept of a reject", Override(A, HERE, "reject", "cat"), Override(A, HERE, "accept", "cat"), "accept"),
    ("reject of an accept", Override(A, HERE, "accept", "cat"), Override(A, HERE, "reject", "cat"), "reject"),
    ("accept of a move", Override(A, HERE, "move", "cat", ELSE), Override(A, ELSE, "accept", "cat"), "move"),
]


@pytest.mark.parametrize(("name", "old", "new", "action"), MERGES)
def test_the_last_verdict_wins(name: str, old: Override, new: Override, action: str) -> None:
    (one,), _ = merge([old], [new])
    assert one.action == action and one.box == HERE


COMPOSED = [
    # what is said of each version in turn, and the one override in force after it
    (Override(A, HERE, "relabel", "dog", None, "ann", "cat"), Override(A, HERE, "relabel", "dog", None, "ann", "cat")),
    (Override(A, HERE, "move", "dog", ELSE, "bob"), Override(A, HERE, "move", "dog", ELSE, "bob", "cat")),
    (Override(A, ELSE, "relabel", "bird", None, "ann", "dog"), Override(A, HERE, "move", "bird", ELSE, "ann", "cat")),
    (Override(A, ELSE, "accept", "bird", None, "bob"), Override(A, HERE, "move", "bird", ELSE, "ann", "cat")),
    (Override(A, ELSE, "reject", "bird", None, "ann"), Override(A, HERE, "reject", "bird", ELSE, "ann", "cat")),
    (Override(A, HERE, "accept", "cat", None, "bob"), Override(A, HERE, "accept", "cat", None, "bob")),
]


def test_verdicts_compose_over_versions_and_keep_their_object() -> None:
    said: list[Override] = []
    for new, expected in COMPOSED:
        said, counts = merge(said, [new])
        assert said == [expected] and sum(counts.values()) == 1
        assert merge(said, [new])[0] == said  # the same pull comes again


def test_what_was_drawn_can_be_moved_relabelled_and_taken_back() -> None:
    said, _ = merge([], [Override(A, HERE, "add", "cat", HERE, "ann")])
    said, _ = merge(said, [Override(A, HERE, "move", "cat", ELSE, "bob")])
    said, _ = merge(said, [Override(A, ELSE, "relabel", "dog", was="cat", author="bob")])
    assert said == [Override(A, ELSE, "add", "dog", ELSE, "bob")]
    said, _ = merge(said, [Override(A, ELSE, "reject", "dog", author="bob")])
    assert said == [Override(A, ELSE, "reject", "dog", None, "bob")]
    said, _ = merge(said, [Override(A, ELSE, "add", "dog", ELSE, "ann")])
    assert said == [Override(A, ELSE, "add", "dog", ELSE, "ann")]


def test_a_box_drawn_twice_is_one_unless_the_other_was_seen() -> None:
    """Two people, or one who corrects an export, draw what neither the teacher nor the version had."""
    first = Override(A, HERE, "add", "cat", HERE, "ann")
    x1, y1, x2, y2 = HERE
    nudged = (x1 + 1, y1, x2 + 1, y2)
    again = Override(A, nudged, "add", "cat", nudged, "bob")
    assert merge([first], [again]) == ([again], {"changed": 1})
    assert merge([again], [again, first])[1] == {"same": 1, "added": 1}  # both in one export: two objects
    assert merge([first], [again], known=[first]) == ([first, again], {"added": 1})
    assert merge([first], [replace(again, label="dog")])[1] == {"added": 1}


def test_two_classes_on_one_box_are_two_objects() -> None:
    cat, dog = Override(A, HERE, "accept", "cat"), Override(A, HERE, "reject", "dog")
    assert merge([cat], [dog])[0] == merge([], [dog, cat])[0] == [cat, dog]
    assert len(merge([cat], [replace(cat, sha256=B)])[0]) == 2


def test_two_people_who_contradict_each_other_are_counted() -> None:
    ann, bob = Override(A, HERE, "accept", "cat", author="ann"), Override(A, HERE, "reject", "cat", author="bob")
    said, counts = merge([], [ann, bob])
    assert said == merge([], [bob, ann])[0] == [bob] and counts == {"added": 1, "changed": 1}


# boxes of different cells never overlap, and those that a person drew are not those of the teacher
drawn = st.sampled_from(CELLS).map(lambda box: tuple(v + 1.5 for v in box))
batch = st.lists(
    st.builds(
        lambda box, action, label, new, author: Override(
            A, box, action, label, new if action in ("move", "add") else None, author
        ),
        st.sampled_from(CELLS),
        st.sampled_from(["accept", "reject", "move", "add"]),
        st.sampled_from(CLASSES),
        drawn,
        st.sampled_from(["ann", "bob"]),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=200)
@given(batch, batch, st.randoms(use_true_random=False))
def test_merging_twice_is_merging_once_in_any_order(first: list[Override], second: list[Override], random: Any) -> None:
    once = merge(merge([], first)[0], second)[0]
    shuffled, before = second.copy(), merge([], first)[0]
    random.shuffle(shuffled)
    random.shuffle(before)
    assert merge(before, shuffled)[0] == once
    again, counts = merge(merge([], first)[0], first)
    assert again == merge([], first)[0] and not counts["added"]


def test_a_pull_that_comes_twice_counts_once(tmp_path: Path) -> None:
    store, said = Store(tmp_path), [Override(A, HERE, "move", "cat", ELSE, "ann"), Override(B, FAR, "reject", "dog")]
    assert read_overrides(store, "pets") == []
    done = add_overrides(store, "pets", said, CLASSES)
    assert (done.added, done.changed, done.same, done.total) == (2, 0, 0, 2)
    before = tree(tmp_path)
    done = add_overrides(store, "pets", reversed(said), CLASSES)
    assert (done.added, done.changed, done.same, done.total) == (0, 0, 2, 2)
    assert tree(tmp_path) == before and list(before) == ["reviews/pets/overrides.json"]
    assert read_overrides(store, "pets") == said
    assert overrides_digest(said) == overrides_digest(said[::-1]) != overrides_digest(said[:1])
    assert overrides_digest([]) is None
    assert read_overrides(store, "cells") == []


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (Override(A, HERE, "relabel", "lorry", was="cat"), ["'lorry'", "cat, dog, bird"]),
        (Override("x", HERE, "accept", "cat"), ["SHA-256"]),
        (Override(A, (5.0, 5.0, 5.0, 9.0), "accept", "cat"), ["empty"]),
        (Override(A, HERE, "add", "cat", (0.0, 0.0, float("nan"), 9.0)), ["nan"]),
        (Override(A, HERE, "move", "cat"), ["new box"]),
    ],
)
def test_an_override_that_cannot_be_is_refused_and_nothing_is_written(
    tmp_path: Path, one: Override, words: list[str]
) -> None:
    with pytest.raises(BuildError) as error:
        add_overrides(Store(tmp_path), "pets", [Override(A, FAR, "accept", "cat"), one], CLASSES)
    assert all(word in str(error.value) for word in words), error.value
    assert not tree(tmp_path)


def test_what_is_rejected_may_be_of_any_class(tmp_path: Path) -> None:
    assert add_overrides(Store(tmp_path), "pets", [Override(A, FAR, "reject", "lorry")], CLASSES).total == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2, "overrides": []}', '{"format": 1}', "override"])
def test_a_damaged_file_gets_one_sentence(tmp_path: Path, text: str) -> None:
    if text == "override":
        row = {"sha256": A, "box": HERE, "action": "praise", "label": "cat"}
        text = json.dumps({"format": 1, "overrides": [row]})
    (tmp_path / "overrides.json").write_text(text)
    with pytest.raises(BuildError, match=r"overrides\.json"):
        load_overrides(tmp_path / "overrides.json")


def read_or_refused(path: Path) -> list[Override] | None:
    """What a file holds; None if it is refused, which must be in one sentence that names it."""
    refused = ""
    try:
        return load_overrides(path)
    except BuildError as error:
        refused = str(error)
    assert str(path) in refused and "\n" not in refused
    return None


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_changed_bytes_is_refused_in_a_sentence_or_says_the_same(
    tmp_path: Path, data: st.DataObject
) -> None:
    said = [Override(A, HERE, "relabel", "cat", None, "ann", "dog"), Override(B, FAR, "add", "bird", FAR)]
    path = tmp_path / "overrides.json"
    text = bytearray(dump_overrides(said))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    assume(b'"digest"' in text)  # with its name damaged and more, it looks like a file from before there were digests
    path.write_bytes(text)
    assert read_or_refused(path) in (said, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["sha256", "box", "label"]), inner),
    max_leaves=8,
)
ROW = st.dictionaries(st.sampled_from(["sha256", "box", "action", "label", "drawn", "author", "was", "more"]), JSON)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=JSON | st.fixed_dictionaries({"format": st.just(1), "overrides": st.lists(ROW, max_size=2) | JSON}))
def test_any_json_is_refused_in_a_sentence_or_read(tmp_path: Path, content: object) -> None:
    path = tmp_path / "overrides.json"
    path.write_text(json.dumps(content))
    read_or_refused(path)

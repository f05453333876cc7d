"""Overrides put into force on a teacher's objects, after the rules have decided: pure functions over columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from builder.rules.objects import Decision, Objects
from builder.rules.overrides import APPLIED, MATCH, ORPHANED, WAITING, Box, Override
from builder.rules.reasons import BY_ACTION, DROPPED, KEPT, Reason
from teachers.boxes import iou_matrix


@dataclass(frozen=True)
class Before:
    """What an object was before people changed anything: the teacher's objects, what rules made of each, and for each
    object after the changes its row among them, int64 (N,), -1 for an added one."""

    objects: Objects
    decision: Decision
    row: np.ndarray


@dataclass(frozen=True)
class Overruled:
    """objects: with the labels and boxes that people gave them; added ones stand last of their image. decision: of
    each. states: what became of each override (builder.rules.overrides.APPLIED, ORPHANED or WAITING). before: None
    where nobody said anything."""

    objects: Objects
    decision: Decision
    states: Mapping[Override, str]
    before: Before | None = None

    @property
    def human(self) -> np.ndarray:
        """Whose fate people decided, bool (N,)."""
        return self.decision.reason >= Reason.ACCEPTED

    @property
    def predicted(self) -> np.ndarray:
        """The teacher's own, bool (N,): all but what people added."""
        return self.decision.reason != Reason.ADDED


def overrule(
    objects: Objects, decision: Decision, by_position: Mapping[int, Sequence[Override]], classes: Sequence[str]
) -> Overruled:
    """What `decide` made of these objects, put right by people. by_position: position of an image -> its overrides.

    Each override meets at most one object of its image and each object at most one override: boxes that overlap by an
    IoU of at least MATCH, whatever the class (an `add`: of its class), the closest first; see `_pairs`.
    accept, relabel, move: the object is kept with their label and box; without an object they are orphaned.
    reject: the object is dropped, and so is every other of its label that overlaps the box as much, that no other
    override speaks for and that is no more confident, which a lower threshold would bring back in its place.
    add: an object of score 1. What a person gave a class that the teacher did not give it supersedes the teacher's
    other objects of that class there. Independent of the order of rows and overrides. kept + ignored + dropped is
    what was predicted and what was added.
    """
    if not by_position:
        return Overruled(objects, decision, {})
    work = _Work(objects, decision, classes)
    for image, overrides in sorted(by_position.items()):
        work.put_right(image, sorted(set(overrides), key=lambda override: override.order))
    return work.done()


def overrule_classes(
    objects: Objects, decision: Decision, by_position: Mapping[int, Sequence[Override]], classes: Sequence[str]
) -> Overruled:
    """`overrule` of image classes, one object an image, whatever its box: the last of its overrides that changes the
    class decides, else the last. A reject meets the class that was refused alone; it waits where the teacher names
    another one."""
    label, outcome, reason = objects.label.copy(), decision.outcome.copy(), decision.reason.copy()
    row_of = {image: row for row, image in enumerate(objects.image.tolist())} if by_position else {}
    states: dict[Override, str] = {}
    for image, overrides in sorted(by_position.items()):
        row = row_of.get(image)
        for override in sorted(
            set(overrides), key=lambda override: (override.before != override.label, *override.order)
        ):
            states[override] = WAITING if override.action == "reject" else ORPHANED
            if row is None or (override.action == "reject" and label[row] != classes.index(override.label)):
                continue
            states[override] = APPLIED
            if override.action == "reject":
                outcome[row], reason[row] = DROPPED, Reason.REJECTED
                continue
            same = label[row] == classes.index(override.label)
            outcome[row], reason[row] = KEPT, Reason.ACCEPTED if same else Reason.RELABELLED
            label[row] = classes.index(override.label)
    before = Before(objects, decision, np.arange(len(label))) if by_position else None
    return Overruled(replace(objects, label=label), Decision(outcome, reason), states, before)


class _Work:
    """Columns that are being changed, image by image."""

    def __init__(self, objects: Objects, decision: Decision, classes: Sequence[str]) -> None:
        self.old, self.was = objects, decision
        self.place = {name: n for n, name in enumerate(classes)}
        self.label, self.boxes = objects.label.copy(), objects.boxes.copy()
        self.outcome, self.reason = decision.outcome.copy(), decision.reason.copy()
        self.order = np.argsort(objects.image, kind="stable")
        self.image = objects.image[self.order]
        self.added: list[tuple[int, int, Box]] = []
        self.states: dict[Override, str] = {}

    def put_right(self, image: int, overrides: Sequence[Override]) -> None:
        first, last = np.searchsorted(self.image, [image, image + 1])
        rows = self.order[first:last]
        partner = _pairs(overrides, self.old, self.was, rows, self.place)
        free = np.setdiff1d(rows, [row for row in partner if row >= 0])
        gone: list[tuple[Override, int]] = []
        new: list[tuple[Box, int]] = []
        for override, row in zip(overrides, partner, strict=True):
            drawn = self._inside(override.result, image)
            if override.action == "reject":
                self.states[override] = APPLIED if row >= 0 else WAITING
                if row >= 0:
                    self._drop(np.array([row]), Reason.REJECTED)
                    gone.append((override, row))
                continue
            if drawn is None or (row < 0 and override.action != "add"):
                self.states[override] = ORPHANED
                continue
            self.states[override] = APPLIED
            label = self.place[override.label]
            if override.action == "add":
                self.added.append((image, label, drawn))
                if row >= 0:
                    self._drop(np.array([row]), Reason.SUPERSEDED)
            else:
                self.outcome[row], self.reason[row], self.label[row] = KEPT, BY_ACTION[override.action], label
                if override.action == "move":
                    self.boxes[row] = drawn
            if row < 0 or self.old.label[row] != label:
                new.append((drawn, label))
        for box, label in new:
            self._drop(self._there(free, box, [label]), Reason.SUPERSEDED)
        for override, row in gone:
            labels = {
                int(self.old.label[row]),
                *(self.place.get(name, -1) for name in (override.label, override.before)),
            }
            near = self._there(free, override.box, sorted(labels))
            weaker = self.old.confidence[near] <= self.old.confidence[row]
            self._drop(near[weaker & (self.reason[near] != Reason.SUPERSEDED)], Reason.REJECTED)

    def done(self) -> Overruled:
        old, decision = self.old, Decision(self.outcome, self.reason)
        objects, row = replace(old, label=self.label, boxes=self.boxes), np.arange(len(self.label))
        if self.added:
            objects, decision, row = self._with_added(objects, decision, row)
        return Overruled(objects, decision, self.states, Before(old, self.was, row))

    def _with_added(
        self, objects: Objects, decision: Decision, row: np.ndarray
    ) -> tuple[Objects, Decision, np.ndarray]:
        count = len(self.added)
        ones = np.ones(count, np.float32)
        image = np.concatenate([objects.image, [image for image, _, _ in self.added]]).astype(objects.image.dtype)
        order = np.argsort(image, kind="stable")
        boxes = np.array([box for _, _, box in self.added], np.float32)
        label = np.array([label for _, label, _ in self.added], objects.label.dtype)
        code = np.full(count, Reason.ADDED, np.uint8)
        with_added = replace(
            objects,
            image=image[order],
            label=np.concatenate([objects.label, label])[order],
            score=np.concatenate([objects.score, ones])[order],
            boxes=np.concatenate([objects.boxes, boxes])[order],
            calibrated=None if objects.calibrated is None else np.concatenate([objects.calibrated, ones])[order],
            **self._optional(count, order),
        )
        outcome = np.concatenate([decision.outcome, np.full(count, KEPT, np.uint8)])[order]
        decided = Decision(outcome, np.concatenate([decision.reason, code])[order])
        return with_added, decided, np.concatenate([row, np.full(count, -1)])[order]

    def _optional(self, count: int, order: np.ndarray) -> dict[str, Any]:
        """The columns that only some teachers give; what people added has none of it."""
        filler: dict[str, Any] = {"uncertainty": np.nan, "rle": b"", "quality": np.nan, "agree": 0, "aside": 0}
        filler["teacher_label"] = -1
        old = {name: column for name in filler if (column := getattr(self.old, name)) is not None}
        return {
            name: np.concatenate([column, np.full(count, filler[name], column.dtype)])[order]
            for name, column in old.items()
        }

    def _inside(self, box: Box, image: int) -> Box | None:
        """The part of a box that lies on the image, None if nothing does."""
        width, height = self.old.image_size[image].tolist()
        x1, x2 = (min(max(x, 0.0), width) for x in (box[0], box[2]))
        y1, y2 = (min(max(y, 0.0), height) for y in (box[1], box[3]))
        clipped = np.array([x1, y1, x2, y2], np.float32)  # as it will be stored
        return (x1, y1, x2, y2) if clipped[2] > clipped[0] and clipped[3] > clipped[1] else None

    def _there(self, rows: np.ndarray, box: Box, labels: Sequence[int]) -> np.ndarray:
        """Those of the teacher's objects `rows` that have one of these labels and overlap a box by MATCH or more."""
        overlap = _overlap([box], self.old.boxes[rows])[0]
        return rows[(overlap >= MATCH) & np.isin(self.old.label[rows], labels)]

    def _drop(self, rows: np.ndarray, reason: int) -> None:
        self.outcome[rows], self.reason[rows] = DROPPED, reason


def _pairs(
    overrides: Sequence[Override],
    objects: Objects,
    decision: Decision,
    rows: np.ndarray,
    place: Mapping[str, int],
) -> list[int]:
    """For each override the row of its object among `rows`, -1 if there is none.

    Pairs are taken from the best down: not suppressed by NMS before suppressed (its survivor stands for it), higher IoU
    (equal to 1e-3), the class that was shown, kept before ignored before dropped, higher confidence, and then by
    columns, so that the order of rows decides nothing.
    """
    partner = [-1] * len(overrides)
    if not len(rows) or not overrides:
        return partner
    overlap = _overlap([override.box for override in overrides], objects.boxes[rows])
    before = np.array([place.get(override.before, -1) for override in overrides])
    adds = np.array([override.action == "add" for override in overrides])
    same = before[:, None] == objects.label[rows][None]
    which, at = np.nonzero((overlap >= MATCH) & (same | ~adds[:, None]))
    row = rows[at]
    columns = (
        *objects.boxes[row].T,
        objects.label[row],
        -objects.score[row],
        which,
        -objects.confidence[row],
        decision.outcome[row],
        ~same[which, at],
        -np.rint(overlap[which, at] * 1000),
        decision.reason[row] == Reason.NMS,
    )
    taken = set[int]()
    for n in np.lexsort(columns).tolist():
        if partner[which[n]] < 0 and row[n] not in taken:
            partner[which[n]] = int(row[n])
            taken.add(row[n])
    return partner


def _overlap(boxes: Sequence[Box], others: np.ndarray) -> np.ndarray:
    """IoU of every box with each of `others` (M, 4): float64 (N, M)."""
    return iou_matrix(np.array(boxes, np.float64).reshape(-1, 4), others.astype(np.float64))

"""Image classes in the samples of a version: `cls`, hard and soft labels, and copies of images of rare classes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from builder.cut.balance import copies
from builder.cut.kinds.boxes import SOURCES, Checked, mixed
from builder.label.predictions import MANY, TOP, read_probabilities
from builder.rules.apply import THINNED
from builder.rules.class_map import ASIDE
from builder.rules.labelled import LabelledPool
from builder.rules.objects import DROPPED, KEPT, RELABELLED, Decision
from builder.rules.overruling import Overruled
from builder.scan.pool import Chunk, PoolImage

MOST = 1000
"""Samples that one image may become."""
TOLD = 2e-3
"""Stored probabilities are rounded to 16 bits, scores are not."""
COLUMNS = ("label", "score", "outcome")
"""Of labels.parquet, from which `row_sums` are made."""


def balanced(
    made: Overruled, images: Sequence[PoolImage], wanted: int, count: np.ndarray
) -> tuple[Overruled, dict[int, int]]:
    """Noisy Student's balance (builder.cut.balance): objects of classes with too many images thinned out, and, by
    position of the image, how many samples it becomes where that is not one. count: int (C,), images kept of each
    class. What people decided is never thinned."""
    decision = made.decision
    rows = np.flatnonzero(decision.outcome == KEPT)
    keys = [images[n].key for n in made.objects.image[rows]]
    number = copies(made.objects.label[rows], keys, wanted, count=np.maximum(count, 1)).clip(0, MOST)
    number = np.maximum(number, made.human[rows])
    outcome, reason = decision.outcome.copy(), decision.reason.copy()
    gone = rows[number == 0]
    outcome[gone], reason[gone] = DROPPED, THINNED
    places = made.objects.image[rows].tolist()
    repeats = {n: k for n, k in zip(places, number.tolist(), strict=True) if k > 1}
    return Overruled(made.objects, Decision(outcome, reason), made.states), repeats


def classes_of(
    labelled: LabelledPool, chunks: Sequence[Chunk], made: Overruled, places: Sequence[int]
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """For each of these images (positions among those of the chunks, rising; each with one kept class) the fields of
    its label JSON, and `cls`: a position in the version's classes.

    `probabilities` are of all classes, or with more than MANY `top_label` and `top_probability` of the likeliest; of
    what people named, all is on their class.
    """
    objects, decision = made.objects, made.decision
    row_of = {int(objects.image[row]): int(row) for row in np.flatnonzero(decision.outcome == KEPT)}
    start, count = 0, len(labelled.classes)
    theirs = len(labelled.mapped.teacher) if labelled.mapped else count
    for chunk in chunks:
        mine = places[bisect_left(places, start) : bisect_left(places, start + len(chunk))]
        if mine:
            stored = read_probabilities(labelled.predictions / chunk.digest, theirs)
        for place in mine:
            row = row_of[place]
            label = int(objects.label[row])
            soft = _ours(labelled, stored[place - start])
            if decision.reason[row] == RELABELLED:
                soft = np.zeros(count, np.float32)
                soft[label] = 1
            said = {"label": label, "score": objects.score[row]}
            if objects.calibrated is not None:
                said["calibrated"] = objects.calibrated[row]
            source = SOURCES[int(made.human[row])]
            yield said | {"source": source} | _soft(soft), str(label).encode()
        start += len(chunk)


def _ours(labelled: LabelledPool, stored: np.ndarray) -> np.ndarray:
    """The teacher's probabilities as those of the version's classes; what is set aside is in none."""
    if labelled.mapped is None:
        return stored
    found = np.zeros(len(labelled.classes), np.float32)
    ours = labelled.mapped.label != ASIDE
    np.add.at(found, labelled.mapped.label[ours], stored[ours])
    return found.clip(0, 1)


def _soft(probabilities: np.ndarray) -> dict[str, Any]:
    if len(probabilities) <= MANY:
        return {"probabilities": probabilities}
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    return {"top_label": best.astype(np.int32), "top_probability": probabilities[best]}


def check(label: Mapping[str, Any], cls: bytes, classes: int) -> str | Checked:
    """What is wrong with the class of a label JSON and its `cls`, or what is in them. Raises KeyError, TypeError and
    ValueError for one that is not of this form."""
    own, score = label["label"], label["score"]
    if not 0 <= own < classes or not 0 <= score <= 1:
        return "a label or score is out of range"
    if cls != str(own).encode():
        return f"its cls is {cls[:20]!r}, its label says {own}"
    if label["source"] not in SOURCES:
        return f"its source is none of {', '.join(SOURCES)}"
    if classes <= MANY:
        if len(label["probabilities"]) != classes:
            return f"it has {len(label['probabilities'])} probabilities for {classes} classes"
        said = label["probabilities"]
    else:
        said = label["top_probability"]
        if len(label["top_label"]) != len(said) or not all(0 <= one < classes for one in label["top_label"]):
            return "its likeliest classes are out of range"
    if not all(0 <= one <= 1 for one in said):
        return "a probability is out of range"
    if label["source"] == "teacher" and abs(max(said) - score) > TOLD:
        return "its score is not its highest probability"
    if label["copy"]:
        return Checked(0, 0, np.uint64(0))  # the original counts
    return Checked(1, 0, _sums_of(np.array([own]), np.array([score], np.float32))[0])


def row_sums(column: Mapping[str, np.ndarray]) -> np.ndarray:
    """What each row of labels.parquet (COLUMNS) adds to its image's checksum: uint64 (N,), 0 for one not kept."""
    kept = column["outcome"] == "kept"
    return np.where(kept, _sums_of(column["label"], column["score"]), np.uint64(0))


def _sums_of(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    floats = np.ascontiguousarray(score, np.float32) + np.float32(0)
    return mixed([label.astype(np.int64) + 2, floats.view(np.uint32)])

"""Image classes in the samples of a version: `cls`, hard and soft labels, and copies of images of rare classes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from builder.cut.kinds.boxes import decided
from builder.cut.kinds.kind import SOURCES, Checked, Kind, mixed
from builder.label.predictions import MANY, TOP
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Thresholds
from builder.rules.overruling import Overruled, overrule_classes
from builder.rules.reasons import KEPT, Reason
from builder.scan.pool import Chunk
from builder.store.keys import is_copy

TOLD = 2e-3
"""Stored probabilities are rounded to 16 bits, scores are not."""
COLUMNS = ("label", "score", "outcome")
"""Of labels.parquet."""


def _samples(
    labelled: LabelledPool, chunks: Sequence[Chunk], thresholds: Thresholds, made: Overruled, places: Sequence[int]
) -> Iterator[tuple[dict[str, Any], bytes]]:
    """For each of these images (positions among those of the chunks, rising; each with one kept class) the fields of
    its label JSON, and `cls`: a position in the version's classes.

    `probabilities` are of all classes, or with more than MANY `top_label` and `top_probability` of the likeliest; of
    what people named, all is on their class.
    """
    objects, decision = made.objects, made.decision
    row_of = {int(objects.image[row]): int(row) for row in np.flatnonzero(decision.outcome == KEPT)}
    start, count = 0, len(labelled.classes)
    for chunk in chunks:
        mine = places[bisect_left(places, start) : bisect_left(places, start + len(chunk))]
        probabilities = labelled.probabilities(chunk, [place - start for place in mine]) if mine else ()
        for place, soft in zip(mine, probabilities, strict=True):
            row = row_of[place]
            label = int(objects.label[row])
            if decision.reason[row] == Reason.RELABELLED:
                soft = np.zeros(count, np.float32)
                soft[label] = 1
            fields = {"label": label, "score": objects.score[row]}
            if objects.calibrated is not None:
                fields["calibrated"] = objects.calibrated[row]
            source = SOURCES[int(made.human[row])]
            yield fields | {"source": source} | _soft(soft), str(label).encode()
        start += len(chunk)


def _remembered(labelled: LabelledPool, chunks: Sequence[Chunk], made: Overruled) -> dict[int, np.ndarray]:
    """The teacher's probabilities, by row, of images whose class people named: their samples lack them."""
    rows = np.flatnonzero(made.decision.reason == Reason.RELABELLED)
    images, start, soft = made.objects.image[rows], 0, dict[int, np.ndarray]()
    for chunk in chunks:
        mine = (images >= start) & (images < start + len(chunk))
        if mine.any():
            there = labelled.probabilities(chunk, (images[mine] - start).tolist())
            soft |= dict(zip(rows[mine].tolist(), there, strict=True))
        start += len(chunk)
    return soft


def _soft(probabilities: np.ndarray) -> dict[str, Any]:
    if len(probabilities) <= MANY:
        return {"probabilities": probabilities}
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    return {"top_label": best.astype(np.int32), "top_probability": probabilities[best]}


def _check(label: Mapping[str, Any], cls: bytes, classes: int) -> str | Checked:
    """What is wrong with the class of a label JSON and its `cls`, or what is in them."""
    if (label["copy"] > 0) != is_copy(label["key"]):
        return f"its label JSON is that of copy {label['copy']}"
    position, score = label["label"], label["score"]
    if cls != str(position).encode():
        return f"its cls is {cls[:20]!r}, its label says {position}"
    likely = label["probabilities" if classes <= MANY else "top_probability"]
    if label["source"] == "teacher" and abs(max(likely) - score) > TOLD:
        return "its score is not its highest probability"
    if label["copy"]:
        return Checked(0, 0, np.uint64(0))  # the original counts
    return Checked(1, 0, _sums_of(np.array([position]), np.array([score], np.float32))[0])


def _row_sums(column: Mapping[str, np.ndarray]) -> np.ndarray:
    """What each row of labels.parquet (COLUMNS) adds to its image's checksum: uint64 (N,), 0 for one not kept."""
    kept = column["outcome"] == "kept"
    return np.where(kept, _sums_of(column["label"], column["score"]), np.uint64(0))


def _sums_of(label: np.ndarray, score: np.ndarray) -> np.ndarray:
    floats = np.ascontiguousarray(score, np.float32) + np.float32(0)
    return mixed([label.astype(np.int64) + 2, floats.view(np.uint32)])


CLASSES = Kind(
    decide=decided,
    overrule=overrule_classes,
    samples=_samples,
    check=_check,
    columns=COLUMNS,
    row_sums=_row_sums,
    remember=_remembered,
)

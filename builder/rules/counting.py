"""A pool's scores, counted over its stored predictions: blocks of chunks in threads, so that memory does not grow with
it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import Event

import numpy as np

from builder.engine import Track, run, silent
from builder.rules.apply import alive
from builder.rules.labelled import LabelledPool
from builder.rules.scores import BINS, NOTHING, Occurring, PoolScores, Scored, cell_of_class, counted, joined, occurring
from builder.scan.pool import OK


def pool_scores(labelled: LabelledPool, workers: int | None = None, track: Track = silent) -> PoolScores:
    """The scores of a whole pool, in one pass; their `tails` take another each."""
    classes = len(labelled.classes)
    images, total = 0, np.zeros(classes)
    objects, best = (np.zeros(classes * (BINS + 1), np.int64) for _ in range(2))
    with track("scores", len(labelled.pool)) as advance:
        for parts, sums, usable, seen in run(partial(_scores_of, labelled), labelled.blocks(), workers):
            for whole, (cells, number) in zip((objects, best), parts, strict=True):
                whole[cells] += number
            total += sums
            images += usable
            advance(seen)
    finer = partial(_occurring_in, labelled, workers, track)
    return PoolScores(images, objects.reshape(classes, -1), best.reshape(classes, -1), total, finer)


def _scores_of(
    labelled: LabelledPool, block: range, stop: Event
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray, int, int]:
    """Cells that occur and how often, of all objects and of the best of each image and class; sums; images."""
    rows, states = _scored(labelled, block)
    classes = len(labelled.classes)
    parts = [_numbers(cell_of_class(each), each.weight) for each in (rows, rows.best(classes))]
    total = np.bincount(rows.label, rows.score if rows.weight is None else rows.score * rows.weight, classes)
    return parts, total, states.count(OK), len(states)


def _scored(labelled: LabelledPool, block: range) -> tuple[Scored, list[str]]:
    """What NMS and cap leave of these chunks, and the state of each image."""
    objects, states = labelled.load(labelled.chunks(block), labelled.looks_at_boxes)
    left = alive(objects, labelled.keep, len(labelled.classes))
    pixels = None if objects.pixels is None else objects.pixels[left]
    return Scored(objects.image[left], objects.label[left].astype(np.int64), objects.confidence[left], pixels), states


def _numbers(place: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The places that occur, and how often."""
    if weight is None:
        return np.unique(place, return_counts=True)
    there, position = np.unique(place, return_inverse=True)
    return there, counted(position, weight, len(there))


def _occurring_in(
    labelled: LabelledPool, workers: int | None, track: Track, wanted: np.ndarray, best: bool
) -> Occurring:
    """See builder.rules.scores.Finer."""
    there = NOTHING
    with track("scores", len(labelled.pool)) as advance:
        for part, seen in run(partial(_occurring_of, labelled, wanted, best), labelled.blocks(), workers):
            there = joined(there, part)
            advance(seen)
    return there


def _occurring_of(
    labelled: LabelledPool, wanted: np.ndarray, best: bool, block: range, stop: Event
) -> tuple[Occurring, int]:
    rows, states = _scored(labelled, block)
    return occurring(rows.best(len(labelled.classes)) if best else rows, wanted), len(states)


def pool_kept(
    labelled: LabelledPool, labels: Sequence[int] | np.ndarray, thresholds: np.ndarray, workers: int | None = None
) -> list[np.ndarray]:
    """For each threshold, int64: how many usable images have exactly k predictions of these classes from it on."""
    totals = [np.zeros(1, np.int64) for _ in thresholds]
    work = partial(_kept_of, labelled, np.isin(np.arange(len(labelled.classes)), labels), thresholds)
    for part in run(work, labelled.blocks(), workers):
        totals = [_added(total, counts) for total, counts in zip(totals, part, strict=True)]
    return totals


def _kept_of(
    labelled: LabelledPool, wanted: np.ndarray, thresholds: np.ndarray, block: range, stop: Event
) -> list[np.ndarray]:
    rows, states = _scored(labelled, block)
    usable = np.array([state == OK for state in states], bool)
    chosen = wanted[rows.label]
    image, score = rows.image[chosen], rows.score[chosen]
    return [np.bincount(np.bincount(image[score >= t], minlength=len(states))[usable]) for t in thresholds]


def _added(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.zeros(max(len(a), len(b)), np.int64)
    out[: len(a)] += a
    out[: len(b)] += b
    return out

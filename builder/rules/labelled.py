"""A pool with a teacher's predictions, as the rules see it: its columns, its scores, and what rules do to all of it.

Every pass streams over blocks of chunks in threads, so that memory does not grow with the pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from threading import Event

import numpy as np

from builder.engine import Track, run, silent
from builder.kinds import kind_of
from builder.label.meta import read_meta
from builder.label.predictions import OPTIONAL, ChunkPredictions, read_chunk, read_failures, read_probabilities
from builder.rules.apply import decide
from builder.rules.calibrator import Calibrator
from builder.rules.class_map import ASIDE, Mapped
from builder.rules.keep import Keep, class_map
from builder.rules.objects import Decision, Objects, Thresholds
from builder.rules.reasons import IGNORED, KEPT, REASONS, Reason
from builder.rules.scores import PoolSample, counted
from builder.scan.pool import OK, REMOVED, UNREADABLE, Chunk, Pool

BLOCK = 16
"""Chunks that are looked at together."""
SAMPLE = 100_000
"""Images, at most, whose own counts are kept, for the test of shift."""


@dataclass(frozen=True)
class LabelledPool:
    """A pool with the predictions of one teacher, as the rules see it.

    predictions: the teacher's folder. classes: the version's. keep: for class map, NMS and cap. calibrate: what turns
    scores into confidences. excluded: SHA-256 of images that may not be used -> the state that says why. revived:
    SHA-256 of removed images that count as if they were there.
    """

    pool: Pool
    predictions: Path
    classes: tuple[str, ...]
    keep: Keep
    calibrate: Calibrator | None = None
    excluded: Mapping[str, str] = field(default_factory=dict)
    revived: frozenset[str] = frozenset()

    def load(self, chunks: Sequence[Chunk], boxes: bool = True) -> tuple[Objects, list[str]]:
        """The raw objects of the usable images of these chunks, and each image's state (`ok` for a usable one).

        Without `boxes` theirs are zeros, which is enough, and faster, where no rule looks at them.
        """
        columns = None if boxes else ("label", "score", "pixels")
        parts = [read_chunk(self.predictions / chunk.digest, columns) for chunk in chunks]
        states: list[str] = []
        for chunk, part in zip(chunks, parts, strict=True):
            states += self.states(chunk, part.status)
        starts = np.cumsum([0] + [len(chunk) for chunk in chunks])
        image = np.concatenate([part.image + start for part, start in zip(parts, starts, strict=False)])
        usable = np.array([state == OK for state in states], bool)[image]
        read = ("label", "score", "boxes") if boxes else ("label", "score")
        required = {name: np.concatenate([getattr(part, name) for part in parts]) for name in read}
        required.setdefault("boxes", np.zeros((len(image), 4), np.float32))  # memory that nobody touches
        optional = {name: _joined(parts, name) for name in OPTIONAL}
        if self.mapped:
            required |= self._map_classes(self.mapped, chunks, parts, required["label"], required["score"])
        rows = {name: column for name, column in (required | optional | {"image": image}).items() if column is not None}
        if not usable.all():
            rows = {name: column[usable] for name, column in rows.items()}
        sizes = np.concatenate(
            [np.stack([chunk.rows[side] for side in ("width", "height")], axis=1) for chunk in chunks]
        )
        names = [name for chunk in chunks for name in chunk.rows["name"].to_pylist()] if self.keep.where else []
        calibrated = self.calibrate(rows["label"], rows["score"]) if self.calibrate else None
        return Objects(image_size=sizes, name=names, calibrated=calibrated, **rows), states

    def decided(
        self, chunks: Sequence[Chunk], thresholds: Thresholds, boxes: bool = True
    ) -> tuple[Objects, Decision, list[str]]:
        """The objects of these chunks' images, what rules make of each, and the images' states. boxes: as of `load`."""
        objects, states = self.load(chunks, boxes)
        return objects, decide(objects, self.keep, thresholds, self.classes), states

    def probabilities(self, chunk: Chunk, positions: Sequence[int]) -> np.ndarray:
        """What a teacher of image classes gave these images of a chunk, as probabilities of the version's classes;
        what is set aside is in none. float32 (N, C)."""
        teacher = self.mapped.teacher if self.mapped else self.classes
        rows = read_probabilities(self.predictions / chunk.digest, len(teacher))[list(positions)]
        if self.mapped is None:
            return rows
        sums = np.zeros((len(rows), len(self.classes)), np.float32)
        for theirs in np.flatnonzero(self.mapped.label != ASIDE):
            sums[:, self.mapped.label[theirs]] += rows[:, theirs]
        return sums.clip(0, 1)

    @cached_property
    def mapped(self) -> Mapped | None:
        """The recipe's class map over the teacher's classes."""
        return class_map(self.keep, read_meta(self.predictions)["description"]) if self.keep.classes else None

    def _map_classes(
        self,
        mapped: Mapped,
        chunks: Sequence[Chunk],
        parts: Sequence[ChunkPredictions],
        label: np.ndarray,
        score: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """The columns of objects that a class map decides. Where the teacher classifies images, and classes become one,
        their probabilities are added up, which may make another class the likeliest."""
        kind = kind_of(read_meta(self.predictions)["description"]["kind"])
        ours, teacher_label = mapped.label[label], label
        if mapped.merges and kind.single and len(label):
            folders = [self.predictions / chunk.digest for chunk in chunks]
            probabilities = [
                read_probabilities(folder, len(mapped.teacher))[part.image]
                for folder, part in zip(folders, parts, strict=True)
                if len(part.image)
            ]
            ours, score, teacher_label = mapped.merged(np.concatenate(probabilities))
        codes = np.where(mapped.ignored, Reason.CLASS_IGNORED, Reason.CLASS_DROPPED).astype(np.uint8)
        aside = np.where(ours < 0, codes[teacher_label], 0).astype(np.uint8)
        return {"label": ours, "score": score, "teacher_label": teacher_label, "aside": aside}

    def states(self, chunk: Chunk, statuses: Sequence[str] | None = None) -> list[str]:
        """What each image of a chunk is: `ok` if it may be used, else why not. statuses: of its predictions."""
        if statuses is None:
            failed = {failure.position for failure in read_failures(self.predictions / chunk.digest)}
            statuses = ["failed" if n in failed else "ok" for n in range(len(chunk))]
        states = [
            s if s != OK or status == "ok" else UNREADABLE
            for s, status in zip(chunk.rows["state"].to_pylist(), statuses, strict=True)
        ]
        if self.excluded or self.revived:
            for n, sha in enumerate(chunk.rows["sha256"].to_pylist()):
                if states[n] == REMOVED and sha in self.revived and statuses[n] == "ok":
                    states[n] = OK
                if states[n] == OK:
                    states[n] = self.excluded.get(sha, OK)
        return states

    def chunks(self, block: range) -> list[Chunk]:
        """These chunks of the pool, with what `load` looks at of their rows, and no more."""
        return list(self.pool.chunks(block.start, block.stop, self.looked_at))

    @property
    def looked_at(self) -> list[str]:
        """Columns of the pool's rows."""
        columns = ["width", "height", "state"]
        columns += ["name"] if self.keep.where else []
        return columns + (["sha256"] if self.excluded or self.revived else [])

    def blocks(self) -> list[range]:
        """Ranges of chunks to look at together."""
        count = len(self.pool.index)
        return [range(n, min(n + BLOCK, count)) for n in range(0, count, BLOCK)]

    @property
    def looks_at_boxes(self) -> bool:
        keep = self.keep
        return any(v is not None for v in (keep.nms, keep.max_per_image, keep.where, keep.min_size, keep.uncertainty))


def _joined(parts: Sequence[ChunkPredictions], name: str) -> np.ndarray | None:
    """An optional column of chunks, None if none of them has it; NaN, 0 or an empty mask where one lacks it."""
    columns = [getattr(part, name) for part in parts]
    given = [column for column in columns if column is not None]
    if not given:
        return None
    lacking = {"f": np.nan, "i": 0}.get(given[0].dtype.kind, b"")
    return np.concatenate(
        [
            np.full(len(part.label), lacking, given[0].dtype) if column is None else column
            for part, column in zip(parts, columns, strict=True)
        ]
    )


@dataclass(frozen=True)
class Tally:
    """What rules do to a whole pool. images: by state. reasons: int64 (len(REASONS),). per_class: predicted, kept,
    ignored -> int64 (C,). sample: of the teacher's predictions, for the test of shift."""

    images: Mapping[str, int]
    reasons: np.ndarray
    per_class: Mapping[str, np.ndarray]
    sample: PoolSample


def tally(
    labelled: LabelledPool,
    thresholds: Thresholds,
    shared: np.ndarray,
    workers: int | None = None,
    track: Track = silent,
) -> Tally:
    """Count every object of the pool by reason and outcome, without writing anything. shared: bool (C,), the classes
    that count for the sample."""
    classes = len(labelled.classes)
    images: dict[str, int] = {}
    reasons, outcomes = np.zeros(len(REASONS), np.int64), np.zeros((3, classes), np.int64)
    samples: list[np.ndarray] = []
    every = -(-len(labelled.pool) // SAMPLE)
    work = partial(_tally_of, labelled, thresholds, shared, max(1, every))
    with track("rules", len(labelled.pool)) as advance:
        for part_states, part_reasons, part_outcomes, sample in run(work, labelled.blocks(), workers):
            for state, count in part_states.items():
                images[state] = images.get(state, 0) + count
            reasons += part_reasons
            outcomes += part_outcomes
            samples.append(sample)
            advance(sum(part_states.values()))
    rows = np.concatenate(samples, axis=1) if samples else np.zeros((3, 0))
    per_class = dict(zip(("predicted", "kept", "ignored"), outcomes, strict=True))
    return Tally(images, reasons, per_class, PoolSample(rows[0], rows[1], rows[2]))


def _tally_of(
    labelled: LabelledPool, thresholds: Thresholds, shared: np.ndarray, every: int, block: range, stop: Event
) -> tuple[dict[str, int], np.ndarray, np.ndarray, np.ndarray]:
    objects, decision, states = labelled.decided(labelled.chunks(block), thresholds, labelled.looks_at_boxes)
    ours = np.flatnonzero(objects.ours)
    label, outcome = objects.label[ours], decision.outcome[ours]
    weight = None if objects.pixels is None else objects.pixels[ours]
    outcomes = np.stack(
        [
            counted(label[mask], None if weight is None else weight[mask], len(labelled.classes))
            for mask in (slice(None), outcome == KEPT, outcome == IGNORED)
        ]
    )
    usable = np.array([state == OK for state in states], bool)
    known = ours[shared[label]]
    image, score = objects.image[known], objects.confidence[known]
    above = score >= thresholds.keep[objects.label[known]]
    pixels = None if objects.pixels is None else objects.pixels[known]
    sample = sample_columns(image, score, above, pixels, len(states))
    reasons = counted(decision.reason, objects.pixels, len(REASONS))
    return {s: states.count(s) for s in set(states)}, reasons, outcomes, sample[:, usable][:, ::every]


def sample_columns(
    image: np.ndarray, score: np.ndarray, above: np.ndarray, pixels: np.ndarray | None, images: int
) -> np.ndarray:
    """float64 (3, I): the columns of a PoolSample. Of maps each image is one prediction, since their sizes may differ:
    its pixels' mean score and the share of them above."""
    weights = (None, score, above) if pixels is None else (pixels, score * pixels, above * pixels)
    columns = np.stack([np.bincount(image, w, images) for w in weights]).astype(np.float64)
    return columns if pixels is None else columns / np.maximum(columns[0], 1)

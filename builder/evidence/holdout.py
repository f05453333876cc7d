"""Held-out human labels in two halves: `tune`, to look at freely, and `certify`, of which every use is counted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from builder.engine import Track, silent
from builder.errors import BuildError
from builder.evidence.calibrate import calibrated
from builder.evidence.estimate import interval
from builder.evidence.matching import Matches, check_kind
from builder.evidence.stored import match_stored
from builder.kinds import kind_of
from builder.label.meta import read_meta
from builder.label.section import tail
from builder.rules.calibrator import Calibrator
from builder.rules.keep import IOUS, Keep
from builder.rules.labelled import sample_columns
from builder.rules.objects import Thresholds
from builder.rules.scores import PoolSample, PoolScores, counted
from builder.scan.duplicates import shared
from builder.scan.pool import Pool
from builder.scan.scanner import scan_entries
from builder.store.files import digest
from builder.store.provenance import ClassMeasured, Measured, TruthRecord
from builder.store.store import Store
from builder.truth.options import LabelOptions, Part, TruthOptions
from builder.truth.read import named, read_section
from builder.truth.records import Truth, check_measurable, entries, split, truth_digest
from teachers.limits import MAX_PIXELS

CERTIFY = "truth.certify"
EVIDENCE = ("truth", CERTIFY)
"""The labelled sets whose images the teacher labels, too."""


@dataclass(frozen=True)
class Labels:
    """Human labels and their images as a scanned pool, which the teacher has labelled. source: as the recipe says.
    certify: fresh ones that alone certify, in place of half of these."""

    truth: Truth
    pool: Pool
    source: str
    certify: Labels | None = None

    @property
    def digest(self) -> str:
        """Of the labels and the bytes of their images, wherever they lie."""
        mine = _digest(self.truth, self.pool)
        return mine if self.certify is None else digest([mine, self.certify.digest])

    @property
    def tune(self) -> Truth:
        """Those that may be looked at. Raises BuildError if there are none."""
        return self.truth if self.certify else _half(self, 0)

    @property
    def sources(self) -> str:
        """As a version may tell them to others."""
        return f"{tail(self.source)}" + (f", certified on {tail(self.certify.source)}" if self.certify else "")

    @property
    def certify_images(self) -> int:
        return len(_certifying(self)[0].images)

    @property
    def number(self) -> int:
        return len(self.truth.images) + (len(self.certify.truth.images) if self.certify else 0)


def _half(labels: Labels, place: int) -> Truth:
    half = split(labels.truth)[place]
    if not half.images:
        raise BuildError(
            f"none of the {len(labels.truth.images)} labelled images of {labels.source} falls into the "
            f"{('tune', 'certify')[place]} half (whole units do): add labelled images, or smaller units"
        )
    return half


def _digest(truth: Truth, pool: Pool) -> str:
    shas = _sha256s(pool)
    known = replace(truth, images=[image for image in truth.images if image.name in shas])
    units = digest(sorted([shas[image.name], image.unit] for image in known.images))
    return digest([truth_digest(known, shas), units])


def _sha256s(pool: Pool) -> dict[str, str]:
    return {image.name: image.sha256 for image in pool.images() if image.sha256}


@dataclass(frozen=True)
class Halves:
    """Predictions on both halves, matched with the labels. digest: of the certify half; images: SHA-256 of its own."""

    labels: Labels
    tune: Matches
    certify: Matches
    digest: str
    images: tuple[str, ...]

    @property
    def objects(self) -> np.ndarray:
        """Labelled objects, or of maps pixels, of each class that count, in the tune half; int64 (C,)."""
        known = self.tune.object_counts & (self.tune.object_label >= 0)
        return counted(self.tune.object_label[known], self.tune.object_weights(known), len(self.tune.classes))

    def per_image(self, scores: PoolScores) -> np.ndarray:
        """The same for an image, float64 (C,); NaN for a class that the labels do not know. Of maps, the pixels of a
        pool image with the labels' shares of classes, since the images of both need not be of one size."""
        of, scale = max(1, self.tune.images), 1.0
        if self.tune.weight is not None:
            labelled = self.tune.object_weights(self.tune.object_counts)
            of, scale = max(1, 0 if labelled is None else int(labelled.sum())), scores.per_image
        return np.where(self.tune.shared, self.objects / of * scale, np.nan)

    def calibrated(self, calibration: Calibrator) -> Halves:
        """The same matches with calibrated scores."""
        tune, certify = (calibrated(half, calibration) for half in (self.tune, self.certify))
        return replace(self, tune=tune, certify=certify)

    def sample(self, thresholds: Thresholds) -> PoolSample:
        """The teacher's predictions on the tune half, for the test of shift."""
        tune = self.tune
        above = tune.score >= _limits(tune, thresholds, tune.image, tune.label)
        return PoolSample(*sample_columns(tune.image, tune.score, above, tune.weight, tune.images))

    def used(self, uses: int, thresholds: Thresholds) -> TruthRecord:
        """What the manifest says of the labels. uses: of the certify half, where the thresholds were solved on it
        (`count_use`), else 0. All are measured on the tune half, on which no threshold but those of `density` are
        solved."""
        return TruthRecord(
            source=self.labels.sources,
            images=self.labels.number,
            tune=self.tune.images,
            certify=self.certify.images,
            left_out=self.tune.left_out + self.certify.left_out,
            digest=self.digest,
            uses=uses,
            measured=measure(self.tune, thresholds, next((g.iou for g in thresholds.groups if g.iou), IOUS[0])),
        )


def halves(labels: Labels, predictions: Path, keep: Keep) -> Halves:
    """Match both halves. Raises BuildError if the labels are of another kind than the predictions, one half has no
    image, or none of its images has predictions."""
    kind = read_meta(predictions)["description"]["kind"]
    for each in (labels, labels.certify):
        if each:
            check_kind(each.truth, kind, each.source)
            check_measurable(each.truth, each.source)
    tune, (truth, pool) = labels.tune, _certifying(labels)
    shas = _sha256s(pool)
    images = tuple(shas[image.name] for image in truth.images if image.name in shas)
    tuned, certified = match_stored(tune, labels.pool, predictions, keep), match_stored(truth, pool, predictions, keep)
    return Halves(labels, tuned, certified, _digest(truth, pool), images)


def _certifying(labels: Labels) -> tuple[Truth, Pool]:
    """The labels that certify, and the pool of their images."""
    if labels.certify:
        return labels.certify.truth, labels.certify.pool
    return _half(labels, 1), labels.pool


def _limits(matches: Matches, thresholds: Thresholds, image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The score that a prediction of class `label` on `image` must reach; float32, as long as these."""
    limit = thresholds.keep[label]
    if not thresholds.top_box:
        return limit
    best = np.zeros(matches.images, np.float32)
    np.maximum.at(best, matches.image, matches.score)
    return np.minimum(limit, best[image])


def measure(matches: Matches, thresholds: Thresholds, iou: float, level: float = 0.9) -> Measured:
    """Precision of what thresholds keep, and recall of the teacher's classes, of all classes together and of each by
    itself, with the two-sided intervals for thresholds that were not chosen on these labels."""
    row = IOUS.index(iou)
    kept = (matches.score >= _limits(matches, thresholds, matches.image, matches.label)) & matches.counted[row]
    known = matches.object_counts & (matches.object_label >= 0)
    image, label = matches.object_image[known], matches.object_label[known]
    hit = matches.object_score[row][known] >= _limits(matches, thresholds, image, label)  # NaN: not found
    predicted = matches.unit[matches.image[kept]], matches.right[row][kept], matches.weights(kept)
    objects = matches.unit[image], hit, matches.object_weights(known)
    classes = np.flatnonzero(matches.shared).tolist()
    precisions = _shares(matches.label[kept], *predicted, classes, level)
    recalls = _shares(label, *objects, classes, level)
    (precision,), (recall,) = (_shares(np.zeros(len(of[0]), int), *of, [0], level) for of in (predicted, objects))
    return Measured(
        iou=iou,
        level=level,
        classes={
            matches.classes[c]: ClassMeasured(**_fields(*shares))
            for c, *shares in zip(classes, precisions, recalls, strict=True)
        },
        **_fields(precision, recall),
    )


@dataclass(frozen=True)
class _Share:
    """How many of so many, and the interval of the share."""

    of: int
    hits: int
    low: float
    high: float

    @property
    def value(self) -> float | None:
        return self.hits / self.of if self.of else None


def _shares(
    label: np.ndarray,
    unit: np.ndarray,
    hit: np.ndarray,
    weight: np.ndarray | None,
    classes: Sequence[int],
    level: float,
) -> list[_Share]:
    """Which share of the rows of each class are hits. Units without a row of a class have no say in its interval, so
    that only pairs of class and unit that occur are counted."""
    order = np.lexsort((unit, label))
    label, unit, hit = label[order], unit[order], hit[order]
    weight = np.ones(len(order), np.int64) if weight is None else weight[order]
    new = (np.diff(label, prepend=-1) != 0) | (np.diff(unit, prepend=-1) != 0)
    pair, pairs = np.cumsum(new) - 1, int(new.sum())
    whole, part = counted(pair, weight, pairs), counted(pair[hit], weight[hit], pairs)
    ends = np.searchsorted(label[new], [(c, c + 1) for c in classes]).tolist()
    return [
        _Share(int(whole[a:b].sum()), int(part[a:b].sum()), *interval(whole[a:b], part[a:b], level)) for a, b in ends
    ]


def _fields(precision: _Share, recall: _Share) -> dict[str, Any]:
    """Of ClassMeasured."""
    return {
        "kept": precision.of,
        "correct": precision.hits,
        "precision": precision.value,
        "low": precision.low,
        "high": precision.high,
        "objects": recall.of,
        "hits": recall.hits,
        "recall": recall.value,
        "recall_low": recall.low,
        "recall_high": recall.high,
    }


def with_outlines(labels: Labels, options: LabelOptions, kind: str) -> Labels:
    """The labels as predictions of this kind need them: for masks, the outlines of their objects are read as well.
    options: that they were loaded with. Raises BuildError if they have none."""
    if not kind_of(kind).outlines:
        return labels
    certifying = options.certifying if isinstance(options, TruthOptions) else None
    certify = with_outlines(labels.certify, certifying, kind) if labels.certify and certifying else labels.certify
    return replace(labels, truth=read_section(options, "truth", outlines=True), certify=certify)


def load_references(
    options: Mapping[Part, LabelOptions],
    written: Mapping[Part, LabelOptions],
    store: Store,
    *,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    track: Track = silent,
) -> dict[str, Labels]:
    """The labelled, truth and test sets by name, scanned. written: as the recipe has them, whose paths may not lead
    from here. max_pixels: as of a pool. Raises BuildError if two of them share an image."""
    references: dict[str, Labels] = {
        name: load_truth(section, written[name], store, part=name, max_pixels=max_pixels, workers=workers, track=track)
        for name, section in options.items()
    }
    if "truth" in references and (certify := references["truth"].certify):
        references[CERTIFY] = certify
    common = shared({name: labels.pool for name, labels in references.items()}) if len(references) > 1 else []
    if common:
        first = "; ".join(common[:3])
        raise BuildError(f"{len(common)} images are in two of labelled, truth and test: keep each in one ({first})")
    return references


def load_truth(
    options: LabelOptions,
    written: LabelOptions,
    store: Store,
    *,
    part: Part = "truth",
    max_pixels: int = MAX_PIXELS,
    workers: int | None,
    track: Track,
) -> Labels:
    """`load_labels`, and of held-out labels those that certify in place of half of them. written: as the recipe has
    them."""

    def load(section: LabelOptions, source: str) -> Labels:
        return load_labels(
            section, store, written=source, part=part, max_pixels=max_pixels, workers=workers, track=track
        )

    labels = load(options, written.source)
    if not isinstance(options, TruthOptions) or options.certifying is None:
        return labels
    as_written = written.certify if isinstance(written, TruthOptions) and written.certify else options.certifying
    return replace(labels, certify=load(options.certifying, as_written.source))


def load_labels(
    options: LabelOptions,
    store: Store,
    *,
    written: str,
    part: Part = "truth",
    max_pixels: int = MAX_PIXELS,
    workers: int | None,
    track: Track,
) -> Labels:
    """Read human labels and scan their images into a pool of their own. written: the source as the recipe has it; part:
    what they are for, which says which split is meant."""
    truth = read_section(options, part)
    if not truth.images:
        raise BuildError(f"labels {written} name no image: give labels with images, or leave them out")
    key: dict[str, str | int | None] = {
        "labels": os.path.abspath(options.source),
        "images": options.images and os.path.abspath(options.images),
        "format": options.format,
    }
    more = {"split": truth.split, "counted_from": options.counted_from}
    key |= {name: value for name, value in more.items() if value is not None}
    pool = scan_entries(
        entries(truth),
        key,
        store,
        source=options.source,
        max_pixels=max_pixels,
        workers=workers,
        track=track,
    )
    return Labels(truth, pool, named(written, truth.split))

"""Images as they are browsed: what was predicted on them, what became of it, and what is to be said of each image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from builder.evidence.claims import claims
from builder.report.quality import thresholds
from builder.store.manifest import Manifest

LIKELY = 5
"""Classes of an image that are told, the likeliest first."""
ASIDE = "(other)"
"""Stands for a class of the teacher that the version does not have: nothing can be said of such an object."""


@dataclass(frozen=True)
class Media:
    """An image file. state: written (it is in a shard), empty, near_duplicate or leak (left out), or truth; why: what
    left it out. width, height: upright pixels. likely: JSON of classes and their probabilities, the likeliest first,
    where images are classified."""

    key: str
    name: str
    sha256: str
    path: str
    width: int
    height: int
    state: str
    shard: str | None = None
    why: str | None = None
    likely: str | None = None


@dataclass(frozen=True)
class Planes:
    """Semantic maps of an image: files, or uint8 (H, W). pseudo, teacher: positions in the version's and the teacher's
    classes as builder.browse.maps shifts them; confidence: 255 times the probability."""

    pseudo: Path | np.ndarray
    teacher: Path | np.ndarray | None = None
    confidence: Path | np.ndarray | None = None


@dataclass(frozen=True)
class Objects:
    """The raw objects of one image, a list a column. box: xywh, shares of the image's sides; outcome, reason: see
    builder.rules.apply; optional: of OPTIONAL, those that the version has."""

    label: list[str]
    box: list[list[float]]
    score: list[float]
    calibrated: list[float] | None
    outcome: list[str]
    reason: list[str]
    optional: Mapping[str, list[Any]]


@dataclass(frozen=True)
class Picture:
    """An image with its objects. reasons: why objects are not kept; highest: score of all objects; lowest: of the kept
    ones; expected_precision: of the kept ones, mean calibrated score, else what the tune half says of their classes;
    distance: of the object closest to its threshold, in score; agreement: the fewest teachers that agree on a kept or
    ignored object. Of maps: scores are means over the pixels of a class; taught, unsure: shares of the image's pixels
    that are kept and ignored; planes: the maps."""

    media: Media
    objects: Objects
    reasons: list[str]
    highest: float | None
    lowest: float | None
    expected_precision: float | None
    distance: float | None
    agreement: float | None
    taught: float | None = None
    unsure: float | None = None
    planes: Planes | None = None


@dataclass(frozen=True)
class Columns:
    """Raw objects of several images. image: int64 (N,), position of each one's image, not falling; label: int16 (N,);
    score, calibrated: float32 (N,); boxes: float32 (N, 4), xyxy pixels; outcome, reason: N strings."""

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    calibrated: np.ndarray | None
    boxes: np.ndarray
    outcome: np.ndarray
    reason: np.ndarray
    optional: Mapping[str, list[Any]]


class Evidence:
    """What a version's manifest says of its classes. classes: names; threshold: float64 (C,), NaN where nothing is
    kept; precision: float64 (C,), of each class by itself on the tune half, NaN where that is not known: not that of
    its group, which is of several classes together, nor that on the certify half, which chose the threshold."""

    def __init__(self, manifest: Manifest) -> None:
        self.classes = np.array(manifest.classes, object)
        self.threshold = thresholds(manifest).kept_from
        judged = claims(manifest)
        seen = {claim.name: claim.estimate.precision for claim in judged.classes if claim.estimate}
        known = [np.nan if (value := seen.get(name)) is None else value for name in manifest.classes]
        self.precision = np.array(known, np.float64)


def pictures_of(media: Sequence[Media], columns: Columns, evidence: Evidence) -> list[Picture]:
    """Images with their objects, and what is to be said of each."""
    count, image = len(media), columns.image
    kept = columns.outcome == "kept"
    highest, lowest = (
        _extreme(np.fmax, image, columns.score, count),
        _extreme(np.fmin, image[kept], columns.score[kept], count),
    )
    confidence = columns.score if columns.calibrated is None else columns.calibrated
    near = kept | (columns.reason == "ignore_band")
    margin = np.abs(confidence[near] - evidence.threshold[columns.label[near]])
    distance = _extreme(np.fmin, image[near], margin, count)
    expected = evidence.precision[columns.label[kept]] if columns.calibrated is None else columns.calibrated[kept]
    pixels = columns.optional.get("pixels")
    weight = np.ones(len(image)) if pixels is None else np.array(pixels, np.float64)
    numbers = np.bincount(image[kept], weight[kept], minlength=count)
    with np.errstate(invalid="ignore"):
        precision = np.bincount(image[kept], expected * weight[kept], minlength=count) / numbers
    ignored, nothing = columns.outcome == "ignored", np.full(count, np.nan)
    there = np.flatnonzero(kept | ignored)
    agree = columns.optional.get("agree")
    agreement = _extreme(np.fmin, image[there], np.array(agree, float)[there], count) if agree else nothing
    taught = unsure = nothing
    if pixels is not None:
        area, distance = np.array([one.width * one.height for one in media]), nothing
        taught, unsure = numbers / area, np.bincount(image[ignored], weight[ignored], minlength=count) / area
    figures = (highest, lowest, precision, distance, agreement, taught, unsure)
    summary = zip(*(_listed(values) for values in figures), strict=True)
    return [
        Picture(one, objects, sorted({r for r in objects.reason if r != "kept"}), *own)
        for one, objects, own in zip(media, _objects(media, columns, evidence.classes), summary, strict=True)
    ]


def _extreme(how: np.ufunc, image: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    extreme = np.full(count, np.nan)
    how.at(extreme, image, values)
    return extreme


def _listed(values: np.ndarray) -> list[float | None]:
    return [value if value == value else None for value in values.tolist()]


def _objects(media: Sequence[Media], columns: Columns, classes: np.ndarray) -> Iterator[Objects]:
    """The columns image by image. Lists are made of all at once: far quicker than of each image."""
    sides = np.array([(one.width, one.height) for one in media], np.float64).reshape(-1, 2)[columns.image]
    corner, size = columns.boxes[:, :2] / sides, (columns.boxes[:, 2:] - columns.boxes[:, :2]) / sides
    box = np.concatenate([corner, size], axis=1).tolist()
    label = np.append(classes, ASIDE)[columns.label].tolist()  # -1 is the last
    score, calibrated = columns.score.tolist(), None if columns.calibrated is None else columns.calibrated.tolist()
    outcome, reason = columns.outcome.tolist(), columns.reason.tolist()
    for a, b in pairwise(np.searchsorted(columns.image, np.arange(len(media) + 1)).tolist()):
        optional = {name: values[a:b] for name, values in columns.optional.items()}
        own = None if calibrated is None else calibrated[a:b]
        yield Objects(label[a:b], box[a:b], score[a:b], own, outcome[a:b], reason[a:b], optional)


def likeliest(classes: Sequence[str], places: Sequence[int], probabilities: Sequence[float]) -> str:
    """The LIKELY best of some classes with their probabilities, without those of none; JSON."""
    best = sorted(zip(probabilities, places, strict=True), key=lambda one: (-one[0], one[1]))[:LIKELY]
    return orjson.dumps([(classes[n], float(p)) for p, n in best if p > 0]).decode()

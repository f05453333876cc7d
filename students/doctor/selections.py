"""What a version keeps of its pool, and, where the pool's true labels are known, how much of it is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from builder.evidence.agreement import match_classes, match_maps
from builder.evidence.calibrate import iou_place
from builder.evidence.matching import Matches, match_columns
from builder.kinds import LabelKind, kind_of
from builder.store.files import sha256_file
from builder.store.labels import read_label
from builder.store.shards import Sample
from builder.store.version import LABELS, Version
from builder.truth.masks import read_mask
from builder.truth.records import LabelledImage, Truth
from students.doctor.records import Labels, Right, Selection
from teachers.base import VOID, SemanticMap

IOU = 0.5
"""Overlap from which a kept box is right, as everywhere where nothing else is said."""
Kept = tuple[LabelledImage, Sample, dict[str, Any]]
"""A labelled image of the pool, and its sample: the members, the label JSON."""


def read_selection(version: Version, human: Labels | None, truth: Mapping[str, LabelledImage], of: Truth) -> Selection:
    """The facts of a version. human: the labels that it stands beside. truth: labelled images of its pool by SHA-256,
    of the record `of`; {} where they are not known. Raises BuildError for a damaged version."""
    manifest, kind = version.manifest, kind_of(version.manifest.kind)
    classes = manifest.per_class
    pool = manifest.images.get("pool", 0) - manifest.images.get("failed", 0)
    return Selection(
        kind=kind.name,
        noun=kind.noun,
        rule=rule_words(manifest.provenance.recipe.get("keep")),
        pool=pool,
        predicted={name: classes[name]["predicted"] for name in manifest.classes if name in classes},
        kept={name: classes[name]["kept"] for name in manifest.classes if name in classes},
        human=human,
        right=read_right(version, truth, of) if truth else {},
        told=_is_told(version),
    )


def _is_told(version: Version) -> bool:
    """Whether its labels are stored ones that all have score 1, as a study's `ceiling` has them."""
    if version.manifest.provenance.teacher.description.get("family") != "replay" or not version.has(LABELS):
        return False
    scores = pq.read_table(version.labels, columns=["score"])["score"]
    least = pc.min(scores.filter(pc.greater(scores, 0))).as_py()  # of maps 0 is where nothing is said
    return least is not None and least >= 1


def rule_words(keep: Any) -> str:
    """A `keep` section in few words: `score 0.5`; of others the names of its rules."""
    if isinstance(keep, Mapping):
        given = {name: value for name, value in keep.items() if value is not None}
        for name in ("score", "precision"):
            if isinstance(value := given.get(name), int | float):
                return f"{name} {value:g}"
        for name in ("precision", "balance", "score"):
            if name in given:
                return name
    return "this rule"


def read_labels(truth: Truth) -> Labels:
    """How many of each class human labels hold."""
    counts: Counter[int] = Counter()
    for image in truth.images:
        if image.mask is not None:
            pixels = np.bincount(read_mask(image, len(truth.classes)).reshape(-1), minlength=VOID + 1)
            counts.update({label: int(n) for label, n in enumerate(pixels[: len(truth.classes)])})
        counts.update(image.labels[~image.crowd].tolist())
        counts.update([] if image.label is None else [image.label])
    return Labels(len(truth.images), {name: counts[label] for label, name in enumerate(truth.classes)})


def by_sha256(truth: Truth) -> dict[str, LabelledImage]:
    """Its images by what their files hold."""
    with ThreadPoolExecutor() as threads:
        digests = threads.map(sha256_file, [image.path for image in truth.images])
        return dict(zip(digests, truth.images, strict=True))


def read_right(version: Version, truth: Mapping[str, LabelledImage], of: Truth) -> dict[str, Right]:
    """By class, on the images that are in both; empty without any. Raises BuildError if they share no class."""
    kept = list(_labelled(version, truth))
    if not kept:
        return {}
    classes, kind = tuple(version.manifest.classes), kind_of(version.manifest.kind)
    shown = replace(of, images=[image for image, *_ in kept])
    matches = _matched(kind, classes, shown, kept)
    place = iou_place(matches, IOU)
    counted, right = matches.counted[place], matches.right[place]
    weight = np.ones(len(right), np.int64) if matches.weight is None else matches.weight
    there = matches.object_counts
    each = np.ones(len(there), np.int64) if matches.object_weight is None else matches.object_weight
    found = there & ~np.isnan(matches.object_score[place])
    rights = {}
    for label, name in enumerate(classes):
        if matches.shared[label]:
            mine, theirs = counted & (matches.label == label), there & (matches.object_label == label)
            sums = (weight[mine], weight[mine & right], each[theirs], each[theirs & found])
            rights[name] = Right(*(int(part.sum()) for part in sums))
    return rights


def _labelled(version: Version, truth: Mapping[str, LabelledImage]) -> Iterator[Kept]:
    """The samples of labelled images, each image once."""
    gone, seen = set(version.manifest.tombstones), set()
    for _, samples in version.shards():
        for sample in samples:
            label = read_label(sample, version.manifest)
            image = truth.get(label["sha256"])
            if image is not None and sample.key not in gone and label["sha256"] not in seen:
                seen.add(label["sha256"])
                yield image, sample, label


def _matched(kind: LabelKind, classes: tuple[str, ...], truth: Truth, kept: Sequence[Kept]) -> Matches:
    """What is kept of these images, against their labels."""
    if kind.pixels:
        ours = np.where(np.arange(VOID + 1) < len(classes), np.arange(VOID + 1), -1).astype(np.int16)
        return match_maps(classes, truth, (_map(sample, kind) for _, sample, _ in kept), ours)
    labels = [label for *_, label in kept]
    if kind.single:
        image, column = np.arange(len(labels)), np.array([label["label"] for label in labels], np.int16)
        return match_classes(classes, truth, image, column, np.array([label["score"] for label in labels], np.float32))
    rows = [
        (number, *box, category, score)
        for number, label in enumerate(labels)
        for box, category, score, ignore in zip(
            *(label["objects"][name] for name in ("bbox", "category", "score", "ignore")), strict=True
        )
        if not ignore and category >= 0
    ]
    table = np.array(rows, np.float64).reshape(-1, 7)
    boxes = np.concatenate([table[:, 1:3], table[:, 1:3] + table[:, 3:5]], axis=1).astype(np.float32)
    return match_columns(
        classes,
        truth,
        table[:, 0].astype(np.int64),
        table[:, 5].astype(np.int16),
        table[:, 6].astype(np.float32),
        boxes,
    )


def _map(sample: Sample, kind: LabelKind) -> SemanticMap:
    """The map of a sample; where it says nothing, VOID."""
    labels = np.array(Image.open(BytesIO(sample.read(kind.member))), np.uint8)
    return SemanticMap(labels, np.where(labels == VOID, 0, 255).astype(np.uint8))

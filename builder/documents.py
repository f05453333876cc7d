"""Images and their objects as FiftyOne stores them in MongoDB: the documents that its own API would write, made without
its objects, which take most of the time of loading."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson import ObjectId

from builder.browse import Objects, Picture
from builder.browse_truth import Mark

Document = dict[str, Any]
TRUTH_FIELD = "ground_truth"
NUMBERS = ("calibrated", "agree", "uncertainty")
"""Attributes of an object that are numbers, where a version has them; all others are strings."""


@dataclass(frozen=True)
class Names:
    """Fields and tags of one version. suffix: "", or `_v1` where several versions share a dataset."""

    suffix: str = ""

    def __call__(self, field: str) -> str:
        return field + self.suffix


LABELS = {
    "pseudo": "Objects that are labels of the version. Tag them accept or reject, change, delete or draw them.",
    "ignored": "Objects that are ignore regions of the version: neither objects nor background to a student.",
    "teacher": "Every raw prediction of the teacher, with what became of it and why.",
}
"""Fields of objects of a version, and what they hold."""
STRINGS = {
    "version": "The version it is in.",
    "shard": "The shard it is in.",
    "why": "What left it out.",
}
FIGURES = {
    "max_score": "The highest score of all objects predicted on it.",
    "min_score": "The lowest score of its kept objects.",
    "expected_precision": "The share of its kept objects that are expected to be right, where that is known.",
    "distance": "How far the object closest to its threshold is from it, in score.",
}
REASONS = "drop_reasons", "Why objects predicted on it are not kept."
AGREEMENT = "agreement", "The lowest agreement of the teachers on any object."
CHANGES = "changes", "How many of its labels the version before has otherwise."


def fields_of(picture: Picture, names: Names, version: str) -> tuple[Document, list[str]]:
    """What one version says of an image: fields that are set, and tags."""
    media, objects = picture.media, picture.objects
    is_truth = media.state == "truth"
    key = None if is_truth else media.key
    kept = [n for n, outcome in enumerate(objects.outcome) if outcome == "kept"]
    ignored = [n for n, outcome in enumerate(objects.outcome) if outcome == "ignored"]
    said: Document = {
        "version": None if is_truth else version,
        "shard": media.shard,
        "why": media.why,
        "max_score": picture.highest,
        "min_score": picture.lowest,
        "expected_precision": picture.expected_precision,
        "distance": picture.distance,
        "agreement": picture.agreement,
        "drop_reasons": picture.reasons,
        "pseudo": detections(objects, kept, key),
        "ignored": detections(objects, ignored, key),
        "teacher": detections(objects, range(len(objects.label)), key),
    }
    found = {names(field): value for field, value in said.items() if value is not None}
    if is_truth:
        return found, ["truth"]
    tags = ["kept"] if kept else ["empty"] if media.state in ("written", "empty") else []
    tags += ["ignored"] if ignored else []
    if media.state != "written":
        tags += [state for state in (media.state,) if state != "empty"] + ["left_out"]
    return found, [names(tag) for tag in tags]


def sample(picture: Picture, said: Document, tags: Sequence[str], dataset: ObjectId, now: datetime) -> Document:
    """A sample's document. now: UTC, when it is written; a sample that was never edited has it twice."""
    media = picture.media
    return {
        "filepath": media.path,
        "tags": list(tags),
        "metadata": {"_cls": "ImageMetadata", "width": media.width, "height": media.height},
        "key": media.key,
        "name": media.name,
        "sha256": media.sha256,
        **said,
        "_media_type": "image",
        "_rand": 0.999 + random.random() / 1000,  # as FiftyOne draws it
        "_dataset_id": dataset,
        "created_at": now,
        "last_modified_at": now,
    }


def detections(objects: Objects, rows: Sequence[int] | range, key: str | None) -> Document:
    """Some objects of an image; key: of it, None where objects are not to be told apart later."""
    label, box, score = objects.label, objects.box, objects.score
    outcome, reason = objects.outcome, objects.reason
    listed = [
        {
            "_id": ObjectId(),
            "_cls": "Detection",
            "attributes": {},
            "tags": [],
            "label": label[n],
            "bounding_box": box[n],
            "confidence": score[n],
            "outcome": outcome[n],
            "reason": reason[n],
        }
        for n in rows
    ]
    if key is not None:
        for n, one in zip(rows, listed, strict=True):
            one["tutelage_id"] = f"{key}#{n}"
    more: Mapping[str, list[Any] | None] = {"calibrated": objects.calibrated, **objects.optional}
    for name, values in more.items():
        if values is not None:
            for n, one in zip(rows, listed, strict=True):
                if values[n] is not None:
                    one[name] = values[n]
    return {"_cls": "Detections", "detections": listed}


def marks(mark: Mark) -> Document:
    """What people marked in an image."""
    return {
        "_cls": "Detections",
        "detections": [
            {
                "_id": ObjectId(),
                "_cls": "Detection",
                "attributes": {},
                "tags": [],
                "label": label,
                "bounding_box": box,
                "iscrowd": crowd,
            }
            for label, box, crowd in zip(mark.label, mark.box, mark.crowd, strict=True)
        ],
    }

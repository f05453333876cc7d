"""Images and their objects as FiftyOne stores them in MongoDB: the documents that its own API would write, made without
its objects, which take most of the time of loading."""

from __future__ import annotations

import io
import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from bson import ObjectId

from builder.browse.pictures import Media, Objects, Picture

Document = dict[str, Any]
TRUTH_FIELD = "ground_truth"
NUMBERS = ("calibrated", "agree", "quality", "uncertainty")
"""Attributes of an object that are numbers, where a version has them; all others are strings."""


@dataclass(frozen=True)
class Names:
    """Fields and tags of one version. suffix: "", or `_v1` where several versions share a dataset."""

    suffix: str = ""

    def __call__(self, field: str) -> str:
        return field + self.suffix


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
    "taught": "The share of its pixels that have a class here.",
    "unsure": "The share of its pixels between the two thresholds, which are void.",
}
REASONS = "drop_reasons", "Why objects predicted on it are not kept."
AGREEMENT = "agreement", "How many teachers agree on the kept or ignored object on which the fewest do."
CHANGES = "changes", "How many of its labels the version before has otherwise."


def fields_of(picture: Picture, labels: Document, names: Names, version: str) -> tuple[Document, list[str]]:
    """What one version says of an image: fields that are set, and tags. labels: those of its kind."""
    media, objects = picture.media, picture.objects
    is_truth = media.state == "truth"
    values: Document = {
        "version": None if is_truth else version,
        "shard": media.shard,
        "why": media.why,
        "max_score": picture.highest,
        "min_score": picture.lowest,
        "expected_precision": picture.expected_precision,
        "distance": picture.distance,
        "taught": picture.taught,
        "unsure": picture.unsure,
        "agreement": picture.agreement,
        "drop_reasons": picture.reasons,
        **labels,
    }
    fields = {names(field): value for field, value in values.items() if value is not None}
    if is_truth:
        return fields, ["truth"]
    kept, ignored = ("kept" in objects.outcome, "ignored" in objects.outcome)
    tags = ["kept"] if kept else ["empty"] if media.state in ("written", "empty") else []
    tags += ["ignored"] if ignored else []
    if media.state != "written":
        tags += [state for state in (media.state,) if state != "empty"] + ["left_out"]
    return fields, [names(tag) for tag in tags]


def reviewable(names: Names) -> Document:
    """MongoDB's condition for the images that people can correct: those in shards, and those that are left out because
    nothing on them is kept, but no leaks, near-duplicates or labelled images."""
    return {names("version"): {"$ne": None}, names("why"): None}


def contents(picture: Picture, fields: Document, tags: Sequence[str]) -> Document:
    """What a sample holds. fields, tags: of a version."""
    media = picture.media
    return {
        "filepath": media.path,
        "tags": list(tags),
        "metadata": {"_cls": "ImageMetadata", "width": media.width, "height": media.height},
        "key": media.key,
        "name": media.name,
        "sha256": media.sha256,
        **fields,
    }


def sample(picture: Picture, fields: Document, tags: Sequence[str], dataset: ObjectId, now: datetime) -> Document:
    """A sample's document. now: UTC, when it is written; a sample that was never edited has it twice."""
    return contents(picture, fields, tags) | {
        "_media_type": "image",
        "_rand": 0.999 + random.random() / 1000,  # as FiftyOne draws it
        "_dataset_id": dataset,
        "created_at": now,
        "last_modified_at": now,
    }


def label_document(cls: str, **fields: Any) -> Document:
    """Any label, without what is None."""
    given = {name: value for name, value in fields.items() if value is not None}
    return {"_id": ObjectId(), "_cls": cls, "tags": [], **given}


def object_fields(picture: Picture) -> Document:
    """Boxes, and masks where there are some, by what became of them."""
    objects, media = picture.objects, picture.media
    key = _identity(media)
    masks = mask_parts(objects.optional["rle"], objects.box, media) if "rle" in objects.optional else None
    rows = {of: [n for n, outcome in enumerate(objects.outcome) if outcome == of] for of in ("kept", "ignored")}
    return {
        "pseudo": _detections(objects, rows["kept"], key, masks),
        "ignored": _detections(objects, rows["ignored"], key, masks),
        "teacher": _detections(objects, range(len(objects.label)), key, masks),
    }


def _identity(media: Media) -> str | None:
    """By which its objects are told apart later; None for labelled images, where nobody corrects them."""
    return None if media.state == "truth" else media.key


def _detections(
    objects: Objects, rows: Sequence[int] | range, key: str | None, masks: Sequence[bytes | None] | None
) -> Document:
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
        for n, detection in zip(rows, listed, strict=True):
            detection["tutelage_id"] = f"{key}#{n}"
    for name, values in (_more(objects) | ({} if masks is None else {"mask": masks})).items():
        for n, detection in zip(rows, listed, strict=True):
            if values[n] is not None:
                detection[name] = values[n]
    return {"_cls": "Detections", "detections": listed}


def _more(objects: Objects) -> dict[str, Sequence[Any]]:
    """What only some versions say of their objects."""
    columns = {"calibrated": objects.calibrated, **objects.optional}
    return {name: values for name, values in columns.items() if values is not None and name not in ("rle", "pixels")}


def class_fields(picture: Picture) -> Document:
    """An image's class, by what became of it, and the likeliest classes, of which the first is the one."""
    objects, media = picture.objects, picture.media
    if not objects.label:
        return {}
    key = _identity(media)
    more = {name: values[0] for name, values in _more(objects).items()}
    more |= {"outcome": objects.outcome[0], "reason": objects.reason[0], "tutelage_id": key and f"{key}#0"}
    label, score = objects.label[0], objects.score[0]

    def own() -> Document:
        return label_document("Classification", label=label, confidence=score, **more)

    others = [one for one in orjson.loads(media.likely or "[]") if one[0] != label]
    likely = [own(), *(label_document("Classification", label=name, confidence=p) for name, p in others)]
    fields: Document = {"teacher": {"_cls": "Classifications", "classifications": likely}}
    field = {"kept": "pseudo", "ignored": "ignored"}.get(objects.outcome[0])
    return fields | ({field: own()} if field else {})


def map_fields(picture: Picture) -> Document:
    """An image's maps."""
    planes = picture.planes
    if planes is None:
        return {}
    fields = {
        "pseudo": plane_document("Segmentation", "mask", planes.pseudo),
        "teacher": plane_document("Segmentation", "mask", planes.teacher),
        "confidence": plane_document("Heatmap", "map", planes.confidence),
    }
    return {field: value for field, value in fields.items() if value is not None}


def plane_document(cls: str, name: str, plane: Path | np.ndarray | None) -> Document | None:
    """A map, of a file or as it is; None without one."""
    if plane is None:
        return None
    if isinstance(plane, Path):
        return label_document(cls, **{f"{name}_path": str(plane)})
    return label_document(cls, **{name: array_bytes(plane)})


def array_bytes(values: np.ndarray) -> bytes:
    """An array as FiftyOne stores it."""
    with io.BytesIO() as out:
        np.save(out, values, allow_pickle=False)
        return zlib.compress(out.getvalue())


def mask_parts(codes: Sequence[bytes | None], boxes: Sequence[Sequence[float]], media: Media) -> list[bytes | None]:
    """The part of each mask in its box (xywh, shares), None for one that is empty: bool, as FiftyOne stores it."""
    from teachers.masks import decode

    parts: list[bytes | None] = []
    for code, (x, y, w, h) in zip(codes, boxes, strict=True):
        if not code:
            parts.append(None)
            continue
        (mask,) = decode([code], media.height, media.width)  # one at a time: a whole image's would fill memory
        left, top = (math.floor(round(side, 3)) for side in (x * media.width, y * media.height))
        right, bottom = (math.ceil(round(side, 3)) for side in ((x + w) * media.width, (y + h) * media.height))
        parts.append(array_bytes(mask[max(0, top) : max(top + 1, bottom), max(0, left) : max(left + 1, right)]))
    return parts

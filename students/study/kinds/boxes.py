"""Boxes, with or without outlines, in a study: labels as a COCO JSON, outcomes as the matches of COCOeval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from builder.store.files import canonical_json
from builder.truth.records import Truth
from students.evaluate.bootstrap import average_precision
from students.evaluate.coco import MAX_DETECTIONS, ClassMatches, match_classes
from students.study.kinds.base import Named, StudyKind, labels_kept, write_columns
from teachers.base import Detections

LABELS, PREDICTIONS, LISTING = "labels.json", "results.json", "listing.json"
CROWD = 0.4
"""Score of a region full of uncounted objects: below the usual threshold of .5, above .3: it is to be ignored."""
IOUS = np.linspace(0.5, 0.95, 10)
"""COCO's thresholds; bit t of a detection's `right` and `counted` is of IOUS[t]."""


@dataclass(frozen=True)
class BoxOutcomes:
    """matches: one per class (students.evaluate.coco)."""

    names: tuple[str, ...]
    matches: tuple[ClassMatches, ...]

    def metric(self, weights: np.ndarray) -> np.ndarray:
        """COCOeval's AP for each row of `weights`, exactly; NaN where no drawn image has an object."""
        return average_precision(self.matches, weights)


def write_box_outcomes(path: Path, truth: Truth, predictions: Sequence[Detections]) -> None:
    """predictions: one per image of the truth, with labels in its classes (students.evaluate.measure.measure gives
    them). A detection keeps its class, its place among all of that class by falling score, and the IoUs it is right at.
    """
    objects = np.zeros((len(truth.images), len(truth.classes)), np.int64)
    matched: list[list[tuple[int, int, int, int]]] = [[] for _ in truth.images]
    bits = 1 << np.arange(len(IOUS))
    for label, match in enumerate(match_classes(truth, predictions, IOUS, MAX_DETECTIONS)):
        objects[:, label] = match.objects
        rows = zip(match.image.tolist(), (bits @ match.right).tolist(), (bits @ match.counted).tolist(), strict=True)
        for rank, (image, right, counted) in enumerate(rows):
            matched[image].append((label, rank, right, counted))
    columns: dict[str, tuple[str, Sequence[Any]]] = {
        "name": ("string", [image.name for image in truth.images]),
        "objects": ("list<int32>", objects.tolist()),
    }
    for place, name in enumerate(("label", "rank", "right", "counted")):
        columns[name] = ("list<int32>", [[row[place] for row in rows] for rows in matched])
    write_columns(path, columns)


def _matches(columns: Mapping[str, list[Any]]) -> list[ClassMatches]:
    """Inverse of write_box_outcomes."""
    objects = np.array(columns["objects"], np.int64)
    image = np.repeat(np.arange(len(objects)), [len(labels) for labels in columns["label"]])
    label, rank, right, counted = (
        np.array([value for values in columns[name] for value in values], np.int64)
        for name in ("label", "rank", "right", "counted")
    )
    matches = []
    for number in range(objects.shape[1]):
        rows = np.flatnonzero(label == number)
        rows = rows[np.argsort(rank[rows])]
        bits = np.arange(len(IOUS))[:, None]
        hits, seen = ((values[rows] >> bits & 1).astype(bool) for values in (right, counted))
        matches.append(ClassMatches(image[rows], hits, seen, objects[:, number]))
    return matches


def _read_outcomes(names: tuple[str, ...], columns: Mapping[str, list[Any]]) -> BoxOutcomes:
    return BoxOutcomes(names, tuple(_matches(columns)))


def _write_labels(folder: Path, truth: Truth, names: Sequence[str]) -> None:
    (folder / LABELS).write_bytes(canonical_json(_coco(truth, names)))


def _write_predictions(folder: Path, truth: Truth, named: Named) -> None:
    content = _coco(replace(truth, images=[image for image, _ in named]), [name for _, name in named])
    records = content.pop("annotations")
    for record in records:
        counts = not (record.pop("iscrowd") or record.pop("ignore"))
        record["score"] = 1.0 if counts else CROWD
    (folder / PREDICTIONS).write_bytes(canonical_json(records))
    (folder / LISTING).write_bytes(canonical_json({**content, "annotations": []}))


def _coco(truth: Truth, names: Sequence[str]) -> dict[str, Any]:
    """Boxes, and outlines where they were read, as a COCO JSON of images of these names."""
    images: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for image, name in zip(truth.images, names, strict=True):
        images.append({"id": image.image_id, "file_name": name, "width": image.width, "height": image.height})
        columns = (image.boxes, image.labels, image.crowd, image.area, image.difficult)
        for number, ((x1, y1, x2, y2), label, crowd, area, difficult) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            note = {"id": len(notes) + 1, "image_id": image.image_id, "category_id": truth.category_ids[label]}
            note |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": int(crowd), "ignore": int(difficult)}
            if image.masks is not None:
                size = [image.height, image.width]
                note["segmentation"] = {"size": size, "counts": image.masks[number].decode()}
            notes.append(note)
    categories = [{"id": id, "name": name} for id, name in zip(truth.category_ids, truth.classes, strict=True)]
    return {"images": images, "annotations": notes, "categories": categories}


BOXES = StudyKind(
    labels=LABELS,
    write_labels=_write_labels,
    predictions=PREDICTIONS,
    listing=LISTING,
    write_predictions=_write_predictions,
    kept=labels_kept,
    write_outcomes=write_box_outcomes,
    column="objects",
    read_outcomes=_read_outcomes,
)

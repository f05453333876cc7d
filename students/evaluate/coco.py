"""COCO results out, and COCOeval: the only code that imports pycocotools' evaluation.

Predictions hold one Detections per image of the truth, in its order; labels are positions in the truth's `classes`
(`align_classes` and `relabel` bring a teacher's there).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import numpy as np

from builder.store.files import sha256_file
from builder.store.labels import read_label
from builder.store.version import Version
from builder.truth.records import Truth, TruthError, check_detection
from teachers.base import Detections

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""Our names of the twelve numbers of COCOeval.summarize, in its order."""
ALL = (0.0, 1e10)
"""The area range that holds every object."""
MAX_DETECTIONS = 100


class Metrics(TypedDict):
    """COCOeval's numbers, in [0, 1], or -1 where the truth has no such object.

    s, m, l: objects with an area below 32², up to 96² and above, in pixels; per_class: AP by class name.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    per_class: dict[str, float]


def align_classes(teacher_classes: Sequence[str], truth_classes: Sequence[str]) -> np.ndarray:
    """Where each of the teacher's classes stands in the truth's, by name, -1 if nowhere; int64 (teacher's classes,).

    Raises TruthError if they have no class in common.
    """
    places = {name: position for position, name in enumerate(truth_classes)}
    positions = np.array([places.get(name, -1) for name in teacher_classes], np.int64)
    if not (positions >= 0).any():
        ours, theirs = (", ".join(names[:5]) for names in (truth_classes, teacher_classes))
        raise TruthError(f"truth and teacher share no class name ({ours} … against {theirs} …): rename one's classes")
    return positions


def relabel(detections: Detections, positions: np.ndarray) -> Detections:
    """The detections with label i become `positions[i]`; those that become -1 are left out."""
    labels = positions[detections.labels]
    kept = np.flatnonzero(labels >= 0)
    return replace(detections.take(kept), labels=labels[kept].astype(np.int16))


def write_results(truth: Truth, predictions: Sequence[Detections]) -> list[dict[str, Any]]:
    """COCO results records, JSON-ready, with the label file's image and category ids; `bbox` is `xywh`, pixels; with
    `segmentation` where there are masks."""
    records: list[dict[str, Any]] = []
    for image, detections in zip(truth.images, predictions, strict=True):
        xywh = detections.boxes.astype(np.float64)
        xywh[:, 2:] -= xywh[:, :2]
        for box, score, label in zip(
            xywh.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        ):
            category = truth.category_ids[label]
            records.append({"image_id": image.image_id, "category_id": category, "bbox": box, "score": score})
        size = [image.height, image.width]
        for record, code in zip(
            records[len(records) - len(detections) :], detections.masks or (), strict=bool(detections.masks)
        ):
            record["segmentation"] = {"size": size, "counts": code.decode()}
    return records


def evaluate_detections(
    truth: Truth, predictions: Sequence[Detections], by: Literal["bbox", "segm"] = "bbox"
) -> Metrics:
    """pycocotools' own numbers (COCOeval, at most 100 detections of a class in an image), of boxes or, by `segm`, of
    masks, which truth and predictions then have."""
    evaluation = _evaluation(truth, predictions, by)
    with _silence():
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class) over all areas
    by_id = dict(zip(sorted(truth.category_ids), precision.mean(axis=(0, 1)).tolist(), strict=True))
    per_class = {name: by_id[number] for name, number in zip(truth.classes, truth.category_ids, strict=True)}
    numbers = dict(zip(STATS, evaluation.stats.tolist(), strict=True))
    return cast(Metrics, {**numbers, "per_class": per_class})


def read_kept(version: Path, truth: Truth) -> list[Detections]:
    """What a version keeps on each image of the truth, matched by the SHA-256 of the files: to measure pseudo-labels
    where labels exist. Nothing for an image that is not in the version. Raises BuildError or TruthError."""
    opened = Version.open(version)
    manifest = opened.manifest
    positions = align_classes(manifest.classes, truth.classes)
    removed = set(manifest.tombstones)
    labels: dict[str, dict[str, Any]] = {}
    for _, samples in opened.shards():
        for sample in samples:
            if sample.key not in removed:
                label = read_label(sample, manifest)
                labels[label["sha256"]] = label["objects"]
    kept_on = []
    for image in truth.images:
        objects = labels.get(sha256_file(image.path), {})
        kept = ~np.array(objects.get("ignore", []), bool)
        boxes = np.array(objects.get("bbox", []), np.float32).reshape(-1, 4)[kept]
        boxes[:, 2:] += boxes[:, :2]
        scores, classes = (np.array(objects.get(name, []), np.float32)[kept] for name in ("score", "category"))
        each = Detections.of(boxes, scores, classes, width=image.width, height=image.height)
        kept_on.append(relabel(each, positions))
    return kept_on


def precision_recall(truth: Truth, kept: Sequence[Detections], iou: float = 0.5) -> tuple[float, float]:
    """Share of the kept boxes that are right, and of the true objects that they find, over all images and classes.

    Matched as COCOeval does: by falling score within class and image, each object once; boxes matched to a crowd or a
    difficult object leave both. NaN where nothing is kept, or nothing is there to be found.
    """
    matches = match_classes(truth, kept, np.array([iou]), limit=max(map(len, kept), default=0))
    right = sum(int(match.right.sum()) for match in matches)
    counted = sum(int(match.counted.sum()) for match in matches)
    objects = sum(int(match.objects.sum()) for match in matches)
    return right / counted if counted else np.nan, right / objects if objects else np.nan


@dataclass(frozen=True)
class Pairs:
    """The detections that COCOeval looked at, and what it matched them to within their class and image.

    image: int64 (D,), position in the truth; detection: int64 (D,), row of the image's detections; object: int64 (D,),
    row of the image's objects, -1 for none; counted: bool (D,), right or wrong, not matched to a crowd or a difficult
    object.
    """

    image: np.ndarray
    detection: np.ndarray
    object: np.ndarray
    counted: np.ndarray


def match_pairs(truth: Truth, predictions: Sequence[Detections], iou: float) -> Pairs:
    """Which detection found which object, at one overlap of boxes; at most 100 detections of a class in an image."""
    cells = _cells(truth, predictions, np.array([iou]), MAX_DETECTIONS)

    def column(name: str) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64), *(np.asarray(cell[name], np.int64).ravel() for cell in cells)])

    ids, matched = column("dtIds") - 1, column("dtMatches") - 1  # records count from 1, 0 is "no match"
    ends = np.cumsum([0, *(len(each) for each in predictions)])
    starts = np.cumsum([0, *(len(image.labels) for image in truth.images)])
    image = np.searchsorted(ends, ids, side="right") - 1
    objects = np.where(matched >= 0, matched - starts[image], -1)
    return Pairs(image, ids - ends[image], objects, column("dtIgnore") == 0)


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class over all images, by falling score, and what COCOeval matched them to.

    image: int (D,), position in the truth; right: bool (T, D) at T IoU thresholds, matched to an object that counts;
    counted: bool (T, D), right or wrong, not matched to a crowd or a difficult object; objects: int (images,), those
    that count.
    """

    image: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    objects: np.ndarray


def match_classes(
    truth: Truth, predictions: Sequence[Detections], thresholds: np.ndarray, limit: int
) -> list[ClassMatches]:
    """One ClassMatches per class; `limit`: best detections of a class in an image that are looked at."""
    by_class: dict[int, list[dict[str, Any]]] = {number: [] for number in truth.category_ids}
    for cell in _cells(truth, predictions, thresholds, limit):
        by_class[cell["category_id"]].append(cell)
    place = {image.image_id: position for position, image in enumerate(truth.images)}
    return [_class_matches(cells, place, len(thresholds)) for cells in by_class.values()]


def _cells(truth: Truth, predictions: Sequence[Detections], thresholds: np.ndarray, limit: int) -> list[dict[str, Any]]:
    """COCOeval's records of each class and image, whatever the objects' area, in order of image id, which settles ties
    as COCOeval does."""
    evaluation = _evaluation(truth, predictions)
    evaluation.params.iouThrs = thresholds
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(ALL)], ["all"]
    evaluation.params.maxDets = [limit]
    with _silence():
        evaluation.evaluate()
    return [cell for cell in evaluation.evalImgs if cell is not None]


def _class_matches(cells: list[dict[str, Any]], place: dict[int, int], thresholds: int) -> ClassMatches:
    objects = np.zeros(len(place), np.int64)
    for cell in cells:
        objects[place[cell["image_id"]]] = np.count_nonzero(np.asarray(cell["gtIgnore"]) == 0)
    image = np.repeat([place[cell["image_id"]] for cell in cells], [len(cell["dtScores"]) for cell in cells])
    scores = np.array([score for cell in cells for score in cell["dtScores"]])
    order = np.argsort(-scores, kind="mergesort")
    none = np.zeros((thresholds, 0), bool)
    matched = np.concatenate([none, *(cell["dtMatches"] > 0 for cell in cells)], axis=1)[:, order]
    counted = ~np.concatenate([none, *(cell["dtIgnore"] for cell in cells)], axis=1)[:, order]
    return ClassMatches(image[order].astype(np.int64), matched & counted, counted, objects)


def _evaluation(truth: Truth, predictions: Sequence[Detections], by: str = "bbox") -> Any:
    """A COCOeval over the truth and the predictions, not yet run. Difficult objects are ignored, and matched as any
    other: once, by plain IoU. Raises TruthError for a truth without boxes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class Evaluation(COCOeval):
        def _prepare(self) -> None:
            super()._prepare()  # which overwrites `ignore` by `iscrowd`
            for objects in self._gts.values():
                for item in objects:
                    item["ignore"] |= item["difficult"]

    check_detection(truth)

    objects = [
        {
            "image_id": image.image_id,
            "category_id": truth.category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": int(crowd),
            "difficult": int(difficult),
        }
        for image in truth.images
        for (x1, y1, x2, y2), label, area, crowd, difficult in zip(
            *(column.tolist() for column in (image.boxes, image.labels, image.area, image.crowd, image.difficult)),
            strict=True,
        )
    ]
    results = write_results(truth, predictions)
    for record in results:
        record |= {"area": record["bbox"][2] * record["bbox"][3], "iscrowd": 0}
    if by == "segm":
        _outline(truth, objects, results)
    sides = []
    for records in (objects, results):
        side = COCO()
        side.dataset = {
            "images": [{"id": i.image_id, "width": i.width, "height": i.height} for i in truth.images],
            "categories": [{"id": number} for number in truth.category_ids],
            "annotations": [record | {"id": number} for number, record in enumerate(records, 1)],  # id 0 is "no match"
        }
        with _silence():
            side.createIndex()
        sides.append(side)
    return Evaluation(*sides, iouType=by)


def _outline(truth: Truth, objects: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
    """Give the true objects their masks, and what was found the area of its own, as COCOeval wants them."""
    from teachers.masks import area

    codes = ((image, code) for image in truth.images for code in image.masks or ())
    for record, (image, code) in zip(objects, codes, strict=True):
        record["segmentation"] = {"size": [image.height, image.width], "counts": code.decode()}
    for record in results:
        segmentation = record["segmentation"]
        record["area"] = float(area([segmentation["counts"].encode()], *segmentation["size"])[0])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """pycocotools prints as it works."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield

"""Calibration: matching predictions with truth, and precision and recall at all thresholds, against COCOeval.

Synthetic images with human boxes of several classes (crowds among them) and predictions around them and elsewhere. Both
match at the IoUs of `matching.IOUS`; COCOeval is timed from its built index, evaluate() alone or with accumulate(),
without a limit to the predictions. The counts are checked to be equal. Of faster-coco-eval, which runs in the peers'
environment on the same records, evaluate() and accumulate() are timed with its own limit of 100 predictions.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _compare import Comparison, Row, Run, Seconds, beside, timed
from _peers import seconds_of

from builder.evidence.calibrate import curve
from builder.evidence.matching import SIZES, Matches, match_images
from builder.rules.keep import IOUS
from builder.truth.records import LabelledImage, Truth
from teachers.base import Detections

SCENES = ((2000, 80, 50), (500, 3, 300))
"""Images, classes, and boxes an image."""


def scene(images: int, classes: int, boxes: int, seed: int = 0) -> tuple[Truth, list[Detections]]:
    """A sixth of the boxes an image are true objects, from a few classes an image; half of the predictions lie around
    them."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(images):
        objects = max(1, boxes // 6)
        corner, sides = rng.random((objects, 2)) * (500, 380), rng.lognormal(4, 0.8, (objects, 2))
        marked = np.concatenate([corner, np.minimum(corner + sides, (640, 480))], axis=1).astype(np.float32)
        some = rng.integers(0, classes, 3)
        labels = some[rng.integers(0, 3, objects)].astype(np.int16)
        area = ((marked[:, 2:] - marked[:, :2]).prod(axis=1) * np.float32(0.7)).astype(np.float32)
        crowd = rng.random(objects) < 0.02
        flags = {"crowd": crowd, "difficult": np.zeros(objects, bool), "unit": "", "image_id": number + 1}
        name = f"{number}.jpg"
        truth.append(LabelledImage(name, Path(name), 640, 480, boxes=marked, labels=labels, area=area, **flags))
        near = rng.integers(0, objects, boxes // 2)
        around = marked[near] + rng.normal(0, 6, (len(near), 4))
        corner, sides = rng.random((boxes - len(near), 2)) * (500, 380), rng.lognormal(4, 0.8, (boxes - len(near), 2))
        elsewhere = np.concatenate([corner, corner + sides], axis=1)
        label = np.r_[labels[near], rng.integers(0, classes, len(elsewhere))]
        score = rng.random(boxes, np.float32)
        found.append(Detections.of(np.r_[around, elsewhere], score, label, width=640, height=480))
    return Truth(tuple(f"class {n}" for n in range(classes)), truth, tuple(range(classes))), found


def cocoeval(truth: Truth, found: list[Detections], ranges: list[str]) -> Any:
    """A COCOeval with its index built, not yet run."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides = []
    for is_truth in (True, False):
        records: list[dict[str, Any]] = []
        for image, one in zip(truth.images, found, strict=True):
            own = image if is_truth else one
            areas = image.area.tolist() if is_truth else [None] * len(one)
            crowds = image.crowd.tolist() if is_truth else [False] * len(one)
            scores = [None] * len(image.labels) if is_truth else one.scores.tolist()
            columns = (own.boxes.astype(np.float64).tolist(), own.labels.tolist(), areas, crowds, scores)
            for (x1, y1, x2, y2), label, area, crowd, score in zip(*columns, strict=True):
                box = [x1, y1, x2 - x1, y2 - y1]
                record = {"id": len(records) + 1, "image_id": image.image_id, "category_id": label, "bbox": box}
                extra = {"area": box[2] * box[3] if area is None else area, "iscrowd": int(crowd), "score": score}
                records.append(record | extra)
        side = COCO()
        side.dataset = {
            "images": [{"id": image.image_id} for image in truth.images],
            "categories": [{"id": n} for n in range(len(truth.classes))],
            "annotations": records,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            side.createIndex()
        sides.append(side)
    judge = COCOeval(*sides, iouType="bbox")
    judge.params.iouThrs, judge.params.maxDets = np.array(IOUS), [10**6]
    judge.params.areaRng, judge.params.areaRngLbl = [list(SIZES[name]) for name in ranges], ranges
    return judge


def quiet(judge: Any, *works: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        for work in works:
            getattr(judge, work)()


def matched(truth: Truth, found: list[Detections], ranges: list[str]) -> list[Matches]:
    return [match_images(truth.classes, found, truth, area=SIZES[name]) for name in ranges]


def curves(truth: Truth, found: list[Detections]) -> None:
    """Precision and recall at every threshold, of every class at every overlap, and of all classes together."""
    matches = match_images(truth.classes, found, truth)
    for iou in IOUS:
        curve(matches, iou)
        for label in range(len(truth.classes)):
            curve(matches, iou, [label])


def ours(matches: Matches) -> tuple[int, int, int]:
    """Right, counted and found."""
    hit = ~np.isnan(matches.object_score) & matches.object_counts
    return int(matches.right.sum()), int(matches.counted.sum()), int(hit.sum())


def theirs(judge: Any, name: str) -> tuple[int, int, int]:
    cells = [cell for cell in judge.evalImgs if cell is not None and cell["aRng"] == list(SIZES[name])]
    right = sum(int(((cell["dtMatches"] > 0) & ~cell["dtIgnore"]).sum()) for cell in cells)
    counted = sum(int((~cell["dtIgnore"]).sum()) for cell in cells)
    hit = sum(int((cell["gtMatches"][:, np.asarray(cell["gtIgnore"]) == 0] > 0).sum()) for cell in cells)
    return right, counted, hit


def write_records(folder: Path, judge: Any) -> None:
    """Both sides of a COCOeval as files."""
    (folder / "truth.json").write_text(json.dumps(judge.cocoGt.dataset))
    (folder / "found.json").write_text(json.dumps(judge.cocoDt.dataset["annotations"]))


def compare(run: Run) -> Iterator[Comparison]:
    for images, classes, boxes in ((20, 8, 20),) if run.tiny else SCENES:
        truth, found = scene(images, classes, boxes)
        of = f": {images:,} images, {classes} classes, {boxes} boxes an image"
        aim = 10.0 if (images, classes, boxes) == SCENES[0] else None
        for ranges in (["all"], list(SIZES)):
            judge = cocoeval(truth, found, ranges)
            works = {
                "Tutelage": partial(timed, partial(matched, truth, found, ranges)),
                "pycocotools evaluate": partial(timed, partial(quiet, judge, "evaluate")),
            }
            seconds = run.turns(works, 3)
            if [ours(matches) for matches in matched(truth, found, ranges)] != [theirs(judge, name) for name in ranges]:
                raise SystemExit("the counts differ")
            what = f"matching at {len(IOUS)} overlaps, area ranges {', '.join(ranges)}, counts equal{of}"
            yield from beside(what, seconds, {"pycocotools evaluate": aim}, amount=images, of="images")
        yield from with_curves(run, truth, found, of, aim)


def with_curves(run: Run, truth: Truth, found: list[Detections], of: str, aim: float | None) -> Iterator[Comparison]:
    judge = cocoeval(truth, found, ["all"])
    with run.scratch() as name:
        write_records(Path(name), judge)

        def faster() -> float:
            return seconds_of("evaluate_faster", name, json.dumps(list(IOUS)))

        seconds: dict[str, Seconds] = run.turns(
            {
                "Tutelage": partial(timed, partial(curves, truth, found)),
                "pycocotools evaluate, accumulate": partial(timed, partial(quiet, judge, "evaluate", "accumulate")),
                "faster-coco-eval": faster,
            },
            3,
        )
    what = f"precision and recall at all thresholds, of each class at {len(IOUS)} overlaps{of}"
    aims = {"pycocotools evaluate, accumulate": aim, "faster-coco-eval": 1.0}
    yield from beside(what, seconds, aims, amount=len(truth.images), of="images")


ROW = Row(
    "calibrate",
    "predictions matched with labels; precision and recall at all thresholds",
    "10 times pycocotools; ahead of faster-coco-eval",
    compare,
    ("pycocotools", "faster-coco-eval", "numpy", "scipy"),
)

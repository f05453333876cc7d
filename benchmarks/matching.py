"""Matching predictions with truth, against pycocotools' COCOeval in the same run.

Synthetic images with human boxes of several classes (crowds among them) and predictions around them and elsewhere. Both
match at the IoUs of `matching.IOUS`, over all sizes and over the four area ranges; COCOeval is timed from its built
index to the end of evaluate(), without a limit to the predictions. The counts are checked to be equal. Aim: at least
10 times as fast at the first size; the second, few classes on crowded images, has none.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _compare import in_turns, machine, ratios, show, timed, verdict
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from builder.evidence.matching import SIZES, match_images
from builder.rules.keep import IOUS
from builder.truth.records import LabelledImage, Truth
from teachers.base import Detections

AIMED_AT = (2000, 80, 50)
SCENES = {"2,000 images x 80 classes x 50 boxes": AIMED_AT, "500 images x 3 classes x 300 boxes": (500, 3, 300)}


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


def run_theirs(judge: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        judge.evaluate()


def ours(truth: Truth, found: list[Detections], ranges: list[str]) -> list[tuple[int, int, int]]:
    """Right, counted and found, over the whole truth, by area range."""
    counts = []
    for name in ranges:
        matches = match_images(truth.classes, found, truth, area=SIZES[name])
        hit = ~np.isnan(matches.object_score) & matches.object_counts
        counts.append((int(matches.right.sum()), int(matches.counted.sum()), int(hit.sum())))
    return counts


def theirs(judge: Any, ranges: list[str]) -> list[tuple[int, int, int]]:
    counts = []
    for name in ranges:
        cells = [cell for cell in judge.evalImgs if cell is not None and cell["aRng"] == list(SIZES[name])]
        right = sum(int(((cell["dtMatches"] > 0) & ~cell["dtIgnore"]).sum()) for cell in cells)
        counted = sum(int((~cell["dtIgnore"]).sum()) for cell in cells)
        hit = sum(int((cell["gtMatches"][:, np.asarray(cell["gtIgnore"]) == 0] > 0).sum()) for cell in cells)
        counts.append((right, counted, hit))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(machine())
    for title, size in SCENES.items():
        truth, found = scene(*size)
        for ranges in (["all"], list(SIZES)):
            judge = cocoeval(truth, found, ranges)
            works = {
                "tutelage": partial(timed, partial(ours, truth, found, ranges)),
                "COCOeval": partial(timed, partial(run_theirs, judge)),
            }
            seconds = in_turns(works, repeats)
            if ours(truth, found, ranges) != theirs(judge, ranges):
                raise SystemExit("the counts differ")
            print(f"\n{title}, area ranges: {', '.join(ranges)}; counts are equal")
            show(seconds, size[0], "images")
            faster = ratios(seconds["COCOeval"], seconds["tutelage"])
            if size == AIMED_AT:
                verdict("COCOeval over tutelage", faster, 10, at_most=False)
            else:
                print(f"\nCOCOeval over tutelage: {median(faster):.2f} ({min(faster):.2f} - {max(faster):.2f})")


if __name__ == "__main__":
    main()

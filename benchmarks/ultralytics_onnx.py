"""ONNX files that Ultralytics exported, read by Tutelage without a YAML file, against Ultralytics' own `predict`.

For each model: its boxes (masks, probabilities) of all images of a folder, by `load_teacher` and by `ultralytics` on
the same ONNX file, or with --pt on the checkpoint it was exported from. Boxes above .25 of one are matched one to one,
by class and IoU, with those of the other that score above .24, so that a score near .25 decides nothing. Aim: each has
a partner, both ways, at a mean IoU above .98, the scores within .01. The package `ultralytics` is no dependency: run it
in an environment of its own (`pip install ultralytics onnx onnxruntime`), with this project's folder in PYTHONPATH.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from teachers import load_teacher, masks
from teachers.base import ClassProbabilities, Detections, TeacherOptions
from teachers.boxes import iou_matrix

SURE, SLACK = 0.25, 0.01


@dataclass
class Found:
    """Of one image: boxes (N, 4), scores (N,), labels (N,), masks bool (N, H, W) or None."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


def ours(model: Path, images: list[np.ndarray]) -> tuple[list[Any], list[int]]:
    """By Tutelage, with nothing but the file; and the size of its input, from the model's metadata."""
    teacher = load_teacher(f"onnx:{model}", TeacherOptions())
    results: list[Any] = []
    for first in range(0, len(images), 8):
        for image, prediction in zip(images[first:], teacher.predict(images[first : first + 8]), strict=False):
            if isinstance(prediction, ClassProbabilities):
                results.append(prediction.probabilities)
                continue
            assert isinstance(prediction, Detections)
            codes = prediction.masks
            planes = None if codes is None else masks.decode(codes, *image.shape[:2])
            results.append(Found(prediction.boxes, prediction.scores, prediction.labels, planes))
    return results, teacher.description["input"]["size"]


def theirs(model: Path, files: list[Path], size: list[int], rect: bool) -> list[Any]:
    """By Ultralytics, an image at a time."""
    from ultralytics import RTDETR, YOLO  # type: ignore[import-not-found]

    network = (RTDETR if "rtdetr" in model.stem else YOLO)(str(model))
    results: list[Any] = []
    for file in files:
        options = {"conf": SURE - SLACK, "verbose": False, "retina_masks": True, "device": "cpu"}
        answer = network.predict(str(file), imgsz=size, rect=rect, **options)[0]
        if answer.probs is not None:
            results.append(answer.probs.data.numpy())
            continue
        planes = None if answer.masks is None else answer.masks.data.numpy() > 0.5
        boxes, (height, width) = answer.boxes, answer.orig_shape
        inside = boxes.xyxy.numpy().clip(0, [width, height, width, height])  # those of RT-DETR reach beyond
        results.append(Found(inside, boxes.conf.numpy(), boxes.cls.numpy().astype(int), planes))
    return results


def partners(a: Found, b: Found) -> tuple[int, list[tuple[int, int, float]]]:
    """How many of a's boxes above SURE there are, and those that have a partner in b: row of a, row of b, IoU."""
    sure = np.flatnonzero(a.scores > SURE)
    near = np.flatnonzero(b.scores > SURE - SLACK)
    if not len(sure) or not len(near):
        return len(sure), []
    overlap = iou_matrix(a.boxes[sure].astype(np.float32), b.boxes[near].astype(np.float32))
    overlap = np.where(a.labels[sure][:, None] == b.labels[near], overlap, 0)
    apart = abs(a.scores[sure][:, None] - b.scores[near])  # of boxes that lie on one another, the one that scores alike
    pairs = zip(*linear_sum_assignment(apart - overlap), strict=True)
    return len(sure), [(sure[i], near[j], float(overlap[i, j])) for i, j in pairs if overlap[i, j] > 0.5]


def compare_objects(mine: list[Found], other: list[Found]) -> str:
    """One line of figures, both ways."""
    lines = []
    for name, first, second in (("ours", mine, other), ("theirs", other, mine)):
        total, pairs = 0, []
        for a, b in zip(first, second, strict=True):
            count, matched = partners(a, b)
            total += count
            pairs += [(a, b, *pair) for pair in matched]
        if not pairs:
            return f"{name} {total} boxes, none with a partner"
        iou = [pair[4] for pair in pairs]
        score = [abs(float(a.scores[i]) - float(b.scores[j])) for a, b, i, j, _ in pairs]
        line = f"{name} {total} boxes, {len(pairs)} with a partner, IoU mean {np.mean(iou):.4f} least {min(iou):.3f}"
        within = np.mean(np.array(score) <= SLACK)
        line += f", scores differ by {np.mean(score):.5f}, at most {max(score):.4f}, {within:.1%} within {SLACK}"
        shapes = [
            (a.masks[i] & b.masks[j]).sum() / max(1, (a.masks[i] | b.masks[j]).sum())
            for a, b, i, j, _ in pairs
            if a.masks is not None and b.masks is not None
        ]
        lines.append(line + (f", masks' IoU {np.mean(shapes):.4f}" if shapes else ""))
    return "\n  ".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--pt", type=Path, help="compare with this checkpoint in place of the ONNX file")
    parser.add_argument(
        "--rect", action="store_true", help="Ultralytics pads to its stride only (checkpoints, dynamic)"
    )
    arguments = parser.parse_args()
    kinds = {".jpg", ".png"}
    files = sorted(path for path in arguments.images.rglob("*") if path.suffix in kinds)[: arguments.limit]
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    for model in arguments.models:
        against = arguments.pt or model
        mine, size = ours(model, images)
        other = theirs(against, files, size, arguments.rect)
        print(f"{model.name} against ultralytics on {against.name}, {len(files)} images")
        if isinstance(mine[0], Found):
            print(" ", compare_objects(mine, other))
            continue
        a, b = np.stack(mine), np.stack(other)
        same = (a.argmax(1) == b.argmax(1)).mean()
        print(
            f"  probabilities differ by at most {np.abs(a - b).max():.4f}, the likeliest class is equal in {same:.1%}"
        )


if __name__ == "__main__":
    main()

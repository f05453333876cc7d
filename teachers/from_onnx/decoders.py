"""What exported detectors put out, as boxes: one decoder for each family of heads. NumPy only.

A decoder is made once from its part of the YAML file and the number of outputs (names) C; N is the number of boxes a
model gives for an image. It raises TeacherError, with the shapes expected and found, for outputs it does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from teachers.base import TeacherError, TeacherOptions
from teachers.from_onnx.spec import (
    DetectorSpec,
    DetrSpec,
    NanodetSpec,
    NmsSpec,
    SegSpec,
    YoloV5SegSpec,
    YoloV5Spec,
    YoloV8SegSpec,
    YoloV8Spec,
    YoloxSpec,
)


class Candidates(NamedTuple):
    """Boxes of a batch before NMS. image: int (N,), position in the batch, not falling; boxes: float32 (N, 4), `xyxy`
    pixels; scores: float32 (N,); labels: int (N,); coefficients: float32 (N, M), of masks, where the model has them."""

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    coefficients: np.ndarray | None = None


Decoder = Callable[[list[np.ndarray], int], Candidates]
"""A model's outputs for at least so many images, to candidates of that many, in pixels of its input, at or above the
floor."""


def make_decoder(spec: DetectorSpec, classes: int, options: TeacherOptions) -> Decoder:
    """The decoder of a YAML file for a model with so many outputs (names)."""
    match spec:
        case YoloxSpec():
            return yolox(spec, classes, options)
        case YoloV5Spec() | YoloV5SegSpec():
            return yolov5(spec, classes, options)
        case YoloV8Spec() | YoloV8SegSpec():
            return yolov8(spec, classes, options)
        case NanodetSpec():
            return nanodet(spec, classes, options)
        case DetrSpec():
            return detr(spec, classes, options)
        case NmsSpec():
            return after_nms(spec, classes, options)


def yolox(spec: YoloxSpec, classes: int, options: TeacherOptions) -> Decoder:
    """YOLOX's raw output (B, N, 5 + C), arXiv 2107.08430: for each cell of each level x, y, log w, log h in strides,
    then objectness and class scores after their sigmoid. A box's score is their product. A cell yields a candidate for
    every class at or above the floor, as in YOLOX's class-aware export; each level of an image at most `top_k`."""
    size = spec.input.size
    cells, strides, level = _grid([[side // s for side in size] for s in spec.strides], spec.strides)

    def decode(outputs: list[np.ndarray], count: int) -> Candidates:
        expected = (len(cells), 5 + classes)
        if len(outputs) != 1 or outputs[0].shape[1:] != expected or len(outputs[0]) < count:
            raise _misfit("yolox", f"one output {_text('B', *expected)} for {_about(spec, classes)}", outputs)
        output = outputs[0][:count]
        image, cell, label, scores = _pick(output[..., 4:5] * output[..., 5:], level, options)
        raw, stride = output[image, cell, :4], strides[cell]
        center = (raw[:, :2] + cells[cell]) * stride
        half = np.exp(raw[:, 2:]) * (stride / 2)
        return Candidates(image, np.concatenate([center - half, center + half], 1), scores, label)

    return decode


def yolov5(spec: YoloV5Spec | YoloV5SegSpec, classes: int, options: TeacherOptions) -> Decoder:
    """The decoded output (B, N, 5 + C) of YOLOv5, v6 and v7: centre x, y, width, height in pixels of the input, then
    objectness and class scores, all after their sigmoid; a box's score is their product. `top_k`: per image. Of -seg
    models (B, N, 5 + C + M), then (B, M, h, w): a box's mask is the sum of M planes times its M coefficients."""
    return _yolo(spec, 5, classes, options)


def yolov8(spec: YoloV8Spec | YoloV8SegSpec, classes: int, options: TeacherOptions) -> Decoder:
    """The decoded output (B, 4 + C, N) of YOLOv8, v9, v11 and v12 without their NMS: centre x, y, width, height in
    pixels of the input, then class scores after their sigmoid. `top_k`: per image. Of -seg models (B, 4 + C + M, N),
    then (B, M, h, w), as in yolov5."""
    return _yolo(spec, 4, classes, options)


def _yolo(spec: YoloV5Spec | YoloV8Spec | SegSpec, first: int, classes: int, options: TeacherOptions) -> Decoder:
    """first: the column of the first class; columns are last, unless there is no objectness."""
    masked = isinstance(spec, SegSpec)

    def decode(outputs: list[np.ndarray], count: int) -> Candidates:
        planes = outputs[1].shape[1] if masked and len(outputs) == 2 and outputs[1].ndim == 4 else 0
        columns = outputs[0].shape[2 if first == 5 else 1] if outputs[0].ndim == 3 else 0
        if len(outputs) != 1 + masked or columns != first + classes + planes or min(map(len, outputs)) < count:
            width = f"{first + classes} + M" if masked else first + classes
            wanted = f"output {_text('B', 'N', width) if first == 5 else _text('B', width, 'N')}"
            wanted = f"the {wanted}, then (B, M, h, w)," if masked else f"one {wanted}"
            hint = (
                f" (with masks: {spec.decoder}_seg)"
                if len(outputs) == 2 and outputs[1].ndim == 4 and not masked
                else ""
            )
            raise _misfit(spec.decoder, f"{wanted} for {classes} classes{hint}", outputs)
        output = outputs[0][:count] if first == 5 else outputs[0][:count].transpose(0, 2, 1)
        scores = output[..., first : first + classes]
        image, row, label, score = _pick(output[..., 4:5] * scores if first == 5 else scores, None, options)
        boxes = _corners(output[image, row, :4], "cxcywh", spec.normalized, spec.input.size)
        return Candidates(image, boxes, score, label, output[image, row, first + classes :])

    return decode


def nanodet(spec: NanodetSpec, classes: int, options: TeacherOptions) -> Decoder:
    """Distribution heads (Generalized Focal Loss, arXiv 2006.04388; NanoDet): (B, N, C + 4 (reg_max + 1)), or scores
    and distances apart, (B, N, C) and (B, N, 4 (reg_max + 1)). For each cell of each level, rows first, class scores
    and four distributions over 0 … reg_max strides, whose means are the distances to the left, top, right and bottom.
    Levels have ceil(size / stride) cells a side. `top_k`: per level."""
    size, bins = spec.input.size, spec.reg_max + 1
    cells, strides, level = _grid([[-(-side // s) for side in size] for s in spec.strides], spec.strides)
    steps = np.arange(bins, dtype=np.float32)

    def decode(outputs: list[np.ndarray], count: int) -> Candidates:
        shapes = [(len(cells), classes + 4 * bins)], [(len(cells), classes), (len(cells), 4 * bins)]
        if [output.shape[1:] for output in outputs] not in shapes or min(map(len, outputs)) < count:
            together, apart = (", ".join(_text("B", *shape) for shape in shape_list) for shape_list in shapes)
            about = f"{_about(spec, classes)} and reg_max {spec.reg_max}"
            raise _misfit("nanodet", f"one output {together} or the two {apart} for {about}", outputs)
        output = np.concatenate([part[:count] for part in outputs], 2)
        scores = output[..., :classes]
        if spec.activation == "sigmoid":
            scores = sigmoid(scores)
        image, cell, label, score = _pick(scores, level, options)
        raw = output[image, cell, classes:].reshape(-1, 4, bins)
        distance = (softmax(raw, 2) @ steps) * strides[cell]
        point = (cells[cell] + np.float32(spec.cell_offset)) * strides[cell]
        boxes = np.concatenate([point - distance[:, :2], point + distance[:, 2:]], 1)
        return Candidates(image, boxes, score, label)

    return decode


def detr(spec: DetrSpec, classes: int, options: TeacherOptions) -> Decoder:
    """DETR (arXiv 2005.12872) and its kin: logits (B, N, C), and boxes (B, N, 4), centre x, y, width, height as shares
    of the input. With softmax there is one more logit, the last, for "no object", and a query yields its likeliest
    class; with sigmoid a query yields every class at or above the floor. `top_k`: per image. No NMS of its own."""
    width = classes + (spec.activation == "softmax")

    def decode(outputs: list[np.ndarray], count: int) -> Candidates:
        shapes = [output.shape[2:] if output.ndim == 3 else None for output in outputs]
        if shapes != [(width,), (4,)] or outputs[0].shape[:2] != outputs[1].shape[:2] or len(outputs[0]) < count:
            wanted = (
                f"logits {_text('B', 'N', width)}, then boxes (B, N, 4), for {classes} classes and {spec.activation}"
            )
            raise _misfit("detr", wanted, outputs)
        logits = outputs[0][:count]
        if spec.activation == "sigmoid":
            scores = sigmoid(logits)
        else:
            scores = softmax(logits, 2)[..., :-1]
            scores = np.where(np.arange(classes) == scores.argmax(2)[..., None], scores, np.float32(-1))
        image, row, label, score = _pick(scores, None, options)
        boxes = _corners(outputs[1][image, row], "cxcywh", True, spec.input.size)
        return Candidates(image, boxes, score, label)

    return decode


def after_nms(spec: NmsSpec, classes: int, options: TeacherOptions) -> Decoder:
    """Models that end in NMS: boxes (B, N, 4), scores (B, N) and labels (B, N), perhaps the number of valid rows (B,)
    or (B, 1); or one output (B, N, 6), or (N, 7) whose rows name their image. A model for one image may lack B. Rows
    with a label below 0 are padding. `top_k`: per image."""

    def decode(outputs: list[np.ndarray], count: int) -> Candidates:
        image, boxes, scores, labels = _rows(spec, outputs, count)
        good = (scores >= np.float32(options.floor)) & (labels >= 0) & (image >= 0) & (image < count)
        image, boxes, scores, labels = image[good], boxes[good], scores[good], labels[good]
        if ((labels % 1) != 0).any() or (labels >= classes).any():
            wrong = labels[((labels % 1) != 0) | (labels >= classes)][0]
            raise TeacherError(
                f"decoder nms read the label {wrong:g}, but its YAML file names {classes} classes, 0 to {classes - 1}: "
                "correct classes, or the order of outputs or columns"
            )
        order = np.argsort(image, kind="stable")
        if options.top_k is not None:
            order = order[_best_per_level(scores[order], image[order], np.zeros_like(image), options.top_k)]
        corners = _corners(boxes[order].astype(np.float32), spec.boxes, spec.normalized, spec.input.size)
        return Candidates(image[order], corners, scores[order], labels[order].astype(np.int64))

    return decode


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return (1 + np.tanh(logits / 2)) / 2


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    """Softmax along an axis."""
    powers = np.exp(logits - logits.max(axis, keepdims=True))
    powers /= powers.sum(axis, keepdims=True)
    return powers


def _rows(spec: NmsSpec, outputs: list[np.ndarray], count: int) -> tuple[np.ndarray, ...]:
    """Image int (N,), boxes (N, 4), scores (N,) and labels (N,), both float, of all rows of a batch."""
    if len(outputs) == 1:
        return _one_output(spec, outputs[0], count)
    boxes, scores, labels, *number = outputs if len(outputs) in (3, 4) else [np.zeros(0)] * 3
    if count == 1 and boxes.ndim == 2:
        boxes, scores, labels = boxes[None], scores[None], labels[None]
    fits = boxes.ndim == 3 and boxes.shape[2] == 4 and boxes.shape[:2] == scores.shape == labels.shape
    if not fits or len(boxes) < count:
        wanted = "boxes (B, N, 4), scores (B, N), labels (B, N) and perhaps the number of rows (B,), or one output"
        raise _misfit("nms", wanted, outputs)
    image, place = (index.ravel() for index in np.indices(scores.shape))
    valid = np.ones(len(image), bool)
    if number:
        if number[0].size != len(scores):
            raise _misfit("nms", f"for {len(scores)} images as many numbers of rows, last", outputs)
        valid = place < number[0].reshape(-1)[image]
    scores, labels = scores.reshape(-1)[valid].astype(np.float32), labels.reshape(-1)[valid].astype(np.float32)
    return image[valid], boxes.reshape(-1, 4)[valid], scores, labels


def _one_output(spec: NmsSpec, output: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    by_width = {6: ("box", "score", "label"), 7: ("image", "box", "label", "score")}
    columns: Sequence[str] = spec.columns or by_width.get(output.shape[-1] if output.ndim else 0, ())
    width = len(columns) + 3
    rows = output[None] if output.ndim == 2 and "image" not in columns and count == 1 else output
    rows = rows.reshape(1, -1, width) if "image" in columns and rows.shape[-1] == width else rows
    if not columns or rows.ndim != 3 or rows.shape[2] != width or ("image" not in columns and len(rows) < count):
        wanted = f"one output (B, N, {width}) with the columns {', '.join(columns)}" if columns else "6 or 7 columns"
        raise _misfit("nms", f"{wanted}, or boxes, scores and labels apart", [output])
    start = {name: n + (3 if "box" in columns[:n] else 0) for n, name in enumerate(columns)}
    image = np.indices(rows.shape[:2])[0].ravel()
    flat = rows.reshape(-1, width)
    if "image" in start:
        image = flat[:, start["image"]].astype(np.int64)
    boxes = flat[:, start["box"] : start["box"] + 4]
    return image, boxes, flat[:, start["score"]], flat[:, start["label"]]


def _grid(sides: Sequence[list[int]], strides: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every cell of every level, rows first: x and y float32 (N, 2), in cells; its stride (N, 1); its level (N,)."""
    grids = [np.indices(side) for side in sides]
    cells = np.concatenate([grid[::-1].reshape(2, -1).T for grid in grids]).astype(np.float32)
    level = np.repeat(np.arange(len(grids)), [grid[0].size for grid in grids])
    return cells, np.asarray(strides, np.float32)[level, None], level


def _pick(
    scores: np.ndarray, level: np.ndarray | None, options: TeacherOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image, row, label and score of the scores (B, N, C) at or above the floor, of these the `top_k` best of each
    level (without levels, of each image), in order."""
    good = np.flatnonzero(
        scores >= np.float32(options.floor)
    )  # several times as fast as np.nonzero in three dimensions
    image, row, label = np.unravel_index(good, scores.shape)
    score = scores.ravel()[good] if scores.flags.c_contiguous else scores[image, row, label]
    if options.top_k is not None:
        group = np.zeros_like(image) if level is None else level[row]
        best = _best_per_level(score, image, group, options.top_k)
        image, row, label, score = image[best], row[best], label[best], score[best]
    return image, row, label, score


def _best_per_level(scores: np.ndarray, image: np.ndarray, level: np.ndarray, limit: int) -> np.ndarray:
    """Positions, rising, of the `limit` highest scores of each image and level."""
    order = np.lexsort((-scores, level, image))
    starts = np.flatnonzero(np.diff(image[order], prepend=-1) | np.diff(level[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[rank < limit])


def _corners(boxes: np.ndarray, order: str, normalized: bool, size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4) as `xyxy` pixels of an input of `size` (height, width)."""
    if order == "yxyx":
        boxes = boxes[:, [1, 0, 3, 2]]
    if normalized:
        boxes = boxes * np.asarray([*size[::-1], *size[::-1]], np.float32)
    if order == "xywh":
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    if order == "cxcywh":
        return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    return boxes


def _about(spec: YoloxSpec | NanodetSpec, classes: int) -> str:
    height, width = spec.input.size
    return f"input size {height}x{width}, strides {', '.join(map(str, spec.strides))}, {classes} classes"


def _text(*shape: str | int) -> str:
    return f"({', '.join(map(str, shape))})"


def _misfit(decoder: str, expected: str, outputs: Sequence[np.ndarray]) -> TeacherError:
    shapes = ", ".join(_text(*output.shape) for output in outputs)
    return TeacherError(f"decoder {decoder} expects {expected}, but the model gives {shapes}: correct its YAML file")

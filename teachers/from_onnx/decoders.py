"""What exported detectors put out, as boxes: one decoder for each family of heads. NumPy only.

A decoder is made once from its part of the YAML file and the number of outputs (names) C; N is the number of boxes a
model gives for an image. It raises TeacherError, with the shapes expected and found, for outputs it does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from teachers.base import TeacherOptions
from teachers.from_onnx.arrays import Candidates, as_text, best_per_level, corners, misfit, sigmoid, softmax
from teachers.from_onnx.nms import after_nms
from teachers.from_onnx.spec import (
    DetectorSpec,
    DetrSpec,
    NanodetSpec,
    NmsSegSpec,
    NmsSpec,
    YoloV5SegSpec,
    YoloV5Spec,
    YoloV8SegSpec,
    YoloV8Spec,
    YoloxSpec,
)

YoloSpec = YoloV5Spec | YoloV8Spec | YoloV5SegSpec | YoloV8SegSpec
Decoder = Callable[[list[np.ndarray], int], Candidates]
"""A model's outputs for at least so many images, to candidates of that many, in pixels of its input, at or above the
floor."""


def make_decoder(spec: DetectorSpec, classes: int, options: TeacherOptions, batch: int | None) -> Decoder:
    """The decoder of a YAML file for a model with so many outputs (names). batch: of a run, if the model fixes it."""
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
        case NmsSpec() | NmsSegSpec():
            return after_nms(spec, classes, options, batch)


def yolox(spec: YoloxSpec, classes: int, options: TeacherOptions) -> Decoder:
    """YOLOX's raw output (B, N, 5 + C), arXiv 2107.08430: for each cell of each level x, y, log w, log h in strides,
    then objectness and class scores after their sigmoid. A box's score is their product. A cell yields a candidate for
    every class at or above the floor, as in YOLOX's class-aware export; each level of an image at most `top_k`. The
    columns may come apart, such as x to h, objectness and classes: (B, N, 4), (B, N, 1), (B, N, C)."""
    size = spec.input.size
    cells, strides, level = _grid([[side // s for side in size] for s in spec.strides], spec.strides)

    def decode(outputs: list[np.ndarray], count: int) -> Candidates:
        expected = (len(cells), 5 + classes)
        widths = [output.shape[-1] if output.shape[1:-1] == expected[:1] else -1 for output in outputs]
        if sum(widths) != expected[1] or min(widths) < 0 or min(map(len, outputs)) < count:
            raise misfit("yolox", f"one output {as_text('B', *expected)} for {_about(spec, classes)}", outputs)
        output = np.concatenate([part[:count] for part in outputs], 2)
        sure = sigmoid(output[..., 4:]) if spec.raw else output[..., 4:]
        image, cell, label, scores = _pick(sure[..., :1] * sure[..., 1:], level, options)
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


def _yolo(spec: YoloSpec, first: int, classes: int, options: TeacherOptions) -> Decoder:
    """first: the column of the first class; columns are last, unless there is no objectness."""
    masked = isinstance(spec, YoloV5SegSpec | YoloV8SegSpec)

    def decode(outputs: list[np.ndarray], count: int) -> Candidates:
        planes = outputs[1].shape[1] if masked and len(outputs) == 2 and outputs[1].ndim == 4 else 0
        columns = outputs[0].shape[2 if first == 5 else 1] if outputs[0].ndim == 3 else 0
        if len(outputs) != 1 + masked or columns != first + classes + planes or min(map(len, outputs)) < count:
            width = f"{first + classes} + M" if masked else first + classes
            wanted = f"output {as_text('B', 'N', width) if first == 5 else as_text('B', width, 'N')}"
            wanted = f"the {wanted}, then (B, M, h, w)," if masked else f"one {wanted}"
            hint = (
                f" (with masks: {spec.decoder}_seg)"
                if len(outputs) == 2 and outputs[1].ndim == 4 and not masked
                else ""
            )
            raise misfit(spec.decoder, f"{wanted} for {classes} classes{hint}", outputs)
        output = outputs[0][:count] if first == 5 else outputs[0][:count].transpose(0, 2, 1)
        scores = output[..., first : first + classes]
        scores = scores if spec.multi_label else _likeliest(scores)
        image, row, label, score = _pick(output[..., 4:5] * scores if first == 5 else scores, None, options)
        boxes = corners(output[image, row, :4], "cxcywh", spec.normalized, spec.input.size)
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
            together, apart = (", ".join(as_text("B", *shape) for shape in shape_list) for shape_list in shapes)
            about = f"{_about(spec, classes)} and reg_max {spec.reg_max}"
            raise misfit("nanodet", f"one output {together} or the two {apart} for {about}", outputs)
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
    of the input; or both in one, boxes first, (B, N, 4 + C) (Ultralytics' RT-DETR before 8.4). With softmax there is
    one more logit, the last, for "no object", and a query yields its likeliest class; else every class at or above the
    floor. `top_k`: per image. No NMS of its own."""
    width = classes + (spec.activation == "softmax")

    def decode(outputs: list[np.ndarray], count: int) -> Candidates:
        if len(outputs) == 1 and outputs[0].ndim == 3 and outputs[0].shape[2] == 4 + width:
            outputs = [outputs[0][..., 4:], outputs[0][..., :4]]
        shapes = [output.shape[2:] if output.ndim == 3 else None for output in outputs]
        if shapes != [(width,), (4,)] or outputs[0].shape[:2] != outputs[1].shape[:2] or len(outputs[0]) < count:
            wanted = (
                f"logits {as_text('B', 'N', width)}, then boxes (B, N, 4), for {classes} classes and {spec.activation}"
            )
            raise misfit("detr", wanted, outputs)
        logits = outputs[0][:count]
        match spec.activation:
            case "softmax":
                scores = _likeliest(softmax(logits, 2)[..., :-1])
            case "sigmoid":
                scores = sigmoid(logits)
            case _:
                scores = logits
        scores = scores if spec.multi_label else _likeliest(scores)
        image, row, label, score = _pick(scores, None, options)
        boxes = corners(outputs[1][image, row], "cxcywh", True, spec.input.size)
        return Candidates(image, boxes, score, label)

    return decode


def _likeliest(scores: np.ndarray) -> np.ndarray:
    """The scores (B, N, C) with all but the highest of each row (of equals the first) brought below any floor."""
    return np.where(np.arange(scores.shape[2]) == scores.argmax(2)[..., None], scores, np.float32(-1))


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
        best = best_per_level(score, image, group, options.top_k)
        image, row, label, score = image[best], row[best], label[best], score[best]
    return image, row, label, score


def _about(spec: YoloxSpec | NanodetSpec, classes: int) -> str:
    height, width = spec.input.size
    return f"input size {height}x{width}, strides {', '.join(map(str, spec.strides))}, {classes} classes"

"""What models put out that end in NMS or need none: rows of finished boxes, with or without masks. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from teachers.base import TeacherError, TeacherOptions
from teachers.from_onnx.arrays import Candidates, best_per_level, corners, misfit
from teachers.from_onnx.spec import NmsSegSpec, NmsSpec


def after_nms(
    spec: NmsSpec | NmsSegSpec, classes: int, options: TeacherOptions, batch: int | None
) -> Callable[[list[np.ndarray], int], Candidates]:
    """Models that end in NMS: boxes (B, N, 4), scores (B, N) and labels (B, N), perhaps the number of valid rows (B,)
    or (B, 1); boxes with their scores (B, N, 5) and labels (B, N) (MMDeploy); or one output (B, N, 6), or (N, 7) whose
    rows name their image. A model for one image may lack B. Rows with a label or an image below 0 are padding. `top_k`:
    per image. With masks (YOLO26-seg, or YOLOv8-seg with NMS): (B, N, 6 + M), whose last M columns are the coefficients
    of a box's mask, then its planes (B, M, h, w).

    batch: the number of images of every run, if the model has it fixed."""

    def decode(outputs: list[np.ndarray], count: int) -> Candidates:
        coefficients = None
        if isinstance(spec, NmsSegSpec):
            outputs, coefficients = _without_coefficients(outputs, count)
        image, boxes, scores, labels = _rows(spec, outputs, count)
        rows = np.flatnonzero((scores >= np.float32(options.floor)) & (labels >= 0) & (image >= 0))
        _check(spec, classes, image[rows], labels[rows], batch or count)
        rows = rows[image[rows] < count]  # beyond are blank images of a fixed batch
        image, labels = image[rows].astype(np.int64), labels[rows].astype(np.int64)
        order = np.argsort(image, kind="stable")
        if options.top_k is not None:
            order = order[best_per_level(scores[rows[order]], image[order], np.zeros_like(image), options.top_k)]
        best = rows[order]
        xyxy = corners(boxes[best].astype(np.float32), spec.boxes, spec.normalized, spec.input.size)
        kept = None if coefficients is None else coefficients[best]
        return Candidates(image[order], xyxy, scores[best], labels[order], kept)

    return decode


def _check(spec: NmsSpec | NmsSegSpec, classes: int, image: np.ndarray, labels: np.ndarray, batch: int) -> None:
    """Raise TeacherError for a label or an image that there is not."""
    for name, values, count, things in (("label", labels, classes, "classes"), ("image", image, batch, "images")):
        wrong = values[(values % 1 != 0) | (values >= count)]
        if len(wrong):
            has = f"its YAML file names {count} {things}" if name == "label" else f"was given {count} {things}"
            correct = "classes, or the order of outputs or columns" if name == "label" else "columns"
            raise TeacherError(
                f"decoder {spec.decoder} read the {name} {wrong[0]:g}, but {has}, 0 to {count - 1}: correct {correct}"
            )


def _without_coefficients(outputs: list[np.ndarray], count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The output without the columns that are a mask's, and these, (rows, M)."""
    rows, planes = outputs if len(outputs) == 2 else [np.zeros(0)] * 2
    width = 6 + (planes.shape[1] if planes.ndim == 4 else 0)
    if rows.ndim != 3 or planes.ndim != 4 or rows.shape[2] != width or min(len(rows), len(planes)) < count:
        raise misfit("nms_seg", "the output (B, N, 6 + M), then (B, M, h, w),", outputs)
    return [rows[..., :6]], rows[..., 6:].reshape(-1, planes.shape[1])


def _rows(spec: NmsSpec | NmsSegSpec, outputs: list[np.ndarray], count: int) -> tuple[np.ndarray, ...]:
    """Image int (N,), boxes (N, 4), scores (N,) and labels (N,), both float, of all rows of a batch."""
    if len(outputs) == 1:
        return _one_output(spec, outputs[0], count)
    if len(outputs) == 2 and outputs[0].ndim >= 2 and outputs[0].shape[-1] == 5:
        outputs = [outputs[0][..., :4], outputs[0][..., 4], outputs[1]]
    boxes, scores, labels, *number = outputs if len(outputs) in (3, 4) else [np.zeros(0)] * 3
    if count == 1 and boxes.ndim == 2:
        boxes, scores, labels = boxes[None], scores[None], labels[None]
    fits = boxes.ndim == 3 and boxes.shape[2] == 4 and boxes.shape[:2] == scores.shape == labels.shape
    if not fits or len(boxes) < count:
        wanted = "boxes (B, N, 4), scores (B, N), labels (B, N) and perhaps the number of rows (B,), or one output"
        raise misfit(spec.decoder, wanted, outputs)
    image, place = (index.ravel() for index in np.indices(scores.shape))
    valid = np.ones(len(image), bool)
    if number:
        if number[0].size != len(scores):
            raise misfit(spec.decoder, f"for {len(scores)} images as many numbers of rows, last", outputs)
        valid = place < number[0].reshape(-1)[image]
    scores, labels = scores.reshape(-1)[valid].astype(np.float32), labels.reshape(-1)[valid].astype(np.float32)
    return image[valid], boxes.reshape(-1, 4)[valid], scores, labels


def _one_output(spec: NmsSpec | NmsSegSpec, output: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    by_width = {6: ("box", "score", "label"), 7: ("image", "box", "label", "score")}
    columns: Sequence[str] = spec.columns or by_width.get(output.shape[-1] if output.ndim else 0, ())
    width = len(columns) + 3
    rows = output[None] if output.ndim == 2 and "image" not in columns and count == 1 else output
    rows = rows.reshape(1, -1, width) if "image" in columns and rows.shape[-1] == width else rows
    if not columns or rows.ndim != 3 or rows.shape[2] != width or ("image" not in columns and len(rows) < count):
        wanted = f"one output (B, N, {width}) with the columns {', '.join(columns)}" if columns else "6 or 7 columns"
        raise misfit(spec.decoder, f"{wanted}, or boxes, scores and labels apart", [output])
    start = {name: n + (3 if "box" in columns[:n] else 0) for n, name in enumerate(columns)}
    image = np.indices(rows.shape[:2])[0].ravel()
    flat = rows.reshape(-1, width)
    if "image" in start:
        image = flat[:, start["image"]]
    boxes = flat[:, start["box"] : start["box"] + 4]
    return image, boxes, flat[:, start["score"]], flat[:, start["label"]]

"""Planes and vectors that exported models put out, as class probabilities, semantic maps and masks of objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from teachers import masks
from teachers.base import VOID, ClassProbabilities, SemanticMap, TeacherError, TeacherOptions
from teachers.from_onnx.arrays import misfit, sigmoid, softmax
from teachers.from_onnx.session import Loaded, Ran
from teachers.from_onnx.spec import ClassifierSpec, SegmenterSpec
from teachers.stages import Stages

NO_BOXES = ("floor", "nms_iou", "top_k", "max_detections")
"""Options that mean something only where there are boxes."""
Box = tuple[float, float, float, float]
STRIP = 1 << 24
"""Numbers that are held at once where a map is made of the probabilities of all classes."""


class OnnxClassifier:
    """A classifier in ONNX format, as a Teacher. Every probability is stored, so there is no floor; those of outputs
    that are no classes are left out. See load_onnx."""

    def __init__(self, loaded: Loaded, spec: ClassifierSpec, options: TeacherOptions) -> None:
        options.refuse("a classifier", *NO_BOXES)
        self.classes, self.batch_size = loaded.classes, loaded.batch_size
        self._loaded, self._activation = loaded, spec.activation
        self.description: Mapping[str, Any] = {"kind": "classification", **loaded.description, "floor": 0.0}
        self.runtime: Mapping[str, Any] = loaded.runtime
        self.stages = Stages(loaded.prepare, loaded.run, self._finish, pixels=loaded.pixels)

    def predict(self, images: Sequence[np.ndarray]) -> list[ClassProbabilities]:
        """See Teacher.predict."""
        return self._loaded.in_batches(images, self._finish)

    def _finish(self, ran: Sequence[Ran]) -> list[ClassProbabilities]:
        predictions: list[ClassProbabilities] = []
        position = self._loaded.position
        for shapes, outputs, _ in ran:
            if (
                len(outputs) != 1
                or not outputs[0].ndim
                or outputs[0].size != len(outputs[0]) * len(position)
                or len(outputs[0]) < len(shapes)
            ):
                raise misfit("classifier", f"one output (B, {len(position)}), one number a class", outputs)
            values = outputs[0].reshape(-1, len(position))[: len(shapes)].astype(np.float32)
            probabilities = _activate(values, self._activation)[:, position >= 0]
            predictions += [ClassProbabilities(row) for row in probabilities]
        return predictions


class OnnxSegmenter:
    """A segmenter in ONNX format, as a Teacher. What the model puts out is brought to the image's size, bilinear,
    before the activation (ids: nearest, with confidence 1). Every pixel is stored, so there is no floor. An output that
    is no class is left out: a pixel is then the likeliest class besides, with its low probability; among ids, VOID. See
    load_onnx.
    """

    def __init__(self, loaded: Loaded, spec: SegmenterSpec, options: TeacherOptions) -> None:
        options.refuse("a segmenter", *NO_BOXES)
        if len(loaded.position) > VOID:
            raise TeacherError(f"a semantic map holds at most {VOID} classes, not {len(loaded.position)}")
        self.classes, self.batch_size = loaded.classes, loaded.batch_size
        self._loaded, self._spec = loaded, spec
        self._label = np.full(VOID + 1, VOID, np.uint8)
        self._label[: len(loaded.position)] = np.where(loaded.position < 0, VOID, loaded.position)
        self.description: Mapping[str, Any] = {"kind": "semantic", **loaded.description, "floor": 0.0}
        self.runtime: Mapping[str, Any] = loaded.runtime
        self.stages = Stages(loaded.prepare, loaded.run, self._finish, pixels=loaded.pixels)

    def predict(self, images: Sequence[np.ndarray]) -> list[SemanticMap]:
        """See Teacher.predict."""
        return self._loaded.in_batches(images, self._finish)

    def predict_probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The probability of each class at each pixel of each image: float32 (C, H, W), of the upright image."""
        if self._spec.activation != "ids":
            return self._loaded.in_batches(images, partial(self._each, self._probabilities))
        classes = np.arange(len(self.classes), dtype=np.uint8)[:, None, None]

        def of_ids(*place: Any) -> np.ndarray:
            return (self._map_of_ids(*place).labels == classes).astype(np.float32)

        return self._loaded.in_batches(images, partial(self._each, of_ids))

    def _finish(self, ran: Sequence[Ran]) -> list[SemanticMap]:
        return self._each(self._map_of_ids if self._spec.activation == "ids" else self._map, ran)

    def _each(self, reduce: Callable[..., Any], ran: Sequence[Ran]) -> list[Any]:
        """`reduce(planes, box, height, width)` of each image: its output, and where in it the image lies."""
        results: list[Any] = []
        for shapes, outputs, geometry in ran:
            planes = self._planes(outputs, len(shapes))
            for (height, width, _), plane, place in zip(shapes, planes, geometry, strict=True):
                box = image_in_plane(plane.shape[1:], self._loaded.input.size, place, height, width)
                results.append(reduce(plane, box, height, width))
        return results

    def _planes(self, outputs: list[np.ndarray], count: int) -> np.ndarray:
        """The one output, (B, C, h, w), of so many images; C is 1 for ids."""
        names = len(self._loaded.position)
        if self._spec.activation == "ids":
            ids = outputs[0][:, None] if outputs[0].ndim == 3 else outputs[0]
            if len(outputs) != 1 or ids.ndim != 4 or ids.shape[1] != 1 or len(ids) < count or (ids % 1 != 0).any():
                raise misfit("segmenter", "one output (B, h, w) or (B, 1, h, w) of class ids", outputs)
            wrong = ids[((ids < 0) | (ids >= names)) & (ids != VOID)]
            if wrong.size:
                raise TeacherError(
                    f"decoder segmenter read the class id {wrong[0]}, but its YAML file names {names} classes, "
                    f"0 to {names - 1} ({VOID} for none): correct classes"
                )
            return ids[:count]
        if len(outputs) != 1 or outputs[0].ndim != 4 or outputs[0].shape[1] != names or len(outputs[0]) < count:
            raise misfit("segmenter", f"one output (B, {names}, h, w) of {self._spec.activation} scores", outputs)
        return outputs[0][:count].astype(np.float32)

    def _map(self, planes: np.ndarray, box: Box, height: int, width: int) -> SemanticMap:
        """A strip of rows at a time: of all classes at once a large image would not fit in memory."""
        step = max(1, STRIP // (len(planes) * width))
        strips = [(first, min(first + step, height)) for first in range(0, height, step)]
        maps = [SemanticMap.of(self._probabilities(planes, box, height, width, rows)) for rows in strips]
        return SemanticMap(
            np.concatenate([answer.labels for answer in maps]), np.concatenate([answer.confidence for answer in maps])
        )

    def _probabilities(
        self, planes: np.ndarray, box: Box, height: int, width: int, rows: tuple[int, int] | None = None
    ) -> np.ndarray:
        full = np.stack([_enlarge(plane, box, height, width, Image.Resampling.BILINEAR, rows) for plane in planes])
        probabilities = _activate(full, self._spec.activation, axis=0)
        is_class = self._loaded.position >= 0
        return probabilities if is_class.all() else probabilities[is_class]

    def _map_of_ids(self, planes: np.ndarray, box: Box, height: int, width: int) -> SemanticMap:
        labels = self._label[_enlarge(planes[0].astype(np.uint8), box, height, width, Image.Resampling.NEAREST)]
        return SemanticMap(labels, np.where(labels == VOID, 0, 255).astype(np.uint8))


def image_in_plane(cells: tuple[int, ...], size: tuple[int, int], place: np.ndarray, height: int, width: int) -> Box:
    """Where an image of height x width pixels lies in a plane of `cells` (h, w) over an input of `size` (height,
    width): left, top, right, bottom. place: its geometry (InputSpec.prepare)."""
    left, top, x, y = place
    grid = np.divide(cells, size)[::-1]  # cells per pixel of the input: x, y
    start, end = np.array([left, top]) * grid, np.array([left + width * x, top + height * y]) * grid
    # rounded, so that the last digits of a float do not add a cell
    (x1, y1), (x2, y2) = (np.minimum(p, cells[::-1]).round(4).tolist() for p in (start, end))
    return x1, y1, x2, y2


def draw_masks(
    planes: np.ndarray, coefficients: np.ndarray, boxes: np.ndarray, box: Box, height: int, width: int
) -> list[bytes]:
    """Run-length codes of the masks of N objects in an image of height x width pixels: a pixel is in where it is in the
    object's box and the planes (M, h, w) times its coefficients (N, M), brought to the image's size, bilinear, add up
    to more than 0, as Ultralytics' `process_mask_native` has it (YOLACT, arXiv 1904.02689). boxes: (N, 4), pixels of
    the image; box: of the whole image in the planes."""
    left, top = math.floor(box[0]), math.floor(box[1])
    planes = planes[:, top : math.ceil(box[3]), left : math.ceil(box[2])]  # what is padding does not bleed in
    step = np.array([(box[2] - box[0]) / width, (box[3] - box[1]) / height])  # cells per pixel: x, y
    margin = math.ceil(max(1, *step)) + 1  # as far as the resampling looks
    codes: list[bytes] = []
    for weights, corners in zip(coefficients, np.ceil(boxes), strict=True):
        x1, y1, x2, y2 = corners.clip(0, [width, height, width, height]).astype(int).tolist()
        inside = np.zeros((height, width), bool, order="F")  # the order that run-length codes go by
        if x2 > x1 and y2 > y1:
            start, end = (np.array(p) * step + (box[0] - left, box[1] - top) for p in ((x1, y1), (x2, y2)))
            a = np.maximum(np.floor(start).astype(int) - margin, 0)
            b = np.minimum(np.ceil(end).astype(int) + margin, planes.shape[:0:-1])
            cells = np.einsum("m,mhw->hw", weights, planes[:, a[1] : b[1], a[0] : b[0]])
            window = (*(start - a).tolist(), *np.minimum(end - a, b - a).tolist())
            large = Image.fromarray(cells).resize((x2 - x1, y2 - y1), Image.Resampling.BILINEAR, window)
            inside[y1:y2, x1:x2] = np.asarray(large) > 0
        codes += masks.encode(inside[None])
    return codes


def _enlarge(
    plane: np.ndarray,
    box: Box,
    height: int,
    width: int,
    how: Image.Resampling,
    rows: tuple[int, int] | None = None,
) -> np.ndarray:
    """The part of a plane (h, w) inside `box` (left, top, right, bottom), at another size; of that only the rows from
    one to another. Cells outside of the image, where the input is padding, do not bleed in."""
    left, top = math.floor(box[0]), math.floor(box[1])
    part = Image.fromarray(plane[top : math.ceil(box[3]), left : math.ceil(box[2])])
    first, last = rows or (0, height)
    step = (box[3] - box[1]) / height
    above, below = box[1] - top + first * step, box[3] - top if last == height else box[1] - top + last * step
    return np.asarray(part.resize((width, last - first), how, (box[0] - left, above, box[2] - left, below)))


def _activate(values: np.ndarray, activation: str, axis: int = 1) -> np.ndarray:
    match activation:
        case "softmax":
            return softmax(values, axis).clip(0, 1)
        case "sigmoid":
            return sigmoid(values)
        case _:
            if values.min() < -1e-4 or values.max() > 1 + 1e-3:
                raise TeacherError(
                    f"with activation none the model gives numbers from {values.min():.3g} to {values.max():.3g}, "
                    "which are no probabilities: write activation: softmax or sigmoid"
                )
            return values.clip(0, 1)

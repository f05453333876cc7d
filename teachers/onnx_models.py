"""Exported models through ONNX Runtime: detectors, classifiers and segmenters. A YAML file beside the model says how to
feed it and read its output (teachers.onnx_spec)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from teachers.base import Detections, Teacher, TeacherError, TeacherOptions
from teachers.boxes import nms
from teachers.onnx_decoders import Candidates, make_decoder
from teachers.onnx_pixels import OnnxClassifier, OnnxSegmenter
from teachers.onnx_session import Loaded
from teachers.onnx_spec import ClassifierSpec, DetectorSpec, SegmenterSpec, locate


def load_onnx(path: str | Path, options: TeacherOptions) -> Teacher:
    """An ONNX model as a Teacher of the kind its decoder is for.

    path: the model, with a YAML file of the same stem beside it, or such a YAML file that names the model.
    `TeacherOptions.weights` overrides which model file is read. A model of a fixed batch size is run at that size. It
    runs on the CPU, or with `device: cuda` on a GPU. It is tried once on loading, so that a YAML file that does not fit
    it fails before any work.

    Raises TeacherError: on loading, for a missing file, a wrong YAML or a model that it does not fit; from `predict`,
    if ONNX Runtime fails or the output holds a NaN.
    """
    family = "an ONNX model (its YAML file decides)"
    options.refuse(family, "min_size", "max_size", "upscale", "dtype", "classes", "masks", "jitter")
    spec_path, spec, model = locate(Path(path), options.weights)
    loaded = Loaded(spec_path, spec, model, options)
    teacher: OnnxDetector | OnnxClassifier | OnnxSegmenter
    match spec:
        case ClassifierSpec():
            teacher = OnnxClassifier(loaded, spec, options)
        case SegmenterSpec():
            teacher = OnnxSegmenter(loaded, spec, options)
        case _:
            teacher = OnnxDetector(loaded, spec, options)
    teacher.predict([np.zeros((*spec.input.size, 3), np.uint8)])
    return teacher


class OnnxDetector:
    """A detector in ONNX format, as a Teacher. The option `nms_iou` overrides the YAML file's; models that need no NMS
    get none unless it is set in one of the two. Without `top_k` and `max_detections` nothing is cut. See load_onnx."""

    def __init__(self, loaded: Loaded, spec: DetectorSpec, options: TeacherOptions) -> None:
        self.classes, self.batch_size = loaded.classes, loaded.batch_size
        self._loaded, self._options = loaded, options
        self._nms_iou = spec.nms_iou if options.nms_iou is None else options.nms_iou
        self._decode = make_decoder(spec, len(loaded.position), options)
        self.description: Mapping[str, Any] = {
            "kind": "detection",
            **loaded.description,
            "floor": options.floor,
            "nms_iou": self._nms_iou,
            "top_k": options.top_k,
            "max_detections": options.max_detections,
        }
        self.runtime: Mapping[str, Any] = loaded.runtime

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """See Teacher.predict."""
        if not images:
            return []
        parts, first = [], 0
        for batch, outputs, geometry in self._loaded.run(images):
            parts.append(self._candidates(outputs, geometry, first))
            first += len(batch)
        image, boxes, scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        keep = np.ones(len(image), bool)
        if self._nms_iou is not None:
            keep = nms(boxes, scores, image * len(self.classes) + labels, self._nms_iou)
        cuts = np.searchsorted(image[keep], np.arange(1, len(images)))
        found = zip(images, *(np.split(column[keep], cuts) for column in (boxes, scores, labels)), strict=True)
        floor, limit = self._options.floor, self._options.max_detections
        return [
            Detections.of(box, score, label, width=pixels.shape[1], height=pixels.shape[0], floor=floor, limit=limit)
            for pixels, box, score, label in found
        ]

    def _candidates(self, outputs: list[np.ndarray], geometry: np.ndarray, first: int) -> Candidates:
        """Boxes of the classes, in pixels of each image, of a run over images that start at position `first`."""
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, with a sentence
            found = self._decode(outputs, len(geometry))
        label = self._loaded.position[found.labels]
        image, boxes, scores, label = (column[label >= 0] for column in (found.image, found.boxes, found.scores, label))
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise TeacherError(f"the output of {self._loaded.network.model} holds a NaN or infinite number")
        offset, scale = geometry[image, :2], geometry[image, 2:]
        return Candidates(image + first, (boxes - np.tile(offset, 2)) / np.tile(scale, 2), scores, label)

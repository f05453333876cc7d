"""Exported models through ONNX Runtime: detectors, classifiers and segmenters. A YAML file beside the model says how to
feed it and read its output (teachers.from_onnx.spec), as far as neither the model itself nor its family does
(teachers.from_onnx.families)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from teachers import masks
from teachers.base import Detections, Teacher, TeacherError, TeacherOptions
from teachers.boxes import nms
from teachers.from_onnx.arrays import Candidates
from teachers.from_onnx.decoders import make_decoder
from teachers.from_onnx.families import check_scale, complete
from teachers.from_onnx.pixels import OnnxClassifier, OnnxSegmenter, draw_masks, image_in_plane
from teachers.from_onnx.reading import locate, read_spec
from teachers.from_onnx.session import Loaded, Network, Ran
from teachers.from_onnx.spec import ClassifierSpec, DetectorSpec, SegmenterSpec, SegSpec
from teachers.stages import Stages


def load_onnx(path: str | Path, options: TeacherOptions) -> Teacher:
    """An ONNX model as a Teacher of the kind its decoder is for.

    path: the model, with a YAML file of the same stem beside it, or such a YAML file that names the model. Exports of
    Ultralytics' need none.
    `TeacherOptions.weights` overrides which model file is read. A model of a fixed batch size is run at that size. It
    runs on the CPU, or with `device: cuda` on a GPU. It is tried once on loading, so that a YAML file that does not fit
    it fails before any work.

    Raises TeacherError: on loading, for a missing file, a wrong YAML or a model that it does not fit; from `predict`,
    if ONNX Runtime fails or the output holds a NaN.
    """
    family = "an ONNX model (its YAML file decides)"
    options.refuse(family, "min_size", "max_size", "upscale", "dtype", "classes", "masks", "jitter")
    spec_path, content, model = locate(Path(path), options.weights)
    network = Network(model, options)
    whole = complete(content, network.signature)
    if "decoder" not in whole and not spec_path.exists():
        raise TeacherError(f"{spec_path} not found: write this YAML file with decoder, classes and input")
    spec = read_spec(spec_path, whole)
    check_scale(whole, str(spec_path))
    loaded = Loaded(spec_path, spec, network, options)
    teacher: OnnxDetector | OnnxClassifier | OnnxSegmenter
    match spec:
        case ClassifierSpec():
            teacher = OnnxClassifier(loaded, spec, options)
        case SegmenterSpec():
            teacher = OnnxSegmenter(loaded, spec, options)
        case _:
            teacher = OnnxDetector(loaded, spec, options)
    with network.limited():
        teacher.predict([np.zeros((*spec.input.size, 3), np.uint8)])
    return teacher


class OnnxDetector:
    """A detector in ONNX format, as a Teacher: of the kind instance with the decoders that end in `_seg`, which
    leave out objects without a pixel. The option `nms_iou` (IoU of boxes) overrides the YAML file's; models that
    need no NMS get none unless it is set in one of the two. Without `top_k` and `max_detections` nothing is cut. See
    load_onnx."""

    def __init__(self, loaded: Loaded, spec: DetectorSpec, options: TeacherOptions) -> None:
        self.classes, self.batch_size = loaded.classes, loaded.batch_size
        self._loaded, self._options, self._decoder = loaded, options, spec.decoder
        self._nms_iou = spec.nms_iou if options.nms_iou is None else options.nms_iou
        self._decode = make_decoder(spec, len(loaded.position), options, loaded.network.signature.batch)
        self._instances = isinstance(spec, SegSpec)
        self.description: Mapping[str, Any] = {
            "kind": "instance" if self._instances else "detection",
            **loaded.description,
            "floor": options.floor,
            "nms_iou": self._nms_iou,
            "top_k": options.top_k,
            "max_detections": options.max_detections,
        }
        self.runtime: Mapping[str, Any] = loaded.runtime
        self.stages = Stages(loaded.prepare, loaded.run, self._finish, pixels=loaded.pixels)

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """See Teacher.predict."""
        return self._loaded.in_batches(images, self._finish)

    def _finish(self, ran: Sequence[Ran]) -> list[Detections]:
        parts: list[Candidates] = []
        planes: list[tuple[np.ndarray, np.ndarray]] = []
        shapes: list[tuple[int, ...]] = []
        for batch in ran:
            # of any type of number: whole ones would run over in arithmetic
            outputs = [output.astype(np.float32, copy=False) for output in batch.outputs]
            parts.append(self._candidates(outputs, batch.geometry, len(shapes)))
            planes += zip(outputs[1], batch.geometry, strict=False) if self._instances else ()
            shapes += batch.shapes
        columns = [np.concatenate(column) for column in zip(*parts, strict=True) if column[0] is not None]
        image, boxes, scores, labels = columns[:4]
        keep = np.ones(len(image), bool)
        if self._nms_iou is not None:
            keep = nms(boxes, scores, image * len(self.classes) + labels, self._nms_iou)
        cuts = np.searchsorted(image[keep], np.arange(1, len(shapes)))
        split = zip(*(np.split(column[keep], cuts) for column in columns[1:]), strict=True)
        return [
            self._detections(shape, Candidates(image, *candidates), planes[n] if planes else None)
            for n, (shape, candidates) in enumerate(zip(shapes, split, strict=True))
        ]

    def _candidates(self, outputs: list[np.ndarray], geometry: np.ndarray, first: int) -> Candidates:
        """Boxes of the classes, in pixels of each image, of a run over images that start at position `first`."""
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, with a sentence
            candidates = self._decode(outputs, len(geometry))
        label = self._loaded.position[candidates.labels]
        good = label >= 0
        image, boxes, scores = candidates.image[good], candidates.boxes[good], candidates.scores[good]
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise TeacherError(f"the output of {self._loaded.network.model} holds a NaN or infinite number")
        if scores.size and scores.max() > 1.001:
            raise TeacherError(
                f"decoder {self._decoder} read the score {scores.max():g}, which is no probability: export the model "
                "with its last activation, or correct its YAML file"
            )
        offset, scale = geometry[image, :2], geometry[image, 2:]
        boxes = (boxes - np.tile(offset, 2)) / np.tile(scale, 2)
        coefficients = None if candidates.coefficients is None else candidates.coefficients[good]
        return Candidates(image + first, boxes, scores, label[good], coefficients)

    def _detections(
        self, shape: tuple[int, ...], candidates: Candidates, planes: tuple[np.ndarray, np.ndarray] | None
    ) -> Detections:
        """Of an image of `shape` (H, W, …); planes: (M, h, w) that its masks are made of, and its geometry."""
        height, width = shape[:2]
        boxes, scores, labels, codes = candidates.boxes, candidates.scores, candidates.labels, None
        if planes is not None and candidates.coefficients is not None:
            best = np.sort(np.argsort(-scores, kind="stable")[: self._options.max_detections])
            boxes, scores, labels = boxes[best], scores[best], labels[best]
            box = image_in_plane(planes[0].shape[1:], self._loaded.input.size, planes[1], height, width)
            codes = draw_masks(planes[0], candidates.coefficients[best], boxes, box, height, width)
            seen = np.flatnonzero(masks.area(codes, height, width))
            boxes, scores, labels, codes = boxes[seen], scores[seen], labels[seen], [codes[n] for n in seen]
        floor, limit = self._options.floor, self._options.max_detections
        return Detections.of(boxes, scores, labels, width=width, height=height, floor=floor, limit=limit, masks=codes)

"""A teacher of your own, to copy: FastestDet (github.com/dog-qiuqiu/FastestDet), whose head no decoder of ours reads.

    cd examples/own_teacher
    tutelage label POOL --teacher python:fastestdet:FastestDet --allow-code \\
        --set weights=FastestDet.onnx --set 'classes=[person, car]'
"""

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from teachers.base import Detections
from teachers.boxes import nms


class FastestDet:
    batch_size = 8  # so many images are given at a time, at most

    def __init__(self, options):  # a teachers.base.TeacherOptions
        options.refuse("FastestDet", "top_k", "max_detections", "device", "dtype")  # what it has no use for
        self.network = onnxruntime.InferenceSession(options.weights, providers=["CPUExecutionProvider"])
        self.classes, self.floor, self.iou = options.classes, options.floor, options.nms_iou or 0.45
        sha256 = hashlib.sha256(Path(options.weights).read_bytes()).hexdigest()
        # All that decides the predictions: stored ones are found again by it. Raise "code" when you change `predict`.
        self.description = {"kind": "detection", "classes": list(self.classes), "floor": self.floor}
        self.description |= {"weights": sha256, "nms_iou": self.iou, "code": 1}
        self.runtime = {"onnxruntime": onnxruntime.__version__}

    def predict(self, images):
        return [self.detect(image) for image in images]

    def detect(self, image):  # uint8 (H, W, 3): upright RGB
        height, width = image.shape[:2]
        entry = self.network.get_inputs()[0]
        pixels = np.asarray(Image.fromarray(image).resize(entry.shape[:1:-1], Image.Resampling.BILINEAR))
        tensor = pixels[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255  # BGR of 0 to 1
        objectness, x, y, w, h, *classes = self.network.run(None, {entry.name: tensor})[0][0]  # planes of cells
        row, column = np.indices(x.shape)
        center = np.stack([(column + np.tanh(x)) / x.shape[1] * width, (row + np.tanh(y)) / x.shape[0] * height])
        half = np.stack([width / (1 + np.exp(-w)), height / (1 + np.exp(-h))]) / 2
        boxes = np.concatenate([center - half, center + half]).reshape(4, -1).T  # x1 y1 x2 y2 in pixels, not in shares
        scores, labels = (objectness**0.6 * np.max(classes, 0) ** 0.4).ravel(), np.argmax(classes, 0).ravel()
        good = np.flatnonzero(scores >= self.floor)
        best = good[nms(boxes[good], scores[good], labels[good], self.iou)]
        return Detections.of(boxes[best], scores[best], labels[best], width=width, height=height)

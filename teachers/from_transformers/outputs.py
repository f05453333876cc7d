"""What lies in a transformers model's outputs for one image: boxes, masks, planes of classes, probabilities."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from teachers import masks
from teachers.base import ClassProbabilities, Detections, TeacherError
from teachers.boxes import nms

OF_MASKS = ("masks_queries_logits", "pred_masks")
OUTPUTS = ("logits", "pred_boxes", "class_queries_logits", *OF_MASKS)
"""The names under which models give what is read here."""


@dataclass(frozen=True)
class Cut:
    """Which objects are stored. position: int (K,), of each output in `classes`, -1 for none; floor: lowest score;
    nms_iou: IoU, of boxes or of masks, above which the weaker of a class goes; limit: objects per image."""

    position: np.ndarray
    floor: float
    nms_iou: float | None
    limit: int | None

    @property
    def below(self) -> float:
        """A threshold for those who keep only what is above theirs."""
        return float(np.nextafter(np.float32(self.floor), np.float32(-1)))


def find_boxes(processor: Any, outputs: SimpleNamespace, cut: Cut, height: int, width: int) -> Detections:
    """Boxes of a detector, as its processor reads them."""
    answer = processor.post_process_object_detection(outputs, threshold=cut.below, target_sizes=[(height, width)])[0]
    boxes, scores, labels = (answer[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
    return _boxes(boxes, scores, cut.position[labels], cut, height, width)


def find_phrases(
    outputs: SimpleNamespace, phrases: Sequence[Sequence[int]], cut: Cut, height: int, width: int
) -> Detections:
    """Boxes of a Grounding DINO, whose logits (1, Q, T) are of text tokens. phrases: the tokens of each prompt.

    A box belongs to the prompt with the most probable token. (The library would return the text of all tokens above a
    threshold, which may be parts of several prompts.)
    """
    tokens = outputs.logits[0].sigmoid().cpu().numpy()
    scores = np.stack([tokens[:, list(phrase)].max(axis=1) for phrase in phrases], axis=1)
    x, y, w, h = outputs.pred_boxes[0].cpu().numpy().T * np.array([[width], [height], [width], [height]], np.float32)
    boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
    return _boxes(boxes, scores.max(axis=1), cut.position[scores.argmax(axis=1)], cut, height, width)


def _boxes(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, cut: Cut, height: int, width: int) -> Detections:
    good = (labels >= 0) & (scores >= np.float32(cut.floor))
    detections = Detections.of(boxes[good], scores[good], labels[good], width=width, height=height)
    if cut.nms_iou is not None:
        detections = detections.take(
            np.flatnonzero(nms(detections.boxes, detections.scores, detections.labels, cut.nms_iou))
        )
    return detections.take(np.arange(len(detections))[: cut.limit])


def find_masks(processor: Any, outputs: SimpleNamespace, cut: Cut, height: int, width: int) -> Detections:
    """Masks of a segmenter, as its processor reads them, and the smallest boxes around them. Masks may overlap where
    the processor can say so; else each pixel is the strongest one's."""
    read = processor.post_process_instance_segmentation
    if "return_binary_maps" in inspect.signature(read).parameters:
        answer = read(outputs, threshold=cut.below, target_sizes=[(height, width)], return_binary_maps=True)[0]
        planes = answer["segmentation"] if answer["segments_info"] else []
    else:
        answer = read(outputs, threshold=cut.below, target_sizes=[(height, width)])[0]
        planes = (answer["segmentation"] == segment["id"] for segment in answer["segments_info"])
    kept = [
        (segment["score"], place, code)
        for segment, plane in zip(answer["segments_info"], planes, strict=True)
        if (place := cut.position[segment["label_id"]]) >= 0
        for code in masks.encode(plane[None].cpu().numpy())
    ]
    scores, labels = [row[0] for row in kept], [row[1] for row in kept]
    codes = tuple(row[2] for row in kept)
    boxes = masks.bounds(codes, height, width)
    made = Detections.of(boxes, scores, labels, width=width, height=height, floor=cut.floor, masks=codes)
    if cut.nms_iou is not None and made.masks:
        sizes = np.tile((height, width), (len(made), 1))
        made = made.take(
            np.flatnonzero(masks.nms(made.masks, sizes, made.boxes, made.scores, made.labels, cut.nms_iou))
        )
    return made.take(np.arange(len(made))[: cut.limit])


def class_planes(processor: Any, outputs: SimpleNamespace, height: int, width: int) -> np.ndarray:
    """The probability of each class in each pixel: float32 (C, H, W).

    Where masks of queries vote, each with its class's probability (MaskFormer, arXiv 2107.06278, section 3.4), the sum
    of a pixel can exceed 1: it is then divided by that sum, while a pixel that no mask covers stays unsure.
    """
    answer = processor.post_process_semantic_segmentation(
        outputs, target_sizes=[(height, width)], return_segmentation_scores=True
    )[0]
    scores: Tensor = answer["segmentation_scores"].float()
    if any(hasattr(outputs, name) for name in OF_MASKS):
        return (scores / scores.sum(dim=0).clamp(min=1)).cpu().numpy()
    return scores.softmax(dim=0).cpu().numpy()


def class_probabilities(outputs: SimpleNamespace, independent: bool) -> ClassProbabilities:
    """Of a classifier's logits (1, C); independent: each class is true or not by itself."""
    logits = outputs.logits[0]
    values = logits.sigmoid() if independent else logits.softmax(dim=0)
    return ClassProbabilities(values.cpu().numpy().astype(np.float32))


def unpadded(outputs: SimpleNamespace, pixel_mask: Tensor | None) -> SimpleNamespace:
    """The outputs of one image, masks only of the part (top left) of the input where `pixel_mask` (1, H, W) is 1, which
    is the image. The library's readers would stretch the padding over the image, too."""
    if pixel_mask is None or bool(pixel_mask.all()):
        return outputs
    rows, columns = (int(pixel_mask[0].any(dim=side).sum()) for side in (1, 0))
    planes = dict(vars(outputs))
    for name in OF_MASKS:
        if name in planes:
            full = interpolate(planes[name], size=tuple(pixel_mask.shape[1:]), mode="bilinear", align_corners=False)
            planes[name] = full[..., :rows, :columns]
    return SimpleNamespace(**planes)


def check_finite(outputs: SimpleNamespace, name: str) -> None:
    """Raises TeacherError, with the teacher's name, for outputs that hold a NaN or infinity. (-inf is a logit of what
    cannot be, such as a token that is not there.)"""
    for key, value in vars(outputs).items():
        bad = value.isnan() | (value.isposinf() if "logits" in key else value.isinf())
        if bad.any():
            raise TeacherError(f"the output {key} of {name} holds a NaN or infinite number")

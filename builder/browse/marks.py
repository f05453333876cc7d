"""Human labels of an image as FiftyOne stores them (see builder.browse.documents)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bson import ObjectId

from builder.browse.documents import Document, array_bytes, label_document, mask_parts, plane_document
from builder.browse.maps import drawable
from builder.browse.pictures import Media
from builder.evidence.matching import shared_classes
from builder.truth.masks import read_mask
from builder.truth.records import LabelledImage, Truth
from teachers.base import VOID


def object_marks(image: LabelledImage, truth: Truth, classes: Sequence[str], media: Media) -> Document:
    """Boxes, and masks where the labels have them: one that is missing is its box. What counts neither as found nor as
    missed (COCO's crowds, VOC's difficult objects) is a crowd."""
    sides = np.array([image.width, image.height] * 2, np.float64)
    boxes = (np.concatenate([image.boxes[:, :2], image.boxes[:, 2:] - image.boxes[:, :2]], axis=1) / sides).tolist()
    listed: list[Document] = [
        {
            "_id": ObjectId(),
            "_cls": "Detection",
            "attributes": {},
            "tags": [],
            "label": truth.classes[label],
            "bounding_box": box,
            "iscrowd": crowd,
        }
        for label, box, crowd in zip(image.labels, boxes, (image.crowd | image.difficult).tolist(), strict=True)
    ]
    if image.masks is not None:
        for detection, mask in zip(listed, mask_parts(image.masks, boxes, media), strict=True):
            detection["mask"] = mask or array_bytes(np.ones((1, 1), bool))
    return {"_cls": "Detections", "detections": listed}


def class_mark(image: LabelledImage, truth: Truth, classes: Sequence[str], media: Media) -> Document | None:
    """The image's class, if it shows one."""
    return None if image.label is None else label_document("Classification", label=truth.classes[image.label])


def map_mark(image: LabelledImage, truth: Truth, classes: Sequence[str], media: Media) -> Document | None:
    """The image's map in the version's classes."""
    table = np.full(VOID + 1, VOID, np.uint8)
    ours = shared_classes(classes, truth, "semantic")
    table[: len(ours)] = np.where(ours < 0, VOID, ours)
    return plane_document("Segmentation", "mask", drawable(table[read_mask(image, len(truth.classes))]))

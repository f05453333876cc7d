"""What Ultralytics writes into the ONNX files it exports, and YOLOv5 before it, as the YAML file they do not need."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from teachers.base import TeacherError
from teachers.from_onnx.reading import names_in_order
from teachers.from_onnx.session import Signature

IOU = 0.7
"""Of the NMS that Ultralytics' `predict` does itself (cfg/default.yaml); YOLOv5's detect.py: .45."""
YOLOV5_IOU = 0.45
LONGEST = 1 << 20
"""Characters of metadata that are read."""
UNIT = 1 / 255
YOLO: Mapping[str, Any] = {"scale": UNIT, "antialias": False, "letterbox": {"anchor": "center", "upscale": True}}
"""The input of YOLOv5 to v12 and YOLO26: RGB of 0 to 1, in the middle of grey 114."""
RTDETR: Mapping[str, Any] = {"scale": UNIT, "antialias": False, "fit": "stretch"}


def described(signature: Signature, decided: bool) -> dict[str, Any]:
    """Decoder, classes, input size and pre-processing of a model of Ultralytics' (8.0 on) or YOLOv5's, as `predict` of
    theirs has them: a box has its likeliest class only. {} for any other model.

    decided: whether the YAML file names a decoder, so that the model's task does not matter. Raises TeacherError for a
    task that is no kind of label."""
    names = names_in_order(_literal(signature.metadata.get("names")))
    if names is None or "stride" not in signature.metadata:
        return {}
    if "task" not in signature.metadata:
        return {"classes": list(names), **_yolov5(signature, len(names))}
    sizes = _literal(signature.metadata.get("imgsz"))
    found = {"classes": list(names), "license": _license(signature)}
    head = _head(signature, len(names), decided)
    if isinstance(sizes, list) and len(sizes) == 2:
        head["input"] = {"size": sizes, **head.get("input", {})}
        if signature.metadata["task"] == "classify" and sizes[0] != sizes[1]:
            head["input"]["fit"] = "stretch"
    return {key: value for key, value in {**found, **head}.items() if value is not None}


def _head(signature: Signature, classes: int, decided: bool) -> dict[str, Any]:
    """The decoder, its options and the input's, by task, head and the shape of the first output."""
    metadata = signature.metadata
    shape = next(iter(signature.outputs.values()), ())
    finished = metadata.get("end2end") == "True" or _arguments(signature).get("nms") is True
    match metadata["task"]:
        case "detect" if "RTDETR" in metadata.get("head", "") or "rtdetr" in metadata.get("description", "").lower():
            if shape[-1:] == (4 + classes,) and "head" not in metadata:
                return {"decoder": "detr", "activation": "none", "multi_label": False, "input": RTDETR}
            return {"decoder": "nms", "boxes": "cxcywh", "normalized": True, "input": RTDETR}
        case "detect" if finished or (shape[-1:] == (6,) and shape[1:2] != (4 + classes,)):
            return {"decoder": "nms", "input": YOLO}
        case "detect":
            return {"decoder": "yolov8", "nms_iou": IOU, "multi_label": False, "input": YOLO}
        case "segment" if finished:
            return {"decoder": "nms_seg", "input": YOLO}
        case "segment":
            return {"decoder": "yolov8_seg", "nms_iou": IOU, "multi_label": False, "input": YOLO}
        case "classify":
            return {"decoder": "classifier", "activation": "none", "input": {"scale": UNIT, "fit": "crop"}}
        case "semantic":
            return {"decoder": "segmenter", "activation": "ids" if len(shape) == 3 else "softmax", "input": YOLO}
        case task if not decided:
            raise TeacherError(
                f"this is a model of Ultralytics' for the task {task[:40]}, which is no kind of label here: export one "
                "for detect, segment, semantic or classify, or write a teacher of your own (python:)"
            )
        case _:
            return {}


def _yolov5(signature: Signature, classes: int) -> dict[str, Any]:
    """YOLOv5's own export.py: rows (B, N, 5 + C), and planes of a -seg model. Its classifiers do not tell."""
    shapes = list(signature.outputs.values())
    if not shapes or len(shapes[0]) != 3 or shapes[0][2] is None or shapes[0][2] < 5 + classes:
        return {}
    decoder = "yolov5_seg" if len(shapes) == 2 and len(shapes[1]) == 4 else "yolov5"
    return {"decoder": decoder, "nms_iou": YOLOV5_IOU, "multi_label": False}


def _license(signature: Signature) -> str | None:
    """`AGPL-3.0 License (https://…)` as its name."""
    return signature.metadata.get("license", "").partition(" License")[0][:80] or None


def _arguments(signature: Signature) -> dict[str, Any]:
    arguments = _literal(signature.metadata.get("args"))
    return arguments if isinstance(arguments, dict) else {}


def _literal(text: str | None) -> Any:
    """The Python value that a text spells, as metadata has lists and mappings; None where it spells none."""
    try:
        return ast.literal_eval(text) if text is not None and len(text) <= LONGEST else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None

"""What need not be written: the pre-processing that each decoder's family of models was trained with, and what a model
file says of itself. A YAML file's own keys come before both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from teachers.base import TeacherError
from teachers.from_onnx.session import Signature
from teachers.from_onnx.spec import DECODERS
from teachers.from_onnx.ultralytics import UNIT, YOLO, described

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
"""For pixels of 0 to 1."""
YOLOX = {"color": "bgr", "scale": 1.0, "letterbox": {"upscale": True}}
NANODET = {
    "color": "bgr",
    "scale": 1.0,
    "mean": [103.53, 116.28, 123.675],
    "std": [57.375, 57.12, 58.395],
    "fit": "stretch",
    "antialias": False,
}
DETR = {"scale": UNIT, "fit": "stretch"}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("yolov5", "yolov8", "yolov5_seg", "yolov8_seg"), YOLO),
    "yolox": YOLOX,
    "nanodet": NANODET,
}
"""Decoder -> `input`, where one family has it."""
FINISHED = ("boxes", "scores", "labels")
"""Outputs of RT-DETR, D-FINE and DEIM as their authors export them, in the order of the decoder nms."""
RF_DETR = {"labels", "dets"}
"""Outputs of RF-DETR as its authors export it: logits and boxes."""
NORMALISING = ("scale", "mean", "std")


def complete(content: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    """A YAML file's content with what it does not say: of the model's own metadata and outputs, then of its family.
    What is wrong in it stays, to be told by its key. Raises TeacherError for a model whose task is no kind of label."""
    known = described(signature, "decoder" in content) or _by_outputs(signature)
    if "decoder" in content and known.get("decoder") != content["decoder"]:
        known = {key: value for key, value in known.items() if key in ("classes", "license", "input")}
    if "classes_from" in content:
        known.pop("classes", None)
    whole: dict[str, Any] = {**known, **content}
    own = content.get("input", {})
    if not isinstance(own, dict) or whole.get("decoder") not in DECODERS:
        return whole
    whole["input"] = _input(whole, known.get("input", {}), own, signature)
    return whole


def check_scale(whole: Mapping[str, Any], where: str) -> None:
    """Raise TeacherError if nobody told whether a model is of pixels of 0 to 1 or of 0 to 255. where: the YAML file."""
    if "scale" not in whole["input"]:
        raise TeacherError(
            f"{where} lacks the key input.scale: write 1/255 for a model of pixels from 0 to 1, which most are, or 1 "
            f"for one of 0 to 255 (decoder {whole['decoder']})"
        )


def _by_outputs(signature: Signature) -> dict[str, Any]:
    """Decoder and outputs of models that are known by their outputs' names."""
    names = set(signature.outputs)
    if names == set(FINISHED):
        input = {"scale": UNIT, "fit": "stretch"} if signature.sizes is not None else {}
        return {"decoder": "nms", "outputs": list(FINISHED), "input": input}
    if names == RF_DETR and signature.outputs["dets"][-1:] == (4,):  # MMDeploy's are called so, too
        input = {"scale": UNIT, "fit": "stretch", **IMAGENET}
        return {"decoder": "detr", "activation": "sigmoid", "outputs": ["labels", "dets"], "input": input}
    return {}


def _input(
    whole: Mapping[str, Any], known: Mapping[str, Any], own: Mapping[str, Any], signature: Signature
) -> dict[str, Any]:
    decoder = whole["decoder"]
    family = dict(FAMILIES.get(decoder, {}))
    if decoder == "detr":
        family = {**DETR, **(IMAGENET if whole.get("activation", "softmax") == "softmax" else {})}
    default = {**family, **known}
    if any(key in own for key in NORMALISING) or signature.dtype is np.uint8:
        default = {key: value for key, value in default.items() if key not in NORMALISING}
    fit = own.get("fit", default.get("fit", "letterbox"))
    if fit != "letterbox":
        default.pop("letterbox", None)
    merged = {**default, **own}
    if isinstance(own.get("letterbox"), dict):
        merged["letterbox"] = {**default.get("letterbox", {}), **own["letterbox"]}
    if "size" not in merged and (size := _fixed_size(signature, merged.get("layout", "nchw"))) is not None:
        merged["size"] = size
    if "scale" not in merged and (scale := 1.0 if signature.dtype is np.uint8 else _scale(merged)) is not None:
        merged["scale"] = scale
    return merged


def _fixed_size(signature: Signature, layout: Any) -> list[int | None] | None:
    if len(signature.shape) != 4:
        return None
    size = list(signature.shape[2:] if layout == "nchw" else signature.shape[1:3])
    return None if None in size else size


def _scale(input: Mapping[str, Any]) -> float | None:
    """What pixels are multiplied by, from the mean and std that follow: those of pixels of 0 to 1 are below 1. None
    where they do not tell."""
    values = [value for key in ("mean", "std") for value in _numbers(input.get(key))]
    if values and max(values) > 1:
        return 1.0
    if "std" in input and values and max(values) < 1:
        return UNIT
    return None


def _numbers(values: Any) -> list[float]:
    return [abs(v) for v in values if isinstance(v, int | float)] if isinstance(values, list | tuple) else []

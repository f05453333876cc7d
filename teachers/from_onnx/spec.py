"""What a YAML file says of an ONNX model: how an image becomes its input, what its outputs and classes are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from teachers.from_onnx.resize import resized
from teachers.images import LONGEST, middle

NO_CLASS = ("__background__", "N/A")
"""Names of outputs that stand for no class: they are left out of the teacher's classes."""


def _square(size: Any) -> Any:
    return (size, size) if isinstance(size, int) else size


def _quotient(value: Any) -> Any:
    """`1/255`, text to YAML, as the number it means."""
    upper, slash, lower = value.partition("/") if isinstance(value, str) else ("", "", "")
    try:
        return float(upper) / float(lower) if slash else value
    except (ValueError, ZeroDivisionError):
        return value


def _no_flag(value: Any) -> Any:
    """Pydantic takes `true` for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("flag", "input should be a number")
    return value


LATER: dict[str, Any] = {"multi_label": True, "raw": False}
"""Options that came after predictions had been stored -> the value by which a description stays what it was."""
NO_FLAG = BeforeValidator(_no_flag)
Positive = Annotated[int, Field(gt=0, lt=2**31), NO_FLAG]
Side = Annotated[int, Field(gt=0, le=16_384), NO_FLAG]
"""Pixels of the input; how many it may have in all stands in teachers.from_onnx.session."""
Number = Annotated[float, Field(ge=-1e6, le=1e6), NO_FLAG]
Spread = Annotated[float, Field(ge=1e-6, le=1e6), NO_FLAG]
"""Numbers that a float32 can be divided by, and multiplied with."""
Share = Annotated[float, Field(gt=0, le=1), NO_FLAG]
Column = Literal["image", "box", "score", "label"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Letterbox(_Strict):
    """Resize, keeping the aspect ratio, until the image fills the input's width or height; the rest is grey `pad`.

    anchor: where the image lies. upscale: whether an image smaller than the input is enlarged, too.
    """

    pad: Annotated[int, Field(ge=0, le=255), NO_FLAG] = 114
    anchor: Literal["top_left", "center"] = "top_left"
    upscale: bool = False


class InputSpec(_Strict):
    """How an image becomes the model's input (B, 3, H, W), or (B, H, W, 3) with `layout: nhwc`: it is fitted into
    `size` (pixels, `416` for a square or `[height, width]`), then `(pixel * scale - mean) / std` per channel, with
    pixels 0 to 255 and channels in the order of `color`.

    fit: `letterbox` keeps the aspect ratio and pads; `stretch` does not keep it; `crop`, for classifiers, brings the
    shorter side to `shorter_side` pixels (without it: until the image fills the input) and cuts out the middle, the
    longer side and the margins in whole pixels as torchvision's Resize and CenterCrop have them.
    antialias: false takes of an image that is made smaller only the four pixels around each point, as OpenCV does, with
    which most YOLOs were trained.
    """

    size: Annotated[tuple[Side, Side], BeforeValidator(_square)]
    color: Literal["rgb", "bgr"] = "rgb"
    scale: Annotated[Spread, BeforeValidator(_quotient)] = 1.0
    mean: tuple[Number, Number, Number] = (0.0, 0.0, 0.0)
    std: tuple[Spread, Spread, Spread] = (1.0, 1.0, 1.0)
    fit: Literal["letterbox", "stretch", "crop"] = "letterbox"
    letterbox: Letterbox = Letterbox()
    shorter_side: Side | None = None
    antialias: bool = True
    layout: Literal["nchw", "nhwc"] = "nchw"

    @model_validator(mode="after")
    def _belongs_together(self) -> InputSpec:
        if self.shorter_side is not None and (self.fit != "crop" or self.shorter_side < max(self.size)):
            raise ValueError("shorter_side belongs to fit: crop and is at least as large as size")
        if self.fit != "letterbox" and self.letterbox != Letterbox():
            raise ValueError(f"letterbox means nothing beside fit: {self.fit}")
        return self

    def described(self) -> dict[str, Any]:
        """What decides the pixels, JSON-ready, and nothing else."""
        unused = {"fit", "shorter_side"} if self.fit == "letterbox" else {"letterbox"}
        unused |= {"layout", "antialias"} if self.layout == "nchw" else {"antialias"}
        resize = "bilinear, antialiased" if self.antialias else "bilinear"
        resize += ", sides cut off" if self.fit == "crop" else ""
        return {**self.model_dump(mode="json", exclude=unused), "resize": resize}

    def place(self, image: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, width and height, pixels of the input, of a whole image (height, width). What lies outside of the
        input is cut off."""
        if self.fit == "stretch":
            return 0, 0, self.size[1], self.size[0]
        if self.fit == "crop":
            scale = self.shorter_side / min(image) if self.shorter_side else max(np.divide(self.size, image))
            height, width = (max(1, int(side * scale + 1e-4)) for side in image)
            return -round((width - self.size[1]) / 2), -round((height - self.size[0]) / 2), width, height
        scale = min(np.divide(self.size, image))
        scale = scale if self.letterbox.upscale else min(scale, 1.0)
        height, width = (max(1, round(side * scale)) for side in image)
        if self.letterbox.anchor == "top_left":
            return 0, 0, width, height
        return (self.size[1] - width) // 2, (self.size[0] - height) // 2, width, height

    def prepare(self, images: Sequence[np.ndarray], batch: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB images as a float32 (batch, …) tensor, blank beyond the last image, and for each image the float32 row
        (left, top, x, y): a point p of the image lies at `p * (x, y) + (left, top)` of the input."""
        canvas = np.full((batch, *self.size, 3), self.letterbox.pad, np.uint8)
        geometry = np.empty((len(images), 4), np.float32)
        strips = self.fit == "crop" and max(self.size) <= LONGEST * min(self.size)
        for i, image in enumerate(map(middle, images) if strips else images):
            left, top, width, height = self.place(image.shape[:2])
            small = resized(image, height, width, self.antialias)
            seen = small[max(0, -top) : self.size[0] - top, max(0, -left) : self.size[1] - left]
            y, x = max(0, top), max(0, left)
            canvas[i, y : y + seen.shape[0], x : x + seen.shape[1]] = seen
            geometry[i] = left, top, width / image.shape[1], height / image.shape[0]
        channels = canvas if self.color == "rgb" else canvas[..., ::-1]
        order = (0, 3, 1, 2) if self.layout == "nchw" else (0, 1, 2, 3)
        each = (3, 1, 1) if self.layout == "nchw" else (3,)
        tensor = channels.transpose(order).astype(np.float32, order="C")
        tensor *= np.float32(self.scale)  # in place: for arrays of megabytes a fresh one costs more than the arithmetic
        tensor -= np.array(self.mean, np.float32).reshape(each)
        tensor /= np.array(self.std, np.float32).reshape(each)
        return tensor, geometry


class Model(_Strict):
    """What every YAML file has. `model` and `classes_from` (a text file, one name a line, or a data.yaml with `names`)
    are relative to it; one of `classes` and `classes_from` is given, with a name for every output: those in NO_CLASS
    are no classes. outputs: the model's outputs that are read, by name, in the order the decoder expects; a list of
    names in place of one joins parts of a head, level by level. Without it all are read, in the model's order."""

    model: str | None = None
    input: InputSpec
    outputs: tuple[str | tuple[str, ...], ...] | None = None
    classes: tuple[str, ...] | None = None
    classes_from: str | None = None
    license: str | None = None

    def decoding(self) -> dict[str, Any]:
        """The decoder and its own options, JSON-ready."""
        shared = {*Model.model_fields, "nms_iou"}
        shared |= {name for name, neutral in LATER.items() if getattr(self, name, None) == neutral}
        read = {} if self.outputs is None else {"outputs": self.model_dump(mode="json")["outputs"]}
        return {**self.model_dump(mode="json", exclude=shared), **read}


class _Whole(Model):
    @model_validator(mode="after")
    def _sees_all(self) -> _Whole:
        if self.input.fit == "crop":
            raise ValueError("fit: crop is for classifiers, since it cuts off parts of an image: write stretch")
        return self


class YoloxSpec(_Whole):
    """teachers.from_onnx.decoders.yolox. strides: pixels per cell of each feature level, in the order of the output.
    raw: objectness and class scores are logits, before their sigmoid."""

    decoder: Literal["yolox"]
    strides: tuple[Positive, ...] = (8, 16, 32)
    raw: bool = False
    nms_iou: Share | None = 0.5


class YoloV5Spec(_Whole):
    """teachers.from_onnx.decoders.yolov5. normalized: boxes are shares of the input's size, not pixels. multi_label:
    whether a box may have several classes, or only its likeliest."""

    decoder: Literal["yolov5"]
    normalized: bool = False
    multi_label: bool = True
    nms_iou: Share | None = 0.5


class YoloV8Spec(_Whole):
    """teachers.from_onnx.decoders.yolov8. normalized, multi_label: as in YoloV5Spec."""

    decoder: Literal["yolov8"]
    normalized: bool = False
    multi_label: bool = True
    nms_iou: Share | None = 0.5


class YoloV5SegSpec(_Whole):
    """teachers.from_onnx.decoders.yolov5, with masks. normalized, multi_label: as in YoloV5Spec."""

    decoder: Literal["yolov5_seg"]
    normalized: bool = False
    multi_label: bool = True
    nms_iou: Share | None = 0.5


class YoloV8SegSpec(_Whole):
    """teachers.from_onnx.decoders.yolov8, with masks. normalized, multi_label: as in YoloV5Spec."""

    decoder: Literal["yolov8_seg"]
    normalized: bool = False
    multi_label: bool = True
    nms_iou: Share | None = 0.5


class NanodetSpec(_Whole):
    """teachers.from_onnx.decoders.nanodet. reg_max: the largest distance, in strides. cell_offset: where a cell's point
    lies, 0 in NanoDet-Plus, .5 in the first NanoDet. activation: of the class scores, `none` if they are probabilities.
    """

    decoder: Literal["nanodet"]
    strides: tuple[Positive, ...] = (8, 16, 32, 64)
    reg_max: Annotated[int, Field(gt=0, le=1024)] = 7
    cell_offset: Annotated[float, Field(ge=0, le=1)] = 0.0
    activation: Literal["none", "sigmoid"] = "none"
    nms_iou: Share | None = 0.5


class DetrSpec(_Whole):
    """teachers.from_onnx.decoders.detr. activation: `softmax` with a last output for "no object" (DETR), `sigmoid`
    without (Deformable DETR, RT-DETR), `none` without for scores after it. multi_label: as in YoloV5Spec."""

    decoder: Literal["detr"]
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    multi_label: bool = True
    nms_iou: Share | None = None


class _Rows(_Whole):
    boxes: Literal["xyxy", "yxyx", "xywh", "cxcywh"] = "xyxy"
    normalized: bool = False
    columns: tuple[Column, ...] | None = None
    nms_iou: Share | None = None

    @model_validator(mode="after")
    def _complete(self) -> _Rows:
        if self.columns and (sorted({*self.columns, "image"}) != ["box", "image", "label", "score"]):
            raise ValueError("columns names box, score, label and, if there is one, image")
        return self


class NmsSpec(_Rows):
    """teachers.from_onnx.nms.after_nms. boxes: order of a box's four numbers. normalized: as in YoloV5Spec.
    columns: of a model with one output; by default `[box, score, label]` for 6 and `[image, box, label, score]` for 7
    columns."""

    decoder: Literal["nms"]


class NmsSegSpec(_Rows):
    """teachers.from_onnx.nms.after_nms, with masks: as NmsSpec, with one output, whose rows end in coefficients."""

    decoder: Literal["nms_seg"]


class ClassifierSpec(Model):
    """One output (B, C). activation: `none` if it is probabilities already."""

    decoder: Literal["classifier"]
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"


class SegmenterSpec(_Whole):
    """One output (B, C, h, w), of any h and w; or with `activation: ids` the class of each pixel, whole numbers
    (B, h, w) or (B, 1, h, w), 255 for none."""

    decoder: Literal["segmenter"]
    activation: Literal["softmax", "sigmoid", "none", "ids"] = "softmax"


SegSpec = YoloV5SegSpec | YoloV8SegSpec | NmsSegSpec
DetectorSpec = YoloxSpec | YoloV5Spec | YoloV8Spec | SegSpec | NanodetSpec | DetrSpec | NmsSpec
ModelSpec = DetectorSpec | ClassifierSpec | SegmenterSpec
READER: TypeAdapter[ModelSpec] = TypeAdapter(Annotated[ModelSpec, Field(discriminator="decoder")])
DECODERS = (
    *("yolox", "yolov5", "yolov8", "nanodet", "detr", "nms", "yolov5_seg", "yolov8_seg", "nms_seg"),
    *("classifier", "segmenter"),
)

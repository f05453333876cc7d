"""The YAML file beside an ONNX model: how an image becomes its input, what its outputs mean, what its classes are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from teachers.base import TeacherError
from teachers.images import LONGEST, middle

NO_CLASS = ("__background__", "N/A")
"""Names of outputs that stand for no class: they are left out of the teacher's classes."""


def _square(size: Any) -> Any:
    return (size, size) if isinstance(size, int) else size


Positive = Annotated[int, Field(gt=0)]
Spread = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Column = Literal["image", "box", "score", "label"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Letterbox(_Strict):
    """Resize, keeping the aspect ratio, until the image fills the input's width or height; the rest is grey `pad`.

    anchor: where the image lies. upscale: whether an image smaller than the input is enlarged, too.
    """

    pad: Annotated[int, Field(ge=0, le=255)] = 114
    anchor: Literal["top_left", "center"] = "top_left"
    upscale: bool = False


class InputSpec(_Strict):
    """How an image becomes the model's input (B, 3, H, W), or (B, H, W, 3) with `layout: nhwc`: it is fitted into
    `size` (pixels, `416` for a square or `[height, width]`), then `(pixel * scale - mean) / std` per channel, with
    pixels 0 to 255 and channels in the order of `color`.

    fit: `letterbox` keeps the aspect ratio and pads; `stretch` does not keep it; `crop`, for classifiers, brings the
    shorter side to `shorter_side` pixels (without it: until the image fills the input) and cuts out the middle.
    """

    size: Annotated[tuple[Positive, Positive], BeforeValidator(_square)]
    color: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Spread, Spread, Spread] = (1.0, 1.0, 1.0)
    fit: Literal["letterbox", "stretch", "crop"] = "letterbox"
    letterbox: Letterbox = Letterbox()
    shorter_side: Positive | None = None
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
        unused |= {"layout"} if self.layout == "nchw" else set()
        return {**self.model_dump(mode="json", exclude=unused), "resize": "bilinear, antialiased"}

    def place(self, image: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, width and height, pixels of the input, of a whole image (height, width). What lies outside of the
        input is cut off."""
        if self.fit == "stretch":
            return 0, 0, self.size[1], self.size[0]
        if self.fit == "crop":
            scale = self.shorter_side / min(image) if self.shorter_side else max(np.divide(self.size, image))
        else:
            scale = min(np.divide(self.size, image))
            scale = scale if self.letterbox.upscale else min(scale, 1.0)
        height, width = (max(1, round(side * scale)) for side in image)
        if self.fit == "letterbox" and self.letterbox.anchor == "top_left":
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
            small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
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


class _Model(_Strict):
    """What every YAML file has. `model` and `classes_from` (a text file, one name a line) are relative to it; one of
    `classes` and `classes_from` is given, with a name for every output: those in NO_CLASS are no classes. outputs: the
    model's outputs that are read, by name, in the order the decoder expects; without it all, in the model's order."""

    model: str | None = None
    input: InputSpec
    outputs: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    classes_from: str | None = None
    license: str | None = None

    def decoding(self) -> dict[str, Any]:
        """The decoder and its own options, JSON-ready."""
        shared = {*_Model.model_fields, "nms_iou"}
        read = {} if self.outputs is None else {"outputs": list(self.outputs)}
        return {**self.model_dump(mode="json", exclude=shared), **read}


class _Whole(_Model):
    @model_validator(mode="after")
    def _sees_all(self) -> _Whole:
        if self.input.fit == "crop":
            raise ValueError("fit: crop is for classifiers, since it cuts off parts of an image: write stretch")
        return self


class YoloxSpec(_Whole):
    """teachers.from_onnx.decoders.yolox. strides: pixels per cell of each feature level, in the order of the output."""

    decoder: Literal["yolox"]
    strides: tuple[Positive, ...] = (8, 16, 32)
    nms_iou: Share | None = 0.5


class YoloV5Spec(_Whole):
    """teachers.from_onnx.decoders.yolov5. normalized: boxes are shares of the input's size, not pixels."""

    decoder: Literal["yolov5"]
    normalized: bool = False
    nms_iou: Share | None = 0.5


class YoloV8Spec(_Whole):
    """teachers.from_onnx.decoders.yolov8. normalized: as in YoloV5Spec."""

    decoder: Literal["yolov8"]
    normalized: bool = False
    nms_iou: Share | None = 0.5


class YoloV5SegSpec(_Whole):
    """teachers.from_onnx.decoders.yolov5, with masks. normalized: as in YoloV5Spec."""

    decoder: Literal["yolov5_seg"]
    normalized: bool = False
    nms_iou: Share | None = 0.5


class YoloV8SegSpec(_Whole):
    """teachers.from_onnx.decoders.yolov8, with masks. normalized: as in YoloV5Spec."""

    decoder: Literal["yolov8_seg"]
    normalized: bool = False
    nms_iou: Share | None = 0.5


class NanodetSpec(_Whole):
    """teachers.from_onnx.decoders.nanodet. reg_max: the largest distance, in strides. cell_offset: where a cell's point
    lies, 0 in NanoDet-Plus, .5 in the first NanoDet. activation: of the class scores, `none` if they are probabilities.
    """

    decoder: Literal["nanodet"]
    strides: tuple[Positive, ...] = (8, 16, 32, 64)
    reg_max: Positive = 7
    cell_offset: Annotated[float, Field(ge=0, le=1)] = 0.0
    activation: Literal["none", "sigmoid"] = "none"
    nms_iou: Share | None = 0.5


class DetrSpec(_Whole):
    """teachers.from_onnx.decoders.detr. activation: `softmax` with a last output for "no object" (DETR), `sigmoid`
    without (Deformable DETR, RT-DETR)."""

    decoder: Literal["detr"]
    activation: Literal["softmax", "sigmoid"] = "softmax"
    nms_iou: Share | None = None


class NmsSpec(_Whole):
    """teachers.from_onnx.decoders.after_nms. boxes: order of a box's four numbers. normalized: as in YoloV5Spec.
    columns: of a model with one output; by default `[box, score, label]` for 6 and `[image, box, label, score]` for 7
    columns."""

    decoder: Literal["nms"]
    boxes: Literal["xyxy", "yxyx", "xywh", "cxcywh"] = "xyxy"
    normalized: bool = False
    columns: tuple[Column, ...] | None = None
    nms_iou: Share | None = None

    @model_validator(mode="after")
    def _complete(self) -> NmsSpec:
        if self.columns and (sorted({*self.columns, "image"}) != ["box", "image", "label", "score"]):
            raise ValueError("columns names box, score, label and, if there is one, image")
        return self


class ClassifierSpec(_Model):
    """One output (B, C). activation: `none` if it is probabilities already."""

    decoder: Literal["classifier"]
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"


class SegmenterSpec(_Whole):
    """One output (B, C, h, w), of any h and w; or with `activation: ids` the class of each pixel, whole numbers
    (B, h, w) or (B, 1, h, w), 255 for none."""

    decoder: Literal["segmenter"]
    activation: Literal["softmax", "sigmoid", "none", "ids"] = "softmax"


SegSpec = YoloV5SegSpec | YoloV8SegSpec
DetectorSpec = YoloxSpec | YoloV5Spec | YoloV8Spec | SegSpec | NanodetSpec | DetrSpec | NmsSpec
ModelSpec = DetectorSpec | ClassifierSpec | SegmenterSpec
_READER: TypeAdapter[ModelSpec] = TypeAdapter(Annotated[ModelSpec, Field(discriminator="decoder")])
DECODERS = (
    *("yolox", "yolov5", "yolov8", "nanodet", "detr", "nms", "yolov5_seg", "yolov8_seg"),
    *("classifier", "segmenter"),
)


def locate(path: Path, weights: str | None) -> tuple[Path, ModelSpec, Path]:
    """The YAML file, its content and the model file, from a path to either and the option `weights`.
    Raises TeacherError for a file that is missing or wrong."""
    spec_path = path if path.suffix in (".yaml", ".yml") else path.with_suffix(".yaml")
    model = Path(weights) if weights is not None else path
    if model != spec_path and not model.is_file():
        raise TeacherError(f"model file {model} not found")
    spec = _read_spec(spec_path)
    if model != spec_path:
        return spec_path, spec, model
    if spec.model is None:
        raise TeacherError(f"{spec_path} lacks the key model: name the ONNX file there or in the option weights")
    model = spec_path.parent / spec.model
    if not model.is_file():
        raise TeacherError(f"model file {model}, named in {spec_path}, not found: put it there or set option weights")
    return spec_path, spec, model


def output_names(spec_path: Path, spec: ModelSpec) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """The name of each output, the classes among them, and each output's position in these: int (outputs,), -1 for one
    that is no class. Raises TeacherError if there are none or two of one name."""
    if (spec.classes is None) == (spec.classes_from is None):
        raise TeacherError(f"{spec_path} must have one of the keys classes and classes_from")
    if spec.classes is not None:
        names = spec.classes
    else:
        source = spec_path.parent / str(spec.classes_from)
        try:
            names = tuple(line.strip() for line in source.read_text("utf-8").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise TeacherError(f"classes_from in {spec_path} cannot be read: {first_line(error)}") from error
    is_class = np.array([name not in NO_CLASS for name in names], bool)
    classes = tuple(name for name in names if name not in NO_CLASS)
    if not classes:
        raise TeacherError(f"{spec_path} names no classes")
    if not all(name.strip() for name in classes):
        raise TeacherError(f"{spec_path} has a class without a name: write one for each output")
    repeated = [name for name in classes if classes.count(name) > 1]
    if repeated:
        raise TeacherError(f"{spec_path} names the class {repeated[0]!r} more than once")
    return names, classes, np.where(is_class, np.cumsum(is_class) - 1, -1)


def first_line(error: Exception) -> str:
    """An error's first line, or the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_spec(path: Path) -> ModelSpec:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise TeacherError(f"{path} not found: write this YAML file with input, decoder and classes") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TeacherError(f"{path} cannot be read as YAML: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise TeacherError(f"{path} must be a YAML mapping with the keys {', '.join(_Model.model_fields)}, decoder")
    try:
        return _READER.validate_python(content)
    except ValidationError as error:
        raise TeacherError(f"{path} {_reason(error)}") from error


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][1:])  # the first part names the decoder
    match first["type"]:
        case "union_tag_not_found":
            return f"lacks the key decoder: write one of {', '.join(DECODERS)}"
        case "union_tag_invalid":
            return f"has an unknown decoder {first['input']['decoder']!r}: write one of {', '.join(DECODERS)}"
        case "missing":
            return f"lacks the key {key}"
        case "extra_forbidden":
            return f"has an unknown key {key}: remove it or correct its name"
        case "value_error":
            return f"cannot be used: {first['msg'].removeprefix('Value error, ')}"
        case _:
            return f"has {key}: {first['input']!r}, but {first['msg'][0].lower()}{first['msg'][1:]}"

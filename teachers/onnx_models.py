"""Exported detectors through ONNX Runtime. A YAML file beside the model says how to feed it and read its output."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import onnxruntime as ort
import PIL
import yaml
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from teachers.base import Detections, TeacherError, TeacherOptions
from teachers.boxes import nms

THREADS = 2
"""Threads per operator where `TeacherOptions.threads` is not set: a fixed number, since the order of a floating-point
sum may follow the number of threads and must not follow the machine. For speed on many cores set `threads`."""
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""ONNX Runtime's name of a model's input type -> the type it is fed."""


def _square(size: Any) -> Any:
    return (size, size) if isinstance(size, int) else size


Positive = Annotated[int, Field(gt=0)]
Spread = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Letterbox(_Strict):
    """Resize, keeping the aspect ratio, until the image fills the input's width or height; the rest is grey `pad`.

    anchor: where the image lies. upscale: whether an image smaller than the input is enlarged, too.
    """

    pad: Annotated[int, Field(ge=0, le=255)] = 114
    anchor: Literal["top_left", "center"] = "top_left"
    upscale: bool = False

    def place(self, image: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, width and height, pixels, of an image (height, width) in an input of `size` (height, width)."""
        scale = min(size[0] / image[0], size[1] / image[1])
        if not self.upscale:
            scale = min(scale, 1.0)
        height, width = (max(1, round(side * scale)) for side in image)
        if self.anchor == "top_left":
            return 0, 0, width, height
        return (size[1] - width) // 2, (size[0] - height) // 2, width, height


class InputSpec(_Strict):
    """How an image becomes the model's input (B, 3, H, W): letterbox, then `(pixel * scale - mean) / std` per channel,
    with pixels 0 to 255 and channels in the order of `color`. size: pixels, `416` for a square or `[height, width]`."""

    size: Annotated[tuple[Positive, Positive], BeforeValidator(_square)]
    color: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Spread, Spread, Spread] = (1.0, 1.0, 1.0)
    letterbox: Letterbox = Letterbox()

    def prepare(self, images: Sequence[np.ndarray], batch: int) -> tuple[np.ndarray, np.ndarray]:
        """RGB images as a float32 (batch, 3, H, W) tensor, blank beyond the last image, and for each image the float32
        row (left, top, x, y): a point p of the image lies at `p * (x, y) + (left, top)` of the input."""
        canvas = np.full((batch, *self.size, 3), self.letterbox.pad, np.uint8)
        geometry = np.empty((len(images), 4), np.float32)
        for i, image in enumerate(images):
            left, top, width, height = self.letterbox.place(image.shape[:2], self.size)
            small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
            canvas[i, top : top + height, left : left + width] = np.asarray(small)
            geometry[i] = left, top, width / image.shape[1], height / image.shape[0]
        channels = canvas if self.color == "rgb" else canvas[..., ::-1]
        tensor = channels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        tensor *= np.float32(self.scale)  # in place: for arrays of megabytes a fresh one costs more than the arithmetic
        tensor -= np.array(self.mean, np.float32).reshape(3, 1, 1)
        tensor /= np.array(self.std, np.float32).reshape(3, 1, 1)
        return tensor, geometry


class ModelSpec(_Strict):
    """The YAML file. `model` and `classes_from` (a text file, one name a line) are relative to it; one of `classes` and
    `classes_from` is given. strides: pixels per cell of each feature level, in the order of the output."""

    model: str | None = None
    decoder: str
    input: InputSpec
    strides: tuple[Positive, ...] = (8, 16, 32)
    nms_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    classes: tuple[str, ...] | None = None
    classes_from: str | None = None
    license: str | None = None


class Candidates(NamedTuple):
    """Boxes of a batch before NMS. image: int (N,), position in the batch, not falling; boxes: float32 (N, 4), `xyxy`
    pixels; scores: float32 (N,); labels: int (N,)."""

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


Decoder = Callable[[list[np.ndarray]], Candidates]
"""A model's outputs, each (B, ...), to candidates in pixels of its input. Raises TeacherError for a wrong shape."""


class OnnxTeacher:
    """A detector in ONNX format, as a Teacher.

    path: the model, with a YAML file of the same stem beside it, or such a YAML file (ModelSpec) that names the model.
    `TeacherOptions.weights` overrides which model file is read and `nms_iou` the YAML's; without `top_k` and
    `max_detections` nothing is cut. A model of a fixed batch size is run at that size. It runs on the CPU, or with
    `device: cuda` on a GPU. It is tried once on loading, so that a YAML that does not fit it fails before any work.

    Raises TeacherError: on loading, for a missing file, a wrong YAML or a model that it does not fit; from `predict`,
    if ONNX Runtime fails or the output holds a NaN.
    """

    def __init__(self, path: str | Path, options: TeacherOptions) -> None:
        options.refuse("an ONNX model (its YAML file decides)", "min_size", "max_size", "upscale", "dtype", "classes")
        spec_path, spec, self._model_path = _locate(Path(path), options.weights)
        self.classes = _class_names(spec_path, spec)
        self.batch_size = options.batch_size
        self._options = options
        self._nms_iou = spec.nms_iou if options.nms_iou is None else options.nms_iou
        self._input = spec.input
        self._decode = _decoder(spec_path, spec, len(self.classes), options)
        self._session = _open_session(self._model_path, options)
        self._tensor, self._dtype, self._fixed_batch = _input_of(self._session, self._model_path)
        self.description: Mapping[str, Any] = {
            "kind": "detection",
            "family": "onnx",
            "weights_sha256": [_sha256(part) for part in _parts(self._model_path)],
            "classes": list(self.classes),
            "input": {**spec.input.model_dump(mode="json"), "resize": "bilinear, antialiased"},
            "decoder": spec.decoder,
            "strides": list(spec.strides),
            "floor": options.floor,
            "nms_iou": self._nms_iou,
            "top_k": options.top_k,
            "max_detections": options.max_detections,
        }
        self.runtime: Mapping[str, Any] = {
            "license": spec.license,
            "providers": self._session.get_providers(),
            "threads": options.threads or THREADS,
            "onnxruntime": ort.__version__,
            "pillow": PIL.__version__,
        }
        self.predict([np.zeros((*spec.input.size, 3), np.uint8)])

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """See Teacher.predict."""
        if not images:
            return []
        size = self._fixed_batch or self.batch_size
        parts = [self._candidates(images[first : first + size], first) for first in range(0, len(images), size)]
        image, boxes, scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        keep = nms(boxes, scores, image * len(self.classes) + labels, self._nms_iou)
        cuts = np.searchsorted(image[keep], np.arange(1, len(images)))
        found = zip(images, *(np.split(column[keep], cuts) for column in (boxes, scores, labels)), strict=True)
        floor, limit = self._options.floor, self._options.max_detections
        return [
            Detections.of(box, score, label, width=pixels.shape[1], height=pixels.shape[0], floor=floor, limit=limit)
            for pixels, box, score, label in found
        ]

    def _candidates(self, images: Sequence[np.ndarray], first: int) -> Candidates:
        """One run of the model, over images that start at position `first`: boxes in pixels of each image."""
        tensor, geometry = self._input.prepare(images, self._fixed_batch or len(images))
        try:
            outputs = self._session.run(None, {self._tensor: tensor.astype(self._dtype, copy=False)})
        except Exception as error:  # ONNX Runtime's errors share no narrower class
            raise TeacherError(f"{self._model_path} failed in ONNX Runtime: {_first_line(error)}") from error
        outputs = [np.asarray(output[: len(images)], np.float32) for output in outputs]
        with np.errstate(over="ignore", invalid="ignore"):  # refused below, with a sentence
            found = self._decode(outputs)
        if not all(np.isfinite(array).all() for array in (*outputs, found.boxes)):
            raise TeacherError(f"the output of {self._model_path} holds a NaN or infinite number")
        offset, scale = geometry[found.image, :2], geometry[found.image, 2:]
        boxes = (found.boxes - np.tile(offset, 2)) / np.tile(scale, 2)
        return Candidates(found.image + first, boxes, found.scores, found.labels)


class YoloxDecoder:
    """YOLOX's raw output (B, A, 5 + C), arXiv 2107.08430: for each cell of each level x, y, log w, log h in strides,
    then objectness and class scores after their sigmoid. A box's score is their product. A cell yields a candidate for
    every class at or above `floor`, as in YOLOX's class-aware export; each level of an image at most its `top_k` best.
    """

    def __init__(self, spec: ModelSpec, classes: int, floor: float, top_k: int | None) -> None:
        grids = [np.indices([side // stride for side in spec.input.size]) for stride in spec.strides]
        self._cells = np.concatenate([grid[::-1].reshape(2, -1).T for grid in grids]).astype(np.float32)
        self._level = np.repeat(np.arange(len(grids)), [grid[0].size for grid in grids])
        self._strides = np.asarray(spec.strides, np.float32)[self._level]
        self._classes, self._floor, self._top_k, self._spec = classes, np.float32(floor), top_k, spec

    def __call__(self, outputs: list[np.ndarray]) -> Candidates:
        output, expected = outputs[0], (len(self._cells), 5 + self._classes)
        if len(outputs) != 1 or output.shape[1:] != expected:
            raise TeacherError(
                f"decoder yolox expects one output of shape {expected} per image (input size {self._spec.input.size}, "
                f"strides {self._spec.strides}, {self._classes} classes), but the model gives "
                f"{', '.join(str(array.shape[1:]) for array in outputs)}: correct its YAML file"
            )
        all_scores = output[..., 4:5] * output[..., 5:]
        good = np.flatnonzero(all_scores >= self._floor)  # several times as fast as np.nonzero in three dimensions
        image, cell, label = np.unravel_index(good, all_scores.shape)
        scores = all_scores.ravel()[good]
        if self._top_k is not None:
            best = _best_per_level(scores, image, self._level[cell], self._top_k)
            image, cell, label, scores = image[best], cell[best], label[best], scores[best]
        raw, stride = output[image, cell, :4], self._strides[cell, None]
        center = (raw[:, :2] + self._cells[cell]) * stride
        half = np.exp(raw[:, 2:]) * (stride / 2)
        return Candidates(image, np.concatenate([center - half, center + half], 1), scores, label)


def _best_per_level(scores: np.ndarray, image: np.ndarray, level: np.ndarray, limit: int) -> np.ndarray:
    """Positions, rising, of the `limit` highest scores of each image and level."""
    order = np.lexsort((-scores, level, image))
    starts = np.flatnonzero(np.diff(image[order], prepend=-1) | np.diff(level[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[rank < limit])


def _decoder(spec_path: Path, spec: ModelSpec, classes: int, options: TeacherOptions) -> Decoder:
    match spec.decoder:
        case "yolox":
            return YoloxDecoder(spec, classes, options.floor, options.top_k)
        case other:
            raise TeacherError(f"{spec_path}: unknown decoder {other!r}: write one of yolox")


def _locate(path: Path, weights: str | None) -> tuple[Path, ModelSpec, Path]:
    """The YAML file, its content and the model file, from a path to either and the option `weights`."""
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


def _read_spec(path: Path) -> ModelSpec:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise TeacherError(f"{path} not found: write this YAML file with input, decoder and classes") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TeacherError(f"{path} cannot be read as YAML: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise TeacherError(f"{path} must be a YAML mapping with the keys {', '.join(ModelSpec.model_fields)}")
    try:
        return ModelSpec.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        match first["type"]:
            case "missing":
                reason = f"lacks the key {key}"
            case "extra_forbidden":
                reason = f"has an unknown key {key}: remove it or correct its name"
            case _:
                reason = f"has {key}: {first['input']!r}, but {first['msg'][0].lower()}{first['msg'][1:]}"
        raise TeacherError(f"{path} {reason}") from error


def _class_names(spec_path: Path, spec: ModelSpec) -> tuple[str, ...]:
    if (spec.classes is None) == (spec.classes_from is None):
        raise TeacherError(f"{spec_path} must have one of the keys classes and classes_from")
    if spec.classes is not None:
        names = spec.classes
    else:
        source = spec_path.parent / str(spec.classes_from)
        try:
            names = tuple(line.strip() for line in source.read_text("utf-8").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise TeacherError(f"classes_from in {spec_path} cannot be read: {_first_line(error)}") from error
    if not names:
        raise TeacherError(f"{spec_path} names no classes")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise TeacherError(f"{spec_path} names the class {repeated[0]!r} more than once")
    return names


def _open_session(model: Path, options: TeacherOptions) -> ort.InferenceSession:
    match options.device:
        case None | "cpu":
            providers = ["CPUExecutionProvider"]
        case "cuda":
            providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        case other:
            raise TeacherError(f"device {other!r} is not known to the ONNX teacher: write cpu or cuda")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or THREADS
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors only: its warnings are about the graph, nothing a user can act on
    # Idle threads that spin would take the cores from the threads that decode the next images.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if providers[0] not in ort.get_available_providers():
        raise TeacherError("device 'cuda' needs the package onnxruntime-gpu: install it, or write device: cpu")
    try:
        session = ort.InferenceSession(str(model), settings, providers=providers)
    except Exception as error:  # ONNX Runtime's errors share no narrower class
        raise TeacherError(f"{model} cannot be loaded by ONNX Runtime: {_first_line(error)}") from error
    if session.get_providers()[0] != providers[0]:  # it falls back in silence where the driver or a library is missing
        raise TeacherError("device 'cuda' could not be opened by ONNX Runtime: check the driver, or write device: cpu")
    return session


def _input_of(session: ort.InferenceSession, model: Path) -> tuple[str, type[Any], int | None]:
    """Name, type and, if it is fixed, batch size of the model's one input."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in DTYPES:
        found = ", ".join(f"{entry.name} {entry.type}" for entry in inputs)
        raise TeacherError(f"{model} has the inputs {found}: a model with one float32 or float16 image input is needed")
    batch = inputs[0].shape[0] if inputs[0].shape else None
    return inputs[0].name, DTYPES[inputs[0].type], batch if isinstance(batch, int) else None


def _parts(model: Path) -> list[Path]:
    """The model and, if its tensors lie outside of it, the files of external data that exporters put beside it."""
    return [model, *sorted(model.parent.glob(f"{glob.escape(model.name)}[._]data*"))]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

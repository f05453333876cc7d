"""Torchvision's detectors as teachers: any by name, with every hidden setting set and recorded."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import detection, get_model, get_model_weights, list_models
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from teachers.base import Detections, TeacherError, TeacherOptions

BACKGROUND = "__background__"
NO_CLASS = (BACKGROUND, "N/A")
"""Names of outputs that stand for no class, in torchvision's published models."""


class TorchvisionTeacher:
    """A detector of torchvision.models.detection, as a Teacher. Of Mask and Keypoint R-CNN only the boxes are used.

    `TeacherOptions.weights` is required: `DEFAULT` (or another name torchvision publishes weights under), which brings
    its classes, or a state dict, .safetensors or .pth, which needs `classes`: one name per output of the model, or one
    fewer, where output 0 is the background. Two-stage models and SSD always have that background; RetinaNet and FCOS
    have it if they were trained with labels from 1. Outputs named `__background__` or `N/A` are left out of `classes`.

    What the options set in torchvision (in two-stage models in `roi_heads`): floor -> score_thresh; nms_iou ->
    nms_thresh (an RPN keeps its own); top_k -> topk_candidates, per level, in SSD per class, in two-stage models the
    RPN's pre_nms_top_n, per level, and post_nms_top_n, per image; max_detections -> detections_per_img; min_size,
    max_size, upscale -> the resize. SSD stretches every image to its fixed size, small ones too, and refuses the sizes.

    float16 (GPU only) and bfloat16 run the convolutions and linear layers in that type; features, anchors, box decoding
    and scores stay in float32, since box coordinates in half precision would be off by pixels.

    Images are run together only if they are padded to the same size, so that an image's result does not depend on its
    batch mates beyond rounding. `predict` takes any number; the more, the fuller the batches of `batch_size`.
    `threads` sets torch's threads for the whole process.

    Raises TeacherError: on loading, for an unknown name, weights that are missing or do not fit, an option the model
    does not have; from `predict`, if the model fails.
    """

    def __init__(self, name: str, options: TeacherOptions) -> None:
        known = list_models(module=detection)
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3) or known
            raise TeacherError(f"torchvision has no detector {name!r}: did you mean {' or '.join(close)}?")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._device, self._dtype = _device(options), getattr(torch, options.dtype)
        model, outputs = _load(name, options)
        model.eval()
        self.classes = tuple(output for output in outputs if output not in NO_CLASS)
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise TeacherError(f"classes of {name} must be different names, not {', '.join(self.classes) or 'none'}")
        is_class = np.array([output not in NO_CLASS for output in outputs])
        self._position = np.where(is_class, np.cumsum(is_class) - 1, -1)
        self.batch_size = options.batch_size
        self._floor, self._limit = options.floor, options.max_detections
        self.description: Mapping[str, Any] = {
            "kind": "detection",
            "family": "torchvision",
            "model": name,
            "weights_sha256": state_sha256(model.state_dict()),
            "classes": list(self.classes),
            "class_outputs": np.flatnonzero(is_class).tolist(),
            "dtype": options.dtype,
            "floor": options.floor,
            **_configure(model, name, options),
        }
        self.runtime: Mapping[str, Any] = {
            "device": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        }
        _check_and_decode_in_float32(model)
        self._model = model.to(self._device)

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """See Teacher.predict."""
        alike = defaultdict(list)
        for i, image in enumerate(images):
            alike[self._padded_size(*image.shape[:2])].append(i)
        found: dict[int, Detections] = {}
        for indices in alike.values():
            for first in range(0, len(indices), self.batch_size):
                batch = indices[first : first + self.batch_size]
                found.update(zip(batch, self._run([images[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(images))]

    def _padded_size(self, height: int, width: int) -> tuple[int, ...]:
        transform = self._model.transform
        if not isinstance(transform, _Resize):
            return tuple(transform.fixed_size)
        step = transform.size_divisible
        return tuple(math.ceil(side / step) * step for side in transform.resized(height, width))

    def _run(self, images: list[np.ndarray]) -> list[Detections]:
        autocast = torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)
        try:
            with torch.inference_mode(), autocast:
                # copied, since torch warns of arrays that are read-only
                pixels = (torch.from_numpy(image.copy()).to(self._device) for image in images)
                outputs = self._model([image.permute(2, 0, 1).float() / 255 for image in pixels])
                outputs = [{key: value.cpu().numpy() for key, value in output.items()} for output in outputs]
        except torch.OutOfMemoryError as error:
            sizes = ", ".join("x".join(map(str, image.shape[1::-1])) for image in images)
            raise TeacherError(f"out of memory on images of {sizes} pixels: lower batch_size or max_size") from error
        except RuntimeError as error:
            raise TeacherError(f"torchvision's model failed: {_first_line(error)}") from error
        return [self._detections(output, *image.shape[:2]) for output, image in zip(outputs, images, strict=True)]

    def _detections(self, output: dict[str, np.ndarray], height: int, width: int) -> Detections:
        label = self._position[output["labels"]]
        boxes, scores, label = output["boxes"][label >= 0], output["scores"][label >= 0], label[label >= 0]
        return Detections.of(boxes, scores, label, width=width, height=height, floor=self._floor, limit=self._limit)


class _Resize(GeneralizedRCNNTransform):
    """Torchvision's transform, which enlarges an image only if `upscale`, and never shrinks a side to nothing."""

    def __init__(self, model: GeneralizedRCNNTransform, options: TeacherOptions) -> None:
        min_size = options.min_size or model.min_size[-1]
        max_size = options.max_size or model.max_size
        super().__init__(min_size, max_size, model.image_mean, model.image_std, size_divisible=model.size_divisible)
        self.upscale = options.upscale

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing: the shorter side to min_size, or less to keep the longer within max_size."""
        scale = min(self.min_size[-1] / min(height, width), self.max_size / max(height, width))
        if scale >= 1 and not self.upscale:
            return height, width
        return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))

    def resize(self, image: Tensor, target: None = None) -> tuple[Tensor, None]:
        size = self.resized(image.shape[-2], image.shape[-1])
        if size == image.shape[-2:]:
            return image, None
        return nn.functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0], None


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256, hex, over the tensors of a state dict in the order of their names: name, type, shape and bytes of each.
    The format of the file they came from does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _device(options: TeacherOptions) -> torch.device:
    try:
        device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TeacherError(f"device {options.device!r} cannot be used ({_first_line(error)}): write cpu") from error
    if options.dtype == "float16" and device.type != "cuda":
        raise TeacherError(f"dtype float16 needs a GPU, but the device is {device}: write float32 or bfloat16")
    return device


def _load(name: str, options: TeacherOptions) -> tuple[Any, list[str]]:
    """The model with its weights, and the name of each of its outputs. (Typed Any: torchvision's families share
    attributes such as `transform`, but no type that has them.)"""
    published = get_model_weights(name).__members__
    if options.weights is None:
        raise TeacherError(f"{name} needs weights: set the teacher option weights to a file or to DEFAULT")
    if options.weights in published:
        return _load_published(name, published[options.weights], options)
    path = Path(options.weights)
    state = _read_state(path)
    count = _output_count(name, state, path)
    if options.classes is None:
        raise TeacherError(f"{path} has {count} outputs and no class names: set the teacher option classes to theirs")
    model = get_model(name, weights=None, weights_backbone=None, num_classes=count)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise TeacherError(f"{path} does not fit {name}: {reason[:200]}") from error
    return model, _name_outputs(model, name, count, list(options.classes))


def _load_published(name: str, weights: Any, options: TeacherOptions) -> tuple[Any, list[str]]:
    if options.classes is not None:
        raise TeacherError(f"{options.weights} weights of {name} bring their classes: remove the option classes")
    try:
        model = get_model(name, weights=weights, progress=False)
    except (OSError, RuntimeError) as error:  # no network, or a download with a wrong hash
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise TeacherError(f"{weights.url} was not fetched ({_first_line(error)}): put it into {folder}") from error
    # Output 0 is never a class in these, whatever its name ("no person" in Keypoint R-CNN).
    return model, [BACKGROUND, *weights.meta["categories"][1:]]


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise TeacherError(f"weights file {path} not found: name a .safetensors or .pth file, or DEFAULT")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes them raise almost anything
        raise TeacherError(f"weights file {path} cannot be read safely: {_first_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TeacherError(f"weights file {path} is no state dict: save model.state_dict() by itself")
    return state


def _output_count(name: str, state: Mapping[str, Tensor], path: Path) -> int:
    """How many outputs per box the weights were trained with, from the first layer whose size follows that number."""
    with torch.device("meta"):
        two, three = (
            get_model(name, weights=None, weights_backbone=None, num_classes=count).state_dict() for count in (2, 3)
        )
    key = next(key for key in two if two[key].shape != three[key].shape)
    if key not in state or state[key].ndim != two[key].ndim:
        raise TeacherError(f"{path} holds no weights of {name}: it lacks {key}")
    per_output = three[key].shape[0] - two[key].shape[0]
    return 2 + (state[key].shape[0] - two[key].shape[0]) // per_output


def _name_outputs(model: nn.Module, name: str, count: int, classes: list[str]) -> list[str]:
    if len(classes) == count - 1:
        classes = [BACKGROUND, *classes]
    elif len(classes) != count:
        raise TeacherError(f"{len(classes)} classes given for {count} outputs of {name}: give {count - 1} or {count}")
    if isinstance(model, GeneralizedRCNN | SSD) and classes[0] != BACKGROUND:
        raise TeacherError(f"output 0 of {name} is the background, not {classes[0]!r}: give {count - 1} classes")
    return classes


def _configure(model: Any, name: str, options: TeacherOptions) -> dict[str, Any]:
    """Set what the options set, and return all that was set or left, in torchvision's own words."""
    if isinstance(model, SSD):
        options.refuse(f"{name}, whose input size is fixed", "min_size", "max_size")
        resize: dict[str, Any] = {"fixed_size": list(model.transform.fixed_size)}
    else:
        model.transform = transform = _Resize(model.transform, options).eval()
        resize = {"min_size": transform.min_size[-1], "max_size": transform.max_size, "upscale": transform.upscale}
    resize |= {"mean": list(model.transform.image_mean), "std": list(model.transform.image_std)}
    stage = model.roi_heads if isinstance(model, GeneralizedRCNN) else model
    # Torchvision keeps scores above the threshold, we keep those at or above the floor.
    stage.score_thresh = float(np.nextafter(np.float32(options.floor), np.float32(-1)))
    stage.nms_thresh = stage.nms_thresh if options.nms_iou is None else options.nms_iou
    stage.detections_per_img = options.max_detections or stage.detections_per_img
    settings = {"resize": resize, "nms_thresh": stage.nms_thresh, "detections_per_img": stage.detections_per_img}
    if not isinstance(model, GeneralizedRCNN):
        model.topk_candidates = options.top_k or model.topk_candidates
        return {**settings, "topk_candidates": model.topk_candidates}
    stage.mask_roi_pool = stage.keypoint_roi_pool = None  # boxes only: switches these branches off
    rpn = model.rpn
    if options.top_k is not None:
        # Public only as keywords of the constructors, which some of the families hand on to the backbone, too.
        rpn._pre_nms_top_n["testing"] = rpn._post_nms_top_n["testing"] = options.top_k
    limits = {"pre_nms_top_n": rpn.pre_nms_top_n(), "post_nms_top_n": rpn.post_nms_top_n()}
    return {**settings, "rpn": {**limits, "nms_thresh": rpn.nms_thresh, "score_thresh": rpn.score_thresh}}


def _check_and_decode_in_float32(model: Any) -> None:
    """Bring what the backbone and the heads return back to float32: torchvision makes anchors in the features' type and
    decodes boxes in the heads', where 1000 pixels are known to 1 (float16) or 8 (bfloat16) pixels. And refuse a NaN
    there: torchvision would drop it as a low score, and the image would look empty."""
    heads = (model.rpn.head, model.roi_heads.box_predictor) if isinstance(model, GeneralizedRCNN) else (model.head,)
    for module in (model.backbone, *heads):
        module.register_forward_hook(lambda module, inputs, output: _finite_float32(output))


def _finite_float32(output: Any) -> Any:
    match output:
        case Tensor():
            if not output.isfinite().all():
                raise TeacherError("torchvision's model failed: a layer's output holds a NaN or infinite number")
            return output.float()
        case dict():
            return type(output)((key, _finite_float32(value)) for key, value in output.items())
        case _:
            return type(output)(_finite_float32(value) for value in output)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Torchvision's detectors as teachers: any by name, with every hidden setting set and recorded."""

from __future__ import annotations

import difflib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import detection, list_models, segmentation
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, paste_mask_in_image
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from teachers import masks
from teachers.base import Detections, Teacher, TeacherError, TeacherOptions
from teachers.from_torchvision.jitter import SEED, SPREAD, add_box_uncertainty
from teachers.from_torchvision.weights import (
    first_line,
    laid_out,
    load_model,
    on_device,
    pick_device,
    pixels_of,
    runtime_of,
    settle,
    state_sha256,
)
from teachers.stages import Stages

BACKGROUND = "__background__"
NO_CLASS = (BACKGROUND, "N/A")
"""Names of outputs that stand for no class, in torchvision's published models."""
MASK_THRESHOLD = 0.5
"""Probability above which a pixel belongs to a mask, as in torchvision's own evaluation."""


def load_torchvision(name: str, options: TeacherOptions) -> Teacher:
    """The detector, segmenter or classifier that torchvision calls `name`, as a Teacher of the kind it is made for.
    Raises TeacherError for an unknown name, and what its class does."""
    families = [list_models(module=module) for module in (detection, segmentation, torchvision.models)]
    known = [model for family in families for model in family]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3) or families[0]
        raise TeacherError(f"torchvision has no model {name!r} that labels images: did you mean {' or '.join(close)}?")
    if name in families[0]:
        return TorchvisionDetector(name, options)
    from teachers.from_torchvision.pixels import TorchvisionClassifier, TorchvisionSegmenter

    return TorchvisionSegmenter(name, options) if name in families[1] else TorchvisionClassifier(name, options)


class Found(NamedTuple):
    """What torchvision's model gave for an image of so many pixels."""

    output: dict[str, Tensor]
    height: int
    width: int


class TorchvisionDetector:
    """A detector of torchvision.models.detection, as a Teacher: of the kind instance for Mask R-CNN, unless the option
    `masks` is False, else of the kind detection. (Of Keypoint R-CNN only the boxes are used.)

    A mask covers the pixels that torchvision, pasting its 28 x 28 probabilities into the box, puts above .5; an object
    without any is left out. Torchvision gives no quality of masks.

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

    Raises TeacherError: on loading, for weights that are missing or do not fit, an option the model does not have; from
    `predict`, if the model fails.
    """

    def __init__(self, name: str, options: TeacherOptions) -> None:
        self._device, self._dtype = pick_device(options), getattr(torch, options.dtype)
        model, count, published = load_model(name, options)
        # Output 0 is never a class in published weights, whatever its name ("no person" in Keypoint R-CNN).
        outputs = (
            [BACKGROUND, *published.meta["categories"][1:]]
            if count is None
            else _name_outputs(model, name, count, list(options.classes or ()))
        )
        model.eval()
        self._instances = isinstance(model, MaskRCNN) and options.masks
        if not isinstance(model, MaskRCNN):
            options.refuse(f"{name}, which gives only boxes", "masks")
        if not isinstance(model, GeneralizedRCNN):
            options.refuse(f"{name}, which has no second stage", "jitter")
        self.classes = tuple(output for output in outputs if output not in NO_CLASS)
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise TeacherError(f"classes of {name} must be different names, not {', '.join(self.classes) or 'none'}")
        is_class = np.array([output not in NO_CLASS for output in outputs])
        self._position = np.where(is_class, np.cumsum(is_class) - 1, -1)
        self.batch_size = options.batch_size
        self._floor, self._limit = options.floor, options.max_detections
        self.description: Mapping[str, Any] = {
            "kind": "instance" if self._instances else "detection",
            "family": "torchvision",
            "model": name,
            "weights_sha256": state_sha256(model.state_dict()),
            "classes": list(self.classes),
            "class_outputs": np.flatnonzero(is_class).tolist(),
            "dtype": options.dtype,
            "floor": options.floor,
            **_configure(model, name, options),
        }
        self.runtime: Mapping[str, Any] = runtime_of(self._device)
        _check_and_decode_in_float32(model)
        _settle_strides(model)
        self._model = laid_out(model, self._device, self._dtype)
        self.stages = Stages(self._prepare, self._run, self._finish, partial(settle, self._device))

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """See Teacher.predict."""
        return self._finish(self._run([self._prepare(image) for image in images]))

    def _prepare(self, image: np.ndarray) -> Tensor:
        return pixels_of(image, self._device)

    def _run(self, images: Sequence[Tensor]) -> list[Found]:
        alike = defaultdict(list)
        for i, image in enumerate(images):
            alike[self._padded_size(*image.shape[:2])].append(i)
        results: dict[int, Found] = {}
        for indices in alike.values():
            for first in range(0, len(indices), self.batch_size):
                batch = indices[first : first + self.batch_size]
                results.update(zip(batch, self._forward([images[i] for i in batch]), strict=True))
        return [results[i] for i in range(len(images))]

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        """See Resizing. Raises TeacherError for SSD, whose size is fixed."""
        transform = self._model.transform
        if not isinstance(transform, _Resize):
            raise TeacherError("SSD stretches every image to one size: remove scales from tta")
        transform.scale = scale
        try:
            yield
        finally:
            transform.scale = 1.0

    def _padded_size(self, height: int, width: int) -> tuple[int, ...]:
        transform = self._model.transform
        if not isinstance(transform, _Resize):
            return tuple(transform.fixed_size)
        step = transform.size_divisible
        return tuple(math.ceil(side / step) * step for side in transform.resized(height, width))

    def _forward(self, images: list[Tensor]) -> list[Found]:
        with self._running(images):
            outputs = self._model([on_device(image, self._device).float() / 255 for image in images])
            return [Found(output, *image.shape[:2]) for output, image in zip(outputs, images, strict=True)]

    def _finish(self, found: Sequence[Found]) -> list[Detections]:
        results = []
        for output, height, width in found:
            with self._running([]):
                results.append(self._detections(output, height, width))
        return results

    @contextmanager
    def _running(self, images: list[Tensor]) -> Iterator[None]:
        autocast = torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)
        try:
            with torch.inference_mode(), autocast:
                yield
        except torch.OutOfMemoryError as error:
            sizes = ", ".join(f"{image.shape[1]}x{image.shape[0]}" for image in images) or "this size"
            raise TeacherError(f"out of memory on images of {sizes} pixels: lower batch_size or max_size") from error
        except RuntimeError as error:
            raise TeacherError(f"torchvision's model failed: {first_line(error)}") from error

    def _detections(self, output: dict[str, Tensor], height: int, width: int) -> Detections:
        boxes, scores = output["boxes"].cpu().numpy(), output["scores"].cpu().numpy()
        label = self._position[output["labels"].cpu().numpy()]
        good, codes = label >= 0, None
        unsure = output["uncertainty"].cpu().numpy() if "uncertainty" in output else None
        if self._instances:
            codes = paste_masks(output["masks"], output["boxes"], height, width)
            good &= masks.area(codes, height, width) > 0
            codes = [codes[n] for n in np.flatnonzero(good)]
        return Detections.of(
            *(boxes[good], scores[good], label[good]),
            width=width,
            height=height,
            floor=self._floor,
            limit=self._limit,
            masks=codes,
            uncertainty=None if unsure is None else unsure[good],
        )


def paste_masks(small: Tensor, boxes: Tensor, height: int, width: int) -> list[bytes]:
    """Run-length codes of the masks (N, 1, M, M), probabilities inside the boxes (N, 4), as torchvision pastes them,
    but one at a time and only inside the box: it would hold 4 bytes for each pixel of the image and each object."""
    padded, scale = expand_masks(small, padding=1)
    windows = expand_boxes(boxes, scale).to(torch.int64).cpu()
    codes: list[bytes] = []
    for mask, window in zip(padded, windows, strict=True):
        left, top = window[:2].clamp(min=0).tolist()
        right, bottom = (window[2:] + 1).minimum(torch.tensor([width, height])).tolist()
        plane = np.zeros((height, width), bool, order="F")  # the order that run-length codes go by
        if right > left and bottom > top:
            moved = window - torch.tensor([left, top, left, top])
            part = paste_mask_in_image(mask[0], moved, bottom - top, right - left) > MASK_THRESHOLD
            plane[top:bottom, left:right] = part.cpu().numpy()
        codes += masks.encode(plane[None])
    return codes


class _Resize(GeneralizedRCNNTransform):
    """Torchvision's transform, which enlarges an image only if `upscale`, never shrinks a side to nothing, and leaves
    the pasting of masks to us."""

    def __init__(self, model: GeneralizedRCNNTransform, options: TeacherOptions) -> None:
        min_size = options.min_size or model.min_size[-1]
        max_size = options.max_size or model.max_size
        super().__init__(min_size, max_size, model.image_mean, model.image_std, size_divisible=model.size_divisible)
        self.upscale, self.scale = options.upscale, 1.0

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing: the shorter side to min_size, or less to keep the longer within max_size;
        then both by `scale`."""
        scale = min(self.min_size[-1] / min(height, width), self.max_size / max(height, width))
        scale = self.scale * (1 if scale >= 1 and not self.upscale else scale)
        if scale == 1:
            return height, width
        return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))

    def resize(self, image: Tensor, target: None = None) -> tuple[Tensor, None]:
        size = self.resized(image.shape[-2], image.shape[-1])
        if size == image.shape[-2:]:
            return image, None
        return nn.functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0], None

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: list[tuple[int, int]], originals: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        for detections, size, original in zip(result, image_shapes, originals, strict=True):
            detections["boxes"] = resize_boxes(detections["boxes"], size, original)
        return result


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
    stage.keypoint_roi_pool = None  # boxes and masks only: switches the branch off
    if not (isinstance(model, MaskRCNN) and options.masks):
        stage.mask_roi_pool = None
    else:
        settings["mask_threshold"] = MASK_THRESHOLD
    if options.jitter is not None:
        add_box_uncertainty(stage, options.jitter)
        settings["jitter"] = {"times": options.jitter, "spread": SPREAD, "seed": SEED}
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
    if not isinstance(model, GeneralizedRCNN):
        heads = [model.head]
    else:
        heads = [model.rpn.head, model.roi_heads.box_predictor]
        heads += [model.roi_heads.mask_predictor] if model.roi_heads.has_mask() else []
    for module in (model.backbone, *heads):
        module.register_forward_hook(lambda module, inputs, output: _finite_float32(output))


def _settle_strides(model: Any) -> None:
    """Tell a second stage the strides of its features from an image whose sides are whole multiples of them.
    MultiScaleRoIAlign guesses them from the first images it ever sees, which may be so small that padding misleads it,
    and keeps them: all later images would be pooled from wrong places."""
    if not isinstance(model, GeneralizedRCNN):
        return
    side = 8 * model.transform.size_divisible
    box = [torch.tensor([[0.0, 0.0, side, side]])]
    with torch.inference_mode():
        features = model.backbone(torch.zeros(1, 3, side, side))
        for pool in (model.roi_heads.box_roi_pool, model.roi_heads.mask_roi_pool):
            if pool is not None:
                pool(features, box, [(side, side)])


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

"""Torchvision's classifiers and semantic segmenters as teachers, with their published pre-processing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.transforms import functional as pixel
from torchvision.transforms._presets import ImageClassification, SemanticSegmentation

from teachers.base import ClassProbabilities, SemanticMap, TeacherError, TeacherOptions
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
from teachers.images import middle
from teachers.stages import Stages

NO_CLASS = "N/A"
"""Name of an output that stands for no class: it takes part in the softmax, and is left out then."""


class TorchvisionClassifier:
    """A classifier of torchvision.models, as a Teacher: the softmax of its outputs, all classes.

    `TeacherOptions.weights` is required: `DEFAULT` (or another name torchvision publishes weights under), which brings
    its classes and its pre-processing, or a state dict, .safetensors or .pth, which needs `classes`: one name per
    output; it is fed like the model's DEFAULT weights. That pre-processing: the shorter side is brought to so many
    pixels, larger or smaller, and the middle square cut out (so what lies at the far ends of a long image is not seen).
    min_size replaces both sizes by one. Every probability is stored, so there is no floor. Outputs called "N/A" are no
    classes. float16 (GPU only) and bfloat16: see TorchvisionDetector. All images have the same size, so an image's
    result does not depend on its batch mates beyond rounding.

    Raises TeacherError: on loading, for weights that are missing or do not fit and for an option that has no meaning
    here; from `predict`, if the model fails.
    """

    def __init__(self, name: str, options: TeacherOptions) -> None:
        options.refuse(f"{name}, a classifier", *NO_BOXES, "max_size", "upscale")
        self._device, self._dtype = pick_device(options), getattr(torch, options.dtype)
        model, count, published = load_model(name, options)
        self.classes, self._columns = _classes(name, count, published, options)
        self._prepare = _classifier_preset(published or get_model_weights(name).DEFAULT, options.min_size)
        self.batch_size = options.batch_size
        self.description: Mapping[str, Any] = {
            "kind": "classification",
            **_described(name, model, self.classes, self._columns, options),
            "resize": {
                "shorter_side": self._prepare.resize_size[0],
                "crop": self._prepare.crop_size[0],
                "interpolation": self._prepare.interpolation.value,
                "mean": self._prepare.mean,
                "std": self._prepare.std,
            },
        }
        self.runtime: Mapping[str, Any] = runtime_of(self._device)
        self._model = laid_out(model.eval(), self._device, self._dtype)
        self.stages = Stages(self._see, self._logits, self._finish, partial(settle, self._device))

    def predict(self, images: Sequence[np.ndarray]) -> list[ClassProbabilities]:
        """See Teacher.predict."""
        results: list[ClassProbabilities] = []
        for first in range(0, len(images), self.batch_size):
            results += self.stages.predict(images[first : first + self.batch_size])  # type: ignore[arg-type]
        return results

    def _see(self, image: np.ndarray) -> Tensor:
        return pixels_of(middle(image), self._device)

    def _logits(self, images: Sequence[Tensor]) -> Tensor:
        logits = _run(partial(self._forward, images), self._device, self._dtype)
        if logits.shape != (len(images), self._columns.size):
            raise TeacherError(f"torchvision's model gives {tuple(logits.shape)}, not (images, outputs)")
        return logits

    def _finish(self, logits: Tensor) -> list[ClassProbabilities]:
        probabilities = logits.softmax(1).cpu().numpy()[:, self._columns].clip(0, 1)
        return [ClassProbabilities(row) for row in probabilities]

    def _forward(self, images: Sequence[Tensor]) -> Tensor:
        return self._model(torch.stack([self._prepare(on_device(image, self._device)) for image in images]))


class TorchvisionSegmenter:
    """A segmenter of torchvision.models.segmentation, as a Teacher: at each pixel the class of the highest softmax.

    weights and classes: as in TorchvisionClassifier; the background, where a model has one, is a class like others
    (torchvision's `__background__` is called "background"). Auxiliary classifiers, which only training uses, are left
    out. Outputs called "N/A" are no classes: a pixel is then the likeliest class besides, with the low probability it
    has. The shorter side of an image is brought to min_size pixels, or less to keep the longer within max_size; by
    default 520 for published weights, as they were evaluated, and the image's own size for a state dict. Images are
    enlarged only on request (`upscale`). The logits are brought back to the image's size, bilinear, before the softmax.
    Every pixel is stored, so there is no floor. Images are run together only if they have the same size.

    Raises TeacherError: as TorchvisionClassifier.
    """

    def __init__(self, name: str, options: TeacherOptions) -> None:
        options.refuse(f"{name}, a segmenter", *NO_BOXES)
        self._device, self._dtype = pick_device(options), getattr(torch, options.dtype)
        model, count, published = load_model(name, options)
        self.classes, self._columns = _classes(name, count, published, options)
        model.aux_classifier = None
        preset: SemanticSegmentation = (published or get_model_weights(name).DEFAULT).transforms()
        self._mean, self._std = preset.mean, preset.std
        self._min_size = options.min_size or (preset.resize_size[0] if published else None)
        self._max_size, self._upscale, self._scale = options.max_size, options.upscale, 1.0
        self.batch_size = options.batch_size
        self.description: Mapping[str, Any] = {
            "kind": "semantic",
            **_described(name, model, self.classes, self._columns, options),
            "resize": {
                "min_size": self._min_size,
                "max_size": self._max_size,
                "upscale": self._upscale,
                "mean": self._mean,
                "std": self._std,
            },
        }
        self.runtime: Mapping[str, Any] = runtime_of(self._device)
        self._model = laid_out(model.eval(), self._device, self._dtype)
        see, read = partial(pixels_of, device=self._device), partial(self._read, SemanticMap.of)
        self.stages = Stages(see, self._run, read, partial(settle, self._device))

    def predict(self, images: Sequence[np.ndarray]) -> list[SemanticMap]:
        """See Teacher.predict."""
        return self._each(images, SemanticMap.of)

    def predict_probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The probability of each class at each pixel of each image: float32 (C, H, W), of the upright image."""
        return self._each(images, lambda probabilities: probabilities)

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        """See Resizing."""
        self._scale = scale
        try:
            yield
        finally:
            self._scale = 1.0

    def _each(self, images: Sequence[np.ndarray], reduce: Callable[[np.ndarray], Any]) -> list[Any]:
        """`reduce` of each image's probabilities, which are held for one image at a time."""
        pixels = [pixels_of(image, self._device) for image in images]
        results = {i: reduce(self._probabilities(*logits)) for i, logits in self._ran(pixels)}
        return [results[i] for i in range(len(images))]

    def _run(self, images: Sequence[Tensor]) -> list[tuple[Tensor, int, int]]:
        ran = dict(self._ran(images))
        return [ran[i] for i in range(len(images))]

    def _ran(self, images: Sequence[Tensor]) -> Iterator[tuple[int, tuple[Tensor, int, int]]]:
        """The place of each image, its logits, its height and its width. Those of one size are run together."""
        alike = defaultdict(list)
        for i, image in enumerate(images):
            alike[self._resized(*image.shape[:2])].append(i)
        for size, indices in alike.items():
            for first in range(0, len(indices), self.batch_size):
                batch = indices[first : first + self.batch_size]
                for i, low in zip(batch, self._logits([images[i] for i in batch], size), strict=True):
                    yield i, (low, *images[i].shape[:2])

    def _read(self, reduce: Callable[[np.ndarray], Any], ran: Sequence[tuple[Tensor, int, int]]) -> list[Any]:
        return [reduce(self._probabilities(*logits)) for logits in ran]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width as the model sees them. The sides are rounded as torchvision's resize does."""
        short, long = sorted((height, width))
        to = (self._min_size, int(self._min_size * long / short)) if self._min_size else (short, long)
        if self._max_size and to[1] > self._max_size:
            to = (max(1, int(self._max_size * short / long)), self._max_size)
        if to[0] >= short and not self._upscale:
            to = short, long
        if self._scale != 1:
            to = max(1, round(to[0] * self._scale)), max(1, round(to[1] * self._scale))
        return to if height <= width else (to[1], to[0])

    def _logits(self, images: list[Tensor], size: tuple[int, int]) -> Tensor:
        def forward() -> Tensor:
            resized = [pixel.resize(on_device(image, self._device), list(size), antialias=True) for image in images]
            batch = pixel.normalize(torch.stack(resized).float() / 255, self._mean, self._std)
            return self._model(batch)["out"]

        return _run(forward, self._device, self._dtype)

    def _probabilities(self, logits: Tensor, height: int, width: int) -> np.ndarray:
        def enlarge() -> Tensor:
            full = nn.functional.interpolate(logits[None], size=(height, width), mode="bilinear", align_corners=False)
            return full[0].softmax(0)

        probabilities = _run(enlarge, self._device, torch.float32).cpu().numpy()
        return probabilities if self._columns.all() else probabilities[self._columns]


NO_BOXES = ("floor", "nms_iou", "top_k", "max_detections", "masks", "jitter")
"""Options that mean something only where there are boxes."""


def _classes(
    name: str, count: int | None, published: Any, options: TeacherOptions
) -> tuple[tuple[str, ...], np.ndarray]:
    """The teacher's classes, and for each output whether it is one: bool (outputs,)."""
    if count is None:
        names = [entry.replace("__background__", "background") for entry in published.meta["categories"]]
    else:
        names = list(options.classes or ())
        if len(names) != count:
            raise TeacherError(f"{len(names)} classes given for {count} outputs of {name}: give {count}")
    is_class = np.array([entry != NO_CLASS for entry in names])
    classes = tuple(entry for entry in names if entry != NO_CLASS)
    if len(set(classes)) != len(classes) or not classes:
        raise TeacherError(f"classes of {name} must be different names, not {', '.join(classes) or 'none'}")
    return classes, is_class


def _classifier_preset(weights: Any, size: int | None) -> ImageClassification:
    preset: ImageClassification = weights.transforms()
    if size is None:
        return preset
    return ImageClassification(
        crop_size=size,
        resize_size=size,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation,
        antialias=preset.antialias,
    )


def _described(
    name: str, model: nn.Module, classes: tuple[str, ...], columns: np.ndarray, options: TeacherOptions
) -> dict[str, Any]:
    return {
        "family": "torchvision",
        "model": name,
        "weights_sha256": state_sha256(model.state_dict()),
        "classes": list(classes),
        "class_outputs": np.flatnonzero(columns).tolist(),
        "dtype": options.dtype,
        "floor": 0.0,
    }


def _run(forward: Callable[[], Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
    """What `forward` gives, as float32; its errors, and a NaN, as a TeacherError."""
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output = forward().float()
    except torch.OutOfMemoryError as error:
        raise TeacherError("out of memory: lower batch_size or max_size") from error
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise TeacherError(f"torchvision's model failed: {first_line(error)}") from error
    if not output.isfinite().all():
        raise TeacherError("torchvision's model failed: its output holds a NaN or infinite number")
    return output

"""A trained student as a teacher: the checkpoint of a run, with the pre-processing it was trained with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from teachers import masks
from teachers.base import (
    OF_BOXES,
    ClassProbabilities,
    Detections,
    Prediction,
    SemanticMap,
    TeacherError,
    TeacherOptions,
)
from teachers.from_torchvision.detectors import paste_masks
from teachers.from_torchvision.weights import laid_out, on_device, pixels_of, settle
from teachers.networks.checkpoints import load_checkpoint
from teachers.networks.config import Arch, NetworkConfig, kind_of
from teachers.networks.parts import SquareTransform
from teachers.stages import Stages

FAMILY = "a checkpoint, which brings its own weights, classes and size"
_END = object()


class CheckpointTeacher:
    """The network in a run folder (`model.safetensors` and `meta.json`), as a Teacher of the kind it was trained for.

    Options that are None keep torchvision's values for the architecture: NMS at IoU .6 (FCOS) or .5 (RetinaNet, Mask
    R-CNN), 1000 candidates per level, 100 or 300 boxes per image; classifiers and segmenters have none of the three,
    nor a floor. float16 (GPU only) and bfloat16 run the convolutions in that type; anchors, boxes and scores stay
    float32. Every image is padded to the square the student was trained on, so its result does not depend on its batch
    mates beyond rounding.

    trained_on: SHA-256, hex, of every image the network has learned from, directly or through the run it started from:
    not to be calibrated or evaluated on. It is no part of the fingerprint, as it does not decide predictions.
    Raises TeacherError: on loading, if the run is missing or half-written or for an option that has no meaning here;
    from `predict`, if the network fails.
    """

    def __init__(self, run: str | Path, options: TeacherOptions) -> None:
        without = ("min_size", "max_size", "upscale", "weights", "classes", "jitter", "task", "prompts", "format")
        options.refuse(FAMILY, "masks", *without)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        network, config, meta = load_checkpoint(Path(run))
        self._set_up(network, config, options, meta.weights.sha256, meta.trained_on)

    @classmethod
    def of(cls, network: nn.Module, config: NetworkConfig, options: TeacherOptions) -> CheckpointTeacher:
        """A network in evaluation mode that is in no run, and is this teacher's from here on."""
        teacher = cls.__new__(cls)
        teacher._set_up(network, config, options, "", [])
        return teacher

    def _set_up(
        self, network: nn.Module, config: NetworkConfig, options: TeacherOptions, sha256: str, trained_on: list[str]
    ) -> None:
        assert config.arch is not None  # or there would be no network
        self.kind = kind_of(config.arch)
        settings = _settings(network, config.arch, options)
        self.classes: tuple[str, ...] = config.classes
        self.batch_size = options.batch_size
        self.trained_on = trained_on
        self._floor, self._dtype = options.floor, getattr(torch, options.dtype)
        try:
            self._device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self._network = laid_out(network, self._device, self._dtype)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise TeacherError(f"device {options.device!r} cannot be used ({reason}): write cpu or cuda") from error
        if self._dtype == torch.float16 and self._device.type != "cuda":
            raise TeacherError(f"dtype float16 needs a GPU, but the device is {self._device}: write bfloat16")
        see = partial(pixels_of, device=self._device)
        self.stages = Stages(see, self._run, self._finish, partial(settle, self._device))
        described = asdict(config)
        del described["pretrained"]  # the weights are the trained ones
        self.description: Mapping[str, Any] = {
            "kind": self.kind,
            "family": "checkpoint",
            "weights_sha256": sha256,
            "classes": list(config.classes),
            "network": described,
            **settings,
            "dtype": options.dtype,
        }
        self.runtime: Mapping[str, Any] = {
            "device": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        }

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """See Teacher.predict."""
        results: list[Prediction] = []
        for first in range(0, len(images), self.batch_size):
            results += self.stages.predict(images[first : first + self.batch_size])
        return results

    def _finish(self, ran: Iterable[tuple[Any, Tensor]]) -> list[Prediction]:
        match self.kind:
            case "classification":
                return [ClassProbabilities(_rounded(output)) for output, _ in ran]
            case "semantic":
                return [SemanticMap.of(output.cpu().numpy()) for output, _ in ran]
            case _:
                return [self._detections(output, *pixels.shape[:2]) for output, pixels in ran]

    def predict_probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of a segmenter: the probabilities of all classes in each pixel, float32 (C, H, W) per image."""
        if self.kind != "semantic":
            raise TeacherError(f"a checkpoint of kind {self.kind} has no probabilities of pixels: give a segmenter")
        return [output.cpu().numpy() for output in self._outputs(images)]

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        """See Resizing: the longer side of an image becomes `scale` times what it was in training."""
        transform = cast(SquareTransform, self._network.transform)
        usual = transform.size
        transform.size = max(1, round(usual * scale))
        try:
            yield
        finally:
            transform.size = usual

    def _outputs(self, images: Sequence[np.ndarray]) -> Iterator[Any]:
        """What the network says of each image, one after the other, so that only one map need be in memory."""
        for first in range(0, len(images), self.batch_size):
            batch = images[first : first + self.batch_size]
            yield from (output for output, _ in self._run([pixels_of(image, self._device) for image in batch]))

    def _run(self, images: Sequence[Tensor]) -> Iterator[tuple[Any, Tensor]]:
        """What the network says of each image of a batch, and the image. The network has run; a segmenter makes its
        maps one after the other, as they are taken."""
        with self._running():
            results = iter(self._network([on_device(image, self._device) for image in images]))
            first = next(results)
        return zip(self._going_on(first, results), images, strict=True)

    def _going_on(self, output: Any, results: Iterator[Any]) -> Iterator[Any]:
        while output is not _END:
            yield output
            with self._running():  # a segmenter goes on here
                output = next(results, _END)

    @contextmanager
    def _running(self) -> Iterator[None]:
        autocast = torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)
        try:
            with torch.inference_mode(), autocast:
                yield
        except torch.OutOfMemoryError as error:
            raise TeacherError(f"out of memory on {self.batch_size} images at once: lower batch_size") from error
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise TeacherError(f"the checkpoint's network failed: {reason}") from error

    def _detections(self, output: Mapping[str, Tensor], height: int, width: int) -> Detections:
        boxes, scores, labels = (output[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
        if self.kind == "detection":
            return Detections.of(boxes, scores, labels, width=width, height=height, floor=self._floor)
        codes = paste_masks(output["masks"].float(), output["boxes"], height, width)
        seen = np.flatnonzero(masks.area(codes, height, width))  # what has no pixel is no instance
        return Detections.of(
            *(boxes[seen], scores[seen], labels[seen] - 1),  # Mask R-CNN counts from 1
            width=width,
            height=height,
            floor=self._floor,
            masks=[codes[n] for n in seen],
        )


def _settings(network: Any, arch: Arch, options: TeacherOptions) -> dict[str, Any]:
    """Set what options say of the boxes a network gives; the values in force, for the description."""
    if kind_of(arch) not in OF_BOXES:
        options.refuse(
            f"a checkpoint of arch {arch}, which finds no boxes", "floor", "nms_iou", "top_k", "max_detections"
        )
        return {"floor": 0.0}
    stage = network.roi_heads if arch == "maskrcnn" else network
    stage.score_thresh = float(np.nextafter(np.float32(options.floor), np.float32(-1)))  # it keeps what is above
    if options.nms_iou is not None:
        stage.nms_thresh = options.nms_iou
    if options.max_detections is not None:
        stage.detections_per_img = options.max_detections
    settings = {
        "floor": options.floor,
        "nms_iou": stage.nms_thresh,
        "max_detections": stage.detections_per_img,
    }
    if arch != "maskrcnn":
        network.topk_candidates = options.top_k or network.topk_candidates
        return {**settings, "top_k": network.topk_candidates}
    if options.top_k is not None:
        network.rpn._pre_nms_top_n["testing"] = network.rpn._post_nms_top_n["testing"] = options.top_k
    return {**settings, "top_k": network.rpn._pre_nms_top_n["testing"]}


def _rounded(probabilities: Tensor) -> np.ndarray:
    """float32 (C,), not a rounding error above 1."""
    return np.asarray(probabilities.clamp(0, 1).cpu().numpy())

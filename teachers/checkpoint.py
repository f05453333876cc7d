"""A trained student as a teacher: the checkpoint of a run, with the pre-processing it was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from teachers.base import Detections, TeacherError, TeacherOptions
from teachers.networks import load_checkpoint


class CheckpointTeacher:
    """The network in a run folder (`model.safetensors` and `meta.json`), as a Teacher.

    Options that are None keep torchvision's values for the architecture: NMS at IoU .6 (FCOS) or .5 (RetinaNet), 1000
    candidates per level, 100 or 300 boxes per image. float16 (GPU only) and bfloat16 run the convolutions in that
    type; anchors, boxes and scores stay float32. Every image is padded to the square the student was trained on, so
    its result does not depend on its batch mates beyond rounding.

    trained_on: SHA-256, hex, of every image the network has learned from, directly or through the run it started from:
    not to be calibrated or evaluated on. It is no part of the fingerprint, as it does not decide predictions.
    Raises TeacherError: on loading, if the run is missing or half-written or for an option that has no meaning here;
    from `predict`, if the network fails.
    """

    def __init__(self, run: str | Path, options: TeacherOptions) -> None:
        family = "a checkpoint, which brings its own weights, classes and size"
        options.refuse(family, "min_size", "max_size", "upscale", "weights", "classes")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        network, config, meta = load_checkpoint(Path(run))
        network.score_thresh = float(np.nextafter(np.float32(options.floor), np.float32(-1)))  # it keeps what is above
        for ours, theirs in (
            ("nms_iou", "nms_thresh"),
            ("top_k", "topk_candidates"),
            ("max_detections", "detections_per_img"),
        ):
            if getattr(options, ours) is not None:
                setattr(network, theirs, getattr(options, ours))
        self.classes: tuple[str, ...] = config.classes
        self.batch_size = options.batch_size
        self.trained_on: list[str] = meta["trained_on"]
        self._floor, self._dtype = options.floor, getattr(torch, options.dtype)
        try:
            self._device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self._network = network.to(self._device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise TeacherError(f"device {options.device!r} cannot be used ({reason}): write cpu or cuda") from error
        if self._dtype == torch.float16 and self._device.type != "cuda":
            raise TeacherError(f"dtype float16 needs a GPU, but the device is {self._device}: write bfloat16")
        described = asdict(config)
        del described["pretrained"]  # the weights are the trained ones
        self.description: Mapping[str, Any] = {
            "kind": "detection",
            "family": "checkpoint",
            "weights_sha256": meta["weights"]["sha256"],
            "classes": list(config.classes),
            "network": described,
            "floor": options.floor,
            "nms_iou": network.nms_thresh,
            "top_k": network.topk_candidates,
            "max_detections": network.detections_per_img,
            "dtype": options.dtype,
        }
        self.runtime: Mapping[str, Any] = {
            "device": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        }

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """See Teacher.predict."""
        outputs: list[dict[str, torch.Tensor]] = []
        autocast = torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)
        try:
            with torch.inference_mode(), autocast:
                for first in range(0, len(images), self.batch_size):
                    batch = images[first : first + self.batch_size]
                    # copied, since torch warns of arrays that are read-only
                    pixels = [torch.from_numpy(image.copy()).to(self._device).permute(2, 0, 1) for image in batch]
                    outputs += self._network(pixels)
        except torch.OutOfMemoryError as error:
            raise TeacherError(f"out of memory on {self.batch_size} images at once: lower batch_size") from error
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise TeacherError(f"the checkpoint's network failed: {reason}") from error
        return [self._detections(output, image) for output, image in zip(outputs, images, strict=True)]

    def _detections(self, output: Mapping[str, torch.Tensor], image: np.ndarray) -> Detections:
        boxes, scores, labels = (output[name].cpu().numpy() for name in ("boxes", "scores", "labels"))
        return Detections.of(boxes, scores, labels, width=image.shape[1], height=image.shape[0], floor=self._floor)

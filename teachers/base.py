"""What every teacher shares: its protocol, its options and the value types of a prediction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np

DTYPES = ("float32", "float16", "bfloat16")


class TeacherError(Exception):
    """A teacher that cannot be loaded, or that failed while predicting. The message is one sentence for the user."""


@dataclass(frozen=True)
class Detections:
    """The raw boxes of one image.

    boxes: float32 (N, 4), `xyxy`, pixels of the upright image; scores: float32 (N,), in [0, 1], not increasing;
    labels: int16 (N,), positions in the teacher's `classes`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.boxes.shape != (n, 4) or self.labels.shape != (n,) or self.scores.shape != (n,):
            shapes = f"boxes {self.boxes.shape}, scores {self.scores.shape}, labels {self.labels.shape}"
            raise TeacherError(f"predictions of unequal length: {shapes}")
        if (self.boxes.dtype, self.scores.dtype, self.labels.dtype) != (np.float32, np.float32, np.int16):
            dtypes = f"{self.boxes.dtype}, {self.scores.dtype}, {self.labels.dtype}"
            raise TeacherError(f"predictions must be float32 boxes, float32 scores, int16 labels; got {dtypes}")
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise TeacherError("predictions hold a NaN or infinite number")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of(
        cls,
        boxes: Any,
        scores: Any,
        labels: Any,
        *,
        width: int,
        height: int,
        floor: float = 0.0,
        limit: int | None = None,
    ) -> Detections:
        """Arrays of any numeric dtype as Detections: clipped to the image, emptied of degenerate boxes and of scores
        below `floor`, sorted by falling score (ties keep their order), cut to the best `limit`."""
        box = np.array(boxes, np.float32).reshape(-1, 4)
        score = np.asarray(scores, np.float32).reshape(-1)
        label = np.asarray(labels).reshape(-1).astype(np.int16)
        if not (np.isfinite(box).all() and np.isfinite(score).all()):
            raise TeacherError("predictions hold a NaN or infinite number")
        box[:, 0::2] = box[:, 0::2].clip(0, width)
        box[:, 1::2] = box[:, 1::2].clip(0, height)
        good = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1]) & (score >= np.float32(floor))
        order = np.flatnonzero(good)
        order = order[np.argsort(-score[order], kind="stable")][:limit]
        return cls(box[order], score[order], label[order])


@dataclass(frozen=True)
class TeacherOptions:
    """What a recipe can set on any teacher. `None` means the model's own default; a teacher refuses, by name, an
    option it does not have. All but `device`, `threads` and `batch_size` enter the fingerprint.

    floor: lowest score stored (raw predictions are kept down to it, so that thresholds can move later).
    nms_iou: IoU above which the teacher's own class-wise NMS removes the weaker box.
    top_k: candidates per feature level before NMS. max_detections: boxes per image after NMS.
    min_size, max_size: the shorter side is resized to min_size pixels, the longer stays within max_size.
    upscale: whether an image smaller than that is enlarged.
    dtype: float32, float16 or bfloat16. weights: a file, or `DEFAULT` for the family's published weights.
    classes: class names in the order of the model's outputs, where the model does not carry them.
    """

    floor: float = 0.05
    nms_iou: float | None = None
    top_k: int | None = None
    max_detections: int | None = None
    min_size: int | None = None
    max_size: int | None = None
    upscale: bool = False
    dtype: str = "float32"
    weights: str | None = None
    classes: tuple[str, ...] | None = None
    batch_size: int = 8
    device: str | None = None
    threads: int | None = None

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - so that a recipe's unknown option is an error

    def __post_init__(self) -> None:
        for name in ("floor", "nms_iou"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1")
        for name in ("top_k", "max_detections", "min_size", "max_size", "batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}")

    def refuse(self, family: str, *names: str) -> None:
        """Raise TeacherError if any option in `names`, which `family` does not have, was set."""
        defaults = {f.name: f.default for f in fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise TeacherError(
                    f"teacher option {name}={getattr(self, name)!r} has no meaning for {family}: remove it"
                )


@runtime_checkable
class Teacher(Protocol):
    """A loaded model. `predict` maps upright RGB images, uint8 (H, W, 3) of any sizes, to one Detections each,
    in order.

    It raises TeacherError if the model fails (out of memory, wrong output shape): that is a failure of the chunk, never
    a row. The result of an image must not depend on which images were labelled before it.
    """

    classes: tuple[str, ...]
    batch_size: int
    description: Mapping[str, Any]
    """All that decides the predictions, JSON-ready: family, weights' SHA-256, pre-processing, floor, NMS, … It has
    the keys `kind` ("detection"), `classes` and `floor`; the fingerprint is its digest."""
    runtime: Mapping[str, Any]
    """What does not decide them but is worth recording: device, threads, library versions."""

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]: ...


def fingerprint(description: Mapping[str, Any]) -> str:
    """SHA-256, hex, of the canonical JSON of a teacher's description."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

"""What every teacher shares: its protocol, its options and the value types of a prediction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from teachers.errors import TutelageError

SURE = 0.25
"""The score from which on a box that lies nowhere tells something: below it detectors see things in padding, too."""
SLACK = 0.25
"""The share of an image's longer side by which a box may reach beyond it: detectors guess what is cut off."""
RANGES = {"quality": (-1, 2), "agree": (0, 2**15 - 1), "uncertainty": (0, 1e9)}
"""What these may be: models guess the quality of a mask a little below 0 and above 1."""
DTYPES = ("float32", "float16", "bfloat16")


class TeacherError(TutelageError):
    """A teacher that cannot be loaded, or that failed while predicting. The message is one sentence for the user."""


@dataclass(frozen=True)
class Detections:
    """The raw objects of one image.

    boxes: float32 (N, 4), `xyxy`, pixels of the upright image; scores: float32 (N,), in [0, 1], not increasing;
    labels: int16 (N,), positions in the teacher's `classes`. Where the teacher gives them: masks, N compressed
    run-length codes of the whole image (COCO's `counts`, as ASCII); quality: float32 (N,), how good each mask is, in
    [0, 1]; agree: int16 (N,), how many teachers of an ensemble found it; uncertainty: float32 (N,), of its box, in
    shares of its size.

    vanished: how many more boxes there were that score SURE or more, left out since they have no area inside the image;
    beyond: how many of such score reached beyond it by more than SLACK. Neither is stored: they tell a model that is
    read in the wrong format.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: tuple[bytes, ...] | None = None
    quality: np.ndarray | None = None
    agree: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    vanished: int = 0
    beyond: int = 0

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.boxes.shape != (n, 4) or any(len(column) != n for column in self._columns()):
            shapes = f"boxes {self.boxes.shape}, scores {self.scores.shape}, labels {self.labels.shape}"
            raise TeacherError(f"predictions of unequal length: {shapes}")
        if (self.boxes.dtype, self.scores.dtype, self.labels.dtype) != (np.float32, np.float32, np.int16):
            dtypes = f"{self.boxes.dtype}, {self.scores.dtype}, {self.labels.dtype}"
            raise TeacherError(f"predictions must be float32 boxes, float32 scores, int16 labels; got {dtypes}")
        floats = [self.boxes, self.scores, *(c for c in (self.quality, self.uncertainty) if c is not None)]
        if not all(np.isfinite(column).all() for column in floats):
            raise TeacherError("predictions hold a NaN or infinite number")
        wrong = self.scores[(self.scores < 0) | (self.scores > 1)]
        if wrong.size:
            raise TeacherError(f"a score must lie between 0 and 1, not {wrong[0]:g}: give probabilities")
        for name, (low, high) in RANGES.items():
            if (column := getattr(self, name)) is not None and len(out := column[(column < low) | (column > high)]):
                raise TeacherError(f"{name} must lie between {low:g} and {high:g}, not {out[0]:g}: scale it")

    def __len__(self) -> int:
        return len(self.scores)

    def _columns(self) -> list[Any]:
        given = (self.scores, self.labels, self.masks, self.quality, self.agree, self.uncertainty)
        return [column for column in given if column is not None]

    def take(self, rows: np.ndarray) -> Detections:
        """The objects at these positions, int (K,), in their order."""
        more: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[rows]
            for name in ("quality", "agree", "uncertainty")
        }
        masks = None if self.masks is None else tuple(self.masks[n] for n in rows)
        more |= {"vanished": self.vanished, "beyond": self.beyond}
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows], masks, **more)

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
        masks: Sequence[bytes] | None = None,
        quality: Any = None,
        agree: Any = None,
        uncertainty: Any = None,
    ) -> Detections:
        """Arrays of any numeric dtype as Detections: clipped to the image, emptied of degenerate boxes and of scores
        below `floor`, sorted by falling score (ties keep their order), cut to the best `limit`. A score that rounding
        brought a little above 1 becomes 1."""
        box = np.array(boxes, np.float32).reshape(-1, 4)
        score = np.asarray(scores, np.float32).reshape(-1)
        if not (np.isfinite(box).all() and np.isfinite(score).all()):
            raise TeacherError("predictions hold a NaN or infinite number")
        label = _whole_labels(labels)
        sure = score >= np.float32(floor)
        slack, size = SLACK * max(width, height), np.array([width, height], np.float32)
        beyond = ((box[:, :2] < -slack) | (box[:, 2:] > size + slack)).any(axis=1)
        box[:, 0::2] = box[:, 0::2].clip(0, width)
        box[:, 1::2] = box[:, 1::2].clip(0, height)
        good = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1]) & sure
        order = np.flatnonzero(good)
        order = order[np.argsort(-score[order], kind="stable")][:limit]
        floats = [None if column is None else np.asarray(column, np.float32) for column in (quality, uncertainty)]
        count = None if agree is None else np.asarray(agree).astype(np.int16)
        coded = None if masks is None else tuple(masks)
        score = np.where(score <= 1.001, score.clip(0, 1), score)  # what is below 0 is not in `order`
        sure &= score >= SURE
        lost = {"vanished": int((sure & ~good).sum()), "beyond": int((sure & beyond).sum())}
        return cls(box, score, label, coded, floats[0], count, floats[1], **lost).take(order)


def _whole_labels(labels: Any) -> np.ndarray:
    """int16 (N,), of any numeric dtype; raises TeacherError where that would change one."""
    given = np.asarray(labels).reshape(-1)
    with np.errstate(invalid="ignore"):
        whole = given.astype(np.int16)
    wrong = given[whole != given]
    if wrong.size:
        raise TeacherError(f"a label must be a whole number below 32768, not {wrong[0]}: give positions in classes")
    return whole


@dataclass(frozen=True)
class ClassProbabilities:
    """What a classifier says of one image: float32 (C,), in the order of the teacher's `classes`, at least 0. They need
    not sum to 1 (independent labels)."""

    probabilities: np.ndarray

    def __post_init__(self) -> None:
        values = self.probabilities
        if values.dtype != np.float32 or values.ndim != 1:
            raise TeacherError(f"class probabilities must be a float32 vector; got {values.dtype} {values.shape}")
        if not ((values >= 0) & (values <= 1)).all():  # no NaN is
            raise TeacherError("class probabilities must lie between 0 and 1")


@dataclass(frozen=True)
class SemanticMap:
    """What a segmenter says of one image's pixels.

    labels: uint8 (H, W), positions in the teacher's `classes`, at most 255 of them, VOID where it gives none;
    confidence: uint8 (H, W), 255 times the probability of that class, rounded. H, W: of the upright image.
    """

    labels: np.ndarray
    confidence: np.ndarray

    def __post_init__(self) -> None:
        for plane in (self.labels, self.confidence):
            if plane.dtype != np.uint8 or plane.ndim != 2 or plane.shape != self.labels.shape:
                raise TeacherError(
                    f"a semantic map must be two uint8 planes of one size; got {self.labels.dtype} {self.labels.shape} "
                    f"and {self.confidence.dtype} {self.confidence.shape}"
                )

    @classmethod
    def of(cls, probabilities: np.ndarray) -> SemanticMap:
        """The likeliest class of each pixel (of equals the first) and its probability, from (C, H, W) of any float
        dtype, C at most 255; a sum of rounded terms may lie a little above 1."""
        if probabilities.ndim != 3 or not 0 < len(probabilities) <= VOID:
            raise TeacherError(
                f"class probabilities of pixels must be (C, H, W), C 1 to 255; got {probabilities.shape}"
            )
        best = probabilities.max(axis=0)
        if not (np.isfinite(best).all() and (best >= 0).all() and (best <= 1.001).all()):
            raise TeacherError("class probabilities of pixels must lie between 0 and 1")
        confidence = np.rint(best.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)
        return cls(probabilities.argmax(axis=0).astype(np.uint8), confidence)


VOID = 255
"""The label of a pixel without a class, in maps everywhere."""
Prediction = Detections | ClassProbabilities | SemanticMap
"""Of one image; all of a teacher's are of the kind its description names."""
Kind = Literal["detection", "instance", "semantic", "classification"]
PREDICTIONS: Mapping[Kind, type[Prediction]] = {
    "detection": Detections,
    "instance": Detections,
    "semantic": SemanticMap,
    "classification": ClassProbabilities,
}
"""Kind -> what its predictions are; those of `instance` have masks."""
OF_BOXES: frozenset[Kind] = frozenset(kind for kind, type in PREDICTIONS.items() if type is Detections)
"""Kinds whose predictions are single objects, of which a floor, an NMS and a limit decide how many are stored."""


@dataclass(frozen=True)
class Views:
    """Test-time augmentation: what else of each image a teacher is shown (teachers.fused.views).

    flip: each view in a mirror, too. scales: the image's size in each view, 1 for its own (the paper's for maps are
    0.5 to 1.75): of what the teacher makes of it where it resizes images itself (Resizing), else of the image, which is
    resampled, antialiased. iou: at which boxes of views are one object.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    iou: float = 0.55

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - so that an unknown key is an error

    def __post_init__(self) -> None:
        if not all(0.1 <= scale <= 10 for scale in self.scales):
            raise ValueError("scales must lie between 0.1 and 10")
        if not self.scales or len(set(self.scales)) != len(self.scales):
            raise ValueError("scales must be one or more different numbers")
        if self.scales == (1.0,) and not self.flip:
            raise ValueError("tta must name a view besides the image itself: add flip: true, or scales")
        if not 0 < self.iou < 1:
            raise ValueError("iou must lie between 0 and 1")


@dataclass(frozen=True)
class TeacherOptions:
    """What a recipe can set on any teacher. `None` means the model's own default; a teacher refuses, by name, an
    option it does not have. All but `device`, `threads` and `batch_size` enter the fingerprint.

    Args:
        floor: lowest score stored (raw predictions are kept down to it, so that thresholds can move later).
        nms_iou: IoU above which the teacher's own class-wise NMS removes the weaker box.
        top_k: candidates per feature level before NMS.
        max_detections: boxes per image after NMS.
        min_size, max_size: the shorter side is resized to min_size pixels, the longer stays within max_size.
        upscale: whether an image smaller than that is enlarged.
        dtype: float32, float16 or bfloat16.
        weights: a file, or `DEFAULT` for the family's published weights.
        classes: class names in the order of the model's outputs, where the model does not carry them.
        masks: False takes only the boxes of a model that gives masks, too (torchvision's Mask R-CNN).
        tta: views of each image to predict on and to fuse (any teacher).
        jitter: how many jittered copies of each box a two-stage model refines, to tell how sure it is of it (Soft
            Teacher: 10; teachers.from_torchvision.jitter).
        task: what a model that can do several things is used for.
        prompts: what a detector by text looks for -> its class.
        format: of stored predictions, where it cannot be recognised (replay:).
        batch_size: images that go through the model at a time.
        device: torch's name of it, such as `cuda`; None for a GPU if there is one.
        threads: of the model on a CPU; None for its library's own choice.

    Raises:
        ValueError: for a floor or NMS IoU outside 0 to 1, and for a number below 1 where at least one is needed.
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
    masks: bool = True
    tta: Views | None = None
    jitter: int | None = None
    task: Kind | None = None
    prompts: dict[str, str] | None = None
    format: str | None = None
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
            if value is not None and not 1 <= value < 2**31:
                raise ValueError(f"{name} must be at least 1, and below 2^31")
        if self.jitter is not None and not 2 <= self.jitter <= 100:
            raise ValueError("jitter must lie between 2 and 100")
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
    """A loaded model. `predict` maps upright RGB images, uint8 (H, W, 3) of any sizes, to one Prediction each,
    in order: Detections for the kinds detection and instance, ClassProbabilities for classification, SemanticMap for
    semantic.

    It raises TeacherError if the model fails (out of memory, wrong output shape): that is a failure of the chunk, never
    a row. The result of an image must not depend on which images were labelled before it.
    """

    classes: tuple[str, ...]
    batch_size: int
    description: Mapping[str, Any]
    """All that decides the predictions, JSON-ready: family, weights' SHA-256, pre-processing, floor, NMS, … It has
    the keys `kind` (Kind), `classes` and `floor`; the fingerprint is its digest."""
    runtime: Mapping[str, Any]
    """What does not decide them but is worth recording: device, threads, library versions."""

    def predict(self, images: Sequence[np.ndarray]) -> Sequence[Prediction]: ...


@runtime_checkable
class Segmenter(Teacher, Protocol):
    """A teacher of the kind semantic that can say all it thinks of each pixel, which views and ensembles average.
    `predict_probabilities` gives float32 (C, H, W) for each image, of its size, in the order of `classes`; `predict` is
    `SemanticMap.of` of it."""

    def predict_probabilities(self, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]: ...


@runtime_checkable
class Resizing(Protocol):
    """A teacher that brings images to a size of its own, so that a resized image shows it nothing new. In the block of
    `scaled` that size is `scale` times what it is otherwise; predictions stay in the pixels of the images given."""

    def scaled(self, scale: float) -> AbstractContextManager[None]: ...


def fingerprint(description: Mapping[str, Any]) -> str:
    """SHA-256, hex, of the canonical JSON of a teacher's description."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

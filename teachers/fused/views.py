"""Test-time views: a teacher looks at mirrored and resized copies of an image, and what it says is fused into one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import PIL
from PIL import Image

from teachers.base import (
    OF_BOXES,
    ClassProbabilities,
    Detections,
    Prediction,
    Resizing,
    Segmenter,
    SemanticMap,
    Teacher,
    TeacherError,
    Views,
)
from teachers.boxes import VOTES
from teachers.fused.ensemble import (
    EnsembleTeacher,
    FusedObjects,
    fuse_images,
    pixel_probabilities,
    predict_in_batches,
)


@dataclass(frozen=True)
class View:
    """One way to look at an image: resized by `scale` (each side rounded to pixels, at least 1; bilinear, antialiased),
    then mirrored if `flip`."""

    scale: float
    flip: bool

    def of(self, image: np.ndarray) -> np.ndarray:
        """What is seen of an image, uint8 (H, W, 3)."""
        height, width = self.size(image.shape)
        if (height, width) != image.shape[:2]:
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(image[:, ::-1]) if self.flip else image

    def size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width, pixels, of what is seen of an image of `shape` (H, W, …)."""
        height, width = (max(1, round(side * self.scale)) for side in shape[:2])
        return height, width

    def boxes_back(self, boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Boxes (N, 4) in the view as boxes in the image, float32."""
        height, width = self.size(shape)
        boxes = boxes.astype(np.float64)
        if self.flip:
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        return (boxes * np.tile([shape[1] / width, shape[0] / height], 2)).astype(np.float32)

    def mask_back(self, code: bytes, shape: tuple[int, ...]) -> bytes:
        """A mask of the view as a mask of the image (teachers.masks)."""
        from teachers import masks

        size = self.size(shape)
        codes = masks.flipped([code], *size) if self.flip else (code,)
        return masks.resized(codes, size, (shape[0], shape[1]))[0]

    def plane_back(self, plane: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Numbers for the view's pixels, float32 (h, w), as numbers for the image's: bilinear."""
        if self.flip:
            plane = plane[:, ::-1]
        if plane.shape == shape[:2]:
            return plane
        grey = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        return np.asarray(grey.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


class ViewsTeacher:
    """A teacher that is shown each image in several views, as a Teacher of the same kind and classes.

    Boxes are mapped back to the image and fused by teachers.boxes.fuse, each view a member of equal weight, so that an
    object that few views show keeps a part of its score; the teacher's floor is applied again after that, then
    `max_detections`. Mask, mask quality, uncertainty and `agree` are those of the best view of an object; its mask is
    mirrored and resampled back, and an object goes whose mask has no pixel left then. Class probabilities, of images
    and of pixels, are averaged over the views, of pixels one image and one view at a time.

    Scales are of the size a teacher brings images to (teachers.base.Resizing: checkpoints, torchvision's detectors and
    segmenters, ensembles of these), else of the images: then one that makes them all of one size, as most exported
    models do, sees little of it.
    Raises TeacherError for a segmenter that gives no probabilities, for scales of a teacher that has one size only, and
    from `predict` if the teacher fails.
    """

    def __init__(self, teacher: Teacher, views: Views, max_detections: int | None = None) -> None:
        self._kind = teacher.description["kind"]
        if self._kind == "semantic" and not isinstance(teacher, Segmenter):
            raise TeacherError("this teacher gives no class probabilities of pixels to average: remove tta")
        self._teacher, self._iou, self._limit = teacher, views.iou, max_detections
        flips, resizing = (False, True) if views.flip else (False,), _resizing(teacher)
        self._views = [View(1.0 if resizing else scale, flip) for scale in views.scales for flip in flips]
        self._scales = [scale if resizing else 1.0 for scale in views.scales for _ in flips]
        self._resizing = resizing
        with ExitStack() as held:  # those that cannot say so at once
            for scale in self._scales:
                self._scale(held, scale)
        self.classes, self.batch_size = teacher.classes, teacher.batch_size
        self.trained_on: list[str] = list(getattr(teacher, "trained_on", ()))
        seen = asdict(views) | {"scales": list(views.scales), "max_detections": max_detections}
        seen = {name: seen[name] for name in seen if self._kind in OF_BOXES or name in ("flip", "scales")}
        seen |= VOTES if self._kind in OF_BOXES else {}
        if resizing and views.scales != (1.0,):
            seen["scaled"] = "input"
        self.description: Mapping[str, Any] = {**teacher.description, "tta": seen}
        self.runtime: Mapping[str, Any] = {**teacher.runtime, "Pillow": PIL.__version__}

    def predict(self, images: Sequence[np.ndarray]) -> Sequence[Prediction]:
        """See Teacher.predict."""
        if not images:
            return []
        match self._kind:
            case "semantic":
                return [SemanticMap.of(self._pixels(image)) for image in images]
            case "classification":
                return self._probabilities(images)
            case _:
                return self._objects(images)

    def predict_probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Segmenter.predict_probabilities; of the kind semantic only."""
        return [self._pixels(image) for image in images]

    def _each(self) -> Iterator[View]:
        """The views, the teacher set to the scale of each."""
        for scale, view in zip(self._scales, self._views, strict=True):
            with ExitStack() as held:
                self._scale(held, scale)
                yield view

    def _scale(self, held: ExitStack, scale: float) -> None:
        if scale != 1:
            for teacher in self._resizing:
                held.enter_context(teacher.scaled(scale))

    def _objects(self, images: Sequence[np.ndarray]) -> list[Detections]:
        floor = self.description["floor"]
        predictions: list[list[Detections]] = []
        for view in self._each():
            seen = predict_in_batches(self._teacher, [view.of(image) for image in images])
            predictions.append(
                [_moved(prediction, view, image.shape) for prediction, image in zip(seen, images, strict=True)]
            )
        fused = fuse_images(predictions, np.ones(len(predictions)), self._iou, floor)
        result = []
        for i, (objects, image) in enumerate(zip(fused, images, strict=True)):
            of_image = [of_view[i] for of_view in predictions]
            objects, codes = self._masks_back(objects, of_image, image.shape)
            agree = objects.best(of_image, "agree")
            result.append(objects.detections(of_image, image.shape, floor, self._limit, agree, codes))
        return result

    def _masks_back(
        self, objects: FusedObjects, predictions: Sequence[Detections], shape: tuple[int, ...]
    ) -> tuple[FusedObjects, list[bytes] | None]:
        """The objects and their masks in the image, without those of which no pixel is left there."""
        codes = objects.best(predictions, "masks")
        if codes is None:
            return objects, None
        from teachers.masks import area

        codes = [self._views[n].mask_back(code, shape) for n, code in zip(objects.source, codes, strict=True)]
        left = np.flatnonzero(area(codes, shape[0], shape[1]))
        return objects.take(left), [codes[n] for n in left]

    def _probabilities(self, images: Sequence[np.ndarray]) -> list[ClassProbabilities]:
        total = np.zeros((len(images), len(self.classes)))
        for view in self._each():
            predictions = predict_in_batches(self._teacher, [view.of(image) for image in images])
            total += np.stack([prediction.probabilities for prediction in predictions])
        mean = (total / len(self._views)).clip(0, 1).astype(np.float32)
        return [ClassProbabilities(row) for row in mean]

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        total = np.zeros((len(self.classes), *image.shape[:2]), np.float32)
        for view in self._each():
            planes = pixel_probabilities(self._teacher, view.of(image))
            for mean, plane in zip(total, planes, strict=True):
                mean += view.plane_back(plane, image.shape) / np.float32(len(self._views))
        return total


def _resizing(teacher: Teacher) -> list[Resizing]:
    """Those whose size is to be set to show this teacher a scale; none if it resizes no image by itself."""
    teachers = teacher.teachers if isinstance(teacher, EnsembleTeacher) else (teacher,)
    resizing: list[Resizing] = [teacher for teacher in teachers if isinstance(teacher, Resizing)]
    return resizing if len(resizing) == len(teachers) else []


def _moved(prediction: Detections, view: View, shape: tuple[int, ...]) -> Detections:
    """Objects of a view with their boxes in the image; masks stay in the view until it is known which are kept."""
    return replace(prediction, boxes=view.boxes_back(prediction.boxes, shape))

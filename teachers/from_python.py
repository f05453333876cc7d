"""A teacher of the user's own: `python:package.module:factory`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from teachers.base import (
    PREDICTIONS,
    ClassProbabilities,
    Detections,
    Kind,
    Prediction,
    SemanticMap,
    Teacher,
    TeacherError,
    TeacherOptions,
    fingerprint,
)
from teachers.masks import covers

ONE_PIXEL = 1.1
"""Where boxes end that are shares: a little above 1."""


def load_python(argument: str, options: TeacherOptions, *, allow_code: bool) -> Teacher:
    """The Teacher that `factory(options)` of a module returns, held to the protocol (teachers.base.Teacher).

    argument: `package.module:factory`. The module is looked for where Python looks, and in the working directory. It
    runs with all of the user's rights, so `allow_code` must say that this is wanted. The factory refuses options it
    does not have (`options.refuse`) and gives the description itself: all that decides the predictions, weights and
    code included, since stored predictions are found again by it.

    Raises TeacherError: on loading, if code is not allowed, for a module or factory that is missing or fails, and for a
    teacher that lacks a part of the protocol; from `predict`, for whatever it raises and for predictions of another
    kind, number, size or class.
    """
    name = f"python:{argument}"
    if not allow_code:
        raise TeacherError(f"{name} would run code of its own: if you trust it, add --allow-code (allow_code=True)")
    teacher = _call(name, _factory(argument), options)
    _check(name, teacher)
    return PythonSegmenter(name, teacher) if hasattr(teacher, "predict_probabilities") else PythonTeacher(name, teacher)


class PythonTeacher:
    """A teacher of the user's, whose errors are sentences and whose predictions are checked."""

    def __init__(self, name: str, teacher: Teacher) -> None:
        self._name, self._teacher = name, teacher
        self.classes, self.batch_size = teacher.classes, teacher.batch_size
        self.description: Mapping[str, Any] = dict(teacher.description)
        self.runtime: Mapping[str, Any] = dict(teacher.runtime)
        self.trained_on: list[str] = list(getattr(teacher, "trained_on", ()))

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """See Teacher.predict."""
        predictions = _call(self._name, lambda given: list(self._teacher.predict(given)), images)
        kind = self.description["kind"]
        if len(predictions) != len(images):
            raise TeacherError(
                f"{self._name} gave {len(predictions)} predictions for {len(images)} images: give one for each"
            )
        for image, prediction in zip(images, predictions, strict=True):
            self._check(prediction, kind, *image.shape[:2])
        self._check_pixels(images, predictions)
        return [
            self._tidied(prediction, *image.shape[:2]) if isinstance(prediction, Detections) else prediction
            for image, prediction in zip(images, predictions, strict=True)
        ]

    def _check(self, prediction: Any, kind: Kind, height: int, width: int) -> None:
        if not isinstance(prediction, PREDICTIONS[kind]) or (
            kind == "instance" and getattr(prediction, "masks", None) is None
        ):
            wanted = PREDICTIONS[kind].__name__ + (" with masks" if kind == "instance" else "")
            raise TeacherError(f"{self._name} gave {type(prediction).__name__} for kind {kind}: give {wanted}")
        count, labels = len(self.classes), np.zeros(0)
        match prediction:
            case ClassProbabilities(probabilities=probabilities) if len(probabilities) != count:
                raise TeacherError(f"{self._name} gave {len(probabilities)} probabilities for {count} classes")
            case SemanticMap(labels=plane):
                if plane.shape != (height, width):
                    raise TeacherError(f"{self._name} gave a map {plane.shape} for an image {(height, width)}")
                labels = np.unique(plane)[:-1] if plane.max() == 255 else plane
            case Detections(labels=labels, masks=codes):
                if not all(isinstance(code, bytes) and covers(code, height, width) for code in codes or ()):
                    raise TeacherError(f"{self._name} gave a mask that is no code of {height} x {width} pixels")
        if labels.size and not 0 <= labels.min() <= labels.max() < count:
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise TeacherError(f"{self._name} gave a label outside of its {count} classes: {wrong}")

    def _check_pixels(self, images: Sequence[np.ndarray], predictions: Sequence[Prediction]) -> None:
        """Raise TeacherError if all boxes lie inside one pixel, as shares of an image do that are taken for pixels."""
        boxes = [prediction.boxes for prediction in predictions if isinstance(prediction, Detections)]
        corners = np.concatenate(boxes) if boxes else np.zeros((0, 4))
        side = min((min(image.shape[:2]) for image in images), default=0)
        if corners.size and abs(corners).max() <= ONE_PIXEL < side and (corners % 1 != 0).any():
            raise TeacherError(
                f"{self._name} gave boxes as shares of the image, such as {corners[0].round(3).tolist()}: give x1, y1, "
                "x2, y2 in pixels"
            )

    def _tidied(self, prediction: Detections, height: int, width: int) -> Detections:
        """As other teachers' are: inside the image, by falling score, at or above the floor."""
        return Detections.of(
            prediction.boxes,
            prediction.scores,
            prediction.labels,
            width=width,
            height=height,
            floor=self.description["floor"],
            masks=prediction.masks,
            quality=prediction.quality,
            agree=prediction.agree,
            uncertainty=prediction.uncertainty,
        )


class PythonSegmenter(PythonTeacher):
    """One that gives probabilities of all classes, too (for views and ensembles)."""

    def predict_probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The probability of each class at each pixel of each image: float32 (C, H, W), of the upright image."""
        teacher: Any = self._teacher
        probabilities = _call(
            self._name,
            lambda given: [np.asarray(planes, np.float32) for planes in teacher.predict_probabilities(given)],
            images,
        )
        shapes = [(len(self.classes), *image.shape[:2]) for image in images]
        if [planes.shape for planes in probabilities] != shapes:
            raise TeacherError(f"{self._name} gave probabilities of other shapes than (classes, height, width)")
        return probabilities


def _factory(argument: str) -> Callable[[TeacherOptions], Any]:
    module_name, _, factory_name = argument.partition(":")
    if not module_name or not factory_name:
        raise TeacherError(f"python:{argument} names no factory: write python:package.module:factory")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that nothing there hides an installed package
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module's code may raise anything
        raise TeacherError(f"module {module_name} cannot be imported: {_reason(error)}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise TeacherError(f"module {module_name} has no function {factory_name}: write a function of TeacherOptions")
    return factory


def _check(name: str, teacher: Any) -> None:
    """Raise TeacherError for the first part of the protocol that is missing or wrong."""
    for part in ("classes", "batch_size", "description", "runtime", "predict"):
        if not hasattr(teacher, part):
            raise TeacherError(f"{name} gave a {type(teacher).__name__} without {part}: see teachers.base.Teacher")
    classes, description = teacher.classes, teacher.description
    named = isinstance(classes, tuple) and classes and all(isinstance(entry, str) and entry for entry in classes)
    if not named or len(set(classes)) != len(classes):
        raise TeacherError(f"{name} has classes {classes!r}: give a tuple of different names")
    if type(teacher.batch_size) is not int or teacher.batch_size < 1:
        raise TeacherError(f"{name} has batch_size {teacher.batch_size!r}: give a whole number of 1 or more")
    if not isinstance(description, Mapping):
        raise TeacherError(f"{name} has a description that is no mapping: {description!r}")
    lacking = {"kind", "classes", "floor"} - set(description)
    if lacking:
        raise TeacherError(
            f"{name} has a description without {', '.join(sorted(lacking))}: add what decides predictions"
        )
    if description["kind"] not in get_args(Kind):
        raise TeacherError(f"{name} has kind {description['kind']!r}: write one of {', '.join(get_args(Kind))}")
    if description["classes"] not in (classes, list(classes)):
        raise TeacherError(f"{name} describes other classes than it has: make description['classes'] a list of them")
    floor = description["floor"]
    if not isinstance(floor, int | float) or not 0 <= floor <= 1:
        raise TeacherError(f"{name} has floor {floor!r}: give the lowest score of its predictions, 0 to 1")
    try:
        fingerprint(dict(description))
        fingerprint(dict(teacher.runtime))
    except (TypeError, ValueError) as error:
        raise TeacherError(f"{name} has a description or runtime that is no JSON: {_reason(error)}") from error


def _call(name: str, function: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return function(argument)
    except TeacherError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise TeacherError(f"{name} failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__

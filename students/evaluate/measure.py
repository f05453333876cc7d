"""How well a teacher, or a student as the next one, does on labelled images of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from builder.engine import Track, silent
from builder.errors import BuildError, brief
from builder.export.as_truth import read_labels, version_truth
from builder.label.load import load_model
from builder.recipe.recipe import load_recipe, parse_teacher
from builder.store.files import canonical_json, sha256_file, write_file
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.records import Truth, TruthKind
from students.evaluate.base import KindMeasure, Measured, Progress
from students.evaluate.boxes import BOXES
from students.evaluate.classes import CLASSES
from students.evaluate.coco import write_results
from students.evaluate.maps import MAPS
from teachers.base import Detections, Teacher


@dataclass(frozen=True)
class Evaluation:
    """How well a teacher does on labelled images.

    metrics: by name, in [0, 1], -1 where there is nothing to measure (COCOeval's own numbers for boxes; mIoU and
    accuracy for maps; accuracy and ECE for classes), and `per_class`, a mapping of class names to what `of_class`
    names. detections: of boxes, for each image, with labels in the truth's classes; else none. trained_on: how many of
    the images the teacher says it has learned from: on these it does better than on others.
    """

    metrics: Mapping[str, Any]
    of_class: str
    detections: Sequence[Detections]
    truth: Truth
    trained_on: int


def evaluate(
    model: Teacher | Path | str,
    truth: Truth | Version | Path | str,
    images: Path | str | None = None,
    *,
    options: Sequence[str] = (),
    masks: bool = False,
    results: Path | str | None = None,
    batch_size: int | None = None,
    allow_code: bool = False,
    store: Store | None = None,
    track: Track = silent,
) -> Evaluation:
    """Measure a run, any teacher or that of a recipe on labelled images.

    Classes are matched by name; those that only the truth has count as missed. Boxes are measured from a score of 0.01
    on, unless `options` or a recipe say otherwise.

    Args:
        model: a run folder, a teacher's spec (`onnx:model.onnx`), a build recipe (`.yaml`), whose teacher may be an
            ensemble, or a teacher that is loaded.
        truth: labels that builder.truth.read.read_truth reads, a version (open, its folder, `NAME@v3`,
            `hf://ORG/NAME@v3`), or labels that are read.
        images: the folder of the labels' image files, where they lie elsewhere.
        options: a list of `key=value` of a teacher that is loaded here (`nms_iou=0.6`), or a recipe's keys.
        masks: measure the masks, too: read the outlines of a COCO JSON. Of labels that are read: where they have them.
        results: a file for the detections, as COCO results.
        batch_size: images given to the teacher at a time, at least 1; its own by default.
        allow_code: whether a teacher `python:…`, which runs code of yours, may be loaded.
        store: where versions are looked up; `./store` by default.
        track: shows how far it is (builder.engine.Track).

    Returns:
        The figures, and the detections.

    Raises:
        TruthError: for labels that cannot be used, of another kind than the teacher's, or without a class in common.
        TeacherError: for a teacher that cannot be loaded or has not what is to be measured.
        BuildError: for a version, a recipe, options or another argument that cannot be used; `results` of labels that
            are no boxes.
    """
    _check(model, options, batch_size)
    named, labelled = _labelled(truth, None if images is None else Path(images), masks, store or Store("store"), track)
    kind = kind_measure(labelled.kind)
    if results and kind is not BOXES:
        raise BuildError(f"results are boxes, but {named} holds {labelled.kind} labels: leave results out")
    teacher = _loaded(model, options, kind.floor, allow_code)
    with track("evaluate", len(labelled.images)) as advance:
        measured = measure(teacher, labelled, batch_size, advance)
    detections = measured.per_image if kind is BOXES else ()
    if results:
        write_file(Path(results), canonical_json(write_results(labelled, detections)))
    return Evaluation(measured.metrics, kind.of_class, detections, labelled, trained_on(teacher, labelled))


def _check(model: object, options: object, batch_size: object) -> None:
    """Raises BuildError for an argument of another type or out of its range."""
    if not (isinstance(model, Path | str) or hasattr(model, "predict")):
        raise BuildError(
            f"model {brief(repr(model))} is no teacher: give a run folder, a spec or what load_teacher returns"
        )
    if isinstance(options, str) or not isinstance(options, Iterable):
        raise BuildError(f"options {options!r} is no list: give a list of key=value, such as ['nms_iou=0.6']")
    if batch_size is None:
        return
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise BuildError(f"batch_size {batch_size!r} is out of range: give a whole number of at least 1")


def _labelled(
    truth: Truth | Version | Path | str, images: Path | None, outlines: bool, store: Store, track: Track
) -> tuple[str, Truth]:
    """What an error calls the labels, and these."""
    match truth:
        case Truth():
            return "truth", truth
        case Version():
            return truth.ref, version_truth(truth, store, track)
        case Path() | str():
            return str(truth), read_labels(str(truth), images, store, track, outlines=outlines)
    raise BuildError(f"truth {brief(repr(truth))} is no labels: give their path, a version or what read_truth returns")


def _loaded(model: Teacher | Path | str, options: Sequence[str], floor: float | None, allow_code: bool) -> Teacher:
    if not isinstance(model, Path | str):
        if options:
            raise BuildError(f"options {', '.join(options)} come too late for a teacher that is loaded: leave them out")
        return model
    ref = str(model)
    if ref.endswith((".yaml", ".yml")) and ":" not in ref:
        return load_model(load_recipe(Path(ref), options).rooted(Path(ref).parent).teacher, allow_code)
    defaults = () if floor is None else (f"floor={floor}",)
    return load_model(parse_teacher(ref if ":" in ref else f"checkpoint:{ref}", (*defaults, *options)), allow_code)


def kind_measure(kind: TruthKind) -> KindMeasure:
    """How labels of this kind (builder.truth.records.Truth) are measured."""
    match kind:
        case "detection":
            return BOXES
        case "semantic":
            return MAPS
        case "classification":
            return CLASSES


def measure(
    teacher: Teacher, truth: Truth, batch_size: int | None = None, progress: Progress | None = None
) -> Measured:
    """The figures for labels of any kind. Where the truth has outlines there are COCOeval's numbers of masks, too, as
    `mask_AP`, … Raises TruthError or TeacherError."""
    return kind_measure(truth.kind).measure(teacher, truth, batch_size, progress)


def trained_on(teacher: Teacher, truth: Truth) -> int:
    """How many of the images the teacher says it has learned from (CheckpointTeacher.trained_on)."""
    seen = frozenset(getattr(teacher, "trained_on", ()))
    return sum(sha256_file(image.path) in seen for image in truth.images) if seen else 0

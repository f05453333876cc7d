"""How well a teacher, or a student as the next one, does on labelled images of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from builder.engine import Track, silent
from builder.errors import BuildError, brief
from builder.evidence.matching import names_of, names_sentence
from builder.export.as_truth import read_labels, version_truth
from builder.label.load import load_labeller, load_model
from builder.label.replay.replay import Replay
from builder.recipe.recipe import load_recipe, parse_teacher
from builder.store.files import canonical_json, sha256_file, write_file
from builder.store.store import Store, check_store
from builder.store.version import Version
from builder.truth.read import named
from builder.truth.records import CountedFrom, Truth, TruthKind, check_measurable
from students.evaluate.base import KindMeasure, Measured, Progress, Source
from students.evaluate.boxes import BOXES
from students.evaluate.classes import CLASSES
from students.evaluate.coco import write_results
from students.evaluate.maps import MAPS
from students.evaluate.scored import Confusion, Scored, mean_figures
from students.evaluate.stored import StoredPredictions
from teachers.base import Detections, Teacher
from teachers.errors import warn


@dataclass(frozen=True)
class Evaluation:
    """How well a teacher does on labelled images.

    Attributes:
        metrics: by name, in [0, 1], -1 where there is nothing to measure (COCOeval's own numbers for boxes; mIoU and
            accuracy for maps; accuracy and ECE for classes), and `per_class`, a mapping of class names to what
            `of_class` names.
        of_class: of what `per_class` holds.
        detections: of boxes, for each image, with labels in the truth's classes; else none.
        truth: the labels.
        trained_on: how many of the images the teacher says it has learned from: on these it does better than on others.
        classes: of the teacher, in its order; those that the truth has not are not measured.
        scored: every prediction, right or wrong (of boxes at an IoU of .5), and what is there to be found.
        score: from which on precision, recall and the confusion are worked out.
        chosen: whether it is the one with the best F1 on these very labels, so that others will give a little less.
        confusion: what is called what.
    """

    metrics: Mapping[str, Any]
    of_class: str
    detections: Sequence[Detections]
    truth: Truth
    trained_on: int
    classes: tuple[str, ...]
    scored: Scored
    score: float
    chosen: bool
    confusion: Confusion

    @property
    def noun(self) -> str:
        """What is predicted, in words."""
        return kind_measure(self.truth.kind).noun

    @property
    def counted(self) -> str:
        """On what it was measured, in words."""
        part = f" of {self.truth.split}" if self.truth.split else ""
        objects = f", {int(self.scored.objects.sum()):,} labelled {self.noun}"
        return f"{len(self.truth.images):,} images{part}{'' if self.noun == 'images' else objects}"

    @property
    def whose(self) -> str:
        """Of what `figures` are, in words."""
        return f"of all {self.noun}" if kind_measure(self.truth.kind).best else "mean over the classes"

    def figures(self) -> dict[str, float | None]:
        """Precision, recall and F1 at `score`: of all boxes together; of maps and classes the mean over the classes."""
        if kind_measure(self.truth.kind).best:
            figures = self.scored.figures(self.score)
            return {"precision": figures.precision, "recall": figures.recall, "F1": figures.f1}
        return mean_figures(self.scored.by_class(self.score))

    def stored(self) -> dict[str, Any]:
        """All of it but the detections, JSON-ready."""
        return {
            **self.metrics,
            "images": len(self.truth.images),
            **({"split": self.truth.split} if self.truth.split else {}),
            "objects": int(self.scored.objects.sum()),
            **names_of(self.classes, self.truth),
            "score": self.score,
            "score_chosen_here": self.chosen,
            **self.figures(),
            "by_class": {name: figures.stored() for name, figures in self.scored.by_class(self.score).items()},
            **({"trained_on": self.trained_on} if self.trained_on else {}),
        }


def evaluate(
    model: Teacher | Path | str,
    truth: Truth | Version | Path | str,
    images: Path | str | None = None,
    *,
    counted_from: CountedFrom | None = None,
    options: Sequence[str] = (),
    masks: bool = False,
    results: Path | str | None = None,
    score: float | None = None,
    batch_size: int | None = None,
    allow_code: bool = False,
    store: Store | None = None,
    track: Track = silent,
) -> Evaluation:
    """Measure a run, any teacher or that of a recipe on labelled images.

    Classes are matched by name; those that only the truth has count as missed. Boxes are measured from a score of 0.01
    on, unless `options` or a recipe say otherwise.

    Args:
        model: a run folder, a teacher's spec (`onnx:model.onnx`, or `replay:FILE` for predictions that another tool
            stored), a build recipe (`.yaml`), whose teacher may be an ensemble, or a teacher that is loaded.
        truth: labels that builder.truth.read.read_truth reads, a version (open, its folder, `NAME@v3`,
            `hf://ORG/NAME@v3`), or labels that are read.
        images: the folder of the labels' image files, where they lie elsewhere.
        counted_from: what the corners of Pascal VOC boxes call the first pixel, where they do not show it.
        options: a list of `key=value` of a teacher that is loaded here (`nms_iou=0.6`), or a recipe's keys.
        masks: measure the masks, too: read the outlines of a COCO JSON. Of labels that are read: where they have them.
        results: a file for the detections, as COCO results.
        score: from which on precision, recall and the confusion are worked out, 0 to 1; by default of boxes the score
            with the best F1 on these labels, of maps and classes 0, where everything counts.
        batch_size: images given to the teacher at a time, at least 1; its own by default.
        allow_code: whether a teacher `python:…`, which runs code of yours, may be loaded.
        store: where versions are looked up; `./store` by default.
        track: shows how far it is (builder.engine.Track).

    Returns:
        The figures, the detections, and what write_evaluation draws.

    Raises:
        TruthError: for labels that cannot be used, of another kind than the teacher's, or without a class in common.
        TeacherError: for a teacher that cannot be loaded or has not what is to be measured.
        BuildError: for a version, a recipe, options or another argument that cannot be used; `results` of labels that
            are no boxes.
    """
    _check(model, options, batch_size, score)
    store = Store("store") if store is None else store
    check_store(store)
    source, labelled = _labelled(truth, None if images is None else Path(images), counted_from, masks, store, track)
    check_measurable(labelled, source)
    kind = kind_measure(labelled.kind)
    if results and kind is not BOXES:
        raise BuildError(f"results are boxes, but {source} holds {labelled.kind} labels: leave results out")
    teacher = _loaded(model, options, kind.floor, allow_code)
    with track("evaluate", len(labelled.images)) as advance:
        measured = kind.measure(teacher, labelled, batch_size, advance)
    evaluation = _evaluation(measured, teacher, labelled, score)
    if unmatched := names_sentence(evaluation.classes, labelled):
        warn(unmatched)
    if seen := evaluation.trained_on:
        warn(f"the teacher was trained on {seen} of these {len(labelled.images)} images: evaluate it on others")
    if results:
        write_file(Path(results), canonical_json(write_results(labelled, evaluation.detections)))
    return evaluation


def _evaluation(measured: Measured, teacher: Source, truth: Truth, score: float | None) -> Evaluation:
    kind, judged = kind_measure(truth.kind), measured.judge()
    chosen = kind.best and score is None
    at = judged.scored.best_score if chosen else score or 0.0
    return Evaluation(
        measured.metrics,
        kind.of_class,
        measured.per_image if kind is BOXES else (),
        truth,
        trained_on(teacher, truth),
        tuple(teacher.classes),
        judged.scored,
        at,
        chosen,
        judged.confusion(at),
    )


def _check(model: object, options: object, batch_size: object, score: object) -> None:
    """Raises BuildError for an argument of another type or out of its range."""
    if not (isinstance(model, Path | str) or hasattr(model, "predict")):
        raise BuildError(
            f"model {brief(repr(model))} is no teacher: give a run folder, a spec or what load_teacher returns"
        )
    if isinstance(options, str) or not isinstance(options, Iterable):
        raise BuildError(f"options {options!r} is no list: give a list of key=value, such as ['nms_iou=0.6']")
    if score is not None and not (isinstance(score, float | int) and 0 <= score <= 1):
        raise BuildError(f"score {score!r} is out of range: give a number from 0 to 1")
    if batch_size is None:
        return
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise BuildError(f"batch_size {batch_size!r} is out of range: give a whole number of at least 1")


def _labelled(
    truth: Truth | Version | Path | str,
    images: Path | None,
    counted_from: CountedFrom | None,
    outlines: bool,
    store: Store,
    track: Track,
) -> tuple[str, Truth]:
    """What an error calls the labels, and these."""
    if images is not None and not isinstance(truth, Path | str):
        raise BuildError(f"images {images} say where labels lie that are still to be read: leave them out")
    match truth:
        case Truth():
            return "truth", truth
        case Version():
            return truth.ref, version_truth(truth, store, track)
        case Path() | str():
            labels = read_labels(str(truth), images, store, track, outlines=outlines, counted_from=counted_from)
            return named(str(truth), labels.split), labels
    raise BuildError(f"truth {brief(repr(truth))} is no labels: give their path, a version or what read_truth returns")


def _loaded(model: Source | Path | str, options: Sequence[str], floor: float | None, allow_code: bool) -> Source:
    if not isinstance(model, Path | str):
        if options:
            raise BuildError(f"options {', '.join(options)} come too late for a teacher that is loaded: leave them out")
        return model
    ref = str(model)
    if ref.endswith((".yaml", ".yml")) and ":" not in ref:
        section = load_recipe(Path(ref), options).rooted(Path(ref).parent).teacher
    else:
        defaults = () if floor is None else (f"floor={floor}",)
        section = parse_teacher(ref if ":" in ref else f"checkpoint:{ref}", (*defaults, *options))
    if (section.spec or "").startswith("replay:"):
        labeller = load_labeller(section)
        assert isinstance(labeller, Replay)
        return StoredPredictions(labeller)
    return load_model(section, allow_code)


def kind_measure(kind: TruthKind) -> KindMeasure:
    """How labels of this kind (builder.truth.records.Truth) are measured."""
    match kind:
        case "detection":
            return BOXES
        case "semantic":
            return MAPS
        case "classification":
            return CLASSES


def measure(teacher: Source, truth: Truth, batch_size: int | None = None, progress: Progress | None = None) -> Measured:
    """The figures for labels of any kind. Where the truth has outlines there are COCOeval's numbers of masks, too, as
    `mask_AP`, … Raises TruthError or TeacherError."""
    return kind_measure(truth.kind).measure(teacher, truth, batch_size, progress)


def trained_on(teacher: Source, truth: Truth) -> int:
    """How many of the images the teacher says it has learned from (CheckpointTeacher.trained_on)."""
    seen = frozenset(getattr(teacher, "trained_on", ()))
    return sum(sha256_file(image.path) in seen for image in truth.images) if seen else 0

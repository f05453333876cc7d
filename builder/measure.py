"""The tune half of human labels and a teacher's predictions of it: what may be looked at before a version is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from builder.engine import Track, silent
from builder.errors import BuildError
from builder.evidence.calibrate import calibrated, describe, fit, occurring, reliabilities
from builder.evidence.holdout import Labels, load_labels, load_truth, with_outlines
from builder.evidence.matching import SIZES, Matches, names_of
from builder.evidence.on_truth import check_independent, check_unseen, label_truth
from builder.evidence.planning import Need, plan
from builder.evidence.stored import match_stored
from builder.evidence.sweep import LEVEL, Point
from builder.evidence.sweep import sweep as sweep_points
from builder.kinds import kind_of
from builder.label.labelling import labelled_pool, unlabelled
from builder.label.load import load_labeller
from builder.label.meta import read_meta
from builder.label.predictions import find_predictions
from builder.recipe.recipe import PoolOptions, load_recipe, parse_teacher
from builder.rules.calibrator import Calibrator
from builder.rules.counting import pool_scores
from builder.rules.keep import Keep
from builder.rules.labelled import LabelledPool
from builder.rules.scores import PoolScores
from builder.scan.pool import Pool
from builder.sections import Section
from builder.store.store import Store, check_store
from builder.truth.options import LabelOptions
from builder.truth.records import check_measurable
from teachers.base import fingerprint
from teachers.depth import Reading

TOGETHER = "all classes"
"""The name of the points of a sweep that are of all classes together."""


@dataclass(frozen=True)
class TuneHalf:
    """A teacher's predictions and human labels that they can be measured on: the tune half alone.

    predictions: full fingerprint. keep: for NMS, cap and calibration. recipe_pool: of the recipe, if there is one.
    """

    store: Store
    predictions: str
    keep: Keep
    labels: Labels
    recipe: str = ""
    recipe_pool: PoolOptions | None = None

    @property
    def folder(self) -> Path:
        return self.store.predictions / self.predictions

    @property
    def kind(self) -> str:
        kind: str = read_meta(self.folder)["description"]["kind"]
        return kind

    @property
    def sizes(self) -> dict[str, tuple[float, float]]:
        """Areas of objects that can be told apart: matching.SIZES; `all` where objects have none."""
        return SIZES if kind_of(self.kind).overlaps else {"all": SIZES["all"]}

    def match(self, iou: float, area: tuple[float, float] = SIZES["all"]) -> Matches:
        """The tune half at one overlap. Raises BuildError if no image falls into it, or as `match_stored` does."""
        return match_stored(self.labels.tune, self.labels.pool, self.folder, self.keep, (iou,), area)

    def calibrated(self, tune: Matches, iou: float) -> tuple[Matches, Calibrator | None]:
        """The matches with the scores that the recipe's thresholds act on, and what made them."""
        if self.keep.calibration == "none":
            return tune, None
        calibrator = fit(tune, self.keep.calibration, iou)
        return calibrated(tune, calibrator), calibrator

    def needs(self, scores: PoolScores, tune: Matches) -> list[Need]:
        """What the recipe's labels can be expected to certify; nothing where it asks for no precision. tune: matches at
        one overlap, calibrated."""
        precision = self.keep.precision
        if precision is None:
            return []
        if precision.iou not in tune.ious:
            tune, _ = self.calibrated(self.match(precision.iou), precision.iou)
        return plan(tune, scores, precision, self.labels.certify_images)

    def pool(self, name: str | None, workers: int | None, track: Track) -> Pool:
        """The pool that the predictions are of. Raises BuildError if it is not labelled, or there is not just one."""
        if self.recipe_pool is None or name is not None:
            return labelled_pool(self.store, self.predictions, name)
        pool = self.recipe_pool.scan(self.store, workers=workers, track=track)
        if missing := unlabelled(pool, self.folder):
            raise BuildError(
                f"{missing} images of the pool of {self.recipe} are not labelled yet: "
                f"run `tutelage build {self.recipe} --only label` first"
            )
        return pool

    def describe(self, tune: Matches, iou: float) -> dict[str, Any]:
        """What was measured on what, JSON-ready."""
        return {
            "predictions": self.predictions,
            "truth": self.labels.source,
            "half": "tune",
            "images": {
                "all": len(self.labels.truth.images),
                "tune": tune.images + tune.left_out,
                "left_out": tune.left_out,
            },
            "units": len(np.unique(tune.unit)),
            "iou": iou,
            "kind": self.kind,
            "of": kind_of(self.kind).noun,
            **names_of(tune.classes, self.labels.truth),
            **{
                name: int(rows.sum() if tune.weight is None else tune.weight[rows].sum())
                for name, rows in (("predicted", tune.counted[0]), ("right", tune.right[0]))
            },
        }


class MeasureOptions(Section):
    """What predictions are measured on, and how.

    Args:
        truth: held-out human labels; None for those that the recipe names.
        teacher, teacher_options: the spec and the `key=value` options of the teacher that made the predictions, to
            label the truth where it is not labelled yet; a recipe names its own.
        iou: the overlap from which on a box or mask is right.
        per_class: each class by itself, too.
        allow_code: see teachers.load.load_teacher.
    """

    truth: LabelOptions | None = None
    teacher: str | None = None
    teacher_options: tuple[str, ...] = ()
    iou: float = Field(default=0.5, gt=0, le=1)
    per_class: bool = False
    allow_code: bool = False


USUAL = MeasureOptions()
"""Where nothing else is asked for."""


@dataclass(frozen=True)
class Calibration:
    """How far the scores of predictions can be believed. by_size: matches on the tune half by size of object
    (matching.SIZES). figures: what was measured on what, and all curves, reliabilities and calibrators, JSON-ready (see
    evidence.calibrate.describe)."""

    by_size: Mapping[str, Matches] = field(repr=False)
    iou: float
    figures: Mapping[str, Any] = field(repr=False)

    def plot(self, path: Path) -> None:
        """Write a PNG of the curves."""
        from builder.report.evidence_charts import plot_calibration

        whole = self.by_size["all"]
        plot_calibration(path, self.by_size, reliabilities(whole, self.iou), self.iou, kind_of(self.figures["kind"]))


@dataclass(frozen=True)
class Sweep:
    """What each threshold would keep of a pool, and how good it is. points: by rising threshold, of "all classes"
    together and, if asked for, of each class that occurs. figures: what was measured on what, JSON-ready. needs: of a
    recipe with `keep.precision`, what its labels can be expected to certify."""

    points: Mapping[str, Sequence[Point]] = field(repr=False)
    figures: Mapping[str, Any]
    needs: Sequence[Need] = field(default=(), repr=False)

    def plot(self, path: Path) -> None:
        """Write a PNG of the curves of all classes together."""
        from builder.report.evidence_charts import plot_sweep

        plot_sweep(path, self.points[TOGETHER], LEVEL)


def calibrate(
    predictions: str,
    store: Store,
    options: MeasureOptions = USUAL,
    *,
    workers: int | None = None,
    track: Track = silent,
) -> Calibration:
    """Measure how far the scores of a teacher can be believed, on the tune half of held-out human labels.

    Args:
        predictions: id prefix of predictions in the store, or path of a recipe (`.yaml`), whose teacher, NMS and cap
            are then used.
        store: holds the predictions; the truth is scanned and labelled into it where it is not yet.
        options: what to measure on, and how.
        workers: threads that read and decode; None for one a core.
        track: reports progress.

    Returns:
        Precision and recall by threshold and size of object, reliability of scores raw and calibrated.

    Raises:
        BuildError: no labels, no image in the tune half, images that the teacher does not or must not know, a teacher
            that did not make the predictions.
        TeacherError: the teacher cannot label the truth.
    """
    tune_half = open_tune_half(predictions, store, options, workers=workers, track=track)
    by_size = {name: tune_half.match(options.iou, area) for name, area in tune_half.sizes.items()}
    figures = tune_half.describe(by_size["all"], options.iou) | describe(by_size, options.iou, options.per_class)
    return Calibration(by_size, options.iou, figures)


def sweep(
    predictions: str,
    store: Store,
    options: MeasureOptions = USUAL,
    *,
    pool: str | None = None,
    workers: int | None = None,
    track: Track = silent,
) -> Sweep:
    """Measure what each threshold would keep of a pool, and how good it is on the tune half of held-out human labels.
    No version is written.

    Args:
        predictions: as of `calibrate`; the calibration of a recipe is used, too.
        store: holds the predictions and the pool.
        options: what to measure on, and how.
        pool: id prefix or source, where the predictions are of several pools.
        workers, track: as of `calibrate`.

    Returns:
        The points of all classes together and, with `per_class`, of each class that occurs.

    Raises:
        BuildError: as `calibrate`, and for no or several pools that the predictions are of.
        TeacherError: as `calibrate`.
    """
    tune_half = open_tune_half(predictions, store, options, workers=workers, track=track)
    swept = tune_half.pool(pool, workers, track)
    tune, calibration = tune_half.calibrated(tune_half.match(options.iou), options.iou)
    labelled = LabelledPool(swept, tune_half.folder, tune.classes, tune_half.keep, calibration)
    scores = pool_scores(labelled, workers, track)
    groups: dict[str, list[int] | None] = {TOGETHER: None}
    if options.per_class:
        groups |= {tune.classes[n]: [n] for n in occurring(tune, options.iou)}
    points = dict(zip(groups, sweep_points(tune, scores, list(groups.values()), iou=options.iou), strict=True))
    figures = tune_half.describe(tune, options.iou) | {
        "pool": swept.id,
        "pool_images": scores.images,
        "calibration": tune_half.keep.calibration,
        "level": LEVEL,
    }
    if tune_half.keep.precision is None:
        return Sweep(points, figures)
    figures |= {"target": tune_half.keep.precision.target, "certify_images": tune_half.labels.certify_images}
    return Sweep(points, figures, tune_half.needs(scores, tune))


def open_tune_half(
    predictions: str, store: Store, options: MeasureOptions, *, workers: int | None = None, track: Track = silent
) -> TuneHalf:
    """The predictions and the labels to measure them on. Arguments and errors: see `calibrate`."""
    check_store(store)
    if Path(predictions).suffix in (".yaml", ".yml"):
        if options.teacher:
            raise BuildError(f"{predictions} names the teacher: leave out the teacher {options.teacher}")
        return _of_recipe(Path(predictions), store, options, workers, track)
    find_predictions(store, predictions)
    if options.truth is None:
        raise BuildError(f"predictions {predictions} come without labels: give truth, or a RECIPE.yaml that names them")
    if options.teacher_options and options.teacher is None:
        raise BuildError(f"teacher options {', '.join(options.teacher_options)} need the teacher's spec: give it too")
    return _of_predictions(predictions, options.truth, store, options, workers, track)


def _of_recipe(path: Path, store: Store, measure: MeasureOptions, workers: int | None, track: Track) -> TuneHalf:
    """The tune half of a recipe, on its own truth or that given; its teacher labels the truth where it is not yet."""
    written = load_recipe(path)
    recipe = written.rooted(path.parent)
    truth, source = measure.truth or recipe.truth, measure.truth or written.truth
    if truth is None or source is None:
        raise BuildError(f"recipe {path} names no held-out labels: add truth: LABELS to it, or give truth")
    labels = load_truth(truth, source, store, workers=workers, track=track)
    check_measurable(labels.truth, labels.source)
    check_independent(labels, truth, certifies=False)
    labeller = load_labeller(recipe.teacher, workers, measure.allow_code, recipe.images.reading)
    labels = with_outlines(labels, truth, labeller.description["kind"])
    if recipe.gates.teacher_overlap == "fail":
        check_unseen(labels, labeller)
    predictions = fingerprint(labeller.description)
    label_truth(
        labels,
        store,
        predictions=predictions,
        keep=recipe.keep,
        labeller=labeller,
        spec=written.teacher.name,
        license=recipe.teacher.license,
        track=track,
    )
    return TuneHalf(store, predictions, recipe.keep, labels, str(path), recipe.pool)


def _of_predictions(
    prefix: str, truth: LabelOptions, store: Store, measure: MeasureOptions, workers: int | None, track: Track
) -> TuneHalf:
    """The tune half of predictions in the store. The floor of a teacher that labels the truth is theirs."""
    predictions = find_predictions(store, prefix)
    description = read_meta(store.predictions / predictions)["description"]
    labels = load_labels(truth, store, written=truth.source, workers=workers, track=track)
    check_measurable(labels.truth, labels.source)
    check_independent(labels, truth, certifies=False)
    labels = with_outlines(labels, truth, description["kind"])
    labeller, license = None, "unknown"
    if measure.teacher is not None:
        boxes = kind_of(description["kind"]).overlaps  # the rest is stored whole
        floor = (f"floor={description['floor']}",) if boxes else ()
        section = parse_teacher(measure.teacher, (*floor, *measure.teacher_options))
        said = description.get("images")  # of stored results the digest of a listing
        reading = Reading(**said) if isinstance(said, dict) else Reading()
        labeller, license = load_labeller(section, workers, measure.allow_code, reading), section.license
        check_unseen(labels, labeller)
    label_truth(
        labels,
        store,
        predictions=predictions,
        labeller=labeller,
        spec=measure.teacher or "",
        license=license,
        track=track,
    )
    return TuneHalf(store, predictions, Keep.default(), labels)

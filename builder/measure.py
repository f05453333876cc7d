"""The tune half of human labels and a teacher's predictions of it: what may be looked at before a version is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from builder.build import scan_recipe
from builder.engine import Track, silent
from builder.errors import BuildError
from builder.evidence.calibrate import calibrated, fit
from builder.evidence.holdout import Labels, load_labels, with_outlines
from builder.evidence.matching import SIZES, Matches, shared_classes
from builder.evidence.stored import match_stored
from builder.kinds import NOUNS
from builder.label.labeller import Labeller
from builder.label.labelling import label_pool
from builder.label.load import load_labeller
from builder.label.predictions import find_predictions, read_meta
from builder.recipe.recipe import PoolOptions, load_recipe, parse_teacher
from builder.rules.calibrator import Calibrator
from builder.rules.keep import Keep, version_classes
from builder.scan.pool import Pool, find_pool, read_pool
from builder.store.store import Store
from builder.truth.options import LabelOptions
from builder.truth.records import split
from teachers.base import fingerprint


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
        return SIZES if self.kind in ("detection", "instance") else {"all": SIZES["all"]}

    def match(self, iou: float, area: tuple[float, float] = SIZES["all"]) -> Matches:
        """The tune half at one overlap. Raises BuildError if no image falls into it, or as `match_stored` does."""
        tune, _ = split(self.labels.truth)
        if not tune.images:
            raise BuildError(
                f"none of the {len(self.labels.truth.images)} labelled images of {self.labels.source} falls into the "
                "tune half (whole units do): add labelled images, or smaller units"
            )
        return match_stored(tune, self.labels.pool, self.folder, self.keep, (iou,), area)

    def calibrated(self, tune: Matches, iou: float) -> tuple[Matches, Calibrator | None]:
        """The matches with the scores that the recipe's thresholds act on, and what made them."""
        if self.keep.calibration == "none":
            return tune, None
        calibrator = fit(tune, self.keep.calibration, iou)
        return calibrated(tune, calibrator), calibrator

    def pool(self, name: str | None, workers: int | None, track: Track) -> Pool:
        """The pool that the predictions are of. Raises BuildError if it is not labelled, or there is not just one."""
        if self.recipe_pool is None or name is not None:
            return labelled_pool(self.store, self.predictions, name)
        pool = scan_recipe(self.recipe_pool, self.store, workers, track)
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
            "of": NOUNS[self.kind],
            **{
                name: int(rows.sum() if tune.weight is None else tune.weight[rows].sum())
                for name, rows in (("predicted", tune.counted[0]), ("right", tune.right[0]))
            },
        }


def of_recipe(
    path: Path,
    given: LabelOptions | None,
    store: Store,
    workers: int | None,
    track: Track,
    allow_code: bool = False,
) -> TuneHalf:
    """The evidence of a recipe, on its own truth or that `given`; its teacher labels the truth where it is not yet.

    allow_code: see load_teacher. Raises BuildError if there is no truth.
    """
    written = load_recipe(path)
    recipe = written.rooted(path.parent)
    options, source = given or recipe.truth, given or written.truth
    if options is None or source is None:
        raise BuildError(f"recipe {path} names no held-out labels: add truth: LABELS to it, or give --truth LABELS")
    labels = load_labels(options, store, written=source.source, workers=workers, track=track)
    labeller = load_labeller(recipe.teacher, workers, allow_code)
    labels = with_outlines(labels, options, labeller.description["kind"])
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


def of_predictions(
    prefix: str,
    options: LabelOptions,
    teacher: tuple[str | None, tuple[str, ...]],
    store: Store,
    workers: int | None,
    track: Track,
    allow_code: bool = False,
) -> TuneHalf:
    """The evidence of predictions in the store. teacher: its spec and options, to label the truth where it is not yet;
    the floor is that of the predictions. allow_code: see load_teacher."""
    predictions = find_predictions(store, prefix)
    description = read_meta(store.predictions / predictions)["description"]
    labels = load_labels(options, store, written=options.source, workers=workers, track=track)
    labels = with_outlines(labels, options, description["kind"])
    spec, overrides = teacher
    labeller, license = None, "unknown"
    if spec is not None:
        boxes = description["kind"] in ("detection", "instance")  # the rest is stored whole
        floor = (f"floor={description['floor']}",) if boxes else ()
        section = parse_teacher(spec, (*floor, *overrides))
        labeller, license = load_labeller(section, workers, allow_code), section.license
        check_unseen(labels, labeller)
    label_truth(
        labels, store, predictions=predictions, labeller=labeller, spec=spec or "", license=license, track=track
    )
    return TuneHalf(store, predictions, Keep.default(), labels)


def check_unseen(labels: Labels, labeller: Labeller) -> None:
    """Raise BuildError if the teacher's record says that it was trained on images of the labels: its scores on them say
    nothing of new images."""
    trained = frozenset(getattr(getattr(labeller, "teacher", None), "trained_on", ()))
    seen = [image.name for image in labels.pool.images() if image.sha256 in trained] if trained else []
    if seen:
        raise BuildError(
            f"the teacher was trained on {len(seen)} of the {len(labels.pool)} images of {labels.source} ({seen[0]} "
            "first), so that its scores on them mislead: take them out of the labels"
        )


def label_truth(
    labels: Labels,
    store: Store,
    *,
    predictions: str,
    keep: Keep | None = None,
    labeller: Labeller | None = None,
    spec: str = "",
    license: str = "unknown",
    track: Track = silent,
) -> None:
    """See that the labels' images are labelled by the teacher of `predictions` (a full fingerprint): by `labeller`
    where one is given. What was labelled before is not again. keep: its class map makes the classes to be shared.

    Raises BuildError if the labels are of another kind than the teacher's, or share no class with it, the labeller is
    another teacher, or there is none and images are not labelled.
    """
    made = labeller.description if labeller else read_meta(store.predictions / predictions)["description"]
    shared_classes(version_classes(keep or Keep.default(), made), labels.truth, made["kind"])
    pool, folder = labels.pool, store.predictions / predictions
    if labeller and fingerprint(labeller.description) != predictions:
        raise BuildError(
            f"teacher {spec} is not the one that made predictions {predictions[:12]}: "
            f"{_difference(read_meta(folder)['description'], labeller.description)}"
        )
    if labeller:
        label_pool(pool, labeller, store, spec=spec, license=license, track=track)
    elif missing := unlabelled(pool, folder):
        again = f"with --teacher {read_meta(folder)['spec']} and the --set options it was made with"
        if made.get("family") == "ensemble":
            again = "on the RECIPE.yaml of that ensemble"
        raise BuildError(
            f"{missing} of the {len(pool)} images of {labels.source} are not labelled by {predictions[:12]}: run the "
            f"same command {again}"
        )


def _difference(made: Mapping[str, object], given: Mapping[str, object]) -> str:
    """The first key, in order, in which two teachers' descriptions differ, and what to do about it."""
    for name in sorted({*made, *given}):
        one, other = str(made.get(name)), str(given.get(name))
        if one != other:
            values = f"{one}, not {other}" if max(len(one), len(other)) < 40 else "another one"
            return f"its {name} is {values}: give that teacher's own options by --set"
    return "give that teacher's own options by --set"


def unlabelled(pool: Pool, predictions: Path) -> int:
    """Images in chunks without predictions in this folder."""
    return sum(facts.images for facts in pool.index if not (predictions / facts.digest).is_dir())


def labelled_pool(store: Store, predictions: str, name: str | None = None) -> Pool:
    """The pool that these predictions (a full fingerprint) are of: `name`, an id prefix or a source, or the only one.

    Pools of labelled images, and scans that a later one of the same source replaced, are not looked at. Raises
    BuildError if there is none, or several.
    """
    folder = store.predictions / predictions
    if name is not None:
        pool = find_pool(store, name)
        if unlabelled(pool, folder):
            raise BuildError(f"pool {name} is not wholly labelled by {predictions[:12]}: run `tutelage label` first")
        return pool
    pointers = [orjson.loads(path.read_bytes()) for path in sorted((store.pools / "sources").glob("*.json"))]
    ids = sorted({pointer["pool"] for pointer in pointers if "source" in pointer} & {*store.ids(store.pools)})
    pools = [pool for pool in (read_pool(store, id) for id in ids) if not unlabelled(pool, folder)]
    if len(pools) == 1:
        return pools[0]
    if pools:
        known = ", ".join(f"{pool.id[:12]} ({pool.source})" for pool in pools)
        raise BuildError(f"predictions {predictions[:12]} are of several pools: give --pool, one of {known}")
    raise BuildError(f"no pool in {store.root} is labelled by {predictions[:12]}: run `tutelage label POOL` first")

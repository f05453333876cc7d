"""Tutelage from Python: what the command line can do, and the student's joint loader and loss for a loop of your own.

A name is loaded from its package when it is first used, so that importing this loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.build import build_pseudo as build_pseudo
    from builder.cluster import Cluster as Cluster
    from builder.cut.basis import Basis as Basis
    from builder.cut.recall import recut as recut
    from builder.cut.version import cut_version as cut_version
    from builder.export.export import export_version as export_version
    from builder.foresee import foresee as foresee
    from builder.hub.publish import publish as publish
    from builder.hub.pull import pull as pull
    from builder.hub.remote import open_version as open_version
    from builder.label.labelling import label_pool as label_pool
    from builder.measure import MeasureOptions as MeasureOptions
    from builder.measure import calibrate as calibrate
    from builder.measure import sweep as sweep
    from builder.recipe.recipe import Recipe as Recipe
    from builder.recipe.recipe import load_recipe as load_recipe
    from builder.review.pull import read_answers as read_answers
    from builder.review.pull import take_over as take_over
    from builder.review.queues import queue as queue
    from builder.review.queues import write_queue as write_queue
    from builder.scan.pool import Pool as Pool
    from builder.scan.scanner import scan_pool as scan_pool
    from builder.store.manifest import Manifest as Manifest
    from builder.store.store import Store as Store
    from builder.store.version import Version as Version
    from builder.truth.options import LabelOptions as LabelOptions
    from builder.truth.read import read_truth as read_truth
    from builder.truth.records import Truth as Truth
    from builder.versions.diff import diff as diff
    from builder.versions.explain import explain as explain
    from builder.versions.fsck import fsck as fsck
    from builder.versions.health import verify as verify
    from builder.versions.removal import remove as remove
    from students.data.loader import JointBatches as JointBatches
    from students.doctor.diagnose import doctor as doctor
    from students.evaluate.measure import evaluate as evaluate
    from students.evaluate.pictures import write_evaluation as write_evaluation
    from students.train.loop import train as train
    from students.train.losses import JointLoss as JointLoss
    from students.train.recipe import TrainRecipe as TrainRecipe
    from teachers.base import TeacherOptions as TeacherOptions
    from teachers.errors import TutelageError as TutelageError
    from teachers.errors import TutelageWarning as TutelageWarning
    from teachers.load import load_teacher as load_teacher

_HOMES = {
    "Basis": "builder.cut.basis",
    "Cluster": "builder.cluster",
    "JointBatches": "students.data.loader",
    "JointLoss": "students.train.losses",
    "LabelOptions": "builder.truth.options",
    "Manifest": "builder.store.manifest",
    "MeasureOptions": "builder.measure",
    "Pool": "builder.scan.pool",
    "Recipe": "builder.recipe.recipe",
    "Store": "builder.store.store",
    "TeacherOptions": "teachers.base",
    "TrainRecipe": "students.train.recipe",
    "Truth": "builder.truth.records",
    "TutelageError": "teachers.errors",
    "TutelageWarning": "teachers.errors",
    "Version": "builder.store.version",
    "build_pseudo": "builder.build",
    "calibrate": "builder.measure",
    "cut_version": "builder.cut.version",
    "diff": "builder.versions.diff",
    "doctor": "students.doctor.diagnose",
    "evaluate": "students.evaluate.measure",
    "explain": "builder.versions.explain",
    "export_version": "builder.export.export",
    "foresee": "builder.foresee",
    "fsck": "builder.versions.fsck",
    "label_pool": "builder.label.labelling",
    "load_recipe": "builder.recipe.recipe",
    "load_teacher": "teachers.load",
    "open_version": "builder.hub.remote",
    "publish": "builder.hub.publish",
    "pull": "builder.hub.pull",
    "queue": "builder.review.queues",
    "read_answers": "builder.review.pull",
    "read_truth": "builder.truth.read",
    "recut": "builder.cut.recall",
    "remove": "builder.versions.removal",
    "scan_pool": "builder.scan.scanner",
    "sweep": "builder.measure",
    "take_over": "builder.review.pull",
    "train": "students.train.loop",
    "verify": "builder.versions.health",
    "write_evaluation": "students.evaluate.pictures",
    "write_queue": "builder.review.queues",
}
"""Public name -> the module that has it. Type checkers read the imports above; a test holds that both say the same."""

__all__ = list(_HOMES)

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        globals()[name] = version("tutelage")
        return globals()[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})

"""Tutelage from Python: whatever the command line can do.

Importing this loads nothing heavy: each name is loaded from its package when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.build import build_pseudo as build_pseudo
    from builder.cut.version import cut_version as cut_version
    from builder.export.export import export_version as export_version
    from builder.hub.publish import publish as publish
    from builder.hub.pull import pull as pull
    from builder.hub.remote import open_version as open_version
    from builder.label.labelling import label_pool as label_pool
    from builder.recipe.recipe import Recipe as Recipe
    from builder.recipe.recipe import load_recipe as load_recipe
    from builder.scan.pool import Pool as Pool
    from builder.scan.scanner import scan_pool as scan_pool
    from builder.store.store import Store as Store
    from builder.truth.read import read_truth as read_truth
    from builder.truth.records import Truth as Truth
    from builder.versions.diff import diff as diff
    from builder.versions.explain import explain as explain
    from students.data.loader import JointBatches as JointBatches
    from students.evaluate.measure import evaluate as evaluate
    from students.train.loop import train as train
    from students.train.losses import JointLoss as JointLoss
    from teachers import load_teacher as load_teacher
    from teachers.errors import TutelageError as TutelageError

_HOMES = {
    "JointBatches": "students.data.loader",
    "JointLoss": "students.train.losses",
    "Pool": "builder.scan.pool",
    "Recipe": "builder.recipe.recipe",
    "Store": "builder.store.store",
    "Truth": "builder.truth.records",
    "TutelageError": "teachers.errors",
    "build_pseudo": "builder.build",
    "cut_version": "builder.cut.version",
    "diff": "builder.versions.diff",
    "evaluate": "students.evaluate.measure",
    "explain": "builder.versions.explain",
    "export_version": "builder.export.export",
    "label_pool": "builder.label.labelling",
    "load_recipe": "builder.recipe.recipe",
    "load_teacher": "teachers",
    "open_version": "builder.hub.remote",
    "publish": "builder.hub.publish",
    "pull": "builder.hub.pull",
    "read_truth": "builder.truth.read",
    "scan_pool": "builder.scan.scanner",
    "train": "students.train.loop",
}
"""Public name -> the module that has it; what type checkers see above."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]

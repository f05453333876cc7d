"""A training as people watch it: how the network does on `val` as it goes, and the trackers that plot it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import nn

from builder.store.files import sha256_file
from builder.truth.read import read_section
from builder.truth.records import Truth, subset
from students.evaluate.coco import align_classes
from students.evaluate.measure import kind_measure
from students.train.errors import TrainError
from students.train.recipe import TrainRecipe, Validated
from teachers.from_checkpoint import CheckpointTeacher
from teachers.networks.config import NetworkConfig

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}
"""Tracker -> the packages of which one must be installed."""
BY_DEFAULT = 10
"""Measurements of a training whose recipe does not say how often."""


class Validation:
    """The labels of `val`, and what a network makes of them. It only shows: no weights are chosen by it.

    Raises TrainError if they are of another kind than the labelled ones, and TruthError if they cannot be read or have
    no class in common.
    """

    def __init__(self, section: Validated, truth: Truth, seed: int, steps: int) -> None:
        outlines = any(image.masks is not None for image in truth.images)
        labels = read_section(section.options, "truth", outlines)
        if labels.kind != truth.kind:
            raise TrainError(f"val {section.path} holds {labels.kind} labels, not {truth.kind} as the labelled set")
        align_classes(truth.classes, labels.classes)
        self.path, self.kind = section.path, kind_measure(labels.kind)
        self.truth = subset(labels, section.limit, seed) if section.limit else labels
        self.every = section.every or max(1, steps // BY_DEFAULT)

    def due(self, step: int, steps: int) -> bool:
        """Whether it is measured after so many steps."""
        return step % self.every == 0 or step == steps

    def check_apart(self, trained_on: frozenset[str]) -> None:
        """Raises TrainError if one of its images is learned from."""
        shared = [image.name for image in self.truth.images if sha256_file(image.path) in trained_on]
        if shared:
            raise TrainError(
                f"{len(shared)} of {len(self.truth.images)} images of val {self.path} are learned from ({shared[0]} is "
                "one): its figures would say nothing; give other images"
            )

    def measure(self, network: nn.Module, config: NetworkConfig) -> dict[str, float]:
        """The figures by name, without those of which there is nothing to measure."""
        teacher = CheckpointTeacher.of(copy.deepcopy(network).eval(), config, self.kind.options)
        metrics = self.kind.measure(teacher, self.truth, None, None).metrics
        return {name: float(value) for name, value in metrics.items() if name != "per_class" and value >= 0}


def tracked_by(recipe: TrainRecipe, out: Path) -> dict[str, Any]:
    """What an Accelerator is given so that it reports to the recipe's tracker. Raises TrainError if that is not
    installed."""
    if recipe.track is None:
        return {}
    if not any(find_spec(package) for package in PACKAGES[recipe.track]):
        raise TrainError(f"track: {recipe.track} needs that package: pip install {PACKAGES[recipe.track][0]}")
    folders = ProjectConfiguration(project_dir=str(out), logging_dir=str(out))
    return {"log_with": recipe.track, "project_config": folders}


def start_tracking(accelerator: Accelerator, recipe: TrainRecipe, out: Path, first: int) -> None:
    """Open the tracker's run. first: the steps that are done; figures of later ones are written anew."""
    if recipe.track is None:
        return
    options = {"tensorboard": {"purge_step": first + 1}, "wandb": {"name": out.name}, "mlflow": {"run_name": out.name}}
    name = "tensorboard" if recipe.track == "tensorboard" else "tutelage"
    try:
        accelerator.init_trackers(name, init_kwargs={recipe.track: options[recipe.track]})
    except Exception as error:  # what a tracker raises where it has no server, no login, no folder is its own
        raise TrainError(
            f"{recipe.track} cannot begin ({str(error).partition(chr(10))[0]}): mend it, or remove track"
        ) from error


def track(accelerator: Accelerator, recipe: TrainRecipe, record: Mapping[str, Any]) -> None:
    """Report the figures of a step; those on `val` as `val/AP`, …"""
    if recipe.track is None:
        return
    values = {name: float(value) for name, value in record.items() if isinstance(value, float | int) and name != "step"}
    values |= {f"val/{name}": value for name, value in record.get("val", {}).items()}
    accelerator.log(values, step=record["step"])

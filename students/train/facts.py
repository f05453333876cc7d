"""What a training reads and does, as people are told before its first step, and how long it is likely to take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from builder.kinds import kind_of
from builder.store.version import Version
from builder.words import duration
from students.data.loader import JointBatches
from students.train.recipe import TrainRecipe
from students.train.setup import Plan
from students.train.watch import Validation

WARM, TIMED = 2, 3
"""Steps of an estimate: that are passed over, and that are timed."""


@dataclass(frozen=True)
class Facts:
    """labelled, pseudo, claimed: what is read, in words; images of either stream, and how often the steps go through
    them. parameters: of the network. seconds: of a step, None unless it was tried."""

    labelled: str
    pseudo: tuple[str, ...]
    claimed: tuple[str, ...]
    val: str
    classes: tuple[str, ...]
    network: str
    parameters: int
    start: str
    device: str
    steps: int
    done: int
    batch: int
    human_images: int
    pseudo_images: int
    weights: str
    seconds: float | None = None

    @property
    def epochs(self) -> tuple[float, float]:
        """How often all steps go through the human images, and through the pseudo-labelled ones."""
        part = self.batch // 2 if self.pseudo_images else self.batch
        seen = self.steps * part
        return seen / max(1, self.human_images), seen / self.pseudo_images if self.pseudo_images else 0.0

    def rows(self) -> list[tuple[str, str]]:
        """Name and words of each."""
        shown = ", ".join(self.classes[:8]) + (f" and {len(self.classes) - 8} more" if len(self.classes) > 8 else "")
        human, pseudo = self.epochs
        through = f"the labelled images {human:.3g} times" + (f", the pseudo ones {pseudo:.3g} times" if pseudo else "")
        rows = [("labelled", self.labelled), *(("pseudo", words) for words in self.pseudo)]
        rows += [*(("claimed", words) for words in self.claimed), ("val", self.val)]
        rows += [("classes", f"{len(self.classes)}: {shown}"), ("network", self.network), ("start", self.start)]
        steps = f"{self.steps:,} of {self.batch} images: {through}"
        rows += [("device", self.device), ("steps", f"{steps}; {self.done:,} are done" if self.done else steps)]
        rows.append(("weights", self.weights))
        if self.seconds is not None:
            left = duration(self.seconds * (self.steps - self.done))
            rows.append(("time", f"about {left} ({self.seconds:.2g} s a step here), without measuring on val"))
        return [(name, words) for name, words in rows if words]

    def stored(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def facts(
    recipe: TrainRecipe,
    plan: Plan,
    network: nn.Module,
    accelerator: Accelerator,
    batches: JointBatches,
    validation: Validation | None,
    done: int = 0,
) -> Facts:
    """done: steps that were saved before."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    config, device = plan.config, accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    start = f"the weights of {plan.start}" if plan.start else "random weights"
    if not plan.start and config.pretrained:
        start = f"backbone {config.pretrained}"
    objects = sum(len(image.labels) for image in plan.truth.images)
    noun = f", {objects:,} objects" if objects else ""
    labelled = f"{len(plan.truth.images):,} images{noun} ({recipe.labelled.path})"
    val = ""
    if validation:
        val = f"{len(validation.truth.images):,} images ({validation.path}), every {validation.every:,} steps"
    kept = f"an average of decay {recipe.ema:g}" if recipe.ema else "those of the last step"
    return Facts(
        labelled=labelled,
        pseudo=tuple(_pseudo(version) for version in plan.versions),
        claimed=tuple(_pseudo(version) for version in plan.claimed),
        val=val,
        classes=tuple(config.classes),
        network=f"{config.arch} on {config.backbone}, {config.size} px, {parameters / 1e6:.3g} M parameters",
        parameters=parameters,
        start=start,
        device=name if accelerator.num_processes == 1 else f"{accelerator.num_processes} x {name}",
        steps=recipe.steps,
        done=done,
        batch=recipe.batch,
        human_images=batches.lengths[0],
        pseudo_images=batches.lengths[1],
        weights=f"kept are {kept}; val chooses nothing" if validation else f"kept are {kept}",
    )


def _pseudo(version: Version) -> str:
    manifest = version.manifest
    kept = sum(shard.kept for shard in manifest.shards)
    images = sum(shard.samples - shard.tombstones for shard in manifest.shards)
    noun = "" if kind_of(manifest.kind).pixels else f", {kept:,} kept {kind_of(manifest.kind).noun}"
    return f"{images:,} images{noun} ({version.ref})"


def timed(step: Callable[[int], object]) -> float:
    """Seconds of a step, which is called with its number, from a few of them."""
    for number in range(WARM):
        step(number)
    before = time.perf_counter()
    for number in range(WARM, WARM + TIMED):
        step(number)
    return (time.perf_counter() - before) / TIMED

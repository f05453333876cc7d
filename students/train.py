"""Train a student: supervised, or jointly on human labels and pseudo-labels (the paper's method, step 3)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from builder.files import locked, sha256_file
from builder.remote import Version, open_version
from builder.shards import read_bytes, read_samples
from builder.store import Store
from builder.truth import Truth, read_truth, subset, truth_digest
from students.augment import S1
from students.loader import JointBatches
from students.losses import JointLoss, JointStep
from students.recipe import TrainRecipe
from students.run import Run, TrainError, claim
from students.task import Task, check_labels, task_of, usual_arch
from teachers.backbones import DEFAULT
from teachers.networks import NetworkConfig, build_network, load_checkpoint, read_meta

MAX_SKIPPED = 50
"""Steps in a row without a finite loss and gradient after which training is given up."""

Progress = Callable[[Mapping[str, Any]], None]
"""Called after each step with its log record, in the main process."""


def train(recipe: TrainRecipe, out: Path, store: Store, progress: Progress | None = None) -> Path:
    """Train a network as the recipe says; returns its run folder, `out`.

    A run that was interrupted goes on from its last save, in the same order of images and, on a CPU, to the same
    weights; a finished one is left as it is. Started by `accelerate launch` it uses all GPUs.
    Raises TrainError; TruthError, LoaderError or TeacherError for labels, versions or a network that cannot be used.
    """
    accelerator = _accelerator(recipe)
    plan = _plan(recipe, store)
    with ExitStack() as held:
        if accelerator.is_main_process:
            held.enter_context(locked(out / ".lock", f"run {out}", sweep=[out]))
        if any(version.origin for version in plan.versions):
            held.enter_context(store.in_use())  # or `gc` would take away what is fetched
        with accelerator.main_process_first():
            saved = claim(out, plan.description)
        if saved == recipe.steps:
            return out
        network = _network(recipe, plan)
        heads, optimizer = accelerator.prepare(plan.task.forward(network), _optimizer(network, recipe))
        joint = JointLoss(recipe.alpha if recipe.pseudo else 0.0, recipe.decay, per_term=recipe.per_term)
        batches = _batches(recipe, plan, accelerator)
        before_it = _trained_on(plan) if accelerator.is_main_process else set[str]()

        def about(step: int) -> dict[str, Any]:
            return {"recipe": plan.description, "trained_on": sorted(before_it | _drawn(batches, step))}

        run = Run(out, accelerator, network, plan.config, optimizer, joint, about)
        first, skipped, before = run.resume(), 0, time.perf_counter()
        if first > saved:  # killed after state.pt, before the weights and meta.json that belong to it
            run.save(first)
        on_gpu = accelerator.device.type == "cuda"
        for step, batch in enumerate(batches.stream(first, recipe.steps, workers=recipe.workers, pin=on_gpu), first):
            batch = batch.to(accelerator.device)
            outputs = heads(batch.images, batch.targets)
            result = joint(plan.task.sums(network, outputs, batch.targets, batch.pseudo))
            rate = _set_rate(optimizer, learning_rate(recipe, step))
            norm, moved = _descend(accelerator, heads, optimizer, result, recipe.clip_norm)
            if moved:
                joint.commit(result)
            skipped = 0 if moved else skipped + 1
            if skipped == MAX_SKIPPED:
                raise TrainError(f"{skipped} steps in a row had no finite loss and gradient: lower lr {recipe.lr}")
            before, seconds = time.perf_counter(), time.perf_counter() - before
            record = {"step": step + 1, "lr": rate, "gradient_norm": norm, "moved": moved, **_figures(result)}
            record |= {"images_per_s": recipe.batch / seconds}
            run.log(record)
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                run.save(step + 1)
            if progress and accelerator.is_main_process:
                progress(record)
    return out


def learning_rate(recipe: TrainRecipe, step: int) -> float:
    """Of step 0, 1, …: a linear rise over the first `warmup` of the steps, then half a cosine down to 0."""
    rise = round(recipe.warmup * recipe.steps)
    if step < rise:
        return recipe.lr * (step + 1) / rise
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / (recipe.steps - rise)))


def _set_rate(optimizer: AcceleratedOptimizer, rate: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _descend(
    accelerator: Accelerator, heads: nn.Module, optimizer: AcceleratedOptimizer, result: JointStep, clip_norm: float
) -> tuple[float, bool]:
    """Move the weights against the gradient of the joint loss: its norm before clipping, and whether they moved. They
    do not where a loss or the gradient is not finite, on any process."""
    optimizer.zero_grad()
    if not result.finite:
        return math.nan, False
    accelerator.backward(result.loss)
    norm = float(accelerator.clip_grad_norm_(heads.parameters(), clip_norm))  # takes fp16's loss scale off first
    if accelerator.scaler is not None or math.isfinite(norm):
        optimizer.step()  # in fp16 it skips an infinite gradient by itself, and lowers the loss scale
    return norm, math.isfinite(norm)


def _figures(result: JointStep) -> dict[str, float | list[float]]:
    """What the log says of a step's losses; a list where each term has its own ratio."""

    def plain(values: torch.Tensor) -> float | list[float]:
        return values.item() if values.numel() == 1 else values.tolist()

    human, pseudo = torch.stack(list(result.terms.values())).sum(0).tolist()
    figures: dict[str, float | list[float]] = {"loss": result.value, "human": human, "pseudo": pseudo}
    for name, values in result.terms.items():
        figures |= {f"human_{name}": values[0].item(), f"pseudo_{name}": values[1].item()}
    figures |= {"human_positives": result.positives[0].item(), "pseudo_positives": result.positives[1].item()}
    figures |= {"human_average": plain(result.averages[:, 0]), "pseudo_average": plain(result.averages[:, 1])}
    return figures | {"ratio": plain(result.ratio), "ratio_unclipped": plain(result.raw_ratio)}


@dataclass(frozen=True)
class _Plan:
    """What a recipe leads to. description: JSON-ready, all that decides the weights, without paths of this machine."""

    truth: Truth
    versions: list[Version]
    task: Task
    config: NetworkConfig
    start: Path | None
    description: dict[str, Any]


def _plan(recipe: TrainRecipe, store: Store) -> _Plan:
    labelled = recipe.labelled
    outlines = recipe.network.arch == "maskrcnn"
    truth = read_truth(labelled.path, labelled.images, outlines=outlines)
    if labelled.path.suffix == ".json":
        labels = sha256_file(labelled.path)
    else:  # many files: what they say, of which names
        labels = truth_digest(truth, {image.name: image.name for image in truth.images})
    if labelled.limit:
        truth = subset(truth, labelled.limit, recipe.seed)
    if recipe.network.classes:
        raise TrainError("network.classes are those of the labels: remove them from the recipe")
    versions = [open_version(ref, store) for ref in recipe.pseudo]
    start = Path(recipe.init.partition(":")[2]) if recipe.init else None
    arch = recipe.network.arch or usual_arch(truth.kind)
    task = task_of(arch, recipe.soft)
    check_labels(truth.kind, task, labelled.path)
    config = replace(recipe.network, arch=arch, classes=truth.classes)
    elsewhere = {"labelled", "pseudo", "network", "init", "workers", "save_every"}
    if arch != "linear":
        elsewhere.add("soft")
    options = recipe.model_dump(mode="json", exclude=elsewhere)
    network = asdict(config)
    if config.pretrained not in (None, DEFAULT):
        network["pretrained"] = sha256_file(Path(str(config.pretrained)))
    description = options | {
        "labelled": {"file": labelled.path.name, "sha256": labels, "limit": labelled.limit},
        "pseudo": [_described(version) for version in versions],
        "init": read_meta(start)["weights"]["sha256"] if start else None,
        "network": network,
    }
    return _Plan(truth, versions, task, config, start, orjson.loads(orjson.dumps(description)))


def _described(version: Version) -> dict[str, Any]:
    manifest = version.manifest
    about = {"name": manifest.name, "version": manifest.version, "id": manifest.id}
    return about | {"streamed": True} if version.origin else about  # in another order


def _accelerator(recipe: TrainRecipe) -> Accelerator:
    try:
        accelerator = Accelerator(mixed_precision="no" if recipe.precision == "fp32" else recipe.precision)
    except ValueError as error:
        raise TrainError(f"precision {recipe.precision} cannot be used here: {error}") from error
    parts = accelerator.num_processes * (2 if recipe.pseudo else 1)
    if recipe.batch % parts:
        raise TrainError(f"batch {recipe.batch} cannot be split evenly: make it a multiple of {parts}")
    return accelerator


def _network(recipe: TrainRecipe, plan: _Plan) -> nn.Module:
    """The network as training starts, from random, pre-trained or another run's weights."""
    torch.manual_seed(recipe.seed)
    if plan.start is None:
        return build_network(plan.config)
    network = build_network(plan.config, pretrained=False)
    trained, config, _ = load_checkpoint(plan.start)
    if config.classes != plan.config.classes:
        raise TrainError(f"{plan.start} knows other classes than {recipe.labelled.path}: start from another run")
    try:
        network.load_state_dict(trained.state_dict())
    except RuntimeError:
        raise TrainError(f"{plan.start} has another network than the recipe: copy its network section") from None
    return network


def _optimizer(network: nn.Module, recipe: TrainRecipe) -> torch.optim.AdamW:
    """AdamW; norms and biases do not decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def _batches(recipe: TrainRecipe, plan: _Plan, accelerator: Accelerator) -> JointBatches:
    world = accelerator.num_processes
    red, green, blue = (round(255 * mean) for mean in plan.config.mean)
    return JointBatches(
        plan.truth,
        plan.versions,
        task=plan.task,
        size=plan.config.size,
        batch_size=recipe.batch // world,
        augment=replace(S1, flip=0.5 if recipe.flip else 0.0),
        fill=(red, green, blue),
        seed=recipe.seed,
        rank=accelerator.process_index,
        world=world,
    )


def _trained_on(plan: _Plan) -> set[str]:
    """SHA-256 of every image the weights come to depend on: labelled, pseudo-labelled in versions that are here, and
    those of the run it starts from."""
    with ThreadPoolExecutor() as threads:
        seen = set(threads.map(sha256_file, [image.path for image in plan.truth.images]))
    for version in plan.versions:
        if not version.origin:
            seen.update(*(_images_in(version.shard(record)) for record in version.manifest.shards))
    if plan.start:
        seen.update(read_meta(plan.start)["trained_on"])
    return seen


def _drawn(batches: JointBatches, stop: int) -> set[str]:
    """SHA-256 of all images in the shards, of versions on the Hub, that steps before `stop` have touched."""
    return set[str]().union(*(_images_in(version.shard(record)) for version, record in batches.shards_seen(stop)))


@cache
def _images_in(path: Path) -> frozenset[str]:
    """SHA-256 of a shard's images. Kept, since every save asks again."""
    labels = (orjson.loads(read_bytes(path, sample.members["json"])) for sample in read_samples(path))
    return frozenset(label["sha256"] for label in labels)

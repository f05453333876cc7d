"""Train a student: supervised, or jointly on human labels and pseudo-labels (the paper's method, step 3).

A run folder holds, from its start, `recipe.json` (all that decides the weights) and `log.jsonl` (a record per step), and
after every save `state.pt` (all that resuming needs), `model.safetensors` and `meta.json` (the teacher-to-be).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import torch
import torchvision
import yaml
from accelerate import Accelerator
from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from pydantic import field_validator
from torch import nn

from builder import BuildError
from builder.files import new_file, sha256_file, locked, write_file
from builder.manifest import read_manifest
from builder.recipe import STRICT, explain
from builder.shards import read_bytes, read_samples
from builder.store import Store
from builder.truth import Truth, read_coco, subset
from students.augment import S1
from students.loader import JointBatches
from students.losses import DenseForward, JointLoss, JointStep, detection_sums
from teachers.networks import Detector, NetworkConfig, build_network, load_checkpoint, read_meta, save_checkpoint

RECIPE, STATE, LOG = "recipe.json", "state.pt", "log.jsonl"
MAX_SKIPPED = 50
"""Steps in a row without a finite loss and gradient after which training is given up."""

Progress = Callable[[Mapping[str, Any]], None]
"""Called after each step with its log record, in the main process."""


class TrainError(BuildError):
    """A training that cannot start or go on. The message is one sentence for the user."""


class Labelled(BaseModel):
    """The `labelled` section, or just its `path`: COCO JSON. images: the folder of its files, where not beside it.
    limit: train on that many of its images, chosen by the recipe's seed; a smaller choice is part of a larger one."""

    model_config = STRICT
    path: Path
    images: Path | None = None
    limit: PositiveInt | None = None


class TrainRecipe(BaseModel):
    """What a training reads.

    pseudo: versions (`cells`, `cells@v3` or a folder) whose images make up half of every batch; none for supervised
    training. network: see NetworkConfig; its classes are those of the labels. init: `checkpoint:RUN` starts from the
    weights of that run, whose network must be the same.
    batch: images per step, over all GPUs. lr: the peak of a rise over the share `warmup` of the steps and a cosine fall
    to 0 (AdamW). clip_norm: of the gradient. alpha, decay, per_term: see JointLoss.
    workers: processes that read images; save_every: steps; neither changes the weights.
    """

    model_config = STRICT
    labelled: Labelled
    pseudo: tuple[str, ...] = ()
    network: NetworkConfig = NetworkConfig()
    init: Annotated[str, Field(pattern="^checkpoint:.+$")] | None = None
    steps: PositiveInt
    batch: PositiveInt = 16
    lr: PositiveFloat = 2e-4
    weight_decay: NonNegativeFloat = 0.05
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip_norm: PositiveFloat = 10.0
    augment: Literal["S1"] = "S1"
    alpha: NonNegativeFloat = 1.0
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    per_term: bool = False
    seed: NonNegativeInt = 0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    workers: NonNegativeInt = 2
    save_every: PositiveInt = 1000

    @field_validator("labelled", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    def rooted(self, folder: Path) -> TrainRecipe:
        """The same recipe with its relative paths, which are relative to `folder`, made to lead from here."""
        labelled = self.labelled
        images = labelled.images and folder / labelled.images
        pretrained = self.network.pretrained
        if pretrained not in (None, "DEFAULT"):
            pretrained = str(folder / str(pretrained))
        return self.model_copy(
            update={
                "labelled": labelled.model_copy(update={"path": folder / labelled.path, "images": images}),
                "pseudo": tuple(str(folder / ref) if (folder / ref).is_dir() else ref for ref in self.pseudo),
                "network": replace(self.network, pretrained=pretrained),
                "init": self.init and f"checkpoint:{folder / self.init.partition(':')[2]}",
            }
        )


def load_train_recipe(path: Path) -> TrainRecipe:
    """The training recipe in a YAML file. Raises TrainError, in one sentence that names the key."""
    try:
        return TrainRecipe.model_validate(yaml.safe_load(path.read_text())).rooted(path.parent)
    except OSError as error:
        raise TrainError(f"recipe {path} cannot be read ({error.strerror}): give an existing YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise TrainError(f"recipe {path}: {explain(error)}") from None


def train(recipe: TrainRecipe, out: Path, store: Store, progress: Progress | None = None) -> Path:
    """Train a network as the recipe says; returns its run folder, `out`.

    A run that was interrupted goes on from its last save, in the same order of images and, on a CPU, to the same
    weights; a finished one is left as it is. Started by `accelerate launch` it uses all GPUs.
    Raises TrainError, and TruthError, LoaderError or TeacherError for labels, versions or a network that cannot be used.
    """
    accelerator = _accelerator(recipe)
    plan = _plan(recipe, store)
    with ExitStack() as held:
        if accelerator.is_main_process:
            held.enter_context(locked(out, f"run {out}"))
        with accelerator.main_process_first():
            if _claim(out, plan.description) == recipe.steps:
                return out
        network = _network(recipe, plan)
        heads, optimizer = accelerator.prepare(DenseForward(network), _optimizer(network, recipe))
        joint = JointLoss(recipe.alpha if recipe.pseudo else 0.0, recipe.decay, per_term=recipe.per_term)
        run = _Run(out, plan, accelerator, network, optimizer, joint)
        first, skipped, before = run.resume(), 0, time.perf_counter()
        for step, batch in enumerate(_batches(recipe, plan, accelerator, first), first):
            batch = batch.to(accelerator.device)
            outputs = heads.train()(batch.images)
            result = joint(detection_sums(network, outputs, batch.targets, batch.pseudo))
            rate = learning_rate(recipe, step)
            norm, moved = _descend(accelerator, heads, optimizer, result, rate, recipe.clip_norm)
            if moved:
                joint.commit(result)
            skipped = 0 if moved else skipped + 1
            if skipped == MAX_SKIPPED:
                raise TrainError(f"{skipped} steps in a row had no finite loss and gradient: lower lr {recipe.lr}")
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                run.save(step + 1)
            before, seconds = time.perf_counter(), time.perf_counter() - before
            record = {"step": step + 1, "lr": rate, "gradient_norm": norm, "moved": moved, **_figures(result)}
            run.log(record | {"images_per_s": recipe.batch / seconds}, progress)
    return out


def learning_rate(recipe: TrainRecipe, step: int) -> float:
    """Of step 0, 1, …: a linear rise over the first `warmup` of the steps, then half a cosine down to 0."""
    rise = round(recipe.warmup * recipe.steps)
    if step < rise:
        return recipe.lr * (step + 1) / rise
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / (recipe.steps - rise)))


def _descend(
    accelerator: Accelerator, heads: nn.Module, optimizer: AcceleratedOptimizer, result: JointStep, rate: float, clip: float
) -> tuple[float, bool]:
    """Move the weights against the gradient of the joint loss: its norm before clipping, and whether they moved. They
    do not where a loss or the gradient is not finite, on any process."""
    optimizer.zero_grad()
    if not result.finite:
        return math.nan, False
    accelerator.backward(result.loss)
    norm = float(accelerator.clip_grad_norm_(heads.parameters(), clip))  # takes fp16's loss scale off first
    if accelerator.scaler is None and not math.isfinite(norm):
        return norm, False
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()  # in fp16 it skips an infinite gradient by itself, and lowers the loss scale
    return norm, not accelerator.optimizer_step_was_skipped


def _figures(result: JointStep) -> dict[str, float | list[float]]:
    """What the log says of a step's losses; a list where each term has its own ratio."""

    def plain(values: torch.Tensor) -> float | list[float]:
        return values.item() if values.numel() == 1 else values.tolist()

    human, pseudo = torch.stack(list(result.terms.values())).sum(0).tolist()
    figures: dict[str, float | list[float]] = {"human": human, "pseudo": pseudo}
    for name, values in result.terms.items():
        figures |= {f"human_{name}": values[0].item(), f"pseudo_{name}": values[1].item()}
    figures |= {"human_positives": result.positives[0].item(), "pseudo_positives": result.positives[1].item()}
    figures |= {"human_average": plain(result.averages[:, 0]), "pseudo_average": plain(result.averages[:, 1])}
    return figures | {"ratio": plain(result.ratio), "ratio_unclipped": plain(result.raw_ratio)}


@dataclass(frozen=True)
class _Plan:
    """What a recipe leads to. description: JSON-ready, all that decides the weights, without paths of this machine."""

    truth: Truth
    versions: list[Path]
    config: NetworkConfig
    start: Path | None
    description: dict[str, Any]


def _plan(recipe: TrainRecipe, store: Store) -> _Plan:
    labelled = recipe.labelled
    truth = read_coco(labelled.path, labelled.images)
    if labelled.limit:
        truth = subset(truth, labelled.limit, recipe.seed)
    if recipe.network.classes:
        raise TrainError("network.classes are those of the labels: remove them from the recipe")
    versions = [store.version(ref) for ref in recipe.pseudo]
    manifests = [read_manifest(folder) for folder in versions]
    start = Path(recipe.init.partition(":")[2]) if recipe.init else None
    config = replace(recipe.network, classes=truth.classes)
    options = recipe.model_dump(mode="json", exclude={"labelled", "pseudo", "network", "init", "workers", "save_every"})
    network = asdict(config)
    if config.pretrained not in (None, DEFAULT):
        network["pretrained"] = sha256_file(Path(str(config.pretrained)))
    description = options | {
        "labelled": {"file": labelled.path.name, "sha256": sha256_file(labelled.path), "limit": labelled.limit},
        "pseudo": [{"name": m.name, "version": m.version, "id": m.id} for m in manifests],
        "init": read_meta(start)["weights"]["sha256"] if start else None,
        "network": network,
    }
    return _Plan(truth, versions, config, start, orjson.loads(orjson.dumps(description)))


def _claim(out: Path, description: dict[str, Any]) -> int:
    """Make `out` the run of this description, or find that it is: the steps it has saved. Raises TrainError if it is
    another's."""
    path = out / RECIPE
    if not path.is_file():
        if any(entry.name != ".lock" for entry in out.iterdir()):
            raise TrainError(f"{out} holds other files and no run: give a new or an empty folder")
        write_file(path, orjson.dumps(description, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    theirs = orjson.loads(path.read_bytes())
    changed = [key for key in description if description[key] != theirs.get(key)]
    if changed:
        raise TrainError(f"{out} is a run with another {', '.join(changed)}: train into another folder, or remove this one")
    return read_meta(out)["step"] if (out / META).is_file() else 0


def _accelerator(recipe: TrainRecipe) -> Accelerator:
    try:
        accelerator = Accelerator(mixed_precision="no" if recipe.precision == "fp32" else recipe.precision)
    except ValueError as error:
        raise TrainError(f"precision {recipe.precision} cannot be used here: {error}") from error
    parts = accelerator.num_processes * (2 if recipe.pseudo else 1)
    if recipe.batch % parts:
        raise TrainError(f"batch {recipe.batch} cannot be split evenly: with this recipe here it is a multiple of {parts}")
    return accelerator


def _network(recipe: TrainRecipe, plan: _Plan) -> Detector:
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


def _optimizer(network: Detector, recipe: TrainRecipe) -> torch.optim.AdamW:
    """AdamW; norms and biases do not decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def _batches(recipe: TrainRecipe, plan: _Plan, accelerator: Accelerator, first: int) -> Iterator[Batch]:
    world, on_gpu = accelerator.num_processes, accelerator.device.type == "cuda"
    red, green, blue = (round(255 * mean) for mean in plan.config.mean)
    batches = JointBatches(
        plan.truth,
        plan.versions,
        size=plan.config.size,
        batch_size=recipe.batch // world,
        augment=S1,
        fill=(red, green, blue),
        seed=recipe.seed,
        rank=accelerator.process_index,
        world=world,
    )
    return batches.stream(first, recipe.steps, workers=recipe.workers, pin=on_gpu)


@dataclass
class _Run:
    """The files of a run. All processes call `resume` and `save`; only the main one writes."""

    out: Path
    plan: _Plan
    accelerator: Accelerator
    network: Detector
    optimizer: AcceleratedOptimizer
    joint: JointLoss

    def __post_init__(self) -> None:
        self._trained_on = _trained_on(self.plan) if self.accelerator.is_main_process else []

    def resume(self) -> int:
        """Take up the last save; returns the steps done by then."""
        path, rank, scaler = self.out / STATE, self.accelerator.process_index, self.accelerator.scaler
        if not path.is_file():
            torch.manual_seed(self.plan.description["seed"] + rank)
            self._cut_log(0)
            return 0
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.joint.load_state_dict(state["joint"])
        if scaler:
            scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"][rank % len(state["random"])])
        self._cut_log(state["step"])
        return int(state["step"])

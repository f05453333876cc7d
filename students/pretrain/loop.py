"""Pre-train a backbone without labels on a pool (SimCLR, arXiv 2002.05709): the paper's self-supervised initialisation.

The run folder is like that of a training (students.train.run): `recipe.json`, `log.jsonl`, `state.pt`, and last
`meta.json`, which names the images it was trained on. `backbone.safetensors` is what `network.pretrained` of a recipe
reads.
"""

from __future__ import annotations

import glob
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import torch
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    field_validator,
)
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from builder.label.section import root
from builder.recipe.reading import BY_EXAMPLE, explain, read_mapping
from builder.recipe.recipe import PoolOptions
from builder.scan.pool import Pool, find_pool
from builder.sections import Count, Section, Seed
from builder.store.files import locked, seal, sha256_file, write_file
from builder.store.store import Store
from students.data.ahead import made_ahead
from students.pretrain.simclr import PoolImages, Projection, ViewBatches, Views, nt_xent
from students.train.errors import TrainError
from students.train.loop import MAX_SKIPPED, Progress, learning_rate, make_optimizer
from students.train.recipe import MOST_WORKERS, rooted_network
from students.train.run import append, claim, cut_log, libraries, sync_log
from students.train.state import read_state, readable, write_state
from teachers.networks.backbones import DEFAULT, make_backbone, published_names, whole_network
from teachers.networks.config import NetworkConfig, as_json, check_normalisation
from teachers.networks.meta import FORMAT, META, check_file, read_meta
from teachers.networks.weights import BACKBONE, pretrained_on, weights_file

UNUSED = ("arch", "classes", "channels", "head_depth")
"""Of a network's section: what stands on top of its backbone."""


class PretrainRecipe(Section):
    """What a pre-training reads.

    pool: as in a build recipe (a folder, glob, list, COCO JSON, tars), or the id of a pool in the store.
    network: as the student's, which may be copied: backbone, levels (up to the last of which it is trained), size of
    the views, norm (`group` or `batch`, as the student's; `frozen` students take `batch`), mean, std, and `pretrained`
    to begin with; what stands on the backbone has no meaning here.
    batch: images per step; each has the others for negatives, so more is better (the paper: 256 to 8192).
    lr, warmup, weight_decay, clip_norm: as in TrainRecipe. temperature: of the loss (the paper: .1, CIFAR-10 .5).
    projection: outputs of the head that is thrown away afterwards.
    min_scale: the least share of an image's area that a view shows. flip: mirror images; off where left and right
    differ. colour: strength of the colour distortion (the paper: 1, CIFAR-10 .5), 0 for none. blur: half of the views
    (the paper: not for CIFAR-10).
    workers: processes that read images; save_every: steps; neither changes the weights.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    pool: PoolOptions
    network: NetworkConfig = NetworkConfig(size=224)
    steps: Count
    batch: Annotated[int, Field(ge=2, lt=2**31)] = 256
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.05
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip_norm: PositiveFloat = 10.0
    temperature: PositiveFloat = 0.1
    projection: Annotated[int, Field(ge=1, le=65_536)] = 128
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.08
    flip: bool = True
    colour: Annotated[float, Field(ge=0, le=2)] = 1.0
    blur: bool = True
    seed: Seed = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)] = 2
    save_every: Count = 1000

    @field_validator("pool", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"source": str(value)} if isinstance(value, str | Path) else value

    def rooted(self, folder: Path) -> PretrainRecipe:
        """The same recipe with its relative paths, which are relative to `folder`, made to lead from here."""
        pool, source = self.pool, root(self.pool.source, folder)
        if source and _is_source(source):  # else a pool in the store
            pool = pool.model_copy(update={"source": source, "images": root(pool.images, folder)})
        return self.model_copy(update={"pool": pool, "network": rooted_network(self.network, folder)})


def load_pretrain_recipe(path: Path, overrides: Sequence[str] = ()) -> PretrainRecipe:
    """The recipe in a YAML file, with `key.key=value` overrides. Raises BuildError, in one sentence with the key."""
    content = read_mapping(path, overrides)
    try:
        return PretrainRecipe.model_validate(content).rooted(path.parent)
    except ValidationError as error:
        raise TrainError(f"recipe {path}: {explain(error, PretrainRecipe, BY_EXAMPLE)}") from None


def pretrain(recipe: PretrainRecipe, out: Path, store: Store, progress: Progress | None = None) -> Path:
    """Train a backbone as the recipe says; returns its run folder, `out`, which holds `backbone.safetensors`.

    A run that was interrupted goes on from its last save, on a CPU to the same weights; a finished one is left as it
    is. It uses one GPU, if there is one. Raises TrainError; BuildError for a pool, TeacherError for a backbone that
    cannot be used.
    """
    _check(recipe)
    with locked(out / ".lock", f"run {out}", sweep=[out]):
        images = PoolImages(_pool(recipe, store))
        description = _description(recipe, images)
        saved = claim(out, description)
        if saved == recipe.steps:
            check_file(out, read_meta(out).weights)
            return out
        run = _start(recipe, out, description, images)
        first, skipped, before = run.resume(), 0, time.perf_counter()
        if first > saved:  # killed after state.pt, before the weights and meta.json that belong to it
            run.save(first)
        batches = ViewBatches(images, _views(recipe), batch=recipe.batch, seed=recipe.seed)
        steps, pin = range(first, recipe.steps), run.device.type == "cuda"
        for step, views in zip(
            steps, made_ahead(batches.__getitem__, steps, workers=recipe.workers, pin=pin), strict=True
        ):
            loss, accuracy = run.losses(views)
            rate = learning_rate(recipe, step)
            norm = run.descend(loss, rate)
            skipped = 0 if math.isfinite(norm) else skipped + 1
            if skipped == MAX_SKIPPED:
                raise TrainError(f"{skipped} steps in a row had no finite loss and gradient: lower lr {recipe.lr}")
            before, seconds = time.perf_counter(), time.perf_counter() - before
            record = {"step": step + 1, "loss": loss.item(), "accuracy": accuracy.item(), "lr": rate}
            record |= {"gradient_norm": norm, "moved": math.isfinite(norm), "images_per_s": recipe.batch / seconds}
            append(out, record)
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                run.save(step + 1)
            if progress:
                progress(record)
    return out


@dataclass(frozen=True)
class _Run:
    """A pre-training under way. names: see published_names; trained_on: SHA-256 of all images of the pool, and of those
    that the weights it begins with have seen."""

    recipe: PretrainRecipe
    out: Path
    description: Mapping[str, Any]
    trained_on: Sequence[str]
    names: Mapping[str, str]
    network: nn.ModuleDict
    optimizer: torch.optim.Optimizer
    device: torch.device

    def losses(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and accuracy, see nt_xent, of views, uint8 (2, B, 3, S, S)."""
        recipe, device = self.recipe, self.device
        mean, std = (
            torch.tensor(values, device=device)[:, None, None] for values in (recipe.network.mean, recipe.network.std)
        )
        pixels = (views.flatten(0, 1).to(device, non_blocking=True).float() / 255 - mean) / std
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            projected = self.network["projection"](self.network["body"](pixels)[-1].mean((2, 3)))
        first, second = projected.chunk(2)
        return nt_xent(first, second, recipe.temperature)

    def descend(self, loss: Tensor, rate: float) -> float:
        """Move the weights, unless loss or gradient are not finite; the norm of the gradient before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm))
        if math.isfinite(norm):
            self.optimizer.step()
        return norm

    def resume(self) -> int:
        """Take up the last save, if there is one: the steps done by then. Later log records are dropped."""
        step = 0
        if (state := read_state(self.out)) is not None:
            with readable(self.out):
                self.network.load_state_dict(state["network"])
                self.optimizer.load_state_dict(state["optimizer"])
                torch.set_rng_state(state["random"])
                if self.device.type == "cuda" and len(state["random_gpu"]):
                    torch.cuda.set_rng_state(state["random_gpu"])
            step = state["step"]
        cut_log(self.out, step)
        return step

    def save(self, step: int) -> None:
        """Write `state.pt`, `backbone.safetensors` and, last, `meta.json`."""
        state = {
            "step": step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_gpu": torch.cuda.get_rng_state() if self.device.type == "cuda" else torch.empty(0),
        }
        sync_log(self.out)
        write_state(self.out, state)
        body = self.network["body"].state_dict()
        weights = save_tensors({name: body[ours].contiguous() for ours, name in self.names.items()})
        meta = {
            "format": FORMAT,
            "step": step,
            "recipe": self.description,
            "trained_on": self.trained_on,
            "libraries": libraries(),
            "network": self.description["network"],
            "weights": {"file": BACKBONE, "sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)},
        }
        write_file(self.out / BACKBONE, weights)
        write_file(self.out / META, orjson.dumps(seal(meta), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _start(recipe: PretrainRecipe, out: Path, description: Mapping[str, Any], images: PoolImages) -> _Run:
    torch.manual_seed(recipe.seed)
    device, network = torch.device("cuda" if torch.cuda.is_available() else "cpu"), recipe.network
    body, channels = make_backbone(network.backbone, network.levels, network.pretrained, network.norm)
    names = published_names(body, whole_network(network.backbone))
    projection = Projection(channels[-1], recipe.projection, batch_norm=network.norm == "batch")
    modules = nn.ModuleDict({"body": body, "projection": projection}).to(device)
    trained_on = sorted(pretrained_on(network.pretrained).union(images.sha256))
    return _Run(recipe, out, description, trained_on, names, modules, make_optimizer(modules, recipe), device)


def _check(recipe: PretrainRecipe) -> None:
    if recipe.network.classes:
        raise TrainError("network.classes are those of labels, which a pre-training has none of: remove them")
    if recipe.network.norm == "frozen":
        raise TrainError("network.norm frozen keeps another training's statistics: pre-train with batch, then freeze")
    check_normalisation(recipe.network)


def _is_source(source: str) -> bool:
    return "://" in source or glob.has_magic(source) or Path(source).exists()


def _pool(recipe: PretrainRecipe, store: Store) -> Pool:
    pool = recipe.pool
    if _is_source(pool.source):
        return pool.scan(store)
    return find_pool(store, pool.source)


def _views(recipe: PretrainRecipe) -> Views:
    return Views(recipe.network.size, recipe.min_scale, recipe.flip, recipe.colour, recipe.blur)


def _description(recipe: PretrainRecipe, images: PoolImages) -> dict[str, Any]:
    """JSON-ready, all that decides the weights, without paths of this machine."""
    options = recipe.model_dump(mode="json", exclude={"pool", "network", "workers", "save_every"})
    network = as_json(recipe.network)
    if network["pretrained"] not in (None, DEFAULT):
        network["pretrained"] = sha256_file(weights_file(network["pretrained"]))
    seen = hashlib.sha256("\n".join(images.sha256).encode()).hexdigest()
    about = {"pool": {"images": len(images), "sha256": seen}}
    about["network"] = {name: value for name, value in network.items() if name not in UNUSED}
    return dict(orjson.loads(orjson.dumps(options | about)))

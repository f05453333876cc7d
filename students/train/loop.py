"""Train a student: supervised, or jointly on human labels and pseudo-labels (the paper's method, step 3)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from builder.errors import brief
from builder.store.files import locked
from builder.store.store import Store, check_store
from students.data.loader import Batch, JointBatches
from students.tasks.base import Task
from students.train.average import WeightAverage
from students.train.errors import TrainError
from students.train.facts import Facts, facts, timed
from students.train.losses import JointLoss, JointStep, StreamSums
from students.train.recipe import Schedule, TrainRecipe, load_train_recipe
from students.train.run import Run, claim
from students.train.setup import Plan, about, make_plan, starting_network
from students.train.watch import Validation, start_tracking, track, tracked_by
from teachers.networks.meta import check_file, read_meta

MAX_SKIPPED = 50
"""Steps in a row without a finite loss and gradient after which training is given up."""

Progress = Callable[[Mapping[str, Any]], None]
"""Called after each step with its log record, in the main process."""
Announce = Callable[[Facts], None]


def train(
    recipe: TrainRecipe | Path | str,
    out: Path | str,
    store: Store | None = None,
    progress: Progress | None = None,
    announce: Announce | None = None,
) -> Path:
    """Train a network as the recipe says, supervised or jointly with pseudo-labelled versions.

    A run that was interrupted goes on from its last save, in the same order of images and, on a CPU, to the same
    weights; a finished one is left as it is. Started by `accelerate launch` it uses all GPUs.

    Args:
        recipe: a training recipe, or the YAML file of one (students.train.recipe.load_train_recipe). One with rounds is
            several trainings: see students.rounds.loop.run_rounds.
        out: the run folder, which is made.
        store: where versions are looked up; `./store` by default.
        progress: called after each step with its log record; `val` in it holds the figures on `val` where these were
            measured.
        announce: called once before the first step with what is read and done (students.train.facts.Facts).

    Returns:
        The run folder, `out`; `checkpoint:OUT` is the network as a teacher.

    Raises:
        TrainError: for what is no recipe, one that cannot be carried out here, or one that gives no finite loss.
        TruthError, LoaderError, TeacherError: for labels, versions or a network that cannot be used.
    """
    recipe = _recipe(recipe)
    out, store = Path(out), Store("store") if store is None else store
    check_store(store)
    accelerator, plan = _accelerator(recipe, out), make_plan(recipe, store)
    validation = _validation(recipe, plan)
    with _claimed(out, plan, store, accelerator) as done:
        if done == recipe.steps:
            check_file(out, read_meta(out).weights)
            return out
        training = _Training(recipe, plan, accelerator)
        run = training.run(out)
        first, gpu, speaks = run.resume(), accelerator.device.type == "cuda", accelerator.is_main_process
        if announce and speaks:
            announce(training.facts(validation, first))
        start_tracking(accelerator, recipe, out, first)
        batches = training.batches.stream(first, recipe.steps, workers=recipe.workers, pin=gpu)
        for step, batch in enumerate(batches, first):
            record = training.step(step, batch)
            if validation and speaks and validation.due(step + 1, recipe.steps):
                record["val"] = validation.measure(training.average.network, plan.config)
                training.start_clock()
            run.log(record)
            track(accelerator, recipe, record)
            if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
                run.save(step + 1)
            if progress and speaks:
                progress(record)
        accelerator.end_training()
    return out


def look(recipe: TrainRecipe | Path | str, store: Store | None = None) -> Facts:
    """What a training would read and do, and how long a step of it takes here, of which a few are tried in memory.
    Nothing is written; nothing is tried with versions that would have to be fetched. Raises as `train` does."""
    recipe, store = _recipe(recipe), Store("store") if store is None else store
    check_store(store)
    accelerator, plan = _accelerator(recipe), make_plan(recipe, store)
    validation = _validation(recipe, plan)
    training = _Training(recipe, plan, accelerator)
    facts = training.facts(validation)
    if any(version.is_remote for version in (*plan.versions, *plan.claimed)):
        return facts
    return replace(facts, seconds=timed(lambda step: training.step(step, training.batches[step])))


def _validation(recipe: TrainRecipe, plan: Plan) -> Validation | None:
    if recipe.val is None:
        return None
    validation = Validation(recipe.val, plan.truth, recipe.seed, recipe.steps)
    validation.check_apart(plan.trained_on)
    return validation


class _Training:
    """A network and what moves its weights."""

    def __init__(self, recipe: TrainRecipe, plan: Plan, accelerator: Accelerator) -> None:
        self.recipe, self.plan, self.accelerator = recipe, plan, accelerator
        self.network = starting_network(recipe, plan)
        forward, optimizer = plan.task.forward(self.network), make_optimizer(self.network, recipe)
        self.heads, self.optimizer = accelerator.prepare(forward, optimizer)
        self.batches, self.average = _batches(recipe, plan, accelerator), WeightAverage(self.network, recipe.ema)
        self.joint = _joint(recipe, plan.task, self.batches.lengths)
        self._skipped = 0
        self.start_clock()

    def run(self, out: Path) -> Run:
        """What it saves and resumes, in the folder `out`."""
        about_run = partial(about, self.plan, self.batches)
        parts = (self.network, self.plan.config, self.optimizer, self.joint, about_run, self.average)
        return Run(out, self.accelerator, *parts)

    def facts(self, validation: Validation | None, done: int = 0) -> Facts:
        return facts(self.recipe, self.plan, self.network, self.accelerator, self.batches, validation, done)

    def start_clock(self) -> None:
        """What lies before this is no part of the next step's time."""
        self._before = time.perf_counter()

    def step(self, number: int, batch: Batch) -> dict[str, Any]:
        """Learn from a batch; the log record of step 0, 1, … Raises TrainError after MAX_SKIPPED steps without a finite
        loss and gradient."""
        batch = batch.to(self.accelerator.device)
        outputs = self.heads(batch.images, batch.targets)
        self.joint.alpha = alpha_at(self.recipe, number)
        result = self.joint(_sums(self.plan.task, self.network, outputs, batch))
        rate = _set_rate(self.optimizer, learning_rate(self.recipe, number))
        norm, moved = _descend(self.accelerator, self.heads, self.optimizer, result, self.recipe.clip_norm)
        if moved:
            self.joint.commit(result)
            self.average.update()
        self._skipped = 0 if moved else self._skipped + 1
        if self._skipped == MAX_SKIPPED:
            raise TrainError(
                f"{self._skipped} steps in a row had no finite loss and gradient: lower lr {self.recipe.lr}"
            )
        seconds = time.perf_counter() - self._before
        self.start_clock()
        record = {"step": number + 1, "lr": rate, "gradient_norm": norm, "moved": moved, **result.figures()}
        ramp = {"alpha": self.joint.alpha} if self.recipe.alpha_ramp else {}
        return record | ramp | {"images_per_s": self.recipe.batch / seconds}


def learning_rate(recipe: Schedule, step: int) -> float:
    """Of step 0, 1, …: a linear rise over the first `warmup` of the steps, then half a cosine down to 0."""
    rise = round(recipe.warmup * recipe.steps)
    if step < rise:
        return recipe.lr * (step + 1) / rise
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / (recipe.steps - rise)))


def alpha_at(recipe: TrainRecipe, step: int) -> float:
    """The weight of the pseudo-labels at step 0, 1, …, 0 without any: a linear rise over the first `alpha_ramp` of the
    steps, then alpha."""
    if not recipe.pseudo:
        return 0.0
    rise = recipe.alpha_ramp * recipe.steps
    return recipe.alpha * min(1.0, (step + 1) / rise) if rise else recipe.alpha


def _sums(task: Task, network: nn.Module, outputs: Any, batch: Batch) -> StreamSums:
    """The loss of each stream; where the human images have claims, of these, too, on the same outputs."""
    sums = task.sums(network, outputs, batch.targets, batch.pseudo)
    if not batch.claimed:
        return sums
    targets = [*batch.claimed, *batch.targets[len(batch.claimed) :]]
    return sums.with_claimed(task.sums(network, outputs, targets, batch.pseudo))


def _recipe(recipe: TrainRecipe | Path | str) -> TrainRecipe:
    match recipe:
        case TrainRecipe():
            return recipe
        case Path() | str():
            return load_train_recipe(Path(recipe))
    raise TrainError(
        f"{brief(repr(recipe))} is no training recipe: give a TrainRecipe(...), or the path of the YAML file of one"
    )


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


@contextmanager
def _claimed(out: Path, plan: Plan, store: Store, accelerator: Accelerator) -> Iterator[int]:
    """The run folder, ours and for us alone, and the versions kept in the store; the steps that are done and saved."""
    with ExitStack() as held:
        if accelerator.is_main_process:
            held.enter_context(locked(out / ".lock", f"run {out}", sweep=[out]))
        if any(version.is_remote for version in (*plan.versions, *plan.claimed)):
            held.enter_context(store.in_use())  # or `gc` would take away what is fetched
        with accelerator.main_process_first():
            done = claim(out, plan.description)
        yield done


def _accelerator(recipe: TrainRecipe, out: Path | None = None) -> Accelerator:
    """out: the run folder, for its tracker."""
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    tracker = tracked_by(recipe, out or Path())
    try:
        accelerator = Accelerator(mixed_precision=precision, **tracker)
    except ValueError as error:
        raise TrainError(f"precision {recipe.precision} cannot be used here: {error}") from error
    parts = accelerator.num_processes * (2 if recipe.pseudo else 1)
    if recipe.batch % parts:
        raise TrainError(f"batch {recipe.batch} cannot be split evenly: make it a multiple of {parts}")
    return accelerator


def _joint(recipe: TrainRecipe, task: Task, images: tuple[int, int]) -> JointLoss:
    """images: of the two streams."""
    return JointLoss(
        alpha_at(recipe, 0),
        recipe.decay,
        recipe.clip or task.clip,
        per_term=recipe.per_term,
        normalise=recipe.normalise,
        doubly_robust=images if recipe.doubly_robust else None,
    )


def make_optimizer(network: nn.Module, recipe: Schedule) -> torch.optim.AdamW:
    """AdamW; norms and biases do not decay."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def _batches(recipe: TrainRecipe, plan: Plan, accelerator: Accelerator) -> JointBatches:
    world = accelerator.num_processes
    red, green, blue = (round(255 * mean) for mean in plan.config.mean)
    return JointBatches(
        plan.truth,
        plan.versions,
        claimed=plan.claimed,
        task=plan.task,
        size=plan.config.size,
        batch_size=recipe.batch // world,
        augment=recipe.augment.build(0.5 if recipe.flip else 0.0, plan.task.autoaugment),
        fill=(red, green, blue),
        seed=recipe.seed,
        rank=accelerator.process_index,
        world=world,
    )

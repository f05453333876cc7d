"""The joint loader and the joint loss in a PyTorch loop that is not ours."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from builder.store.store import Store
from builder.truth.read import read_truth
from students.data.loader import Batch, JointBatches
from students.tasks.base import Logits
from students.tasks.choose import task_of
from students.train.loop import train
from students.train.losses import JointLoss, JointStep
from students.train.recipe import TrainRecipe
from students.train.setup import make_plan, starting_network
from teachers.networks.config import NetworkConfig
from tests.helpers.coloured import SIZE, write_labelled, write_version


def foreign_loop(network: nn.Module, labelled: Path, version: Path, steps: int, lr: float) -> list[JointStep]:
    batches = JointBatches(read_truth(labelled), [version], size=SIZE, batch_size=8)
    optimizer = torch.optim.AdamW(network.parameters(), lr, weight_decay=0.0)
    joint, log = JointLoss(alpha=0.5), []
    for batch in batches.stream(0, steps):
        human, pseudo = batch.halves()
        step = joint.combine(loss_of(network, human), loss_of(network, pseudo))
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        joint.commit(step)
        log.append(step)
    return log


def loss_of(network: nn.Module, half: Batch) -> Tensor:
    wanted = torch.stack([target.probabilities for target in half.targets])
    return cross_entropy(network(half.images), wanted)


class Small(nn.Module):
    """A classifier that knows nothing of this project."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.GELU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images.float() / 127.5 - 1))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled"), "classification")


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_version(tmp_path_factory.mktemp("version"), "classification")


def test_a_foreign_loop_of_twenty_lines_learns_from_both(labelled: Path, version: Path) -> None:
    lines = [line for function in (foreign_loop, loss_of) for line in inspect.getsource(function).splitlines()]
    assert len([line for line in lines if line.strip()]) <= 20
    log = foreign_loop(Small(), labelled, version, 60, 1e-2)
    for values in ([step.value for step in log], [step.terms["loss"][0].item() for step in log]):
        assert np.mean(values[-10:]) < 0.8 * np.mean(values[:10])
    assert log[-1].averages.tolist() != log[0].averages.tolist()


def test_a_foreign_loop_computes_what_our_trainer_does(labelled: Path, version: Path, tmp_path: Path) -> None:
    """The same network and optimizer: losses, averages, ratio and joint loss of two steps, whose learning rates are
    the same in both (the trainer's falls from the second on)."""
    network = NetworkConfig(backbone="timm:test_resnet", size=SIZE, channels=16, levels=(4, 8))
    recipe = TrainRecipe(
        labelled={"path": labelled}, pseudo=(str(version),), network=network, steps=2, batch=8, lr=1e-3, warmup=0.0,
        weight_decay=0.0, clip_norm=1e9, alpha=0.5, workers=0,
    )  # fmt: skip
    run = train(recipe, tmp_path / "run", Store(tmp_path))
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    start = starting_network(recipe, make_plan(recipe, Store(tmp_path)))
    log = foreign_loop(Logits(start), labelled, version, 2, 1e-3)
    for ours, theirs in zip(records, (step.figures() for step in log), strict=True):
        for name in ("loss", "human", "pseudo", "human_weighted", "pseudo_weighted", "ratio", "human_average"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3), name
    assert records[0]["loss"] != pytest.approx(records[1]["loss"], rel=1e-3)


def test_combined_losses_are_the_sums_of_a_task(labelled: Path, version: Path) -> None:
    """Of the same outputs: to the bit where the losses are sums, and with the same ratio where they are means."""
    task, network = task_of("linear"), Small()
    batches = JointBatches(read_truth(labelled), [version], task=task, size=SIZE, batch_size=8)
    whole, sums, means = (JointLoss(alpha=0.5) for _ in range(3))
    for batch in batches.stream(0, 3):
        logits = network(batch.images)
        human, pseudo = batch.halves()
        expected = whole(task.sums(network, logits, batch.targets, batch.pseudo))
        assert (len(human.targets), len(pseudo.targets), bool(human.pseudo.any())) == (4, 4, False)
        losses = [loss_of(nn.Identity(), Batch(logits[part.pseudo[0] == batch.pseudo], part.targets, part.pseudo))
                  for part in (human, pseudo)]  # fmt: skip
        of_sums = sums.combine(4 * losses[0], 4 * losses[1], positives=(4, 4))
        of_means = means.combine(*losses)
        for step, joint in ((expected, whole), (of_sums, sums), (of_means, means)):
            assert step.ratio.item() == pytest.approx(expected.ratio.item(), rel=1e-5)
            assert step.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
            joint.commit(step)


def test_terms_are_combined_by_name_and_bad_ones_refused() -> None:
    human, pseudo = (
        {"box": torch.tensor(box), "class": torch.tensor(label)} for box, label in ((2.0, 1.0), (4.0, 4.0))
    )
    step = JointLoss(alpha=1.0, per_term=True).combine(human, pseudo)
    assert step.ratio.tolist() == [0.5, 0.25] and step.loss.item() == (3 + 2 + 1) / 2
    without = JointLoss().combine(human, pseudo, positives=(1, 0))
    assert without.ratio.item() == 1 and without.positives.tolist() == [1, 0]
    for other in ({"box": torch.tensor(1.0)}, torch.tensor(1.0), {"box": torch.ones(2), "class": torch.tensor(1.0)}):
        with pytest.raises(ValueError, match="scalars of the same terms"):
            JointLoss().combine(human, other)

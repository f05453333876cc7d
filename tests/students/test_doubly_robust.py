"""The doubly robust joint loss: what it is of right and wrong claims, and the trainings it is part of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from builder.store.store import Store
from builder.store.version import Version
from builder.truth.read import read_truth
from students.augment.scene import FIT
from students.data.loader import JointBatches
from students.data.streams import LoaderError
from students.tasks.choose import task_of
from students.tasks.classification import ClassTarget, class_sums
from students.train.errors import TrainError
from students.train.loop import train
from students.train.losses import JointLoss, StreamSums
from students.train.recipe import TrainRecipe
from teachers.networks.config import NetworkConfig
from tests.helpers.coloured import ARCHS, SIZE, write_labelled, write_version

LEARNABLE = ("classification", "semantic", "detection")


def make_recipe(folder: Path, kind: str, **changes: Any) -> TrainRecipe:
    """A joint training on 12 labelled images, with claims on them in two versions, which say another class of some."""
    labelled, shown = folder / "labelled", "instance" if kind == "detection" else kind
    if not labelled.exists():
        write_labelled(labelled, shown)
        write_version(folder / "pool", shown)
        write_version(folder / "even", shown, scenes=range(0, 12, 2), seed=0)
        write_version(folder / "odd", shown, shift=1, scenes=range(1, 12, 2), seed=0)
    arch: Any = ARCHS.get(kind, "fcos")
    network = NetworkConfig(arch=arch, backbone="timm:test_resnet", size=SIZE, channels=16, head_depth=1, levels=(4, 8))
    labels = labelled / "labels.json" if shown == "instance" else labelled
    fixed = {"steps": 4, "batch": 8, "workers": 0, "save_every": 2, "lr": 1e-3, "network": network}
    versions = {"pseudo": (str(folder / "pool"),), "doubly_robust": (str(folder / "even"), str(folder / "odd"))}
    return TrainRecipe(labelled=labels, **{**fixed, **versions, **changes})


def read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def sums_of(logits: Tensor, human: Tensor, claimed: Tensor, pool: Tensor) -> StreamSums:
    """Of one batch: the human images first, with both of their labels, then the pool. Labels: int64 (N,) or (M,)."""
    pseudo = torch.arange(len(logits)) >= len(human)

    def targets(labels: Tensor) -> list[ClassTarget]:
        return [ClassTarget(row) for row in one_hot(labels, logits.shape[1]).float()]

    first, second = (class_sums(None, logits, targets(torch.cat([part, pool])), pseudo) for part in (human, claimed))  # type: ignore[arg-type]
    return first.with_claimed(second)


def gradient(loss: Tensor, weight: Tensor) -> Tensor:
    return torch.autograd.grad(loss, weight, retain_graph=True)[0]


@pytest.mark.parametrize(("n", "m"), [(6, 6), (3, 9), (8, 2)])
def test_right_claims_give_the_gradient_of_the_mean_loss_of_all_images(n: int, m: int) -> None:
    torch.manual_seed(0)
    weight, features = torch.randn(5, 4, requires_grad=True), torch.randn(n + m, 5)
    labels = torch.randint(0, 4, (n + m,))
    logits = features @ weight
    step = JointLoss(alpha=1.0, doubly_robust=(n, m))(sums_of(logits, labels[:n], labels[:n], labels[n:]))
    expected = cross_entropy(logits, labels)
    assert step.value == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient(step.loss, weight), gradient(expected, weight))


def test_claims_that_are_wrong_on_both_sides_alike_leave_the_supervised_loss() -> None:
    """The pool holds the labelled images, and the same is claimed of them there, at random."""
    torch.manual_seed(0)
    weight, features = torch.randn(5, 4, requires_grad=True), torch.randn(6, 5)
    labels, claimed = torch.randint(0, 4, (2, 6))
    logits = torch.cat([features, features]) @ weight
    step = JointLoss(alpha=1.0, doubly_robust=(6, 6))(sums_of(logits, labels, claimed, claimed))
    torch.testing.assert_close(gradient(step.loss, weight), gradient(cross_entropy(logits[:6], labels), weight))
    assert step.value == pytest.approx(step.terms["classification"][0].item(), rel=1e-5)


def test_an_image_that_nothing_is_claimed_of_counts_in_the_mean_of_the_claims() -> None:
    """As in the paper's 1/n: or the few that are left would outweigh their human labels, where the claims are right."""
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 4, requires_grad=True), torch.randint(0, 4, (8,))
    targets = [ClassTarget(row) for row in one_hot(labels, 4).float()]
    claims = [targets[0], *[ClassTarget(torch.zeros(4))] * 3, *targets[4:]]
    pseudo = torch.arange(8) >= 4
    ours, theirs = (class_sums(None, logits, side, pseudo) for side in (targets, claims))  # type: ignore[arg-type]
    step = JointLoss(alpha=1.0, doubly_robust=(4, 12))(ours.with_claimed(theirs))
    losses = cross_entropy(logits, labels, reduction="none")
    expected = losses[:4].mean() + 12 / 16 * (losses[4:].mean() / 4 - losses[0] / 4)
    torch.testing.assert_close(gradient(step.loss, logits), gradient(expected, logits))


def test_the_loss_by_hand() -> None:
    human, pool, claimed = (
        {"a": torch.tensor(a), "b": torch.tensor(b)} for a, b in ((3.0, 1.0), (8.0, 2.0), (5.0, 4.0))
    )
    joint = JointLoss(alpha=0.5, clip=(1.0, 1.0), per_term=True, doubly_robust=(100, 300))
    step = joint.combine(human, pool, positives=(1, 2, 4), claimed=claimed)
    weight = 0.5 * 300 / 400 * 4 / 1  # four claims for each human positive
    assert step.value == step.loss.item() == pytest.approx(4 + weight * (10 / 2 - 9 / 4))
    figures = step.figures()
    assert (figures["human"], figures["pseudo"], figures["claimed"]) == (4, 5, 9 / 4)
    assert figures["claimed_a_weighted"] == pytest.approx(-weight * 5 / 4) and figures["claimed_positives"] == 4
    assert figures["ratio"] == [1, 1] and figures["ratio_unclipped"] == [3 / 4, 1] and figures["clip_rate"] == 0
    for empty in ((1, 0, 4), (1, 2, 0)):
        assert joint.combine(human, pool, positives=empty, claimed=claimed).value == 4
    with pytest.raises(ValueError, match="needs the loss of the claims"):
        joint.combine(human, pool)
    with pytest.raises(ValueError, match="no use for claims"):
        JointLoss().combine(human, pool, claimed=claimed)
    with pytest.raises(ValueError, match="not of 3 losses"):
        joint.combine(human, pool, positives=(1, 1), claimed=claimed)
    for wrong in ((0, 3), (3,), 3, ("a", "b"), (True, 2)):
        with pytest.raises(TrainError, match=r"doubly_robust .* is no pair of numbers: give"):
            JointLoss(doubly_robust=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", LEARNABLE)
def test_claims_lie_on_the_image_as_the_human_marks_do(tmp_path: Path, kind: str) -> None:
    """With the versions' labels right, both targets of a human image hold the same class and place, however it is cut
    and mirrored; with a label changed they do not."""
    recipe = make_recipe(tmp_path, kind)
    truth, task = read_truth(recipe.labelled.path), task_of(recipe.network.arch)  # type: ignore[arg-type]
    options: dict[str, Any] = {"task": task, "size": SIZE, "batch_size": 12}
    batches = JointBatches(truth, [tmp_path / "pool"], claimed=[tmp_path / "even", tmp_path / "odd"], **options)
    plain = JointBatches(truth, [tmp_path / "pool"], **options)
    assert plain[0].claimed == []
    seen = set()
    for step in range(4):
        batch = batches[step].to(torch.device("cpu"))
        human, pseudo = batch.halves()
        assert (len(human.claimed), len(pseudo.claimed)) == (6, 0) and torch.equal(batch.images, plain[step].images)
        for ours, theirs in zip(human.targets, human.claimed, strict=True):
            if kind == "classification":
                seen.add(ours.probabilities.argmax().item() == theirs.probabilities.argmax().item())
            elif kind == "semantic":
                drawn = (ours.labels < 3) & (theirs.labels != 255)  # people left out the first row
                assert drawn.any() and torch.equal(drawn, ours.labels < 3)
                seen.add(torch.equal(ours.labels[drawn], theirs.labels[drawn]))
            else:
                torch.testing.assert_close(ours.boxes, theirs.boxes)
                seen.add(torch.equal(ours.labels, theirs.labels))
    assert seen == {True, False}
    (streamed, *_) = batches.stream(0, 1, workers=1)
    for ours, theirs in zip(streamed.claimed, batches[0].claimed, strict=True):
        assert all(torch.equal(value, vars(theirs)[name]) for name, value in vars(ours).items())


@pytest.mark.parametrize("kind", LEARNABLE)
def test_an_image_that_its_version_left_out_teaches_nothing_in_the_claims(tmp_path: Path, kind: str) -> None:
    recipe = make_recipe(tmp_path, kind)
    write_version(tmp_path / "most", "instance" if kind == "detection" else kind, scenes=range(1, 12), seed=0)
    truth, task = read_truth(recipe.labelled.path), task_of(recipe.network.arch)  # type: ignore[arg-type]
    options: dict[str, Any] = {"task": task, "size": SIZE, "batch_size": 24, "augment": FIT}
    with pytest.raises(
        TrainError, match=r"1 of 12 labelled images are in no version of doubly_robust \(.*0.png is one"
    ):
        JointBatches(truth, [tmp_path / "pool"], claimed=[tmp_path / "most"], **options)
    most = Version.open(tmp_path / "most")
    most = replace(most, manifest=most.manifest.model_copy(update={"images": {"written": 11, "empty": 1}}))
    batch = JointBatches(truth, [tmp_path / "pool"], claimed=[most], **options)[0]
    unknown = [target for target in batch.claimed if _is_unknown(kind, target)]
    assert len(unknown) == 1


def _is_unknown(kind: str, target: Any) -> bool:
    if kind == "classification":
        return not target.probabilities.any()
    if kind == "semantic":
        return bool((target.labels == 255).all())
    return len(target.boxes) == 0 and target.ignore.tolist() == [[0, 0, SIZE, SIZE]]


@pytest.mark.parametrize("kind", LEARNABLE)
def test_a_doubly_robust_training_can_be_resumed_to_the_bit(tmp_path: Path, kind: str) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(record: Any) -> None:
        if record["step"] == 3:
            raise Interrupted

    recipe = make_recipe(tmp_path, kind, alpha_ramp=1.0)
    run = train(recipe, tmp_path / "run", Store(tmp_path))
    for number, record in enumerate(read_log(run), 1):
        assert record["alpha"] == number / 4 and record["moved"]
        weight = record["alpha"] * 8 / 20 * record["claimed_positives"] / record["human_positives"]
        expected = record["human"] + weight * (record["pseudo"] - record["claimed"])
        assert record["loss"] == pytest.approx(expected, rel=1e-4) and record["claimed_positives"] > 0
    meta = json.loads((run / "meta.json").read_text())["recipe"]
    assert len(meta["doubly_robust"]) == 2 and meta["alpha_ramp"] == 1 and str(tmp_path) not in json.dumps(meta)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "cut", Store(tmp_path), interrupt)
    again = train(recipe.model_copy(update={"workers": 1}), tmp_path / "cut", Store(tmp_path))
    for name in ("model.safetensors", "meta.json"):
        assert (again / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize("kind", LEARNABLE)
def test_with_alpha_0_no_option_moves_a_bit(tmp_path: Path, kind: str) -> None:
    options: list[dict[str, Any]] = [
        {"doubly_robust": ()},
        {},
        {"alpha_ramp": 0.5},
        {"doubly_robust": (), "clip": (0.5, 2.0), "normalise": False, "alpha_ramp": 1.0},
        {"doubly_robust": (), "per_term": True},
    ]
    weights = set()
    for number, changes in enumerate(options):
        run = train(make_recipe(tmp_path, kind, alpha=0.0, steps=3, **changes), tmp_path / f"{number}", Store(tmp_path))
        weights.add((run / "model.safetensors").read_bytes())
    assert len(weights) == 1


def test_a_ramp_of_nothing_is_not_told(tmp_path: Path) -> None:
    """A run of before there was one is the same."""
    run = train(make_recipe(tmp_path, "classification", doubly_robust=(), steps=1), tmp_path / "run", Store(tmp_path))
    described = json.loads((run / "recipe.json").read_text())
    assert not {"alpha_ramp", "doubly_robust"} & described.keys() and "alpha" not in read_log(run)[0]


def test_claims_that_cannot_be_used_are_refused_in_a_sentence(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, "classification")
    write_version(tmp_path / "small", "classification", scenes=range(5), seed=0)
    write_version(
        tmp_path / "wrong", "classification", scenes=range(12), seed=0, change=lambda label: label.update(width=31)
    )
    even, odd, small, wrong = (str(tmp_path / name) for name in ("even", "odd", "small", "wrong"))
    cases = [
        ((even,), r"6 of 12 labelled images are in no version of doubly_robust .*: label them with a teacher"),
        ((even, odd, small), r"5 of 12 labelled images are in two versions of doubly_robust \(.*png is one\): give"),
        ((wrong,), "has not the size its label states"),
    ]
    for number, (versions, message) in enumerate(cases):
        with pytest.raises(TrainError if number < 2 else LoaderError, match=message) as caught:
            train(recipe.model_copy(update={"doubly_robust": versions}), tmp_path / f"{number}", Store(tmp_path))
        assert "\n" not in str(caught.value)
    truth = read_truth(recipe.labelled.path)
    with pytest.raises(LoaderError, match="give versions, too"):
        JointBatches(truth, claimed=[tmp_path / "even"], size=SIZE, batch_size=2)
    with pytest.raises(LoaderError, match="claimed is a list of folders"):
        JointBatches(truth, [tmp_path / "pool"], claimed=even, size=SIZE, batch_size=2)


def test_a_network_that_learns_what_it_sampled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"arch maskrcnn .*: leave out doubly_robust, or take another arch"):
        train(make_recipe(tmp_path, "instance"), tmp_path / "run", Store(tmp_path))

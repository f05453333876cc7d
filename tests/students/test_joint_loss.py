"""The normalised joint loss against figures worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from students.train.errors import TrainError
from students.train.losses import JointLoss, StreamSums


def zero_sums(human: tuple[float, float], pseudo: tuple[float, float], **grad: bool) -> StreamSums:
    """One term; each stream as (sum, positives)."""
    sums = torch.tensor([human[0], pseudo[0]], **grad)
    return StreamSums({"loss": sums}, torch.tensor([human[1], pseudo[1]]))


def test_joint_loss_by_hand() -> None:
    joint = JointLoss(alpha=0.5, decay=0.9)
    sums = StreamSums({"a": torch.tensor([4.0, 9.0]), "b": torch.tensor([2.0, 3.0])}, torch.tensor([2.0, 3.0]))
    first = joint(sums)  # L_h = 6 / 2 = 3, L_p = 12 / 3 = 4: ratio 3 / 4
    assert first.ratio.item() == pytest.approx(0.75)
    assert first.loss.item() == first.value == pytest.approx((3 + 0.5 * 0.75 * 4) / 1.5)
    assert first.averages.tolist() == [pytest.approx([3, 4])]
    assert first.terms["a"].tolist() == [2, 3] and first.positives.tolist() == [2, 3]
    joint.commit(first)
    second = joint(zero_sums((1.0, 1.0), (8.0, 2.0)))  # averages (.9 * .1 * L1 + .1 * L2) / (1 - .9^2)
    human, pseudo = (0.09 * 3 + 0.1 * 1) / 0.19, (0.09 * 4 + 0.1 * 4) / 0.19
    assert second.averages.tolist() == [pytest.approx([human, pseudo])]
    assert second.loss.item() == pytest.approx((1 + 0.5 * human / pseudo * 4) / 1.5)
    per_term = JointLoss(per_term=True)(sums)  # L_h = 2, 1 and L_p = 3, 1
    assert per_term.ratio.tolist() == pytest.approx([2 / 3, 1])
    assert per_term.loss.item() == pytest.approx((2 + 1 + 2 / 3 * 3 + 1 * 1) / 2)


@pytest.mark.parametrize(
    ("human", "pseudo", "ratio", "raw"),
    [
        ((5.0, 2.0), (10.0, 4.0), 1.0, 1.0),
        ((500.0, 1.0), (1.0, 1.0), 10.0, 500.0),
        ((1.0, 1.0), (500.0, 1.0), 0.1, 0.002),
        ((1e-6, 1.0), (0.0, 1.0), 10.0, 100.0),  # the denominator is at least 1e-8
        ((3.0, 1.0), (7.0, 0.0), 1.0, 1.0),  # no pseudo positive, no average: nothing to rescale by
        ((3.0, 1.0), (0.0, 0.0), 1.0, 1.0),
    ],
)
def test_ratio(human: tuple[float, float], pseudo: tuple[float, float], ratio: float, raw: float) -> None:
    step = JointLoss(alpha=2.0)(zero_sums(human, pseudo))
    assert (step.ratio.item(), step.raw_ratio.item()) == (pytest.approx(ratio), pytest.approx(raw))
    values = [total / max(count, 1) for total, count in (human, pseudo)]
    assert step.loss.item() == pytest.approx((values[0] + 2 * ratio * values[1]) / 3)


def test_alpha_zero_is_the_supervised_loss_and_the_ratio_has_no_gradient() -> None:
    supervised = zero_sums((6.0, 2.0), (7.0, 3.0), requires_grad=True)
    step = JointLoss(alpha=0.0)(supervised)
    step.loss.backward()
    assert step.loss.item() == 3 and supervised.terms["loss"].grad.tolist() == [0.5, 0]
    joint = zero_sums((6.0, 2.0), (7.0, 3.0), requires_grad=True)
    JointLoss(alpha=1.0)(joint).loss.backward()
    ratio = (6 / 2) / (7 / 3)
    assert joint.terms["loss"].grad.tolist() == pytest.approx([0.5 / 2, 0.5 * ratio / 3])


def test_a_vanishing_alpha_gives_the_supervised_loss() -> None:
    sums = StreamSums({"a": torch.tensor([4.0, 9.0]), "b": torch.tensor([2.0, 3.0])}, torch.tensor([2.0, 3.0]))
    losses = [JointLoss(alpha, normalise=normalise)(sums).value for alpha in (1e-7, 0.0) for normalise in (True, False)]
    assert losses == pytest.approx([3.0] * 4, rel=1e-6)


def test_the_plain_sum_is_neither_rescaled_nor_clipped() -> None:
    sums = zero_sums((6.0, 2.0), (700.0, 1.0), requires_grad=True)
    step = JointLoss(alpha=0.5, normalise=False)(sums)
    step.loss.backward()
    assert step.value == step.loss.item() == 3 + 0.5 * 700
    assert sums.terms["loss"].grad.tolist() == [0.5, 0.5]
    assert (step.ratio.item(), step.clip_rate.item()) == (1, 0) and step.raw_ratio.item() == pytest.approx(3 / 700)


def test_figures_of_a_step() -> None:
    """The clip rate counts steps that were committed and have both streams; with a ratio per term it has as many."""
    joint = JointLoss(alpha=0.5, decay=0.0, per_term=True)
    rates = []
    for pseudo in ([4.0, 900.0], [4.0, 1.0], [4.0, 0.001], [900.0, 1.0]):
        human = torch.tensor([2.0, 6.0])
        terms = {name: torch.stack([human[n], torch.tensor(pseudo[n])]) for n, name in enumerate("ab")}
        left_out = torch.tensor([[0.0, 30.0], [100.0, 120.0]])
        step = joint(StreamSums(terms, torch.tensor([2.0, 1.0]), ignored=left_out))
        joint.commit(step)
        rates.append(step.figures()["clip_rate"])
    assert rates == [[0, 1], [0, pytest.approx(1 / 2)], [0, pytest.approx(2 / 3)], [pytest.approx(1 / 4), 0.5]]
    assert step.figures() == {
        "loss": pytest.approx((4 + 0.5 * (0.1 * 900 + 3 * 1)) / 1.5),
        "human": 4, "pseudo": 901,
        "human_weighted": pytest.approx(4 / 1.5), "pseudo_weighted": pytest.approx(0.5 * (90 + 3) / 1.5),
        "human_a": 1, "pseudo_a": 900, "human_b": 3, "pseudo_b": 1,
        "human_a_weighted": pytest.approx(1 / 1.5), "pseudo_a_weighted": pytest.approx(30),
        "human_b_weighted": pytest.approx(3 / 1.5), "pseudo_b_weighted": pytest.approx(1),
        "human_positives": 2, "pseudo_positives": 1, "human_ignored": 0, "pseudo_ignored": 0.25,
        "human_average": [1, 3], "pseudo_average": [900, 1],
        "ratio": [pytest.approx(0.1), 3], "ratio_unclipped": [pytest.approx(1 / 900), 3],
        "clip_rate": [0.25, 0.5],
    }  # fmt: skip
    rate = joint.state_dict()["clipped"]
    later = JointLoss(per_term=True)
    later.load_state_dict({name: value for name, value in joint.state_dict().items() if name != "clipped"})
    assert rate.tolist() == [1, 2] and later.state_dict()["clipped"].tolist() == [0]  # of a run from before it was told


def test_only_committed_finite_steps_with_both_streams_move_the_averages() -> None:
    joint = JointLoss()
    joint.commit(joint(zero_sums((2.0, 1.0), (4.0, 1.0))))
    before = joint.state_dict()
    joint(zero_sums((9.0, 1.0), (1.0, 1.0)))  # a step that was skipped after its loss
    joint.commit(joint(zero_sums((9.0, 1.0), (9.0, 0.0))))
    for broken in (math.nan, math.inf):
        for sums in (zero_sums((broken, 1.0), (1.0, 1.0)), zero_sums((1.0, 1.0), (broken, 1.0))):
            step = joint(sums)
            assert not step.finite
            joint.commit(step)
    assert joint.state_dict()["updates"] == before["updates"] == 1
    assert torch.equal(joint.state_dict()["averages"], before["averages"])
    assert joint(zero_sums((2.0, 1.0), (4.0, 1.0))).finite


def test_averages_go_through_a_file(tmp_path: Path) -> None:
    ours, theirs = JointLoss(per_term=True), JointLoss(per_term=True)
    steps = [StreamSums({"a": torch.rand(2), "b": torch.rand(2)}, torch.tensor([3.0, 5.0])) for _ in range(5)]
    for sums in steps[:3]:
        ours.commit(ours(sums))
    torch.save(ours.state_dict(), tmp_path / "state.pt")
    theirs.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for sums in steps[3:]:
        for joint in (ours, theirs):
            joint.commit(joint(sums))
        assert torch.equal(ours(sums).ratio, theirs(sums).ratio)


@pytest.mark.parametrize(
    "options",
    [
        *({"alpha": value} for value in (-1, -1e-9, math.nan, math.inf, "1", None, True)),
        *({"decay": value} for value in (1.0, -0.1, 2, math.nan, "0.9", None)),
        *({"clip": value} for value in ((10.0, 0.1), (0, 1), (-1, 1), (math.nan, 1), ("a", "b"), (1,), (1, 2, 3), 1.0)),
        *({"clip": value} for value in (None, "12")),
        *({"eps": value} for value in (0, -1e-8, math.nan, math.inf, "1e-8", None)),
    ],
    ids=str,
)
def test_options_out_of_their_range_are_refused(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(TrainError) as error:
        JointLoss(**options)
    sentence = str(error.value)
    assert sentence.startswith(f"{name} {value!r} is ") and ": give " in sentence and "\n" not in sentence


def test_options_at_the_ends_of_their_range_and_of_other_libraries_numbers_are_taken() -> None:
    joint = JointLoss(np.float32(0.5), decay=0, clip=[1, 1], eps=1e-30)  # type: ignore[arg-type]
    assert (joint.alpha, joint.decay, joint.clip, joint.eps) == (0.5, 0.0, (1.0, 1.0), 1e-30)


def test_a_joint_loss_that_overflows_is_not_finite_and_leaves_the_averages() -> None:
    joint = JointLoss(alpha=1e30, normalise=False)
    step = joint(zero_sums((1e30, 1.0), (1e30, 1.0)))
    assert not math.isfinite(step.value) and not step.finite
    joint.commit(step)
    assert joint.state_dict()["updates"] == 0


@pytest.mark.parametrize(
    ("human", "pseudo", "words"),
    [
        (1.0, 2.0, r"a loss is a tensor, or a mapping of names to tensors, not 1\.0"),
        (torch.tensor(1.0), None, "a loss is a tensor, or a mapping of names to tensors, not None"),
        ({"box": 1.0}, {"box": torch.tensor(1.0)}, r"the term 'box' of a loss is a tensor, not 1\.0"),
    ],
)
def test_losses_that_are_no_tensors_are_refused(human: Any, pseudo: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        JointLoss().combine(human, pseudo)
    with pytest.raises(ValueError, match="scalars of the same terms"):
        JointLoss().combine({}, {})

"""The losses of a mixed batch of boxes against torchvision's and figures worked out by hand; on two processes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from students.tasks.dense import DenseForward, assign, detection_sums
from students.tasks.detection import Target
from students.train.losses import JointLoss, StreamSums
from teachers.networks.build import build_network
from teachers.networks.config import NetworkConfig
from teachers.networks.detectors import Detector

SIZE, CLASSES = 64, ("a", "b", "c")
FOCAL_OF_ZERO = 0.75 * 0.5**2 * math.log(2)
"""Focal loss of a background output whose logit is 0: (1 - alpha) * p^2 * -log(1 - p), alpha .25, gamma 2."""


def make_network(
    arch: Any, levels: tuple[int, ...] = (8, 16), classes: tuple[str, ...] = CLASSES, norm: Any = "group"
) -> Detector:
    torch.manual_seed(0)
    return build_network(
        NetworkConfig(
            arch=arch,
            backbone="timm:test_resnet",
            classes=classes,
            size=SIZE,
            channels=16,
            head_depth=1,
            levels=levels,
            norm=norm,
        )
    )


def make_target(boxes: list[list[float]], labels: list[int] | None = None, ignore: list[list[float]] = ()) -> Target:  # type: ignore[assignment]
    return Target(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor([0] * len(boxes) if labels is None else labels, dtype=torch.int64),
        torch.tensor(list(ignore)).reshape(-1, 4),
    )


def random_target(rng: np.random.Generator, count: int, ignored: int = 0) -> Target:
    corners = rng.uniform(0, SIZE - 4, (count + ignored, 2))
    sides = rng.uniform(3, SIZE, (count + ignored, 2))
    boxes = np.concatenate([corners, np.minimum(corners + sides, SIZE)], axis=1).tolist()
    return make_target(boxes[:count], rng.integers(0, 3, count).tolist(), boxes[count:])


def random_images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("arch", ["fcos", "retinanet"])
@pytest.mark.parametrize("seed", range(4))
def test_human_images_have_torchvisions_loss(arch: str, seed: int) -> None:
    """Oracle: compute_loss of torchvision. RetinaNet's is an average over images, so one image at a time."""
    network, rng = make_network(arch), np.random.default_rng(seed)
    images, targets = random_images(3), [random_target(rng, count) for count in (7, 0, 1)]
    with torch.no_grad():
        for pick in [[0, 1, 2]] if arch == "fcos" else [[0], [1], [2]]:
            outputs = DenseForward(network)(images[pick])
            theirs = {"boxes": [targets[i].boxes for i in pick], "labels": [targets[i].labels for i in pick]}
            records = [{"boxes": b, "labels": c} for b, c in zip(*theirs.values(), strict=True)]
            anchors = [outputs.anchors] * len(pick)
            levels = (outputs.levels,) if arch == "fcos" else ()
            expected = list(network.compute_loss(records, outputs.heads, anchors, *levels).values())
            sums = detection_sums(
                network, outputs, [targets[i] for i in pick], torch.zeros(len(pick), dtype=torch.bool)
            )
            ours = [term[0] / sums.positives[0].clamp(min=1) for term in sums.terms.values()]
            torch.testing.assert_close(torch.stack(ours), torch.stack(expected))
            assert all(term[1] == 0 for term in sums.terms.values()) and sums.positives[1] == 0
            assert sums.positives[0] > 0 or pick == [1]


@pytest.mark.parametrize("arch", ["fcos", "retinanet"])
def test_streams_do_not_mix(arch: str) -> None:
    """In one forward over both, each stream has the sums it has alone, in any order."""
    network, rng = make_network(arch), np.random.default_rng(0)
    images, targets = random_images(4), [random_target(rng, count, ignored=2) for count in (3, 1, 0, 5)]
    pseudo = torch.tensor([False, True, False, True])

    def sums(pick: list[int]) -> StreamSums:
        with torch.no_grad():
            return detection_sums(
                network, DenseForward(network)(images[pick]), [targets[i] for i in pick], pseudo[pick]
            )

    mixed, parts = sums([0, 1, 2, 3]), [sums([0, 2]), sums([3, 1])]
    for stream, part in enumerate(parts):
        assert mixed.positives[stream] == part.positives[stream] > 0
        for name, term in mixed.terms.items():
            torch.testing.assert_close(term[stream], part.terms[name][stream])


def classification_of_zeros(network: Detector, target: Target) -> float:
    """The classification sum of one image, where every logit is 0."""
    outputs = DenseForward(network)(random_images(1))
    outputs.heads["cls_logits"] = torch.zeros_like(outputs.heads["cls_logits"])
    return float(detection_sums(network, outputs, [target], torch.tensor([True])).terms["classification"][1])


def test_points_in_an_ignore_box_leave_the_classification_loss() -> None:
    """FCOS on a grid of 8 x 8 points at multiples of 8, one class."""
    network = make_network("fcos", levels=(8,), classes=("a",))
    everything = classification_of_zeros(network, make_target([]))
    assert everything == pytest.approx(64 * FOCAL_OF_ZERO)
    without_four = classification_of_zeros(network, make_target([], ignore=[[4, 4, 20, 20]]))  # (8, 8) to (16, 16)
    assert without_four == pytest.approx(60 * FOCAL_OF_ZERO)
    two_boxes = make_target([], ignore=[[4, 4, 20, 20], [15, 15, 25, 17]])  # (16, 16) is in both, (24, 16) is new
    assert classification_of_zeros(network, two_boxes) == pytest.approx(59 * FOCAL_OF_ZERO)
    assert (
        classification_of_zeros(network, make_target([], ignore=[[0, 0, 8, 8]])) == everything
    )  # on the edge: outside


def test_positives_stay_inside_an_ignore_box() -> None:
    """The box holds the one point (16, 16). A positive's output of 0 costs .25 * .5^2 * log 2, a third of background's.
    The region holds 7 x 7 points; those at 0 are on its edge, which is outside."""
    network = make_network("fcos", levels=(8,), classes=("a",))
    whole = [0.0, 0.0, SIZE, SIZE]
    found = classification_of_zeros(network, make_target([[10, 10, 22, 22]], ignore=[whole]))
    assert found == pytest.approx((64 - 49 + 1 / 3) * FOCAL_OF_ZERO)


def iou_and_share(anchor: list[float], box: list[float]) -> tuple[float, float]:
    """IoU of the two, and the share of the anchor that is in the box."""
    width = max(0.0, min(anchor[2], box[2]) - max(anchor[0], box[0]))
    height = max(0.0, min(anchor[3], box[3]) - max(anchor[1], box[1]))
    both = width * height
    first, second = ((b[2] - b[0]) * (b[3] - b[1]) for b in (anchor, box))
    return both / (first + second - both), both / first


@pytest.mark.parametrize(
    "ignore",
    [[[5, 5, 60, 50]], [[20, 20, 23, 23]], [[0, 0, 64, 64], [3, 3, 9, 30]], [[12, 30, 40, 62]]],
    ids=["large", "smaller than any anchor", "all and one more", "middle"],
)
def test_anchors_an_ignore_box_explains_leave_the_classification_loss(ignore: list[list[float]]) -> None:
    """RetinaNet, by loops over anchors: gone are IoU >= .4, an ignore box's best anchors, and those half inside it."""
    network = make_network("retinanet", levels=(16,))
    truth = [[8.0, 8.0, 40.0, 40.0], [30.0, 2.0, 62.0, 30.0]]
    target = make_target(truth, ignore=ignore)
    outputs = DenseForward(network)(random_images(1))
    matched, counted, ignored = (values[0].tolist() for values in assign(network, outputs, [target]))
    anchors = outputs.anchors.tolist()
    with_truth = np.array([[iou_and_share(anchor, box)[0] for anchor in anchors] for box in truth])
    with_ignore = np.array([[iou_and_share(anchor, box) for anchor in anchors] for box in ignore])
    seen = 0
    for i in range(len(anchors)):
        best_for_a_truth = any(with_truth[j, i] >= with_truth[j].max() - 1e-6 for j in range(len(truth)))
        positive = with_truth[:, i].max() >= 0.5 or best_for_a_truth
        best_for_ignore = any(row[i, 0] >= row[:, 0].max() - 1e-6 for row in with_ignore)
        explained = best_for_ignore or bool((with_ignore[:, i] >= [0.4, 0.5]).any())
        background = with_truth[:, i].max() < 0.4 and not explained
        assert (matched[i] >= 0, counted[i]) == (positive, positive or background)
        assert ignored[i] == (not positive and with_truth[:, i].max() < 0.4 and explained)
        seen += explained and not positive
    assert seen > 0


def test_an_image_without_boxes_teaches_background_only() -> None:
    for arch in ("fcos", "retinanet"):
        network = make_network(arch)
        outputs = DenseForward(network)(random_images(2))
        sums = detection_sums(network, outputs, [make_target([])] * 2, torch.tensor([False, True]))
        assert sums.positives.tolist() == [0, 0]
        assert all((term > 0).all() == (name == "classification") for name, term in sums.terms.items())
        JointLoss()(sums).loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("arch", ["fcos", "retinanet"])
def test_ignored_anchors_are_counted_by_stream(arch: str) -> None:
    network = make_network(arch, levels=(8,), classes=("a",))
    targets = [make_target([[8, 8, 40, 40]]), make_target([], ignore=[[4, 4, 20, 20]]), make_target([])]
    outputs, pseudo = DenseForward(network)(random_images(3)), torch.tensor([False, True, True])
    sums = detection_sums(network, outputs, targets, pseudo)
    assert sums.ignored is not None
    (human, theirs), (all_human, all_pseudo) = sums.ignored.tolist()
    assert (human, all_human, all_pseudo) == (0, len(outputs.anchors), 2 * len(outputs.anchors))
    assert theirs == (4 if arch == "fcos" else assign(network, outputs, targets).ignored.sum().item()) > 0


def batch_of_eight() -> tuple[Tensor, list[Target], Tensor]:
    """Positives are spread unevenly over the two halves, which are what two processes get."""
    rng = np.random.default_rng(0)
    targets = [random_target(rng, count, ignored=1) for count in (6, 1, 5, 0, 0, 1, 9, 2)]
    return random_images(8), targets, torch.tensor([False, False, True, True] * 2)


def joint_gradient(rank: int, world: int, folder: str, robust: bool) -> None:
    """The gradient and the ratio of the second of two steps, as rank `rank` of `world` sees them, into a file. robust:
    of the doubly robust loss, with claims that are the labels of other images."""
    torch.set_num_threads(1)
    network = make_network("fcos")
    heads: torch.nn.Module = DenseForward(network)
    if world > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        meeting = f"file://{folder}/meeting"
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
        heads = DistributedDataParallel(heads)
    images, targets, pseudo = batch_of_eight()
    share = slice(rank * 8 // world, (rank + 1) * 8 // world)
    joint = JointLoss(alpha=0.7, doubly_robust=(3, 5) if robust else None)
    for _ in range(2):
        network.zero_grad()
        outputs = heads(images[share])
        sums = detection_sums(network, outputs, targets[share], pseudo[share])
        if robust:
            sums = sums.with_claimed(detection_sums(network, outputs, targets[::-1][share], pseudo[share]))
        step = joint(sums)
        step.loss.backward()
        joint.commit(step)
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.requires_grad}
    seen = {
        "value": torch.tensor(step.value),
        "averages": step.averages,
        "positives": step.positives,
        "ratio": step.ratio,
    }
    torch.save(gradients | seen, f"{folder}/{world}-{rank}.pt")
    if world > 1:
        distributed.destroy_process_group()


@pytest.mark.parametrize("robust", [False, True], ids=["normalised", "doubly robust"])
def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path: Path, robust: bool) -> None:
    joint_gradient(0, 1, str(tmp_path), robust)
    multiprocessing.spawn(joint_gradient, (2, str(tmp_path), robust), nprocs=2)
    alone, *parts = (torch.load(tmp_path / name, weights_only=True) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    for part in parts:
        for name, value in alone.items():
            torch.testing.assert_close(part[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert alone["positives"].min() > 0


@pytest.mark.parametrize("arch", ["fcos", "retinanet"])
def test_autocast_leaves_anchors_and_losses_in_float32(arch: str) -> None:
    network, rng = make_network(arch, norm="batch"), np.random.default_rng(3)  # features come out as bfloat16
    targets = [random_target(rng, count) for count in (3, 4)]
    found = []
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = DenseForward(network)(random_images(2))
        assert {output.dtype for output in (*outputs.heads.values(), outputs.anchors)} == {torch.float32}
        found.append((outputs.anchors, detection_sums(network, outputs, targets, torch.tensor([False, True]))))
    (anchors, full), (anchors_half, half) = found
    assert torch.equal(anchors, anchors_half) and torch.equal(full.positives, half.positives)
    for name, term in full.terms.items():
        torch.testing.assert_close(half.terms[name], term, rtol=0.03, atol=0)

"""Targets and losses of classes, maps and instances: hand-computed, against torchvision, streams kept apart."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from builder.truth.records import LabelledImage, TruthError
from students.augment.scene import FIT, S1, Augment
from students.tasks.base import moved
from students.tasks.choose import task_of, usual_arch, usual_clip
from students.tasks.classification import ClassTarget, class_sums, classification, pseudo_class
from students.tasks.detection import Boxes
from students.tasks.instance import INSTANCE, TERMS, InstanceTarget, Outlined, RegionForward, instance_sums
from students.tasks.semantic import SEMANTIC, MapTarget, map_sums, pseudo_map
from students.train.losses import JointLoss, StreamSums
from teachers.base import VOID
from teachers.images import ImageError
from teachers.masks import encode
from teachers.networks.build import build_network
from teachers.networks.config import NetworkConfig, kind_of

TINY = NetworkConfig(
    backbone="timm:test_resnet", classes=("a", "b", "c"), size=64, channels=16, head_depth=1, levels=(8, 16)
)
HUMAN_PSEUDO = torch.tensor([False, False, True])


def class_target(*probabilities: float) -> ClassTarget:
    return ClassTarget(torch.tensor(probabilities))


def test_class_loss_by_hand() -> None:
    """Logits of 0 give log 3 whatever is wanted; an image without a class counts in neither sum."""
    logits = torch.tensor([[0.0, 0, 0], [5, 1, 2], [0, math.log(2), 0]])
    targets = [class_target(1, 0, 0), class_target(0, 0, 0), class_target(0.5, 0.5, 0)]
    sums = class_sums(torch.nn.Identity(), logits, targets, HUMAN_PSEUDO)
    pseudo = -0.5 * math.log(1 / 4) - 0.5 * math.log(2 / 4)
    assert sums.terms["classification"].tolist() == pytest.approx([math.log(3), pseudo])
    assert sums.positives.tolist() == [1, 1]
    step = JointLoss(alpha=0.5)(sums)
    ratio = math.log(3) / pseudo
    assert step.value == pytest.approx((math.log(3) + 0.5 * ratio * pseudo) / 1.5)
    assert JointLoss(alpha=0.0)(sums).value == pytest.approx(math.log(3))  # the supervised loss


def test_hard_labels_are_torchs_cross_entropy() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0, 3])
    targets = [ClassTarget(torch.nn.functional.one_hot(label, 4).float()) for label in labels]
    sums = class_sums(torch.nn.Identity(), logits, targets, torch.zeros(3, dtype=torch.bool))
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(sums.terms["classification"][0] / sums.positives[0], expected)


@pytest.mark.parametrize(
    ("soft", "record", "expected"),
    [
        (True, {"label": 1, "probabilities": [0.25, 0.75]}, [0.75, 0, 0, 0.25]),
        (True, {"label": 1, "probabilities": [0.1, 0.3]}, [0.75, 0, 0, 0.25]),
        (False, {"label": 1, "probabilities": [0.25, 0.75]}, [1, 0, 0, 0]),
        (True, {"label": 0, "top_label": [0], "top_probability": [0.5]}, [0, 0, 0, 1]),
        (True, {"label": 1, "probabilities": [0.0, 0.0]}, [1, 0, 0, 0]),
    ],
)
def test_pseudo_classes_in_the_labelled_sets_order(soft: bool, record: dict[str, Any], expected: list[float]) -> None:
    """The version's two classes are the labelled set's last and first."""
    found = pseudo_class(soft, record, [], np.array([3, 0]), 4)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx(expected)


def test_map_loss_by_hand_and_void_in_neither_sum() -> None:
    """2 x 2 pixels, two classes: a logit of log 3 against 0 has probability 3/4."""
    logits = torch.zeros(3, 2, 2, 2)
    logits[0, 0, 0, 0] = math.log(3)
    logits[2, 1] = 7.0  # only on void pixels and on one of class 1
    human = MapTarget(torch.tensor([[0, 1], [VOID, VOID]], dtype=torch.uint8))
    empty = MapTarget(torch.full((2, 2), VOID, dtype=torch.uint8))
    pseudo = MapTarget(torch.tensor([[VOID, VOID], [VOID, 1]], dtype=torch.uint8))
    logits.requires_grad_()
    sums = map_sums(torch.nn.Identity(), logits, [human, empty, pseudo], HUMAN_PSEUDO)
    expected = [-math.log(3 / 4) + math.log(2), math.log(1 + math.exp(-7))]
    assert sums.terms["classification"].tolist() == pytest.approx(expected, rel=1e-4)
    assert sums.positives.tolist() == [2, 1]
    JointLoss()(sums).loss.backward()
    assert (logits.grad[0, :, 1] == 0).all() and (logits.grad[1] == 0).all() and (logits.grad[2, :, 0] == 0).all()
    changed = logits.detach().clone()
    changed[0, :, 1], changed[1] = 100.0, -50.0
    again = map_sums(torch.nn.Identity(), changed, [human, empty, pseudo], HUMAN_PSEUDO)
    assert torch.equal(again.terms["classification"], sums.terms["classification"])


def png(values: Any, mode: Any = np.uint8) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.array(values, mode)).save(out, "PNG")
    return out.getvalue()


def test_pseudo_maps_in_the_labelled_sets_classes() -> None:
    record = {"key": "k", "width": 2, "height": 2}
    found = pseudo_map(record, [png([[0, 1], [255, 1]])], np.array([4, 2]), 5)
    assert found.tolist() == [[4, 2], [255, 2]] and found.dtype == np.uint8
    for broken, words in ((png([[0, 1]]), "of its size"), (png([[0, 2], [0, 0]]), "class"), (b"no", "decoded")):
        with pytest.raises(ImageError, match=words):
            pseudo_map(record, [broken], np.array([4, 2]), 5)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 80),
    seed=st.integers(0, 999),
    ids=st.sets(st.integers(0, 255), min_size=1, max_size=5),
)
def test_no_new_ids_appear_in_a_map(width: int, height: int, size: int, seed: int, ids: set[int]) -> None:
    rng = np.random.default_rng(seed)
    plane = rng.choice(sorted(ids), (height, width)).astype(np.uint8)
    placement = Augment(jitter=(0.5, 2.0), flip=0.5).place(width, height, size, rng)
    (canvas,) = SEMANTIC.place(plane, placement)
    assert canvas.shape == (size, size)
    assert set(np.unique(canvas)) <= ids | {VOID}
    inside = canvas[: placement.window[1], : placement.window[0]]
    assert set(np.unique(inside)) <= ids


@pytest.mark.parametrize("augment", [S1, FIT, Augment(jitter=(0.5, 2.0), flip=0.5)], ids=["S1", "fit", "large"])
def test_image_map_and_masks_move_together(augment: Augment) -> None:
    """An image whose colour is its class, at every pixel; edges may differ by a pixel, since colours are mixed there."""
    plane = np.zeros((60, 90), np.uint8)
    plane[10:40, 20:70] = 1
    pixels = np.where(plane[..., None] == 1, 250, 10).astype(np.uint8).repeat(3, axis=2)
    (code,) = encode(plane[None])
    outlined = Outlined(Boxes(np.array([[20.0, 10, 70, 40]]), np.array([2]), np.array([False])), [code], 60, 90)
    for seed in range(40):
        placement = augment.place(90, 60, 72, np.random.default_rng(seed))
        canvas = placement.image(pixels, (10, 10, 10))[..., 0]
        (labels,) = SEMANTIC.place(plane, placement)
        wrong = (canvas > 130) != (labels == 1)
        assert wrong.mean() < 0.02 and not (wrong & ((canvas < 40) | (canvas > 220))).any()
        boxes, kept, _, masks = INSTANCE.place(outlined, placement)
        if len(kept):
            np.testing.assert_array_equal(masks[0], labels == 1)
            rows, columns = np.nonzero(masks[0])
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(boxes[0], found, atol=1)


def instance_target(rng: np.random.Generator, count: int, ignored: int = 0) -> InstanceTarget:
    corners, sides = rng.uniform(0, 40, (count + ignored, 2)), rng.uniform(8, 24, (count + ignored, 2))
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    masks = np.zeros((count, 64, 64), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes[:count].astype(int).tolist(), strict=True):
        mask[y1 : y2 + 1, x1 : (x1 + x2) // 2] = 1
    labels = rng.integers(0, 3, count)
    return InstanceTarget(*map(torch.from_numpy, (boxes[:count], labels, boxes[count:], masks)))


def region_network() -> Any:
    torch.manual_seed(0)
    return build_network(replace(TINY, arch="maskrcnn"))


def random_images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("counts", [(3, 0, 1), (2,), (0,)])
def test_human_images_have_torchvisions_mask_rcnn_loss(counts: tuple[int, ...]) -> None:
    """Oracle: torchvision's training forward, with the same random choice of anchors and regions."""
    network, rng = region_network(), np.random.default_rng(0)
    targets, images = [instance_target(rng, count) for count in counts], random_images(len(counts))
    records = [{"boxes": t.boxes, "labels": t.labels + 1, "masks": t.masks} for t in targets]
    torch.manual_seed(5)
    theirs = network(list(images), records)
    torch.manual_seed(5)
    sums = instance_sums(
        network, RegionForward(network)(images, targets), targets, torch.zeros(len(images), dtype=torch.bool)
    )
    step = JointLoss(alpha=0.0)(sums)
    names = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")
    assert [step.terms[name][0].item() for name in TERMS] == pytest.approx([theirs[name].item() for name in names])
    assert step.value == pytest.approx(sum(theirs.values()).item())
    step.loss.backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


def test_streams_of_instances_do_not_mix() -> None:
    network, rng = region_network(), np.random.default_rng(1)
    network.rpn.fg_bg_sampler.batch_size_per_image = network.roi_heads.fg_bg_sampler.batch_size_per_image = 100_000
    network.rpn.fg_bg_sampler.positive_fraction = network.roi_heads.fg_bg_sampler.positive_fraction = 1.0
    images, targets = random_images(4), [instance_target(rng, count, 1) for count in (3, 1, 0, 2)]
    pseudo = torch.tensor([False, True, False, True])

    def sums(pick: list[int]) -> StreamSums:
        chosen = [targets[n] for n in pick]
        with torch.no_grad():
            return instance_sums(network, RegionForward(network)(images[pick], chosen), chosen, pseudo[pick])

    mixed = sums([0, 1, 2, 3])
    assert mixed.counts is not None
    for stream, part in enumerate((sums([0, 2]), sums([3, 1]))):
        assert part.counts is not None
        assert mixed.positives[stream] == part.positives[stream] > 0
        torch.testing.assert_close(mixed.counts[:, stream], part.counts[:, stream])
        for name in TERMS:
            torch.testing.assert_close(mixed.terms[name][stream], part.terms[name][stream], rtol=1e-4, atol=1e-4)


def test_background_in_an_ignore_region_is_not_sampled() -> None:
    network, images = region_network(), random_images(1)
    none = instance_target(np.random.default_rng(0), 0)
    whole = replace(none, ignore=torch.tensor([[-200.0, -200, 300, 300]]))
    everywhere, nowhere = (RegionForward(network)(images, [target]) for target in (none, whole))
    assert (everywhere.counts[:4] > 0).all() and (nowhere.counts == 0).all() and (nowhere.terms == 0).all()
    some = replace(instance_target(np.random.default_rng(0), 2), ignore=whole.ignore)
    found = RegionForward(network)(images, [some])
    assert found.positives[0] > 0 and found.counts[2, 0] == found.positives[0]  # only what matches an object


def test_terms_with_counts_of_their_own() -> None:
    """L_h = 8 / 4 + 3 / 1, L_p = 6 / 2 + 0."""
    terms = {"many": torch.tensor([8.0, 6.0]), "few": torch.tensor([3.0, 0.0])}
    sums = StreamSums(terms, torch.tensor([1.0, 2.0]), torch.tensor([[4.0, 2.0], [1.0, 0.0]]))
    step = JointLoss(alpha=1.0)(sums)
    assert step.terms["many"].tolist() == [2, 3] and step.terms["few"].tolist() == [3, 0]
    assert step.positives.tolist() == [1, 2]
    assert step.value == pytest.approx((5 + 5 / 3 * 3) / 2)


def test_pseudo_outlines_and_people_without_them() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 2:5] = 1
    counts = encode(mask[None])[0].decode()
    objects = {"bbox": [[2, 1, 3, 2], [0, 0, 8, 6]], "category": [0, 0], "ignore": [False, True]}
    record = {"key": "k", "width": 8, "height": 6, "objects": objects | {"segmentation": [counts, ""]}}
    outlined = INSTANCE.pseudo(record, [], np.array([2]), 3)
    boxes, labels, ignore, masks = INSTANCE.place(outlined, FIT.place(8, 6, 8, np.random.default_rng(0)))
    assert boxes.tolist() == [[2, 1, 5, 3]] and labels.tolist() == [2] and ignore.tolist() == [[0, 0, 8, 6]]
    np.testing.assert_array_equal(masks[0, :6], mask)
    with pytest.raises(ImageError, match="no mask"):
        INSTANCE.pseudo(record | {"objects": objects | {"segmentation": ["", ""]}}, [], np.array([2]), 3)
    none = np.zeros(0, bool)
    empty = LabelledImage("a", Path("a.png"), 8, 6, np.zeros((0, 4)), none, none, none, 1, none)
    with pytest.raises(TruthError, match="without outlines"):
        INSTANCE.human(empty, 3)


@pytest.mark.parametrize("arch", ["fcos", "retinanet", "maskrcnn", "fpn", "deeplabv3", "linear"])
def test_every_arch_has_a_task_of_its_kind(arch: Any) -> None:
    task = task_of(arch)
    assert task.kind == kind_of(arch) and task.kind in task.versions
    config = replace(TINY, arch=arch)
    network = build_network(config)
    targets = {
        "classification": [class_target(0, 1, 0)] * 2,
        "semantic": [MapTarget(torch.ones(64, 64, dtype=torch.uint8))] * 2,
    }.get(task.kind, [instance_target(np.random.default_rng(n), 2) for n in range(2)])
    with torch.autocast("cpu", torch.bfloat16):
        outputs = task.forward(network)(random_images(2), targets)
    sums = task.sums(network, outputs, targets, torch.tensor([False, True]))
    assert (sums.positives > 0).all() and all(term.dtype == torch.float32 for term in sums.terms.values())
    JointLoss()(sums).loss.backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert usual_arch("detection") == "fcos" and kind_of(usual_arch("semantic")) == "semantic"
    again = moved(targets[0], torch.device("cpu"))
    assert type(again) is type(targets[0])


def test_classification_task_is_soft_or_hard() -> None:
    record = {"label": 0, "probabilities": [0.6, 0.4]}
    found = [classification(soft).pseudo(record, [], np.array([0, 1]), 2).tolist() for soft in (True, False)]
    assert found[0] == pytest.approx([0.6, 0.4]) and found[1] == [1, 0]


def test_a_clip_that_is_not_the_usual_one_is_told() -> None:
    """By it a study knows cells of maps that were trained before they had a clip of their own."""
    assert [usual_clip(kind) for kind in ("semantic", "detection", "classification")] == [(0.1, 1.0), None, None]

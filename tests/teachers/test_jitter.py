"""Box uncertainty by jitter, on a small Faster R-CNN and Mask R-CNN with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from teachers import load_teacher
from teachers.base import Detections, TeacherOptions, Views, fingerprint
from teachers.from_torchvision.jitter import SEED, SPREAD, add_box_uncertainty, box_uncertainty

JITTERS = 10


class Backbone(nn.Module):
    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"0": self.layers(x)}


def network(make: Callable[..., GeneralizedRCNN] = FasterRCNN) -> GeneralizedRCNN:
    torch.manual_seed(0)
    model = make(
        Backbone(), num_classes=4, min_size=64, max_size=96, box_detections_per_img=12, box_score_thresh=0.0,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),)), rpn_post_nms_top_n_test=30,
    )  # fmt: skip
    nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.05)
    return model.eval()


def images(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 50 + 9 * n, 70, generator=generator) for n in range(count)]


@pytest.mark.parametrize("make", [FasterRCNN, MaskRCNN])
@torch.inference_mode()
def test_uncertainty_stands_beside_boxes_that_stay_as_they_are(make: Callable[..., GeneralizedRCNN]) -> None:
    plain, model = network(make), network(make)
    add_box_uncertainty(model.roi_heads, JITTERS)
    batch = images()
    without, found = plain(batch), model(batch)
    for one, other in zip(without, found, strict=True):
        assert len(one["boxes"]) == 12
        for name in one:
            assert torch.equal(one[name], other[name])
        assert set(other) - set(one) == {"uncertainty"}
        assert other["uncertainty"].shape == (12,) and other["uncertainty"].dtype == torch.float32
        assert (other["uncertainty"] > 0).all()
    for one, other in zip(found, model(batch), strict=True):
        assert torch.equal(one["uncertainty"], other["uncertainty"])  # the same every time


def heads_and_features() -> tuple[nn.Module, dict[str, Tensor]]:
    model = network()
    features = model.backbone(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(2)))
    model.roi_heads.box_roi_pool(features, [torch.tensor([[0.0, 0, 9, 9]])], [(64, 96)])  # sets its scales
    return model.roi_heads, features


BOXES = torch.tensor([[30.0, 20, 50, 44], [10, 10, 40, 30], [60, 5, 95, 60], [0, 0, 12, 12], [40, 40, 40.5, 41]])
LABELS = torch.tensor([1, 3, 2, 1, 2])


@torch.inference_mode()
def test_it_is_what_the_paper_describes() -> None:
    """Box by box and jitter by jitter, the coder's own decode for one box."""
    heads, features = heads_and_features()
    found = box_uncertainty(heads, features, (64, 96), BOXES, LABELS, JITTERS)
    noise = np.random.default_rng(SEED).normal(size=(JITTERS, 4))
    for box, label, one in zip(BOXES, LABELS, found, strict=True):
        sides = (box[2:] - box[:2]).clamp(min=1).numpy()[[0, 1, 0, 1]]
        refined = []
        for shift in noise:
            moved = box + torch.tensor(shift * SPREAD * sides, dtype=torch.float32)
            pooled = heads.box_roi_pool(features, [moved[None]], [(64, 96)])
            _, regression = heads.box_predictor(heads.box_head(pooled))
            x1, y1, x2, y2 = heads.box_coder.decode_single(regression, moved[None]).reshape(4, 4)[label].tolist()
            refined.append([np.clip(x1, 0, 96), np.clip(y1, 0, 64), np.clip(x2, 0, 96), np.clip(y2, 0, 64)])
        mean, spread = np.mean(refined, 0), np.std(refined, 0, ddof=1)
        width, height = np.maximum(mean[2:] - mean[:2], 1)
        assert one == pytest.approx(np.mean(spread / [width, height, width, height]), rel=1e-4)


@torch.inference_mode()
def test_a_teacher_that_corrects_nothing_is_as_unsure_as_the_jitter_is_wide() -> None:
    heads, features = heads_and_features()
    nn.init.zeros_(heads.box_predictor.bbox_pred.weight)
    nn.init.zeros_(heads.box_predictor.bbox_pred.bias)
    many = box_uncertainty(heads, features, (64, 96), BOXES[:2], LABELS[:2], 100)
    np.testing.assert_allclose(many, SPREAD, rtol=0.15)


@torch.inference_mode()
def test_a_box_depends_neither_on_other_boxes_nor_on_other_images() -> None:
    heads, features = heads_and_features()
    together = box_uncertainty(heads, features, (64, 96), BOXES, LABELS, JITTERS)
    for n in range(len(BOXES)):
        alone = box_uncertainty(heads, features, (64, 96), BOXES[n : n + 1], LABELS[n : n + 1], JITTERS)
        np.testing.assert_allclose(alone, together[n : n + 1], rtol=1e-4)
    none = box_uncertainty(heads, features, (64, 96), BOXES[:0], LABELS[:0], JITTERS)
    assert none.shape == (0,) and none.dtype == torch.float32

    model = network()
    add_box_uncertainty(model.roi_heads, JITTERS)
    batch = [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    for one, image in zip(model(batch), batch, strict=True):
        (alone,) = model([image])
        np.testing.assert_allclose(alone["uncertainty"], one["uncertainty"], rtol=1e-3, atol=1e-6)


def test_training_is_left_alone() -> None:
    model = network().train()
    add_box_uncertainty(model.roi_heads, JITTERS)
    targets = [{"boxes": torch.tensor([[5.0, 5, 30, 30]]), "labels": torch.tensor([1])}]
    assert set(model(images(1), targets)) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}


def test_the_option_of_a_teacher(tmp_path: Path) -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    torch.manual_seed(0)
    state = get_model(name, weights=None, weights_backbone=None, num_classes=3).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    options = TeacherOptions(
        floor=0.0, weights=str(tmp_path / "w.safetensors"), classes=("a", "b"), min_size=64, max_size=96, device="cpu",
        max_detections=8, top_k=40,
    )  # fmt: skip
    images = [np.random.default_rng(n).integers(0, 256, (70, 90, 3), np.uint8) for n in range(2)]
    plain, unsure = (load_teacher(f"torchvision:{name}", replace(options, jitter=n)) for n in (None, 10))
    assert fingerprint(plain.description) != fingerprint(unsure.description)
    for image, one, other in zip(images, plain.predict(images), unsure.predict(images), strict=True):
        assert isinstance(one, Detections) and isinstance(other, Detections)
        assert one.uncertainty is None and other.uncertainty is not None
        np.testing.assert_array_equal(one.boxes, other.boxes)
        assert len(other) and (other.uncertainty > 0).all()
        (alone,) = unsure.predict([image])
        np.testing.assert_allclose(alone.uncertainty, other.uncertainty, rtol=1e-3)  # type: ignore[union-attr]
    (seen,) = load_teacher(f"torchvision:{name}", replace(options, jitter=10, tta=Views(True))).predict(images[:1])
    assert isinstance(seen, Detections) and seen.uncertainty is not None and len(seen) <= 8

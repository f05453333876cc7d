"""The networks: torchvision's, at any size, on any backbone; their pre-processing; their checkpoints; the teacher."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import get_model
from torchvision.models.detection.retinanet import _default_anchorgen
from torchvision.models.feature_extraction import create_feature_extractor

from students.augment.scene import FIT
from teachers import load_teacher
from teachers.base import TeacherError, TeacherOptions, fingerprint
from teachers.from_checkpoint import CheckpointTeacher
from teachers.networks.build import build_network
from teachers.networks.checkpoints import load_checkpoint, save_checkpoint
from teachers.networks.config import NetworkConfig

TINY = NetworkConfig(
    arch="fcos",
    backbone="timm:test_resnet",
    classes=("a", "b", "c"),
    size=64,
    channels=16,
    head_depth=1,
    levels=(8, 16),
)


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)


def save_run(folder: Path, config: NetworkConfig = TINY, **meta: Any) -> Path:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder, build_network(config), config, {"step": 5, "trained_on": ["f00d"], **meta})
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"arch": "retinanet"},
        {"norm": "batch", "head_depth": 2},
        {"backbone": "timm:test_convnext", "levels": (4, 8, 16, 32, 64, 128)},
        {"backbone": "timm:mobilenetv3_small_050", "levels": (4, 8)},
        {"backbone": "torchvision:mobilenet_v3_small", "levels": (16, 32, 64), "channels": 24},
        {"backbone": "torchvision:regnet_y_400mf", "arch": "retinanet", "levels": (32,)},
    ],
)
def test_any_backbone_levels_and_norm(changes: dict[str, Any]) -> None:
    config = replace(TINY, **changes)
    network = build_network(config)
    pixels = torch.zeros(2, 3, 128, 128)
    features = list(network.backbone(pixels).values())
    assert [tuple(level.shape) for level in features] == [
        (2, config.channels, 128 // stride, 128 // stride) for stride in config.levels
    ]
    outputs = network.head(features)
    anchors = {"fcos": 1, "retinanet": 9}[config.arch] * sum((128 // stride) ** 2 for stride in config.levels)
    assert outputs["cls_logits"].shape == (2, anchors, 3)
    assert outputs["cls_logits"].sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)  # the focal loss's prior

    sum(output.sum() for output in outputs.values()).backward()
    without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not without  # or distributed training would wait for them

    network.eval()
    images = [scene(40, 90), scene(200, 31)]
    network.score_thresh = 0.0
    for image, found in zip(images, network([tensor(image) for image in images]), strict=True):
        height, width = image.shape[:2]
        assert len(found["boxes"]) > 0
        assert (found["boxes"] >= 0).all() and (found["boxes"][:, 2:] <= torch.tensor([width, height]) + 1e-3).all()
        assert set(found["labels"].tolist()) <= {0, 1, 2}


def test_defaults_are_torchvisions_anchors_and_a_small_network_is_small() -> None:
    network = build_network(replace(TINY, arch="retinanet", levels=(8, 16, 32, 64, 128)))
    assert network.anchor_generator.sizes == _default_anchorgen().sizes
    assert network.anchor_generator.aspect_ratios == _default_anchorgen().aspect_ratios
    demo = replace(TINY, classes=tuple("0123456789"), channels=64, head_depth=2, levels=(4, 8))
    assert 0.2e6 < sum(parameter.numel() for parameter in build_network(demo).parameters()) < 0.4e6


@pytest.mark.parametrize(
    ("backbone", "nodes"),
    [
        ("resnet18", ["layer2", "layer3", "layer4"]),
        ("mobilenet_v2", ["features.6", "features.13", "features.18"]),
        ("regnet_x_400mf", ["trunk_output.block2", "trunk_output.block3", "trunk_output.block4"]),
    ],
)
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_pretrained_torchvision_maps_are_torchvisions(
    tmp_path: Path, backbone: str, nodes: list[str], norm: Any
) -> None:
    """Oracle: torchvision's own feature extraction of the same weights, with batch norm statistics of its own."""
    torch.manual_seed(0)
    model = get_model(backbone, weights=None).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    config = replace(TINY, backbone=f"torchvision:{backbone}", levels=(8, 16, 32), norm=norm)
    body = build_network(replace(config, pretrained=str(tmp_path / "weights.pth"))).eval().backbone.body
    pixels = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        expected = create_feature_extractor(model, {name: name for name in nodes})(pixels)
        for ours, theirs in zip(body(pixels), expected.values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_pretrained_timm_weights_and_norms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet")  # its batch norm holds the activation
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    file = str(tmp_path / "weights.safetensors")
    save_file(model.state_dict(), file)
    config = replace(TINY, backbone="timm:test_efficientnet", pretrained=file)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval().forward_intermediates(pixels, indices=[2, 3], intermediates_only=True)
        for norm in ("frozen", "batch"):
            body = build_network(replace(config, norm=norm)).backbone.body
            for ours, theirs in zip(body.eval()(pixels), expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    frozen = build_network(replace(config, norm="frozen"))
    before = [features.clone() for features in frozen.train().backbone.body(pixels)]
    assert all(map(torch.equal, before, frozen.backbone.body(pixels)))  # training moves no statistics
    grouped = build_network(replace(config, norm="group", pretrained=None))
    kinds = {type(module) for module in grouped.modules()}
    assert nn.GroupNorm in kinds and not any(issubclass(kind, nn.BatchNorm2d) for kind in kinds)
    with pytest.raises(TeacherError, match="norm"):
        build_network(replace(config, norm="group"))


@pytest.mark.parametrize(("stride", "norm"), [(8, "batch"), (8, "frozen"), (16, "batch")])
def test_a_frozen_stage_does_not_move(tmp_path: Path, stride: int, norm: Any) -> None:
    """Nothing that the map of the stride depends on changes in training, norm statistics neither; all else does."""
    torch.manual_seed(0)
    file = str(tmp_path / "weights.safetensors")
    save_file(timm.create_model("test_efficientnet").state_dict(), file)
    config = replace(TINY, arch="linear", backbone="timm:test_efficientnet", norm=norm, pretrained=file, freeze=stride)
    network = build_network(config)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    pixels = torch.randint(0, 255, (4, 3, 64, 64), dtype=torch.uint8)
    maps = network.body(pixels.float() / 255)
    network.train()
    for _ in range(2):
        optimizer.zero_grad()
        network.logits(pixels)[:, 0].square().sum().backward()
        optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert trained <= moved and all(".running_" in name or "num_batches" in name for name in moved - trained)
    after = network.body(pixels.float() / 255)
    held = TINY.levels.index(stride) + 1
    assert all(map(torch.equal, maps[:held], after[:held]))
    assert len(after) == held or not torch.equal(maps[-1], after[-1])
    whole = build_network(replace(config, freeze=None))
    every = sum(parameter.requires_grad for parameter in whole.parameters())
    assert 0 < len(trained) < every


@pytest.mark.parametrize(("height", "width"), [(300, 480), (97, 33), (24, 60), (64, 64), (200, 9)])
def test_inference_sees_the_pixels_training_saw(height: int, width: int) -> None:
    """Oracle: Pillow's resize, as the loader does it; bottom and right are padding."""
    smooth = np.array(Image.fromarray(scene(8, 8)).resize((width, height), Image.Resampling.BICUBIC))
    transform = build_network(TINY).eval().transform
    images, _ = transform([tensor(smooth)])
    shown = images.tensors[0] * torch.tensor(TINY.std)[:, None, None] + torch.tensor(TINY.mean)[:, None, None]
    fill = tuple(round(255 * mean) for mean in TINY.mean)
    expected, _, _ = FIT(smooth, np.zeros((0, 4)), 64, fill, np.random.default_rng(0))  # type: ignore[arg-type]
    difference = (255 * shown - tensor(expected)).abs()
    assert difference.max() < 2 and difference.mean() < 0.6
    boxes = torch.tensor([[0.0, 0.0, *reversed(images.image_sizes[0])]])
    result = transform.postprocess([{"boxes": boxes}], images.image_sizes, [(height, width)])
    torch.testing.assert_close(result[0]["boxes"], torch.tensor([[0.0, 0.0, width, height]]))


def test_a_result_depends_on_nothing_else_in_the_batch() -> None:
    torch.manual_seed(0)
    network = build_network(TINY).eval()
    network.score_thresh = 0.0
    image, other = tensor(scene(50, 80)), tensor(scene(90, 20))
    with torch.no_grad():
        alone, beside = network([image])[0], network([other, image])[1]
        as_float = network([image.float() / 255])[0]
    for name in ("boxes", "scores"):
        torch.testing.assert_close(alone[name], beside[name], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone[name], as_float[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ()}, "no classes"),
        ({"levels": (8, 32)}, "levels"),
        ({"levels": (128, 256)}, "strides"),
        ({"size": 0}, "size 0"),
        ({"backbone": "resnet18"}, "timm:NAME"),
        ({"backbone": "timm:no_such"}, "no_such"),
        ({"backbone": "torchvision:no_such"}, "no_such"),
        ({"backbone": "torchvision:shufflenet_v2_x0_5"}, "no stages"),
        ({"norm": "frozen"}, "pretrained"),
        ({"freeze": 4}, "one of the strides in levels"),
        ({"freeze": 8}, "freeze 8 keeps pre-trained weights: set pretrained"),
        ({"pretrained": "missing.pth"}, "missing.pth"),
        ({"pretrained": "DEFAULT", "mean": (0.1, 0.2, 0.3)}, "mean"),
    ],
)
def test_a_config_that_makes_no_network_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TeacherError, match=message) as caught:
        build_network(replace(TINY, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arch", ["fcos", "retinanet"])
def test_checkpoint_comes_back_the_same(tmp_path: Path, arch: Any) -> None:
    config = replace(TINY, arch=arch, norm="batch")
    torch.manual_seed(0)
    network = build_network(config)
    network.backbone(torch.randn(4, 3, 64, 64))  # moves batch norm's statistics
    save_checkpoint(tmp_path, network, config, {"step": 7, "trained_on": []})
    again, config_again, meta = load_checkpoint(tmp_path)
    assert config_again == config and meta.step == 7 and config_again.classes == ("a", "b", "c")
    assert not again.training
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meta.json", "model.safetensors"]


def test_half_written_runs_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"meta\.json"):
        load_teacher(f"checkpoint:{tmp_path / 'nowhere'}")
    run = save_run(tmp_path / "run")
    weights = (run / "model.safetensors").read_bytes()
    save_checkpoint(run, build_network(TINY), TINY, {"trained_on": []})
    (run / "model.safetensors").write_bytes(weights)  # as if killed between the two files of a save
    with pytest.raises(TeacherError, match="is not what"):
        load_teacher(f"checkpoint:{run}")
    (run / "meta.json").write_text("{")
    with pytest.raises(TeacherError, match="cannot be read"):
        load_teacher(f"checkpoint:{run}")
    (run / "meta.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(TeacherError, match="format"):
        load_teacher(f"checkpoint:{run}")


def test_teacher_gives_the_networks_own_detections(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    images = [scene(40, 90), scene(120, 60), scene(64, 64)]
    network, _, _ = load_checkpoint(run)
    network.score_thresh, network.nms_thresh, network.detections_per_img = 0.0, 0.5, 20
    with torch.no_grad():
        expected = network([tensor(image) for image in images])
    floor = float(expected[0]["scores"][10])
    options = TeacherOptions(floor=floor, nms_iou=0.5, max_detections=20, batch_size=2)
    teacher = load_teacher(f"checkpoint:{run}", options)
    assert isinstance(teacher, CheckpointTeacher)
    found = teacher.predict(images)
    assert teacher.classes == ("a", "b", "c") and len(found) == 3
    for ours, theirs in zip(found, expected, strict=True):
        kept = (theirs["scores"] >= floor).numpy()
        np.testing.assert_allclose(ours.scores, theirs["scores"].numpy()[kept], rtol=1e-4)
        np.testing.assert_allclose(ours.boxes, theirs["boxes"].numpy()[kept], atol=1e-2)
        np.testing.assert_array_equal(ours.labels, theirs["labels"].numpy()[kept])
    assert len(found[0]) == 11  # a score of exactly the floor is kept
    assert teacher.predict([]) == []


def test_fingerprint_covers_what_decides_predictions(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    ours = CheckpointTeacher(run, TeacherOptions())
    assert ours.trained_on == ["f00d"] and "f00d" not in json.dumps(ours.description)
    prints = {fingerprint(ours.description)}
    for options in (TeacherOptions(floor=0.1), TeacherOptions(nms_iou=0.3), TeacherOptions(dtype="bfloat16")):
        prints.add(fingerprint(CheckpointTeacher(run, options).description))
    other = save_run(tmp_path / "other", replace(TINY, size=96))
    prints.add(fingerprint(CheckpointTeacher(other, TeacherOptions()).description))
    assert len(prints) == 5
    same = save_run(tmp_path / "same", trained_on=["cafe"])
    assert fingerprint(CheckpointTeacher(same, TeacherOptions(batch_size=3)).description) in prints
    with pytest.raises(TeacherError, match="min_size"):
        CheckpointTeacher(run, TeacherOptions(min_size=300))
    with pytest.raises(TeacherError, match="float16"):
        CheckpointTeacher(run, TeacherOptions(dtype="float16", device="cpu"))


def test_bfloat16_keeps_boxes_where_they_are(tmp_path: Path) -> None:
    """At 640 pixels bfloat16 box edges would be off by up to 2: decoding stays float32. (Autocast lets
    batch norm give bfloat16 features; group norm gives float32.)"""
    run = save_run(tmp_path / "run", replace(TINY, size=640, levels=(32,), norm="batch"))
    full, half = (
        CheckpointTeacher(
            run, TeacherOptions(floor=0.0, nms_iou=1.0, top_k=1200, max_detections=1200, dtype=dtype)
        ).predict([scene(640, 640)])[0]
        for dtype in ("float32", "bfloat16")
    )
    assert len(full) == len(half) == 1200  # 20 x 20 points, 3 classes
    for label in range(3):
        ours, theirs = (found.boxes[found.labels == label] for found in (half, full))
        farthest_side = np.abs(ours[:, None] - theirs[None]).max(2)
        assert farthest_side.min(1).max() < 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: next(iter(weights.values())).view(-1)[:1].fill_(float("nan")), "holds a NaN or infinite"),
        (lambda weights: weights.pop(next(iter(weights))), "lacks "),
        (lambda weights: weights.update(more=torch.zeros(3)), "has more, unlike the network"),
        (lambda weights: weights.update({next(iter(weights)): torch.zeros(1, 2)}), r"of torch.float32 \(1, 2\), but"),
    ],
)
def test_weights_are_checked_before_their_network_is_built(tmp_path: Path, change: Any, message: str) -> None:
    run = save_run(tmp_path / "run")
    weights = load_file(run / "model.safetensors")
    change(weights)
    save_file(weights, run / "model.safetensors")
    _seal_again(run, weights={"file": "model.safetensors", **_described(run / "model.safetensors")})
    with pytest.raises(TeacherError, match=message):
        load_checkpoint(run)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"size": 10**9}, "network.size = 1000000000, but input should be less than or equal to 4096"),
        ({"backbone": "timm:hf-hub:org/model"}, "is no name"),
        ({"classes": ["a", "a", "b"]}, "two classes of one name"),
        ({"colour": 3}, "has the unknown key network.colour"),
        ({"backbone": "timm:vit_giant_patch14_dinov2"}, "cannot be made|unlike the network"),
    ],
)
def test_the_network_of_a_run_is_checked(tmp_path: Path, network: dict[str, Any], message: str) -> None:
    run = save_run(tmp_path / "run")
    described = json.loads((run / "meta.json").read_text())["network"]
    _seal_again(run, network={**described, **network})
    with pytest.raises(TeacherError, match=message) as error:
        load_checkpoint(run)
    assert "\n" not in str(error.value)


def test_a_turned_value_of_meta_is_told_by_its_digest(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    text = (run / "meta.json").read_text()
    (run / "meta.json").write_text(text.replace('"a"', '"q"'))
    with pytest.raises(TeacherError, match=r"is damaged \(it is not what its digest says"):
        load_checkpoint(run)


def _described(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _seal_again(run: Path, **changes: Any) -> None:
    """Change meta.json as a hostile writer would."""
    meta = json.loads((run / "meta.json").read_text()) | changes
    del meta["digest"]
    (run / "meta.json").write_text(json.dumps({**meta, "digest": fingerprint(meta)}))

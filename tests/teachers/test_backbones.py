"""Backbones that start from a file: published names, another network's, another norm's; and weights there are none of."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FrozenBatchNorm2d

from teachers.base import TeacherError
from teachers.networks.backbones import make_backbone, published_names, whole_network
from teachers.networks.build import build_network
from teachers.networks.config import NetworkConfig

LEVELS = (8, 16, 32)
NOISY_STUDENT = "tf_efficientnet_b0.ns_jft_in1k"
NODES = {
    "resnet18": ["layer2", "layer3", "layer4"],
    "efficientnet_b0": ["features.3", "features.5", "features.8"],
    "mobilenet_v3_small": ["features.3", "features.8", "features.12"],
}


def whole(spec: str, seed: int = 0) -> nn.Module:
    """timm's or torchvision's own network, with statistics that are not those a new one has."""
    family, _, name = spec.partition(":")
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(name) if family == "timm" else get_model(name, weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert isinstance(module.running_mean, Tensor) and isinstance(module.running_var, Tensor)
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def maps_of(spec: str, model: nn.Module, pixels: Tensor) -> list[Tensor]:
    """The oracle: the maps of strides 8, 16 and 32 as timm and torchvision take them out."""
    family, _, name = spec.partition(":")
    if family == "torchvision":
        return list(create_feature_extractor(model, {node: node for node in NODES[name]})(pixels).values())
    return list(model.forward_intermediates(pixels, indices=3, intermediates_only=True))


def write(path: Path, state: dict[str, Tensor]) -> str:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if path.suffix == ".tar" else state, path)
    return str(path)


@pytest.mark.parametrize(
    ("spec", "head", "form"),
    [
        ("timm:test_resnet", True, "weights.safetensors"),
        ("timm:test_resnet", True, "weights.pth"),
        ("timm:test_resnet", False, "weights.pth.tar"),
        ("timm:test_efficientnet", False, "weights.safetensors"),
        (f"timm:{NOISY_STUDENT}", True, "weights.safetensors"),
        (f"timm:{NOISY_STUDENT}", False, "weights.pth"),
        ("torchvision:resnet18", True, "weights.pth"),
        ("torchvision:resnet18", False, "weights.safetensors"),
        ("torchvision:efficientnet_b0", False, "weights.pth"),
        ("torchvision:mobilenet_v3_small", True, "weights.pth"),
    ],
)
def test_a_published_file_fits_with_or_without_its_classifier(spec: str, head: bool, form: str, tmp_path: Path) -> None:
    model = whole(spec)
    heads = ("fc.", "classifier.", "head.")
    state = {name: tensor for name, tensor in model.state_dict().items() if head or not name.startswith(heads)}
    body, channels = make_backbone(spec, LEVELS, write(tmp_path / form, state), "batch")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = body.eval()(pixels), maps_of(spec, model, pixels)
    assert [features.shape[1] for features in ours] == channels
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_torchvisions_file_fits_timms_network_of_the_same_names(tmp_path: Path) -> None:
    model = whole("torchvision:resnet18")
    body, _ = make_backbone("timm:resnet18", LEVELS, write(tmp_path / "resnet18.pth", model.state_dict()), "frozen")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(body(pixels), maps_of("torchvision:resnet18", model, pixels), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_file_of_a_first_publication_is_read_where_timm_knows_its_names(tmp_path: Path) -> None:
    """ConvNeXt's authors named their modules otherwise than timm."""
    model = whole("timm:test_convnext")
    foreign = {}
    for name, tensor in model.state_dict().items():
        for timms, theirs in (
            ("stem.0", "downsample_layers.0.0"),
            ("stem.1", "downsample_layers.0.1"),
            ("downsample.0", "downsample_layers.0"),
            ("downsample.1", "downsample_layers.1"),
            (".blocks.", "."),
            ("conv_dw", "dwconv"),
            ("mlp.fc1", "pwconv1"),
            ("mlp.fc2", "pwconv2"),
            ("head.norm.", "norm."),
            ("head.fc.", "head."),
        ):
            name = name.replace(timms, theirs)
        stage, _, rest = name.removeprefix("stages.").partition(".downsample_layers.")
        foreign[f"downsample_layers.{stage}.{rest}" if rest else name] = tensor
    assert "stages.0.0.dwconv.weight" in foreign and "downsample_layers.1.0.weight" in foreign
    body, _ = make_backbone("timm:test_convnext", LEVELS, write(tmp_path / "convnext.pth", foreign), "batch")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(body.eval()(pixels), maps_of("timm:test_convnext", model, pixels), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", ["timm:test_resnet", "timm:test_efficientnet", "torchvision:resnet18"])
@pytest.mark.parametrize("norm", ["batch", "frozen", "group"])
def test_every_norm_has_its_weights_back(spec: str, norm: str, tmp_path: Path) -> None:
    """What was trained with group norm is found again with group norm, what with batch norm with batch or frozen."""
    torch.manual_seed(0)
    trained, _ = make_backbone(spec, LEVELS, None, "group" if norm == "group" else "batch")
    for parameter in trained.parameters():
        nn.init.uniform_(parameter, -0.1, 0.1)
    state = trained.state_dict()
    names = published_names(trained, whole_network(spec))
    published = {name for name, _ in whole(spec).named_parameters()}
    if norm != "group":
        assert {name for key, name in names.items() if key in dict(trained.named_parameters())} <= published
    file = write(tmp_path / "backbone.safetensors", {name: state[key] for key, name in names.items()})
    body, _ = make_backbone(spec, LEVELS, file, norm)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(body.eval()(pixels), trained.eval()(pixels), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    kinds = {type(module) for module in body.modules()}
    assert (nn.GroupNorm in kinds) == (norm == "group") and (FrozenBatchNorm2d in kinds) == (norm == "frozen")
    assert any(issubclass(kind, nn.BatchNorm2d) for kind in kinds) == (norm == "batch")


@pytest.mark.parametrize(
    ("name", "norm", "channels"),
    [
        ("tf_efficientnet_b0", "group", [40, 112, 320]),
        ("tf_efficientnet_b1", "batch", [40, 112, 320]),
        ("tf_efficientnet_b3", "batch", [48, 136, 384]),
        ("tf_efficientnet_b4", "batch", [56, 160, 448]),
        ("tf_efficientnet_b7", "batch", [80, 224, 640]),
        ("resnet18", "group", [128, 256, 512]),
        ("resnet34", "batch", [128, 256, 512]),
        ("resnet50", "group", [512, 1024, 2048]),
    ],
)
def test_the_papers_families_have_their_maps(name: str, norm: str, channels: list[int]) -> None:
    """Widths: EfficientNet's table 1 and scaling (arXiv 1905.11946), ResNet's table 1 (arXiv 1512.03385)."""
    with torch.device("meta"):  # shapes are all that is asked for
        assert make_backbone(f"timm:{name}", LEVELS, None, norm)[1] == channels


def grouped(spec: str, levels: tuple[int, ...] = LEVELS) -> dict[str, Tensor]:
    body, _ = make_backbone(spec, levels, None, "group")
    state = body.state_dict()
    return {name: state[key] for key, name in published_names(body, whole_network(spec)).items()}


@pytest.mark.parametrize(
    ("spec", "held", "norm", "message"),
    [
        ("timm:resnet18", "timm:resnet34", "batch", "larger network.*layer1.2"),
        ("timm:resnet34", "timm:resnet18", "batch", "lacks .* layer1.2"),
        ("torchvision:resnet18", "torchvision:resnet34", "frozen", "larger network.*layer1.2"),
        ("timm:test_efficientnet", "timm:test_resnet", "batch", "lacks .* conv_stem"),
        (f"timm:{NOISY_STUDENT}", "timm:efficientnet_b1", "batch", "larger network.*blocks.0.1"),
        (f"timm:{NOISY_STUDENT}", "torchvision:efficientnet_b0", "batch", "lacks"),
        ("timm:efficientnet_b2", f"timm:{NOISY_STUDENT}", "batch", "lacks|shape"),
        ("timm:test_resnet", "timm:test_resnet", "group", "with batch norm: set norm"),
        ("timm:test_efficientnet", "timm:test_efficientnet", "group", "with batch norm: set norm"),
    ],
)
def test_another_networks_file_is_one_sentence(spec: str, held: str, norm: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "weights.safetensors", whole(held).state_dict())
    with pytest.raises(TeacherError, match=message) as caught:
        make_backbone(spec, LEVELS, file, norm)
    assert file in str(caught.value) and "\n" not in str(caught.value)


def test_a_wider_networks_file_is_one_sentence(tmp_path: Path) -> None:
    state = whole("timm:test_resnet").state_dict()
    name = next(name for name, tensor in state.items() if tensor.ndim == 4)
    file = write(tmp_path / "wide.pth", state | {name: torch.cat([state[name]] * 2)})
    with pytest.raises(TeacherError, match=r"another network.*the shape \(32, 3, 3, 3\), not \(16, 3, 3, 3\)"):
        make_backbone("timm:test_resnet", LEVELS, file, "batch")


@pytest.mark.parametrize("spec", ["timm:test_resnet", "timm:test_efficientnet"])
def test_group_norms_weights_are_not_batch_norms(spec: str, tmp_path: Path) -> None:
    file = write(tmp_path / "weights.safetensors", grouped(spec))
    for norm in ("batch", "frozen"):
        with pytest.raises(TeacherError, match="without batch norm: set norm to group"):
            make_backbone(spec, LEVELS, file, norm)


def test_a_backbone_trained_up_to_a_level_serves_up_to_that_level(tmp_path: Path) -> None:
    for spec in ("timm:test_resnet", "timm:test_efficientnet"):
        whole_way = write(tmp_path / "whole.safetensors", grouped(spec))
        make_backbone(spec, (8, 16), whole_way, "group")
        part = write(tmp_path / "part.safetensors", grouped(spec, (8, 16)))
        make_backbone(spec, (8, 16), part, "group")
        with pytest.raises(TeacherError, match="up to the last of its levels"):
            make_backbone(spec, LEVELS, part, "group")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("content", [b"", b"<!doctype html><title>404</title>", b"\x80\x02}q\x00X\x01"])
def test_what_holds_no_weights_is_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TeacherError, match="no weights that can be read") as caught:
        make_backbone("timm:test_resnet", LEVELS, str(tmp_path / name), "batch")
    assert "\n" not in str(caught.value)


class _Code:
    """What a pickle may hold: a call."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": _Code(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(TeacherError, match="no weights that can be read") as caught:
        make_backbone("timm:test_resnet", LEVELS, str(tmp_path / "weights.pth"), "batch")
    assert not (tmp_path / "ran").exists() and "\n" not in str(caught.value)


def test_a_missing_file_and_a_run_folder_say_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"missing\.pth.*DEFAULT"):
        make_backbone("timm:test_resnet", LEVELS, str(tmp_path / "missing.pth"), "batch")
    (tmp_path / "backbone.safetensors").touch()
    with pytest.raises(TeacherError, match=r"write .*backbone\.safetensors"):
        make_backbone("timm:test_resnet", LEVELS, str(tmp_path), "batch")


@pytest.mark.parametrize("spec", [f"timm:{NOISY_STUDENT}", "torchvision:efficientnet_b7"])
def test_published_weights_without_a_network_say_what_to_fetch(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    config = NetworkConfig(arch="linear", backbone=spec, classes=("a", "b"), levels=LEVELS, norm="batch")
    with pytest.raises(TeacherError, match=r"cannot be fetched.*where there is a network") as caught:
        build_network(config.__class__(**{**config.__dict__, "pretrained": "DEFAULT"}))
    assert ("ns_jft_in1k" if spec.startswith("timm") else "efficientnet_b7") in str(caught.value)
    assert "\n" not in str(caught.value)


IMAGENET, INCEPTION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "expected", "given", "fits"),
    [
        (NOISY_STUDENT, IMAGENET, IMAGENET, True),
        (NOISY_STUDENT, IMAGENET, INCEPTION, False),
        ("tf_efficientnet_b0.ap_in1k", INCEPTION, IMAGENET, False),
        ("tf_efficientnet_b0.ap_in1k", INCEPTION, INCEPTION, True),
        ("tf_efficientnet_b0", IMAGENET, INCEPTION, True),  # anyone's file: nobody knows
    ],
)
def test_the_tag_of_a_network_says_which_normalisation_its_file_expects(
    name: str, expected: Any, given: Any, fits: bool, tmp_path: Path
) -> None:
    file = write(tmp_path / "weights.safetensors", whole(f"timm:{name}").state_dict())
    config = NetworkConfig(
        arch="linear", backbone=f"timm:{name}", classes=("a",), levels=LEVELS, norm="batch", pretrained=file
    )
    config = NetworkConfig(**{**config.__dict__, "mean": given[0], "std": given[1]})
    if fits:
        build_network(config)
        return
    with pytest.raises(TeacherError, match="expect mean and std") as caught:
        build_network(config)
    assert str(expected[0][0]) in str(caught.value)


def test_a_file_of_our_own_is_held_to_its_meta(tmp_path: Path) -> None:
    file = Path(write(tmp_path / "backbone.safetensors", grouped("timm:test_resnet")))
    weights = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    weights["bytes"] = file.stat().st_size
    meta = {
        "format": 1,
        "network": {"mean": [0.5] * 3, "std": [0.5] * 3},
        "weights": weights,
        "trained_on": ["f0" * 32],
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    config = {"arch": "linear", "backbone": "timm:test_resnet", "classes": ("a",), "levels": LEVELS}
    with pytest.raises(TeacherError, match=r"mean and std \(\(0\.5"):
        build_network(NetworkConfig(**config, pretrained=str(file)))
    build_network(NetworkConfig(**config, pretrained=str(file), mean=(0.5,) * 3, std=(0.5,) * 3))  # type: ignore[arg-type]
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(TeacherError, match="run the training again"):
        build_network(NetworkConfig(**config, pretrained=str(file)))

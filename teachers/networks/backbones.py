"""Classification networks of timm and torchvision as backbones: feature maps of chosen strides and norm."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.ops import FrozenBatchNorm2d

from teachers.base import TeacherError
from teachers.errors import brief
from teachers.networks.weights import load_weights, weights_file

DEFAULT = "DEFAULT"
"""In place of a file: the weights that timm or torchvision publish for a network."""
PROBE = 128
"""Side of the black image that shows which maps a network has, pixels."""


def make_backbone(
    spec: str, levels: Sequence[int], weights: str | None, norm: str, freeze: int | None = None
) -> tuple[nn.Module, list[int]]:
    """The network `timm:NAME` or `torchvision:NAME` up to its last stride in `levels`, and the channels of each map.

    It maps (B, 3, S, S) to a list of (B, C, S / stride, S / stride), one per level that it has; `levels` may go on
    above them. weights: None for random ones, a file that has the network's own names (see teachers.networks.weights),
    or DEFAULT. norm: `batch` leaves batch norm as it is, `frozen` fixes its statistics and affine parameters, `group`
    puts group norm in its place. freeze: one of `levels`, up to whose map nothing is trained (see NetworkConfig).
    Parameters that no map depends on are frozen. Raises TeacherError.
    """
    file = None if weights in (None, DEFAULT) else weights_file(str(weights))
    try:
        body = _body(spec, levels, published=weights == DEFAULT)
        if norm == "group" and any(isinstance(module, nn.BatchNorm2d) for module in body.modules()):
            if weights == DEFAULT:
                raise TeacherError(f"the weights of {spec} were trained with batch norm: set norm to frozen or batch")
            _replace_batch_norm(body, _grouped)
        channels = _channels(body.eval(), levels)
        if file:
            whole = whole_network(spec)
            load_weights(body, published_names(body, whole), file, whole)
        if norm == "frozen":
            _replace_batch_norm(body, _frozen)
        if freeze is not None:
            _freeze(body, levels, freeze)
        return body.train(), channels
    except (RuntimeError, ValueError, TypeError, AssertionError, OSError, LookupError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise TeacherError(f"backbone {spec} with levels {list(levels)} cannot be made: {reason}") from error


def _body(spec: str, levels: Sequence[int], *, published: bool) -> nn.Module:
    """The network with random or published weights."""
    family, _, name = spec.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9_.-]*", name):  # timm takes addresses and folders, too: those may lead anywhere
        raise TeacherError(f"backbone {brief(repr(spec))} is no name: write timm:NAME or torchvision:NAME")
    try:
        match family:
            case "timm" if name:
                return _timm(name, levels, published)
            case "torchvision" if name:
                return _torchvision(name, levels, published)
            case _:
                raise TeacherError(f"unknown backbone {spec!r}: write timm:NAME or torchvision:NAME")
    except OSError as error:
        if not published:
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        raise TeacherError(
            f"the published weights of {spec} cannot be fetched ({reason}): fetch {_address(family, name)} where there "
            "is a network, and set pretrained to that file"
        ) from error


def _address(family: str, name: str) -> str:
    """What to fetch to have a network's published weights as a file."""
    if family == "torchvision":
        return f"{get_model_weights(name).DEFAULT.url}"
    import timm

    config = timm.get_pretrained_cfg(name)
    return f"model.safetensors of {config.hf_hub_id} on the Hub" if config and config.hf_hub_id else "its file"


def published_names(body: nn.Module, whole: nn.Module) -> dict[str, str]:
    """Of a backbone's weights that its maps depend on: name in its state dict -> name in that of the whole network, as
    timm and torchvision publish it. Group norm put in the place of batch norm keeps the place's name."""
    places = {place.replace(".", "_"): place for place, _ in whole.named_modules() if place}
    untrained = {
        place
        for place, module in body.named_modules()
        if (parameters := list(module.parameters(recurse=False)))
        and not any(parameter.requires_grad for parameter in parameters)
    }
    keys = [key for key in body.state_dict() if key.rpartition(".")[0] not in untrained]
    return {key: _published_name(key, body, places) for key in keys}


def _published_name(key: str, body: nn.Module, places: Mapping[str, str]) -> str:
    if isinstance(body, _Stages):
        _, number, rest = key.split(".", 2)
        return f"{body.names[int(number)]}.{rest}"
    parts = key.removeprefix("model.").split(".")  # timm wraps some networks whole, others with `_` in place of a dot
    for end in range(len(parts), 0, -1):
        if place := places.get("_".join(parts[:end])):
            return ".".join([place, *parts[end:]])
    return ".".join(parts)


def whole_network(spec: str) -> nn.Module:
    """The network a backbone is a part of; of its weights only names and shapes mean something."""
    family, _, name = spec.partition(":")
    if family == "torchvision":
        with torch.random.fork_rng(devices=[]):  # some cannot be made without memory
            return get_model(name, weights=None)
    import timm

    with torch.device("meta"):
        return timm.create_model(name)


def published_normalisation(spec: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std that the published weights of a timm network expect; None where unknown."""
    family, _, name = spec.partition(":")
    if family != "timm":
        return None
    import timm

    config = timm.get_pretrained_cfg(name)
    return (tuple(config.mean), tuple(config.std)) if config else None


def replace_batch_norm(head: nn.Module) -> None:
    """Put group norm in the place of every batch norm of a head, in place."""
    _replace_batch_norm(head, _grouped)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of up to 32 groups (the paper's number) of at least 4 channels."""
    return nn.GroupNorm(math.gcd(32, max(1, channels // 4), channels), channels)


def _timm(name: str, levels: Sequence[int], published: bool) -> nn.Module:
    import timm

    strides = timm.create_model(name, features_only=True).feature_info.reduction()  # type: ignore[union-attr,operator]
    last = {stride: index for index, stride in enumerate(strides)}  # the deepest of several maps of one stride
    indices = [last[stride] for stride in _held(strides, levels)]
    return timm.create_model(name, features_only=True, out_indices=indices, pretrained=published)


def _torchvision(name: str, levels: Sequence[int], published: bool) -> nn.Module:
    model = get_model(name, weights=DEFAULT if published else None)
    if hasattr(model, "layer4"):
        names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    elif hasattr(model, "trunk_output"):
        names = ["stem", *(f"trunk_output.{name}" for name, _ in model.trunk_output.named_children())]
    elif hasattr(model, "features"):
        names = [f"features.{name}" for name, _ in model.features.named_children()]
    else:
        raise ValueError("torchvision's network has no stages to take maps from; timm: may have it")
    return _Stages(model, names, levels)


class _Stages(nn.Module):
    """Modules of a network, in a row, cut after the last one needed; the last output of each wanted stride is a feature
    map."""

    def __init__(self, model: nn.Module, names: Sequence[str], levels: Sequence[int]) -> None:
        super().__init__()
        stages = [model.get_submodule(name) for name in names]
        x, last = torch.zeros(1, 3, PROBE, PROBE), {}
        for index, stage in enumerate(stages):
            with torch.no_grad():
                x = stage.eval()(x)
            if PROBE % x.shape[-1] == 0:
                last[PROBE // x.shape[-1]] = index
        self.taps = [last[stride] for stride in _held(sorted(last), levels)]
        self.names = list(names)
        self.stages = nn.ModuleList(stages[: self.taps[-1] + 1])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.taps:
                maps.append(x)
        return maps


def _held(strides: Sequence[int], levels: Sequence[int]) -> list[int]:
    """The levels that a network with maps of these strides has itself: a prefix of `levels`."""
    held = [level for level in levels if level in strides]
    if not held or held != list(levels[: len(held)]):
        raise ValueError(f"its maps have strides {sorted(set(strides))}")
    return held


def _channels(body: nn.Module, levels: Sequence[int]) -> list[int]:
    """Channels of each map. Freezes what no map depends on: timm keeps some networks' later stages, and distributed
    training waits for a gradient of every parameter that wants one."""
    with torch.enable_grad():
        maps = body(torch.zeros(1, 3, PROBE, PROBE))
        total = sum(features.sum() for features in maps)
    for features, stride in zip(maps, levels, strict=False):
        if features.ndim != 4 or features.shape[-2:] != (PROBE // stride, PROBE // stride):
            shape = tuple(features.shape)
            raise ValueError(f"its map of stride {stride} has the shape {shape} for a {PROBE}-pixel image")
    trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    return [features.shape[1] for features in maps]


def _freeze(body: nn.Module, levels: Sequence[int], stride: int) -> None:
    """Fix all parameters that the map of this stride depends on, and the statistics of batch norm among them."""
    with torch.enable_grad():
        maps = body(torch.zeros(1, 3, PROBE, PROBE))
        if levels.index(stride) >= len(maps):
            held = [int(level) for level in levels[: len(maps)]]
            raise TeacherError(f"network freeze {stride} is no map of the backbone itself: choose one of {held}")
        trained = [parameter for parameter in body.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(maps[levels.index(stride)].sum(), trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is None)
    _replace_batch_norm(body, _frozen, lambda norm: norm.affine and not norm.weight.requires_grad)


def _replace_batch_norm(
    module: nn.Module,
    replacement: Callable[[nn.BatchNorm2d], nn.Module],
    chosen: Callable[[nn.BatchNorm2d], bool] = lambda norm: True,
) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d) and chosen(child):
            setattr(module, name, _with_activation(child, replacement(child)))
        else:
            _replace_batch_norm(child, replacement, chosen)


def _with_activation(batch_norm: nn.BatchNorm2d, norm: nn.Module) -> nn.Module:
    """timm's batch norm may hold the activation that follows: keep it."""
    after = OrderedDict((name, child) for name, child in batch_norm.named_children() if name in ("drop", "act"))
    return nn.Sequential(OrderedDict(norm=norm, **after)) if after else norm


def _grouped(batch_norm: nn.BatchNorm2d) -> nn.Module:
    norm = group_norm(batch_norm.num_features)
    if batch_norm.affine:  # some networks start the last norm of a block at 0
        norm.load_state_dict({"weight": batch_norm.weight, "bias": batch_norm.bias})
    return norm


def _frozen(batch_norm: nn.BatchNorm2d) -> nn.Module:
    norm = FrozenBatchNorm2d(batch_norm.num_features, eps=batch_norm.eps)
    norm.load_state_dict(batch_norm.state_dict(), strict=batch_norm.affine)
    return norm

"""Which network: its options, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from teachers.base import Kind, TeacherError
from teachers.errors import brief
from teachers.networks.backbones import DEFAULT, group_norm, published_normalisation
from teachers.networks.weights import meta_beside

Arch = Literal["fcos", "retinanet", "maskrcnn", "fpn", "deeplabv3", "linear"]
RATIOS = (0.5, 1.0, 2.0)
LARGEST = {"size": 4096, "channels": 4096, "head_depth": 32}
"""Beyond these a network takes more memory than there is, or is never built."""
COARSEST = 1024
"""Stride of a level, pixels."""


@dataclass(frozen=True)
class NetworkConfig:
    """All that decides a network's architecture and pre-processing. The defaults suit ordinary photographs on a GPU.

    arch: what the network predicts, and how: `fcos` or `retinanet` boxes, `maskrcnn` instances, `fpn` or `deeplabv3`
    maps, `linear` the class of an image; None for a recipe that leaves the choice to the kind of its labels.
    backbone: `timm:NAME` (any with feature maps) or `torchvision:NAME` (its convolutional classifiers).
    classes: names in the order of the outputs. size: the longer side of an image as the network sees it, pixels, for
    training and inference alike; the rest of the size x size square is padding at the bottom and right.
    channels, head_depth: width of pyramid and heads, convolutions in each head. levels: strides of the feature maps,
    each twice the one before; those beyond the backbone's last are strided convolutions on top of it (P6, P7). The
    archs without a pyramid (`deeplabv3`, `linear`) use the backbone up to its last stride in levels.
    norm: `group` works with any batch and from random weights; `batch` needs some 16 images on each GPU; `frozen` keeps
    the backbone's batch norm as pre-trained. Pyramid and heads use batch norm under `batch`, else group norm.
    freeze: a stride: what leads to the backbone's map of it, norm statistics too, stays as pre-trained, and costs no
    gradients; None to train all of it.
    mean, std: of RGB in [0, 1]. pretrained: a file with the backbone's weights (safetensors, pth; published, or of
    `tutelage pretrain`), or `DEFAULT`, the weights that timm or torchvision publish (fetched, unless they are in its
    cache); none for random weights. timm's tags name which: `timm:tf_efficientnet_b7.ns_jft_in1k` is Noisy Student.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    arch: Arch | None = None
    backbone: str = "timm:resnet18"
    classes: tuple[str, ...] = ()
    size: Annotated[int, Field(ge=1, le=LARGEST["size"])] = 640
    channels: Annotated[int, Field(ge=1, le=LARGEST["channels"])] = 256
    head_depth: Annotated[int, Field(ge=1, le=LARGEST["head_depth"])] = 4
    levels: tuple[int, ...] = (8, 16, 32, 64, 128)
    norm: Literal["group", "batch", "frozen"] = "group"
    freeze: int | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    pretrained: str | None = None


def as_json(config: NetworkConfig) -> dict[str, Any]:
    """A config as it is stored: without `freeze` where it says nothing, as before there was one."""
    stored = asdict(config)
    if config.freeze is None:
        del stored["freeze"]
    return stored


def kind_of(arch: Arch) -> Kind:
    """The kind of prediction a network makes."""
    match arch:
        case "fcos" | "retinanet":
            return "detection"
        case "maskrcnn":
            return "instance"
        case "fpn" | "deeplabv3":
            return "semantic"
        case "linear":
            return "classification"


def norm_of(config: NetworkConfig) -> Callable[[int], nn.Module]:
    """The norm of pyramid and heads."""
    return nn.BatchNorm2d if config.norm == "batch" else group_norm


def check_options(config: NetworkConfig, pretrained: bool) -> None:
    levels = config.levels
    if not config.classes:
        raise TeacherError("the network has no classes: name at least one")
    if not levels or min(levels) < 1 or any(after != 2 * stride for stride, after in pairwise(levels)):
        raise TeacherError(f"network levels {brief(list(levels))} must be strides that double, such as [8, 16, 32]")
    if min(config.std) <= 0:
        raise TeacherError(f"network std {list(config.std)} must be above 0: pixels are divided by it")
    if max(levels) > COARSEST:
        raise TeacherError(f"network levels {brief(list(levels))} must end at a stride of {COARSEST}, or before")
    for name, most in LARGEST.items():
        if not 1 <= getattr(config, name) <= most:
            raise TeacherError(f"network {name} {brief(getattr(config, name))} must lie between 1 and {most}")
    if len(set(config.classes)) < len(config.classes) or not all(name.strip() for name in config.classes):
        raise TeacherError("the network has two classes of one name, or one without: give each its own")
    if pretrained and config.norm == "frozen" and config.pretrained is None:
        raise TeacherError("network norm frozen keeps pre-trained statistics: set pretrained, or norm: group")
    if config.freeze is not None and config.freeze not in levels:
        raise TeacherError(
            f"network freeze {config.freeze} must be one of the strides in levels {brief(list(levels))}, or left out"
        )
    if pretrained and config.freeze is not None and config.pretrained is None:
        raise TeacherError(
            f"network freeze {config.freeze} keeps pre-trained weights: set pretrained, or remove freeze"
        )
    if pretrained:
        check_normalisation(config)


def check_normalisation(config: NetworkConfig) -> None:
    """Raises TeacherError where a network's pre-trained weights expect another mean and std than it says."""
    if config.pretrained is not None:
        expected = _expected_normalisation(config.backbone, config.pretrained)
        if expected not in (None, (config.mean, config.std)):
            weights = config.backbone if config.pretrained == DEFAULT else config.pretrained
            raise TeacherError(f"the weights of {weights} expect mean and std {expected}: set both in network")


def _expected_normalisation(backbone: str, weights: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std that weights were trained with: a file of our own says so, and a timm name with a tag
    (`tf_efficientnet_b0.ap_in1k`) says which published ones a file holds. None where unknown."""
    if weights != DEFAULT and (meta := meta_beside(Path(weights))):
        return tuple(meta.network.get("mean", ())), tuple(meta.network.get("std", ()))
    return published_normalisation(backbone) if weights == DEFAULT or "." in backbone else None

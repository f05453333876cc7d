"""The networks students train and checkpoints reload: which there are, and torchvision's FCOS and RetinaNet with FPN.

Those for the other kinds are in `teachers.heads` and `teachers.regions`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, cast, get_args

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from teachers.backbones import DEFAULT, group_norm, make_backbone, published_normalisation
from teachers.base import Kind, TeacherError
from teachers.weights import meta_beside

Arch = Literal["fcos", "retinanet", "maskrcnn", "fpn", "deeplabv3", "linear"]
Detector: TypeAlias = FCOS | RetinaNet
WEIGHTS, META = "model.safetensors", "meta.json"
FORMAT = 1
RATIOS = (0.5, 1.0, 2.0)


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
    mean, std: of RGB in [0, 1]. pretrained: a file with the backbone's weights (safetensors, pth; published, or of
    `tutelage pretrain`), or `DEFAULT`, the weights that timm or torchvision publish (fetched, unless they are in its
    cache); none for random weights. timm's tags name which: `timm:tf_efficientnet_b7.ns_jft_in1k` is Noisy Student.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}

    arch: Arch | None = None
    backbone: str = "timm:resnet18"
    classes: tuple[str, ...] = ()
    size: int = 640
    channels: int = 256
    head_depth: int = 4
    levels: tuple[int, ...] = (8, 16, 32, 64, 128)
    norm: Literal["group", "batch", "frozen"] = "group"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    pretrained: str | None = None


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


def build_network(config: NetworkConfig, *, pretrained: bool = True) -> nn.Module:
    """A network with random heads; its backbone has the weights `config.pretrained` unless `pretrained` is False (for
    a caller that loads all weights itself).

    In evaluation it takes a list of RGB images, (3, H, W), uint8 or float in [0, 1], of any sizes; what it gives is for
    boxes torchvision's list of boxes (`xyxy`, pixels of each image), scores and labels, for the others see Classifier,
    Segmenter and mask_rcnn. An image's result does not depend on the others. Raises TeacherError for a config that
    makes no network or weights that do not fit.
    """
    _check(config, pretrained)
    weights = config.pretrained if pretrained else None
    match config.arch:
        case "fcos" | "retinanet":
            return _detector(config, weights)
        case "maskrcnn":
            from teachers.regions import mask_rcnn

            return mask_rcnn(config, weights)
        case "fpn":
            from teachers.heads import fpn_segmenter

            return fpn_segmenter(config, weights)
        case "deeplabv3":
            from teachers.heads import deeplab_segmenter

            return deeplab_segmenter(config, weights)
        case "linear":
            from teachers.heads import Classifier

            return Classifier(config, weights)
        case _:
            raise TeacherError(f"unknown network arch {config.arch!r}: write one of {', '.join(get_args(Arch))}")


def _detector(config: NetworkConfig, weights: str | None) -> Detector:
    backbone = Pyramid(*make_backbone(config.backbone, config.levels, weights, config.norm), config)
    count = len(config.classes)
    network: Detector
    if config.arch == "fcos":
        points = Float32Anchors(tuple((stride,) for stride in config.levels), ((1.0,),) * len(config.levels))
        network = FCOS(backbone, count, anchor_generator=points, head=_FcosHead(config))
    else:
        # RetinaNet's octave scales at 4 strides, as published for strides 8 to 128; at other strides an assumption
        sizes = tuple(tuple(int(4 * stride * 2 ** (i / 3)) for i in range(3)) for stride in config.levels)
        anchors = Float32Anchors(sizes, (RATIOS,) * len(sizes))
        network = RetinaNet(backbone, count, anchor_generator=anchors, head=_RetinaNetHead(config))
    network.transform = SquareTransform(config)
    return network


class SquareTransform(GeneralizedRCNNTransform):
    """torchvision's transform, but with the pixels a student was trained on: the longer side becomes `size` (larger or
    smaller, antialiased), the rest of a square is padding of the mean colour, whatever else is in the batch."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config.size, config.size, list(config.mean), list(config.std), max(config.levels))
        self.size = config.size

    def normalize(self, image: Tensor) -> Tensor:
        """RGB (..., 3, H, W), uint8 or float in [0, 1], in units of `std` around `mean`."""
        return super().normalize(image if image.is_floating_point() else image.float() / 255)

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        scale = self.size / max(image.shape[-2:])
        size = [max(1, math.floor(side * scale + 0.5)) for side in image.shape[-2:]]
        if size == list(image.shape[-2:]):
            return image, target
        return functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0], target

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        return torch.stack([self.pad(image) for image in images])

    def pad(self, images: Tensor) -> Tensor:
        """Normalised (..., H, W) as a square of a side that all strides divide."""
        side = math.ceil(self.size / self.size_divisible) * self.size_divisible
        height, width = images.shape[-2:]
        return functional.pad(images, (0, side - width, 0, side - height))


class Float32Anchors(AnchorGenerator):
    """torchvision's anchors, in float32 also under autocast: bfloat16 cannot tell pixel 600 from 602."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        return super().forward(image_list, [features[:1, :1].float() for features in feature_maps])


class Pyramid(nn.Module):
    """Backbone and FPN: (B, 3, S, S) to one (B, channels, S / stride, S / stride) per level, finest first."""

    def __init__(self, body: nn.Module, channels: Sequence[int], config: NetworkConfig) -> None:
        super().__init__()
        self.body = body
        above = len(config.levels) - len(channels)
        top = _TopLevels(above, config.channels) if above else None
        self.fpn = FeaturePyramidNetwork(list(channels), config.channels, top, norm_of(config))
        self.out_channels = config.channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict((str(i), features) for i, features in enumerate(self.body(x))))


class _TopLevels(ExtraFPNBlock):
    """Strided convolutions above the pyramid, as torchvision's LastLevelP6P7 but of any number."""

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(count)]
        for conv in convs:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(cast(Tensor, conv.bias))
        self.convs = nn.ModuleList(convs)

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        for i, conv in enumerate(self.convs):
            results.append(conv(functional.relu(results[-1]) if i else results[-1]))
            names.append(f"top{i}")
        return results, names


class _FcosHead(FCOSHead):
    """FCOS's head with a choice of depth and norm; float32 outputs, since autocast's would round box edges."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config.channels, 1, len(config.classes), num_convs=0)
        self.classification_head.conv = _tower(config)
        self.regression_head.conv = _tower(config)
        # the paper's exp() starts every side at one stride; torchvision's ReLU starts dead for half of them
        nn.init.ones_(self.regression_head.bbox_reg.bias)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {name: output.float() for name, output in super().forward(x).items()}


class _RetinaNetHead(RetinaNetHead):
    """RetinaNet's head with a choice of depth and norm; float32 outputs."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config.channels, 3 * len(RATIOS), len(config.classes))
        self.classification_head.conv = _tower(config)
        self.regression_head.conv = _tower(config)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {name: output.float() for name, output in super().forward(x).items()}


def _tower(config: NetworkConfig) -> nn.Sequential:
    width = config.channels
    blocks = [Conv2dNormActivation(width, width, norm_layer=norm_of(config)) for _ in range(config.head_depth)]
    for block in blocks:
        nn.init.normal_(block[0].weight, std=0.01)  # as in both papers
    return nn.Sequential(*blocks)


def norm_of(config: NetworkConfig) -> Callable[[int], nn.Module]:
    """The norm of pyramid and heads."""
    return nn.BatchNorm2d if config.norm == "batch" else group_norm


def _check(config: NetworkConfig, pretrained: bool) -> None:
    levels = config.levels
    if not config.classes:
        raise TeacherError("the network has no classes: name at least one")
    if not levels or min(levels) < 1 or any(after != 2 * stride for stride, after in pairwise(levels)):
        raise TeacherError(f"network levels {list(levels)} must be strides that double, such as [8, 16, 32]")
    if min(config.std) <= 0:
        raise TeacherError(f"network std {list(config.std)} must be above 0: pixels are divided by it")
    for name in ("size", "channels", "head_depth"):
        if getattr(config, name) < 1:
            raise TeacherError(f"network {name} {getattr(config, name)} must be at least 1")
    if pretrained and config.norm == "frozen" and config.pretrained is None:
        raise TeacherError("network norm frozen keeps pre-trained statistics: set pretrained, or norm: group")
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
        return tuple(meta["network"]["mean"]), tuple(meta["network"]["std"])
    return published_normalisation(backbone) if weights == DEFAULT or "." in backbone else None


def save_checkpoint(folder: Path, network: nn.Module, config: NetworkConfig, meta: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, then `meta.json`: `meta` with the network's config and the SHA-256 of the weights, so
    that a reader sees whether the two belong together. Each file appears whole, synced, or not at all."""
    weights = save_tensors({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    described = {
        "format": FORMAT,
        **meta,
        "classes": config.classes,
        "network": asdict(config),
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)},
    }
    _write(folder / WEIGHTS, weights)
    _write(folder / META, json.dumps(described, indent=1, ensure_ascii=False).encode() + b"\n")


def read_meta(folder: Path) -> dict[str, Any]:
    """What `meta.json` of a run says. Raises TeacherError, in one sentence, if there is none to read."""
    try:
        meta = json.loads((folder / META).read_bytes())
    except FileNotFoundError:
        raise TeacherError(f"{folder} has no {META}: it is no run, or it has not reached its first save") from None
    except (OSError, ValueError) as error:
        raise TeacherError(f"{folder / META} cannot be read ({error}): train again") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise TeacherError(f"{folder / META} is not of format {FORMAT}: it was written by another version or program")
    return meta


def load_checkpoint(folder: Path) -> tuple[nn.Module, NetworkConfig, dict[str, Any]]:
    """The trained network of a run, in evaluation mode, its config and its `meta.json`. Raises TeacherError."""
    meta = read_meta(folder)
    if meta["weights"]["file"] != WEIGHTS:
        backbone = folder / meta["weights"]["file"]
        raise TeacherError(f"{folder} holds a backbone and no trained network: write network.pretrained: {backbone}")
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise TeacherError(f"{folder / WEIGHTS} cannot be read ({error.strerror}): train again") from None
    if hashlib.sha256(weights).hexdigest() != meta["weights"]["sha256"]:
        raise TeacherError(f"{folder / WEIGHTS} is not what {META} describes: run the training again to finish saving")
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["network"].items()}
    config = NetworkConfig(**options)
    network = build_network(config, pretrained=False)
    network.load_state_dict(load_tensors(weights))
    return network.eval(), config, meta


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the new name durable
    finally:
        os.close(folder)

"""Parts that detectors are built of."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from teachers.networks.config import NetworkConfig, norm_of


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


def tower(config: NetworkConfig) -> nn.Sequential:
    width = config.channels
    blocks = [Conv2dNormActivation(width, width, norm_layer=norm_of(config)) for _ in range(config.head_depth)]
    for block in blocks:
        nn.init.normal_(block[0].weight, std=0.01)  # as in both papers
    return nn.Sequential(*blocks)

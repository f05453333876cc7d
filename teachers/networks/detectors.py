"""FCOS and RetinaNet with shallow heads, as small or as large as the options say."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from teachers.networks.backbones import make_backbone
from teachers.networks.config import RATIOS, NetworkConfig
from teachers.networks.parts import Float32Anchors, Pyramid, SquareTransform, tower

Detector: TypeAlias = FCOS | RetinaNet


def build_detector(config: NetworkConfig, weights: str | None) -> Detector:
    backbone = Pyramid(*make_backbone(config.backbone, config.levels, weights, config.norm, config.freeze), config)
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


class _FcosHead(FCOSHead):
    """FCOS's head with a choice of depth and norm; float32 outputs, since autocast's would round box edges."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config.channels, 1, len(config.classes), num_convs=0)
        self.classification_head.conv = tower(config)
        self.regression_head.conv = tower(config)
        # the paper's exp() starts every side at one stride; torchvision's ReLU starts dead for half of them
        nn.init.ones_(self.regression_head.bbox_reg.bias)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {name: output.float() for name, output in super().forward(x).items()}


class _RetinaNetHead(RetinaNetHead):
    """RetinaNet's head with a choice of depth and norm; float32 outputs."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config.channels, 3 * len(RATIOS), len(config.classes))
        self.classification_head.conv = tower(config)
        self.regression_head.conv = tower(config)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        return {name: output.float() for name, output in super().forward(x).items()}

"""Torchvision's Mask R-CNN on any backbone: boxes with a mask of 28 x 28 pixels each."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from teachers.networks.backbones import make_backbone
from teachers.networks.config import RATIOS, NetworkConfig
from teachers.networks.parts import Float32Anchors, Pyramid, SquareTransform

COARSEST = 32
"""Largest stride of a map from which regions are cut (P5); those above it only propose them, as in the FPN paper."""


def mask_rcnn(config: NetworkConfig, weights: str | None) -> MaskRCNN:
    """Mask R-CNN (arXiv 1703.06870) with FPN; heads as wide as `channels` says (torchvision's for 256).

    Anchors: one size of 8 strides per level, three shapes. Labels of targets and outputs count from 1, 0 is background.
    In evaluation its masks, float32 (N, 1, 28, 28), are those of each box, not pasted into the image.
    """
    backbone = Pyramid(*make_backbone(config.backbone, config.levels, weights, config.norm, config.freeze), config)
    width, count = config.channels, len(config.classes) + 1
    network = MaskRCNN(
        backbone,
        rpn_anchor_generator=Float32Anchors(
            tuple((8 * stride,) for stride in config.levels), (RATIOS,) * len(config.levels)
        ),
        rpn_head=_RegionHead(width, len(RATIOS)),
        box_roi_pool=_pool(config, 7),
        box_head=TwoMLPHead(width * 7**2, 4 * width),
        box_predictor=_BoxPredictor(4 * width, count),
        mask_roi_pool=_pool(config, 14),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, count),
    )
    network.transform = _MasksOfBoxes(config)
    return network


def _pool(config: NetworkConfig, side: int) -> MultiScaleRoIAlign:
    """RoIAlign with the scales of the levels. torchvision would guess them from the first batch, wrongly where images
    fill only a part of their square."""
    used = [stride for stride in config.levels if stride <= COARSEST] or config.levels[:1]
    pool = MultiScaleRoIAlign([str(place) for place in range(len(used))], side, sampling_ratio=2)
    pool.scales = [1 / stride for stride in used]
    pool.map_levels = initLevelMapper(int(math.log2(used[0])), int(math.log2(used[-1])))
    return pool


class _MasksOfBoxes(SquareTransform):
    """Leaves masks as they are: pasted, a hundred of them may not fit in memory."""

    def postprocess(self, result: list[dict[str, Tensor]], image_shapes: Any, original_image_sizes: Any) -> Any:
        if self.training:
            return result
        masks = [detections.pop("masks") for detections in result]
        result = super().postprocess(result, image_shapes, original_image_sizes)
        return [detections | {"masks": mask} for detections, mask in zip(result, masks, strict=True)]


class _RegionHead(RPNHead):
    """Float32 outputs, since autocast's would round box edges."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        objectness, deltas = super().forward(x)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class _BoxPredictor(FastRCNNPredictor):
    """Float32 outputs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()

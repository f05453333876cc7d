"""How sure a two-stage detector is of a box: it refines jittered copies of it (Soft Teacher, arXiv 2106.09018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads

SPREAD = 0.06
"""Standard deviation of a jitter, in shares of the box's width and height (Soft Teacher's value)."""
SEED = 0


def add_box_uncertainty(heads: RoIHeads, jitters: int) -> None:
    """From now on these heads (of Faster, Mask or Keypoint R-CNN, in eval mode) put `uncertainty`, float32 (N,), beside
    the boxes, scores and labels of each image, and torchvision's `postprocess` hands it on. It raises the time of the
    second stage about `jitters` x objects / proposals."""

    def hook(module: RoIHeads, inputs: Sequence[Any], output: tuple[list[dict[str, Tensor]], Any]) -> None:
        if not module.training:
            features, _, sizes, *_ = inputs
            for number, (result, size) in enumerate(zip(output[0], sizes, strict=True)):
                maps = {name: level[number : number + 1] for name, level in features.items()}
                result["uncertainty"] = box_uncertainty(module, maps, size, result["boxes"], result["labels"], jitters)

    heads.register_forward_hook(hook)


def box_uncertainty(
    heads: RoIHeads,
    features: Mapping[str, Tensor],
    size: tuple[int, int],
    boxes: Tensor,
    labels: Tensor,
    jitters: int,
) -> Tensor:
    """How far the refined boxes of each box's jitters lie apart, in shares of its size: float32 (N,).

    features: (1, C, h, w) by level, of one image; size: (height, width) of that image as the network saw it, pixels;
    boxes: (N, 4), in those pixels; labels: (N,), outputs of the network. Each of `jitters` (2 or more) copies of a box
    has its four coordinates moved by N(0, 1) x SPREAD x width (x1, x2) or height (y1, y2), is refined by the heads for
    the box's label and clipped to the image. The result is the mean over the four coordinates of their standard
    deviation (of a sample) / the mean refined box's width or height, at least 1 pixel: Soft Teacher's
    `compute_uncertainty_with_aug`. Its students keep a box for regression below 0.02.

    The random numbers are the same for every box, so that a result depends on nothing but the box and the image.
    """
    count = len(boxes)
    if not count:
        return boxes.new_zeros(0, dtype=torch.float32)
    noise = torch.from_numpy(np.random.default_rng(SEED).normal(0, SPREAD, (jitters, 1, 4))).to(boxes)
    moved = (boxes + noise * _sides(boxes)).reshape(-1, 4)  # (jitters x N, 4)
    pooled = heads.box_roi_pool(dict(features), [moved], [size])
    _, regression = heads.box_predictor(heads.box_head(pooled))
    decoded = heads.box_coder.decode(regression.float(), [moved])  # (jitters x N, outputs, 4)
    refined = decoded[torch.arange(len(moved), device=boxes.device), labels.repeat(jitters)]
    height, width = size
    refined = refined.clamp(min=0).minimum(refined.new_tensor([width, height, width, height]))
    refined = refined.reshape(jitters, count, 4)
    return (refined.std(dim=0) / _sides(refined.mean(dim=0))).mean(dim=1).float()


def _sides(boxes: Tensor) -> Tensor:
    """Width, height, width, height of boxes (N, 4), each at least 1 pixel."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).repeat(1, 2)

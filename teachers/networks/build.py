"""The networks that students train and checkpoints reload, by their arch."""

from __future__ import annotations

from typing import get_args

from torch import nn

from teachers.base import TeacherError
from teachers.networks.config import Arch, NetworkConfig, check_options
from teachers.networks.detectors import build_detector
from teachers.networks.heads import Classifier, deeplab_segmenter, fpn_segmenter
from teachers.networks.regions import mask_rcnn


def build_network(config: NetworkConfig, *, pretrained: bool = True) -> nn.Module:
    """A network with random heads; its backbone has the weights `config.pretrained` unless `pretrained` is False (for
    a caller that loads all weights itself).

    In evaluation it takes a list of RGB images, (3, H, W), uint8 or float in [0, 1], of any sizes; what it gives is for
    boxes torchvision's list of boxes (`xyxy`, pixels of each image), scores and labels, for the others see Classifier,
    Segmenter and mask_rcnn. An image's result does not depend on the others. Raises TeacherError for a config that
    makes no network or weights that do not fit.
    """
    check_options(config, pretrained)
    weights = config.pretrained if pretrained else None
    match config.arch:
        case "fcos" | "retinanet":
            return build_detector(config, weights)
        case "maskrcnn":
            return mask_rcnn(config, weights)
        case "fpn":
            return fpn_segmenter(config, weights)
        case "deeplabv3":
            return deeplab_segmenter(config, weights)
        case "linear":
            return Classifier(config, weights)
        case _:
            raise TeacherError(f"unknown network arch {config.arch!r}: write one of {', '.join(get_args(Arch))}")

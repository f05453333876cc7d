"""Networks that name images or pixels: a linear classifier, a light FPN segmenter and DeepLabV3, on any backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.ops import Conv2dNormActivation

from teachers.networks.backbones import make_backbone, replace_batch_norm
from teachers.networks.config import NetworkConfig, norm_of
from teachers.networks.parts import Pyramid, SquareTransform


class Classifier(nn.Module):
    """The mean of a backbone's coarsest map, and a linear layer.

    In evaluation it maps RGB images, (3, H, W), uint8 or float in [0, 1], of any sizes to probabilities, float32
    (B, C), that sum to 1.
    """

    def __init__(self, config: NetworkConfig, weights: str | None) -> None:
        super().__init__()
        self.body, channels = make_backbone(config.backbone, config.levels, weights, config.norm, config.freeze)
        self.head = nn.Linear(channels[-1], len(config.classes))
        self.transform = SquareTransform(config)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) as training has them to float32 (B, C)."""
        maps = self.body(self.transform.pad(self.transform.normalize(images)))
        scores: Tensor = self.head(maps[-1].mean((2, 3))).float()
        return scores

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        pixels, _ = self.transform(list(images))
        scores: Tensor = self.head(self.body(pixels.tensors)[-1].mean((2, 3))).float()
        return scores.softmax(1)


class Segmenter(nn.Module):
    """A pyramid or the backbone's coarsest map, and a head that gives a score per class and cell.

    In evaluation it maps RGB images, (3, H, W), uint8 or float in [0, 1], of any sizes to one float32 (C, H, W) of
    probabilities each, that sum to 1 in every pixel; one is in memory at a time.
    """

    def __init__(self, config: NetworkConfig, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head, self.transform = body, head, SquareTransform(config)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) as training has them to float32 (B, C, S, S)."""
        height, width = images.shape[-2:]
        pixels = self.transform.pad(self.transform.normalize(images))
        return _enlarged(self.head(self.body(pixels)), pixels)[..., :height, :width]

    def forward(self, images: Sequence[Tensor]) -> Iterator[Tensor]:
        sizes = [image.shape[-2:] for image in images]
        pixels, _ = self.transform(list(images))
        scores = self.head(self.body(pixels.tensors))
        for number, (height, width) in enumerate(pixels.image_sizes):
            shown = _enlarged(scores[number, None], pixels.tensors)[..., :height, :width].softmax(1)
            yield functional.interpolate(shown, sizes[number], mode="bilinear")[0]


def fpn_segmenter(config: NetworkConfig, weights: str | None) -> Segmenter:
    """A light version of the semantic branch of Panoptic FPN (arXiv 1901.02446): every level of the pyramid, after one
    convolution, is enlarged to the finest and added; `head_depth` - 1 convolutions and a linear one follow."""
    pyramid = Pyramid(*make_backbone(config.backbone, config.levels, weights, config.norm, config.freeze), config)
    return Segmenter(config, pyramid, _FpnHead(config))


def deeplab_segmenter(config: NetworkConfig, weights: str | None) -> Segmenter:
    """torchvision's DeepLabV3 head (arXiv 1706.05587) on the coarsest of the backbone's maps in `levels`. It has 256
    channels whatever the config says; under `norm: group` or `frozen` group norm stands for its batch norm."""
    body, channels = make_backbone(config.backbone, config.levels, weights, config.norm, config.freeze)
    head = DeepLabHead(channels[-1], len(config.classes))
    if config.norm != "batch":
        replace_batch_norm(head)
    return Segmenter(config, body, nn.Sequential(_Coarsest(), head))


class _FpnHead(nn.Module):
    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width, norm = config.channels, norm_of(config)
        self.levels = nn.ModuleList([Conv2dNormActivation(width, width, norm_layer=norm) for _ in config.levels])
        shared = [Conv2dNormActivation(width, width, norm_layer=norm) for _ in range(config.head_depth - 1)]
        self.shared = nn.Sequential(*shared, nn.Conv2d(width, len(config.classes), 1))

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        finest, *coarser = (level(features) for level, features in zip(self.levels, maps.values(), strict=True))
        for features in coarser:
            finest = finest + functional.interpolate(features, finest.shape[-2:], mode="bilinear")
        scores: Tensor = self.shared(finest)
        return scores


class _Coarsest(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[-1]


def _enlarged(scores: Tensor, pixels: Tensor) -> Tensor:
    """Scores of cells as those of pixels; float32, since bfloat16 knows 256 steps between 0 and 1."""
    return functional.interpolate(scores.float(), pixels.shape[-2:], mode="bilinear")

"""The losses of torchvision's FCOS and RetinaNet, summed over each stream.

torchvision's own losses cannot serve: they normalise human and pseudo images together and know no ignore regions. With
human images only and nothing to ignore, FCOS's terms equal torchvision's, and RetinaNet's equal those of one image
(torchvision averages over images what is here normalised by the positives of the whole stream, as the paper says).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_area, box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from students.train.losses import StreamSums, by_stream, out_of
from teachers.networks.detectors import Detector


class Labels(Protocol):
    """What one image teaches (students.tasks.detection.Target): boxes float32 (N, 4) and ignore float32 (M, 4), `xyxy`
    pixels of the network's input, with a positive area; labels int64 (N,)."""

    @property
    def boxes(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def ignore(self) -> Tensor: ...


class Outputs(NamedTuple):
    """heads: torchvision's dictionary of float32 (B, N, …) outputs; anchors: float32 (N, 4) `xyxy` pixels, the same for
    every image; levels: how many of the N belong to each level, finest first."""

    heads: dict[str, Tensor]
    anchors: Tensor
    levels: list[int]


class DenseForward(nn.Module):
    """The network as training runs it: images, uint8 or float (B, 3, S, S), to what its heads say of every anchor.

    torchvision's forward would go on to its own losses; a module, so that distributed training can wrap it.
    """

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, targets: object = None) -> Outputs:
        """targets: not looked at, since these heads answer for every anchor."""
        network = self.network
        pixels = network.transform.pad(network.transform.normalize(images))
        features = list(network.backbone(pixels).values())
        heads = network.head(features)
        anchors = network.anchor_generator(ImageList(pixels, [pixels.shape[-2:]]), features)[0]
        cells = [level.shape[-2] * level.shape[-1] for level in features]
        return Outputs(heads, anchors, [count * (len(anchors) // sum(cells)) for count in cells])


class Assignment(NamedTuple):
    """Which box every anchor learns. matched: int64 (B, N), a position among the batch's boxes laid end to end, -1 for
    none; counted: bool (B, N), whether the anchor enters the classification loss; ignored: bool (B, N), whether it does
    not since an ignore region takes it out of the background."""

    matched: Tensor
    counted: Tensor
    ignored: Tensor


def assign(network: Detector, outputs: Outputs, targets: Sequence[Labels]) -> Assignment:
    """torchvision's matching, plus ignore regions: an anchor without a match that an ignore box may explain is not
    background. A match always stays. Image by image, since all pairs of a batch may not fit in memory."""
    anchors, rows, first = outputs.anchors, [], 0
    for target in targets:
        if isinstance(network, RetinaNet):
            matched, counted, ignored = _match_anchors(network, anchors, target)
        else:
            matched = _match_points(anchors, outputs.levels, target.boxes, network.center_sampling_radius)
            ignored = (matched < 0) & _points_inside(anchors, target.ignore)
            counted = ~ignored
        rows.append((torch.where(matched >= 0, matched + first, -1), counted, ignored))
        first += len(target.boxes)
    return Assignment(*(torch.stack(column) for column in zip(*rows, strict=True)))


def _match_points(anchors: Tensor, levels: Sequence[int], boxes: Tensor, radius: float) -> Tensor:
    """FCOS: for each point (N anchors, as wide as their stride) the smallest box (M, 4) that it is inside of, near the
    centre of and, by its farthest side, of the level's size for; int64 (N,), -1 for none."""
    if not len(boxes):
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    points, strides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
    smallest, largest = 4 * strides, 8 * strides
    smallest[: levels[0]], largest[-levels[-1] :] = 0, torch.inf
    offsets = torch.cat([points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]], dim=2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (points[:, None] - centres[None]).abs().amax(2) < radius * strides[:, None]
    farthest = offsets.amax(2)
    sized = (farthest > smallest[:, None]) & (farthest < largest[:, None])
    matches = near & sized & (offsets.amin(2) > 0)
    area, box = torch.where(matches, box_area(boxes)[None], torch.inf).min(1)
    return torch.where(area.isfinite(), box, -1)


def _points_inside(anchors: Tensor, regions: Tensor) -> Tensor:
    """FCOS: whether each point lies inside any of the regions (M, 4); bool (N,)."""
    points = (anchors[:, None, :2] + anchors[:, None, 2:]) / 2
    return ((points > regions[:, :2]) & (points < regions[:, 2:])).all(2).any(1)


def _match_anchors(network: RetinaNet, anchors: Tensor, target: Labels) -> tuple[Tensor, Tensor, Tensor]:
    """RetinaNet: torchvision's matcher (IoU .5 and .4, every box its best anchors); between the two thresholds nothing
    is learned. An ignore box takes out of the background what it would if it were true, and all anchors that lie in it
    by half (of a crowd's anchors most are small)."""
    background = network.proposal_matcher.BELOW_LOW_THRESHOLD
    matched = anchors.new_full((len(anchors),), background, dtype=torch.int64)
    if len(target.boxes):
        matched = network.proposal_matcher(box_iou(target.boxes, anchors))
    counted, ignored = (matched >= 0) | (matched == background), torch.zeros_like(matched, dtype=torch.bool)
    if len(target.ignore):
        explained = network.proposal_matcher(box_iou(target.ignore, anchors)) != background
        ignored = (matched == background) & (explained | half_inside(anchors, target.ignore))
    return matched.clamp(min=-1), counted & ~ignored, ignored


def half_inside(anchors: Tensor, regions: Tensor) -> Tensor:
    """Whether at least half of each anchor (N, 4) lies inside one of the regions (M, 4); bool (N,)."""
    iou = box_iou(regions, anchors)
    overlap = iou / (1 + iou) * (box_area(regions)[:, None] + box_area(anchors))
    return (overlap >= 0.5 * box_area(anchors)).any(0)


def detection_sums(network: Detector, outputs: Outputs, targets: Sequence[Labels], pseudo: Tensor) -> StreamSums:
    """The loss of a batch's heads on its targets. pseudo: bool (B,), which images have pseudo-labels.

    Focal loss over counted anchors; over positives GIoU and centerness (FCOS) or L1 of the encoded box (RetinaNet), as
    torchvision computes them.
    """
    matched, counted, ignored = assign(network, outputs, targets)
    image, anchor = torch.nonzero(matched >= 0, as_tuple=True)
    match = matched[image, anchor]
    boxes = torch.cat([target.boxes for target in targets])[match]
    labels = torch.cat([target.labels for target in targets])[match]
    learned = pseudo[image]

    logits = outputs.heads["cls_logits"]
    truth = torch.zeros_like(logits)
    truth[image, anchor, labels] = 1
    focal = sigmoid_focal_loss(logits, truth).sum(2).masked_fill(~counted, 0).sum(1)
    terms = {"classification": by_stream(focal, pseudo)}

    regression, places = outputs.heads["bbox_regression"][image, anchor], outputs.anchors[anchor]
    if isinstance(network, RetinaNet):
        wanted = network.box_coder.encode_single(boxes, places)
        terms["regression"] = by_stream(l1_loss(regression, wanted, reduction="none").sum(1), learned)
    else:
        terms["regression"] = by_stream(
            generalized_box_iou_loss(network.box_coder.decode(regression, places), boxes), learned
        )
        sides = network.box_coder.encode(places, boxes)
        shares = [pair.amin(1) / pair.amax(1) for pair in (sides[:, [0, 2]], sides[:, [1, 3]])]
        centerness = outputs.heads["bbox_ctrness"][image, anchor, 0]
        wanted = (shares[0] * shares[1]).sqrt()
        terms["centerness"] = by_stream(binary_cross_entropy_with_logits(centerness, wanted, reduction="none"), learned)
    left_out = out_of(ignored.sum(1).float(), ignored.shape[1], pseudo)
    return StreamSums(terms, by_stream(torch.ones_like(match, dtype=torch.float32), learned), ignored=left_out)

"""Learning to detect and outline: boxes with masks as targets of Mask R-CNN.

torchvision's own training forward cannot serve: it averages over human and pseudo images together and knows no ignore
regions. With human images only and nothing to ignore, every term equals torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, smooth_l1_loss
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from builder.report.paint import class_colour, outline_masks
from builder.truth.records import LabelledImage, TruthError
from students.augment.scene import Placement
from students.tasks.base import Drawing, Task
from students.tasks.dense import half_inside
from students.tasks.detection import NOTE, Boxes, draw_boxes, human_boxes, kept, pseudo_boxes, unknown_boxes
from students.train.losses import StreamSums, by_stream
from teachers.base import TeacherError
from teachers.images import ImageError
from teachers.masks import decode, encode, from_segmentation

TERMS = ("objectness", "proposals", "classification", "regression", "mask")
BETA = 1 / 9
"""Of the smooth L1 losses, as in torchvision."""


@dataclass(frozen=True)
class Outlined:
    """marks: the boxes; codes: COCO's compressed run-length code of each one's mask, of an image of height x width."""

    marks: Boxes
    codes: Sequence[bytes]
    height: int
    width: int


@dataclass(frozen=True)
class InstanceTarget:
    """What one image teaches: boxes, labels, ignore as students.tasks.detection.Target; masks: uint8 (N, S, S), 1
    inside."""

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    masks: Tensor


def human_outlines(image: LabelledImage, classes: int = 0) -> Outlined:
    """Raises TruthError for an image whose objects have no outlines."""
    if image.masks is None:
        raise TruthError(f"labelled image {image.path} has boxes without outlines: train arch fcos, or outline them")
    return Outlined(human_boxes(image), image.masks, image.height, image.width)


def pseudo_outlines(
    record: Mapping[str, Any], members: Sequence[bytes], positions: np.ndarray, classes: int = 0
) -> Outlined:
    """The `objects` of a label JSON with `segmentation`: the counts of every box's mask, as text, '' for none (only of
    an ignored one). Raises ImageError for a mask that is none."""
    height, width = record["height"], record["width"]
    marks = pseudo_boxes(record, members, positions)
    codes = [counts.encode() for counts in record["objects"]["segmentation"]]
    try:
        for counts in (code for code, ignored in zip(codes, marks.ignore, strict=True) if not ignored):
            from_segmentation({"size": [height, width], "counts": counts}, height, width)
    except TeacherError as error:
        raise ImageError(str(error)) from error
    return Outlined(marks, codes, height, width)


def unknown_outlines(height: int, width: int, classes: int) -> Outlined:
    """One region over the whole image, without an outline."""
    return Outlined(unknown_boxes(height, width, classes), [b""], height, width)


def placed(outlined: Outlined, placement: Placement) -> tuple[np.ndarray, ...]:
    """The arrays of an InstanceTarget; masks are laid one at a time."""
    boxes, good, seen = kept(outlined.marks, placement)
    masks = np.zeros((int(good.sum()), placement.size, placement.size), np.uint8)
    for place, row in enumerate(np.flatnonzero(good).tolist()):
        (mask,) = decode([outlined.codes[row]], outlined.height, outlined.width)
        masks[place] = placement.labels(mask.astype(np.uint8), 0)
    tight = placement.tightened(boxes[good], masks)
    return tight, outlined.marks.labels[good].astype(np.int64), boxes[seen & ~good], masks


class RegionLosses(NamedTuple):
    """Losses summed over what is sampled of each image: terms, float32 (T, B), in the order of TERMS; counts, float32
    (T, B): how many samples each sum is over; positives: float32 (B,), regions with an object; ignored: float32 (2, B),
    anchors that ignore regions take out of the background, and all anchors."""

    terms: Tensor
    counts: Tensor
    positives: Tensor
    ignored: Tensor


class RegionForward(nn.Module):
    """Mask R-CNN as training runs it: images, uint8 or float (B, 3, S, S), and their targets to RegionLosses. A module,
    so that distributed training can wrap it; targets, since a sample of regions is what the heads are asked about.

    Anchors and regions that match no object and lie by half in an ignore region are never sampled as background.
    """

    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, targets: Sequence[InstanceTarget]) -> RegionLosses:
        network = self.network
        pixels = network.transform.pad(network.transform.normalize(images))
        features = network.backbone(pixels)
        sizes = [tuple(images.shape[-2:])] * len(images)
        shown = ImageList(pixels, sizes)
        objectness, deltas = network.rpn.head(list(features.values()))
        anchors = network.rpn.anchor_generator(shown, list(features.values()))
        levels = [level[0].numel() for level in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        proposals = network.rpn.box_coder.decode(deltas.detach(), anchors).view(len(images), -1, 4)
        proposals, _ = network.rpn.filter_proposals(proposals, objectness, sizes, levels)
        proposing, proposed, ignored = _proposal_losses(network.rpn, objectness.flatten(), deltas, anchors, targets)
        regions = _Regions.sampled(network.roi_heads, proposals, targets)
        naming, named = _region_losses(network.roi_heads, features, sizes, regions)
        outlining, outlined = _mask_losses(network.roi_heads, features, sizes, regions, targets)
        terms, counts = torch.stack([*proposing, *naming, outlining]), [proposed, proposed, named, named, outlined]
        everything = torch.full_like(ignored, len(anchors[0]))
        return RegionLosses(terms, torch.stack(counts), outlined, torch.stack([ignored, everything]))


def instance_sums(network: nn.Module, outputs: RegionLosses, targets: object, pseudo: Tensor) -> StreamSums:
    """The losses of each stream; each term is normalised by what it samples, as in torchvision."""
    terms = {name: by_stream(losses, pseudo) for name, losses in zip(TERMS, outputs.terms, strict=True)}
    counts = torch.stack([by_stream(count, pseudo) for count in outputs.counts])
    ignored = torch.stack([by_stream(each, pseudo) for each in outputs.ignored])
    return StreamSums(terms, by_stream(outputs.positives, pseudo), counts, ignored)


def _proposal_losses(
    rpn: RegionProposalNetwork,
    objectness: Tensor,
    deltas: Tensor,
    anchors: list[Tensor],
    targets: Sequence[InstanceTarget],
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The region proposal network's two losses of each image, the anchors sampled of it, and those ignored."""
    assigned, matched = rpn.assign_targets_to_anchors(anchors, [{"boxes": target.boxes} for target in targets])
    labels = [_without(label, anchor, target) for label, anchor, target in zip(assigned, anchors, targets, strict=True)]
    ignored = torch.stack([(was != now).sum() for was, now in zip(assigned, labels, strict=True)]).float()
    positive, negative = (torch.cat(chosen).nonzero()[:, 0] for chosen in rpn.fg_bg_sampler(labels))
    sampled, truth = torch.cat([positive, negative]), torch.cat(labels)
    wanted = torch.cat(rpn.box_coder.encode(matched, anchors))
    each, count = len(anchors[0]), len(anchors)
    objectness_losses = binary_cross_entropy_with_logits(objectness[sampled], truth[sampled], reduction="none")
    box_losses = smooth_l1_loss(deltas[positive], wanted[positive], beta=BETA, reduction="none").sum(1)
    losses = [_by_image(objectness_losses, sampled // each, count), _by_image(box_losses, positive // each, count)]
    return losses, _by_image(torch.ones_like(objectness_losses), sampled // each, count), ignored


class _Regions(NamedTuple):
    """Sampled regions: boxes, a float32 (R, 4) per image; over all images labels int64 (R,), 0 for background, matched
    (R,), a position among the image's boxes, wanted float32 (R, 4), the encoded box, image int64 (R,)."""

    boxes: list[Tensor]
    labels: Tensor
    matched: Tensor
    wanted: Tensor
    image: Tensor

    @classmethod
    def sampled(cls, heads: RoIHeads, proposals: list[Tensor], targets: Sequence[InstanceTarget]) -> _Regions:
        boxes = [target.boxes for target in targets]
        proposals = heads.add_gt_proposals(proposals, boxes)
        classes = [target.labels + 1 for target in targets]
        matched, labels = heads.assign_targets_to_proposals(proposals, boxes, classes)
        labels = [_without(*each) for each in zip(labels, proposals, targets, strict=True)]
        rows = heads.subsample(labels)
        chosen = [region[row] for region, row in zip(proposals, rows, strict=True)]
        places = [match[row] for match, row in zip(matched, rows, strict=True)]
        truth = [
            box[place] if len(box) else torch.zeros_like(region)
            for box, place, region in zip(boxes, places, chosen, strict=True)
        ]
        image = torch.cat([torch.full_like(row, number) for number, row in enumerate(rows)])
        kinds = torch.cat([label[row] for label, row in zip(labels, rows, strict=True)])
        return cls(chosen, kinds, torch.cat(places), torch.cat(heads.box_coder.encode(truth, chosen)), image)


def _region_losses(
    heads: RoIHeads, features: Mapping[str, Tensor], sizes: list[Any], regions: _Regions
) -> tuple[list[Tensor], Tensor]:
    """The box head's two losses of each image, and the regions sampled of it."""
    scores, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, regions.boxes, sizes)))
    named = cross_entropy(scores, regions.labels, reduction="none")
    positive = regions.labels.nonzero()[:, 0]
    moved = deltas.reshape(*scores.shape, 4)[positive, regions.labels[positive]]
    off = smooth_l1_loss(moved, regions.wanted[positive], beta=BETA, reduction="none").sum(1)
    count = len(regions.boxes)
    losses = [_by_image(named, regions.image, count), _by_image(off, regions.image[positive], count)]
    return losses, _by_image(torch.ones_like(named), regions.image, count)


def _mask_losses(
    heads: RoIHeads,
    features: Mapping[str, Tensor],
    sizes: list[Any],
    regions: _Regions,
    targets: Sequence[InstanceTarget],
) -> tuple[Tensor, Tensor]:
    """The mask head's loss of each image (a mean over the pixels of a mask), and the regions with an object in it."""
    positive = regions.labels > 0
    lengths = [len(boxes) for boxes in regions.boxes]
    chosen = [b[p] for b, p in zip(regions.boxes, positive.split(lengths), strict=True)]
    places = [m[p] for m, p in zip(regions.matched.split(lengths), positive.split(lengths), strict=True)]
    logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, chosen, sizes))).float()
    wanted = torch.cat(
        [
            project_masks_on_boxes(t.masks, c, p, logits.shape[-1])
            for t, c, p in zip(targets, chosen, places, strict=True)
        ]
    )
    of_class = logits[torch.arange(len(logits), device=logits.device), regions.labels[positive]]
    off = binary_cross_entropy_with_logits(of_class, wanted, reduction="none").mean((1, 2))
    image, count = regions.image[positive], len(targets)
    return _by_image(off, image, count), _by_image(torch.ones_like(off), image, count)


def _without(labels: Tensor, places: Tensor, target: InstanceTarget) -> Tensor:
    """Labels of anchors or regions (N, 4), -1 where they are background in an ignore region: nothing is learned of
    them."""
    if not len(target.ignore):
        return labels
    return torch.where((labels == 0) & half_inside(places, target.ignore), -1, labels)


def _by_image(losses: Tensor, image: Tensor, count: int) -> Tensor:
    return losses.new_zeros(count).index_add(0, image, losses)


def draw_outlines(shown: Image.Image, target: tuple[np.ndarray, ...], side: int) -> Drawing:
    """The canvas with boxes (see draw_boxes) and the outlines of masks."""
    _, labels, _, planes = target
    outline_masks(shown, encode(planes), (side, side), [class_colour(label) for label in labels.tolist()])
    return draw_boxes(shown, target, side)


INSTANCE = Task(
    kind="instance",
    versions=("instance",),
    members=(),
    human=human_outlines,
    pseudo=pseudo_outlines,
    unknown=unknown_outlines,
    place=placed,
    target=InstanceTarget,
    forward=RegionForward,
    sums=instance_sums,
    draw=draw_outlines,
    relearns=False,
    boxes=attrgetter("marks.boxes"),
    note=NOTE,
)

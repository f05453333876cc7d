"""The normalised joint loss of any task, and the sums it is made of for torchvision's FCOS and RetinaNet.

torchvision's own losses cannot serve: they normalise human and pseudo images together and know no ignore regions. With
human images only and nothing to ignore, FCOS's terms equal torchvision's, and RetinaNet's equal those of one image
(torchvision averages over images what is here normalised by the positives of the whole stream, as the paper says).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_area, box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from teachers.networks.detectors import Detector


class Labels(Protocol):
    """What one image teaches (students.data.loader.Target): boxes float32 (N, 4) and ignore float32 (M, 4), `xyxy`
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
    found = anchors.new_full((len(anchors),), background, dtype=torch.int64)
    if len(target.boxes):
        found = network.proposal_matcher(box_iou(target.boxes, anchors))
    counted, ignored = (found >= 0) | (found == background), torch.zeros_like(found, dtype=torch.bool)
    if len(target.ignore):
        explained = network.proposal_matcher(box_iou(target.ignore, anchors)) != background
        ignored = (found == background) & (explained | half_inside(anchors, target.ignore))
    return found.clamp(min=-1), counted & ~ignored, ignored


def half_inside(anchors: Tensor, regions: Tensor) -> Tensor:
    """Whether at least half of each anchor (N, 4) lies inside one of the regions (M, 4); bool (N,)."""
    iou = box_iou(regions, anchors)
    overlap = iou / (1 + iou) * (box_area(regions)[:, None] + box_area(anchors))
    return (overlap >= 0.5 * box_area(anchors)).any(0)


@dataclass(frozen=True)
class StreamSums:
    """Sums of the loss over each stream, not normalised: each term float32 (2,), [human, pseudo].

    positives: float32 (2,), what a stream teaches: anchors with a match, images with a class, pixels with one. It
    normalises all terms, unless counts, float32 (T, 2), has another number for each.
    ignored: float32 (2, 2), for the log: of each stream (columns) what is left out as unknown, and all there is:
    anchors that ignore regions take out of the background, images without a class, void pixels (padding is void, too).
    """

    terms: dict[str, Tensor]
    positives: Tensor
    counts: Tensor | None = None
    ignored: Tensor | None = None


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


def by_stream(losses: Tensor, pseudo: Tensor) -> Tensor:
    """The sums of losses (N,) where `pseudo`, bool (N,), is False and where it is True; (2,)."""
    return torch.stack([losses[~pseudo].sum(), losses[pseudo].sum()])


def out_of(ignored: Tensor, each: int, pseudo: Tensor) -> Tensor:
    """StreamSums.ignored, of what is left out of each image, float32 (B,), of `each` that it has."""
    return torch.stack([by_stream(ignored, pseudo), by_stream(torch.full_like(ignored, each), pseudo)])


@dataclass(frozen=True)
class JointStep:
    """One step's joint loss. loss: what to call backward on. The rest is the same on all processes, float32 on the CPU.

    value: the joint loss of the global batch; finite: False if any process has a NaN or infinite loss. terms: each
    stream's normalised losses, (2,); weighted: the parts of `value` that they are; positives: (2,); ignored: (2,),
    shares (StreamSums). averages: of human and pseudo loss, bias-corrected, (G, 2), one row in all or one per term;
    ratio: what weighs the pseudo loss, raw_ratio: the same before clipping, (G,); clip_rate: (G,), the share of the
    steps so far in which clipping changed it.
    """

    loss: Tensor
    value: float
    finite: bool
    terms: dict[str, Tensor]
    weighted: dict[str, Tensor]
    positives: Tensor
    ignored: Tensor
    averages: Tensor
    raw_ratio: Tensor
    ratio: Tensor
    clip_rate: Tensor
    pending: dict[str, Any]

    def figures(self) -> dict[str, float | list[float]]:
        """What the log says of it; a list where each term has its own ratio."""
        figures: dict[str, float | list[float]] = {"loss": self.value}
        figures |= _of_streams(torch.stack(list(self.terms.values())).sum(0))
        figures |= _of_streams(torch.stack(list(self.weighted.values())).sum(0), "_weighted")
        for name, values in self.terms.items():
            figures |= _of_streams(values, f"_{name}") | _of_streams(self.weighted[name], f"_{name}_weighted")
        figures |= _of_streams(self.positives, "_positives") | _of_streams(self.ignored, "_ignored")
        human, pseudo = (_plain(average) for average in self.averages.unbind(1))
        figures |= {"human_average": human, "pseudo_average": pseudo, "ratio": _plain(self.ratio)}
        return figures | {"ratio_unclipped": _plain(self.raw_ratio), "clip_rate": _plain(self.clip_rate)}


def _of_streams(values: Tensor, suffix: str = "") -> dict[str, float | list[float]]:
    return {f"human{suffix}": values[0].item(), f"pseudo{suffix}": values[1].item()}


def _plain(values: Tensor) -> float | list[float]:
    return values.item() if values.numel() == 1 else values.tolist()


class JointLoss:
    """The paper's normalised joint loss, L = 1/(1 + alpha) * (L_h + alpha * mean(L_h)/mean(L_p) * L_p).

    Each L is a stream's sum over all processes divided by its positives, or counts, there (at least 1). The means are
    exponential moving averages of it, this step included, with bias correction; their ratio is a constant for the
    gradient. From the paper as widely repeated; decay, correction, clip and eps are our choice. A step enters the
    averages by `commit`, to be called if the weights moved; never if a stream has no positives or a loss is not finite.

    alpha: 0 is supervised training. clip: the least and the greatest ratio. per_term: a ratio for each term of the loss
    instead of one for the total. normalise: False for L = L_h + alpha * L_p, which the paper found unstable; the
    averages are kept and logged all the same.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        decay: float = 0.99,
        clip: tuple[float, float] = (0.1, 10.0),
        eps: float = 1e-8,
        per_term: bool = False,
        normalise: bool = True,
    ) -> None:
        self.alpha, self.decay, self.clip, self.eps = alpha, decay, clip, eps
        self.per_term, self.normalise = per_term, normalise
        self._state: dict[str, Any] = {"averages": torch.zeros(1, 2), "updates": 0, "clipped": torch.zeros(1)}

    def __call__(self, sums: StreamSums) -> JointStep:
        """The joint loss of a step, scaled so that gradients averaged over processes are those of the global batch.
        Every process must call it at every step: it makes one all-reduce."""
        local = torch.stack(list(sums.terms.values()))
        counts, everything = _reduced(sums, local)
        world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        values, positives, ignored = everything
        finite = bool(values.isfinite().all())

        averages, updates, clipped = (self._state[name] for name in ("averages", "updates", "clipped"))
        learns = finite and bool((positives > 0).all())
        if learns:
            averages = self.decay * averages + (1 - self.decay) * self._grouped(values)
            updates += 1
        mean = averages / (1 - self.decay**updates) if updates else torch.ones(1, 2)
        raw_ratio = mean[:, 0] / mean[:, 1].clamp(min=self.eps)
        ratio = raw_ratio.clamp(*self.clip) if self.normalise else torch.ones_like(raw_ratio)
        if learns and self.normalise:
            clipped = clipped + (ratio != raw_ratio)

        weights = self._weights(ratio, len(local))
        weighted = weights * values
        return JointStep(
            loss=world * (weights.to(local.device) * local / counts).sum(),
            value=weighted.sum().item(),
            finite=finite,
            terms=dict(zip(sums.terms, values, strict=True)),
            weighted=dict(zip(sums.terms, weighted, strict=True)),
            positives=positives,
            ignored=ignored,
            averages=mean,
            raw_ratio=raw_ratio,
            ratio=ratio,
            clip_rate=clipped / max(updates, 1),
            pending={"averages": averages, "updates": updates, "clipped": clipped},
        )

    def commit(self, step: JointStep) -> None:
        """Let the step's losses into the averages."""
        self._state = step.pending

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state = {**self._state, **state}

    def _weights(self, ratio: Tensor, terms: int) -> Tensor:
        """Of each term in each stream, (T, 2)."""
        whole = 1 + self.alpha if self.normalise else 1.0
        return torch.stack([torch.ones(terms), self.alpha * ratio.expand(terms)], 1) / whole

    def _grouped(self, terms: Tensor) -> Tensor:
        """(T, 2) terms as the (G, 2) groups with a ratio each."""
        return terms if self.per_term else terms.sum(0, keepdim=True)


def _reduced(sums: StreamSums, local: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """What normalises the terms, (T, 2), on their device; on the CPU their normalised values (T, 2), the positives (2,)
    and the ignored shares (2,). All of the global batch."""
    counts = sums.positives.expand_as(local) if sums.counts is None else sums.counts
    ignored = local.new_zeros(2, 2) if sums.ignored is None else sums.ignored
    everything = torch.cat([local.detach(), counts, sums.positives[None], ignored]).float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(everything)
    terms = len(local)
    totals, counted, (positives, left_out, all_there_is) = everything.cpu().split([terms, terms, 3])
    counts = everything[terms : 2 * terms].clamp(min=1)
    return counts, (totals / counted.clamp(min=1), positives, left_out / all_there_is.clamp(min=1))

"""Learning what every pixel shows: label maps as targets of a softmax per pixel."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from builder.report.colours import VOID_COLOUR
from builder.report.paint import painted
from builder.truth.masks import read_mask
from builder.truth.records import LabelledImage
from students.augment.scene import Placement
from students.tasks.base import Drawing, Logits, Task
from students.train.losses import StreamSums, by_stream, out_of
from teachers.base import VOID
from teachers.images import ImageError


@dataclass(frozen=True)
class MapTarget:
    """What one image teaches: labels, uint8 (S, S), positions in the labelled set's `classes`, VOID where nothing is
    known: unlabelled by people, below the version's threshold, or padding."""

    labels: Tensor


def human_map(image: LabelledImage, classes: int) -> np.ndarray:
    """uint8 (H, W). Raises TruthError for a mask that cannot be read."""
    return read_mask(image, classes)


def pseudo_map(record: Mapping[str, Any], members: Sequence[bytes], positions: np.ndarray, classes: int) -> np.ndarray:
    """uint8 (H, W), of a version's `seg.png`. Raises ImageError for one that is broken, of another size than its image,
    or with a class that the version has not."""
    try:
        with Image.open(io.BytesIO(members[0])) as file:
            values = np.array(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"its map cannot be decoded ({error})") from error
    table = np.full(256, VOID, np.uint8)
    table[: len(positions)] = positions
    if values.shape != (record["height"], record["width"]) or values.dtype != np.uint8:
        raise ImageError(f"its map is {values.dtype} {values.shape}, not 8-bit and of its size")
    if ((values >= len(positions)) & (values != VOID)).any():
        raise ImageError("its map has a class that the version has not")
    return table[values]


def unknown_map(height: int, width: int, classes: int) -> np.ndarray:
    """uint8 (H, W), all VOID."""
    return np.full((height, width), VOID, np.uint8)


def placed(marks: np.ndarray, placement: Placement) -> tuple[np.ndarray]:
    """The array of a MapTarget."""
    return (placement.labels(marks, VOID),)


def map_sums(network: nn.Module, outputs: Tensor, targets: Sequence[MapTarget], pseudo: Tensor) -> StreamSums:
    """Cross entropy of the logits (B, C, S, S), summed over the labelled pixels of each stream, which are its
    positives. VOID pixels enter neither: they are ignored. Image by image, since all would need as much memory as the
    logits again."""
    losses, counts = [], []
    for logits, target in zip(outputs, targets, strict=True):
        labels = target.labels.long()
        losses.append(cross_entropy(logits[None], labels[None], ignore_index=VOID, reduction="sum"))
        counts.append((labels != VOID).sum().float())
    terms, known = {"classification": by_stream(torch.stack(losses), pseudo)}, torch.stack(counts)
    pixels = targets[0].labels.numel()
    return StreamSums(terms, by_stream(known, pseudo), ignored=out_of(pixels - known, pixels, pseudo))


def draw_map(shown: Image.Image, target: tuple[np.ndarray, ...], side: int) -> Drawing:
    """The canvas, and below it the same under its map."""
    (labels,) = target
    map_file = io.BytesIO()
    Image.fromarray(labels).save(map_file, "PNG")
    both = Image.new("RGB", (shown.width, 2 * shown.height + 2), "white")
    both.paste(shown, (0, 0))
    both.paste(painted(shown, map_file.getvalue()), (0, shown.height + 2))
    return Drawing(both, set(np.unique(labels).tolist()) - {VOID})


CLIP = (0.1, 1.0)
"""Most pixels of a pseudo-label are easy, so that their loss is small, and the paper's ratio multiplied it by 3 to 11
here. With this it only ever lowers what the pseudo-labels weigh (docs/log.md)."""

SEMANTIC = Task(
    kind="semantic",
    versions=("semantic",),
    members=("seg.png",),
    human=human_map,
    pseudo=pseudo_map,
    unknown=unknown_map,
    place=placed,
    target=MapTarget,
    forward=Logits,
    sums=map_sums,
    draw=draw_map,
    legend=(("void", VOID_COLOUR),),
    clip=CLIP,
)

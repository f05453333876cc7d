"""What the store holds of labelled images as evidence: a teacher's predictions of them, matched with their labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from builder import BuildError
from builder.matching import IOUS, SIZES, Matches, match_columns
from builder.pool import OK as READABLE
from builder.pool import Pool, PoolImage
from builder.predictions import OK, read_chunk, read_meta
from builder.rules import Keep, Objects, alive
from builder.truth import LabelledImage, Truth


def match_stored(
    truth: Truth,
    pool: Pool,
    predictions: Path,
    keep: Keep,
    ious: tuple[float, ...] = IOUS,
    area: tuple[float, float] = SIZES["all"],
) -> Matches:
    """Match what the store holds: the predictions, below the folder `predictions`, of the truth's images scanned as
    `pool`, after NMS and cap of `keep` as everywhere before a threshold.

    Raises BuildError if no labelled image has predictions, one is of another size than its labels were made for, or as
    `match_images` and `read_chunk` do.
    """
    classes = tuple(read_meta(predictions)["description"]["classes"])
    place = {image.name: position for position, image in enumerate(truth.images)}
    parts: list[tuple[np.ndarray, ...]] = []
    seen = np.zeros(len(place), bool)
    for chunk in pool.chunks():
        images = chunk.images
        there = [place.get(image.name, -1) if image.state == READABLE else -1 for image in images]
        where = np.array(there, np.int64)
        for one, position in zip(images, there, strict=True):
            if position >= 0:
                _check_size(one, truth.images[position])
        if (where < 0).all() or not (predictions / chunk.digest).is_dir():
            continue
        found = read_chunk(predictions / chunk.digest)
        size = np.array([(image.width, image.height) for image in images], np.int32)
        names = [image.name for image in images]
        objects = Objects(found.image, found.label, found.score, found.boxes, size, names)
        good = np.array([status == OK for status in found.status], bool) & (where >= 0)
        seen[where[good]] = True
        rows = np.flatnonzero(alive(objects, keep, len(classes)) & good[found.image])
        parts.append((where[found.image[rows]], found.label[rows], found.score[rows], found.boxes[rows]))
    if not seen.any():
        raise BuildError(
            f"none of the {len(place)} labelled images has predictions of {predictions.name[:12]}: "
            "let the same teacher label them first"
        )
    image, label, score, boxes = (np.concatenate(column) for column in zip(*parts, strict=True))
    kept = replace(truth, images=[one for one, is_seen in zip(truth.images, seen, strict=True) if is_seen])
    image = (np.cumsum(seen) - 1)[image]
    return match_columns(classes, kept, image, label, score, boxes, ious, area, int((~seen).sum()))


def _check_size(image: PoolImage, truth: LabelledImage) -> None:
    """Raise BuildError if labels were made for an image of another size, since they then belong to other pixels."""
    if (image.width, image.height) != (truth.width, truth.height):
        raise BuildError(
            f"labelled image {image.name} is {image.width}x{image.height} upright, but its labels were made for "
            f"{truth.width}x{truth.height}: correct the labels (an EXIF rotation moves boxes)"
        )

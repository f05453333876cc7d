"""A version as labels: kept objects are the objects, ignored regions count neither way, as COCO's crowds do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder.buckets.address import is_remote
from builder.engine import Track, silent
from builder.hub.remote import open_version
from builder.kinds import kind_of
from builder.store.labels import parse_label
from builder.store.manifest import MANIFEST
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.read import read_truth
from builder.truth.records import CountedFrom, LabelledImage, Truth, TruthError
from builder.versions.media import ShardImage, extracted, images_of


def read_labels(
    source: str,
    images: Path | None,
    store: Store,
    track: Track = silent,
    outlines: bool = False,
    counted_from: CountedFrom | None = None,
) -> Truth:
    """Labels to evaluate on: human ones (`read_truth`; outlines, counted_from: see there), or those of a version:
    `hf://org/name@v3`, `s3://bucket/name@v3`, its folder, or `NAME@VERSION` of the store. images: where the files of
    human labels lie, if not in their place.

    Raises TruthError for labels that cannot be used, and BuildError for a version that is not there.
    """
    path = Path(source)
    if is_remote(source) or (path / MANIFEST).is_file() or ("@" in source and not path.exists()):
        return version_truth(open_version(source, store), store, track)
    return read_truth(path, images, outlines=outlines, counted_from=counted_from)


def version_truth(version: Version, store: Store, track: Track = silent) -> Truth:
    """The images of a version, from the store's cache of image files, with their labels; void pixels of maps and
    ignored objects count neither way. Raises TruthError for a version without images, and BuildError as reading its
    shards does."""
    manifest = version.manifest
    kind = kind_of(manifest.kind)
    with track("fetch", sum(shard.bytes for shard in manifest.shards)) as advance:
        for shard, _ in version.shards():
            advance(shard.bytes)
    files = extracted(store, version, track)
    maps = extracted(store, version, track, extension=kind.member) if kind.pixels else None
    images = []
    for number, image in enumerate(images_of(version), 1):
        label = parse_label(image.label.read(), image.label.file, image.key, manifest)
        mask = maps[image.key] if maps else None
        images.append(_labelled(number, image, files[image.key], label, mask))
    if not images:
        raise TruthError(f"{version.ref} holds no images: there is nothing to evaluate on")
    ids = range(len(manifest.classes)) if not kind.overlaps else range(1, len(manifest.classes) + 1)
    return Truth(tuple(manifest.classes), images, tuple(ids), kind=kind.truth)


def _labelled(number: int, image: ShardImage, path: Path, label: dict[str, Any], mask: Path | None) -> LabelledImage:
    """One image with its boxes, and masks, if it has any; else with its class or its map."""
    objects = label.get("objects", {})
    known = np.array(objects.get("category", []), np.int64) >= 0  # else a region that the class map ignores
    boxes = np.array(objects.get("bbox", []), np.float32).reshape(-1, 4)[known]
    boxes[:, 2:] += boxes[:, :2]
    codes = objects.get("segmentation")
    return LabelledImage(
        image.name,
        path,
        image.width,
        image.height,
        boxes,
        np.array(objects.get("category", []), np.int16)[known],
        np.array(objects.get("ignore", []), bool)[known],
        np.array(objects.get("area", []), np.float32)[known],
        number,
        np.zeros(len(boxes), bool),
        label=label.get("label"),
        mask=mask,
        masks=None if codes is None else _masks(codes, known, image),
    )


def _masks(codes: Sequence[str], known: np.ndarray, image: ShardImage) -> tuple[bytes, ...]:
    """Codes; of a region without a mask an empty one."""
    from teachers.masks import encode

    nothing = encode(np.zeros((1, image.height, image.width), bool))[0]
    return tuple(code.encode() or nothing for code, ours in zip(codes, known.tolist(), strict=True) if ours)

"""A version as labels: kept objects are the objects, ignored regions count neither way, as COCO's crowds do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson

from builder.engine import Track, silent
from builder.manifest import FILE
from builder.media import extracted, images_of
from builder.remote import Version, is_remote, open_version
from builder.shards import read_bytes
from builder.store import Store
from builder.truth import LabelledImage, Truth, TruthError, read_detection


def read_labels(source: str, images: Path | None, store: Store, track: Track = silent) -> Truth:
    """Boxes to evaluate on: human labels (`read_detection`), or a version: `hf://org/name@v3`, its folder, or
    `NAME@VERSION` of the store. images: where the files of human labels lie, if not in their place.

    Raises TruthError for labels that cannot be used, and BuildError for a version that is not there.
    """
    path = Path(source)
    if is_remote(source) or (path / FILE).is_file() or ("@" in source and not path.exists()):
        return version_truth(open_version(source, store), store, track)
    return read_detection(path, images)


def version_truth(version: Version, store: Store, track: Track = silent) -> Truth:
    """The images of a version, from the store's cache of image files, with their objects. Raises TruthError for a
    version without boxes or images, and BuildError as reading its shards does."""
    manifest = version.manifest
    if manifest.kind != "detection":
        raise TruthError(f"{version.ref} holds {manifest.kind} labels, but boxes are needed: give another version")
    with track("fetch", sum(shard.bytes for shard in manifest.shards)) as advance:
        for shard in manifest.shards:
            version.shard(shard)
            advance(shard.bytes)
    files = extracted(store, version.folder, manifest, track)
    images = []
    for number, image in enumerate(images_of(version.folder, manifest), 1):
        objects = orjson.loads(read_bytes(image.shard, image.label))["objects"]
        boxes = np.array(objects["bbox"], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        images.append(
            LabelledImage(
                image.name,
                files[image.key],
                image.width,
                image.height,
                boxes,
                np.array(objects["category"], np.int16),
                np.array(objects["ignore"], bool),
                np.array(objects["area"], np.float32),
                number,
                np.zeros(len(boxes), bool),
            )
        )
    if not images:
        raise TruthError(f"{version.ref} holds no images: there is nothing to evaluate on")
    return Truth(tuple(manifest.classes), images, tuple(range(1, len(manifest.classes) + 1)))

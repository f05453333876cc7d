"""The labelled images that a version was measured on, with the labels and with what its thresholds keep there.

Only the tune half: who looks at the certify half, and then changes a recipe, spoils the certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from builder import BuildError
from builder.browse import Columns, Evidence, Media, Picture, pictures_of
from builder.calibrate import Calibrator
from builder.certify import Group
from builder.holdout import Labels
from builder.labelled import LabelledPool
from builder.manifest import Manifest
from builder.pool import Chunk, read_pool
from builder.rules import REASONS, Keep, decide
from builder.samples import OUTCOMES
from builder.store import Store
from builder.thresholds import with_ignore
from builder.truth import LabelledImage, Truth, check_detection, read_truth, split

TRUTH = "truth"


@dataclass(frozen=True)
class Mark:
    """What people marked in an image, a list a column. box: xywh, shares of the image's sides; crowd: it counts neither
    as found nor as missed (COCO's crowds, VOC's difficult objects)."""

    label: list[str]
    box: list[list[float]]
    crowd: list[bool]


def truth_pictures(store: Store, manifest: Manifest, limit: int | None = None) -> Iterator[list[tuple[Picture, Mark]]]:
    """The images of the tune half, as far as the teacher labelled them, in blocks; nothing where there is no truth.

    Raises BuildError if labels, pool or predictions are no longer there, or are not those of the version.
    """
    inputs = manifest.provenance.get("inputs") or {}
    id = (inputs.get("references") or {}).get(TRUTH)
    if id is None or inputs.get(TRUTH) is None:
        return
    labels = _labels(store, manifest, id)
    check_detection(labels.truth, labels.source)
    tune, _ = split(labels.truth)
    marked = {image.name: image for image in tune.images[:limit]}
    thresholds = with_ignore(
        keep := Keep.model_validate(inputs["keep"]),
        [Group.model_validate(group) for group in manifest.provenance["thresholds"]],
        manifest.classes,
    )
    calibration = manifest.provenance.get("calibration")
    calibrate = Calibrator.model_validate(calibration) if calibration else None
    predictions = store.predictions / inputs["predictions"]
    labelled = LabelledPool(labels.pool, predictions, tuple(manifest.classes), keep, calibrate)
    evidence = Evidence(manifest)
    for chunk in labels.pool.chunks():
        objects, states = labelled.load([chunk])
        decision = decide(objects, keep, thresholds, labelled.classes)
        wanted = [n for n, name in enumerate(chunk.rows["name"].to_pylist()) if states[n] == "ok" and name in marked]
        place = np.full(len(states), -1)
        place[wanted] = np.arange(len(wanted))
        order = np.argsort(objects.image, kind="stable")
        order = order[place[objects.image[order]] >= 0]
        columns = Columns(
            place[objects.image[order]],
            objects.label[order],
            objects.score[order],
            None if objects.calibrated is None else objects.calibrated[order],
            objects.boxes[order],
            np.array(OUTCOMES, object)[decision.outcome[order]],
            np.array(REASONS, object)[decision.reason[order]],
            {},
        )
        media = _media(chunk, wanted)
        shown = pictures_of(media, columns, evidence)
        yield [(picture, _mark(marked[picture.media.name], labels.truth)) for picture in shown]


def _media(chunk: Chunk, wanted: list[int]) -> list[Media]:
    images = [chunk.images[n] for n in wanted]
    return [Media(i.key, i.name, i.sha256, i.uri, i.width, i.height, TRUTH) for i in images]


def _mark(image: LabelledImage, truth: Truth) -> Mark:
    sides = np.array([image.width, image.height] * 2, np.float64)
    boxes = np.concatenate([image.boxes[:, :2], image.boxes[:, 2:] - image.boxes[:, :2]], axis=1) / sides
    return Mark([truth.classes[n] for n in image.labels], boxes.tolist(), (image.crowd | image.difficult).tolist())


def _labels(store: Store, manifest: Manifest, id: str) -> Labels:
    """The labels that were scanned into the pool of this id, where they lay then."""
    section = (manifest.provenance.get("recipe") or {}).get(TRUTH) or {}
    source = str(section.get("source") or TRUTH)
    for path in sorted((store.pools / "sources").glob("*.json")):
        pointer: Mapping[str, str] = orjson.loads(path.read_bytes())
        if pointer.get("pool") == id and "labels" in pointer:
            images = Path(pointer["images"]) if pointer.get("images") else None
            truth = read_truth(Path(pointer["labels"]), images, pointer.get("format"), section.get("group"))  # type: ignore[arg-type]
            found = Labels(truth, read_pool(store, id), source)
            if found.digest == manifest.provenance["inputs"][TRUTH]:
                return found
    raise BuildError(f"labels {source} are not those that {manifest.name}@{manifest.version} was built with")

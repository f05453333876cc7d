"""The labelled images that a version was measured on, with the labels and with what its thresholds keep there.

Only the tune half: who looks at the certify half, and then changes a recipe, spoils the certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from builder.browse.maps import truth_planes
from builder.browse.pictures import Columns, Evidence, Media, Picture, likeliest, pictures_of
from builder.cut.kinds.choose import cut_kind
from builder.cut.recall import made_by
from builder.errors import BuildError
from builder.evidence.holdout import Labels
from builder.evidence.matching import check_kind
from builder.kinds import kind_of
from builder.label.predictions import read_probabilities
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Decision, Objects
from builder.rules.reasons import OUTCOMES, REASONS
from builder.scan.pool import Chunk, read_pool
from builder.store.manifest import Manifest
from builder.store.store import Store
from builder.truth.read import read_truth
from builder.truth.records import LabelledImage, Truth, TruthError, split

TRUTH = "truth"
OPTIONAL = ("agree", "rle", "pixels")
"""Columns that the teacher may have given."""


@dataclass(frozen=True)
class Labelled:
    """An image with its objects, and what people marked in it: one of the images of `truth`."""

    picture: Picture
    image: LabelledImage
    truth: Truth


def truth_pictures(store: Store, manifest: Manifest, limit: int | None = None) -> Iterator[list[Labelled]]:
    """The images of the tune half, as far as the teacher labelled them, in blocks; nothing where there is no truth.

    Raises BuildError if labels, pool or predictions are no longer there, or are not those of the version.
    """
    kind, inputs = kind_of(manifest.kind), manifest.provenance.inputs
    id = inputs.references.get(TRUTH)
    if id is None or inputs.truth is None:
        return
    labels = _labels(store, manifest, id)
    check_kind(labels.truth, manifest.kind, labels.source)  # type: ignore[arg-type]
    tune, _ = split(labels.truth)
    marked = {image.name: image for image in tune.images[:limit]}
    made = made_by(manifest, store)
    labelled, thresholds = made.labelled(labels.pool), made.thresholds
    evidence = Evidence(manifest)
    for chunk in labels.pool.chunks():
        objects, decision, states = cut_kind(manifest.kind).decide(labelled, [chunk], thresholds)
        wanted = [n for n, name in enumerate(chunk.rows["name"].to_pylist()) if states[n] == "ok" and name in marked]
        media = _media(chunk, wanted, labelled, manifest)
        shown = pictures_of(media, _columns(objects, decision, len(states), wanted), evidence)
        if kind.pixels:
            planes = truth_planes(labelled, chunk, thresholds, wanted)
            shown = [replace(picture, planes=maps) for picture, maps in zip(shown, planes, strict=True)]
        yield [Labelled(picture, marked[picture.media.name], labels.truth) for picture in shown]


def _columns(objects: Objects, decision: Decision, images: int, wanted: Sequence[int]) -> Columns:
    """Of the objects of a chunk's `images` those on the wanted ones, which are counted from 0."""
    place = np.full(images, -1)
    place[wanted] = np.arange(len(wanted))
    order = np.argsort(objects.image, kind="stable")
    order = order[place[objects.image[order]] >= 0]
    optional = {name: column for name in OPTIONAL if (column := getattr(objects, name, None)) is not None}
    return Columns(
        place[objects.image[order]],
        objects.label[order],
        objects.score[order],
        None if objects.calibrated is None else objects.calibrated[order],
        objects.boxes[order],
        np.array(OUTCOMES, object)[decision.outcome[order]],
        np.array(REASONS, object)[decision.reason[order]],
        {name: column[order].tolist() for name, column in optional.items()},
    )


def _media(chunk: Chunk, wanted: Sequence[int], labelled: LabelledPool, manifest: Manifest) -> list[Media]:
    likely: dict[int, str] = {}
    if kind_of(manifest.kind).single and labelled.mapped is None:
        stored = read_probabilities(labelled.predictions / chunk.digest, len(labelled.classes))
        places = range(len(labelled.classes))
        likely = {n: likeliest(labelled.classes, places, stored[n].tolist()) for n in wanted}
    images = ((n, chunk.images[n]) for n in wanted)
    return [Media(i.key, i.name, i.sha256, i.uri, i.width, i.height, TRUTH, likely=likely.get(n)) for n, i in images]


def _labels(store: Store, manifest: Manifest, id: str) -> Labels:
    """The labels that were scanned into the pool of this id, where they lay then."""
    section = manifest.provenance.recipe.get(TRUTH) or {}
    source = str(section.get("source") or TRUTH)
    problem: BuildError | None = None
    for path in sorted((store.pools / "sources").glob("*.json")):
        pointer: Mapping[str, str] = orjson.loads(path.read_bytes())
        if pointer.get("pool") == id and "labels" in pointer:
            images = Path(pointer["images"]) if pointer.get("images") else None
            format: Any = pointer.get("format")
            outlines = kind_of(manifest.kind).outlines
            try:
                truth = read_truth(Path(pointer["labels"]), images, format, section.get("group"), outlines)
            except TruthError as error:  # labels of another kind may be of the same images
                problem = error
                continue
            labels = Labels(truth, read_pool(store, id), source)
            if labels.digest == manifest.provenance.inputs.truth:
                return labels
    raise problem or BuildError(f"labels {source} are not those that {manifest.name}@{manifest.version} was built with")

"""The labelled images that a version was measured on, with the labels and with what its thresholds keep there.

Only the tune half: who looks at the certify half, and then changes a recipe, spoils the certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from builder.browse.maps import truth_planes
from builder.browse.pictures import Columns, Evidence, Media, Picture, likeliest, pictures_of
from builder.cut.kinds.choose import cut_kind
from builder.cut.recall import made_by
from builder.errors import BuildError
from builder.evidence.holdout import CERTIFY, Labels
from builder.evidence.matching import check_kind
from builder.kinds import kind_of
from builder.label.predictions import read_probabilities
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Decision, Objects
from builder.rules.reasons import OUTCOMES, REASONS
from builder.scan.pool import Chunk, pointers, read_pool
from builder.store.manifest import Manifest
from builder.store.store import Store
from builder.truth.read import read_truth
from builder.truth.records import LabelledImage, Truth, TruthError

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
    marked = {image.name: image for image in labels.tune.images[:limit]}
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
    source, problems = str(section.get("source") or TRUTH), list[BuildError]()
    certify, certify_id = section.get("certify"), manifest.provenance.inputs.references.get(CERTIFY)
    fresh: list[Labels | None] = [None]
    if certify and certify_id:
        group = certify["group"] if certify.get("group") is not None else section.get("group")
        fresh = [*_scanned(store, manifest, certify_id, str(certify["source"]), group, problems)]
    for labels in _scanned(store, manifest, id, source, section.get("group"), problems):
        for certifying in fresh:
            both = replace(labels, certify=certifying)
            if both.digest == manifest.provenance.inputs.truth:
                return both
    if problems:
        raise problems[-1]
    raise BuildError(f"labels {source} are not those that {manifest.name}@{manifest.version} was built with")


def _scanned(
    store: Store, manifest: Manifest, id: str, source: str, group: str | None, problems: list[BuildError]
) -> Iterator[Labels]:
    """All labels that were scanned into the pool of this id. problems: gets what is wrong with others."""
    for pointer in pointers(store):
        if pointer.get("pool") == id and "labels" in pointer:
            images = Path(pointer["images"]) if pointer.get("images") else None
            try:
                truth = read_truth(
                    pointer["labels"],
                    images,
                    pointer.get("format"),
                    group,
                    kind_of(manifest.kind).outlines,
                    pointer.get("split") or "val",
                    pointer.get("counted_from"),
                )
            except TruthError as error:  # labels of another kind may be of the same images
                problems.append(error)
                continue
            yield Labels(truth, read_pool(store, id), source)

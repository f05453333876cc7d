"""People's edits of a version's objects, in whatever tool, as overrides."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from builder.errors import BuildError
from builder.kinds import kind_of
from builder.label.predictions import BOX
from builder.rules.overrides import MATCH, Action, Box, Override, by_image, overlaps
from builder.store.labels import checked_table
from builder.store.manifest import Manifest
from builder.store.version import Version
from builder.versions.media import images_of

if TYPE_CHECKING:
    pass


MOVED = 0.5
"""Pixels by which a side of a box must differ before a person is taken to have moved it: tools round."""
BATCH = 1 << 16
"""Rows of labels.parquet that are held at a time."""


@dataclass(frozen=True)
class Shown:
    """An object as a reviewer sees it. id: `KEY#N`, N its row among those of its image in labels.parquet; sha256: of
    the image's original bytes; outcome: kept, ignored or dropped; score: what thresholds act on."""

    id: str
    key: str
    sha256: str
    label: str
    box: Box
    score: float
    outcome: str


@dataclass(frozen=True)
class Edited:
    """An object as it comes back from a person. id: that of the shown object, None for one that the person drew.
    verdict: what a tag says of it, None where only its label or box may have changed."""

    id: str | None
    key: str
    label: str
    box: Box
    verdict: Literal["accept", "reject"] | None
    author: str


def overrides_of(
    shown: Iterable[Shown], edited: Iterable[Edited], images: Mapping[str, str], authors: Mapping[str, str]
) -> list[Override]:
    """What the differences between what was shown and what came back say, sorted.

    images: key -> SHA-256 of those that came back; objects of others do not count. authors: by key, who rejected the
    kept objects that did not come back. A verdict of `reject` counts before a change; a changed box (by more than MOVED
    pixels) is a move, with its label; a changed label a relabel. Where an object came back several times, the closest
    is it and the others are added. A kept object that was left as it was beside one of these (see `_left_beside`) is
    accepted. Raises BuildError for an object that was never shown.
    """
    known = {object.id: object for object in shown if object.key in images}
    back: dict[str, list[Edited]] = {}
    overrides: list[Override] = []
    left: dict[str, list[Edited]] = {}
    for edit in edited:
        if edit.key not in images:
            continue
        if edit.id is None:
            overrides += _drawn(edit, images[edit.key])
        elif edit.id in known and known[edit.id].key == edit.key:
            back.setdefault(edit.id, []).append(edit)
        else:
            raise BuildError(
                f"object {edit.id!r} of image {edit.key} was not shown: pull with the version that was reviewed"
            )
    for id, was in known.items():
        copies = _closest_first(was, back.get(id, []))
        if copies:
            overrides += (verdict := _verdict(was, copies[0]))
            if not verdict and was.outcome == "kept":
                left.setdefault(was.sha256, []).append(replace(copies[0], box=was.box))
        elif was.outcome == "kept":
            overrides.append(Override(was.sha256, was.box, "reject", was.label, None, authors[was.key]))
        overrides += (drawn for copy in copies[1:] for drawn in _drawn(copy, was.sha256))
    of_image = by_image(overrides)
    for sha256, edits in left.items():
        overrides += _left_beside(of_image.get(sha256, ()), edits)
    return sorted(set(overrides), key=lambda override: override.order)


def _left_beside(overrides: Sequence[Override], left: Sequence[Edited]) -> Iterator[Override]:
    """The overrides that keep the objects of an image that a person saw and left, since builder.rules.overruling
    would drop them otherwise: they overlap by MATCH or more what was rejected, added or given their class."""
    if not overrides:
        return
    boxes = [override.box for override in left]
    overlap = np.maximum(
        *(overlaps(side, boxes) for side in ([o.box for o in overrides], [o.result for o in overrides]))
    )
    for n, m in np.argwhere(overlap >= MATCH):
        override, kept = overrides[n], left[m]
        if kept.label == override.label or (override.action == "reject" and kept.label == override.before):
            yield Override(override.sha256, kept.box, "accept", kept.label, None, kept.author)


def on_image(box: Box, width: float, height: float) -> Box:
    """The part of a box that lies on the image, as the next version will show it: by its box an override is found
    again. A box that lies beside the image stays what it is."""
    x1, x2 = (min(max(x, 0.0), width) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), height) for y in (box[1], box[3]))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else box


def _drawn(edited: Edited, sha256: str) -> list[Override]:
    """The box that a person drew, unless it was refused or is a mere click."""
    empty = edited.box[2] <= edited.box[0] or edited.box[3] <= edited.box[1]
    if edited.verdict == "reject" or empty:
        return []
    return [Override(sha256, edited.box, "add", edited.label, edited.box, edited.author)]


def _verdict(was: Shown, now: Edited) -> list[Override]:
    """What one object that came back says of the one that was shown."""
    moved = max(abs(a - b) for a, b in zip(was.box, now.box, strict=True)) > MOVED
    action: Action | None = now.verdict
    if now.verdict != "reject":
        action = "move" if moved else "relabel" if now.label != was.label else now.verdict
    if action is None:
        return []
    label = was.label if action == "reject" else now.label
    drawn = now.box if action == "move" else None
    return [Override(was.sha256, was.box, action, label, drawn, now.author, "" if label == was.label else was.label)]


def _closest_first(was: Shown, copies: Iterable[Edited]) -> list[Edited]:
    def distance(copy: Edited) -> tuple[Any, ...]:
        moved = max(abs(a - b) for a, b in zip(was.box, copy.box, strict=True))
        return moved, copy.label != was.label, copy.label, copy.box, copy.verdict or "", copy.author

    return sorted(copies, key=distance)


def check_reviewable(manifest: Manifest) -> None:
    """Raise BuildError for a version of maps: what people say of objects says nothing of pixels."""
    if kind_of(manifest.kind).pixels:
        raise BuildError(
            f"{manifest.name}@{manifest.version} holds maps, which people cannot put right object by object: look at "
            "them with `tutelage browse`"
        )


def shown_objects(
    version: Version, keys: Collection[str] | None = None, elsewhere: Mapping[str, str] | None = None
) -> Iterator[list[Shown]]:
    """The objects of a version, dropped ones too, image by image in the order of labels.parquet; images without objects
    are passed over. keys: of the only images to look at. elsewhere: SHA-256 by key of images that may be in no shard,
    where nothing on them is kept.

    Streams; of each image 40 bytes are held. Raises BuildError if a shard or labels.parquet cannot be read.
    """
    manifest = version.manifest
    check_reviewable(manifest)
    wanted = None if keys is None else frozenset(keys)
    hashes, digests = array("Q"), bytearray()
    left = dict(elsewhere or {})
    for image in images_of(version):
        if wanted is None or image.key in wanted:
            left.pop(image.key, None)
            hashes.append(_hash(image.key))
            digests += bytes.fromhex(image.sha256)
    for key, sha256 in left.items():
        hashes.append(_hash(key))
        digests += bytes.fromhex(sha256)
    order = np.argsort(np.frombuffer(hashes, np.uint64)) if hashes else np.zeros(0, np.int64)
    ordered = np.frombuffer(hashes, np.uint64)[order] if hashes else np.zeros(0, np.uint64)
    for key, rows in _rows_by_image(checked_table(version)):
        place = int(np.searchsorted(ordered, np.uint64(_hash(key))))
        if place == len(ordered) or ordered[place] != _hash(key):
            continue
        at = 32 * int(order[place])
        yield _shown(key, digests[at : at + 32].hex(), rows, manifest.classes)


def _hash(key: str) -> int:
    """64 bits of a key; that two of a million are alike happens once in thirty million versions."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest())


def _shown(key: str, sha256: str, rows: list[Sequence[Any]], classes: Sequence[str]) -> list[Shown]:
    return [
        Shown(
            f"{key}#{n}",
            key,
            sha256,
            classes[label],
            (x1, y1, x2, y2),
            score if calibrated is None else calibrated,
            outcome,
        )
        for n, (label, score, calibrated, x1, y1, x2, y2, outcome) in enumerate(rows)
        if label >= 0  # else of a class of the teacher that is none of the version
    ]


def _rows_by_image(path: Path) -> Iterator[tuple[str, list[Sequence[Any]]]]:
    """Of each image in turn the label, score, calibrated score, box and outcome of its rows, which stand together."""
    columns = ["label", "score", "calibrated", *BOX, "outcome"]
    open_key, rows = None, list[Sequence[Any]]()
    try:
        with pq.ParquetFile(path, read_dictionary=["key"]) as file:
            for batch in file.iter_batches(BATCH, columns=["key", *columns], use_threads=False):
                names, codes = batch["key"].dictionary.to_pylist(), batch["key"].indices.to_numpy()
                values = list(zip(*(batch[name].to_pylist() for name in columns), strict=True))
                cuts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
                for a, b in pairwise(cuts):
                    if a < b and names[codes[a]] != open_key:
                        if open_key is not None:
                            yield open_key, rows
                        open_key, rows = names[codes[a]], []
                    rows += values[a:b]
    except (OSError, pa.ArrowException):
        raise BuildError(f"{path} cannot be read: run `tutelage verify --repair` on the version") from None
    if open_key is not None:
        yield open_key, rows

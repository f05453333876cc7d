"""Images of a pool that are also labelled, truth or test ones: byte for byte, or as the same picture.

The pictures nearest to each image are found by the correlation of small thumbnails, and compared closely
(builder.scan.likeness). How near is the same depends on the set: frames of a fixed camera, or digits, are as near to
one another as copies of a photograph are. So it is asked of the labelled images first how near *different* ones come to
each other there. Memory holds the thumbnails of the labelled images, a kilobyte each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from builder.errors import BuildError
from builder.scan.dhash import BITS
from builder.scan.duplicates import common, popcount
from builder.scan.likeness import THUMB, Misfit, misfit
from builder.scan.pool import OK, Pool

NEAREST = 4
"""Labelled images that each image is compared with closely."""
CORRELATION = 0.6
"""Of thumbnails below which two are not compared closely: copies that are cropped by a twentieth have more."""
WHOLE, LOCAL = 0.22, 3.0
"""Misfit of the same picture at most, where the set does not ask for less."""
COPY_WHOLE, COPY_LOCAL = 0.03, 0.15
"""Misfit that re-encoding and resizing leave at most."""
ALIKE = 0.1
"""Whole misfit below which different images of a set share their scene: the local one decides there."""
RATE_WHOLE, RATE_LOCAL = 0.01, 0.03
"""Share of different labelled images that may be as near to another one as two of the same picture; one pair of them
may be so besides."""
SHARED = 0.25
"""Share of labelled images that must be ALIKE different ones for a set of one scene."""
SAMPLED, FEW = 500, 20
"""Labelled images of which that is asked; as many of them as a near pair is left out among."""
PAIRS = 512
"""Pairs that are compared closely at a time."""
CELLS = 1 << 23
"""Correlations that are worked out at a time: 32 MB."""


@dataclass(frozen=True)
class Leaks:
    """SHA-256 of an image of the pool -> which labelled one it is. note: what was found out about the set, where near
    is not the same in it; "" elsewhere."""

    images: Mapping[str, str]
    note: str = ""


@dataclass(frozen=True)
class _Limits:
    """Misfit that the same picture has at most (builder.scan.likeness.Misfit)."""

    whole: float
    local: float


@dataclass(frozen=True)
class _Looks:
    """Images with thumbnails. thumbs: uint8 (N, THUMB, THUMB); small: float32 (N, D), centred, of length 1; hashes:
    uint64 (N, 2); named: SHA-256 and name; where: which set."""

    thumbs: np.ndarray
    small: np.ndarray
    hashes: np.ndarray
    named: Sequence[tuple[str, str]]
    where: Sequence[str]


def leaks(pool: Pool, references: Mapping[str, Pool], distance: int | None) -> Leaks:
    """The images of `pool` that one of the references (labelled, truth, test) holds too. References come in their
    order, equal bytes before the same picture.

    distance: bits in which the hashes of one picture may differ; None: only equal bytes count.
    """
    leaked: dict[str, str] = {}
    for name, other in references.items():
        for (sha256, image), (_, reference), _ in common(pool, other):
            leaked.setdefault(sha256, f"{image} is {reference} of {name}")
    if distance is None or not references:
        return Leaks(leaked)
    known = _joined([looks for name, other in references.items() for looks in _read(other, name)])
    if not len(known.thumbs):
        return Leaks(leaked)
    limits = _limits(known)
    for looks in _read(pool, ""):
        for number, (place, bits) in _same(looks, known, limits, distance).items():
            sha256, image = looks.named[number]
            other_name, where = known.named[place][1], known.where[place]
            leaked.setdefault(
                sha256, f"{image} looks like {other_name} of {where} ({bits} of {BITS} bits of their hashes differ)"
            )
    shared_scene = limits.local < LOCAL
    note = (
        "the labelled images share their scene, so only those count as the same picture that agree in small things as "
        "well (a copy that is cropped may not)"
    )
    return Leaks(leaked, note if shared_scene else "")


def _same(looks: _Looks, known: _Looks, limits: _Limits, distance: int) -> dict[int, tuple[int, int]]:
    """Positions of images that are the same picture as a known one, with its position and the bits that differ."""
    image, other = _nearest(looks.small, known.small)
    bits = popcount(looks.hashes[image] ^ known.hashes[other]).sum(axis=1)
    near = bits <= distance
    image, other, bits = image[near], other[near], bits[near]
    apart = _misfits(looks.thumbs, known.thumbs, image, other)
    good = (apart.whole <= limits.whole) & (apart.local <= limits.local)
    image, other, bits, whole = image[good], other[good], bits[good], apart.whole[good]
    best = np.lexsort((other, whole, image))  # the best fit; of equally good ones the earliest
    best = best[np.unique(image[best], return_index=True)[1]]
    return {
        n: (reference, differ)
        for n, reference, differ in zip(image[best].tolist(), other[best].tolist(), bits[best].tolist(), strict=True)
    }


def _nearest(small: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of an image and a known one, int64 (K,) each, that are to be compared closely, in parts of bounded size."""
    count, step = min(NEAREST, len(known)), max(1, CELLS // len(known))
    images, others = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for first in range(0, len(small), step):
        correlation = small[first : first + step] @ known.T
        nearest = np.argpartition(-correlation, count - 1, axis=1)[:, :count]
        image, place = np.nonzero(np.take_along_axis(correlation, nearest, 1) >= CORRELATION)
        images.append(first + image)
        others.append(nearest[image, place])
    return np.concatenate(images), np.concatenate(others)


def _limits(known: _Looks) -> _Limits:
    """How much misfit the same picture may have, from how near different labelled images come to each other."""
    chosen = np.unique(np.linspace(0, len(known.thumbs) - 1, SAMPLED).astype(np.int64))
    correlation = known.small[chosen] @ known.small.T
    correlation[np.arange(len(chosen)), chosen] = -2
    count = min(NEAREST, len(known.thumbs) - 1)
    whole, local = np.full(len(chosen), np.inf), np.full(len(chosen), np.inf)
    if count:
        nearest = np.argpartition(-correlation, count - 1, axis=1)[:, :count]
        image, other = np.repeat(chosen, count), nearest.ravel()
        apart = _misfits(known.thumbs, known.thumbs, image, other)
        is_copy = (apart.whole <= COPY_WHOLE) & (apart.local <= COPY_LOCAL)  # the labelled set holds some, too
        whole = np.where(is_copy, np.inf, apart.whole).reshape(-1, count).min(1)
        local = np.where(is_copy, np.inf, apart.local).reshape(-1, count).min(1)
    nearest_whole = _quantile(whole, RATE_WHOLE, 2 if len(whole) >= FEW else 0)
    most = min(max(nearest_whole, ALIKE), WHOLE)
    shares_scene = _quantile(whole, SHARED) < ALIKE
    most_local = min(max(_quantile(local, RATE_LOCAL), COPY_LOCAL), LOCAL) if shares_scene else LOCAL
    return _Limits(most, most_local)


def _quantile(values: np.ndarray, share: float, more: int = 0) -> float:
    """The value that this share of them, and so many more, lie below; infinite ones count."""
    return float(np.sort(values)[int(share * len(values)) + more])


def _misfits(images: np.ndarray, others: np.ndarray, image: np.ndarray, other: np.ndarray) -> Misfit:
    parts = [
        misfit(images[image[start : start + PAIRS]], others[other[start : start + PAIRS]])
        for start in range(0, len(image), PAIRS)
    ]
    empty = [np.zeros(0)]
    whole, local = ([getattr(part, name) for part in parts] for name in ("whole", "local"))
    return Misfit(np.concatenate(whole or empty), np.concatenate(local or empty))


def _read(pool: Pool, where: str) -> Iterator[_Looks]:
    """The readable images of a pool that have a thumbnail, a few thousand at a time."""
    for table in pool.tables(("sha256", "name", "state", "dhash", "thumb")):
        if "thumb" not in table.column_names:
            raise BuildError(f"pool {pool.id[:12]} was scanned by an older Tutelage: scan its source again")
        rows = table.filter(pc.and_(pc.equal(table["state"], OK), pc.not_equal(table["dhash"], "")))
        thumbs = np.frombuffer(b"".join(rows["thumb"].to_pylist()), np.uint8).reshape(-1, THUMB, THUMB)
        hashes = np.frombuffer(bytes.fromhex("".join(rows["dhash"].to_pylist())), ">u8").reshape(-1, 2)
        named = list(zip(rows["sha256"].to_pylist(), rows["name"].to_pylist(), strict=True))
        yield _Looks(thumbs, _small(thumbs), hashes.astype(np.uint64), named, [where] * len(named))


def _small(thumbs: np.ndarray) -> np.ndarray:
    half = THUMB // 2
    cells = thumbs.reshape(-1, half, 2, half, 2).mean((2, 4), dtype=np.float32).reshape(-1, half * half)
    cells -= cells.mean(1, keepdims=True)
    return cells / (np.linalg.norm(cells, axis=1, keepdims=True) + np.float32(1e-6))


def _joined(parts: Sequence[_Looks]) -> _Looks:
    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    named = [pair for part in parts for pair in part.named]
    where = [name for part in parts for name in part.where]
    return _Looks(column("thumbs"), column("small"), column("hashes"), named, where)

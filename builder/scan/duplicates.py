"""Near-duplicates inside a pool, and images that two pools hold byte for byte.

Two images are alike if their difference hashes (builder.scan.dhash, 128 bits) differ in at most `distance` bits. All
such pairs are found, without comparing all images: the bits are dealt out to so many bands that one band of two alike
images must be equal, or differ in one bit (pigeonhole; Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with
Multi-Index Hashing", CVPR 2012), and images are joined on equal bands. Memory holds the hashes alone, 16 bytes an
image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builder.scan.dhash import BITS
from builder.scan.pool import OK, Pool

BLOCK = 1 << 17
"""Candidate pairs that are compared at a time."""
MAX_KEY = 32
"""Bits of a band that are looked up at most; fewer of them only give more candidates."""
LOOKUP = 8
"""What looking up one key costs, in comparisons of two hashes."""
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Positions int64 (N,) in one and in the other, and in how many bits the two hashes differ, int64 (N,)."""


@dataclass(frozen=True)
class _Hashes:
    """The readable images of a pool that have some hash. row: int64 (N,), in the pool. bits: uint64 (N, 2)."""

    row: np.ndarray
    bits: np.ndarray


@dataclass(frozen=True)
class Settled:
    """What an earlier version decided about the first images of a pool. rows: bool (R,), whether that is so for the
    pool's first R rows. left_out: SHA-256 -> sentence, of those it left out; the other settled ones stay."""

    rows: np.ndarray
    left_out: Mapping[str, str]


def near_duplicates(pool: Pool, distance: int, settled: Settled | None = None) -> dict[str, str]:
    """The images of a pool to leave out, since each is alike an image that is kept: SHA-256 -> what it is alike.

    Images are looked at in the order of chunks, those that are `settled` first, and one is kept unless it is alike one
    that is kept already. So no two kept images are alike, each that is left out is alike the one its sentence names (a
    chain of frames, each alike the next, is thinned, not reduced to its first), and images that a later scan adds
    change nothing for the older ones. One that was left out before stays out, even if what it was alike is gone.
    """
    hashes = _read(pool, "dhash")
    before: dict[str, str] = {}
    if settled:
        hashes, out = _settled_first(pool, hashes, settled)
        before = {sha256: settled.left_out[sha256] for sha256, _ in _look_up(pool, out).values()}
    if not len(hashes.row):
        return before
    first, group = _distinct(hashes.bits)
    ones, others, _ = alike(hashes.bits[first], None, distance)
    holder = first[_thin(len(first), ones, others)][group]
    dropped = np.flatnonzero(holder != np.arange(len(holder)))
    differ = popcount(hashes.bits[dropped] ^ hashes.bits[holder[dropped]]).sum(axis=1)
    named = _look_up(pool, hashes.row[np.union1d(dropped, holder[dropped])])
    return before | {
        named[row][0]: f"{named[row][1]} looks like {named[kept][1]} ({bits} of {BITS} bits differ)"
        for row, kept, bits in zip(
            hashes.row[dropped].tolist(), hashes.row[holder[dropped]].tolist(), differ.tolist(), strict=True
        )
    }


def _settled_first(pool: Pool, hashes: _Hashes, settled: Settled) -> tuple[_Hashes, np.ndarray]:
    """The hashes without those that were left out before, those that stay in front; and the rows of the former."""
    known = pa.array(list(settled.left_out), pa.string())
    out = np.concatenate([pc.is_in(t["sha256"], value_set=known).to_numpy() for t in pool.tables(("sha256",))])
    decided = np.zeros(len(out), bool)
    decided[: len(settled.rows)] = settled.rows
    gone = (decided & out)[hashes.row]
    left = np.flatnonzero(~gone)
    order = left[np.argsort(~decided[hashes.row[left]], kind="stable")]
    return _Hashes(hashes.row[order], hashes.bits[order]), hashes.row[gone]


def shared(pools: Mapping[str, Pool]) -> list[str]:
    """A sentence for each image that two of these pools (labelled, truth, test) hold, byte for byte."""
    return [
        f"{image} of {first} is {other_image} of {second}"
        for first, second in combinations(pools, 2)
        for (_, image), (_, other_image), _ in common(pools[first], pools[second])
    ]


def common(mine_pool: Pool, their_pool: Pool) -> Iterator[tuple[tuple[str, str], tuple[str, str], int]]:
    """Images with the same bytes, in the order of the first pool: (SHA-256, name) in both."""
    mine, theirs = _read(mine_pool, "sha256"), _read(their_pool, "sha256")
    a, b, differ = alike(mine.bits, theirs.bits, 0)
    order = np.argsort(a, kind="stable")
    a, b = a[order], b[order]
    named, their_named = _look_up(mine_pool, mine.row[a]), _look_up(their_pool, theirs.row[b])
    for row, reference, bits in zip(mine.row[a].tolist(), theirs.row[b].tolist(), differ.tolist(), strict=True):
        yield named[row], their_named[reference], bits


def _read(pool: Pool, column: str) -> _Hashes:
    """The first 128 bits of this hash of every readable image that has it."""
    rows, parts, start = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.uint64)], 0
    for table in pool.tables((column, "state")):
        state, hashes = table["state"].to_pylist(), table[column].to_pylist()
        good = [n for n, (is_ok, value) in enumerate(zip(state, hashes, strict=True)) if is_ok == OK and value]
        rows.append(np.array(good, np.int64) + start)
        raw = bytes.fromhex("".join(hashes[n][: BITS // 4] for n in good))
        parts.append(np.frombuffer(raw, ">u8").reshape(-1, 2).astype(np.uint64))
        start += table.num_rows
    return _Hashes(np.concatenate(rows), np.concatenate(parts))


def _look_up(pool: Pool, rows: np.ndarray) -> dict[int, tuple[str, str]]:
    """SHA-256 and name of these rows of a pool."""
    rows, start = np.unique(rows), 0
    named: dict[int, tuple[str, str]] = {}
    for table in pool.tables(("sha256", "name")) if len(rows) else ():
        here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + table.num_rows)]
        part = table.take(here - start)
        named |= zip(here.tolist(), zip(*(c.to_pylist() for c in part.columns), strict=True), strict=True)
        start += table.num_rows
    return named


def _distinct(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The earliest position of each distinct hash, rising, int64 (U,), and for each of N hashes its place among them:
    a thousand frames of one still must not give half a million pairs."""
    order = np.lexsort((bits[:, 1], bits[:, 0]))
    ordered = bits[order]
    is_new = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)] if len(bits) else np.zeros(0, bool)
    first = order[is_new]
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    group = np.empty(len(bits), np.int64)
    group[order] = place[np.cumsum(is_new) - 1]
    return np.sort(first), group


def _thin(images: int, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each image the one that stays for it, int64 (images,): itself if it is alike none that stays before it."""
    holder = np.arange(images)
    order = np.lexsort((ones, others))
    ones, others = ones[order], others[order]
    later, starts = np.unique(others, return_index=True)
    for image, (start, end) in zip(later.tolist(), pairwise([*starts, len(ones)]), strict=True):
        before = ones[start:end]
        kept = before[holder[before] == before]
        if len(kept):
            holder[image] = kept[0]
    return holder


def alike(bits: np.ndarray, others: np.ndarray | None, distance: int) -> Pairs:
    """All pairs of hashes, uint64 (N, 2) and (M, 2), that differ in at most `distance` bits, each once, in no order.
    Without `others`: pairs inside `bits`, the smaller position first."""
    table = bits if others is None else others
    flips, bands = _plan(len(bits), len(table), distance)
    used = [np.arange(band, BITS, bands)[:MAX_KEY] for band in range(bands)]
    masks = [_mask(places) for places in used]
    parts: list[Pairs] = [(np.zeros(0, np.int64),) * 3]
    for band in range(bands):
        keys = _Sorted.of(_keys(bits, used[band]))
        other_keys = keys if others is None else _Sorted.of(_keys(others, used[band]))
        for flip in [0, *(1 << n for n in range(len(used[band])))] if flips else [0]:
            for a, b in _join(keys, other_keys, np.uint64(flip), once=others is None):
                both = bits[a] ^ table[b]
                differ = popcount(both).sum(axis=1)
                near = differ <= distance
                for mask in masks[:band]:  # found before, in an earlier band
                    near[near] = popcount(both[near] & mask).sum(axis=1) > flips
                parts.append((a[near], b[near], differ[near]))
    a, b, differ = (np.concatenate(column) for column in zip(*parts, strict=True))
    return a, b, differ


def _plan(images: int, others: int, distance: int) -> tuple[int, int]:
    """Bits (0 or 1) by which a band of two alike images may differ, and the number of bands: whichever costs less."""

    def cost(flips: int) -> float:
        bands = distance // (flips + 1) + 1
        width = min(BITS // bands, MAX_KEY)
        lookups = images * bands * (1 + flips * width)
        return LOOKUP * lookups + lookups * others / 2.0**width

    flips = min((0, 1), key=cost)
    return flips, distance // (flips + 1) + 1


def _mask(places: np.ndarray) -> np.ndarray:
    mask = np.zeros(BITS, np.uint8)
    mask[places] = 1
    return np.packbits(mask).view(">u8").astype(np.uint64)


def _keys(bits: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The bits at these places (0 is the highest of the first word) as numbers, uint64 (N,). A band takes every n-th
    bit: neighbours depend on each other, and would make bands that many images share."""
    keys = np.zeros(len(bits), np.uint64)
    for n, place in enumerate(places.tolist()):
        keys |= (bits[:, place // 64] >> np.uint64(63 - place % 64) & np.uint64(1)) << np.uint64(n)
    return keys


@dataclass(frozen=True)
class _Sorted:
    """Keys that rise, uint64 (N,), and the position each came from, rising among equal keys."""

    keys: np.ndarray
    position: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray) -> _Sorted:
        position = np.argsort(keys, kind="stable")
        return cls(keys[position], position)


def _join(first: _Sorted, second: _Sorted, flip: np.uint64, once: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions (a, b) of all pairs whose keys differ in the bits of `flip`, in blocks. `once`: only those with a < b,
    for an `other` that is `one`."""
    wanted = first.keys ^ flip
    start, end = np.searchsorted(second.keys, wanted, "left"), np.searchsorted(second.keys, wanted, "right")
    if once and not flip:
        start = np.arange(1, len(start) + 1)  # equal keys stand in the order of their positions
    matched = np.flatnonzero(end > start)
    start, counts = start[matched], (end - start)[matched]
    total = np.cumsum(counts)
    low = 0
    while low < len(matched):
        done = total[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(total, done + BLOCK, "right")))
        many = counts[low:high]
        step = np.arange(many.sum()) - np.repeat(total[low:high] - many - done, many)
        a, b = (
            np.repeat(first.position[matched[low:high]], many),
            second.position[np.repeat(start[low:high], many) + step],
        )
        if once and flip:
            ordered = a < b
            a, b = a[ordered], b[ordered]
        yield a, b
        low = high


def popcount(words: np.ndarray) -> np.ndarray:
    """Set bits of uint64 values, int64 of the same shape (np.bitwise_count needs NumPy 2)."""
    one, two, four = (np.uint64(mask) for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    words = words - ((words >> np.uint64(1)) & one)
    words = (words & two) + ((words >> np.uint64(2)) & two)
    words = (words + (words >> np.uint64(4))) & four
    return ((words * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)

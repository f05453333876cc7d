"""The boxes and masks closest to their thresholds, cut out of a version's images: what a person looks at first.

They are picked by score, not at random: nothing about precision may be estimated from them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from builder.report.colours import BACKDROP, INK, OUTCOMES
from builder.report.paint import outline, picture_of, tint
from builder.report.quality import thresholds
from builder.store.labels import checked_table
from builder.store.manifest import Manifest
from builder.store.version import Version

MOST = 24
THREADS = 8
"""Shards that are looked through at once."""
CONTEXT = 1.6
"""Side of a crop in longer sides of its box."""
LEAST = 48
"""Pixels, the least side of a crop: a tiny box alone cannot be recognised."""
NEAR = 0.1
"""Of score: boxes further from the threshold are shown only where there are too few within."""
TILE = 240
"""Pixels, the side of a crop as it is shown."""


@dataclass(frozen=True)
class Close:
    """A box close to its threshold. box: x1, y1, x2, y2, pixels. confidence: what the threshold acts on. shards: in
    which its image may be, by position. rle: of masks, run lengths of the whole image."""

    key: str
    label: int
    outcome: str
    confidence: float
    threshold: float
    box: tuple[float, float, float, float]
    shards: range
    rle: bytes = b""


Tile = Callable[[Image.Image, Close], bytes]
"""Makes the picture, a JPEG, of a box in its image."""


def closest(version: Version, most: int = MOST) -> list[Close]:
    """At most `most` boxes, half of them kept and half ignored by their score if there are so many; each class's
    closest before any class's second, classes with many kept boxes first. The choice depends on no row order."""
    import duckdb

    manifest, path = version.manifest, checked_table(version)
    columns = pq.read_schema(path).names
    confidence = "coalesce(calibrated, score)" if "calibrated" in columns else "score"
    keep = thresholds(manifest).kept_from
    known = np.flatnonzero(np.isfinite(keep))
    kept_first = sorted(known, key=lambda n: (-manifest.per_class[manifest.classes[n]]["kept"], n))
    place = np.argsort(kept_first)  # known is sorted, so positions in kept_first by position in known
    at = {"label": known.astype(np.int16), "threshold": keep[known], "place": place.astype(np.int32)}
    mask = "rle" if "rle" in columns else "''::BLOB"
    present = ""
    if manifest.images.get("empty"):  # their images are not in the shards; 64 bits of a key, once, are a tenth of it
        kept = "SELECT DISTINCT hash(key) FROM read_parquet($path) WHERE outcome = 'kept'"
        present = f"AND hash(key) IN ({kept})"
    with duckdb.connect(":memory:") as sql:
        sql.register("thresholds", pa.table(at))
        sql.register("gone", pa.table({"key": pa.array(manifest.tombstones, pa.string())}))
        rows = sql.execute(
            f"""
            WITH labels AS (FROM read_parquet($path, file_row_number = true)),
            near AS (
                SELECT label, place, outcome, {{
                    'distance': abs({confidence} - threshold), 'key': key, 'x1': x1, 'y1': y1, 'x2': x2, 'y2': y2,
                    'confidence': {confidence}, 'threshold': threshold, 'position': file_row_number,
                    'rle': {mask}}} AS box
                FROM labels JOIN thresholds USING (label)
                WHERE (outcome = 'kept' OR reason = 'ignore_band') AND key NOT IN (SELECT key FROM gone) {present}),
            best AS (
                SELECT label, place, outcome, unnest(min(box, $most)) AS box FROM near GROUP BY label, place, outcome),
            ranked AS (SELECT *, row_number() OVER (PARTITION BY label, outcome ORDER BY box) AS rank FROM best)
            SELECT label, outcome, box FROM ranked ORDER BY box.distance > {NEAR}, rank, place, outcome
            """,
            {"path": str(path), "most": most},
        ).fetchall()
    half = {outcome: [row for row in rows if row[1] == outcome] for outcome in ("kept", "ignored")}
    spare = max(0, most // 2 - len(half["ignored"]))
    chosen = half["kept"][: most - most // 2 + spare]
    chosen += half["ignored"][: most - len(chosen)]
    shards = _shards(path, manifest, [box["position"] for _, _, box in chosen], [row[1] == "kept" for row in chosen])
    return [
        Close(
            box["key"],
            int(label),
            outcome,
            float(box["confidence"]),
            float(box["threshold"]),
            (box["x1"], box["y1"], box["x2"], box["y2"]),
            place,
            box["rle"] or b"",
        )
        for (label, outcome, box), place in zip(chosen, shards, strict=True)
    ]


def _shards(path: Path, manifest: Manifest, positions: Sequence[int], kept: Sequence[bool]) -> Iterator[range]:
    """The shards in which each row of labels.parquet may be. Rows lie in the order of shards, and every kept one is in
    its shard: the kept rows before a row tell where it is, without a look into the tars."""
    wanted = np.sort(np.asarray(positions, np.int64))
    before = dict[int, int]()
    start = total = 0
    for batch in pq.ParquetFile(path, read_dictionary=["outcome"]).iter_batches(columns=["outcome"]):
        outcome = batch.column(0)
        is_kept = np.isin(outcome.indices.to_numpy(zero_copy_only=False), _codes(outcome.dictionary))
        here = wanted[(wanted >= start) & (wanted < start + len(batch))]
        counts: np.ndarray = np.cumsum(is_kept) - is_kept
        before |= {int(row): total + int(counts[row - start]) for row in here}
        total += int(is_kept.sum())
        start += len(batch)
    ends = np.cumsum([shard.kept for shard in manifest.shards])
    last = len(ends) - 1
    for row, sure in zip(positions, kept, strict=True):
        high = int(np.searchsorted(ends, before[row], side="right"))
        low = high if sure else int(np.searchsorted(ends, before[row], side="left"))
        yield range(min(low, last), min(high, last) + 1)


def _codes(dictionary: pa.Array) -> list[int]:
    return [n for n, name in enumerate(dictionary.to_pylist()) if name == "kept"]


def crops(version: Version, boxes: Sequence[Close], tile: Tile | None = None) -> list[bytes | None]:
    """A JPEG of each box with what is around it, TILE pixels square; None for one whose image is not in the shards.
    tile: makes the picture, of the box by default.

    Reads the headers of as many shards as the boxes are in, each up to the last image wanted of it; several shards at
    once, since what is not in memory costs a wait per header.
    """
    manifest = version.manifest
    wanted: dict[int, dict[str, list[int]]] = {}
    for n, box in enumerate(boxes):
        for shard in box.shards:
            wanted.setdefault(shard, {}).setdefault(box.key, []).append(n)

    def of_shard(number: int) -> dict[int, bytes]:
        keys, tiles = wanted[number], dict[int, bytes]()
        for sample in version.samples(manifest.shards[number]):
            if sample.key in keys:
                picture = picture_of(sample, manifest)
                tiles |= {n: (tile or _crop)(picture, boxes[n]) for n in keys.pop(sample.key)}
                if not keys:
                    break
        return tiles

    made: dict[int, bytes] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for tiles in pool.map(of_shard, sorted(wanted)):
            made |= tiles
    return [made.get(n) for n in range(len(boxes))]


def whole(picture: Image.Image, close: Close) -> bytes:
    """The whole image, in the middle of a square."""
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    page = Image.new("RGB", (TILE, TILE), BACKDROP)
    shown = picture.resize(size, Image.Resampling.BICUBIC if scale < 4 else Image.Resampling.NEAREST)
    page.paste(shown, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return _jpeg(page)


def _crop(picture: Image.Image, close: Close) -> bytes:
    x1, y1, x2, y2 = close.box
    side = max(CONTEXT * max(x2 - x1, y2 - y1), LEAST)
    left, top = (x1 + x2 - side) / 2, (y1 + y2 - side) / 2
    scale = TILE / side
    window = (left, top, left + side, top + side)
    # what lies outside of the image is grey, so that every box stands in the middle of a square
    page, covered = Image.new("RGB", (TILE, TILE), BACKDROP), Image.new("L", (TILE, TILE))
    inside = (max(0, left), max(0, top), min(picture.width, window[2]), min(picture.height, window[3]))
    if inside[2] > inside[0] and inside[3] > inside[1]:
        size = (max(1, round((inside[2] - inside[0]) * scale)), max(1, round((inside[3] - inside[1]) * scale)))
        corner = (round((inside[0] - left) * scale), round((inside[1] - top) * scale))
        page.paste(picture.resize(size, Image.Resampling.BICUBIC, box=inside), corner)
        if close.rle:
            mask = _mask(close.rle, picture.size)
            covered.paste(mask.resize(size, Image.Resampling.NEAREST, box=inside), corner)
    if close.rle:
        tint(page, covered, INK, thick=4)
        tint(page, covered, OUTCOMES[close.outcome], thick=2)
        return _jpeg(page)
    corners = [(x1 - left) * scale, (y1 - top) * scale, (x2 - left) * scale, (y2 - top) * scale]
    draw = ImageDraw.Draw(page)
    draw.rectangle([corners[0] - 2, corners[1] - 2, corners[2] + 2, corners[3] + 2], outline=INK, width=6)
    outline(draw, corners, close.outcome, thick=4)
    return _jpeg(page)


def _mask(rle: bytes, size: tuple[int, int]) -> Image.Image:
    from teachers.masks import decode

    (mask,) = decode([rle], size[1], size[0])
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _jpeg(page: Image.Image) -> bytes:
    out = io.BytesIO()
    page.save(out, "JPEG", quality=82)
    return out.getvalue()

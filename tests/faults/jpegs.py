"""Damaged JPEGs in a pool: each is a row with libjpeg's words, or its picture is that of the whole file."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import simplejpeg
from PIL import Image

from builder.label.predictions import read_failures
from builder.scan.pool import find_pool
from builder.store.store import Store
from teachers.images import decode_rgb
from tests.faults.commands import Ran, run
from tests.faults.verdict import Verdict, judge
from tests.helpers.pools import write_recipe, write_results

ROW = "damaged JPEGs"
SMALL = 0.05
SIZE = (96, 64)
END = b"\xff\xd9"
WIDTH, HEIGHT = SIZE


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Cuts, flips, zeros and moved bytes in JPEGs of eight kinds, all in one pool that a build makes a version of. The
    oracle is the picture of the whole file. What libjpeg's strict decoder, asked directly, takes without a word may be
    another picture: that no decoder can notice."""
    wholes = dict(_wholes())
    faults = [(kind, damage, harm(data)) for kind, data in wholes.items() for damage, harm in _damages(data)]
    faults = faults[:: max(1, round(1 / share))]
    pool = folder / "pool"
    pool.mkdir()
    names = {f"{n:03d}.jpg": fault for n, fault in enumerate(faults)}
    for name, (_, _, data) in names.items():
        (pool / name).write_bytes(data)
    write_results(folder, list(names), size=SIZE)
    write_recipe(folder, keep={"score": 0.05}, max_failure_rate=1.0)
    ran = run("build", "recipe.yaml", cwd=folder, seconds=300)
    verdict = judge(ran)
    rows, kept = (_rows(folder), _kept(folder)) if verdict is Verdict.SURVIVED else ({}, {})
    for name, (kind, damage, data) in names.items():
        fault = f"{kind}: {damage}"
        if verdict is not Verdict.SURVIVED:
            yield fault, verdict, ran.stderr
        else:
            yield fault, *_verdict(name, data, decode_rgb(wholes[kind]), rows, kept, ran)


def _verdict(
    name: str, data: bytes, whole: np.ndarray, rows: dict[str, str], kept: dict[str, bytes], ran: Ran
) -> tuple[Verdict, str]:
    if name in rows:
        return (Verdict.SURVIVED, rows[name]) if rows[name] else (Verdict.SILENT, "a row without a reason")
    if name not in kept:
        return Verdict.LOST, f"{name} is neither in the version nor a row: {ran.stderr}"
    pixels = decode_rgb(kept[name])
    wrong = float((pixels != whole).any(axis=2).mean()) if pixels.shape == whole.shape else 1.0
    if not wrong:
        return Verdict.HARMLESS, ""
    try:
        simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        return Verdict.SILENT, f"{wrong:.0%} of the pixels are other ones, libjpeg says {error}"
    return Verdict.UNDETECTABLE, f"{wrong:.0%} of the pixels"


def _wholes() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x * 2, y * 3, x + y], axis=-1) + rng.integers(0, 60, (HEIGHT, WIDTH, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 3, "a maker"
    kinds = {
        "baseline": {},
        "with EXIF": {"exif": tags},
        "progressive": {"progressive": True},
        "progressive with EXIF": {"progressive": True, "exif": tags},
        "grey": {"mode": "L"},
        "CMYK": {"mode": "CMYK"},
        "restarts": {"restart_marker_blocks": 4},
        "4:4:4 of quality 98": {"subsampling": 0, "quality": 98},
    }
    for kind, options in kinds.items():
        out = io.BytesIO()
        image.convert(str(options.pop("mode", "RGB"))).save(out, "JPEG", **options)
        yield kind, out.getvalue()


def _damages(whole: bytes) -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    """40 of a file: 6 cuts with an end mark behind, 4 without, 18 flipped bits, 6 runs of zeros, 3 removed and 3
    repeated pieces, all in the data of its scans."""
    start = whole.index(b"\xff\xda") + 14
    length = len(whole) - 2 - start

    def at(part: float) -> int:
        return start + int(part * length)

    for part in (0.02, 0.2, 0.4, 0.6, 0.8, 0.97):
        yield f"cut at {part:.0%}, an end behind", lambda data, part=part: data[: at(part)] + END
    for part in (0.1, 0.5, 0.9, 0.99):
        yield f"cut at {part:.0%}", lambda data, part=part: data[: at(part)]
    for n in range(18):
        place, bit = at((n + 0.5) / 18), n % 8
        yield (
            f"bit {bit} of byte {place}",
            lambda data, place=place, bit=bit: data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :],
        )
    for n, size in enumerate((8, 32, 64, 128, 256, 512)):
        place, size = at((n + 1) / 8), min(size, length // 4)
        yield (
            f"{size} zeros at {place}",
            lambda data, place=place, size=size: data[:place] + bytes(size) + data[place + size :],
        )
    for n, size in enumerate((1, 40, 200)):
        place, size = at((n + 1) / 5), min(size, length // 4)
        yield f"{size} bytes removed", lambda data, place=place, size=size: data[:place] + data[place + size :]
        yield f"{size} bytes twice", lambda data, place=place, size=size: data[: place + size] + data[place:]


def _rows(folder: Path) -> dict[str, str]:
    """Name -> reason of each image that could not be read."""
    store = Store(folder / "store")
    pool = find_pool(store, str(folder / "pool"))
    rows = {image.name: image.error for image in pool.images() if image.state == "unreadable"}
    (predictions,) = (path for path in store.predictions.iterdir() if path.is_dir())
    for chunk in pool.chunks():
        rows |= {chunk.images[row.position].name: row.error for row in read_failures(predictions / chunk.digest)}
    return rows


def _kept(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of each image of the version."""
    kept = {}
    for path in sorted((folder / "store" / "datasets" / "pets" / "v1" / "data").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        labels = {name[:-5]: orjson.loads(data)["name"] for name, data in members.items() if name.endswith(".json")}
        kept |= {name: members[f"{key}.jpg"] for key, name in labels.items()}
    return kept

"""Whatever turns an image, in whatever format, is applied once: where it is decoded, hashed, scanned and written."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from builder.cut.images import Form, packed
from builder.scan.dhash import dhash
from builder.scan.pool import find_pool
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from builder.store.sums import SUMS
from teachers.images import UPRIGHT, decode_rgb, encode_upright, file_extensions, read_header

ORIENTATIONS = range(1, 9)
BACK = {6: 8, 8: 6}
"""Orientation -> the one whose operation undoes it, where that is another one."""
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("jpg", {"quality": 95, "subsampling": 0}),
    "MPO": ("mpo", {"quality": 95, "subsampling": 0, "save_all": True, "append_images": [Image.new("RGB", (4, 4))]}),
    "PNG": ("png", {}),
    "WEBP": ("webp", {"lossless": True}),
    "TIFF": ("tif", {}),
    "TIFF of LZW": ("tif", {"compression": "tiff_lzw"}),
    "TIFF of JPEG": ("tif", {"compression": "jpeg", "quality": 95}),
    "AVIF": ("avif", {"quality": 95, "subsampling": "4:4:4"}),
    "HEIF": ("heic", {"quality": 95}),
}


def upright() -> np.ndarray:
    y, x = np.mgrid[:48, :80]
    return np.stack([x * 3, y * 5, np.where((x < 40) & (y < 24), 230, 20)], axis=-1).astype(np.uint8)


def turned(format: str, orientation: int) -> bytes:
    """A file whose pixels lie as a camera held this way stores them, with the tag that says so."""
    extension, options = FORMATS[format]
    if extension not in file_extensions():
        pytest.skip(f"{extension} cannot be read here")
    if extension == "heic" and find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    image = Image.fromarray(upright())
    back = BACK.get(orientation, orientation)
    stored = image if back == 1 else image.transpose(UPRIGHT[back])
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored.save(out, format.partition(" ")[0], exif=exif.tobytes() if extension == "heic" else exif, **options)
    return out.getvalue()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_an_image_is_turned_upright_once(format: str, orientation: int) -> None:
    data = turned(format, orientation)
    head = read_header(data)
    assert (head.width, head.height) == (80, 48)
    assert head.orientation == (1 if format == "HEIF" else orientation)  # whose plugin turns what the file says
    assert head.format == ("jpg" if format == "MPO" else FORMATS[format][0])
    pixels = decode_rgb(data)
    assert pixels.shape == (48, 80, 3)
    assert np.abs(pixels.astype(int) - upright()).mean() < 4
    for written in ("jpg", "png", "webp"):
        again = encode_upright(data, written)
        assert read_header(again).orientation == 1
        assert np.abs(decode_rgb(again).astype(int) - pixels).mean() < 2
    plain = dhash(encode_upright(data, "png"))
    assert (int(dhash(data), 16) ^ int(plain, 16)).bit_count() <= 3
    assert (int(dhash(data, head.orientation), 16) ^ int(plain, 16)).bit_count() <= 3


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("format", [format for format in FORMATS if format not in ("AVIF", "HEIF")])
def test_opencv_turns_it_the_same_way(format: str, orientation: int) -> None:
    cv2 = pytest.importorskip("cv2")
    data = turned(format, orientation)
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert theirs.shape == (48, 80, 3)
    assert np.abs(decode_rgb(data).astype(int) - theirs).mean() < 2


def test_a_pool_of_every_format_is_scanned_and_written_upright(tmp_path: Path) -> None:
    for format in FORMATS:
        if FORMATS[format][0] in file_extensions():
            for orientation in ORIENTATIONS:
                name = f"{format.replace(' ', '_')}_{orientation}.{FORMATS[format][0]}"
                (tmp_path / name).write_bytes(turned(format, orientation))
    pool = scan_pool(str(tmp_path), Store(tmp_path / "store"))
    assert pool.count("unreadable") == 0 and len(pool) >= 7 * 8
    for image in pool.images():
        assert (image.width, image.height) == (80, 48), image.name
        _, data, _, reencoded = packed(image, Form("png"))
        assert reencoded == ("format" if image.format != "png" else "upright" if image.orientation > 1 else "none")
        if reencoded != "none":
            with Image.open(io.BytesIO(data)) as file:  # as any reader sees it
                assert file.getexif().get(0x0112, 1) == 1
                assert np.abs(np.asarray(file).astype(int) - upright()).mean() < 4, image.name


def test_an_orientation_in_xmp_alone_counts_once_too() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    stored = Image.fromarray(upright()).transpose(UPRIGHT[8])
    for format, options in (("TIFF", {"tiffinfo": {700: xmp}}), ("JPEG", {"xmp": xmp, "quality": 95})):
        out = io.BytesIO()
        stored.save(out, format, **options)
        head = read_header(out.getvalue())
        assert (head.width, head.height, head.orientation) == (80, 48, 6), format
        assert np.abs(decode_rgb(out.getvalue()).astype(int) - upright()).mean() < 4, format


def test_turned_tiffs_that_an_older_scan_read_are_read_again(tmp_path: Path) -> None:
    for orientation in (1, 6):
        (tmp_path / f"{orientation}.tif").write_bytes(turned("TIFF", orientation))
    store = Store(tmp_path / "store")
    pool = scan_pool(str(tmp_path), store)
    table = pq.read_table(pool.path, partitioning=None)
    wrong = pa.array([48 if n == 6 else 80 for n in table["orientation"].to_pylist()], pa.int32())
    summary = orjson.loads(table.schema.metadata[b"summary"])
    del summary["reader"]
    old = table.set_column(table.column_names.index("width"), "width", wrong)
    pq.write_table(old.replace_schema_metadata({"source": pool.source, "summary": orjson.dumps(summary)}), pool.path)
    (pool.path.parent / SUMS).unlink()  # nor were there any then
    assert [image.width for image in find_pool(store, pool.id).images()] == [80, 48]
    again = scan_pool(str(tmp_path), store)
    assert again.id == pool.id and [image.width for image in again.images()] == [80, 80]

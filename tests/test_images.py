"""Every kind of image becomes upright RGB; broken ones say why."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from teachers.images import ImageError, decode_rgb, encode_upright, read_header


def gradient(width: int = 30, height: int = 20) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 8, y * 12, (x + y) * 4], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, format: str, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    image.save(out, format, exif=exif, **options) if orientation != 1 else image.save(out, format, **options)
    return out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("format", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_every_orientation_is_made_upright_as_pillow_does(format: str, extension: str, orientation: int) -> None:
    data = encoded(Image.fromarray(gradient()), format, orientation)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    head = read_header(data)
    assert (head.width, head.height) == expected.size
    assert (head.format, head.orientation) == (extension, orientation)
    assert np.abs(decode_rgb(data).astype(int) - np.asarray(expected)).max() <= 2
    again = encode_upright(data, extension)
    assert read_header(again).orientation == 1
    assert np.abs(decode_rgb(again).astype(int) - np.asarray(expected)).max() <= (8 if extension == "jpg" else 2)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb_as_pillow_converts_it(mode: str) -> None:
    image = Image.fromarray(gradient()).convert(mode)
    data = encoded(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    assert np.array_equal(decode_rgb(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_cmyk_and_grey_jpegs() -> None:
    for mode in ("CMYK", "L"):
        data = encoded(Image.fromarray(gradient()).convert(mode), "JPEG")
        assert np.abs(decode_rgb(data).astype(int) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).max() <= 1


def test_sixteen_bit_grey_keeps_its_range_instead_of_turning_white() -> None:
    wide = (np.arange(600).reshape(20, 30) * 109).astype(np.uint16)
    out = io.BytesIO()
    Image.fromarray(wide).save(out, "PNG")
    assert np.array_equal(decode_rgb(out.getvalue())[..., 0], wide >> 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"not an image", "not an image"),
        (encoded(Image.fromarray(gradient()), "PNG")[:60], "cannot be decoded"),
        (encoded(Image.fromarray(gradient()), "JPEG")[:-40], "truncated"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
        (encoded(Image.fromarray(gradient()), "PCX"), "PCX is not supported"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_rgb(data)


def test_a_really_truncated_photograph_is_an_error(shared_data: Path) -> None:
    data = (shared_data / "edge" / "truncated_00090.jpg").read_bytes()
    assert read_header(data).format == "jpg"
    with pytest.raises(ImageError, match="truncated"):
        decode_rgb(data)

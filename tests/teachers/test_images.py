"""Every kind of image becomes upright RGB; broken ones say why."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from teachers.images import ImageError, decode_rgb, encode_upright, middle, read_header


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


def test_a_camera_picture_with_a_preview_behind_it_is_a_jpeg() -> None:
    first, second = Image.fromarray(gradient()), Image.new("RGB", (4, 4))
    exif, out = Image.Exif(), io.BytesIO()
    exif[274] = 6
    first.save(out, "MPO", save_all=True, append_images=[second], exif=exif, quality=95)
    head = read_header(out.getvalue())
    assert (head.format, head.orientation, head.height, head.width) == ("jpg", 6, *gradient().shape[1::-1])
    upright = np.asarray(first.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(decode_rgb(out.getvalue()) - upright).mean() < 4


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


@pytest.mark.parametrize(
    ("size", "left"), [((4, 32), (4, 32)), ((4, 33), (4, 33)), ((4, 40), (4, 32)), ((99, 3), (25, 3)), ((1, 1), (1, 1))]
)
def test_the_middle_of_a_strip(size: tuple[int, int], left: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    image[(size[0] - 1) // 2, (size[1] - 1) // 2] = 9
    cut = middle(image)
    assert cut.shape == (*left, 3)
    assert cut[(left[0] - 1) // 2, (left[1] - 1) // 2].all()  # the centre stays the centre

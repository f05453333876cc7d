"""Every kind of image becomes upright RGB; broken ones say why."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from teachers.depth import Reading
from teachers.images import (
    ImageError,
    decode_grey,
    decode_rgb,
    encode_upright,
    is_damaged,
    is_deep,
    middle,
    read_header,
)


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
        (encoded(Image.fromarray(gradient()), "JPEG")[:-40], r"is damaged \(Premature end of JPEG file\)"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "has floating-point pixels up to 0.0: say with images.range"),
        (encoded(Image.fromarray(gradient()), "PCX"), "PCX is not supported"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_rgb(data)


def test_a_really_truncated_photograph_is_an_error(shared_data: Path) -> None:
    data = (shared_data / "edge" / "truncated_00090.jpg").read_bytes()
    assert read_header(data).format == "jpg"
    with pytest.raises(ImageError, match=r"is damaged \(Premature end of JPEG file\)"):
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


def noisy(mode: str = "RGB", exif: bool = False, **options: object) -> bytes:
    """A JPEG whose data fill most of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    tags, out = Image.Exif(), io.BytesIO()
    if exif:
        tags[0x0112], tags[0x010F] = 6, "a maker"
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", exif=tags, **options)
    return out.getvalue()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 3] + b"\xff\xd9"


def zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(400) + data[middle + 400 :]


@pytest.mark.parametrize("harm", [cut, zeroed, lambda data: data[:-2] + b"\x12" * 90 + b"\xff\xd9"])
@pytest.mark.parametrize(
    "whole",
    [
        noisy(),
        noisy(exif=True),
        noisy("L"),
        noisy("CMYK", exif=True),
        noisy(progressive=True),
        noisy(restart_marker_blocks=2),
        noisy(exif=True).replace(b"JFIF\0\1", b"JFIF\0\7"),  # a first warning that says nothing of pixels
    ],
)
def test_a_damaged_jpeg_is_found_in_every_way_of_reading_it(harm: Callable[[bytes], bytes], whole: bytes) -> None:
    assert decode_rgb(whole).shape[2] == 3 and not is_damaged(whole)
    data = harm(whole)
    for read in (decode_rgb, lambda data: decode_grey(data, 8), lambda data: encode_upright(data, "png")):
        with pytest.raises(ImageError, match=r"^is damaged \(.+\)$"):
            read(data)
    keep = Reading(damaged="keep")
    assert is_damaged(data) and decode_rgb(data, reading=keep).shape == decode_rgb(whole).shape
    again = encode_upright(data, "png", reading=keep)
    assert np.array_equal(decode_rgb(again), decode_rgb(data, reading=keep))


@pytest.mark.parametrize(
    "said",
    [
        lambda data: data.replace(b"JFIF\0\1", b"JFIF\0\7"),
        lambda data: data[:2] + b"\xff\xe2\0\x13ICC_PROFILE\0\x05\x03abc" + data[2:],
        lambda data: data[: data.index(b"\xff\xda")] + b"left over" + data[data.index(b"\xff\xda") :],
        lambda data: data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\7" + data[2:],  # no such transform
        lambda data: data + b"behind the end" * 9,
        lambda data: data[:-2] + b"\xff" * 60 + b"\xff\xd9",  # fill
        lambda data: data[:-2] + bytes(60) + b"\xff\xd9",  # fill of some cameras
        lambda data: data[:-2] + bytes(60) + b"\xff\xd9" + noisy("L"),  # with a preview behind the end
    ],
)
def test_what_a_jpeg_says_of_itself_is_no_damage(said: Callable[[bytes], bytes]) -> None:
    for whole in (noisy(), noisy(exif=True, progressive=True)):
        assert np.array_equal(decode_rgb(said(whole)), decode_rgb(whole))


@pytest.mark.parametrize("numbers", [b"\0\0\0", b"\0\x00\x3f", b"\x01\x05\x21"])
def test_numbers_that_a_sequential_scan_does_not_use_are_no_damage(numbers: bytes) -> None:
    """As phones write them: libjpeg warns of them, and every reader shows the picture."""
    for whole in (noisy(), noisy("L"), noisy(exif=True, restart_marker_blocks=2)):
        place = whole.rindex(b"\xff\xda")
        end = place + 2 + whole[place + 3]
        data = whole[: end - 3] + numbers + whole[end:]
        with Image.open(io.BytesIO(data)) as oracle:
            assert np.array_equal(decode_rgb(data), np.asarray(ImageOps.exif_transpose(oracle).convert("RGB")))
        assert not is_damaged(data)
        for damaged in (cut(data), zeroed(data)):
            assert is_damaged(damaged)


def test_a_progressive_jpeg_that_ends_after_some_of_its_scans_is_damaged() -> None:
    whole, starts = noisy(progressive=True), []
    while (place := whole.find(b"\xff\xc4", starts[-1] + 2 if starts else 0)) >= 0:
        starts.append(place)
    assert len(starts) > 4  # the tables of each scan; libjpeg has nothing to say of an end before them
    for place in starts[2:]:
        with pytest.raises(ImageError, match="scans are missing"):
            decode_rgb(whole[:place] + b"\xff\xd9")


def test_no_photograph_is_taken_for_damaged(shared_data: Path) -> None:
    photographs = sorted(path for path in shared_data.rglob("*.jpg") if path.parent.name != "edge")[::40]
    assert len(photographs) > 90
    assert not [path for path in photographs if is_damaged(path.read_bytes())]


def deep(values: np.ndarray, format: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, format)
    return out.getvalue()


def tagged(data: bytes, tag: int, value: int) -> bytes:
    """A TIFF with another value of a tag that it has."""
    place = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
    return data[:place] + struct.pack("<H", value) + data[place + 2 :]


RAMP = np.arange(64 * 64).reshape(64, 64)  # 12 bits


@pytest.mark.parametrize(
    ("data", "range", "outcome"),
    [
        (deep((RAMP * 16).astype(np.uint16)), None, RAMP >> 4),
        (deep((RAMP * 16).astype(np.uint16), "TIFF"), None, RAMP >> 4),
        (
            deep(RAMP.astype(np.uint16)),
            None,
            r"no pixel above 4095 of 65535: .*images.range .*\(4095 perhaps, or `type`",
        ),
        (deep(RAMP.astype(np.uint16)), "type", RAMP >> 8),
        (deep(RAMP.astype(np.uint16)), 4095, np.round(RAMP * 255 / 4095)),
        (deep(RAMP.astype(np.uint16)), 4000, "pixels up to 4095, above images.range: 4000"),
        (deep((RAMP + 900).astype(np.uint16)), "data", np.round(RAMP * 255 / 4095)),
        (deep(np.zeros((9, 9), np.uint16)), None, np.zeros((9, 9))),
        (deep((RAMP % 256).astype(np.int32), "TIFF"), None, "32-bit pixels up to 255: say with images.range"),
        (deep((RAMP % 256).astype(np.int32), "TIFF"), 255, RAMP % 256),
        (deep((RAMP - 7).astype(np.int32), "TIFF"), 4095, "pixels below 0, -7 among them"),
        (deep((RAMP - 7).astype(np.int32), "TIFF"), "data", np.round(RAMP * 255 / 4095)),
        (deep((RAMP / 4095).astype(np.float32), "TIFF"), None, "floating-point pixels up to 1.0"),
        (deep((RAMP / 4095).astype(np.float32), "TIFF"), 1, np.round(RAMP * 255 / 4095)),
        (deep(np.full((9, 9), np.nan, np.float32), "TIFF"), "data", "no finite numbers"),
        (b"P5 64 64 4095\n" + RAMP.astype(">u2").tobytes(), None, RAMP >> 4),  # says itself what is white
        (b"P5 64 64 4095\n" + RAMP.astype(">u2").tobytes(), 4095, RAMP >> 4),
        (b"P5 64 64 4095\n" + (RAMP >> 4).astype(">u2").tobytes(), 4095, RAMP >> 8),
        (tagged(deep((RAMP * 16).astype(np.uint16), "TIFF"), 262, 0), None, 255 - (RAMP >> 4)),  # the smallest is white
        (tagged(deep(RAMP.astype(np.uint16), "TIFF"), 262, 0), 4095, 255 - (RAMP >> 4)),
        (tagged(deep((RAMP << 20).astype(np.uint32).view(np.int32), "TIFF"), 339, 1), "data", RAMP >> 4),  # no signs
    ],
)
def test_deep_pixels_are_scaled_by_the_stated_range(data: bytes, range: Any, outcome: np.ndarray | str) -> None:
    assert is_deep(data)
    if isinstance(outcome, str):
        with pytest.raises(ImageError, match=outcome):
            decode_rgb(data, reading=Reading(range=range))
    else:
        assert np.abs(decode_rgb(data, reading=Reading(range=range))[..., 1].astype(int) - outcome).max() <= 1
    assert decode_grey(data, 8).pixels.size if "finite" not in str(outcome) else True  # is like others all the same


def colours_16(high: int) -> bytes:
    """A PNG of 16-bit colours, which Pillow does not write."""
    values = (np.arange(8 * 24).reshape(8, 24) * 331 % high).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_colours_of_16_bits_are_their_high_bytes_unless_that_is_black() -> None:
    assert is_deep(colours_16(65536)) and decode_rgb(colours_16(65536)).max() > 240
    with pytest.raises(
        ImageError, match=r"16-bit colours of which none is above 4095 of 65535: say `images.range: type`"
    ):
        decode_rgb(colours_16(4096))
    assert decode_rgb(colours_16(4096), reading=Reading(range="type")).max() == 15
    with pytest.raises(ImageError, match=r"which images.range: 4095 cannot scale"):
        decode_rgb(colours_16(4096), reading=Reading(range=4095))


def test_a_tiff_whose_smallest_number_is_white_is_the_same_with_8_and_16_bits() -> None:
    whole = (RAMP >> 4).astype(np.uint8)
    with Image.open(io.BytesIO(tagged(deep(whole, "TIFF"), 262, 0))) as oracle:
        expected = np.asarray(oracle.convert("RGB"))
    assert np.array_equal(decode_rgb(tagged(deep(whole.astype(np.uint16) * 257, "TIFF"), 262, 0)), expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colours_of_16_bits_in_planes_are_right_or_refused(compression: str | None) -> None:
    tifffile, out = pytest.importorskip("tifffile"), io.BytesIO()
    planes = (np.stack([RAMP, RAMP.T, RAMP[::-1]]) * 16).astype(np.uint16)
    tifffile.imwrite(out, planes, photometric="rgb", planarconfig="separate", compression=compression)
    if compression:
        assert np.array_equal(decode_rgb(out.getvalue()), (planes >> 8).transpose(1, 2, 0))
    else:
        with pytest.raises(ImageError, match="16-bit colours in planes of their own, which cannot be read: save it"):
            decode_rgb(out.getvalue())


@pytest.mark.parametrize("format", ["ppm", "jp2"])
def test_dark_colours_of_16_bits_are_refused_in_every_format(format: str) -> None:
    if format == "ppm":
        dark, bright = (b"P6 64 64 65535\n" + np.repeat(RAMP * n, 3).astype(">u2").tobytes() for n in (1, 16))
    else:
        cv2 = pytest.importorskip("cv2")
        colours = np.repeat(RAMP[..., None], 3, 2).astype(np.uint16)
        dark, bright = (cv2.imencode(".jp2", colours * n)[1].tobytes() for n in (1, 16))
    assert is_deep(bright) and decode_rgb(bright).max() > 240
    with pytest.raises(ImageError, match="16-bit colours of which none is above"):
        decode_rgb(dark)
    assert decode_rgb(dark, reading=Reading(range="type")).max() <= 17

"""Image bytes to upright RGB pixels, and what their header says. The only code that decodes an image."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from threading import Lock

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError, features
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from teachers import jpegs
from teachers.channels import bits_of, grey_of, misread
from teachers.depth import PLAIN, Reading, check_colours
from teachers.limits import LARGE_PIXELS, MAX_PIXELS, MAX_SIDE

FORMATS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "GIF": "gif",
    "PPM": "ppm",
    "JPEG2000": "jp2",
    "AVIF": "avif",
    "HEIF": "heic",
}
"""Pillow's name of each format that is read -> its extension in shards. (MPO: a JPEG of a camera or a phone
with more of them behind it; the first is the image. HEIF: where the package pillow-heif is installed.)"""
LONGEST = 8
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes the image upright (EXIF 2.32, tag 274)."""

WRITTEN = {"jpg": MAX_SIDE, "png": 2**31 - 1, "webp": 16_383, "tif": 2**31 - 1, "ppm": 2**31 - 1}
"""Formats that are written -> pixels that a side may have (libjpeg, PNG 1.2, WebP). TIFF and PPM: deep images of a pool
that is all of them."""
_large = Lock()


class ImageError(Exception):
    """An image that cannot be read. The message says why, in one clause."""


@dataclass(frozen=True)
class ImageHeader:
    """width, height: pixels, upright (after EXIF orientation). format: an extension in FORMATS. orientation:
    EXIF, 1 to 8, as the file says."""

    width: int
    height: int
    format: str
    orientation: int


@cache
def file_extensions() -> frozenset[str]:
    """What the names of files end in that can be read here, lower case: some formats depend on how Pillow was built, or
    on a plugin of it."""
    names = set("jpg jpeg jpe jfif mpo png webp bmp tif tiff gif ppm pgm pbm pnm".split())
    if features.check("jpg_2000"):
        names |= {"jp2", "j2k", "jpx", "jpf", "j2c", "jpc"}
    if "avif" in features.modules and features.check("avif"):
        names |= {"avif"}
    if find_spec("pillow_heif"):
        names |= {"heic", "heif", "hif"}
    return frozenset(names)


def read_header(data: bytes) -> ImageHeader:
    """Size, format and orientation without decoding pixels, whatever the size. Raises ImageError."""
    if _plain_jpeg(data):
        try:
            width, height = jpegs.size_of(data)
            return ImageHeader(width, height, "jpg", 1)
        except ValueError:
            pass  # Pillow reads some headers that simplejpeg refuses, and words the others' error
    with _opened(data) as image:
        orientation = _orientation(image)
        width, height = _stored_size(image) if orientation < 5 else _stored_size(image)[::-1]
        return ImageHeader(width, height, FORMATS[str(image.format)], orientation)


def decode_rgb(data: bytes, known_pixels: int = 0, reading: Reading = PLAIN) -> np.ndarray:
    """Upright RGB pixels.

    Args:
        data: the bytes of a file.
        known_pixels: of the image, where a scan allowed more than MAX_PIXELS.
        reading: what is done with damage and with more than 8 bits. Grey, palette, CMYK and transparent images become
            RGB as Pillow converts them (transparency is dropped).

    Returns:
        uint8 (H, W, 3).

    Raises:
        ImageError: for what is broken, cut, of no known format, damaged (a JPEG of which libjpeg had to guess pixels),
            of a depth that `reading` does not settle or, before anything of it is decoded, of more than MAX_PIXELS.
    """
    pixels = _decode_jpeg(data, "RGB", known_pixels, reading)
    if pixels is not None:
        turn = UPRIGHT.get(_orientation_of(data))
        return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))
    with _loaded(data, known_pixels) as image:
        turn = UPRIGHT.get(_orientation(image))  # asked now: Pillow turns TIFFs when it loads them
        rgb = _to_rgb(image, data, reading)
        return np.asarray(rgb if turn is None else rgb.transpose(turn))


def is_damaged(data: bytes) -> bool:
    """Whether bytes are those of a JPEG of which libjpeg has to guess pixels. Raises ImageError as `decode_rgb`."""
    if not data.startswith(jpegs.START):
        return False
    try:
        return jpegs.decode(data, "GRAY")[1] != ""
    except ValueError:
        return False


def is_deep(data: bytes) -> bool:
    """Whether bytes are those of an image of more than 8 bits a channel. Raises ImageError."""
    if data.startswith(jpegs.START):
        return False
    with _opened(data) as image:
        return image.mode[0] in "IF" or bits_of(image, data) > 8


def _decode_jpeg(data: bytes, colours: str, known_pixels: int, reading: Reading, side: int = 0) -> np.ndarray | None:
    """The pixels of a JPEG as they are stored; None of what only Pillow may be able to decode, and of other formats."""
    if not data.startswith(jpegs.START):
        return None
    try:
        width, height = jpegs.size_of(data)
        check_pixels(width, height, max(MAX_PIXELS, known_pixels))
        pixels, complaint = jpegs.decode(data, colours, side)
    except ValueError:
        return None
    if complaint and reading.damaged == "drop":
        raise ImageError(f"is damaged ({complaint})")
    return pixels


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError for an image of more than `max_pixels`."""
    if width * height > max_pixels:
        raise ImageError(f"has {width} x {height} pixels, more than pool.max_pixels: {max_pixels}")


def middle(pixels: np.ndarray) -> np.ndarray:
    """The middle of an image (H, W, …) that is more than LONGEST times as long as it is wide; any other as it is. For
    those who bring the shorter side to a fixed size and cut out the middle square: a strip of 2 x 3000 pixels would
    become one of 256 x 384000 first."""
    height, width = pixels.shape[:2]
    cut_y, cut_x = max(0, height - LONGEST * width) // 2, max(0, width - LONGEST * height) // 2
    return pixels[cut_y : height - cut_y, cut_x : width - cut_x]


@dataclass(frozen=True)
class GreyImage:
    """A reduced grey image as it is stored, uint8 (H, W), not turned upright. width, height: its true extent in eighths
    of these pixels, since the last column and row may lie partly outside it. orientation: EXIF, of what is still to be
    turned."""

    pixels: np.ndarray
    width: int
    height: int
    orientation: int


def decode_grey(data: bytes, side: int, orientation: int | None = None, known_pixels: int = 0) -> GreyImage:
    """A reduced grey image, for hashing: each side has at least `side` pixels, or as many as the image itself. A JPEG
    is decoded at an eighth of its size or more, in half the time of decoding it whole. `orientation`: EXIF, of the
    file, if it is known already, since looking for it takes a tenth of the time. Raises ImageError as `decode_rgb`, but
    for the range of deep pixels: what it is changes nothing of what an image is like."""
    pixels = _decode_jpeg(data, "GRAY", known_pixels, PLAIN, side)
    if pixels is not None:
        pixels = pixels[:, :, 0]
        width, height = jpegs.size_of(data)
        made = (s for s in range(1, 9) if (-(-height * s // 8), -(-width * s // 8)) == pixels.shape)
        scale = next(made, 8)
        return GreyImage(pixels, width * scale, height * scale, orientation or _orientation_of(data))
    with _loaded(data, known_pixels) as image:
        orientation = _orientation(image)
        try:
            grey = _to_rgb(image, data, PLAIN).convert("L")
        except ImageError:  # too dark for its type
            fitting = Reading(range="data" if image.mode[0] in "IF" else "type")
            grey = _to_rgb(image, data, fitting).convert("L")
        reduced = grey.resize((min(grey.width, 2 * side), min(grey.height, 2 * side)), Image.Resampling.BOX)
        return GreyImage(np.asarray(reduced), 8 * reduced.width, 8 * reduced.height, orientation)


def encode_upright(data: bytes, format: str, known_pixels: int = 0, reading: Reading = PLAIN) -> bytes:
    """The image as upright RGB of 8 bits in `format` (jpg: quality 95, 4:4:4; others: lossless), without
    metadata, so that no reader can turn it a second time. Raises ImageError, also for sides that the format cannot
    have; ValueError for a format it does not write."""
    pixels = np.ascontiguousarray(decode_rgb(data, known_pixels, reading))
    if format not in WRITTEN:
        raise ValueError(f"images are re-encoded as {', '.join(WRITTEN)}, not {format!r}")
    if max(pixels.shape) > WRITTEN[format]:
        raise ImageError(f"has {pixels.shape[1]} x {pixels.shape[0]} pixels, and no side of a {format} is that long")
    out = io.BytesIO()
    match format:
        case "jpg":
            return simplejpeg.encode_jpeg(pixels, quality=95, colorspace="RGB", colorsubsampling="444")
        case "webp":
            Image.fromarray(pixels).save(out, "WEBP", lossless=True)
        case "tif":
            Image.fromarray(pixels).save(out, "TIFF", compression="tiff_adobe_deflate")
        case _:
            Image.fromarray(pixels).save(out, format.upper())
    return out.getvalue()


def _orientation_of(data: bytes) -> int:
    if _plain_jpeg(data):
        return 1
    with _opened(data) as image:
        return _orientation(image)


def _plain_jpeg(data: bytes) -> bool:
    """A JPEG without any trace of an orientation tag; a false alarm only costs the slower path."""
    return data.startswith(jpegs.START) and b"Exif\0\0" not in data and b"tiff:Orientation" not in data


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Pillow's image over `data`. Whatever opening or decoding inside the block raises becomes an ImageError:
    Pillow's plugins raise almost anything on damaged data."""
    try:
        with _identified(data) as image:
            yield image
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image of a known format" if data else "empty file") from error
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be decoded ({error})") from error


@contextmanager
def _loaded(data: bytes, known_pixels: int) -> Iterator[Image.Image]:
    """Pillow's image over `data`, decoded. Large ones one after the other: a WebP takes 16 bytes a pixel until it is
    an array. Raises ImageError as `decode_rgb`."""
    with _opened(data) as image:
        width, height = _stored_size(image)
        check_pixels(width, height, max(MAX_PIXELS, known_pixels))
        if wrong := misread(image):
            raise ImageError(wrong)
        with _large if width * height > LARGE_PIXELS else nullcontext():
            image.load()
            yield image


def _identified(data: bytes) -> Image.Image:
    """What PIL.Image.open does, among the formats that are read, and without its limit of pixels: that one is the
    process's, warns from half of it on, and is not asked of JPEGs that Pillow does not decode."""
    _load_plugins()
    for name in FORMATS:
        open_as, accepts = Image.OPEN.get(name, (None, None))
        if open_as and (accepts is None or accepts(data[:16]) is True):
            try:
                return open_as(io.BytesIO(data), "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # as in Pillow: it is of another format after all
    with Image.open(io.BytesIO(data)) as image:
        raise ImageError(f"format {image.format} is not supported")


@cache
def _load_plugins() -> None:
    Image.init()
    if find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as the file has them. (Pillow 13 gives those of an unread TIFF upright, older ones do not.)"""
    if isinstance(image, TiffImageFile):
        return int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
    return image.size


def _orientation(image: Image.Image) -> int:
    """What EXIF, or XMP, says of an image as it is now."""
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block makes an image unrotated, not unreadable
        return 1
    return value if value in range(1, 9) else 1


def _to_rgb(image: Image.Image, data: bytes, reading: Reading) -> Image.Image:
    """A decoded image as RGB of 8 bits. data: its file."""
    try:
        if image.mode[0] in "IF":
            return Image.fromarray(grey_of(image, data, reading)).convert("RGB")
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        if bits_of(image, data) == 16:
            check_colours(max(int(high) for _, high in rgb.getextrema()), reading)  # type: ignore[misc]
    except ValueError as error:
        raise ImageError(str(error)) from None
    return rgb

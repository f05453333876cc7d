"""What the channels of an image that Pillow opened hold: how many bits, up to which number, and what is white."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from teachers.depth import Reading, to_8_bits


def misread(image: Image.Image) -> str:
    """Why the pixels of an image that is not decoded yet would be others, "" if they would not: of a TIFF with a plane
    of more than 8 bits for each colour, uncompressed, Pillow takes bytes for pixels."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    depths = tags.get(BITSPERSAMPLE, (1,))
    if tags.get(PLANAR_CONFIGURATION) == 2 and tags.get(COMPRESSION, 1) == 1 and len(depths) > 1 and max(depths) > 8:
        return (
            f"has {max(depths)}-bit colours in planes of their own, which cannot be read: save it compressed, or with "
            "the colours of a pixel side by side"
        )
    return ""


def grey_of(image: Image.Image, data: bytes, reading: Reading) -> np.ndarray:
    """A grey image of more than 8 bits as uint8 (H, W). Raises ValueError as `to_8_bits`."""
    values = np.asarray(image)
    if not isinstance(image, TiffImageFile):  # Pillow brings a PPM and a JPEG 2000 to 16 bits
        return to_8_bits(values, 65535, _of_16_bits(reading, _largest_stated(data, image.format)))
    bits = int(image.tag_v2.get(BITSPERSAMPLE, (1,))[0])
    sample = image.tag_v2.get(SAMPLEFORMAT, (1,))[0]
    if bits == 32 and sample == 1:
        values = values.view(np.uint32)  # Pillow has signed ones only
    grey = to_8_bits(values, None if bits > 16 else 2 ** (bits - (sample == 2)) - 1, reading)
    return 255 - grey if image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0 else grey  # 0: the smallest is white


def bits_of(image: Image.Image, data: bytes) -> int:
    """How many bits the channels of a file have; of 16, Pillow reads the high 8 where there are several."""
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(BITSPERSAMPLE, (1,))))
    return _largest_stated(data, image.format).bit_length()


def _largest_stated(data: bytes, format: str | None) -> int:
    """The largest number of a channel that the head of a file states, of formats whose numbers Pillow then brings to
    the whole range of 8 or 16 bits: PNG, PPM (its third number), JPEG 2000 (Ssiz, ITU-T T.800, A.5.1). 255 of others.
    """
    if format == "PNG":
        return 65535 if data[24] == 16 else 255
    if format == "PPM" and data[:2] in (b"P2", b"P3", b"P5", b"P6"):
        return int(re.sub(rb"#[^\n\r]*", b" ", data[:4096]).split(maxsplit=4)[3])
    if format == "JPEG2000" and (start := data.find(b"\xff\x4f\xff\x51")) >= 0:
        return int(2 ** ((data[start + 42] & 127) + 1) - 1)
    return 255


def _of_16_bits(reading: Reading, stated: int) -> Reading:
    """The reading of pixels that Pillow brought from 0 to `stated` to 16 bits: a number that is white, brought with
    them."""
    if stated in (255, 65535) or not isinstance(reading.range, int | float):
        return reading
    return replace(reading, range=reading.range * 65535 / stated)

"""JPEG bytes to pixels, and what libjpeg warns of on the way: it makes an image of whatever it is given.

Most of its warnings (jerror.h) mean that pixels are guessed: data that end early, a wrong Huffman code, a restart
marker out of its place, bytes left over before the next marker, which is what a flipped bit leaves behind. Four come
from the head of a file, where no pixels are, one from numbers of a scan that mean nothing where it is sequential, as
phones write them wrong, and one from zeros with which cameras fill up a frame: these are looked behind, since only the
first warning is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import simplejpeg

START = b"\xff\xd8\xff"
_HARMLESS = re.compile(
    r"unknown JFIF revision|unknown Adobe color transform|bad ICC marker|extraneous bytes before marker"
    r"|invalid SOS parameters for sequential",
    re.IGNORECASE,
)
"""What may have nothing to do with pixels, which `_essential` tells."""
_NEEDED = {*range(0xC0, 0xD0), 0xDB, 0xDD}
"""Segments that decoding needs: the frame, Huffman, arithmetic and quantisation tables, the restart interval."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = {0xC0, 0xC1, 0xC9}
"""Frames whose scans bring all of each coefficient."""


def decode(data: bytes, colours: str, side: int = 0) -> tuple[np.ndarray, str]:
    """Pixels as they are stored, not turned upright, and what is wrong with them.

    Args:
        data: a JPEG file.
        colours: `RGB` or `GRAY`.
        side: pixels that each side must have at least, where a smaller image will do; 0 for the whole one.

    Returns:
        uint8 (H, W, 3) or (H, W, 1); libjpeg's words for pixels that it had to guess, "" if it had to guess none.

    Raises:
        ValueError: if it cannot be decoded at all.
    """
    outcome = _attempt(data, colours, side)
    if isinstance(outcome, str) and _HARMLESS.search(outcome):
        data = _essential(data)
        outcome = _attempt(data, colours, side)
    if not isinstance(outcome, str):
        try:
            return outcome, "" if _is_complete(data) else "scans are missing"
        except IndexError:
            return outcome, "a segment is too short"
    pixels = simplejpeg.decode_jpeg(data, colours, min_height=side, min_width=side, strict=False)
    return pixels, outcome.removeprefix("Corrupt JPEG data: ")


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of a JPEG as it is stored. Raises ValueError if its head cannot be read."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # also for what it says of the head
        height, width, *_ = simplejpeg.decode_jpeg_header(_essential(data))
    return width, height


def _attempt(data: bytes, colours: str, side: int) -> np.ndarray | str:
    """Pixels of which libjpeg has nothing to say, or the first that it says."""
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, colours, min_height=side, min_width=side, strict=True)
    except ValueError as error:
        return str(error)
    return pixels


def _is_complete(data: bytes) -> bool:
    """Whether the scans of a JPEG bring every coefficient of every component to its last bit (ITU T.81, G.1): libjpeg
    does not mind if a file that has several ends after some of them."""
    lacking: dict[int, list[int]] = {}  # component -> bits that each of its 64 coefficients lacks
    for marker, _, segment in _segments(data):
        if marker in _FRAMES:
            lacking = {segment[10 + 3 * n]: [99] * 64 for n in range(segment[9])}
        elif marker == 0xDA:
            count = segment[4]
            first, last, bits = segment[5 + 2 * count], segment[6 + 2 * count], segment[7 + 2 * count] & 15
            for component in segment[5 : 5 + 2 * count : 2]:
                if component in lacking:
                    lacking[component][first : last + 1] = [bits] * (min(last, 63) + 1 - first)
            if not any(map(any, lacking.values())):
                return True
    return False


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The marker of each segment of a JPEG, where it stands, and its bytes with the marker, to the end of the image."""
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == 0xD9:
            return
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # no segment: data, fill, or what stands alone
            place += 1 if marker == 0xFF else 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        yield marker, place, data[place:end]
        place = end


def _essential(data: bytes) -> bytes:
    """A JPEG with nothing before its first scan but what decoding needs (ITU T.81, B.1) and what says that its colours
    are YCbCr (JFIF) or not (Adobe), as far as libjpeg knows it; sequential scans with the only numbers that they can
    have (B.2.3), and no zeros before the end."""
    parts, scans, is_sequential = [data[:2]], bytearray(), False
    first = last = 0
    for marker, place, segment in _segments(data):
        if marker == 0xDA:
            if not first:
                first, scans = place, bytearray(data[place:])
            last = place - first + len(segment)
            if is_sequential and len(segment) >= 8 and len(segment) == 8 + 2 * segment[4]:
                scans[last - 3 : last] = b"\0\x3f\0"
        elif first:
            continue
        elif segment[4:9] == b"JFIF\0":
            parts.append(segment[:9] + b"\1\1" + segment[11:])
        elif marker in _NEEDED or (segment[4:9] == b"Adobe" and segment[15:16] in (b"\0", b"\1", b"\2")):
            parts.append(segment)
            is_sequential = marker in _SEQUENTIAL if marker in _FRAMES else is_sequential
    end = scans.find(b"\xff\xd9", last)
    if not first or end < 0:
        return b"".join((*parts, scans)) if first else data
    body = scans[:end].rstrip(b"\0")
    return b"".join((*parts, body, b"\0" * body.endswith(b"\xff"), scans[end:]))  # one behind 0xFF is of the data

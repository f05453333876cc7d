"""What image files say beside their pixels: taking it out without touching a pixel, and looking for where they were
taken.

Colour profiles stay, and what decoding needs. JPEG: ITU T.81, B.1; PNG: 1.2, 3; WebP: RFC 9649; EXIF: 2.32, tag 34853.
"""

from __future__ import annotations

import io
import struct

from PIL import Image

STRIPPED = frozenset({"jpg", "png", "webp"})
"""Formats that metadata are taken out of without re-encoding."""
GPS_IFD, LATITUDE = 0x8825, 2
_KEPT_JPEG = frozenset({0xE0, 0xEE})  # JFIF, and Adobe's, which says what the colours are
_ICC = b"ICC_PROFILE\0"
_PNG_TEXT = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME"})
_MARKS = (b"Exif\0\0", b"eXIf", b"EXIF", b"GPSL", b"II*\0", b"MM\0*", b"Raw profile type", b"XML:com.adobe.xmp")


class MetadataError(ValueError):
    """A file whose parts are not where its format has them."""


def without_metadata(data: bytes, format: str) -> bytes:
    """A file of one of the formats STRIPPED without EXIF, XMP, IPTC, comments, and what follows its image; the same
    pixels and colour profile. Raises MetadataError."""
    try:
        match format:
            case "jpg":
                return _jpeg(data)
            case "png":
                return _png(data)
            case "webp":
                return _webp(data)
    except (IndexError, struct.error) as error:
        raise MetadataError(f"its parts cannot be told ({error})") from None
    raise MetadataError(f"metadata of {format} cannot be taken out without re-encoding")


def has_location(data: bytes) -> bool:
    """Whether an image file says where it was taken: a latitude in EXIF or XMP. False for a file that is no image."""
    if b"GPSLatitude" in data:
        return True
    if not any(mark in data for mark in _MARKS):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif()  # of a PNG it reads all chunks, also those that are compressed
            return LATITUDE in exif.get_ifd(GPS_IFD) or b"GPSLatitude" in image.info.get("xmp", b"")
    except Exception:  # Pillow's plugins raise almost anything on damaged data, which verify finds
        return False


def _jpeg(data: bytes) -> bytes:
    if data[:2] != b"\xff\xd8":
        raise MetadataError("it does not begin as a JPEG")
    parts, place = [data[:2]], 2
    while True:
        if data[place] != 0xFF:
            raise MetadataError(f"no marker at byte {place}")
        while data[place + 1] == 0xFF:  # fill bytes
            place += 1
        marker = data[place + 1]
        if marker == 0xD9:
            return b"".join((*parts, b"\xff\xd9"))
        end = place + 2 + struct.unpack_from(">H", data, place + 2)[0]
        if end > len(data):
            raise MetadataError("it is cut")
        segment = data[place:end]
        is_text = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_text or marker in _KEPT_JPEG or segment[4:].startswith(_ICC):
            parts.append(segment)
        place = end
        if marker == 0xDA:
            place = _scan_end(data, end)
            parts.append(data[end:place])


def _scan_end(data: bytes, place: int) -> int:
    """Where the entropy-coded data that begin at `place` end: at the next marker that is no restart."""
    while (place := data.find(b"\xff", place)) >= 0 and place + 1 < len(data):
        if data[place + 1] != 0 and not 0xD0 <= data[place + 1] <= 0xD7 and data[place + 1] != 0xFF:
            return place
        place += 1 if data[place + 1] == 0xFF else 2
    raise MetadataError("it is cut")


def _png(data: bytes) -> bytes:
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise MetadataError("it does not begin as a PNG")
    parts, place, name = [data[:8]], 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            raise MetadataError("it is cut")
        if name not in _PNG_TEXT:
            parts.append(data[place:end])
        place = end
    return b"".join(parts)


def _webp(data: bytes) -> bytes:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise MetadataError("it does not begin as a WebP")
    parts, place = list[bytes](), 12
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise MetadataError("it is cut")
    while place + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, place)
        after = place + 8 + length + length % 2
        chunk = data[place:after]
        if name == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~0x0C]) + chunk[9:]  # neither EXIF (8) nor XMP (4) any more
        if name not in (b"EXIF", b"XMP "):
            parts.append(chunk)
        place = after
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body

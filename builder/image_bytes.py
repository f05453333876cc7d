"""The bytes of an image as they go into a shard, and what every label JSON says of it."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from builder import BuildError
from builder.pool import PoolImage
from teachers.images import ImageError, encode_upright


def described(image: PoolImage, extension: str) -> tuple[dict[str, Any], bytes]:
    """What every label JSON says of an image, and the bytes that are written of it. Raises
    BuildError if it is not what was scanned, or cannot be re-encoded."""
    data = read_unchanged(image)
    reencoded = "format" if image.format != extension else "upright" if image.orientation != 1 else "none"
    if reencoded != "none":
        try:
            data = encode_upright(data, extension)
        except ImageError as error:
            raise BuildError(f"{image.uri} cannot be re-encoded: it {error}") from None
    label = {
        "key": image.key,
        "name": image.name,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "reencoded": reencoded,
    }
    return label, data


def read_unchanged(image: PoolImage) -> bytes:
    """An image's bytes. The hash is computed again only if the file's size or time is not that of the scan."""
    try:
        with open(image.uri, "rb", buffering=0) as file:  # unbuffered: half the time of opening a small file
            status = os.fstat(file.fileno())
            data = os.pread(file.fileno(), image.bytes, image.offset)
    except OSError as error:
        raise BuildError(
            f"image {image.uri} can no longer be read ({error.strerror or error}): restore it, or scan again"
        ) from None
    same_time = status.st_mtime_ns == image.mtime_ns
    same_size = len(data) == image.bytes and image.offset + image.bytes <= status.st_size
    if image.offset == 0:  # a whole file; a tar's members start behind a header
        same_size = status.st_size == image.bytes
    if not same_size or (not same_time and hashlib.sha256(data).hexdigest() != image.sha256):
        raise BuildError(f"image {image.uri} changed since it was scanned: scan its source again")
    return data

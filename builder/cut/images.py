"""An image as it stands in a sample: its bytes, and what every label JSON says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from builder.errors import BuildError
from builder.scan.metadata import MetadataError, without_metadata
from builder.scan.pool import PoolImage
from teachers.depth import PLAIN, Reading
from teachers.images import ImageError, encode_upright, is_damaged, is_deep


class OtherBytes(Exception):
    """Images are not what was scanned, though their size and time are: a disk has changed them, not a person. names: by
    SHA-256."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__(names)
        self.names = names


def others(images: Iterable[PoolImage]) -> dict[str, str]:
    """Those of these images of which that is so: SHA-256 -> name. Raises ImageChanged."""
    return {i.sha256: i.name for i in images if hashlib.sha256(i.read()).hexdigest() != i.sha256}


def not_here(key: str, ref: str) -> BuildError:
    """For an image of which a version has only the labels, and which is to be written."""
    return BuildError(
        f"nothing was kept on image {key}, and so its picture is not in {ref}: correct it in the store that it was "
        "built in, or take back what was said of it"
    )


def described(
    image: PoolImage, extension: str, stored: bool = False, strip: bool = False, reading: Reading = PLAIN
) -> tuple[dict[str, Any], bytes, str]:
    """What every label JSON says of an image, the bytes that are written of it, and their SHA-256 (hex) where they are
    those that were scanned, else "". stored: whether it was brought to that form already, in a shard that was hashed.
    strip: without metadata. reading: how its bytes become pixels; what readers of the version would read in different
    ways, more than 8 bits and damage, is written anew. Raises OtherBytes, and BuildError for an image whose file is
    another one, or that cannot be written so."""
    data = image.read()
    if not stored and hashlib.sha256(data).hexdigest() != image.sha256:
        raise OtherBytes({image.sha256: image.name})
    reencoded = "format" if image.format != extension else "upright" if image.orientation != 1 else "none"
    if not stored:
        try:
            if reencoded == "none" and (is_deep(data) or (reading.damaged == "keep" and is_damaged(data))):
                reencoded = "format"
            if reencoded != "none":
                data = encode_upright(data, extension, image.pixels, reading)
        except ImageError as error:
            raise BuildError(f"{image.uri} cannot be re-encoded: it {error}") from None
    if strip and reencoded == "none":
        reencoded = "stripped"
        try:
            data = without_metadata(data, extension)
        except MetadataError as error:
            raise BuildError(f"the metadata of {image.uri} cannot be taken out: {error}") from None
    label = {
        "key": image.key,
        "name": image.name,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "reencoded": reencoded,
    }
    return label, data, image.sha256 if reencoded == "none" and not stored else ""

"""An image as it stands in a sample: its bytes, and what every label JSON says of it."""

from __future__ import annotations

from typing import Any

from builder.errors import BuildError
from builder.scan.metadata import MetadataError, without_metadata
from builder.scan.pool import PoolImage
from teachers.images import ImageError, encode_upright


def not_here(key: str, ref: str) -> BuildError:
    """For an image of which a version has only the labels, and which is to be written."""
    return BuildError(
        f"nothing was kept on image {key}, and so its picture is not in {ref}: correct it in the store that it was "
        "built in, or take back what was said of it"
    )


def described(
    image: PoolImage, extension: str, stored: bool = False, strip: bool = False
) -> tuple[dict[str, Any], bytes]:
    """What every label JSON says of an image, and the bytes that are written of it. stored: whether it was brought to
    that form already. strip: without metadata. Raises BuildError if it is not what was scanned, or cannot be written
    so."""
    data = image.read()
    reencoded = "format" if image.format != extension else "upright" if image.orientation != 1 else "none"
    if reencoded != "none" and not stored:
        try:
            data = encode_upright(data, extension, image.pixels)
        except ImageError as error:
            raise BuildError(f"{image.uri} cannot be re-encoded: it {error}") from None
    elif strip and reencoded == "none":
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
    return label, data

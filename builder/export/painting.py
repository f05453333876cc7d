"""Pixels of an image that is exported without some of its regions: painted over with their surroundings, or cut off."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from builder.errors import BuildError
from teachers.images import ImageError, decode_rgb

SAME = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM"}
"""Formats in which a changed image is written again -> Pillow's name; one of another format becomes a PNG."""
Corners = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels, the last two outside."""

GREY = 114
"""Where an image has no surroundings left: the grey with which YOLO's trainers pad images."""
MARGIN = 16
"""Pixels around a region that are looked at, at least."""


def painted(pixels: np.ndarray, hole: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """A copy of an image, uint8 (H, W, C), in which `hole`, bool (H, W), has the smoothed colours of what lies around
    it and is neither in it nor `shown`, bool (H, W): kept objects, whose colours are not to spread."""
    out = pixels.copy()
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    if not len(rows):
        return out
    margin = max(MARGIN, (rows[-1] - rows[0]) // 2, (columns[-1] - columns[0]) // 2)
    part = tuple(slice(max(0, side[0] - margin), side[-1] + 1 + margin) for side in (rows, columns))
    known = ~(hole | shown)[part]
    if not known.any():
        known = ~hole[part]
    smooth = _spread(pixels[part].astype(np.float32), known.astype(np.float32))
    out[part][hole[part]] = np.rint(smooth[hole[part]]).clip(0, 255).astype(np.uint8)
    return out


def _spread(colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Colours, float32 (H, W, C), where those of weight 0, float32 (H, W), are those of a picture half as large, and so
    on: Gortler et al., The Lumigraph (SIGGRAPH 1996), pull and push."""
    height, width = weight.shape
    if weight.all():
        return colour
    if height * width == 1:
        return np.full_like(colour, GREY)
    grown = [(0, height % 2), (0, width % 2)]
    weights = np.pad(weight, grown).reshape(-(-height // 2), 2, -(-width // 2), 2)
    colours = np.pad(colour, [*grown, (0, 0)]).reshape(*weights.shape, -1)
    total = weights.sum(axis=(1, 3))
    mean = (colours * weights[..., None]).sum(axis=(1, 3)) / np.maximum(total, 1e-6)[..., None]
    coarse = _spread(mean, np.minimum(total, 1))
    size = (2 * coarse.shape[1], 2 * coarse.shape[0])
    planes = [Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR) for plane in np.moveaxis(coarse, 2, 0)]
    fine = np.stack([np.asarray(plane) for plane in planes], axis=2)[:height, :width]
    return colour * weight[..., None] + fine * (1 - weight[..., None])


def largest_free(hull: Corners, regions: Sequence[Corners], size: tuple[int, int]) -> Corners | None:
    """The largest rectangle of an image (size: width, height) that holds `hull` and no pixel of these regions; None if
    there is none. Of equally large ones the leftmost, then the topmost."""
    x1, y1, x2, y2 = hull
    lefts = sorted({0, *(right for _, _, right, _ in regions if right <= x1)})
    rights = sorted({size[0], *(left for left, _, _, _ in regions if left >= x2)})
    best: tuple[int, Corners] | None = None
    for left, right in product(lefts, rights):
        between = [(top, bottom) for a, top, b, bottom in regions if a < right and b > left]
        if any(top < y2 and bottom > y1 for top, bottom in between):
            continue  # one lies beside the hull, between these sides
        upper = max((bottom for _, bottom in between if bottom <= y1), default=0)
        lower = min((top for top, _ in between if top >= y2), default=size[1])
        area = (right - left) * (lower - upper)
        if best is None or area > best[0]:
            best = (area, (left, upper, right, lower))
    return best[1] if best else None


def rewritten(
    data: bytes, extension: str, change: Callable[[np.ndarray], np.ndarray], name: object
) -> tuple[bytes, str]:
    """An image with changed pixels, uint8 (H, W, 3) upright, and its extension: in its own format, a JPEG with its own
    quantisation and sampling, so that what was not changed stays nearly as it was; without metadata but the colour
    profile. Raises BuildError for one that cannot be decoded, by its name."""
    try:
        pixels = np.ascontiguousarray(change(decode_rgb(data)))
    except ImageError as error:
        raise BuildError(f"image {name} cannot be written without its ignored regions: it {error}") from None
    extension = extension if extension in SAME else "png"
    out, options = io.BytesIO(), dict[str, Any]()
    with Image.open(io.BytesIO(data)) as before:
        grey = before.mode == "L"
        if before.mode in ("L", "RGB") and (profile := before.info.get("icc_profile")):
            options["icc_profile"] = profile
        if extension == "jpg" and isinstance(before, JpegImageFile) and before.mode in ("L", "RGB"):
            options |= {"qtables": before.quantization, "subsampling": max(0, get_sampling(before))}
        elif extension == "jpg":
            options |= {"quality": 95, "subsampling": 0}
        elif extension == "webp":
            options |= {"quality": 95} if b"VP8L" not in data[:64] else {"lossless": True}
    image = Image.fromarray(pixels[:, :, 0] if grey else pixels)
    image.save(out, SAME[extension], **options)
    return out.getvalue(), extension

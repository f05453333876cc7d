"""The operations of augmentation policies, on pixels and label maps of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image


class Colour(NamedTuple):
    """An operation on colours. value: a factor (1 changes nothing), a threshold, bits or levels to add, by name."""

    name: str
    value: float


class Shift(NamedTuple):
    """What lies in each of some boxes, (M, 4) `xyxy` pixels, is moved down by so many pixels, within its box."""

    boxes: np.ndarray
    pixels: int


@dataclass(frozen=True)
class Distortion:
    """What a policy drew for one scene, in pixels of it. Carried out in this order, whichever was drawn first: what
    lies in some boxes is moved, then colours are changed, the scene is moved, squares are cut out. So what is filled
    keeps the colour of the padding, and colours are balanced over what of the scene is shown.

    warp: where a point (x, y, 1) of the scene goes, float64 (3, 3), None for nowhere else. cutouts: `xyxy` in the frame
    of the moved scene.
    """

    shifts: tuple[Shift, ...] = ()
    colours: tuple[Colour, ...] = ()
    warp: np.ndarray | None = None
    cutouts: tuple[tuple[float, float, float, float], ...] = ()


NOTHING = Distortion()


def motion(name: str, value: float, width: int, height: int) -> np.ndarray:
    """Where a point (x, y, 1) of a scene of width x height pixels goes, float64 (3, 3). Rotate: degrees clockwise about
    the centre; ShearX, ShearY: about the top left corner; TranslateX, TranslateY: pixels right, down."""
    moved = np.eye(3)
    match name:
        case "Rotate":
            centre, angle = np.array([width / 2, height / 2]), np.radians(value)
            moved[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            moved[:2, 2] = centre - moved[:2, :2] @ centre
        case "ShearX":
            moved[0, 1] = value
        case "ShearY":
            moved[1, 0] = value
        case "TranslateX":
            moved[0, 2] = value
        case "TranslateY":
            moved[1, 2] = value
    return moved


def recoloured(picture: Image.Image, colours: Sequence[Colour]) -> Image.Image:
    """An RGB picture after these operations (torchvision's, on Pillow images, which are the quicker ones)."""
    if not colours:
        return picture
    from torchvision.transforms.v2 import functional

    for name, value in colours:
        match name:
            case "AutoContrast":
                picture = functional.autocontrast(picture)
            case "Equalize":
                picture = functional.equalize(picture)
            case "Invert":
                picture = functional.invert(picture)
            case "Posterize":
                picture = functional.posterize(picture, int(value))
            case "Solarize":
                picture = functional.solarize(picture, value)
            case "SolarizeAdd":
                picture = picture.point([min(v + int(value), 255) if v < 128 else v for v in range(256)] * 3)
            case "Color":
                picture = functional.adjust_saturation(picture, value)
            case "Contrast":
                picture = functional.adjust_contrast(picture, value)
            case "Brightness":
                picture = functional.adjust_brightness(picture, value)
            case "Sharpness":
                picture = functional.adjust_sharpness(picture, value)
            case _:
                raise ValueError(f"no operation {name!r} on colours")
    return picture


def shifted(plane: np.ndarray, shifts: Sequence[Shift], fill: object) -> np.ndarray:
    """A scene's pixels, (H, W) or (H, W, 3), with what lies in each box moved within it, boxes taken one after the
    other; what is uncovered is filled. A box is widened to whole pixels."""
    if not shifts:
        return plane
    plane = plane.copy()
    for boxes, pixels in shifts:
        corners = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], axis=1)
        bounds = [plane.shape[1], plane.shape[0]] * 2
        for x1, y1, x2, y2 in corners.clip(0, bounds).astype(int).tolist():
            inside = plane[y1:y2, x1:x2]
            before, step = inside.copy(), min(abs(pixels), y2 - y1)
            inside[:] = fill
            if pixels > 0:
                inside[step:] = before[: y2 - y1 - step]
            else:
                inside[: y2 - y1 - step] = before[step:]
    return plane

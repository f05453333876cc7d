"""AutoAugment and RandAugment for scenes with boxes, masks and maps: which operations, how strong.

Sources: AutoAugment for detection, arXiv 1906.11172, policy v0, and RandAugment, arXiv 1909.13719, with the levels, the
list of operations and the constants of their authors' TensorFlow code; AutoAugment for classes, arXiv 1805.09501, with
torchvision's levels. Ours is that lengths in pixels, which that code states for photographs of COCO's size, grow and
shrink with the scene, and the order in which a scene's operations are carried out: see
students.augment.operations.Distortion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from students.augment.operations import Colour, Distortion, Shift, motion

LONGER_SIDE = 640
"""Of a scene whose operations move as many pixels as the Ranges say; others move in proportion."""
IN_BOXES = "TranslateYInBoxes"
IN_BOXES_PIXELS = 120.0
IN_BOXES_SHARE = 1 / 3
"""The code divides the probability of an operation on each box by 3, so that few neighbours are changed together."""
MOVING = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast", "Brightness",
    "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd",
)  # fmt: skip
"""RandAugment's; as likely as each of them is that nothing happens."""

NO_BOXES = np.zeros((0, 4), np.float32)


class Step(NamedTuple):
    """An operation of a policy, with its probability and its level (0 to 10; of classes 0 to 9)."""

    name: str
    probability: float
    level: float


@dataclass(frozen=True)
class Ranges:
    """What level 10 stands for. rotate: degrees; shear: pixels per pixel; translate, and cutout (half of a square's
    side): pixels of a scene whose longer side is LONGER_SIDE."""

    rotate: float
    shear: float
    translate: float
    cutout: float


AUTOAUGMENT_RANGES = Ranges(rotate=30.0, shear=0.3, translate=250.0, cutout=100.0)
RANDAUGMENT_RANGES = Ranges(rotate=30.0, shear=0.3, translate=100.0, cutout=40.0)


class Policy(Protocol):
    def draw(self, width: int, height: int, rng: np.random.Generator, boxes: np.ndarray) -> Distortion:
        """For a scene of width x height pixels with objects in boxes (N, 4). As many numbers are drawn for any scene,
        and then one for each box where what lies in boxes is moved; the order of boxes decides nothing."""


@dataclass(frozen=True)
class AutoAugment:
    """One of a table of pairs at random, each step of it with its probability. ranges: of the levels, 0 to 10; None for
    torchvision's, 0 to 9, with which the tables of classes are meant."""

    table: tuple[tuple[Step, Step], ...]
    ranges: Ranges | None = AUTOAUGMENT_RANGES

    def draw(self, width: int, height: int, rng: np.random.Generator, boxes: np.ndarray) -> Distortion:
        pair = self.table[int(rng.random() * len(self.table))]
        chosen = []
        for step, (happens, sign, right, down) in zip(pair, rng.random((2, 4)).tolist(), strict=True):
            if self.ranges is None:
                value = _class_value(step.name, int(step.level), sign < 0.5, width, height)
            else:
                value = _value(step.name, step.level, sign < 0.5, self.ranges, width, height)
            share = step.probability
            if step.name == IN_BOXES or happens < share:
                chosen.append(_Chosen(step.name, value, share, right, down))
        return _distortion(chosen, width, height, rng, boxes)


@dataclass(frozen=True)
class RandAugment:
    """`layers` operations, drawn one by one, all at level `magnitude` of 10. As in the authors' code colours are left
    as they are at level 5 of Color, Contrast, Brightness and Sharpness, and level 10 of Solarize, not at 0."""

    layers: int = 2
    magnitude: float = 10.0
    ranges: Ranges = RANDAUGMENT_RANGES

    def draw(self, width: int, height: int, rng: np.random.Generator, boxes: np.ndarray) -> Distortion:
        chosen = []
        for which, sign, right, down in rng.random((self.layers, 4)).tolist():
            number = int(which * (len(OPERATIONS) + 1))
            if number < len(OPERATIONS):
                name = OPERATIONS[number]
                value = _value(name, self.magnitude, sign < 0.5, self.ranges, width, height)
                chosen.append(_Chosen(name, value, 1.0, right, down))
        return _distortion(chosen, width, height, rng, boxes)


class _Chosen(NamedTuple):
    """share: probability; right, down: where in the scene a square is cut out, as shares of its sides."""

    name: str
    value: float
    share: float
    right: float
    down: float


def _distortion(
    chosen: Sequence[_Chosen], width: int, height: int, rng: np.random.Generator, boxes: np.ndarray
) -> Distortion:
    shifts, colours, cutouts, warp = [], [], [], np.eye(3)
    for name, value, share, right, down in chosen:
        if name == IN_BOXES:
            ordered = boxes[np.lexsort(boxes.T)]
            moved = ordered[rng.random(len(boxes)) < share * IN_BOXES_SHARE]
            if len(moved) and int(value):
                shifts.append(Shift(moved, int(value)))
        elif name == "Cutout":
            x, y, half = int(right * width), int(down * height), int(value)
            cutouts.append((float(x - half), float(y - half), float(x + half), float(y + half)))
        elif name in MOVING:
            warp = motion(name, value, width, height) @ warp
        else:
            colours.append(Colour(name, value))
    still = bool((warp == np.eye(3)).all())
    return Distortion(tuple(shifts), tuple(colours), None if still else warp, tuple(cutouts))


def _value(name: str, level: float, negative: bool, ranges: Ranges, width: int, height: int) -> float:
    """What a level of 10 means: `level_to_arg` of the TensorFlow code."""
    part, unit, sign = level / 10, max(width, height) / LONGER_SIDE, -1 if negative else 1
    match name:
        case "Rotate":
            return sign * part * ranges.rotate
        case "ShearX" | "ShearY":
            return sign * part * ranges.shear
        case "TranslateX" | "TranslateY":
            return sign * part * ranges.translate * unit
        case "TranslateYInBoxes":
            return sign * part * IN_BOXES_PIXELS * unit
        case "Cutout":
            return part * ranges.cutout * unit
        case "Posterize":
            return int(part * 4)
        case "Solarize":
            return int(part * 256)
        case "SolarizeAdd":
            return int(part * 110)
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return part * 1.8 + 0.1
        case _:
            return 0.0


def _class_value(name: str, level: int, negative: bool, width: int, height: int) -> float:
    """What a level of 0 to 9 means in torchvision's AutoAugment."""
    part, sign = level / 9, -1 if negative else 1
    match name:
        case "Rotate":
            return sign * part * 30
        case "ShearX" | "ShearY":
            return sign * part * 0.3
        case "TranslateX" | "TranslateY":
            return sign * int(part * 150 / 331 * (width if name == "TranslateX" else height))
        case "Posterize":
            return 8 - round(part * 4)
        case "Solarize":
            return 255 * (1 - part)
        case "Color" | "Contrast" | "Brightness" | "Sharpness":
            return 1 + sign * part * 0.9
        case _:
            return 0.0


def _table(text: str) -> tuple[tuple[Step, Step], ...]:
    rows = [line.split() for line in text.strip().splitlines()]
    return tuple((Step(a, float(p), float(m)), Step(b, float(q), float(n))) for a, p, m, b, q, n in rows)


DETECTION = _table(f"""
    TranslateX .6 4 Equalize .8 10
    {IN_BOXES} .2 2 Cutout .8 8
    Sharpness 0 8 ShearX .4 0
    ShearY 1 2 {IN_BOXES} .6 6
    Rotate .6 10 Color 1 6
""")
"""Policy v0 of arXiv 1906.11172."""
IMAGENET = _table("""
    Posterize .4 8 Rotate .6 9
    Solarize .6 5 AutoContrast .6 0
    Equalize .8 0 Equalize .6 0
    Posterize .6 7 Posterize .6 6
    Equalize .4 0 Solarize .2 4
    Equalize .4 0 Rotate .8 8
    Solarize .6 3 Equalize .6 0
    Posterize .8 5 Equalize 1 0
    Rotate .2 3 Solarize .6 8
    Equalize .6 0 Posterize .4 6
    Rotate .8 8 Color .4 0
    Rotate .4 9 Equalize .6 0
    Equalize 0 0 Equalize .8 0
    Invert .6 0 Equalize 1 0
    Color .6 4 Contrast 1 8
    Rotate .8 8 Color 1 2
    Color .8 8 Solarize .8 7
    Sharpness .4 7 Invert .6 0
    ShearX .6 5 Equalize 1 0
    Color .4 0 Equalize .6 0
    Equalize .4 0 Solarize .2 4
    Solarize .6 5 AutoContrast .6 0
    Invert .6 0 Equalize 1 0
    Color .6 4 Contrast 1 8
    Equalize .8 0 Equalize .6 0
""")
"""arXiv 1805.09501, as torchvision has it; so is CIFAR10."""
CIFAR10 = _table("""
    Invert .1 0 Contrast .2 6
    Rotate .7 2 TranslateX .3 9
    Sharpness .8 1 Sharpness .9 3
    ShearY .5 8 TranslateY .7 9
    AutoContrast .5 0 Equalize .9 0
    ShearY .2 7 Posterize .3 7
    Color .4 3 Brightness .6 7
    Sharpness .3 9 Brightness .7 9
    Equalize .6 0 Equalize .5 0
    Contrast .6 7 Sharpness .6 5
    Color .7 7 TranslateX .5 8
    Equalize .3 0 AutoContrast .4 0
    TranslateY .4 3 Sharpness .2 6
    Brightness .9 6 Color .2 8
    Solarize .5 2 Invert 0 0
    Equalize .2 0 AutoContrast .6 0
    Equalize .2 0 Equalize .6 0
    Color .9 9 Equalize .6 0
    AutoContrast .8 0 Solarize .2 8
    Brightness .1 3 Color .7 0
    Solarize .4 5 AutoContrast .9 0
    TranslateY .9 9 TranslateY .7 9
    AutoContrast .9 0 Solarize .8 3
    Equalize .8 0 Invert .1 0
    TranslateY .7 9 AutoContrast .9 0
""")

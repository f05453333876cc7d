"""Augment-S1 to S4 of "Rethinking Pre-training and Self-training" (arXiv 2006.06882).

S1: flip, scale jitter 0.8 to 1.2, random crop or pad. S2: AutoAugment and S1. S3: AutoAugment and S1 with jitter 0.5 to
2.0. S4: RandAugment instead of AutoAugment, of magnitude 10, and S1 with jitter 0.5 to 2.0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, model_serializer, model_validator

from builder.errors import BuildError
from builder.sections import Section
from students.augment import policies
from students.augment.operations import NOTHING, Distortion, recoloured, shifted
from students.augment.policies import (
    AUTOAUGMENT_RANGES,
    LONGER_SIDE,
    NO_BOXES,
    AutoAugment,
    Policy,
    RandAugment,
    Ranges,
)

if TYPE_CHECKING:
    from torch import Tensor

MUCH = 2.0
"""Pixels of a scaled scene for each one that is seen of it, up to which it is scaled whole."""


@dataclass(frozen=True)
class Placement:
    """Where a scene lands on a square canvas: the same window of its pixels, boxes and label maps.

    source: the window, (x1, y1, x2, y2) in pixels of the scene; window: its width and height on the canvas, from the
    top left corner; zoom: canvas pixels per scene pixel, per axis; shift: where the window begins in the scaled scene;
    flip: whether it is mirrored; size: the canvas's side, pixels; scene: its width and height, pixels; distortion: what
    is done to it before.
    """

    source: tuple[float, float, float, float]
    window: tuple[int, int]
    zoom: tuple[float, float]
    shift: tuple[int, int]
    flip: bool
    size: int
    scene: tuple[int, int]
    distortion: Distortion = NOTHING

    def image(self, pixels: np.ndarray, fill: tuple[int, int, int], planes: np.ndarray | None = None) -> np.ndarray:
        """An image, uint8 (H, W, 3), as its canvas, uint8 (size, size, 3), padded with `fill`, which is also where a
        moved scene does not reach and the colour of squares cut out. planes: uint8 (3, size, size), its memory."""
        planes = np.empty((3, self.size, self.size), np.uint8) if planes is None else planes
        canvas = planes.transpose(1, 2, 0)
        pixels = shifted(pixels, self.distortion.shifts, fill)
        shown = self._scaled(pixels) if self.distortion.warp is None else self._moved(Image.fromarray(pixels), fill)
        if self.window != (self.size, self.size):
            for channel, level in enumerate(fill):
                canvas[..., channel] = level
        return self._laid(shown, canvas, fill)

    def labels(self, plane: np.ndarray, outside: int) -> np.ndarray:
        """A label map or mask, uint8 (H, W), as uint8 (size, size): each pixel is one of the map's, never a mixture of
        several; `outside` beyond the scene. Colours and squares cut out leave labels as they are."""
        canvas = np.full((self.size, self.size), outside, np.uint8)
        picture = Image.fromarray(shifted(plane, self.distortion.shifts, outside))
        nearest = Image.Resampling.NEAREST
        if self.distortion.warp is None:
            shown = picture.resize(self.window, nearest, box=self.source)
        else:
            shown = picture.transform(
                self.window, Image.Transform.AFFINE, self._into_scene(), nearest, fillcolor=outside
            )
        return self._laid(np.asarray(shown), canvas, None)

    def boxes(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes, (N, 4) `xyxy` pixels of the scene, as (boxes, visible): float32 (N, 4), pixels of the canvas, clipped
        to the scene on it, so without extent if outside; float32 (N,), the share of each box's area that is left.

        In a scene that is turned or sheared a box goes around its four moved corners; `visible` is of the box as it
        lies there, not of the one around it. Of a box whose content is moved within it, only what stays counts.
        """
        bounds, warp = list(self.window) * 2, self.distortion.warp
        if warp is None:
            moved = self._upright(boxes)
            clipped = moved.clip(0, bounds)
            left, full = _area(clipped), _area(moved)
        else:
            corners = self._corners(boxes, warp)
            clipped = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).clip(0, bounds)
            left = _area_within(corners, *self.window)
            clipped[left == 0, 2:] = clipped[left == 0, :2]
            grown = abs(float(np.linalg.det(warp))) * self.zoom[0] * self.zoom[1]
            full = _area(boxes.astype(np.float64)) * grown
        visible = left / np.maximum(full, 1e-9) * self._staying(boxes)  # 0 for a box that never had an area
        return clipped.astype(np.float32), visible.astype(np.float32)

    def tightened(self, boxes: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Boxes of this canvas, float32 (N, 4), and the masks of their objects, uint8 (N, size, size) laid by `labels`,
        as the boxes around the masks' pixels where the scene or what lies in its boxes was moved: those around moved
        corners are too large there. Elsewhere, and for a mask without a pixel, the box as it is."""
        if self.distortion.warp is None and not self.distortion.shifts:
            return boxes
        tight = boxes.copy()
        for box, mask in zip(tight, masks, strict=True):
            columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            if len(rows):
                box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return tight

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        """The window of a scene that is not moved, its colours changed: bilinear, antialiased. Torch scales the whole
        scene, by Pillow's arithmetic, to a level, and in a fifth of its time, unless the window is little of it."""
        (width, height), (left, top) = self.window, self.shift
        whole = np.round(np.multiply(self.scene, self.zoom)).astype(int).tolist()
        if whole[0] * whole[1] <= MUCH * width * height:
            shown = _resized(pixels, *whole)[top : top + height, left : left + width]
        else:
            shown = np.asarray(Image.fromarray(pixels).resize(self.window, Image.Resampling.BILINEAR, box=self.source))
        colours = self.distortion.colours
        return np.asarray(recoloured(Image.fromarray(shown), colours)) if colours else shown

    def _moved(self, picture: Image.Image, fill: tuple[int, int, int]) -> np.ndarray:
        """The window of a moved scene: what of it is shown, scaled as elsewhere, so that small patterns do not alias,
        its colours changed, then turned."""
        corners = np.array([[0, 0], [self.window[0], 0], [0, self.window[1]], list(self.window)])
        zoom = np.array(self.zoom)
        into = np.reshape(self._into_scene(), (2, 3)) * zoom[:, None]  # points of the whole scaled scene
        within = corners @ into[:, :2].T + into[:, 2]
        low = np.maximum(np.floor(within.min(axis=0)), 0)
        high = np.minimum(np.ceil(within.max(axis=0)), np.round(self.scene * zoom))
        if (high <= low).any():
            return np.asarray(Image.new("RGB", self.window, fill))
        box, sides = np.concatenate([low / zoom, high / zoom]), (high - low).astype(int).tolist()
        region = picture.resize(sides, Image.Resampling.BILINEAR, box=_within(box, *self.scene))
        region = recoloured(region, self.distortion.colours)
        into[:, 2] -= low
        data = tuple(into.ravel().tolist())
        affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return np.asarray(region.transform(self.window, affine, data, bilinear, fillcolor=fill))

    def _into_scene(self) -> tuple[float, ...]:
        """The six numbers of the map from points of the window, not mirrored, to points of the scene."""
        scaled = np.diag([*self.zoom, 1.0])
        scaled[:2, 2] = np.negative(self.shift)
        return tuple(np.linalg.inv(scaled @ self.distortion.warp)[:2].ravel().tolist())

    def _laid(self, pixels: np.ndarray, canvas: np.ndarray, cut: tuple[int, int, int] | None) -> np.ndarray:
        """The canvas with the window on it; squares are cut out where `cut` is their colour."""
        width, height = self.window
        if cut and self.distortion.cutouts:
            pixels = pixels.copy()
            for square in self.distortion.cutouts:
                on = np.array(square) * np.tile(self.zoom, 2) - np.tile(self.shift, 2)
                x1, y1, x2, y2 = np.floor(on + 0.5).astype(int).clip(0, [width, height] * 2).tolist()
                pixels[y1:y2, x1:x2] = cut
        shown = _tensor(pixels)
        _tensor(canvas)[:height, :width] = shown.flip(1) if self.flip else shown
        return canvas

    def _upright(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of a scene that is not moved, on the window and beyond it, float64 (N, 4)."""
        width = self.window[0]
        moved = boxes.astype(np.float64) * np.tile(self.zoom, 2) - np.tile(self.shift, 2)
        if self.flip:
            moved = moved[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
        return moved

    def _corners(self, boxes: np.ndarray, warp: np.ndarray) -> np.ndarray:
        """The corners of boxes, cut off at the scene's edge, on the window of a moved scene: float64 (N, 4, 2)."""
        inside = boxes.astype(np.float64).clip(0, list(self.scene) * 2)
        points = inside[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        corners = (points @ warp[:2, :2].T + warp[:2, 2]) * self.zoom - self.shift
        if self.flip:
            corners = corners * [-1, 1] + [self.window[0], 0]
        return corners

    def _staying(self, boxes: np.ndarray) -> np.ndarray:
        """The share of the content of each box, float64 (N,), that stays in it where it is moved."""
        share, heights = np.ones(len(boxes)), np.maximum(boxes[:, 3] - boxes[:, 1], 1e-9)
        for moved, pixels in self.distortion.shifts:
            among = (boxes[:, None] == moved[None]).all(axis=2).any(axis=1)
            share[among] *= np.maximum(0, 1 - abs(pixels) / heights[among])
        return share


@dataclass(frozen=True)
class Augment:
    """Random flip and scale of a scene, cut and padded to a square, after what a policy does to it.

    jitter: s ~ U(jitter) makes the longer side `round(s * size)`; the aspect is kept, as in the paper's code.
    flip: probability of a horizontal flip.
    """

    jitter: tuple[float, float]
    flip: float
    policy: Policy | None = None

    def place(
        self, width: int, height: int, size: int, rng: np.random.Generator, boxes: np.ndarray = NO_BOXES
    ) -> Placement:
        """Where a scene of width x height pixels lands: a random window of it if it is scaled to more than `size`.
        boxes: (N, 4), of all its objects, whose content a policy may move; nothing is random afterwards."""
        flip, scale, right, down = rng.random(4)  # always four draws, so that no option shifts the next one's
        low, high = self.jitter
        target = round((low + scale * (high - low)) * size)
        scaled = np.array([width, height]) * (target / max(width, height))
        scaled_w, scaled_h = np.maximum(np.floor(scaled + 0.5), 1).astype(int).tolist()
        window_w, window_h = min(scaled_w, size), min(scaled_h, size)
        left, top = int(right * (scaled_w - window_w + 1)), int(down * (scaled_h - window_h + 1))

        zoom = scaled_w / width, scaled_h / height  # what the rounding made of the scale, per axis
        source = np.array([left, top, left + window_w, top + window_h]) / np.tile(zoom, 2)
        within = _within(source, width, height)
        distortion = self.policy.draw(width, height, rng, boxes) if self.policy else NOTHING
        return Placement(
            within, (window_w, window_h), zoom, (left, top), bool(flip < self.flip), size, (width, height), distortion
        )

    def __call__(
        self, pixels: np.ndarray, boxes: np.ndarray, size: int, fill: tuple[int, int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An image, uint8 (H, W, 3), and boxes, (N, 4) `xyxy` pixels, as (canvas, boxes, visible): see Placement."""
        placement = self.place(pixels.shape[1], pixels.shape[0], size, rng, boxes)
        return placement.image(pixels, fill), *placement.boxes(boxes)


S1 = Augment(jitter=(0.8, 1.2), flip=0.5)
S2 = replace(S1, policy=AutoAugment(policies.DETECTION))
S3 = replace(S2, jitter=(0.5, 2.0))
S4 = replace(S3, policy=RandAugment())
FIT = Augment(jitter=(1.0, 1.0), flip=0.0)
"""No augmentation: the longer side becomes `size`, the rest is padding, as where the network is used."""

RANGES = tuple(field.name for field in fields(Ranges))
Table = Literal["detection", "imagenet", "cifar10"]
TABLES: dict[Table, Any] = {"detection": policies.DETECTION, "imagenet": policies.IMAGENET, "cifar10": policies.CIFAR10}


class AugmentRecipe(Section):
    """The `augment` section of a recipe, or just its `policy`.

    policy: S1, S2, S3 or S4. jitter: range of the random scale; S1 and S2 have 0.8 to 1.2, S3 and S4 0.5 to 2.0.
    autoaugment: table of S2 and S3: `detection` (policy v0 of arXiv 1906.11172), or one of classes, `imagenet` or
    `cifar10` (arXiv 1805.09501), of which `imagenet` is taken for images of classes unless another is named here.
    magnitude: 1 to 10, and layers, of S4's RandAugment, 10 and 2. rotate (30 degrees), shear (0.3), translate (pixels;
    250, and 100 in S4), cutout (half a square's side, pixels; 100, and 40 in S4): what level 10 stands for, except in
    the tables of classes; pixels are of images whose longer side is 640, others' are in proportion.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    policy: Literal["S1", "S2", "S3", "S4"] = "S1"
    jitter: tuple[PositiveFloat, PositiveFloat] | None = None
    autoaugment: Table | None = None
    magnitude: Annotated[float, Field(ge=1, le=10)] | None = None
    layers: PositiveInt | None = None
    rotate: Annotated[float, Field(ge=0, le=180)] | None = None
    shear: Annotated[float, Field(ge=0, le=1)] | None = None
    translate: Annotated[float, Field(ge=0, le=LONGER_SIDE)] | None = None
    cutout: Annotated[float, Field(ge=0, le=LONGER_SIDE)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"policy": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _of_its_policy(self) -> AugmentRecipe:
        if self.jitter and self.jitter[0] > self.jitter[1]:
            raise ValueError(f"jitter goes from {self.jitter[0]} down to {self.jitter[1]}: the smaller number is first")
        owners = {"autoaugment": ("S2", "S3"), "magnitude": ("S4",), "layers": ("S4",)}
        owners |= dict.fromkeys(RANGES, ("S2", "S3", "S4"))
        for key, having in owners.items():
            if getattr(self, key) is not None and self.policy not in having:
                raise ValueError(f"{key} is no part of {self.policy}: use policy {' or '.join(having)}, or remove it")
        return self

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        """As a run's description has it: what is not said is left out."""
        stated = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return self.policy if len(stated) == 1 else stated

    def build(self, flip: float, usual: Table = "detection") -> Augment:
        """The augmentation. flip: probability of mirroring. usual: AutoAugment's table where the section names none.
        Raises BuildError for ranges that the table does not have."""
        known = {"S1": S1, "S2": S2, "S3": S3, "S4": S4}[self.policy]
        ranges = {name: value for name in RANGES if (value := getattr(self, name)) is not None}
        policy = known.policy
        if isinstance(policy, RandAugment):
            layers, magnitude = self.layers or policy.layers, self.magnitude or policy.magnitude
            policy = RandAugment(layers, magnitude, replace(policy.ranges, **ranges))
        elif policy:
            table = self.autoaugment or usual
            if ranges and table != "detection":
                raise BuildError(f"augment.{next(iter(ranges))} is no part of the table {table}: remove it")
            table_ranges = replace(AUTOAUGMENT_RANGES, **ranges) if table == "detection" else None
            policy = AutoAugment(TABLES[table], table_ranges)
        return Augment(self.jitter or known.jitter, flip, policy)


def _tensor(pixels: np.ndarray) -> Tensor:
    """The same memory as a tensor; a copy of what may not be written, of which torch warns."""
    import torch

    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def _resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """An image, uint8 (H, W, 3), at another size: bilinear, antialiased."""
    from torchvision.transforms.v2 import functional

    planes = functional.resize(_tensor(pixels).permute(2, 0, 1), [height, width], antialias=True)
    return np.asarray(planes.permute(1, 2, 0))


def _within(box: np.ndarray, width: int, height: int) -> tuple[float, float, float, float]:
    """The box as Pillow wants it: not a rounding error outside of the image."""
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, min(x2, width), min(y2, height)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _area_within(corners: np.ndarray, width: int, height: int) -> np.ndarray:
    """What of each convex polygon, (N, K, 2), lies between (0, 0) and (width, height): areas, float64 (N,).

    Cut off at one line after the other (Sutherland and Hodgman, 1974). A corner beyond a line is moved straight onto
    it instead of being left out: what then runs to and fro on the line encloses no area.
    """
    for axis, bound, keep in ((0, 0, np.maximum), (0, width, np.minimum), (1, 0, np.maximum), (1, height, np.minimum)):
        following = np.roll(corners, -1, axis=1)
        step = (following - corners)[..., axis]
        way = (bound - corners[..., axis]) / np.where(step == 0, 1, step)
        crosses = (step != 0) & (way > 0) & (way < 1)
        between = np.where(crosses[..., None], corners + way[..., None] * (following - corners), corners)
        corners = np.stack([corners, between], axis=2).reshape(len(corners), 2 * corners.shape[1], 2)
        corners[..., axis] = keep(corners[..., axis], bound)
    x, y = corners[..., 0], corners[..., 1]
    return np.abs((x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1)) / 2

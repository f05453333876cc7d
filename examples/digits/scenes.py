"""The demo's data: scikit-learn's handwritten digits, pasted on noisy canvases as detection scenes with exact boxes.

What is written, all from a seed (images are greyscale JPEG, labels COCO JSON):

    FOLDER/labelled.json    labelled/000000.jpg …    the few human labels
           truth.json       truth/…                  held-out labels, for calibration
           test.json        test/…                   for the final figures only
           pool/000000.jpg …                         images without labels
           pool_truth.json                           the pool's hidden truth: for measuring, never for training
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageDraw, ImageFilter
from sklearn.datasets import load_digits

SIDE = 96
"""Width and height of a scene, pixels."""
CLASSES = tuple("0123456789")
VISIBLE = 0.25
"""Ink at least this strong, where 1 is the strongest of its digit, is what a box encloses."""
OVERLAP = 0.1
"""Share of a digit's box that earlier boxes may cover; ink never meets ink."""
TRIES = 20
"""Places tried for a digit before the scene goes without it."""


@dataclass(frozen=True)
class Counts:
    """Scenes per split, each at least 1."""

    labelled: int = 60
    truth: int = 100
    pool: int = 400
    test: int = 200


@dataclass(frozen=True)
class Digit:
    """A digit in a scene. source: its index in `load_digits`; box: `xywh`, whole pixels, tight around its ink."""

    label: int
    source: int
    box: tuple[int, int, int, int]


def make_scenes(folder: Path, counts: Counts | None = None, seed: int = 0) -> None:
    """Write the four splits under `folder`. Equal arguments give equal bytes.

    The 1,797 digits are divided first, in proportion to `counts`, so none is seen in two splits; within its split a
    digit may come back, at another size. Annotations record its index as `digit`. Raises ValueError if a split would
    have no scenes or no digits.
    """
    sizes = asdict(counts or Counts())
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.images))
    ends = np.cumsum(list(sizes.values())) * len(order) // sum(sizes.values())
    sources = dict(zip(sizes, np.split(order, ends[:-1]), strict=True))
    for split, size in sizes.items():
        if size < 1 or not len(sources[split]):
            raise ValueError(f"split {split} has {size} scenes and {len(sources[split])} digits: give it more scenes")
    for number, (split, size) in enumerate(sizes.items()):
        (folder / split).mkdir(parents=True, exist_ok=True)
        scenes = []
        for index in range(size):
            rng = np.random.default_rng([seed, number, index])
            ink, found = place_digits(rng, sources[split], digits.images, digits.target)
            name = f"{split}/{index:06d}.jpg"
            jpeg = simplejpeg.encode_jpeg(draw_scene(rng, ink)[:, :, None], quality=95, colorspace="GRAY")
            (folder / name).write_bytes(jpeg)
            scenes.append((name, found))
        labels = folder / ("pool_truth.json" if split == "pool" else f"{split}.json")
        labels.write_text(json.dumps(coco_labels(scenes)))


def place_digits(
    rng: np.random.Generator, sources: np.ndarray, images: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, list[Digit]]:
    """One to five digits drawn from `sources`: their ink in [0, 1], float64 (SIDE, SIDE), and where each is.

    Boxes may overlap a little; ink never does, so every box is exact.
    """
    ink = np.zeros((SIDE, SIDE))
    boxed = np.zeros((SIDE, SIDE), bool)
    found: list[Digit] = []
    for source in rng.choice(sources, rng.integers(1, 6)):
        mark = draw_digit(rng, images[source])
        height, width = mark.shape
        for _ in range(TRIES):
            x, y = int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1))
            here = np.s_[y : y + height, x : x + width]
            if boxed[here].mean() <= OVERLAP and not ((ink[here] > 0) & (mark > 0)).any():
                ink[here] += mark
                boxed[here] = True
                found.append(Digit(int(targets[source]), int(source), (x, y, width, height)))
                break
    return ink, found


def draw_scene(rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
    """The pixels, uint8 (SIDE, SIDE), of a scene with that ink. Strokes, pen-like but no digits, lie under it; paper,
    shade, contrast (dark or bright ink) and noise differ from scene to scene."""
    contrast = rng.uniform(60, 130) * rng.choice([-1, 1])
    paper = rng.uniform(80, 175) + draw_shade(rng)
    strokes = rng.uniform(0.5, 1) * draw_clutter(rng) * (1 - ink)
    scene = paper + contrast * (ink + strokes) + rng.normal(0, rng.uniform(5, 16), (SIDE, SIDE))
    return scene.round().clip(0, 255).astype(np.uint8)


def draw_digit(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Ink in [0, 1], float64 (height, width), of an 8x8 digit (0 to 16) at a random size, width and tilt, cropped to
    what is visible; fainter ink is wiped off."""
    height = np.exp(rng.uniform(np.log(16), np.log(40)))
    size = round(height * rng.uniform(0.75, 1.15)), round(height)
    large = Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    tilted = np.asarray(large.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True), np.float64)
    ink = (tilted / tilted.max()).clip(0, 1)
    ink[ink < VISIBLE] = 0
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def draw_clutter(rng: np.random.Generator) -> np.ndarray:
    """Ink in [0, 1], float64 (SIDE, SIDE), of up to six arcs and lines, as thick as the digits' own strokes."""
    canvas = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(7)):
        x, y = rng.uniform(-8, SIDE, 2)
        width, height = rng.uniform(6, 36, 2)
        thick, shade = int(rng.integers(1, 5)), int(rng.integers(100, 256))
        if rng.random() < 0.5:
            start = rng.uniform(0, 360)
            pen.arc((x, y, x + width, y + height), start, start + rng.uniform(60, 200), fill=shade, width=thick)
        else:
            pen.line((x, y, x + width * rng.choice([-1, 1]), y + height), fill=shade, width=thick)
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(0.8)), np.float64) / 255


def draw_shade(rng: np.random.Generator) -> np.ndarray:
    """A plane of light, float64 (SIDE, SIDE), at most 30 levels brighter or darker at either side."""
    along = np.linspace(-1, 1, SIDE)
    return rng.uniform(-15, 15) * along[:, None] + rng.uniform(-15, 15) * along


def coco_labels(scenes: list[tuple[str, list[Digit]]]) -> dict[str, Any]:
    """(file name, digits) of scenes as COCO JSON. Category ids are 1 to 10, positions in CLASSES plus one."""
    annotations: list[dict[str, Any]] = []
    for image_id, (_, digits) in enumerate(scenes, 1):
        for digit in digits:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": digit.label + 1,
                    "bbox": digit.box,
                    "area": digit.box[2] * digit.box[3],
                    "iscrowd": 0,
                    "digit": digit.source,
                }
            )
    return {
        "images": [
            {"id": image_id, "file_name": name, "width": SIDE, "height": SIDE}
            for image_id, (name, _) in enumerate(scenes, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": position, "name": name} for position, name in enumerate(CLASSES, 1)],
    }

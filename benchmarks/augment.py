"""What augmentation costs the loader: Augment-S1 to S4 against torchvision's v2 transforms that come nearest.

    python benchmarks/augment.py [--images DIR] [--size 512] [--count 60] [--rounds 5]

One thread, and seconds of the processor, so that other work on the machine counts little. Each image is decoded once,
before the clock starts; what is timed makes a canvas of size x size and moves 20 boxes, for every image. torchvision's
transforms get uint8 tensors with bounding boxes; its AutoAugment and RandAugment move no boxes and refuse them, so
theirs are timed on the image alone, and boxes with the rest. Without --images the scenes are smooth noise of 640x480
pixels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _compare import in_turns, machine, ratios, verdict
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from students.augment.scene import FIT, S1, S2, S3, S4, Augment
from students.data.loader import IMAGENET_GREY
from teachers.images import decode_rgb

AIM = 1.0
BOXES = 20


def scenes(folder: Path | None, count: int) -> list[np.ndarray]:
    if folder:
        return [decode_rgb(path.read_bytes()) for path in sorted(folder.rglob("*.jpg"))[:count]]
    rng = np.random.default_rng(0)
    rough = (rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(count))
    return [np.asarray(Image.fromarray(one).resize((640, 480), Image.Resampling.BICUBIC)) for one in rough]


def some_boxes(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    corners = np.random.default_rng(1).random((BOXES, 2, 2)).cumsum(axis=1) / 2
    return (corners * [width, height]).reshape(-1, 4).astype(np.float32)


def ours(images: Sequence[np.ndarray], augment: Augment, size: int) -> Callable[[], None]:
    def work() -> None:
        for seed, pixels in enumerate(images):
            rng, boxes = np.random.default_rng(seed), some_boxes(pixels)
            augment(pixels, boxes, size, IMAGENET_GREY, rng)

    return work


def theirs(
    images: Sequence[np.ndarray], policy: v2.Transform | None, low: float, high: float, size: int
) -> Callable[[], None]:
    steps = [
        v2.RandomHorizontalFlip(),
        v2.ScaleJitter((size, size), (low, high)),
        v2.RandomCrop((size, size), pad_if_needed=True, fill={tv_tensors.Image: list(IMAGENET_GREY), "others": 0}),
        v2.ClampBoundingBoxes(),
    ]
    rest = v2.Compose(steps)

    def work() -> None:
        torch.manual_seed(0)
        for pixels in images:
            image = torch.from_numpy(pixels).permute(2, 0, 1)
            changed = policy(image) if policy else image
            boxes = tv_tensors.BoundingBoxes(some_boxes(pixels), format="XYXY", canvas_size=pixels.shape[:2])
            rest(tv_tensors.Image(changed), boxes)

    return work


def cpu_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = scenes(args.images, args.count)
    bilinear = v2.InterpolationMode.BILINEAR
    auto, rand = v2.AutoAugment(interpolation=bilinear), v2.RandAugment(2, 9, interpolation=bilinear)
    works = {"no augmentation": ours(images, FIT, args.size)}
    for name, augment, policy, low, high in (
        ("S1", S1, None, 0.8, 1.2),
        ("S2", S2, auto, 0.8, 1.2),
        ("S3", S3, auto, 0.5, 2.0),
        ("S4", S4, rand, 0.5, 2.0),
    ):
        works[name] = ours(images, augment, args.size)
        works[f"{name} torchvision"] = theirs(images, policy, low, high, args.size)
    for work in works.values():
        work()  # what is loaded at its first use
    seconds = in_turns({name: lambda work=work: cpu_seconds(work) for name, work in works.items()}, args.rounds)
    print(machine())
    for name, values in seconds.items():
        each = [1000 * value / len(images) for value in values]
        print(f"{name:<16} {median(each):6.1f} ms an image ({min(each):.1f} - {max(each):.1f})")
    for name in ("S1", "S2", "S3", "S4"):
        verdict(f"{name} / torchvision", ratios(seconds[name], seconds[f"{name} torchvision"]), AIM, at_most=True)


if __name__ == "__main__":
    main()

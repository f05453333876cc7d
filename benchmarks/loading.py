"""Train's loader with Augment-S1 beside a loop of torchvision's: one thread, seconds of the processor.

Ours reads a version's images and labels, places them by S1 (a random flip, scale and crop of image and boxes) on a
square, and makes batches of 8 with their targets. The loop reads the same JPEG files, decodes them by
`torchvision.io.decode_jpeg`, mirrors each and resizes it so that its longer side is the square's; no labels, no batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from _compare import Comparison, Row, Run, beside
from _inputs import write_inputs

from builder.build import build_pseudo
from builder.recipe.recipe import load_recipe
from builder.store.store import Store

BATCH = 8
SIDES = (320, 512)


def read_jointly(folder: Path, side: int, images: int) -> Callable[[], None]:
    """The loader's work: every image once. (The version's stream: the human half would read the same way.)"""
    from builder.store.version import Version
    from students.augment.scene import S1
    from students.data.loader import IMAGENET_GREY
    from students.data.streams import Pseudo, generator
    from students.tasks.choose import task_of, usual_arch

    version = Version.open(folder)
    task = task_of(usual_arch(version.manifest.kind))
    stream = Pseudo([version], version.manifest.classes, task)

    def work() -> None:
        import numpy as np
        import torch

        for first in range(0, images, BATCH):
            batch, targets = np.empty((BATCH, 3, side, side), np.uint8), []
            for index in range(first, min(first + BATCH, images)):
                scene, rng = stream[index], generator(0, 1, 1, index)
                height, width = scene.pixels.shape[:2]
                placement = S1.place(width, height, side, rng, task.boxes(scene.marks))
                placement.image(scene.pixels, IMAGENET_GREY, batch[index - first])
                targets.append(task.target(*map(torch.from_numpy, task.place(scene.marks, placement))))
            torch.from_numpy(batch)

    return work


def read_plainly(paths: list[Path], side: int) -> Callable[[], None]:
    """torchvision's loop."""
    from torchvision.io import decode_jpeg, read_file
    from torchvision.transforms.v2 import functional

    def work() -> None:
        for path in paths:
            image = functional.horizontal_flip(decode_jpeg(read_file(str(path))))
            height, width = image.shape[-2:]
            scale = side / max(height, width)
            functional.resize(image, [round(height * scale), round(width * scale)], antialias=True)

    return work


def cpu_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(run: Run) -> Iterator[Comparison]:
    import torch

    before, images = torch.get_num_threads(), run.of(600, 16)
    torch.set_num_threads(1)
    with run.scratch() as name:
        folder, store = Path(name), Store(Path(name) / "store")
        recipe = load_recipe(write_inputs(folder, images, 50_000), ["pool.chunk=100"])
        assert build_pseudo(recipe, store, root=folder).cut
        paths = sorted((folder / "pool").rglob("*.jpg"))
        for side in SIDES:
            works = {
                "Tutelage": read_jointly(store.versions("bench")[0], side, images),
                "torchvision's loop": read_plainly(paths, side),
            }
            for work in works.values():
                work()  # what is loaded at its first use
            timed = {peer: partial(cpu_seconds, work) for peer, work in works.items()}
            what = f"{images:,} images of 640x480 on {side}x{side}, Augment-S1, one thread"
            yield from beside(what, run.turns(timed, 7), {"torchvision's loop": 1.0}, amount=images, of="images")
    torch.set_num_threads(before)


ROW = Row(
    "load",
    "train's loader: read, decode, augment, batch",
    "as fast as torchvision's plain loop of decoding, mirroring and resizing",
    compare,
    ("torch", "torchvision", "simplejpeg"),
)

"""Reading a version: every image decoded and its label parsed, in batches of 16 as tensors, by worker processes.

Ours is what training reads with (students.data.streams), in order and without augmentation. WebDataset and `datasets`
read the version's own tars; LitData and MosaicML streaming the same JPEG bytes in their own files, written before.
Pixels are decoded by Pillow (`datasets`, MosaicML, WebDataset's `rgb8`), by torchvision (LitData), or by simplejpeg, as
ours are, which says so where a JPEG is damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _compare import Comparison, Row, Run, beside, timed
from _inputs import write_inputs
from _peers import seconds_of

from builder.build import build_pseudo
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from builder.store.version import Version

BATCH = 16


def boxes_of(label: Any) -> int:
    return len(label["objects"]["category"])


def ours(version: Version, workers: int) -> Iterator[Any]:
    from torch.utils.data import default_collate

    from students.data.ahead import made_ahead
    from students.data.streams import Pseudo
    from students.tasks.choose import task_of, usual_arch

    task = task_of(usual_arch(version.manifest.kind))
    stream = Pseudo([version], version.manifest.classes, task)

    def make(step: int) -> Any:
        scenes = [stream[n] for n in range(step * BATCH, min((step + 1) * BATCH, len(stream)))]
        return default_collate([(scene.pixels, len(task.boxes(scene.marks))) for scene in scenes])

    return made_ahead(make, range(-(-len(stream) // BATCH)), workers=workers)


def by_simplejpeg(key: str, data: bytes) -> Any:
    import simplejpeg

    return simplejpeg.decode_jpeg(data) if key.endswith("jpg") else None


def web(version: Version, workers: int, decoder: Any) -> Iterable[Any]:
    import webdataset
    from torch.utils.data import DataLoader

    tars = [str(version.data / shard.name) for shard in version.manifest.shards]
    samples = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode(decoder).to_tuple("jpg", "json")
    return DataLoader(samples.map_tuple(lambda image: image, boxes_of), batch_size=BATCH, num_workers=workers)


def hub(version: Version, workers: int) -> Iterable[Any]:
    import torch
    from datasets import load_dataset
    from torch.utils.data import DataLoader

    def joined(rows: list[Any]) -> Any:
        return torch.from_numpy(np.stack([np.asarray(row["jpg"]) for row in rows])), [boxes_of(r["json"]) for r in rows]

    rows = load_dataset(str(version.folder), split="train", streaming=True)
    return DataLoader(rows, batch_size=BATCH, num_workers=workers, collate_fn=joined)


def read(make: Callable[[], Iterable[Any]], images: int) -> float:
    """Seconds until all images were there, from the start of the workers on."""

    def work() -> None:
        assert sum(len(batch[0]) for batch in make()) == images

    return timed(work)


def compare(run: Run) -> Iterator[Comparison]:
    images = run.of(2_000, 64)
    with run.scratch() as name:
        folder, store = Path(name), Store(Path(name) / "store")
        recipe = load_recipe(
            write_inputs(folder, images, 50_000), [f"shards.max_images={images // 4}", "pool.chunk=100"]
        )
        assert build_pseudo(recipe, store, root=folder).cut
        version = Version.open(store.versions("bench")[0])
        for peer in ("litdata", "mosaic"):
            seconds_of(f"keep_{peer}", folder / "pool", folder / peer)
        for workers in (1, 2):
            makes: dict[str, Callable[[], Iterable[Any]]] = {
                "Tutelage": partial(ours, version, workers),
                "webdataset, Pillow": partial(web, version, workers, "rgb8"),
                "webdataset, simplejpeg": partial(web, version, workers, by_simplejpeg),
                "datasets, streaming": partial(hub, version, workers),
            }
            works = {peer: partial(read, make, images) for peer, make in makes.items()}
            for peer, words in (("litdata", "LitData"), ("mosaic", "MosaicML streaming")):
                works[words] = partial(seconds_of, f"read_{peer}", folder / peer, images, workers, BATCH)
            aims: dict[str, float | None] = dict.fromkeys(works, 1.0)
            aims["webdataset, Pillow"] = 2
            del aims["Tutelage"]
            what = f"{images:,} images of 640x480 with their labels, {workers} worker{'s' * (workers > 1)}"
            yield from beside(what, run.turns(works, 3), aims, amount=images, of="images")


ROW = Row(
    "read",
    "a version read and decoded",
    "2 times WebDataset with Pillow, ahead of each other",
    compare,
    ("webdataset", "datasets", "litdata", "mosaicml-streaming", "simplejpeg", "pillow", "torch", "torchvision"),
)

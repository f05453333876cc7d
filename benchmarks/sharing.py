"""Many thresholds of one pool: what they take on disk with their images inside and with images shared, and the time.

The pool is a folder of images with their COCO labels, scored at random and replayed; one image in ten is turned (EXIF)
or a PNG, so that it is written anew. One image leaves the pool after the first version, whose child keeps it as a
tombstone. Then thresholds are cut one after the other, each in both ways. Ids must be equal, and the materialised tars
of the last version those of its twin, byte for byte. Aim: shared, at most 1.05 times the images once and all labels.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import yaml
from _compare import machine, scratch
from PIL import Image

from builder.build import build_pseudo
from builder.recipe.recipe import load_recipe
from builder.store.files import sha256_file
from builder.store.shared.materialize import materialize
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.verify import problems

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("inside", "shared")


def write_inputs(source: Path, images: Path, folder: Path) -> Path:
    """The pool, results for it and a recipe, which is returned."""
    truth = json.loads(source.read_bytes())
    rng = np.random.default_rng(0)
    (folder / "pool").mkdir()
    for number, image in enumerate(truth["images"]):
        path = folder / "pool" / Path(image["file_name"]).name
        if number % 10:
            shutil.copy(images / image["file_name"], path)
            continue
        with Image.open(images / image["file_name"]) as opened:
            if number % 20:
                path = path.with_suffix(".png")
                opened.save(path)
            else:
                exif = opened.getexif()
                exif[0x0112] = 3  # upside down: of the same size
                opened.save(path, exif=exif, quality=95)
        image["file_name"] = path.name
    results = [
        {name: each[name] for name in ("image_id", "category_id", "bbox")} | {"score": float(rng.uniform(0.05, 1))}
        for each in truth["annotations"]
    ]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "listing.json").write_text(json.dumps(truth))
    teacher = {"spec": "replay:results.json", "images": "listing.json"}
    recipe = {"name": "cells", "pool": "pool", "teacher": teacher, "keep": {"score": 0.3, "ignore": 0.1}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def size_of(folder: Path) -> int:
    """Bytes below a folder, files that several names share once."""
    seen = {(s.st_dev, s.st_ino): s.st_size for s in (p.stat() for p in folder.rglob("*") if p.is_file())}
    return sum(seen.values())


def images_of(version: Version) -> int:
    """Bytes of a version's images as they are written."""
    return sum(row.bytes[0] for shard in version.manifest.shards for row in version.rows(shard))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = ROOT.parent / "shared" / "data" / "bccd"
    parser.add_argument("--labels", type=Path, default=data / "instances_train.json", help="COCO JSON")
    parser.add_argument("--images", type=Path, default=data / "images")
    parser.add_argument("--versions", type=int, default=100)
    parser.add_argument("--folder", help="where the scratch folder goes (default: the system's)")
    options = parser.parse_args()
    with scratch(options.folder) as name:
        folder = Path(name)
        path = write_inputs(options.labels, options.images, folder)
        stores = {way: Store(folder / way) for way in WAYS}
        seconds = dict.fromkeys(WAYS, 0.0)
        print(f"sharing.py: {machine()}\n")
        for number in range(options.versions):
            ids = set()
            for way, store in stores.items():
                sets = [f"shards.images={way}", f"keep.score={0.3 + 0.6 * number / options.versions}"]
                recipe = load_recipe(path, ["parent=cells@v1", f"shards.images={way}"] if number == 1 else sets)
                start = time.perf_counter()
                built = build_pseudo(recipe, store, root=folder)
                seconds[way] += time.perf_counter() - start
                assert built.cut
                ids.add(built.cut.manifest.id)
            assert len(ids) == 1, f"v{number + 1} has other contents where its images are shared"
            if number == 0:
                next(iter(sorted((folder / "pool").iterdir()))).unlink()
            if number + 1 in (1, 4, options.versions):
                tell(number + 1, stores, seconds)
        last = {way: store.version(f"cells@v{options.versions}") for way, store in stores.items()}
        materialize(last["shared"], folder / "plain")
        tars = [sorted(place.glob("data/*.tar")) for place in (folder / "plain", last["inside"].folder)]
        assert [sha256_file(p) for p in tars[0]] == [sha256_file(p) for p in tars[1]], "materialised tars differ"
        assert not problems(last["shared"]) and not problems(stores["shared"].version("cells@v2"))
        gone = len(stores["shared"].version("cells@v2").manifest.tombstones)
        print(f"ids equal, materialised tars equal, verified; {gone} tombstone in v2")


def tell(versions: int, stores: dict[str, Store], seconds: dict[str, float]) -> None:
    """What so many versions take."""
    inside = [Version.open(path) for path in stores["inside"].versions("cells")]
    images = max(images_of(version) for version in inside)
    labels = sum(size_of(version.folder) - images_of(version) for version in inside)
    sizes = {way: size_of(store.datasets) + size_of(store.root / "images") for way, store in stores.items()}
    took = (f"{way} {sizes[way] / 1e6:.1f} MB in {seconds[way]:.0f} s" for way in WAYS)
    print(
        f"{versions:4} versions: {', '.join(took)}; images once {images / 1e6:.1f} MB and all labels "
        f"{labels / 1e6:.1f} MB: {sizes['shared'] / (images + labels):.3f} of these (aim 1.05)"
    )


if __name__ == "__main__":
    main()

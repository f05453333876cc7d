"""Many thresholds of one pool: what they take on disk with their images inside and with images shared, and the time.

The pool is a folder of images with their COCO labels, scored at random and replayed; one image in ten is turned (EXIF)
or a PNG, so that it is written anew. One image leaves the pool after the first version, whose child keeps it as a
tombstone. Then thresholds are cut one after the other, each in both ways. Ids must be equal, and the materialised tars
of the last version those of its twin, byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _compare import DATA, Comparison, Row, Run
from PIL import Image

from builder.build import build_pseudo
from builder.recipe.recipe import load_recipe
from builder.store.files import sha256_file
from builder.store.shared.materialize import materialize
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.verify import problems

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
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    return folder / "recipe.yaml"


def size_of(folder: Path) -> int:
    """Bytes below a folder, files that several names share once."""
    seen = {(s.st_dev, s.st_ino): s.st_size for s in (p.stat() for p in folder.rglob("*") if p.is_file())}
    return sum(seen.values())


def images_of(version: Version) -> int:
    """Bytes of a version's images as they are written."""
    return sum(row.bytes[0] for shard in version.manifest.shards for row in version.rows(shard))


def compare(run: Run) -> Iterator[Comparison]:
    versions = run.of(100, 2)
    with run.scratch() as name:
        folder = Path(name)
        path = write_inputs(DATA / "bccd" / "instances_train.json", DATA / "bccd" / "images", folder)
        stores = {way: Store(folder / way) for way in WAYS}
        for number in range(versions):
            ids = set()
            for way, store in stores.items():
                sets = [f"shards.images={way}", f"keep.score={0.3 + 0.6 * number / versions}"]
                recipe = load_recipe(path, ["parent=cells@v1", f"shards.images={way}"] if number == 1 else sets)
                built = build_pseudo(recipe, store, root=folder)
                assert built.cut
                ids.add(built.cut.manifest.id)
            assert len(ids) == 1, f"v{number + 1} has other contents where its images are shared"
            if number == 0:
                next(iter(sorted((folder / "pool").iterdir()))).unlink()
            if number + 1 in (1, 4, versions):
                yield from on_disk(number + 1, stores)
        last = {way: store.version(f"cells@v{versions}") for way, store in stores.items()}
        materialize(last["shared"], folder / "plain")
        tars = [sorted(place.glob("data/*.tar")) for place in (folder / "plain", last["inside"].folder)]
        assert [sha256_file(p) for p in tars[0]] == [sha256_file(p) for p in tars[1]], "materialised tars differ"
        child = stores["shared"].version("cells@v2")
        assert not problems(last["shared"]) and not problems(child) and len(child.manifest.tombstones) == 1


def on_disk(versions: int, stores: dict[str, Store]) -> Iterator[Comparison]:
    """What so many versions take."""
    inside = [Version.open(path) for path in stores["inside"].versions("cells")]
    images = max(images_of(version) for version in inside)
    labels = sum(size_of(version.folder) - images_of(version) for version in inside)
    size = {way: [(size_of(store.datasets) + size_of(store.root / "images")) / 1e6] for way, store in stores.items()}
    what = f"{versions} version{'s' * (versions > 1)} on disk, images shared; ids equal"
    yield Comparison(what, size["shared"], "images once, all labels", [(images + labels) / 1e6], 1.05, True, "MB")
    yield Comparison(what, size["shared"], "images inside", size["inside"], at_most=True, unit="MB")


ROW = Row(
    "share",
    "what many thresholds of one pool take on disk",
    "at most 1.05 times the images once and all labels",
    compare,
)

"""Re-cut: a version with changed rules, against `cp` of the old version's bytes.

A pool of JPEGs, predictions of about 20 boxes an image (replayed COCO results) and a version `v1` are made first. Each
round then cuts a version with a threshold not used before; shards are hashed and synced. The peer is `cp -r` of v1's
folder, with and without syncing what it wrote. Aim: the cut stage takes at most twice the time of `cp` that is synced,
as ours is. A second row is the whole command `build-pseudo`, with start-up, scan and look-up of what is labelled. A
third is that with `shards.images: shared`, where only labels are written; aim: at most .4 of `cp` beyond the time that
the interpreter takes to start (`build-pseudo --help`), and 6 % of its bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _compare import Seconds, in_turns, machine, ratios, scratch, show, timed, verdict
from PIL import Image

from builder.build import Built, build_pseudo
from builder.cut.basis import Basis
from builder.cut.version import cut_version
from builder.engine import worker_count
from builder.recipe.recipe import Recipe, load_recipe
from builder.store.files import sync_folder
from builder.store.store import Store

CLASSES = ("person", "car", "dog", "cat", "bird")
SIZE = (640, 480)
BOXES = 20
DISTINCT = 200
PROGRAM = Path(sys.executable).with_name("build-pseudo")


def jpeg(rng: np.random.Generator, size: int) -> bytes:
    """A picture of soft shapes with noise on them, of about `size` bytes."""
    soft = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    noisy = np.asarray(soft, np.float32) + rng.normal(0, 12, (SIZE[1], SIZE[0], 1))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    data = b""
    for quality in range(50, 96, 5):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        data = out.getvalue()
        if len(data) >= size:
            break
    return data


def write_inputs(folder: Path, images: int, size: int) -> Path:
    """The pool, COCO results for it, their image list and a recipe, which is returned."""
    rng = np.random.default_rng(0)
    pictures = [jpeg(rng, size) for _ in range(min(DISTINCT, images))]
    (folder / "pool").mkdir()
    records: list[dict[str, Any]] = []
    for n in range(images):
        data, comment = pictures[n % len(pictures)], b"%08d" % n  # a JPEG comment makes each file distinct
        marked = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]
        (folder / "pool" / f"{n:06d}.jpg").write_bytes(marked)
        corners, sides = rng.uniform(0, 400, (BOXES, 2)).round(2), rng.uniform(8, 80, (BOXES, 2)).round(2)
        boxes = np.concatenate([corners, sides], axis=1).tolist()
        labels, scores = rng.integers(0, len(CLASSES), BOXES).tolist(), rng.uniform(0.05, 1, BOXES).tolist()
        records += (
            {"image_id": n, "category_id": label, "bbox": box, "score": score}
            for box, label, score in zip(boxes, labels, scores, strict=True)
        )
    listing = {
        "images": [{"id": n, "file_name": f"{n:06d}.jpg", "width": SIZE[0], "height": SIZE[1]} for n in range(images)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES)],
    }
    (folder / "results.json").write_text(json.dumps(records))
    (folder / "listing.json").write_text(json.dumps(listing))
    teacher = {"spec": "replay:results.json", "images": "listing.json"}
    recipe = {"name": "bench", "pool": "pool", "teacher": teacher, "keep": {"score": 0.5, "ignore": 0.3}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def recut(built: Built, recipe: Recipe, store: Store, score: float, workers: int) -> Path:
    assert built.labelled
    options = recipe.model_copy(update={"keep": recipe.keep.model_copy(update={"score": score})})
    basis = Basis(built.pool, store.predictions / built.labelled.predictions, options, recipe.teacher.name)
    done = cut_version(basis, store, name=recipe.name, workers=workers)
    assert done.shards_written == len(done.manifest.shards)
    return done.folder


def copy(version: Path, target: Path, *, sync: bool) -> None:
    subprocess.run(["cp", "-r", version, target], check=True)
    for root, _, names in os.walk(target) if sync else ():
        for name in names:
            with open(Path(root) / name, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def newest(root: Path) -> Path:
    """The folder of the last version in a store; no number is given twice."""
    return Store(root).versions("bench")[-1]


def tell(seconds: Mapping[str, Seconds], size: int, written: int) -> None:
    """The figures. size: bytes of a version with its images inside; written: of one that shares them."""
    show(seconds, size / 1e6, "MB")
    ours, command, lean, start, loose, synced = seconds.values()
    verdict("time of the cut stage over that of cp, both synced", ratios(ours, synced), 2, at_most=True)
    verdict("time of the whole command over that of cp, both synced", ratios(command, synced), 2, at_most=True)
    beyond = [whole - other for whole, other in zip(lean, start, strict=True)]
    verdict(
        "time of the command with shared images beyond its start over that of cp",
        ratios(beyond, synced),
        0.4,
        at_most=True,
    )
    print(f"bytes of the new version over the old one's, images shared: {100 * written / size:.1f} %")
    print(f"over cp that is not synced: {np.median(ratios(ours, loose)):.2f} (cut stage)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=50_000, help="size of an image, about")
    parser.add_argument("--workers", type=int, default=worker_count(), help="threads that cut")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the scratch folder goes (default: the system's)")
    options = parser.parse_args()
    with scratch(options.folder) as name:
        folder, store = Path(name), Store(Path(name) / "store")
        path = write_inputs(folder, options.images, options.bytes)
        recipe = load_recipe(path)
        built = build_pseudo(recipe, store, root=folder, workers=options.workers)
        assert built.cut
        version, shards = built.cut.folder, built.cut.manifest.shards
        size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
        scores = (0.5 + n / 1000 for n in count(1))  # each one new to the store

        def run_cut() -> float:
            seconds = timed(lambda: recut(built, recipe, store, next(scores), options.workers), folder, size)
            shutil.rmtree(newest(store.root))
            return seconds

        shared = load_recipe(path, ["shards.images=shared"])
        build_pseudo(shared, Store(folder / "shared"), root=folder, workers=options.workers)
        written: list[int] = []

        def run_command(root: Path, *more: str) -> float:
            command: list[str | Path] = [PROGRAM, path, "--set", f"keep.score={next(scores)}", *more]
            command += ["--workers", str(options.workers), "--store", root]
            seconds = timed(lambda: subprocess.run(command, check=True, capture_output=True), folder, size)
            made = newest(root)
            written.append(sum(file.stat().st_size for file in made.rglob("*") if file.is_file()))
            shutil.rmtree(made)
            return seconds

        def run_start() -> float:
            return timed(lambda: subprocess.run([PROGRAM, "--help"], check=True, capture_output=True))

        def run_copy(sync: bool) -> float:
            seconds = timed(lambda: copy(version, folder / "copy", sync=sync), folder, size)
            shutil.rmtree(folder / "copy")
            return seconds

        print(
            f"recut.py: {options.images} images, {size / 1e6:.0f} MB in {len(shards)} shards, "
            f"{options.workers} workers; {machine()}\n"
        )
        works = {
            "Tutelage cut (SHA-256, fsync)": run_cut,
            "build-pseudo, whole command": lambda: run_command(store.root),
            "build-pseudo, images shared": lambda: run_command(folder / "shared", "--set", "shards.images=shared"),
            "build-pseudo --help": run_start,
            "cp -r": lambda: run_copy(sync=False),
            "cp -r, fsync": lambda: run_copy(sync=True),
        }
        seconds = in_turns(works, options.repeats)
    tell(seconds, size, min(written))


if __name__ == "__main__":
    main()

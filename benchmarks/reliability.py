"""What it costs that nothing damaged is used: a build with nothing to do, the start of a training, an export and a
verify of one version, beside `sha256sum` of the same bytes.

Only the command line is called, so that `--python` measures any checkout of Tutelage, of which the one named by
PYTHONPATH is taken: give `PYTHONPATH=OLD python benchmarks/reliability.py --keep FOLDER` and then the new one with the
same folder, where nothing is made again if it is there. Images are noise, as JPEGs of about 1 MB. Aim: the first
training after a build starts within sha256sum's time later than one that trusts.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from _compare import in_turns, machine, scratch, show, timed, verdict
from PIL import Image

NETWORK = {"backbone": "timm:test_resnet", "size": 64, "channels": 16, "head_depth": 1, "levels": [8, 16]}


def write_images(folder: Path, start: int, count: int) -> list[dict[str, object]]:
    """Noise of 1000x700 pixels, and what COCO's `images` says of it."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for number in range(start, start + count):
        pixels = np.random.default_rng(number).integers(0, 256, (700, 1000, 3), np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=95)
        (folder / f"{number:06d}.jpg").write_bytes(data.getvalue())
        listed.append({"id": number, "file_name": f"{number:06d}.jpg", "width": 1000, "height": 700})
    return listed


def write_world(folder: Path, count: int) -> None:
    """A pool with replayed results, eight labelled images, and the recipes of a build and of a training."""
    categories = [{"id": 1, "name": "cat"}]
    pool = write_images(folder / "pool", 0, count)
    (folder / "listing.json").write_text(json.dumps({"images": pool, "annotations": [], "categories": categories}))
    boxes = [{"image_id": n, "category_id": 1, "bbox": [100, 100, 300, 200], "score": 0.9} for n in range(count)]
    (folder / "results.json").write_text(json.dumps(boxes))
    notes = [
        {"id": n, "image_id": count + n, "category_id": 1, "bbox": [9, 9, 300, 200], "area": 60000} for n in range(8)
    ]
    truth = write_images(folder / "truth", count, 8)
    crowd = [note | {"iscrowd": 0} for note in notes]
    (folder / "truth.json").write_text(json.dumps({"images": truth, "annotations": crowd, "categories": categories}))
    teacher = {"spec": "replay:results.json", "images": "listing.json"}
    recipe = {"name": "noise", "pool": "pool", "teacher": teacher, "keep": {"score": 0.5}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    labelled = {"path": "truth.json", "images": "truth"}
    train = {"labelled": labelled, "pseudo": ["noise@v1"], "network": NETWORK, "steps": 1, "batch": 2, "workers": 0}
    (folder / "train.yaml").write_text(json.dumps(train))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images of about 1 MB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has Tutelage")
    parser.add_argument("--keep", type=Path, help="folder to work in, which stays")
    parser.add_argument("--scratch", help="folder on the disk to measure")
    options = parser.parse_args()
    with scratch(options.scratch) as temporary:
        measure(options.keep or Path(temporary), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    def tutelage(*args: str, check: bool = True) -> bool:
        command = [options.python, "-m", "builder.cli", *args]
        return subprocess.run(command, cwd=folder, check=check, capture_output=True).returncode == 0

    if not (folder / "train.yaml").exists():
        write_world(folder, options.images)
    tutelage("build", "recipe.yaml", "--no-report")
    shards = sorted((folder / "store" / "datasets" / "noise" / "v1" / "data").iterdir())
    size = sum(path.stat().st_size for path in shards)
    print(f"reliability.py: {len(shards)} shards, {size / 1e9:.2f} GB; {machine()}\n")

    def train(*more: str) -> float:
        shutil.rmtree(folder / "run", ignore_errors=True)
        return timed(lambda: tutelage("train", "train.yaml", "--out", "run", *more))

    def first(work: str) -> float:
        for memory in folder.glob("store/datasets/noise/.checked-*"):
            memory.unlink()
        return train() if work == "train" else export()

    def export() -> float:
        shutil.rmtree(folder / "out", ignore_errors=True)
        return timed(lambda: tutelage("export", "noise@v1", "out", "--format", "coco", "--no-images"))

    works = {
        "sha256sum": lambda: timed(lambda: subprocess.run(["sha256sum", *shards], check=True, capture_output=True)),
        "build, nothing to do": lambda: timed(lambda: tutelage("build", "recipe.yaml", "--no-report")),
        "train, first": lambda: first("train"),
        "train, remembered": train,
        "export, first": lambda: first("export"),
        "export, remembered": export,
        "verify": lambda: timed(lambda: tutelage("verify", "noise@v1")),
    }
    if tutelage("train", "train.yaml", "--out", "run", "--trust", check=False):
        works["train, --trust"] = lambda: train("--trust")
    seconds = in_turns(works, options.repeats)
    show(seconds, size / 1e6, "MB")
    if "train, --trust" in seconds:
        rounds = zip(*(seconds[name] for name in ("train, first", "train, --trust", "sha256sum")), strict=True)
        later = [(one - other) / hashing for one, other, hashing in rounds]
        verdict("first start, later than one that trusts, in times of sha256sum", later, 1, at_most=True)


if __name__ == "__main__":
    main()

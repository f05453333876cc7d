"""Labelling: the `label` stage with a real ONNX detector, against the bare loop over the same images.

The bare loop is the script a person would write: read, decode, `teacher.predict` in batches, results thrown away. Both
use the same teacher object, batch size and threads. `label` also hashes every image, keeps order and writes Parquet.
Aim: at most 1.05 times the loop's time. The limit is the model alone, on pixels decoded before.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from _compare import in_turns, machine, ratios, scratch, show, timed, verdict

from builder.engine import worker_count
from builder.label.labelling import label_pool
from builder.label.model import ModelLabeller
from builder.scan.pool import Pool
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from teachers import load_teacher
from teachers.base import Teacher, TeacherOptions
from teachers.images import decode_rgb

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data"))


def write_pool(folder: Path, sources: Sequence[Path], count: int) -> list[Path]:
    """`count` images in `folder`: the sources again and again, made distinct by a JPEG comment (marker FE)."""
    folder.mkdir()
    paths = []
    for n in range(count):
        data = sources[n % len(sources)].read_bytes()
        comment = b"%08d" % n
        paths.append(folder / f"{n:06d}.jpg")
        paths[-1].write_bytes(data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:])
    return paths


def batches(count: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def bare_loop(paths: Sequence[Path], teacher: Teacher) -> None:
    for batch in batches(len(paths), teacher.batch_size):
        teacher.predict([decode_rgb(path.read_bytes()) for path in paths[batch]])


def model_only(pixels: Sequence[np.ndarray], teacher: Teacher) -> None:
    for batch in batches(len(pixels), teacher.batch_size):
        teacher.predict(pixels[batch])


def label_stage(pool: Pool, teacher: Teacher, store: Store, workers: int) -> None:
    done = label_pool(pool, ModelLabeller(teacher, workers), store, spec="onnx:benchmark")
    assert done.images_labelled == len(pool) and not done.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=474, help="images to label, copies of those in the data folder")
    parser.add_argument("--teacher", type=Path, default=ROOT / "examples" / "coco_yolox" / "yolox_nano_416.yaml")
    parser.add_argument("--weights", type=Path, default=DATA / "models" / "yolox_nano_416.onnx")
    parser.add_argument("--sources", type=Path, default=DATA / "coco" / "images", help="folder of JPEGs")
    parser.add_argument("--workers", type=int, default=worker_count(), help="threads that decode for `label`")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, help="the model's (default: the teacher's own)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the scratch folder goes (default: the system's)")
    options = parser.parse_args()
    sources = sorted(options.sources.glob("*.jpg"))
    if not sources:
        parser.error(f"no JPEGs in {options.sources}: name a folder with --sources, or set TUTELAGE_DATA")

    settings = TeacherOptions(weights=str(options.weights), batch_size=options.batch_size, threads=options.threads)
    teacher = load_teacher(f"onnx:{options.teacher}", settings)
    with scratch(options.folder) as folder:
        paths = write_pool(Path(folder) / "pool", sources, options.images)
        store = Store(Path(folder) / "store")
        pool = scan_pool(str(Path(folder) / "pool"), store)
        pixels = [decode_rgb(path.read_bytes()) for path in paths]

        def run_label() -> float:
            seconds = timed(lambda: label_stage(pool, teacher, store, options.workers))
            shutil.rmtree(store.predictions)
            return seconds

        print(
            f"labelling.py: {len(paths)} images, batches of {teacher.batch_size}, {teacher.runtime['threads']} threads "
            f"in the model, {options.workers} decode for `label`; {machine()}\n"
        )
        works = {
            "Tutelage label": run_label,
            "bare loop": lambda: timed(lambda: bare_loop(paths, teacher)),
            "limit: model alone": lambda: timed(lambda: model_only(pixels, teacher)),
        }
        seconds = in_turns(works, options.repeats)
    show(seconds, len(paths), "images")
    ratio = ratios(seconds["Tutelage label"], seconds["bare loop"])
    verdict("time of `label` over that of the bare loop", ratio, 1.05, at_most=True)


if __name__ == "__main__":
    main()

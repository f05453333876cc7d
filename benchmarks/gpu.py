"""The rows of a GPU, in under ten minutes: `python benchmarks/gpu.py` on a machine with torch and a GPU.

    label   torchvision's Faster R-CNN, and YOLOX-nano where onnxruntime-gpu is: `label` beside the bare model on images
            decoded before; for torchvision also on tensors that lie on the device
    feed    train's batches, from JPEG files to the device, beside the device's own step

It needs what `tutelage label` needs: torch, torchvision, pyarrow, pydantic, simplejpeg; neither webdataset nor
pycocotools. Without `--images` the images are noise on soft shapes. `--device cpu` runs the same code slowly, to see
that it runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from _compare import in_turns, machine, scratch
from _inputs import jpeg, marked

AIM = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--count", type=int, default=2000, help="images to label")
    parser.add_argument("--images", type=Path, help="folder of JPEGs")
    parser.add_argument("--onnx", type=Path, help="yolox_nano_416.onnx, beside which is its YAML file")
    parser.add_argument("--workers", type=int, help="threads, and processes of the loader (default: one a core)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import torch

    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("no GPU is here: run this on a machine that has one, or add --device cpu --count 8")
    name = torch.cuda.get_device_name() if options.device != "cpu" else "cpu"
    print(f"gpu.py: {name}, torch {torch.__version__}; {machine()}", flush=True)
    with scratch(None) as folder:
        paths = write_images(Path(folder) / "pool", options.count, options.images)
        for rows in (label_rows(Path(folder), paths, options), feed_rows(Path(folder), paths, options)):
            for row in rows:
                print(row, flush=True)


def write_images(folder: Path, count: int, source: Path | None) -> list[Path]:
    """`count` distinct JPEGs, of the source's or of noise."""
    rng = np.random.default_rng(0)
    files = sorted(source.rglob("*.jpg"))[:200] if source else []
    pictures = [path.read_bytes() for path in files] or [jpeg(rng, 50_000) for _ in range(min(count, 100))]
    folder.mkdir()
    paths = [folder / f"{n:06d}.jpg" for n in range(count)]
    for n, path in enumerate(paths):
        path.write_bytes(marked(pictures[n % len(pictures)], n))
    return paths


def rates(works: dict[str, Callable[[], Any]], count: int, options: Any) -> Iterator[str]:
    """A line for each work: images a second, and the first's share of its rate."""
    next(iter(works.values()))()  # what is compiled and loaded at its first use
    seconds = in_turns({name: partial(clocked, work, options.device) for name, work in works.items()}, options.rounds)
    ours = next(iter(seconds.values()))
    for name, values in seconds.items():
        share = median(b / a for a, b in zip(ours, values, strict=True))
        note = "" if values is ours else f"   the first has {share:.2f} of its rate"
        yield f"  {name:<58}{count / median(values):10.1f} images/s{note}"


def clocked(work: Callable[[], Any], device: str) -> float:
    import torch

    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def teachers(folder: Path, pixels: Sequence[np.ndarray], options: Any) -> Iterator[tuple[str, Any]]:
    from labelling import faster_rcnn

    from teachers import load_teacher
    from teachers.base import TeacherOptions

    yield "Faster R-CNN", faster_rcnn(folder, pixels, options.device)
    if options.onnx:
        yield "YOLOX-nano", load_teacher(f"onnx:{options.onnx}", TeacherOptions(device=options.device))


def label_rows(folder: Path, paths: Sequence[Path], options: Any) -> Iterator[str]:
    from labelling import bare_model

    from builder.engine import worker_count
    from builder.label.labelling import label_pool
    from builder.label.model import ModelLabeller
    from builder.label.profile import Profile
    from builder.scan.scanner import scan_pool
    from builder.store.store import Store
    from teachers.images import decode_rgb

    store, workers = Store(folder / "store"), worker_count(options.workers)
    pool, pixels = scan_pool(str(folder / "pool"), store), [decode_rgb(path.read_bytes()) for path in paths[:400]]
    pixels = [pixels[n % len(pixels)] for n in range(len(paths))]
    for name, teacher in teachers(folder, pixels, options):

        def label(teacher: Any = teacher, profile: Profile | None = None) -> None:
            label_pool(
                pool, ModelLabeller(teacher, workers, False, profile=profile), store, spec="gpu", profile=profile
            )
            shutil.rmtree(store.predictions)

        works: dict[str, Callable[[], Any]] = {
            f"label, {name}, {workers} threads": label,
            f"the bare model, {name}, images decoded before": partial(bare_model, pixels, teacher),
        }
        if name == "Faster R-CNN":
            works[f"the bare model, {name}, tensors on the device"] = partial(on_tensors, teacher, pixels, options)
        yield from rates(works, len(paths), options)
        profile = Profile(workers)
        label(teacher, profile)
        yield f"  profile: {profile.reading()}; {json.dumps(profile.describe()['parts'])}"


def on_tensors(teacher: Any, pixels: Sequence[np.ndarray], options: Any) -> None:
    """The model itself, on batches that lie on the device, whose results stay there."""
    import torch

    size = teacher.batch_size
    tensors = [torch.from_numpy(image.copy()).to(options.device) for image in pixels[: 4 * size]]
    with torch.inference_mode():
        for first in range(0, len(pixels), size):
            batch = [tensors[n % len(tensors)] for n in range(first, min(first + size, len(pixels)))]
            teacher._model([image.permute(2, 0, 1).float() / 255 for image in batch])


def feed_rows(folder: Path, paths: Sequence[Path], options: Any) -> Iterator[str]:
    """Batches that processes make, on the device (16; on a GPU of 512 pixels), and how many a network would take."""
    import torch
    from torchvision.models import resnet50

    from builder.engine import worker_count
    from builder.truth.coco import read_coco
    from students.data.loader import JointBatches
    from teachers.images import read_header

    entries, notes = [], []
    for n, path in enumerate(paths):
        header = read_header(path.read_bytes())
        entries.append({"id": n, "file_name": path.name, "width": header.width, "height": header.height})
        notes += [{"id": 8 * n + k, "image_id": n, "category_id": 1, "bbox": [9 * k, 9 * k, 50, 50]} for k in range(8)]
    content = {"images": entries, "annotations": notes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "labels.json").write_text(json.dumps(content))
    truth = read_coco(folder / "labels.json", folder / "pool")
    device, workers, size = torch.device(options.device), worker_count(options.workers), 16
    side = 512 if device.type == "cuda" else 64
    batches, steps = JointBatches(truth, size=side, batch_size=size), max(2, len(paths) // size)

    def feed() -> None:
        for batch in batches.stream(0, steps, workers=workers, pin=device.type == "cuda"):
            batch.to(device).images.float().mean()

    network = resnet50().to(device, memory_format=torch.channels_last)
    images = torch.rand(size, 3, side, side, device=device).to(memory_format=torch.channels_last)

    def step() -> None:
        for _ in range(steps):
            with torch.autocast(device.type, torch.bfloat16):
                network(images).float().mean().backward()

    works = {f"feed, {workers} processes": feed, f"a ResNet-50's training step in bfloat16, {side} pixels": step}
    yield from rates(works, steps * size, options)


if __name__ == "__main__":
    main()

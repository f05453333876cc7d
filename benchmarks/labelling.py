"""The `label` stage with real detectors, YOLOX-nano in ONNX Runtime and a Faster R-CNN of torchvision's.

Beside it three things a person would compare it with, all with the same model, batch size and threads. The bare model:
`teacher.predict` on pixels decoded before, results thrown away. The loop: read, decode, predict in batches. The
autodistill-style loop: Pillow opens one image after the other, the model sees it alone, what scores .5 or more is
written as YOLO's text. `label` also checks each file, keeps order and writes Parquet, every object down to the floor.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _compare import ROOT, Comparison, Row, Run, beside, timed
from PIL import Image

from builder.label.labelling import label_pool
from builder.label.model import ModelLabeller
from builder.label.profile import Profile
from builder.scan.pool import Pool
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from teachers import load_teacher
from teachers.base import Teacher, TeacherOptions
from teachers.images import decode_rgb

DATA = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data"))
TORCHVISION = "fasterrcnn_mobilenet_v3_large_320_fpn"
WORKERS, BATCH = 2, 8


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


def yolox() -> Teacher:
    weights = str(DATA / "models" / "yolox_nano_416.onnx")
    spec = ROOT / "examples" / "coco_yolox" / "yolox_nano_416.yaml"
    return load_teacher(f"onnx:{spec}", TeacherOptions(weights=weights, batch_size=BATCH))


def faster_rcnn(folder: Path, pixels: Sequence[np.ndarray], device: str | None = "cpu") -> Teacher:
    """Random weights, with the statistics of these images in its norms: else numbers run towards 0, where a processor
    takes a hundred times as long. One thread on a CPU: with more, torch's wait for each other by turning in a loop."""
    import torch
    from torchvision.models import detection

    torch.manual_seed(0)
    network = getattr(detection, TORCHVISION)(weights=None, weights_backbone=None, num_classes=91)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    network.backbone.train()
    with torch.no_grad():
        tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in pixels[:BATCH]]
        network.backbone(network.transform.eval()(tensors)[0].tensors)
    torch.save(network.state_dict(), folder / "weights.pth")
    options = TeacherOptions(
        weights=str(folder / "weights.pth"),
        classes=tuple(f"class {n}" for n in range(90)),
        batch_size=BATCH,
        device=device,
        threads=1 if device == "cpu" else None,
    )
    return load_teacher(f"torchvision:{TORCHVISION}", options)


def batches(count: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def label_stage(pool: Pool, teacher: Teacher, store: Store, profile: Profile | None = None) -> None:
    labeller = ModelLabeller(teacher, WORKERS, alarm=False, profile=profile)
    done = label_pool(pool, labeller, store, spec="benchmark", profile=profile)
    assert done.images_labelled == len(pool) and not done.failed
    shutil.rmtree(store.predictions)


def bare_model(pixels: Sequence[np.ndarray], teacher: Teacher) -> None:
    for batch in batches(len(pixels), BATCH):
        teacher.predict(pixels[batch])


def loop(paths: Sequence[Path], teacher: Teacher) -> None:
    for batch in batches(len(paths), BATCH):
        teacher.predict([decode_rgb(path.read_bytes()) for path in paths[batch]])


def one_by_one(paths: Sequence[Path], teacher: Teacher, out: Path) -> None:
    """As tools do that hand a dataset on to a trainer: an image, its objects above a threshold, a text file."""
    out.mkdir(exist_ok=True)
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        found: Any = teacher.predict([pixels])[0]
        kept = found.take(np.flatnonzero(found.scores >= 0.5))
        height, width = pixels.shape[:2]
        lines = [
            f"{label} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f} "
            f"{(y2 - y1) / height:.6f}"
            for label, (x1, y1, x2, y2) in zip(kept.labels.tolist(), kept.boxes.tolist(), strict=True)
        ]
        (out / f"{path.stem}.txt").write_text("\n".join(lines))


def compare(run: Run) -> Iterator[Comparison]:
    sources = sorted((DATA / "coco" / "images").glob("*.jpg"))
    if not sources:
        raise SystemExit(f"no JPEGs in {DATA / 'coco' / 'images'}: set TUTELAGE_DATA")
    with run.scratch() as name:
        folder = Path(name)
        pixels = [decode_rgb(path.read_bytes()) for path in sources[:BATCH]]
        teachers: dict[str, tuple[Callable[[], Teacher], int]] = {
            "YOLOX-nano, ONNX Runtime": (yolox, run.of(240, 8)),
            f"torchvision's {TORCHVISION}": (partial(faster_rcnn, folder, pixels), run.of(48, 8)),
        }
        for number, (what, (load, count)) in enumerate(teachers.items()):
            paths, store, teacher = (
                write_pool(folder / f"pool{number}", sources, count),
                Store(folder / f"store{number}"),
                load(),
            )
            pool = scan_pool(str(folder / f"pool{number}"), store)
            decoded = [decode_rgb(path.read_bytes()) for path in paths]
            works = {
                "Tutelage": partial(label_stage, pool, teacher, store),
                "the bare model, images decoded before": partial(bare_model, decoded, teacher),
                "loop of batches": partial(loop, paths, teacher),
                "autodistill-style loop": partial(one_by_one, paths, teacher, folder / "texts"),
            }
            seconds = run.turns({peer: partial(timed, work) for peer, work in works.items()}, 5)
            aims = dict(zip(list(works)[1:], (0.95, 1.0, 1.0), strict=True))
            yield from beside(f"{count} images, {what}", seconds, aims, amount=count, of="images")
            profile = Profile(WORKERS)
            label_stage(pool, teacher, store, profile)
            shares = ", ".join(f"{part} {value['share']:.0%}" for part, value in profile.describe()["parts"].items())
            print(f"  {what}: {profile.reading()} ({shares})")


ROW = Row(
    "label",
    "label a pool with a model",
    ".95 of the bare model's rate on decoded images, ahead of a loop",
    compare,
    ("onnxruntime", "torch", "torchvision", "pillow", "simplejpeg"),
)

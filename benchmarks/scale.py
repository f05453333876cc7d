"""Scale: peak memory and time of each command for a small and a large pool; diff, explain and log of the large one.

Pools of tiny JPEGs in shards of 1 MB (a thousand images, as 256 MB of photographs are: a shard is held in memory), a
teacher of a few multiplications (ONNX) that finds 20 boxes an image. Each command runs in a process of its own; its
peak is of resident memory, Python and libraries included. What is known to be read whole, a pool listed in COCO JSON
and replayed COCO results, is measured on pools of a tenth of the size.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _compare import Comparison, Row, Run
from _inputs import marked, write_inputs
from PIL import Image

CLASSES = ("person", "car", "dog", "cat", "bird")
SIZE, CELLS = 32, 4 * 4 + 2 * 2
"""Pixels a side, and the cells of YOLOX that look at them: strides of 8 and 16 pixels."""
DISTINCT = 500
LAUNCH = """
import os, sys
child = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss / 1024, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command and prints its peak: a process counts the peak of the one that started it, so that is a small one."""
COMMANDS = {
    "scan": "scan {folder}/pool",
    "label": "label {folder}/pool --teacher onnx:{folder}/model.onnx --no-alarm --floor 0.15",
    "build, cut alone": "build {folder}/recipe.yaml",
    "build, nothing to do": "build {folder}/recipe.yaml",
    "build, images shared": "build {folder}/recipe.yaml --set keep.score=0.35 --set shards.images=shared",
    "recut": "recut scale@v1 --set keep.score=0.4",
    "diff": "diff scale@v1 scale@v2",
    "explain": "explain scale@v1 000/000007.jpg",
    "log": "log",
    "show": "show scale@v1",
    "verify": "verify scale@v1",
    "export to COCO, labels alone": "export scale@v1 {folder}/out --format coco --no-images",
    "materialize": "materialize scale@v2 {folder}/plain",
    "review queue": "review queue scale@v1 --budget 200",
    "gc, dry run": "gc --dry-run",
    "fsck": "fsck",
}
SECONDS = {"diff": 10.0, "explain": 1.0, "log": 1.0}
READ_WHOLE = {
    "scan of a COCO JSON": "build {folder}/whole.yaml --only scan",
    "label with replayed results": "build {folder}/whole.yaml --only label",
}


def write_pool(folder: Path, images: int) -> None:
    """So many JPEGs, each distinct by a comment, in folders of a thousand."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(DISTINCT):
        rough = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        rough.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(out := io.BytesIO(), "JPEG", quality=80)
        pictures.append(out.getvalue())
    for n in range(images):
        (folder / f"{n // 1000:03d}").mkdir(exist_ok=True, parents=True)
        (folder / f"{n // 1000:03d}" / f"{n:06d}.jpg").write_bytes(marked(pictures[n % DISTINCT], n))


def write_teacher(folder: Path) -> None:
    """A model that finds the same boxes everywhere, one a cell, scored by the image's brightness."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    raw = np.concatenate([rng.normal(0, 0.3, (CELLS, 4)), rng.random((CELLS, 1 + len(CLASSES)))], axis=1)
    unit = (np.arange(raw.shape[1]) == 4) / 255
    constants = {"raw": raw[None], "unit": unit[None, None], "rest": (unit == 0)[None, None]}
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Squeeze", ["mean", "last"], ["level"]),
        helper.make_node("Mul", ["level", "unit"], ["scaled"]),
        helper.make_node("Add", ["scaled", "rest"], ["factor"]),
        helper.make_node("Mul", ["factor", "raw"], ["output"]),
    ]
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    initializers.append(numpy_helper.from_array(np.array([3]), "last"))
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["B", 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["B", *raw.shape])]
    graph = helper.make_graph(nodes, "constant", inputs, outputs, initializers)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "model.onnx"
    )
    spec = {"decoder": "yolox", "strides": [8, 16], "input": {"size": SIZE}, "classes": list(CLASSES)}
    (folder / "model.yaml").write_text(json.dumps(spec))


def write_world(folder: Path, images: int) -> None:
    write_pool(folder / "pool", images)
    write_teacher(folder)
    teacher = {"spec": "onnx:model.onnx", "floor": 0.15, "alarm": False}
    recipe = {"name": "scale", "pool": "pool", "teacher": teacher, "keep": {"score": 0.3, "ignore": 0.2}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe | {"shards": {"max_mb": 1}}))  # JSON is YAML


def measured(command: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a command of Tutelage's."""
    program = str(Path(sys.executable).with_name("tutelage"))
    words = [program, *command.format(folder=folder).split(), "--store", str(folder / "store"), "--json"]
    start = time.perf_counter()
    launch = [sys.executable, "-S", "-c", LAUNCH, *words]
    done = subprocess.run(launch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    seconds = time.perf_counter() - start
    *told, peak = done.stderr.decode().splitlines()
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {' '.join(told)}")
    print(f"    {command.partition(' ')[0]} in {folder.name}: {seconds:.1f} s, {float(peak):.0f} MB", flush=True)
    return seconds, float(peak)


def compare(run: Run) -> Iterator[Comparison]:
    few, many = run.of(10_000, 600), run.of(1_000_000, 1_200)
    with run.scratch() as name:
        small, large = Path(name) / "small", Path(name) / "large"
        for folder, images in ((small, few), (large, many)):
            write_world(folder, images)
        for what, command in COMMANDS.items():
            (_, low), (seconds, high) = (measured(command, folder) for folder in (small, large))
            work = f"{what}: peak memory at {many:,} images ({seconds:.1f} s)"
            yield Comparison(work, [high], f"at {few:,}", [low], 1.15, at_most=True, unit="MB")
            if what in SECONDS:
                yield Comparison(f"{what} at {many:,} images", [seconds], aim=SECONDS[what], at_most=True)
        many //= 10
        small, large = Path(name) / "small-coco", Path(name) / "large-coco"
        for folder, images in ((small, few), (large, many)):
            recipe = json.loads(write_inputs(folder, images, 1, (64, 48)).read_text())
            recipe["pool"] = {"source": "listing.json", "images": "pool"}
            (folder / "whole.yaml").write_text(json.dumps(recipe))
        for what, command in READ_WHOLE.items():
            (_, low), (seconds, high) = (measured(command, folder) for folder in (small, large))
            work = f"{what}: peak memory at {many:,} images ({seconds:.1f} s)"
            yield Comparison(work, [high], f"at {few:,}", [low], 1.15, at_most=True, unit="MB")


ROW = Row(
    "scale",
    "memory and time of each command at a million images",
    "memory flat within 15 % from 10,000 to 1,000,000 images; diff 10 s, explain and log 1 s",
    compare,
    ("pyarrow", "duckdb", "onnxruntime", "numpy"),
)

"""Scale: time and memory of `tutelage build` for a small and a large pool, at first and when nothing is left to do.

Pools of tiny JPEGs in shards of 1 MB (a thousand images, as 256 MB of photographs are: a shard is held in memory), a
teacher of a few multiplications (ONNX), four builds, each in a process of its own: the first
build of each pool (scan, label, cut) and the second, which finds all done. Aims: the second build of the large pool
takes seconds, and the peak memory (resident, of the whole process) of each build of the large pool is at most 1.15
times that of the same build of the small one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import yaml
from _compare import machine, scratch, verdict
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

CLASSES = ("person", "car", "dog", "cat", "bird")
SIZE, CELLS = 32, 4 * 4 + 2 * 2
"""Pixels a side, and the cells of YOLOX that look at them: strides of 8 and 16 pixels."""
DISTINCT = 500
SECONDS = 20.0
"""What "seconds" means: the most a build that finds all done may take."""


def write_pool(folder: Path, images: int) -> None:
    """So many JPEGs, each distinct by a comment, in folders of a thousand."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(DISTINCT):
        rough = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        rough.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(out := io.BytesIO(), "JPEG", quality=80)
        pictures.append(out.getvalue())
    for n in range(images):
        data, comment = pictures[n % DISTINCT], b"%08d" % n
        marked = data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]
        (folder / f"{n // 1000:03d}").mkdir(exist_ok=True, parents=True)
        (folder / f"{n // 1000:03d}" / f"{n:06d}.jpg").write_bytes(marked)


def write_teacher(folder: Path) -> None:
    """A model that finds the same boxes everywhere, one a cell, scored by the image's brightness."""
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
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))


def measured(command: list[str]) -> tuple[float, float, dict[str, object]]:
    """Seconds, peak resident megabytes and the JSON of a command in a process of its own."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        answer = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert usage.ru_maxrss > own, "a process starts with the peak of the one that started it"
    return seconds, usage.ru_maxrss / 1024, json.loads(answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs=2, default=[10_000, 100_000], metavar=("SMALL", "LARGE"))
    parser.add_argument("--only", choices=["scan", "label", "cut"], help="one stage (cut: the whole build)")
    parser.add_argument("--folder", help="where the scratch folder goes (default: the system's)")
    options = parser.parse_args()
    print(f"scale.py: {machine()}\n")
    print(f"{'images':>8}  {'build':<7}  {'seconds':>8}  {'peak MB':>8}")
    peaks: dict[str, list[float]] = {"first": [], "second": []}
    second = 0.0
    with scratch(options.folder) as name:
        for images in options.images:
            folder = Path(name) / str(images)
            write_pool(folder / "pool", images)
            write_teacher(folder)
            keep = {"score": 0.5, "ignore": 0.3}
            recipe = {
                "name": "scale",
                "pool": "pool",
                "teacher": {"spec": "onnx:model.onnx", "alarm": False},
                "keep": keep,
            }
            recipe["shards"] = {"max_mb": 1}
            (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
            command = [str(Path(sys.executable).with_name("tutelage")), "build", str(folder / "recipe.yaml"), "--json"]
            command += ["--store", str(folder / "store")]
            command += ["--only", options.only] if options.only in ("scan", "label") else []
            for build, found in peaks.items():
                second, peak, answer = measured(command)
                assert answer["images"] == images
                found.append(peak)
                print(f"{images:>8}  {build:<7}  {second:>8.1f}  {peak:>8.0f}", flush=True)
    for build, found in peaks.items():
        verdict(f"peak memory of the {build} build, large over small", [found[1] / found[0]], 1.15, at_most=True)
    verdict(f"seconds of the second build of {options.images[1]} images", [second], SECONDS, at_most=True)


if __name__ == "__main__":
    main()

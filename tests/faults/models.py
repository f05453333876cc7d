"""Hostile ONNX models and the YAML files beside them: each labels as it should, or is refused in a sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
from onnx import TensorProto as T
from onnx import helper as h

from tests.faults.commands import run
from tests.faults.verdict import Verdict, judge
from tests.faults.workplace import evenly
from tests.helpers.pools import write_images

ROW = "ONNX models"
SMALL = 0.015
SECONDS = 100.0
"""A model that never ends is given up after 60."""
COMMAND = ("label", "pool", "--teacher", "onnx:m.onnx", "--no-alarm")
SPEC: dict[str, Any] = {"decoder": "classifier", "classes": ["a", "b", "c"], "input": {"size": 8, "scale": "1/255"}}
DETECTOR: dict[str, Any] = {"decoder": "nms", "classes": ["a", "b"], "input": {"size": 8, "scale": "1/255"}}
ULTRALYTICS = {
    "names": "{0: 'a', 1: 'b', 2: 'c'}", "stride": "32", "task": "classify", "imgsz": "[8, 8]", "batch": "1",
    "description": "x", "license": "AGPL-3.0 License (https://…)", "args": "{}",
}  # fmt: skip
Fault = tuple[str, Callable[[Path], None], str]


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Each model, labelled with. wanted: `refused`; `same`, as with the plain model; `any`, what it labels is its own."""
    write_images(folder / "pool", 2, size=(16, 16))
    assert run("scan", "pool", cwd=folder).code == 0
    _put(folder, plain(), SPEC)
    ran = run(*COMMAND, cwd=folder, seconds=SECONDS)
    assert ran.code == 0, ran.stderr
    same = _labelled(folder)
    for name, make, wanted in evenly(list(faults()), share):
        shutil.rmtree(folder / "store/predictions", ignore_errors=True)
        for path in [path for path in folder.iterdir() if path.name not in ("pool", "store")]:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        _put(folder, plain(), SPEC)
        make(folder)
        ran = run(*COMMAND, cwd=folder, seconds=SECONDS)

        def right(wanted: str = wanted) -> bool:
            return wanted == "any" or (wanted == "same" and _labelled(folder) == same)

        yield name, judge(ran, right), ran.stderr or ran.stdout


def _labelled(folder: Path) -> list[Any]:
    found = sorted((folder / "store/predictions").rglob("images.parquet"))
    tables = [pq.read_table(path).to_pylist() for path in found]
    return [{k: v for k, v in row.items() if k != "seconds"} for table in tables for row in table]


def _put(folder: Path, model: Any, spec: Any) -> None:
    (folder / "m.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    (folder / "m.yaml").unlink(missing_ok=True)
    if spec is not None:
        (folder / "m.yaml").write_text(spec if isinstance(spec, str) else json.dumps(spec))


def value(name: str, shape: Sequence[Any] | None, kind: int = T.FLOAT) -> Any:
    return h.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[Any], outputs: list[Any], init: Sequence[Any] = (), inputs: list[Any] | None = None, opset: int = 17,
    domains: Sequence[Any] = (), functions: Sequence[Any] = (), metadata: dict[str, str] | None = None,
) -> Any:  # fmt: skip
    graph = h.make_graph(nodes, "g", [value("x", [1, 3, 8, 8])] if inputs is None else inputs, outputs, list(init))
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", opset), *domains], functions=list(functions))
    made.ir_version = 8
    if metadata:
        h.set_model_props(made, metadata)
    return made


def plain(**changes: Any) -> Any:
    """The mean of each channel: three classes."""
    nodes = [h.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    return model(nodes, changes.pop("outputs", [value("y", None)]), **changes)


def constant(array: np.ndarray, kind: int | None = None) -> Any:
    """A model that gives this, whatever it sees."""
    tensor = onnx.numpy_helper.from_array(array, "c") if kind is None else h.make_tensor("c", kind, array.shape, array)
    nodes = [h.make_node("Identity", ["c"], ["y"]), h.make_node("Identity", ["x"], ["z"])]
    return model(nodes, [value("y", None, tensor.data_type)], [tensor])


def faults() -> Iterator[Fault]:
    yield from _of_bytes()
    yield from _of_graphs()
    yield from _of_outputs()
    yield from _of_resources()
    yield from _of_files()
    yield from _of_metadata()
    yield from _of_yaml()


def _fault(name: str, made: Any, wanted: str = "refused", spec: Any = SPEC) -> Fault:
    return name, lambda folder: _put(folder, made, spec), wanted


def _of_bytes() -> Iterator[Fault]:
    whole = plain().SerializeToString()
    for name, data in {
        "empty": b"",
        "NUL": b"\0" * 99,
        "text": b"no model",
        "PNG": b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
    }.items():
        yield _fault(f"bytes {name}", data)
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        yield _fault(f"bytes cut at {part}", whole[: int(len(whole) * part)])
    for number in range(24):
        data = bytearray(whole)
        place = int(np.random.default_rng(number).integers(len(data) * 8))
        data[place // 8] ^= 1 << place % 8
        yield _fault(f"bytes flip {number}", bytes(data), "any")  # another model, with another fingerprint
    yield _fault("bytes twice", whole + whole, "any")
    yield _fault("bytes of length 2^31", b"\x3a\xff\xff\xff\xff\x07" + whole)


def _of_graphs() -> Iterator[Fault]:
    y = [value("y", None)]
    mean = h.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)
    for name, opset in (("0", 0), ("10^4", 10_000), ("-1", -1)):
        yield _fault(f"opset {name}", plain(opset=opset))
    odd = plain()
    odd.ir_version = 10**6
    yield _fault("ir_version 10^6", odd)
    yield _fault("an unknown op", model([h.make_node("Frobnicate", ["x"], ["y"])], y))
    custom = h.make_node("Run", ["x"], ["y"], domain="evil")
    yield _fault("an op of another domain", model([custom], y, domains=[h.make_opsetid("evil", 1)]))
    yield _fault("no nodes", model([], [value("x", [1, 3, 8, 8])]))
    yield _fault("no outputs", model([mean], []))
    yield _fault(
        "no inputs",
        model([h.make_node("Identity", ["c"], ["y"])], y, [h.make_tensor("c", T.FLOAT, [1, 3], [0, 0, 1])], []),
    )
    yield _fault("an unknown output", model([mean], [value("nowhere", None)]))
    yield _fault("a cycle", model([h.make_node("Add", ["x", "b"], ["a"]), h.make_node("Neg", ["a"], ["b"]), mean], y))
    yield _fault("a node twice", model([mean, mean], y))
    yield _fault("a missing input", model([h.make_node("Add", ["x", "nowhere"], ["y"])], y))
    yield _fault("an attribute of another type", model([h.make_node("ReduceMean", ["x"], ["y"], axes="two")], y))
    yield _fault("an axis far out", model([h.make_node("ReduceMean", ["x"], ["y"], axes=[10**9])], y))
    for name, kind in (
        ("string", T.STRING),
        ("int8", T.INT8),
        ("double", T.DOUBLE),
        ("bool", T.BOOL),
        ("complex", T.COMPLEX64),
    ):
        yield _fault(
            f"an input of {name}",
            model(
                [h.make_node("Identity", ["x"], ["y"])],
                [value("y", None, kind)],
                inputs=[value("x", [1, 3, 8, 8], kind)],
            ),
        )
    yield _fault("two images", model([mean], y, inputs=[value("x", [1, 3, 8, 8]), value("x2", [1, 3, 8, 8])]))
    shapes: dict[str, tuple[list[Any] | None, str]] = {
        "rank 0": ([], "refused"), "rank 1": ([3], "refused"), "rank 2": ([1, 3], "refused"), "rank 3": ([1, 3, 8], "refused"),
        "rank 5": ([1, 3, 8, 8, 1], "refused"), "unknown": (None, "same"), "dynamic": (["B", "C", "H", "W"], "same"),
        "negative": ([-1, 3, 8, 8], "same"), "no batch": ([0, 3, 8, 8], "refused"), "batch 10^9": ([10**9, 3, 8, 8], "refused"),
        "batch 2^62": ([2**62, 3, 8, 8], "refused"), "grey": ([1, 1, 8, 8], "refused"), "four channels": ([1, 4, 8, 8], "refused"),
        "another size": ([1, 3, 9, 9], "refused"), "side 0": ([1, 3, 0, 8], "refused"), "side 10^9": ([1, 3, 10**9, 10**9], "refused"),
        "side 30000": ([1, 3, 30_000, 30_000], "refused"),
    }  # fmt: skip
    for name, (shape, wanted) in shapes.items():
        yield _fault(f"input {name}", model([mean], y, inputs=[value("x", shape)]), wanted)
        spec = {**SPEC, "input": {"scale": "1/255"}}
        if name.startswith(("side", "rank", "batch")):  # a size that the model says itself
            yield _fault(f"input {name} untold", model([mean], y, inputs=[value("x", shape)]), "refused", spec)
    chain = [h.make_node("Neg", ["x" if n == 0 else f"t{n}"], [f"t{n + 1}"]) for n in range(20_000)]
    yield _fault(
        "20,000 nodes",
        model([*chain, h.make_node("ReduceMean", ["t20000"], ["y"], axes=[2, 3], keepdims=0)], y),
        "same",
    )
    deep = h.make_node("Identity", ["x"], ["y"])
    for _ in range(60):
        branch = h.make_graph([deep], "b", [], [value("y", None)])
        deep = h.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
        if len(branch.SerializeToString()) > 1 << 20:
            break
    yield _fault("branches in branches", model([deep], y, [h.make_tensor("c", T.BOOL, [], [True])]))
    body = [h.make_node("f", ["a"], ["b"], domain="own")]
    itself = h.make_function("own", "f", ["a"], ["b"], body, [h.make_opsetid("own", 1)])
    call = h.make_node("f", ["x"], ["y"], domain="own")
    yield _fault("a function of itself", model([call], y, domains=[h.make_opsetid("own", 1)], functions=[itself]))


def _of_outputs() -> Iterator[Fault]:
    f32 = np.float32
    arrays: dict[str, np.ndarray] = {
        "rank 0": np.zeros((), f32), "rank 1": np.zeros(3, f32), "empty": np.zeros((0, 3), f32), "of no classes": np.zeros((1, 0), f32),
        "two classes": np.zeros((1, 2), f32), "NaN": np.full((1, 3), np.nan, f32), "inf": np.full((1, 3), np.inf, f32),
        "-inf": np.full((1, 3), -np.inf, f32), "long": np.zeros((1, 3, 5), f32), "rank 8": np.zeros((1,) * 7 + (4,), f32),
        "9 million": np.zeros((3, 3_000_000), f32),
    }  # fmt: skip
    for name, array in arrays.items():
        yield _fault(f"output {name}", constant(array))
    for kind in ("float16", "float64", "int32", "int64", "uint8", "bool", "uint64"):
        yield _fault(f"output of {kind}", constant(np.array([[0, 0, 1]], kind)), "any")
    for name, number in (("1e30", 1e30), ("-1e30", -1e30), ("the least", 1e-45)):
        yield _fault(f"output {name}", constant(np.full((1, 3), number, f32)), "any")
    yield _fault("output of text", constant(np.array([b"a", b"b", b"c"]), T.STRING))
    yield _fault("output of text among classes", constant(np.array([[b"a", b"b", b"c"]], object), T.STRING))
    sequence = h.make_tensor_sequence_value_info("y", T.FLOAT, None)
    yield _fault("output a sequence", model([h.make_node("SequenceConstruct", ["x"], ["y"])], [sequence]))
    boxes: dict[str, tuple[np.ndarray, str]] = {
        "of NaN": (np.full((1, 2, 6), np.nan, f32), "refused"), "of inf": (np.full((1, 2, 6), np.inf, f32), "refused"),
        "of 1e38": (np.full((1, 2, 6), 1e38, f32), "refused"), "with a score of 7": (np.array([[[0, 0, 4, 4, 7, 0]]], f32), "refused"),
        "of class 9": (np.array([[[0, 0, 4, 4, 0.5, 9]]], f32), "refused"), "of class -1": (np.array([[[0, 0, 4, 4, 0.5, -1]]], f32), "any"),
        "of class 10^9": (np.array([[[0, 0, 4, 4, 0.5, 1e9]]], f32), "refused"), "of class 0.5": (np.array([[[0, 0, 4, 4, 0.5, 0.5]]], f32), "any"),
        "inverted": (np.array([[[4, 4, 0, 0, 0.5, 0]]], f32), "any"), "of 5 columns": (np.zeros((1, 2, 5), f32), "refused"),
        "of 7 columns, of image 99": (np.array([[99, 0, 0, 4, 4, 0, 0.5]], f32), "refused"), "none": (np.zeros((1, 0, 6), f32), "any"),
        "of rank 1": (np.zeros(6, f32), "refused"), "of images -1": (np.array([[-1, 0, 0, 4, 4, 0, 0.5]], f32), "any"),
    }  # fmt: skip
    for name, (array, wanted) in boxes.items():
        yield _fault(f"boxes {name}", constant(array), wanted, DETECTOR)
    heads = {
        "yolox": (1, 21, 7), "yolov5": (1, 9, 7), "yolov8": (1, 6, 9), "nanodet": (1, 4, 34), "detr": (1, 9, 3), "nms_seg": (1, 2, 38),
        "yolov5_seg": (1, 9, 39), "yolov8_seg": (1, 38, 9), "segmenter": (1, 2, 8, 8),
    }  # fmt: skip
    for decoder, shape in heads.items():
        for name, number in (("large", 3e38), ("below 0", -5.0), ("NaN", np.nan)):
            yield _fault(
                f"{decoder} {name}", constant(np.full(shape, number, f32)), "any", {**DETECTOR, "decoder": decoder}
            )
        yield _fault(
            f"{decoder} another shape", constant(np.zeros((2, 3), f32)), "refused", {**DETECTOR, "decoder": decoder}
        )


def _of_resources() -> Iterator[Fault]:
    y = [value("y", None)]
    total = h.make_node("ReduceSum", ["big"], ["y"], keepdims=0)
    for name, size in (("4 GB", 10**9), ("40 GB", 10**10), ("4 TB", 10**12), ("2^62", 2**62), ("negative", -5)):
        made = h.make_tensor("s", T.INT64, [1], [size])
        yield _fault(f"a tensor of {name}", model([h.make_node("ConstantOfShape", ["s"], ["big"]), total], y, [made]))
        later = [
            h.make_node("ReduceSum", ["x"], ["r"], keepdims=0),
            h.make_node("Cast", ["r"], ["i"], to=T.INT64),
            h.make_node("Add", ["s", "i"], ["t"]),
        ]
        yield _fault(
            f"a tensor of {name}, later",
            model([*later, h.make_node("ConstantOfShape", ["t"], ["big"]), total], y, [made]),
        )
    wide = h.make_tensor("w", T.INT64, [4], [1, 3, 30_000, 30_000])
    yield _fault(
        "expanded",
        model(
            [h.make_node("ReduceSum", ["x"], ["r"], keepdims=0), h.make_node("Expand", ["r", "w"], ["big"]), total],
            y,
            [wide],
        ),
    )
    times = h.make_tensor("w", T.INT64, [4], [1, 3, 9_000, 9_000])
    yield _fault("tiled", model([h.make_node("Tile", ["x", "w"], ["big"]), total], y, [times]))
    scales = h.make_tensor("w", T.FLOAT, [4], [1, 1, 9_000, 9_000])
    yield _fault("resized", model([h.make_node("Resize", ["x", "", "w"], ["big"]), total], y, [scales]))
    column, row = (
        h.make_tensor(n, T.FLOAT, s, np.zeros(100_000)) for n, s in (("a", [100_000, 1]), ("b", [1, 100_000]))
    )
    yield _fault(
        "an outer product",
        model([h.make_node("MatMul", ["a", "b"], ["big"]), total, h.make_node("Neg", ["x"], ["u"])], y, [column, row]),
    )
    lying = h.make_tensor("s", T.FLOAT, [3], [0, 0, 1])
    lying.dims[0] = 10**12
    yield _fault("dims that lie", model([h.make_node("Identity", ["s"], ["y"])], y, [lying]))
    for name, n in (("for ever", 2**62), ("long", 10**9)):
        yield _fault(f"a loop {name}", _loop(n, scan=False))
    yield _fault("a loop that collects", _loop(2**62, scan=True))


def _loop(times: int, *, scan: bool) -> Any:
    nodes = [h.make_node("Identity", ["c"], ["c2"]), h.make_node("Add", ["v", "one"], ["v2"])]
    nodes += [h.make_node("Identity", ["v2"], ["out"])] if scan else []
    shape = [1 << 20] if scan else [1]
    outs = [value("c2", [], T.BOOL), value("v2", shape), *([value("out", shape)] if scan else [])]
    body = h.make_graph(nodes, "b", [value("i", [], T.INT64), value("c", [], T.BOOL), value("v", shape)], outs)
    init = [h.make_tensor("n", T.INT64, [], [times]), h.make_tensor("t", T.BOOL, [], [True])]
    init.append(h.make_tensor("one", T.FLOAT, shape, np.ones(shape)))
    loop = h.make_node("Loop", ["n", "t", "one"], ["y", *(["z"] if scan else [])], body=body)
    return model([loop, h.make_node("Neg", ["x"], ["u"])], [value("z" if scan else "y", None)], init)


def _of_files() -> Iterator[Fault]:
    def replaced(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            (folder / name).unlink()
            make(folder / name)

        return change

    for name in ("m.onnx", "m.yaml"):
        yield f"{name} a pipe", replaced(name, os.mkfifo), "refused"
        yield f"{name} a folder", replaced(name, os.mkdir), "refused"
        yield f"{name} a link to itself", replaced(name, lambda path: os.symlink(path, path)), "refused"
        yield f"{name} 6 GB of nothing", lambda folder, name=name: os.truncate(folder / name, 6 << 30), "refused"
        yield f"{name} missing", replaced(name, lambda path: None), "refused"
        yield f"{name} /dev/zero", replaced(name, lambda path: os.symlink("/dev/zero", path)), "refused"
    places = (
        "../outside.bin",
        "/etc/hostname",
        "missing.bin",
        "pipe",
        "folder",
        "",
        "a\0b",
        "./w.bin",
        "sub/../w.bin",
        "x" * 5_000,
    )
    for place in places:
        for name, offset, length in (
            ("", "0", "12"),
            (" beyond its end", "0", "999999999999"),
            (" below 0", "-8", "12"),
        ):

            def make(folder: Path, place: str = place, offset: str = offset, length: str = length) -> None:
                (folder / "w.bin").write_bytes(np.array([0, 0, 1], np.float32).tobytes())
                (folder / "folder").mkdir()
                os.mkfifo(folder / "pipe")
                tensor = h.make_tensor("w", T.FLOAT, [1, 3], [0, 0, 1])
                tensor.ClearField("float_data")
                tensor.data_location = T.EXTERNAL
                for key, text in (("location", place), ("offset", offset), ("length", length)):
                    entry = tensor.external_data.add()
                    entry.key, entry.value = key, text
                nodes = [
                    h.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
                    h.make_node("Add", ["m", "w"], ["y"]),
                ]
                _put(folder, model(nodes, [value("y", None)], [tensor]), SPEC)

            good = place.endswith("w.bin") and not name
            yield f"weights in {place[:20]!r}{name}", make, "any" if good else "refused"


def _of_metadata() -> Iterator[Fault]:
    bombs = {
        "none": "", "a text": "abc", "a number": "7", "a list of numbers": "[1, 2, 3]", "deep": "[" * 90_000, "minus signs": "-" * 90_000 + "1",
        "digits": "9" * 5_000, "a product": "'a' * 10**9", "code": "__import__('os').system('touch EXECUTED')", "NUL": "\0", "10^9": "1" + "0" * 9,
        "negative": "-1", "a dict of lists": "{0: [1]}", "gaps": "{0: 'a', 5: 'b', 9: 'c'}", "two of one name": "{0: 'a', 1: 'a', 2: 'c'}",
        "a million": str(["a"] * 200_000), "nothing": "None", "ESC": "{0: '\\x1b[2J', 1: 'b', 2: 'c'}", "huge": "[1000000000, 1000000000]",
        "30000": "[30000, 30000]", "0": "[0, 0]", "three": "[8, 8, 8]", "floats": "[8.5, 8.5]", "true": "[True, True]",
    }  # fmt: skip
    for key in ("names", "stride", "task", "imgsz", "args"):
        for name, text in bombs.items():
            made = plain(metadata={**ULTRALYTICS, key: text}, inputs=[value("x", ["B", 3, "H", "W"])])
            harmless = key in ("stride", "args") or (key == "names" and name == "ESC")
            yield _fault(f"metadata {key} {name}", made, "any" if harmless or key == "imgsz" else "refused", None)


def _of_yaml() -> Iterator[Fault]:
    texts = {
        "null": "null", "NaN": ".nan", "inf": ".inf", "-1": "-1", "0": "0", "10^30": "1" + "0" * 30, "empty": "''", "NUL": '"a\\0b"',
        "a list": "[1, [2]]", "a mapping": "{a: 1}", "a date": "2026-02-30", "true": "true", "long": "'" + "x" * 90_000 + "'",
        "deep": "[" * 3_000 + "]" * 3_000, "outside": "'../../../etc/passwd'", "1e400": "1e400", "digits": "9" * 5_000, "30000": "30000",
    }  # fmt: skip
    keys = [
        "decoder", "classes", "classes_from", "license", "model", "outputs", "activation", "input", "input.size", "input.scale", "input.mean",
        "input.std", "input.color", "input.fit", "input.letterbox", "input.letterbox.pad", "input.antialias", "input.layout", "input.shorter_side",
        "unknown",
    ]  # fmt: skip
    fine = {
        ("license", "null"), ("license", "empty"), ("license", "NUL"), ("license", "long"), ("license", "outside"), ("license", "a date"),
        ("license", "1e400"), ("model", "null"), ("model", "empty"), ("model", "NUL"), ("model", "long"), ("model", "outside"), ("model", "a date"),
        ("model", "1e400"), ("outputs", "null"), ("classes_from", "null"), ("input.shorter_side", "null"), ("input.antialias", "true"),
        ("input.antialias", "0"), ("input.scale", "30000"), ("input.letterbox.pad", "0"),
    }  # fmt: skip
    for key in keys:
        for name, text in texts.items():
            *above, last = key.split(".")
            spec = json.loads(json.dumps(SPEC))
            place = spec
            for part in above:
                place = place.setdefault(part, {})
            place[last] = "@"
            yield _fault(
                f"yaml {key}: {name}",
                plain(),
                "any" if (key, name) in fine else "refused",
                json.dumps(spec).replace('"@"', text),
            )
    for name, text in {
        "empty": "",
        "a list": "[1]",
        "a bomb": _bomb(),
        "not UTF-8": "\udcff",
        "tags": "decoder: !!python/name:os.system x",
    }.items():
        yield f"yaml {name}", lambda folder, text=text: _bytes(folder, text), "refused"
    many = {**SPEC, "classes": [f"c{n}" for n in range(100_000)]}
    yield _fault("yaml 100,000 classes", plain(), "refused", many)


def _bytes(folder: Path, text: str) -> None:
    (folder / "m.yaml").write_bytes(text.encode(errors="surrogateescape"))


def _bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines)

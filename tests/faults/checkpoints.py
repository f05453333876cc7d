"""Damaged and hostile files of a run: read as a teacher, as what a training starts from, and as what it goes on from."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from builder.store.files import seal
from tests.faults.commands import run
from tests.faults.verdict import Verdict, judge
from tests.faults.workplace import NETWORK, SCHEDULE, evenly
from tests.helpers.pools import write_images
from tests.helpers.rectangles import write_rectangles

ROW = "checkpoints and the files of a run"
SMALL = 0.015
Change = Callable[[Path], None]
META, WEIGHTS, STATE, LOG, RECIPE = "meta.json", "model.safetensors", "state.pt", "log.jsonl", "recipe.json"
LABEL = ("label", "pool", "--teacher", "checkpoint:run", "--set", "floor=0.01", "--no-alarm")
FLIPS = 12
"""Bits turned in each file."""
NOTHING_SIDE = ("step", "trained_on", "recipe", "libraries", "classes", "extra")
"""Keys of meta.json that do not decide what the network predicts."""


class Gadget:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch EXECUTED",)


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Each fault in a copy of the run, and the command that reads it."""
    _prepare(folder)
    plain = _labelled(folder)
    faults = [(f"label: {name}", LABEL, change, wanted) for name, change, wanted in _of_checkpoint()]
    faults += [
        (f"train on: {name}", ("train", "more.yaml", "--out", "run"), change, wanted)
        for name, change, wanted in _of_state()
    ]
    faults += [
        (f"train from: {name}", ("train", "from.yaml", "--out", "other"), change, wanted)
        for name, change, wanted in list(_of_checkpoint())[::9]
    ]
    for name, command, change, wanted in evenly(faults, share):
        shutil.rmtree(folder / "other", ignore_errors=True)
        shutil.rmtree(folder / "store/predictions", ignore_errors=True)
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(folder / ("half" if command[1] == "more.yaml" else "whole"), folder / "run")
        change(folder / "run")
        ran = run(*command, cwd=folder, seconds=60)

        def right(command: tuple[str, ...] = command, wanted: str = wanted) -> bool:
            if wanted == "refused":
                return False
            if command is LABEL:
                return _labelled(folder) == plain
            return (
                wanted == "anything"
                or command[1] == "from.yaml"
                or _weights(folder / "run") == _weights(folder / "end")
            )

        verdict = judge(ran, right)
        if (folder / "EXECUTED").exists() or (folder / "run/EXECUTED").exists():
            verdict = Verdict.SILENT
        yield name, verdict, ran.stderr


def _prepare(folder: Path) -> None:
    """A pool; a run that is finished, `whole`; one that was ended at its first save, `half`, and its end, `end`."""
    write_images(folder / "pool", 2)
    assert run("scan", "pool", cwd=folder).code == 0
    write_rectangles(folder / "scenes", 6)
    base = {"labelled": "scenes/labels.json", "network": NETWORK, **SCHEDULE}
    (folder / "train.yaml").write_text(yaml.safe_dump({**base, "steps": 3}))
    (folder / "more.yaml").write_text(yaml.safe_dump(base))
    (folder / "from.yaml").write_text(yaml.safe_dump({**base, "steps": 1, "init": "checkpoint:run"}))
    for recipe, out in (("train.yaml", "whole"), ("more.yaml", "end")):
        ran = run("train", recipe, "--out", out, cwd=folder, seconds=120)
        assert ran.code == 0, ran.stderr
    # the first save of the longer training: kill it just before it writes what belongs to its second
    trace = folder / "trace"
    ran = run("train", "more.yaml", "--out", "half", cwd=folder, seconds=120, trace=trace)
    lines = trace.read_text().splitlines()
    renames = [number for number, line in enumerate(lines, 1) if line.startswith("os.rename") and "state.pt" in line]
    shutil.rmtree(folder / "half")
    run("train", "more.yaml", "--out", "half", cwd=folder, seconds=120, kill_at=renames[-1])
    for left in (folder / "half").glob(".*"):
        left.unlink()
    assert json.loads((folder / "half" / META).read_text())["step"] == 3
    shutil.copytree(folder / "whole", folder / "run")
    ran = run(*LABEL, cwd=folder, seconds=120)
    assert ran.code == 0, ran.stderr


def _labelled(folder: Path) -> list[Any]:
    """What was stored of all objects."""
    found = sorted((folder / "store/predictions").rglob("objects.parquet"))
    return [row for path in found for row in pq.read_table(path).to_pylist()]


def _weights(out: Path) -> bytes:
    return (out / WEIGHTS).read_bytes()


def _of_checkpoint() -> Iterator[tuple[str, Change, str]]:
    """Faults of meta.json and the weights: (name, what does it, what is wanted)."""
    for key in (
        "format",
        "step",
        "trained_on",
        "weights",
        "network",
        "weights.file",
        "weights.sha256",
        "weights.bytes",
    ):
        for name, value in VALUES.items():
            wanted = "same" if key == "step" and name in ("missing", "huge", "0") else "refused"
            yield f"{key} {name}", _meta(key, value), wanted
    for key in ("arch", "backbone", "classes", "size", "channels", "head_depth", "levels", "norm", "mean", "std"):
        for name in ("null", "a text", "huge", "negative", "deep", "list"):
            yield f"network.{key} {name}", _meta(f"network.{key}", VALUES[name]), "refused"
    for key, value in LIES.items():
        yield key, _meta(f"network.{key.split()[0]}", value), "refused"
    for key in NOTHING_SIDE[2:]:
        yield f"{key} other", _meta(key, {"a": 1}), "same"
    for name, data in RAW.items():
        for file in (META, WEIGHTS):
            yield f"{file} {name}", _write(file, data), "refused"
    for file in (META, WEIGHTS):
        yield f"{file} missing", lambda out, file=file: (out / file).unlink(), "refused"
        yield f"{file} a pipe", _replaced(file, os.mkfifo), "refused"
        yield f"{file} a folder", _replaced(file, os.mkdir), "refused"
        yield f"{file} a link to itself", _replaced(file, lambda path: os.symlink(path, path)), "refused"
        yield f"{file} 6 GB of nothing", lambda out, file=file: os.truncate(out / file, 6 << 30), "refused"
        for part in (0.1, 0.5, 0.99):
            yield f"{file} cut at {part}", _cut(file, part), "refused"
        for number in range(FLIPS):
            yield f"{file} flip {number}", _flip(file, number), "refused"
    for name, make in TENSORS.items():
        yield f"weights {name}", _rehashed(make), "refused"


def _of_state() -> Iterator[tuple[str, Change, str]]:
    """Faults of what a training goes on from."""
    for number in range(FLIPS * 2):
        yield f"{STATE} flip {number}", _flip(STATE, number), "same"
    for part in (0.0, 0.1, 0.5, 0.9, 0.999):
        yield f"{STATE} cut at {part}", _cut(STATE, part), "refused"
    for name, data in RAW.items():
        yield f"{STATE} {name}", _write(STATE, data), "refused"
        yield f"{RECIPE} {name}", _write(RECIPE, data), "refused"
    yield f"{STATE} a pickle", _write(STATE, _pickle()), "refused"
    for key in ("step", "network", "optimizer", "joint", "random"):
        yield f"{STATE} without {key}", _state(lambda state, key=key: state.pop(key)), "refused"
        yield f"{STATE} {key} a text", _state(lambda state, key=key: state.update({key: "x"})), "refused"
    for number in range(FLIPS):
        yield f"{RECIPE} flip {number}", _flip(RECIPE, number), "refused"
    for part in (0.1, 0.5, 0.9):
        yield f"{RECIPE} cut at {part}", _cut(RECIPE, part), "refused"
    for part in (0.2, 0.6, 0.99):
        yield f"{LOG} cut at {part}", _cut(LOG, part), "same"
    for name, data in RAW.items():
        yield f"{LOG} {name}", _write(LOG, data), "same"
    for file in (STATE, RECIPE, LOG):
        yield f"{file} a pipe", _replaced(file, os.mkfifo), "refused"
        yield f"{file} a folder", _replaced(file, os.mkdir), "refused"
    yield f"{LOG} missing", lambda out: (out / LOG).unlink(), "same"


DEEP = json.loads("[" * 200 + "]" * 200)
VALUES: dict[str, Any] = {
    "missing": None, "null": None, "a text": "x", "huge": 10**30, "negative": -1, "0": 0, "list": [1, [2]],
    "deep": DEEP, "true": True, "outside": "../../../etc/passwd", "NUL": "a\0b",
}  # fmt: skip
VALUES["missing"] = ...
LIES: dict[str, Any] = {
    "size 0": 0, "size 10^9": 10**9, "size 30000": 30_000, "channels 10^9": 10**9, "channels 17": 17, "head_depth 10^6": 10**6,
    "levels 1": [1], "levels far": [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096], "levels none": [], "levels 10^18": [10**18],
    "backbone giant": "timm:vit_giant_patch14_dinov2", "backbone other": "timm:resnet18", "backbone address": "timm:hf-hub:a/b",
    "backbone folder": "timm:local-dir:/etc", "backbone path": "torchvision:../x", "backbone none": "timm:", "classes twice": ["red"] * 3,
    "classes empty": ["", " ", "  "], "classes more": [f"c{n}" for n in range(1000)], "arch fpn": "fpn", "arch odd": "a\n\x1b[2J",
    "std 0": [0, 0, 0], "std NaN": ["nan"] * 3, "mean 1e400": ["1e400"] * 3, "norm batch": "batch", "unknown_key here": 1,
}  # fmt: skip
RAW: dict[str, bytes] = {
    "empty": b"", "NUL": b"\0" * 100, "text": b"hello", "a list": b"[1, 2]", "deep": b"[" * 100_000, "not UTF-8": b"\xff\xfe\x00",
    "null": b"null", "NaN": b"NaN", "a bomb": b'{"a": ' * 5_000, "digits": b"9" * 10_000, "twice": b'{"format": 1, "format": 1}',
    "header of 2^60": struct.pack("<Q", 1 << 60) + b"{}", "header of 99 MB": struct.pack("<Q", 99 << 20) + b"{}",
}  # fmt: skip


def _header(tensors: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


def _edited(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[bytes], bytes]:
    """Weights with a change to their tensors, whole again."""

    def make(data: bytes) -> bytes:
        from safetensors.numpy import load, save

        tensors = {name: array.copy() for name, array in load(data).items()}
        change(tensors)
        return save(tensors)

    return make


def _first(tensors: dict[str, np.ndarray]) -> str:
    return next(name for name in sorted(tensors) if tensors[name].ndim == 4)


def _fill(value: float) -> Callable[[bytes], bytes]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[_first(tensors)].flat[3] = value

    return _edited(change)


TENSORS: dict[str, Callable[[bytes], bytes]] = {
    "of NaN": _fill(np.nan),
    "of inf": _fill(np.inf),
    "of -inf": _fill(-np.inf),
    "one missing": _edited(lambda tensors: _ignored(tensors.pop(_first(tensors)))),
    "one more": _edited(lambda tensors: tensors.update(more=np.zeros(3, np.float32))),
    "all gone": _edited(lambda tensors: tensors.clear()),
    "of another shape": _edited(lambda tensors: tensors.update({_first(tensors): np.zeros((1, 2), np.float32)})),
    "of no numbers": _edited(lambda tensors: tensors.update({_first(tensors): np.zeros((0,), np.float32)})),
    "as float64": _edited(lambda tensors: tensors.update({k: v.astype(np.float64) for k, v in tensors.items()})),
    "as int8": _edited(lambda tensors: tensors.update({_first(tensors): tensors[_first(tensors)].astype(np.int8)})),
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0" * 100,
    "a pickle": lambda data: _pickle(),
    "a torch pickle": lambda data: _torch_pickle(),
    "a header of 2^60": lambda data: struct.pack("<Q", 1 << 60) + data[8:],
    "a header of 0": lambda data: struct.pack("<Q", 0) + data[8:],
    "10,000 deep": lambda data: struct.pack("<Q", 20_000) + b"[" * 10_000 + b"]" * 10_000,
    "overlapping": lambda data: _header(
        {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, b"\0" * 8
    ),
    "of 2^60 numbers": lambda data: _header(
        {"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 8]}}, b"\0" * 8
    ),
    "of a negative shape": lambda data: _header(
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, b"\0" * 8
    ),
    "of an unknown type": lambda data: _header({"a": {"dtype": "F9", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "beyond the end": lambda data: _header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, b"\0" * 8),
    "twice": lambda data: (
        struct.pack("<Q", 122) + (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, ' * 2)[:121] + b"}"
    ),
}


def _pickle() -> bytes:
    import pickle

    return pickle.dumps(Gadget())


def _torch_pickle() -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({"a": Gadget()}, buffer)
    return buffer.getvalue()


def _meta(key: str, value: Any) -> Change:
    """Set a key of meta.json, and seal it again: what a hostile writer does."""

    def change(out: Path) -> None:
        content = json.loads((out / META).read_text())
        *path, last = key.split(".")
        place = content
        for part in path:
            place = place[part]
        if value is ...:
            place.pop(last, None)
        else:
            place[last] = value
        (out / META).write_text(json.dumps(seal(content)))

    return change


def _write(file: str, data: bytes) -> Change:
    return lambda out: _ignored((out / file).write_bytes(data))


def _ignored(result: Any) -> None:
    """For functions whose result nobody needs."""


def _replaced(file: str, make: Callable[[Path], Any]) -> Change:
    def change(out: Path) -> None:
        (out / file).unlink()
        make(out / file)

    return change


def _cut(file: str, part: float) -> Change:
    return lambda out: os.truncate(out / file, int((out / file).stat().st_size * part))


def _flip(file: str, number: int) -> Change:
    def change(out: Path) -> None:
        data = bytearray((out / file).read_bytes())
        place = int(np.random.default_rng([number, len(file)]).integers(len(data) * 8))
        data[place // 8] ^= 1 << place % 8
        (out / file).write_bytes(data)

    return change


def _rehashed(make: Callable[[bytes], bytes]) -> Change:
    """Other weights, with their hash and size in meta.json."""

    def change(out: Path) -> None:
        data = make((out / WEIGHTS).read_bytes())
        (out / WEIGHTS).write_bytes(data)
        weights = {"file": WEIGHTS, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        _meta("weights", weights)(out)

    return change


def _state(edit: Callable[[dict[str, Any]], Any]) -> Change:
    """Another state, whole again."""

    def change(out: Path) -> None:
        from students.train.state import read_state, write_state

        state = read_state(out) or {}
        edit(state)
        write_state(out, state)

    return change

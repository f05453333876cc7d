"""ONNX models that ask for too much: memory, time, places outside their folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from teachers.base import TeacherError, TeacherOptions
from teachers.from_onnx import guard, session
from teachers.from_onnx.models import load_onnx

SPEC = {"decoder": "classifier", "classes": ["a", "b", "c"], "input": {"size": 8, "scale": "1/255"}}


def write(folder: Path, nodes: list[Any], init: list[Any], spec: dict[str, Any] = SPEC) -> Path:
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [tensor("x", TensorProto.FLOAT, None)], [tensor("y", TensorProto.FLOAT, None)], init
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, folder / "m.onnx")
    (folder / "m.yaml").write_text(json.dumps(spec))
    return folder / "m.onnx"


MEAN = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)


def test_a_tensor_of_40_gb_is_refused_before_it_is_there(tmp_path: Path) -> None:
    size = helper.make_tensor("s", TensorProto.INT64, [1], [10**10])
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["n"], keepdims=0),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Add", ["m", "n"], ["y"]),
    ]
    with pytest.raises(TeacherError, match=r"asks for more memory than the 3 GiB .* set TUTELAGE_MODEL_GIB") as error:
        load_onnx(write(tmp_path, nodes, [size]), TeacherOptions())
    assert "\n" not in str(error.value)
    np.zeros(1 << 20)  # and the limit is gone again


def test_a_loop_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FIRST_SECONDS", 0.5)
    tensor = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Neg", ["v"], ["v2"])],
        "b",
        [tensor("i", TensorProto.INT64, []), tensor("c", TensorProto.BOOL, []), tensor("v", TensorProto.FLOAT, None)],
        [tensor("c2", TensorProto.BOOL, []), tensor("v2", TensorProto.FLOAT, None)],
    )
    init = [helper.make_tensor("n", TensorProto.INT64, [], [2**62]), helper.make_tensor("t", TensorProto.BOOL, [], [1])]
    with pytest.raises(TeacherError, match=r"not done with its first image after 0\.5 s"):
        load_onnx(
            write(tmp_path, [helper.make_node("Loop", ["n", "t", "x"], ["y"], body=body)], init), TeacherOptions()
        )


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (30_000, "16384"),
        (16_384, "input.size smaller"),
        (0, "greater than 0"),
        (10**30, "16384"),
        (".inf", "valid tuple"),
    ],
)
def test_the_size_of_the_input_is_asked_before_there_is_one(tmp_path: Path, size: Any, message: str) -> None:
    spec = {**SPEC, "input": {"size": size, "scale": "1/255"}}
    with pytest.raises(TeacherError, match=message):
        load_onnx(write(tmp_path, [MEAN], [], spec), TeacherOptions())


def test_a_scale_of_true_is_not_taken_for_1(tmp_path: Path) -> None:
    spec = {**SPEC, "input": {"size": 8, "scale": True}}
    with pytest.raises(TeacherError, match=r"input\.scale: True, but input should be a number"):
        load_onnx(write(tmp_path, [MEAN], [], spec), TeacherOptions())


@pytest.mark.parametrize("place", ["../outside", "/etc/hostname", "pipe"])
def test_weights_lie_in_the_models_own_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "outside").write_bytes(b"\0" * 12)
    os.mkfifo(tmp_path / "own/pipe")
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1, 3], [0, 0, 1])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", place
    model = write(tmp_path / "own", [helper.make_node("Identity", ["x"], ["y"])], [])
    content = onnx.load(model, load_external_data=False)
    content.graph.initializer.append(tensor)
    model.write_bytes(content.SerializeToString())
    with pytest.raises(TeacherError, match="is no file of its own folder"):
        load_onnx(model, TeacherOptions())


def test_more_memory_is_allowed_by_a_number_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(guard.VARIABLE, "much")
    with pytest.raises(TeacherError, match="TUTELAGE_MODEL_GIB is 'much': give a number"):
        load_onnx(write(tmp_path, [MEAN], []), TeacherOptions())

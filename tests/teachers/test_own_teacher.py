"""The example of a teacher of one's own (examples/own_teacher): it runs as its first lines say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from teachers import load_teacher
from teachers.base import Detections, TeacherOptions
from tests import ROOT


def write_fastestdet(path: Path, head: np.ndarray, size: int) -> None:
    """A model that puts out this head (1, 5 + C, h, w) for every image."""
    entry = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, size, size])
    answer = helper.make_tensor_value_info("output", TensorProto.FLOAT, head.shape)
    nodes = [helper.make_node("Identity", ["raw"], ["output"])]
    graph = helper.make_graph(nodes, "head", [entry], [answer], [numpy_helper.from_array(head, "raw")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def test_the_example_finds_what_its_head_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = np.full((1, 7, 4, 4), 1e-6, np.float32)
    # cell (row 1, column 2): centre (2 + tanh .5) / 4 and 1 / 4, a half of the width and a quarter of the height
    head[0, :, 1, 2] = [0.8, np.arctanh(0.5), 0, 0, -np.log(3), 0.1, 0.9]
    head[0, :, 1, 1] = [0.5, np.arctanh(0.99), 0, 0, -np.log(3), 0.1, 0.9]  # the same object, less sure
    write_fastestdet(tmp_path / "fastest.onnx", head, 32)
    monkeypatch.chdir(ROOT / "examples" / "own_teacher")
    options = TeacherOptions(weights=str(tmp_path / "fastest.onnx"), classes=("person", "car"), floor=0.1)
    teacher = load_teacher("python:fastestdet:FastestDet", options, allow_code=True)
    for found in teacher.predict([np.zeros((80, 160, 3), np.uint8)] * 2):
        assert isinstance(found, Detections)
        np.testing.assert_allclose(found.boxes, [[60, 10, 140, 30]], atol=0.01)
        np.testing.assert_allclose(found.scores, [0.8**0.6 * 0.9**0.4], rtol=1e-5)
        assert found.labels.tolist() == [1]

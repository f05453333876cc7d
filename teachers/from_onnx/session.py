"""A model in ONNX Runtime, opened with fixed settings and fed as its YAML file says; its errors one sentence."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import PIL

from teachers.base import TeacherError, TeacherOptions
from teachers.from_onnx.spec import InputSpec, ModelSpec, first_line, output_names

THREADS = 2
"""Threads per operator where `TeacherOptions.threads` is not set: a fixed number, since the order of a floating-point
sum may follow the number of threads and must not follow the machine. For speed on many cores set `threads`."""
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
"""ONNX Runtime's name of a model's input type -> the type it is fed."""

LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff][\x01-\x7f]|[\x01-\x7f])", re.DOTALL)
"""What stands before the name of a file with external data; the group is the length of that name, a varint."""


class Network:
    """An ONNX file, open. On the CPU, or with `device: cuda` on a GPU.

    batch: the number of images of every run, if the model has it fixed. Raises TeacherError, on opening, for a model
    that ONNX Runtime cannot load, whose input is no image, or that lacks one of the outputs named.
    """

    def __init__(self, model: Path, spec: InputSpec, outputs: tuple[str, ...] | None, options: TeacherOptions) -> None:
        self.model = model
        self._session = _open(model, options)
        self._input, self._dtype, self.batch = _input_of(self._session, model)
        if self._dtype == np.uint8 and (spec.scale, spec.mean, spec.std) != (1.0, (0.0,) * 3, (1.0,) * 3):
            raise TeacherError(f"{model} takes pixels as whole numbers: remove scale, mean and std from its YAML file")
        known = [output.name for output in self._session.get_outputs()]
        for name in outputs or ():
            if name not in known:
                raise TeacherError(f"{model} has no output {name!r}: name some of {', '.join(known)}")
        self._outputs = list(outputs or known)
        self.weights_sha256 = [_sha256(part) for part in _parts(model)]
        self.runtime: Mapping[str, Any] = {
            "providers": self._session.get_providers(),
            "threads": options.threads or THREADS,
            "onnxruntime": ort.__version__,
            "pillow": PIL.__version__,
        }

    def run(self, tensor: np.ndarray) -> list[np.ndarray]:
        """The outputs as they are, float16 as float32. Raises TeacherError if ONNX Runtime fails, for an output that is
        no array of numbers, and for a NaN or infinite number in one."""
        try:
            outputs = self._session.run(self._outputs, {self._input: tensor.astype(self._dtype, copy=False)})
        except Exception as error:  # ONNX Runtime's errors share no narrower class
            raise TeacherError(f"{self.model} failed in ONNX Runtime: {first_line(error)}") from error
        if not all(isinstance(output, np.ndarray) and output.dtype.kind in "fiub" for output in outputs):
            raise TeacherError(
                f"{self.model} gives outputs that are no arrays of numbers: name those to read (outputs)"
            )
        outputs = [output.astype(np.float32) if output.dtype.kind == "f" else output for output in outputs]
        if not all(np.isfinite(output).all() for output in outputs):
            raise TeacherError(f"the output of {self.model} holds a NaN or infinite number")
        return outputs


class Loaded:
    """A model and what its YAML file says, whatever its kind. position: of each output among the classes, or -1."""

    def __init__(self, spec_path: Path, spec: ModelSpec, model: Path, options: TeacherOptions) -> None:
        self.input = spec.input
        names, self.classes, self.position = output_names(spec_path, spec)
        self.network = Network(model, spec.input, spec.outputs, options)
        self.batch_size = options.batch_size
        self.description: dict[str, Any] = {
            "family": "onnx",
            "weights_sha256": self.network.weights_sha256,
            "classes": list(self.classes),
            "input": spec.input.described(),
            **spec.decoding(),
        }
        if len(names) != len(self.classes):
            self.description["class_outputs"] = np.flatnonzero(self.position >= 0).tolist()
        self.runtime = {"license": spec.license, **self.network.runtime}

    def run(self, images: Sequence[np.ndarray]) -> Iterator[tuple[Sequence[np.ndarray], list[np.ndarray], np.ndarray]]:
        """Batch by batch: the images, the model's outputs and each image's geometry (InputSpec.prepare)."""
        size = self.network.batch or self.batch_size
        for first in range(0, len(images), size):
            batch = images[first : first + size]
            tensor, geometry = self.input.prepare(batch, self.network.batch or len(batch))
            yield batch, self.network.run(tensor), geometry


def _open(model: Path, options: TeacherOptions) -> ort.InferenceSession:
    match options.device:
        case None | "cpu":
            providers = ["CPUExecutionProvider"]
        case "cuda":
            providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        case other:
            raise TeacherError(f"device {other!r} is not known to the ONNX teacher: write cpu or cuda")
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or THREADS
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors only: its warnings are about the graph, nothing a user can act on
    # Idle threads that spin would take the cores from the threads that decode the next images.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if providers[0] not in ort.get_available_providers():
        raise TeacherError("device 'cuda' needs the package onnxruntime-gpu: install it, or write device: cpu")
    try:
        session = ort.InferenceSession(str(model), settings, providers=providers)
    except Exception as error:  # ONNX Runtime's errors share no narrower class
        raise TeacherError(f"{model} cannot be loaded by ONNX Runtime: {first_line(error)}") from error
    if session.get_providers()[0] != providers[0]:  # it falls back in silence where the driver or a library is missing
        raise TeacherError("device 'cuda' could not be opened by ONNX Runtime: check the driver, or write device: cpu")
    return session


def _input_of(session: ort.InferenceSession, model: Path) -> tuple[str, type[Any], int | None]:
    """Name, type and, if it is fixed, batch size of the model's one input."""
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in DTYPES:
        listed = ", ".join(f"{entry.name} {entry.type}" for entry in inputs)
        raise TeacherError(f"{model} has the inputs {listed}: a model with one image input (float or uint8) is needed")
    batch = inputs[0].shape[0] if inputs[0].shape else None
    return inputs[0].name, DTYPES[inputs[0].type], batch if isinstance(batch, int) else None


def _parts(model: Path) -> list[Path]:
    """The model and, if its tensors lie outside of it, the files that it names for them (`external_data` in onnx.proto:
    a key `location` and its value, each with its length before it)."""
    names: set[bytes] = set()
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in LOCATION.finditer(content):
            low, high = match[1][0], match[1][1:]
            length = (low & 127) + (high[0] << 7 if high else 0)
            names.add(content[match.end() : match.end() + length])
    beside = {model.parent / os.fsdecode(name) for name in names if b"\0" not in name}
    return [model, *sorted(path for path in beside if path.is_file())]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""A model in ONNX Runtime, opened with fixed settings and fed as its YAML file says; its errors one sentence."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnxruntime as ort
import PIL

from teachers.base import TeacherError, TeacherOptions
from teachers.errors import brief
from teachers.files import open_regular
from teachers.from_onnx.guard import FIRST_SECONDS, limited_memory, run_watched, too_large
from teachers.from_onnx.reading import output_names
from teachers.from_onnx.spec import InputSpec, ModelSpec

THREADS = 2
"""Threads per operator where `TeacherOptions.threads` is not set: a fixed number, since the order of a floating-point
sum may follow the number of threads and must not follow the machine. For speed on many cores set `threads`."""
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
"""ONNX Runtime's name of a model's input type -> the type it is fed."""

OUT_OF_MEMORY = re.compile("bad_alloc|[Ff]ailed to allocate memory")
NOISE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(cc|h):\d+ |/onnxruntime_src/\S+ ")
REASON = 300
"""Characters of a reason that are kept: the name of a node may be long."""
LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff][\x01-\x7f]|[\x01-\x7f])", re.DOTALL)
"""What stands before the name of a file with external data; the group is the length of that name, a varint."""


PROTOBUF = 2**31 - 1
"""Bytes that a protobuf, and with it an ONNX file, can have; larger models keep their weights in files beside."""
LARGEST_IMAGE = 3 * 4096 * 4096
"""Numbers of an image as the input of a model."""
LARGEST_BATCH = 1 << 29
"""Numbers of a batch: 2 GiB."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Signature:
    """What a model file says of itself.

    image, dtype: name and type of the input for images; shape: of it, B first, None for a side that is not fixed;
    sizes: name of a second input for the images' sizes (`orig_target_sizes` of RT-DETR and its kin), int64 (B, 2),
    width and height; outputs: name -> shape, as for the input; metadata: what its exporter wrote into it.
    """

    image: str
    dtype: type[Any]
    shape: tuple[int | None, ...]
    sizes: str | None
    outputs: Mapping[str, tuple[int | None, ...]]
    metadata: Mapping[str, str]

    @property
    def batch(self) -> int | None:
        """The number of images of every run, if the model has it fixed."""
        return self.shape[0] if self.shape else None


class Network:
    """An ONNX file, open. On the CPU, or with `device: cuda` on a GPU. Raises TeacherError for a model that ONNX
    Runtime cannot load, that takes anything but images (and their sizes), or more memory than it may have."""

    def __init__(self, model: Path, options: TeacherOptions) -> None:
        self.model, self._tried = model, False
        parts = _parts(model)
        self._bytes = sum(part.stat().st_size for part in parts)
        with self.limited():
            self._session = _open(model, options)
        self.signature = _signature(self._session, model)
        self.weights_sha256 = [_sha256(part) for part in parts]
        self.runtime: Mapping[str, Any] = {
            "providers": self._session.get_providers(),
            "threads": options.threads or THREADS,
            "onnxruntime": ort.__version__,
            "pillow": PIL.__version__,
        }

    def limited(self) -> AbstractContextManager[None]:
        """See teachers.from_onnx.guard.limited_memory."""
        return limited_memory(self.model, self._bytes)

    def check(self, spec: InputSpec, outputs: tuple[str | tuple[str, ...], ...] | None) -> None:
        """Raise TeacherError where what a YAML file says cannot be of this model: other outputs, another size."""
        if self.signature.dtype == np.uint8 and (spec.scale, spec.mean, spec.std) != (1.0, (0.0,) * 3, (1.0,) * 3):
            raise TeacherError(
                f"{self.model} takes pixels as whole numbers: remove scale, mean and std from its YAML file"
            )
        for name in _names(outputs or ()):
            if name not in self.signature.outputs:
                known = ", ".join(self.signature.outputs)
                raise TeacherError(f"{self.model} has no output {name!r}: name some of {known}")
        self.check_size(self.signature.batch or 1, spec.size)
        sides = (3, *spec.size) if spec.layout == "nchw" else (*spec.size, 3)
        fixed = self.signature.shape[1:]
        if len(fixed) == 3 and fixed[sides.index(3)] in (1, 2, 4):
            raise TeacherError(
                f"{self.model} takes images of {fixed[sides.index(3)]} channels, but RGB is what it is given: write a "
                "teacher of your own (python:, examples/own_teacher)"
            )
        if len(fixed) == 3 and any(side not in (None, given) for side, given in zip(fixed, sides, strict=True)):
            takes, gets = (" x ".join("?" if side is None else str(side) for side in shape) for shape in (fixed, sides))
            raise TeacherError(
                f"{self.model} takes images of {takes}, but its YAML file says {gets}: correct input.size or layout"
            )

    def check_size(self, images: int, size: tuple[int, int]) -> None:
        """Raise TeacherError for a batch that takes too much memory, before there is one."""
        numbers = 3 * size[0] * size[1]
        limit = LARGEST_IMAGE if numbers > LARGEST_IMAGE else LARGEST_BATCH
        if numbers > LARGEST_IMAGE or images * numbers > LARGEST_BATCH:
            lower = "make input.size smaller" + (", or batch_size" if numbers <= LARGEST_IMAGE else "")
            raise TeacherError(
                f"{self.model} is to be given {images} x 3 x {size[0]} x {size[1]} numbers at once, more than "
                f"{limit:,}: {lower}"
            )

    def run(
        self, tensor: np.ndarray, spec: InputSpec, outputs: tuple[str | tuple[str, ...], ...] | None
    ) -> list[np.ndarray]:
        """The outputs as they are, float16 as float32, parts of a head joined. Raises TeacherError if ONNX Runtime
        fails or is not done with the first image in time, for an output that is no array of numbers, and for a NaN or
        infinite number in one."""
        feed = {self.signature.image: tensor.astype(self.signature.dtype, copy=False)}
        if self.signature.sizes is not None:
            feed[self.signature.sizes] = np.tile(np.array(spec.size[::-1], np.int64), (len(tensor), 1))
        groups = outputs or tuple(self.signature.outputs)
        try:
            arrays = run_watched(self._session, _names(groups), feed, None if self._tried else FIRST_SECONDS)
        except TimeoutError as error:
            raise TeacherError(
                f"{self.model} is not done with its first image after {FIRST_SECONDS:g} s: it may turn in a loop that "
                "never ends, or needs a faster machine"
            ) from error
        except Exception as error:  # ONNX Runtime's errors share no narrower class
            if OUT_OF_MEMORY.search(str(error)):
                raise too_large(self.model) from error
            raise TeacherError(f"{self.model} failed in ONNX Runtime: {_reason(error)}") from error
        self._tried = True
        if not all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in arrays):
            raise TeacherError(
                f"{self.model} gives outputs that are no arrays of numbers: name those to read (outputs)"
            )
        arrays = [array.astype(np.float32) if array.dtype.kind == "f" else array for array in arrays]
        if not all(np.isfinite(array).all() for array in arrays):
            raise TeacherError(f"the output of {self.model} holds a NaN or infinite number")
        left = iter(arrays)
        return [
            next(left) if isinstance(group, str) else self._joined(list(islice(left, len(group))), spec.layout)
            for group in groups
        ]

    def _joined(self, parts: list[np.ndarray], layout: str) -> np.ndarray:
        """Parts of a head, a level each, as one array (B, N, K), cells in rows first: parts (B, N, K) or (B, K, N), or
        planes, (B, K, h, w), or (B, h, w, K) of a model with the layout `nhwc`."""
        flat = [
            part.reshape(len(part), -1, part.shape[3]) if part.ndim == 4 and layout == "nhwc"
            else part.reshape(*part.shape[:2], -1).transpose(0, 2, 1) if part.ndim == 4
            else part
            for part in parts
        ]  # fmt: skip
        if all(part.ndim == 3 for part in flat):
            if len({(len(part), part.shape[2]) for part in flat}) == 1:
                return np.concatenate(flat, 1)
            if len({part.shape[:2] for part in flat}) == 1:
                return np.concatenate(flat, 2).transpose(0, 2, 1)
        shapes = ", ".join(str(part.shape) for part in parts)
        raise TeacherError(
            f"{self.model} gives {shapes}, which are no parts of one head: join outputs with as many columns (outputs)"
        )


class Fitted(NamedTuple):
    """An image as a model takes it. tensor: float32 (1, …); geometry: (1, 4), see InputSpec.prepare; shape: of the
    image, (H, W, 3)."""

    tensor: np.ndarray
    geometry: np.ndarray
    shape: tuple[int, ...]


class Ran(NamedTuple):
    """What a model gave for a batch. shapes: of the images, (H, W, 3) each; outputs: of at least so many images;
    geometry: (B, 4)."""

    shapes: list[tuple[int, ...]]
    outputs: list[np.ndarray]
    geometry: np.ndarray


class Loaded:
    """A model and what its YAML file says, whatever its kind. position: of each output among the classes, or -1."""

    def __init__(self, spec_path: Path, spec: ModelSpec, network: Network, options: TeacherOptions) -> None:
        self.input, self.network, self._outputs = spec.input, network, spec.outputs
        names, self.classes, self.position = output_names(spec_path, spec)
        network.check(spec.input, spec.outputs)
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

    @property
    def pixels(self) -> int:
        """See Stages.pixels."""
        return 4 * self.input.size[0] * self.input.size[1]  # float32

    def prepare(self, image: np.ndarray) -> Fitted:
        """An image as the model takes it."""
        tensor, geometry = self.input.prepare([image], 1)
        return Fitted(tensor, geometry, image.shape)

    def run(self, fitted: Sequence[Fitted]) -> list[Ran]:
        """What the model gives for images, batch by batch."""
        fixed = self.network.signature.batch
        size, ran = fixed or self.batch_size, []
        for first in range(0, len(fitted), size):
            batch = fitted[first : first + size]
            self.network.check_size(fixed or len(batch), self.input.size)
            tensors = [image.tensor for image in batch]
            if fixed and len(batch) < fixed:
                tensors.append(self.input.prepare([], fixed - len(batch))[0])
            tensor = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
            outputs = self.network.run(tensor, self.input, self._outputs)
            ran.append(Ran([image.shape for image in batch], outputs, np.concatenate([i.geometry for i in batch])))
        return ran

    def in_batches(
        self, images: Sequence[np.ndarray], read: Callable[[Sequence[Ran]], Sequence[Result]]
    ) -> list[Result]:
        """`read` of any number of images, of which one batch at a time is in memory."""
        size, results = self.network.signature.batch or self.batch_size, list[Result]()
        for first in range(0, len(images), size):
            results += read(self.run([self.prepare(image) for image in images[first : first + size]]))
        return results


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
    settings.log_severity_level = 4  # its warnings are about the graph, and its errors we say ourselves
    # Idle threads that spin would take the cores from the threads that decode the next images.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if providers[0] not in ort.get_available_providers():
        raise TeacherError("device 'cuda' needs the package onnxruntime-gpu: install it, or write device: cpu")
    try:
        session = ort.InferenceSession(str(model), settings, providers=providers)
    except Exception as error:  # ONNX Runtime's errors share no narrower class
        if OUT_OF_MEMORY.search(str(error)):
            raise too_large(model) from error
        raise TeacherError(f"{model} cannot be loaded by ONNX Runtime: {_reason(error)}") from error
    if session.get_providers()[0] != providers[0]:  # it falls back in silence where the driver or a library is missing
        raise TeacherError("device 'cuda' could not be opened by ONNX Runtime: check the driver, or write device: cpu")
    return session


def _signature(session: ort.InferenceSession, model: Path) -> Signature:
    """Raises TeacherError for a model that takes more, or less, than images and their sizes."""
    inputs = session.get_inputs()
    images = [entry for entry in inputs if entry.type in DTYPES and len(entry.shape) != 2]
    sizes = [entry for entry in inputs if entry.type == "tensor(int64)" and len(entry.shape) == 2]
    if len(images) != 1 or len(images) + len(sizes) != len(inputs) or len(sizes) > 1:
        listed = ", ".join(f"{entry.name} {entry.type}" for entry in inputs)
        raise TeacherError(
            f"{model} has the inputs {listed}: a model with one image input (float or uint8) is needed, and at most "
            "one more, int64 (B, 2), for the images' sizes; or write a teacher of your own (python:)"
        )
    return Signature(
        image=images[0].name,
        dtype=DTYPES[images[0].type],
        shape=_sides(images[0].shape),
        sizes=sizes[0].name if sizes else None,
        outputs={entry.name: _sides(entry.shape) for entry in session.get_outputs()},
        metadata=session.get_modelmeta().custom_metadata_map,
    )


def _sides(shape: Sequence[Any] | None) -> tuple[int | None, ...]:
    return tuple(side if isinstance(side, int) else None for side in shape or ())


def _names(groups: Sequence[str | tuple[str, ...]]) -> list[str]:
    return [name for group in groups for name in ([group] if isinstance(group, str) else group)]


def _reason(error: Exception) -> str:
    """What ONNX Runtime says in one line, without its codes and its own source's places: what does not fit stands in
    its second line, after the name of the node."""
    text = NOISE.sub("", " ".join(str(error).split()))
    return text if len(text) <= REASON else f"{text[:REASON]}…" if text else type(error).__name__


def _parts(model: Path) -> list[Path]:
    """The model and, if its tensors lie outside of it, the files that it names for them (`external_data` in onnx.proto:
    a key `location` and its value, each with its length before it). Raises TeacherError for one that is no file of the
    model's folder, and for a model that is too large for its format, or empty."""
    size = model.stat().st_size
    if not 0 < size <= PROTOBUF:
        raise TeacherError(f"{model} has {size:,} bytes, which no ONNX file has: export it again")
    names: set[bytes] = set()
    with open_regular(model) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in LOCATION.finditer(content):
            low, high = match[1][0], match[1][1:]
            length = (low & 127) + (high[0] << 7 if high else 0)
            names.add(content[match.end() : match.end() + length])
    parts = [os.fsdecode(name) for name in sorted(names) if b"\0" not in name]
    for name in parts:
        if (path := model.parent / name).exists() and (
            not path.is_file() or os.path.isabs(name) or os.path.normpath(name).startswith("..")
        ):
            raise TeacherError(
                f"{model} keeps weights in {brief(repr(name))}, which is no file of its own folder: put both into one"
            )
    return [model, *(path for name in parts if (path := model.parent / name).is_file())]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

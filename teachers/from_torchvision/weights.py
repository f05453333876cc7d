"""Torchvision's models with weights in them, published or from a file, and what every family of them shares."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import detection, get_model, get_model_weights, list_models, segmentation

from teachers.base import TeacherError, TeacherOptions

Model = TypeVar("Model", bound=nn.Module)


def load_model(name: str, options: TeacherOptions) -> tuple[Any, int | None, Any]:
    """The model `name` with the weights `options.weights`; the number of its outputs, if the weights come from a file
    (a state dict); and, if torchvision publishes them, what it publishes beside them: `meta` and `transforms`.

    (Typed Any: torchvision's families share attributes such as `transform`, but no type that has them.)
    Raises TeacherError for weights that are missing, unsafe or do not fit, and if `options.classes` are given for
    published weights or lack for a file.
    """
    published = get_model_weights(name).__members__
    if options.weights is None:
        raise TeacherError(f"{name} needs weights: set the teacher option weights to a file or to DEFAULT")
    if options.weights in published:
        return _published(name, published[options.weights], options), None, published[options.weights]
    path = Path(options.weights)
    state = _read_state(path)
    count = _output_count(name, state, path)
    if options.classes is None:
        raise TeacherError(f"{path} has {count} outputs and no class names: set the teacher option classes to theirs")
    model = get_model(name, weights=None, num_classes=count, **_keywords(name, state))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise TeacherError(f"{path} does not fit {name}: {reason[:200]}") from error
    return model, count, None


def pixels_of(image: np.ndarray, device: torch.device) -> Tensor:
    """An image as a tensor of its own, uint8 (H, W, 3), on the CPU; for a GPU in pinned memory, from which `on_device`
    need not wait. Copied, since torch warns of arrays that are read-only. No arithmetic: in each of the threads that
    prepare images torch would start as many threads again."""
    pixels = torch.from_numpy(image.copy())
    return pixels.pin_memory() if device.type == "cuda" else pixels


def on_device(pixels: Tensor, device: torch.device) -> Tensor:
    """What `pixels_of` made, uint8 (3, H, W), where the model is."""
    return pixels.to(device, non_blocking=True).permute(2, 0, 1)


def settle(device: torch.device) -> None:
    """See Stages.settle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def laid_out(model: Model, device: torch.device, dtype: torch.dtype) -> Model:
    """A model on its device; on a GPU in half precision with its channels last in memory, as tensor cores want them."""
    halves = device.type == "cuda" and dtype != torch.float32
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if halves else model


def pick_device(options: TeacherOptions) -> torch.device:
    """The device of `options`, by default a GPU if there is one. Sets torch's threads, for the whole process, if
    `options.threads` is given. Raises TeacherError for a device that cannot be used or that lacks the dtype."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TeacherError(f"device {options.device!r} cannot be used ({first_line(error)}): write cpu") from error
    if options.dtype == "float16" and device.type != "cuda":
        raise TeacherError(f"dtype float16 needs a GPU, but the device is {device}: write float32 or bfloat16")
    return device


def runtime_of(device: torch.device) -> dict[str, Any]:
    """What is worth recording of a run (see Teacher.runtime)."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256, hex, over the tensors of a state dict in the order of their names: name, type, shape and bytes of each.
    The format of the file they came from does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """An error's first line, or the name of its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _keywords(name: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a constructor needs to make an empty model that a state dict fits. Auxiliary classifiers, which only
    training uses, are there if the weights have them; initial weights are not worth their time."""
    auxiliary = any(key.startswith(("aux_classifier.", "AuxLogits.", "aux1.")) for key in state)
    backbone: dict[str, Any] = {"weights_backbone": None}
    match name.partition("_")[0]:
        case "googlenet" | "inception":
            return {"init_weights": False, "aux_logits": auxiliary}
        case "deeplabv3" | "fcn":
            return {**backbone, "aux_loss": auxiliary}
        case _:
            return backbone if name in (*list_models(module=detection), *list_models(module=segmentation)) else {}


def _published(name: str, weights: Any, options: TeacherOptions) -> Any:
    if options.classes is not None:
        raise TeacherError(f"{options.weights} weights of {name} bring their classes: remove the option classes")
    try:
        return get_model(name, weights=weights, progress=False)
    except (OSError, RuntimeError) as error:  # no network, or a download with a wrong hash
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise TeacherError(f"{weights.url} was not fetched ({first_line(error)}): put it into {folder}") from error


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise TeacherError(f"weights file {path} not found: name a .safetensors or .pth file, or DEFAULT")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes them raise almost anything
        raise TeacherError(f"weights file {path} cannot be read safely: {first_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise TeacherError(f"weights file {path} is no state dict: save model.state_dict() by itself")
    return state


def _output_count(name: str, state: Mapping[str, Tensor], path: Path) -> int:
    """How many outputs (for a detector: per box) the weights were trained with, from the first layer whose size follows
    that number."""
    key, shape, per_output = _output_layer(name, _keywords(name, state))
    if key not in state or state[key].ndim != len(shape):
        raise TeacherError(f"{path} holds no weights of {name}: it lacks {key}")
    return 2 + (state[key].shape[0] - shape[0]) // per_output


def _output_layer(name: str, keywords: dict[str, Any]) -> tuple[str, tuple[int, ...], int]:
    """The first weights whose size follows the number of outputs: their name, their shape in a model with two outputs,
    and their rows per output."""
    if name.startswith("regnet"):  # its constructor computes with tensors, which hold nothing on the meta device
        return "fc.weight", (2, 0), 1
    with torch.device("meta"):
        two, three = (get_model(name, weights=None, num_classes=count, **keywords).state_dict() for count in (2, 3))
    key = next(key for key in two if two[key].shape != three[key].shape)
    return key, tuple(two[key].shape), three[key].shape[0] - two[key].shape[0]

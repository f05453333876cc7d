"""A network on disk: safetensors, and meta.json beside it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from teachers.base import TeacherError, fingerprint
from teachers.errors import brief
from teachers.networks.build import build_network
from teachers.networks.config import NetworkConfig, as_json
from teachers.networks.meta import DIGEST, FORMAT, META, Meta, read_file, read_meta, wrong_meta

WEIGHTS = "model.safetensors"


def save_checkpoint(folder: Path, network: nn.Module, config: NetworkConfig, meta: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, then `meta.json`: `meta` with the network's config and the SHA-256 of the weights, so
    that a reader sees whether the two belong together. Each file appears whole, synced, or not at all."""
    weights = save_tensors({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    described = {
        "format": FORMAT,
        **meta,
        "classes": config.classes,
        "network": as_json(config),
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)},
    }
    sealed = {**described, DIGEST: fingerprint(described)}
    _write(folder / WEIGHTS, weights)
    _write(folder / META, json.dumps(sealed, indent=1, ensure_ascii=False).encode() + b"\n")


def load_checkpoint(folder: Path) -> tuple[nn.Module, NetworkConfig, Meta]:
    """The trained network of a run, in evaluation mode, its config and its `meta.json`. Raises TeacherError for weights
    that are not those of the network that it describes, before the network is built, and for a NaN in them."""
    meta = read_meta(folder)
    if meta.weights.file != WEIGHTS:
        backbone = folder / meta.weights.file
        raise TeacherError(f"{folder} holds a backbone and no trained network: write network.pretrained: {backbone}")
    try:
        config = TypeAdapter(NetworkConfig).validate_python(meta.network)
    except ValidationError as error:
        raise wrong_meta(folder, error, "network.") from None
    data = read_file(folder, meta.weights)
    try:
        tensors = load_tensors(data)
    except Exception as error:  # of the many that safetensors raises
        raise TeacherError(f"{folder / WEIGHTS} is no safetensors file ({brief(error)}): train again") from None
    if (sketch := _sketch(config, folder)) is not None:
        _check_fit(tensors, sketch, folder)
    network = build_network(config, pretrained=False)
    _check_fit(tensors, network.state_dict(), folder)
    network.load_state_dict(tensors)
    return network.eval(), config, meta


def _sketch(config: NetworkConfig, folder: Path) -> Mapping[str, Tensor] | None:
    """Names, types and shapes of a network's weights, without memory for any; None for one of the few that cannot be
    made so (torchvision's RegNets), or not at all. Raises TeacherError for one whose maps are not those of its levels,
    which no memory would change."""
    try:
        with torch.device("meta"):
            return build_network(config, pretrained=False).state_dict()
    except TeacherError as error:
        if not isinstance(error.__cause__, ValueError):
            return None
        raise TeacherError(f"{folder / META} describes no network ({brief(error)}): train again") from None


def _check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path) -> None:
    """Raise TeacherError for weights that lack something, have more, are of other shapes or hold a NaN."""
    for name in sorted({*expected} ^ {*tensors}):
        what = "lacks" if name in expected else "has"
        raise TeacherError(f"{folder / WEIGHTS} {what} {brief(name)}, unlike the network in {META}: train again")
    for name, tensor in tensors.items():
        ours, theirs = ((each.dtype, tuple(each.shape)) for each in (expected[name], tensor))
        if ours != theirs:
            raise TeacherError(
                f"{folder / WEIGHTS} has {name} of {theirs[0]} {theirs[1]}, but the network in {META} of {ours[0]} "
                f"{ours[1]}: train again"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TeacherError(
                f"{folder / WEIGHTS} holds a NaN or infinite number in {name}: train again, with a lower lr"
            )


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the new name durable
    finally:
        os.close(folder)

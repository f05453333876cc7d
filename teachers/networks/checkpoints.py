"""A network on disk: safetensors, and meta.json beside it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from teachers.base import TeacherError
from teachers.networks.build import build_network
from teachers.networks.config import NetworkConfig

WEIGHTS, META = "model.safetensors", "meta.json"
FORMAT = 1


def save_checkpoint(folder: Path, network: nn.Module, config: NetworkConfig, meta: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, then `meta.json`: `meta` with the network's config and the SHA-256 of the weights, so
    that a reader sees whether the two belong together. Each file appears whole, synced, or not at all."""
    weights = save_tensors({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    described = {
        "format": FORMAT,
        **meta,
        "classes": config.classes,
        "network": asdict(config),
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)},
    }
    _write(folder / WEIGHTS, weights)
    _write(folder / META, json.dumps(described, indent=1, ensure_ascii=False).encode() + b"\n")


def read_meta(folder: Path) -> dict[str, Any]:
    """What `meta.json` of a run says. Raises TeacherError, in one sentence, if there is none to read."""
    try:
        meta = json.loads((folder / META).read_bytes())
    except FileNotFoundError:
        raise TeacherError(f"{folder} has no {META}: it is no run, or it has not reached its first save") from None
    except (OSError, ValueError) as error:
        raise TeacherError(f"{folder / META} cannot be read ({error}): train again") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise TeacherError(f"{folder / META} is not of format {FORMAT}: it was written by another version or program")
    return meta


def load_checkpoint(folder: Path) -> tuple[nn.Module, NetworkConfig, dict[str, Any]]:
    """The trained network of a run, in evaluation mode, its config and its `meta.json`. Raises TeacherError."""
    meta = read_meta(folder)
    if meta["weights"]["file"] != WEIGHTS:
        backbone = folder / meta["weights"]["file"]
        raise TeacherError(f"{folder} holds a backbone and no trained network: write network.pretrained: {backbone}")
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise TeacherError(f"{folder / WEIGHTS} cannot be read ({error.strerror}): train again") from None
    if hashlib.sha256(weights).hexdigest() != meta["weights"]["sha256"]:
        raise TeacherError(f"{folder / WEIGHTS} is not what {META} describes: run the training again to finish saving")
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["network"].items()}
    config = NetworkConfig(**options)
    network = build_network(config, pretrained=False)
    network.load_state_dict(load_tensors(weights))
    return network.eval(), config, meta


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

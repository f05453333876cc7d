"""A file with a backbone's weights: what a network starts from, and what pre-training leaves.

The names in it are those of the whole network as timm or torchvision publish it, so that published files fit, with or
without a classifier; the formats are safetensors and `torch.save`. A file of our own has a run's `meta.json` beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from teachers.base import TeacherError
from teachers.networks.meta import META, Meta, check_file, read_meta

BACKBONE = "backbone.safetensors"
COUNTER = "num_batches_tracked"
"""Batch norm's tensor that decides nothing; some files lack it."""


def load_weights(body: nn.Module, names: Mapping[str, str], file: Path, whole: nn.Module) -> None:
    """Give a backbone the weights in a file.

    names: of each weight that must be there, its name in `body` -> in `whole`, the network that `body` is a part of
    (teachers.networks.backbones.published_names). Weights of other parts of it, such as a classifier, are left alone.
    Raises TeacherError where the file cannot be read or is of another network, or of one with another norm.
    """
    tensors = _read(file)
    wanted = {ours: name for ours, name in names.items() if not ours.endswith(COUNTER)}
    if any(name not in tensors for name in wanted.values()):
        tensors = _converted(tensors, whole)
    _check_norm(set(wanted.values()), set(tensors), file)
    _check_same_network(wanted.values(), tensors, whole, file)
    state = body.state_dict()
    for ours, name in names.items():
        if name not in tensors:
            continue
        if tensors[name].shape != state[ours].shape:
            shapes = f"the shape {tuple(tensors[name].shape)}, not {tuple(state[ours].shape)}"
            raise TeacherError(f"pretrained {file} is of another network: its {name} has {shapes}; give its own file")
        if not torch.isfinite(tensors[name]).all():
            raise TeacherError(f"pretrained {file} holds a NaN or infinite number in {name}: fetch it again")
        state[ours].copy_(tensors[name])


def weights_file(pretrained: str) -> Path:
    """The file that a `pretrained` other than DEFAULT names. Raises TeacherError if there is none."""
    file = Path(pretrained)
    if not file.is_file():
        name = file / BACKBONE
        hint = f"write {name}" if name.is_file() else "check its path, or write DEFAULT for the published weights"
        raise TeacherError(f"pretrained {pretrained!r} is not a file: {hint}")
    return file


def _read(file: Path) -> dict[str, Tensor]:
    from timm.models import load_state_dict

    try:
        tensors = load_state_dict(str(file), weights_only=True)  # else, in older timm, a file may run code
        return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    except Exception as error:  # of the many that the two formats' readers raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise TeacherError(f"pretrained {file} holds no weights that can be read ({reason}): fetch it again") from error


def _converted(tensors: dict[str, Tensor], whole: nn.Module) -> dict[str, Tensor]:
    """The weights of a network's first publication under timm's names, where timm knows them."""
    convert = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return dict(convert(dict(tensors), whole))
    except (KeyError, AttributeError, RuntimeError, ValueError, TypeError):  # not those either
        return tensors


def _check_norm(wanted: set[str], held: set[str], file: Path) -> None:
    wants, has = (any(name.endswith("running_mean") for name in names) for names in (wanted, held))
    if wants and not has and wanted & held:
        raise TeacherError(f"the weights in {file} were trained without batch norm: set norm to group")
    statistics = {f"{name.removesuffix('.weight').removesuffix('.norm')}.running_mean" for name in wanted}
    if (statistics & held) - wanted:
        raise TeacherError(f"the weights in {file} were trained with batch norm: set norm to frozen or batch")


def _check_same_network(wanted: Collection[str], tensors: Mapping[str, Tensor], whole: nn.Module, file: Path) -> None:
    """That nothing is missing, and that no stage has more than the network: ResNet-34 holds all of ResNet-18."""
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise TeacherError(
            f"pretrained {file} lacks {len(missing)} of the {len(wanted)} weights needed, such as {missing[0]}: give "
            "the file of this very backbone, pre-trained up to the last of its levels"
        )
    places = {place for place, _ in whole.named_modules()}
    stages = {name.partition(".")[0] for name in wanted}
    for name in tensors:
        place = name.rpartition(".")[0]
        if name.partition(".")[0] in stages and place not in places and place.removesuffix(".norm") not in places:
            raise TeacherError(
                f"pretrained {file} is of a larger network: it has {name}; give this backbone's own file"
            )


def meta_beside(file: Path) -> Meta | None:
    """What `meta.json` beside a file of our own says of it; None for a file from elsewhere. Raises TeacherError if the
    file is not what it describes, or has the name of our own and a `meta.json` that cannot be read."""
    if not (file.parent / META).is_file():
        return None
    try:
        meta = read_meta(file.parent)
    except TeacherError:
        if file.name == BACKBONE:
            raise
        return None
    if meta.weights.file != file.name:
        return None
    check_file(file.parent, meta.weights)
    return meta


def pretrained_on(weights: str | None) -> frozenset[str]:
    """SHA-256, hex, of the images that the weights in a file have learned from, where its `meta.json` says so."""
    meta = meta_beside(Path(weights)) if weights and Path(weights).is_file() else None
    return frozenset(meta.trained_on) if meta else frozenset()

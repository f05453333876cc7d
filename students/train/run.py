"""The folder of a training run: what it is, what it has logged, and its last save.

`recipe.json` comes first: all that decides the weights, so that the folder belongs to that training. `log.jsonl` has a
record per step. A save writes `state.pt` (all that resuming needs, in one file, so that a killed save leaves the one
before), `model.safetensors` (the weights, for whoever uses the network) and, last, `meta.json` (what they are).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
import torchvision
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from builder.store.files import seal, sync_folder, unseal, write_file
from builder.store.text import read_json
from students.train.average import WeightAverage
from students.train.errors import TrainError
from students.train.losses import JointLoss
from students.train.state import STATE, read_state, readable, write_state
from teachers.errors import warn
from teachers.networks.checkpoints import save_checkpoint
from teachers.networks.config import NetworkConfig
from teachers.networks.meta import META, read_meta

RECIPE, LOG = "recipe.json", "log.jsonl"


def claim(out: Path, description: Mapping[str, Any]) -> int:
    """Make the folder `out` the run of this description (JSON-ready), or find that it is; returns the steps its
    `meta.json` has. A run that never saved anything gives way, so that a recipe that failed can be mended. Raises
    TrainError if it is another's."""
    path, names = out / RECIPE, {entry.name for entry in out.iterdir()}
    if not path.is_file() and names - {".lock"}:
        raise TrainError(f"{out} holds other files and no run: give a new or an empty folder")
    ours = orjson.loads(orjson.dumps(description))
    for name in sorted(names & {RECIPE, STATE, LOG, META}):
        if not (out / name).is_file():  # a pipe would be waited for
            raise TrainError(f"{out / name} is no file: remove it, or train into another folder")
    begun = bool(names & {STATE, META})
    theirs = unseal(read_json(path), path, "train into another folder") if path.is_file() and begun else {}
    if not begun:
        write_file(path, orjson.dumps(seal(ours), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        theirs = ours
    changed = [key for key in {**theirs, **ours} if ours.get(key) != theirs.get(key)]
    if changed:
        raise TrainError(f"{out} is a run with another {' and '.join(changed)}: give another, or remove this one")
    return _saved(out)


def _saved(out: Path) -> int:
    """The steps that the weights of a run have behind them."""
    return read_meta(out).step if (out / META).is_file() else 0


def append(out: Path, record: Mapping[str, Any]) -> None:
    """Add a record to the log of the run `out`; NaN becomes null."""
    with open(out / LOG, "ab") as file:
        file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def sync_log(out: Path) -> None:
    """Make what the log of the run `out` holds durable, before a save says that so many steps are done."""
    if (out / LOG).is_file():
        sync_folder(out / LOG)
        sync_folder(out)


def cut_log(out: Path, step: int) -> None:
    """Drop what the log of the run `out` says of later steps than its first `step`, and, with a warning, what cannot be
    read of these."""
    log = out / LOG
    if not log.is_file():
        return
    lines = log.read_bytes().splitlines(keepends=True)
    records = [(line, record) for line in lines if (record := _record(line)) is not None]
    write_file(log, b"".join(line for line, record in records if record["step"] <= step))
    left = len({record["step"] for _, record in records if record["step"] <= step})
    if left < step:
        warn(f"{log} has lost {step - left} of the records of {step} steps: the weights are not touched by it")


def read_log(out: Path) -> list[dict[str, Any]]:
    """The records of a run's log. A last line that was cut, as a kill leaves it, is passed over. Raises TrainError for
    any other that cannot be read."""
    lines = (out / LOG).read_bytes().splitlines() if (out / LOG).is_file() else []
    records = [_record(line) for line in lines]
    if records and records[-1] is None:
        del records[-1]
    for number, record in enumerate(records, 1):
        if record is None:
            raise TrainError(f"line {number} of {out / LOG} is damaged: restore it from a copy, or train again")
    return [record for record in records if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    """A record of the log, None for a line that is none."""
    try:
        record = orjson.loads(line)
        return record if type(record["step"]) is int else None
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None


def libraries() -> dict[str, str]:
    """What `meta.json` says the weights were made with."""
    return {"torch": torch.__version__, "torchvision": torchvision.__version__}


def clip_rate(out: Path) -> float:
    """The share of a finished run's steps in which clipping changed the ratio of the joint loss; of several ratios the
    largest. 0 for a supervised one, one whose ratio is meant to be no more than 1 and was, or a log from before it said
    so."""
    records = read_log(out)
    last = records[-1] if records else {}
    meant = last.get("ratio") == 1
    rate = 0.0 if meant else last.get("clip_rate") or 0.0
    rates = rate if isinstance(rate, list) else [rate]
    return max((float(rate) for rate in rates if isinstance(rate, int | float)), default=0.0)


class Run:
    """What a training saves and resumes. All processes call `resume` and `save`; only the main one writes.

    average: of the network's weights, which is what `model.safetensors` holds.
    about: what `meta.json` says besides the network after so many steps: the description, the images trained on.
    """

    def __init__(
        self,
        out: Path,
        accelerator: Accelerator,
        network: nn.Module,
        config: NetworkConfig,
        optimizer: AcceleratedOptimizer,
        joint: JointLoss,
        about: Callable[[int], Mapping[str, Any]],
        average: WeightAverage,
    ) -> None:
        self.out, self.accelerator, self.network, self.config = out, accelerator, network, config
        self.optimizer, self.joint, self.about, self.average = optimizer, joint, about, average

    def resume(self) -> int:
        """Take up the last save, if there is one: the steps done by then. Later log records are dropped. A save that
        was killed after `state.pt`, before the weights and `meta.json` that belong to it, is completed."""
        step = 0
        if (state := read_state(self.out)) is not None:
            with readable(self.out):
                self._take_up(state)
            step = state["step"]
        if self.accelerator.is_main_process:
            cut_log(self.out, step)
        if step > _saved(self.out):
            self.save(step)
        return step

    def _take_up(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state.get("average", {}))
        self.optimizer.load_state_dict(state["optimizer"])
        self.joint.load_state_dict(state["joint"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        rank = self.accelerator.process_index
        if len(state["random"]) == self.accelerator.num_processes:
            torch.set_rng_state(state["random"][rank])
        if self._on_gpu and len(state["random_gpu"]) == self.accelerator.num_processes:
            torch.cuda.set_rng_state(state["random_gpu"][rank])

    def save(self, step: int) -> None:
        """Save the state after `step` steps."""
        gather, device = self.accelerator.gather, self.accelerator.device
        state = {
            "step": step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "joint": self.joint.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            "random": gather(torch.get_rng_state()[None].to(device)).cpu(),
            "random_gpu": gather(torch.cuda.get_rng_state()[None].to(device)).cpu() if self._on_gpu else torch.empty(0),
        }
        if self.accelerator.is_main_process:
            sync_log(self.out)
            write_state(self.out, state)
            meta = {"step": step, **self.about(step), "libraries": libraries()}
            save_checkpoint(self.out, self.average.network, self.config, meta)
        self.accelerator.wait_for_everyone()

    def log(self, record: Mapping[str, Any]) -> None:
        """See `append`."""
        if self.accelerator.is_main_process:
            append(self.out, record)

    @property
    def _on_gpu(self) -> bool:
        return bool(self.accelerator.device.type == "cuda")

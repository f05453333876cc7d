"""`state.pt` of a run: all that resuming needs, in one file, with the SHA-256 of its bytes behind them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from builder.errors import brief
from builder.store.files import new_file
from students.train.errors import TrainError
from teachers.files import read_regular

STATE = "state.pt"
MARK = b"sha256 "
"""What stands between torch's archive, which may be read with this behind it, and the digest of it, 32 bytes."""


def write_state(run: Path, state: Mapping[str, Any]) -> None:
    """The state of a run, durable, or the one before. Raises OSError for a disk that is full."""
    buffer = io.BytesIO()  # torch.save ends in errors of its own where a file cannot take it
    torch.save(dict(state), buffer)
    data = buffer.getbuffer()
    with new_file(run / STATE) as file:
        file.write(data)
        file.write(MARK + hashlib.sha256(data).digest())


def read_state(run: Path) -> dict[str, Any] | None:
    """The state of a run, None if it has none. Raises TrainError for one that is not as it was written."""
    path = run / STATE
    if not path.exists():
        return None
    data = memoryview(read_regular(path))
    end = len(data) - len(MARK) - hashlib.sha256().digest_size
    if end > 0 and data[end : end + len(MARK)] == MARK:  # else of before there was one
        if hashlib.sha256(data[:end]).digest() != data[end + len(MARK) :]:
            raise _damaged(run, "it is not what its digest says")
        data = data[:end]
    with readable(run):
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {**state, "step": int(state["step"])}


@contextmanager
def readable(run: Path) -> Iterator[None]:
    """A block that takes up a state: what it lacks, or has of another kind or shape, is a TrainError."""
    try:
        yield
    except Exception as error:  # of the many that torch and its optimisers raise
        raise _damaged(run, brief(error) or type(error).__name__) from None


def _damaged(run: Path, reason: str) -> TrainError:
    return TrainError(
        f"{run / STATE} is damaged ({reason}), so that the run cannot go on: restore it from a copy, or train into "
        f"another folder, from the weights last saved with init: checkpoint:{run}"
    )

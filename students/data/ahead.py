"""Batches made ahead of time, by processes of their own."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from builder.errors import BuildError
from builder.store.shards import ShardError

Made = TypeVar("Made")


def made_ahead(make: Callable[[int], Made], steps: range, *, workers: int = 0, pin: bool = False) -> Iterator[Made]:
    """What `make` gives for each step, in order, made ahead by `workers` processes; `pin` for a GPU."""
    if not workers:
        yield from map(make, steps)
        return
    loader = DataLoader(
        _Steps(make),
        batch_size=None,
        sampler=steps,
        collate_fn=_unchanged,
        num_workers=workers,
        pin_memory=pin,
        generator=torch.Generator(),  # its own, or making the workers would move the model's random state
        multiprocessing_context="fork" if sys.platform == "linux" else None,  # shares the index, copies nothing
    )
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads; numpy and the decoders take no lock that one could hold
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        made = iter(loader)
    try:
        for item in made:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        del made  # ends the workers now; in an error's traceback they would wait for the garbage collector


class _Steps(Dataset[Any], Generic[Made]):
    """What a DataLoader worker runs. An expected error travels as a value: raised there, it would lose its sentence."""

    def __init__(self, make: Callable[[int], Made]) -> None:
        self._make = make

    def __getitem__(self, step: int) -> Made | Exception:
        try:
            return self._make(step)
        except (BuildError, ShardError, OSError) as error:
            return error


def _unchanged(item: Any) -> Any:
    return item

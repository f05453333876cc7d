"""Labelled data and pseudo-label versions as joint batches: half human, half pseudo (the paper's method, step 3).

The batch of a step is a pure function of (data, seed, step, rank, world): any number of workers makes the same batches,
and a resumed run starts in the middle of the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from builder.store.manifest import ShardRecord
from builder.store.version import Version
from builder.truth.records import Truth
from students.augment.scene import S1, Augment
from students.data.ahead import made_ahead
from students.data.streams import Labelled, LoaderError, Pseudo, Stream, generator
from students.tasks.base import Task, moved
from students.tasks.choose import check_labels, task_of, usual_arch

IMAGENET_GREY = (124, 116, 104)
"""The ImageNet mean in 0..255: padding of this colour is nearly 0 after normalisation."""


@dataclass(frozen=True)
class Batch:
    """images: uint8 (B, 3, S, S), RGB, contiguous, not normalised; targets: one per image, as the task makes them;
    pseudo: bool (B,), False for the human half, which comes first."""

    images: torch.Tensor
    targets: list[Any]
    pseudo: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; copies from pinned memory do not wait."""
        targets = [moved(target, device) for target in self.targets]
        images, pseudo = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.pseudo))
        return Batch(images, targets, pseudo)

    def halves(self) -> tuple[Batch, Batch]:
        """The human images and the pseudo-labelled ones, each as a batch; without versions the second is empty."""
        share = int((~self.pseudo).sum())
        parts = (slice(share), slice(share, None))
        human, pseudo = (Batch(self.images[part], self.targets[part], self.pseudo[part]) for part in parts)
        return human, pseudo


_Arrays = tuple[torch.Tensor, list[tuple[np.ndarray, ...]]]
"""A batch as it crosses from a worker: targets as arrays, since every tensor would cost a file descriptor."""


class JointBatches:
    """Batches of `batch_size` images for process `rank` of `world`: `batches[step]`, or `stream` for many.

    Without versions all images are human; with them the first half is human, the second pseudo, drawn from all versions
    together. Each stream goes through its images in a new random order every epoch; with a version on the Hub, through
    those of a few shards at a time. The processes' batches of a step are the parts, by rank, of what one process would
    draw with a batch `world` times as large.

    Args:
        truth: the labelled set (builder.truth.read.read_truth).
        versions: folders of versions, or versions that are open (builder.hub.remote.open_version).
        task: what is learned of the labels (students.tasks.choose.task_of); by default what a student learns of labels
            of this kind: boxes, maps, or classes with soft pseudo-labels.
        size: side of the network's square input, pixels.
        batch_size: images in a batch of this process; even with versions.
        augment: how images and labels are placed on the input (students.augment.scene).
        fill: RGB colour of the padding.
        seed: of the order and of the augmentation.
        rank, world: the number of this process, and of all of them.

    Raises:
        LoaderError: for an empty set, an odd batch with versions, a version of another kind or with a class that the
            labelled set lacks. Reading a batch raises LoaderError and TruthError for images that are damaged or not of
            the stated size.
        TruthError: for labels that do not teach the task.
    """

    def __init__(
        self,
        truth: Truth,
        versions: Sequence[Path | Version] = (),
        *,
        task: Task | None = None,
        size: int,
        batch_size: int,
        augment: Augment = S1,
        fill: tuple[int, int, int] = IMAGENET_GREY,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        task = task or task_of(usual_arch(truth.kind))
        check_labels(truth.kind, task)
        if not truth.images:
            raise LoaderError("the labelled set has no images: there is nothing to train on")
        if versions and batch_size % 2:
            raise LoaderError(f"batch_size {batch_size} cannot be half human and half pseudo: make it even")
        self.classes = truth.classes
        self._streams: list[Stream] = [Labelled(truth, task)]
        if versions:
            self._streams.append(Pseudo([_opened(version) for version in versions], truth.classes, task))
        self._share = batch_size // len(self._streams)
        self._task, self._size, self._augment, self._fill = task, size, augment, fill
        self._seed, self._rank, self._world = seed, rank, world

    def __getitem__(self, step: int) -> Batch:
        """The batch of step 0, 1, …, made here and now."""
        return self._batch(self.arrays(step))

    def stream(self, start: int, stop: int, *, workers: int = 0, pin: bool = False) -> Iterator[Batch]:
        """Batches, made ahead.

        Args:
            start, stop: the steps, the last of which is `stop` - 1.
            workers: processes that make them; 0 for none but this one. They change nothing in the batches.
            pin: put them into pinned memory, for a GPU.

        Returns:
            An iterator of the batches, in order.

        Raises:
            LoaderError, TruthError: for an image that cannot be used.
        """
        for arrays in made_ahead(self.arrays, range(start, stop), workers=workers, pin=pin):
            yield self._batch(arrays)

    def arrays(self, step: int) -> _Arrays:
        """The batch of a step before its targets become tensors."""
        canvases, targets = [], []
        for number, stream in enumerate(self._streams):
            first = (step * self._world + self._rank) * self._share
            for position in range(first, first + self._share):
                epoch, place = divmod(position, len(stream))
                stream.look_ahead(self._seed, number, epoch, place)
                scene = stream[int(stream.order(self._seed, number, epoch)[place])]
                rng = generator(self._seed, number, 1, position)
                height, width = scene.pixels.shape[:2]
                placement = self._augment.place(width, height, self._size, rng, self._task.boxes(scene.marks))
                canvases.append(placement.image(scene.pixels, self._fill))
                targets.append(self._task.place(scene.marks, placement))
        images = np.ascontiguousarray(np.stack(canvases).transpose(0, 3, 1, 2))
        return torch.from_numpy(images), targets

    def shards_seen(self, stop: int) -> list[tuple[Version, ShardRecord]]:
        """The shards of versions on the Hub that the batches of all processes before step `stop` are drawn from."""
        pseudo = self._streams[1] if len(self._streams) > 1 else None
        return pseudo.seen(self._seed, 1, stop * self._world * self._share) if isinstance(pseudo, Pseudo) else []

    def _batch(self, arrays: _Arrays) -> Batch:
        images, targets = arrays
        pseudo = torch.arange(len(targets)) >= self._share
        return Batch(images, [self._task.target(*map(torch.from_numpy, target)) for target in targets], pseudo)


def _opened(version: Path | Version) -> Version:
    return version if isinstance(version, Version) else Version.open(version)

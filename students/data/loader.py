"""Labelled data and pseudo-label versions as joint batches: half human, half pseudo (the paper's method, step 3).

The batch of a step is a pure function of (data, seed, step, rank, world): any number of workers makes the same batches,
and a resumed run starts in the middle of the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from builder.errors import brief
from builder.store.shards import ShardRecord
from builder.store.version import Version
from builder.truth.records import Truth
from students.augment.scene import S1, Augment
from students.data.ahead import made_ahead
from students.data.claims import Claims
from students.data.streams import Labelled, LoaderError, Pseudo, Stream, generator
from students.tasks.base import Task, moved
from students.tasks.choose import check_labels, task_of, usual_arch

IMAGENET_GREY = (124, 116, 104)
"""The ImageNet mean in 0..255: padding of this colour is nearly 0 after normalisation."""


@dataclass(frozen=True)
class Batch:
    """images: uint8 (B, 3, S, S), RGB, contiguous, not normalised; targets: one per image, as the task makes them;
    pseudo: bool (B,), False for the human half, which comes first. claimed: where there are claims, a second target of
    each human image, of what a teacher says of it, placed as its first."""

    images: torch.Tensor
    targets: list[Any]
    pseudo: torch.Tensor
    claimed: list[Any] = field(default_factory=list)

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; copies from pinned memory do not wait."""
        targets, claimed = ([moved(target, device) for target in side] for side in (self.targets, self.claimed))
        images, pseudo = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.pseudo))
        return Batch(images, targets, pseudo, claimed)

    def halves(self) -> tuple[Batch, Batch]:
        """The human images and the pseudo-labelled ones, each as a batch; without versions the second is empty."""
        share = int((~self.pseudo).sum())
        parts = (slice(share), slice(share, None))
        human, pseudo = (Batch(self.images[part], self.targets[part], self.pseudo[part]) for part in parts)
        return replace(human, claimed=self.claimed), pseudo


_Targets = list[tuple[np.ndarray, ...]]
_Arrays = tuple[torch.Tensor, _Targets, _Targets]
"""A batch as it crosses from a worker: targets as arrays, since every tensor would cost a file descriptor."""


class JointBatches:
    """Batches of `batch_size` images for process `rank` of `world`: `batches[step]`, or `stream` for many. To iterate
    over it never ends: it has no length, since the epochs of its two halves differ.

    Without versions all images are human; with them the first half is human, the second pseudo, drawn from all versions
    together. Each stream goes through its images in a new random order every epoch; with a version on the Hub, through
    those of a few shards at a time. The processes' batches of a step are the parts, by rank, of what one process would
    draw with a batch `world` times as large.

    Args:
        truth: the labelled set (builder.truth.read.read_truth).
        versions: a list of folders of versions, or of versions that are open. One that is known by its name, or on the
            Hub, is to be opened before: builder.hub.remote.open_version("street@v1", store).
        claimed: versions that show the labelled images, each image one of them (by its SHA-256), as teachers label them
            that have not learned from them: see Batch and JointLoss. Only with versions.
        task: what is learned of the labels (students.tasks.choose.task_of); by default what a student learns of labels
            of this kind: boxes, maps, or classes with soft pseudo-labels.
        size: side of the network's square input, pixels.
        batch_size: images in a batch of this process; even with versions.
        augment: how images and labels are placed on the input: S1, S2, S3 or S4 of students.augment.scene (`from
            students.augment.scene import S4`), FIT for none, an Augment of your own, or what a recipe would make,
            AugmentRecipe(policy="S4", magnitude=5).build(flip=0.5). S2 and S3 have AutoAugment's table of detection:
            for classes AugmentRecipe(policy="S2").build(0.5, "imagenet").
        fill: RGB colour of the padding.
        seed: of the order and of the augmentation.
        rank, world: the number of this process, and of all of them.

    Raises:
        LoaderError: for an argument of another type or out of its range, an empty set, an odd batch with versions, a
            version that is not there, of another kind or with a class that the labelled set lacks. Reading a batch
            raises LoaderError and TruthError for images that are damaged or not of the stated size.
        TrainError: for a labelled image that none of `claimed` shows, or several.
        TruthError: for labels that do not teach the task.
    """

    def __init__(
        self,
        truth: Truth,
        versions: Sequence[Path | str | Version] = (),
        *,
        claimed: Sequence[Path | str | Version] = (),
        task: Task | None = None,
        size: int,
        batch_size: int,
        augment: Augment = S1,
        fill: tuple[int, int, int] = IMAGENET_GREY,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not isinstance(truth, Truth):
            raise LoaderError(f"truth {brief(repr(truth))} is no labelled set: give what read_truth returns")
        if not isinstance(task, Task | None):
            raise LoaderError(
                f"task {brief(repr(task))} is no Task: give students.tasks.choose.task_of('fcos'), or another arch"
            )
        if not isinstance(augment, Augment):
            raise LoaderError(
                f"augment {brief(repr(augment))} is no Augment: give S1, S2, S3 or S4 of students.augment.scene"
            )
        _check_numbers({"size": (size, 1), "batch_size": (batch_size, 1), "world": (world, 1), "seed": (seed, 0)})
        _check_numbers({"rank": (rank, 0)})
        if rank >= world:
            raise LoaderError(f"rank {rank} is not below world {world}: processes are numbered from 0")
        opened, claiming = _opened(versions), _opened(claimed, "claimed")
        task = task or task_of(usual_arch(truth.kind))
        check_labels(truth.kind, task)
        if not truth.images:
            raise LoaderError("the labelled set has no images: there is nothing to train on")
        if opened and batch_size % 2:
            raise LoaderError(f"batch_size {batch_size} cannot be half human and half pseudo: make it even")
        if claiming and not opened:
            raise LoaderError("claimed corrects what versions teach: give versions, too")
        self.classes = truth.classes
        self._streams: list[Stream] = [Labelled(truth, task)]
        if opened:
            self._streams.append(Pseudo(opened, truth.classes, task))
        self._claims = Claims(truth, claiming, task) if claiming else None
        self._share = batch_size // len(self._streams)
        self._task, self._size, self._augment, self._fill = task, size, augment, fill
        self._seed, self._rank, self._world = seed, rank, world

    @property
    def lengths(self) -> tuple[int, int]:
        """Images of the human and of the pseudo-labelled stream."""
        return len(self._streams[0]), sum(len(stream) for stream in self._streams[1:])

    def __getitem__(self, step: int) -> Batch:
        """The batch of step 0, 1, …, made here and now. Raises IndexError for a negative step, TypeError for what is no
        whole number."""
        if isinstance(step, bool) or not isinstance(step, int | np.integer):
            raise TypeError(f"a step is a whole number from 0 on, not {step!r}")
        if step < 0:
            raise IndexError(f"step {step} is negative: there is no last batch to count from")
        return self._batch(self.arrays(int(step)))

    def __iter__(self) -> Iterator[Batch]:
        """The batches of step 0, 1, … without end, made here and now: break off, or use `stream`."""
        return map(self.__getitem__, count())

    def stream(self, start: int, stop: int, *, workers: int = 0, pin: bool = False) -> Iterator[Batch]:
        """Batches, made ahead.

        Args:
            start, stop: the steps, the last of which is `stop` - 1.
            workers: processes that make them; 0 for none but this one. They change nothing in the batches.
            pin: put them into pinned memory, for a GPU.

        Returns:
            An iterator of the batches, in order.

        Raises:
            LoaderError: for a `start`, `stop` or `workers` that is negative or no whole number.
            LoaderError, TruthError: for an image that cannot be used.
        """
        _check_numbers({"start": (start, 0), "stop": (stop, 0), "workers": (workers, 0)})
        for arrays in made_ahead(self.arrays, range(start, stop), workers=workers, pin=pin):
            yield self._batch(arrays)

    def arrays(self, step: int) -> _Arrays:
        """The batch of a step before its targets become tensors."""
        images = np.empty((len(self._streams) * self._share, 3, self._size, self._size), np.uint8)
        targets: _Targets = []
        claimed: _Targets = []
        for number, stream in enumerate(self._streams):
            first = (step * self._world + self._rank) * self._share
            for position in range(first, first + self._share):
                epoch, place = divmod(position, len(stream))
                stream.look_ahead(self._seed, number, epoch, place)
                index = int(stream.order(self._seed, number, epoch)[place])
                scene = stream[index]
                rng = generator(self._seed, number, 1, position)
                height, width = scene.pixels.shape[:2]
                placement = self._augment.place(width, height, self._size, rng, self._task.boxes(scene.marks))
                placement.image(scene.pixels, self._fill, images[len(targets)])
                targets.append(self._task.place(scene.marks, placement))
                if self._claims and number == 0:
                    claimed.append(self._task.place(self._claims.marks(index, height, width), placement))
        return torch.from_numpy(images), targets, claimed

    def shards_seen(self, stop: int) -> list[tuple[Version, ShardRecord]]:
        """The shards of versions on the Hub that the batches of all processes before step `stop` are drawn from."""
        pseudo = self._streams[1] if len(self._streams) > 1 else None
        return pseudo.seen(self._seed, 1, stop * self._world * self._share) if isinstance(pseudo, Pseudo) else []

    def _batch(self, arrays: _Arrays) -> Batch:
        images, *sides = arrays
        targets, claimed = ([self._task.target(*map(torch.from_numpy, target)) for target in side] for side in sides)
        return Batch(images, targets, torch.arange(len(targets)) >= self._share, claimed)


def _check_numbers(least: Mapping[str, tuple[object, int]]) -> None:
    """Raises LoaderError unless each value, given with its least by its name, is a whole number of at least that."""
    for name, (value, smallest) in least.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < smallest:
            raise LoaderError(f"{name} {value!r} is out of range: give a whole number of at least {smallest}")


def _opened(versions: Iterable[Path | str | Version], name: str = "versions") -> list[Version]:
    if isinstance(versions, Path | str | Version) or not isinstance(versions, Iterable):
        named = versions.ref if isinstance(versions, Version) else repr(versions)
        raise LoaderError(f"{name} is a list of folders or of open versions, not {brief(named)}: put it into a list")
    return [version if isinstance(version, Version) else _in_folder(version) for version in versions]


def _in_folder(folder: Path | str) -> Version:
    if not isinstance(folder, Path | str):
        raise LoaderError(f"{brief(repr(folder))} is no version: give its folder, or what open_version returns")
    if not Path(folder).is_dir():
        raise LoaderError(
            f"{folder} is no folder: open a version by its name with open_version({str(folder)!r}, store)"
        )
    return Version.open(Path(folder))

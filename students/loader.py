"""Labelled data and pseudo-label versions as joint batches: half human, half pseudo (the paper's method, step 3).

The batch of a step is a pure function of (data, seed, step, rank, world): any number of workers makes the same batches,
and a resumed run starts in the middle of the same order.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
import torch
from torch.utils.data import DataLoader, Dataset

from builder import BuildError
from builder.manifest import read_manifest
from builder.shards import Member, ShardError, read_bytes, read_samples
from builder.truth import Truth, check_detection, read_pixels
from students.augment import S1, Augment
from teachers.images import FORMATS, ImageError, decode_rgb

IMAGENET_GREY = (124, 116, 104)
"""The ImageNet mean in 0..255: padding of this colour is nearly 0 after normalisation."""
MIN_VISIBLE = 0.1
MIN_SIDE = 1.0


class LoaderError(BuildError):
    """Data that cannot be trained on. The message is one sentence for the user."""


@dataclass(frozen=True)
class Target:
    """What one image teaches, in pixels of the network's input.

    boxes: float32 (N, 4) `xyxy`; labels: int64 (N,), positions in the labelled set's `classes`; ignore: float32 (M, 4),
    regions in which nothing is background: crowds, difficult objects, boxes below the threshold, and objects that the
    crop left less than a tenth of (MIN_VISIBLE) or thinner than a pixel (MIN_SIDE).
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    ignore: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """images: uint8 (B, 3, S, S), RGB, contiguous, not normalised; targets: one per image; pseudo: bool (B,), False for
    the human half, which comes first."""

    images: torch.Tensor
    targets: list[Target]
    pseudo: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; copies from pinned memory do not wait."""
        targets = [
            Target(*(tensor.to(device, non_blocking=True) for tensor in (target.boxes, target.labels, target.ignore)))
            for target in self.targets
        ]
        images, pseudo = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.pseudo))
        return Batch(images, targets, pseudo)


@dataclass(frozen=True)
class _Scene:
    """pixels: uint8 (H, W, 3); boxes: (N, 4) `xyxy`; labels: (N,); ignore: bool (N,)."""

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray


class _Stream(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> _Scene: ...


_Arrays = tuple[torch.Tensor, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]
"""A batch as it crosses from a worker: targets as arrays, since every tensor would cost a file descriptor."""


class JointBatches:
    """Batches of `batch_size` images for process `rank` of `world`: `batches[step]`, or `stream` for many.

    Without versions all images are human; with them the first half is human, the second pseudo, drawn from all versions
    together. Each stream goes through its images in a new random order every epoch. The processes' batches of a step
    are the parts, by rank, of what one process would draw with a batch `world` times as large.

    size: side of the network's square input, pixels. fill: colour of the padding.
    Raises LoaderError for an empty set, an odd batch with versions, a version of another kind or with a class that the
    labelled set lacks; reading raises LoaderError and TruthError for images that are damaged or not of the stated size.
    """

    def __init__(
        self,
        truth: Truth,
        versions: Sequence[Path] = (),
        *,
        size: int,
        batch_size: int,
        augment: Augment = S1,
        fill: tuple[int, int, int] = IMAGENET_GREY,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        check_detection(truth, "the labelled set")
        if not truth.images:
            raise LoaderError("the labelled set has no images: there is nothing to train on")
        if versions and batch_size % 2:
            raise LoaderError(f"batch_size {batch_size} cannot be half human and half pseudo: make it even")
        self.classes = truth.classes
        self._streams: list[_Stream] = [_Labelled(truth)]
        if versions:
            self._streams.append(_Pseudo(versions, truth.classes))
        self._share = batch_size // len(self._streams)
        self._size, self._augment, self._fill = size, augment, fill
        self._seed, self._rank, self._world = seed, rank, world

    def __getitem__(self, step: int) -> Batch:
        return self._batch(self.arrays(step))

    def stream(self, start: int, stop: int, *, workers: int = 0, pin: bool = False) -> Iterator[Batch]:
        """The batches of steps `start` to `stop` - 1, made ahead by `workers` processes; `pin` for a GPU."""
        if not workers:
            yield from map(self.__getitem__, range(start, stop))
            return
        loader = DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=range(start, stop),
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
                yield self._batch(item)
        finally:
            del made  # ends the workers now; in an error's traceback they would wait for the garbage collector

    def arrays(self, step: int) -> _Arrays:
        """The batch of a step before its targets become tensors."""
        canvases, targets = [], []
        for number, stream in enumerate(self._streams):
            first = (step * self._world + self._rank) * self._share
            for position in range(first, first + self._share):
                epoch, place = divmod(position, len(stream))
                scene = stream[int(_order(self._seed, number, epoch, len(stream))[place])]
                rng = _generator(self._seed, number, 1, position)
                canvas, boxes, visible = self._augment(scene.pixels, scene.boxes, self._size, self._fill, rng)
                canvases.append(canvas)
                targets.append(_target(boxes, visible, scene.labels, scene.ignore))
        images = np.ascontiguousarray(np.stack(canvases).transpose(0, 3, 1, 2))
        return torch.from_numpy(images), targets

    def _batch(self, arrays: _Arrays) -> Batch:
        images, targets = arrays
        pseudo = torch.arange(len(targets)) >= self._share
        return Batch(images, [Target(*map(torch.from_numpy, target)) for target in targets], pseudo)


class _Labelled:
    """The human images; crowds and difficult objects are ignored."""

    def __init__(self, truth: Truth) -> None:
        self._images = truth.images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> _Scene:
        image = self._images[index]
        return _Scene(read_pixels(image), image.boxes, image.labels, image.crowd | image.difficult)


class _Pseudo:
    """The images of some versions, found by offset in their shards. Only the offsets are held in memory."""

    def __init__(self, versions: Sequence[Path], classes: Sequence[str]) -> None:
        self._shards: list[tuple[Path, np.ndarray]] = []  # and the position in `classes` of each of its classes
        rows: list[tuple[int, ...]] = []
        for folder in versions:
            manifest = read_manifest(folder)
            version = f"{manifest.name}@{manifest.version}"
            if manifest.kind != "detection":
                raise LoaderError(f"version {version} holds {manifest.kind} labels: a detector needs detection labels")
            unknown = [name for name in manifest.classes if name not in classes]
            if unknown:
                raise LoaderError(
                    f"version {version} has class {unknown[0]!r}, unknown to the labelled set: map it in its recipe"
                )
            positions = np.array([classes.index(name) for name in manifest.classes], np.int64)
            removed = set(manifest.tombstones)
            for record in manifest.shards:
                self._shards.append((folder / "data" / record.name, positions))
                for sample in read_samples(self._shards[-1][0]):
                    if sample.key not in removed:
                        image = next(sample.members[e] for e in sample.members if e in FORMATS.values())
                        label = sample.members["json"]
                        rows.append((len(self._shards) - 1, image.offset, image.size, label.offset, label.size))
        if not rows:
            raise LoaderError(f"{', '.join(map(str, versions))} holds no images: there is nothing to train on")
        self._rows = np.array(rows, np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> _Scene:
        shard, *places = self._rows[index].tolist()
        path, positions = self._shards[shard]
        image, label = (read_bytes(path, Member("", *place)) for place in (places[:2], places[2:]))
        record = orjson.loads(label)
        try:
            pixels = decode_rgb(image)
        except ImageError as error:
            raise LoaderError(f"{path}: image {record['key']} cannot be used: {error}: verify the version") from error
        if pixels.shape[:2] != (record["height"], record["width"]):
            raise LoaderError(f"{path}: image {record['key']} has not the size its label states: verify the version")
        objects = record["objects"]
        boxes = np.array(objects["bbox"], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = positions[np.array(objects["category"], np.int64)]
        return _Scene(pixels, boxes, labels, np.array(objects["ignore"], bool))


class _Steps(Dataset[Any]):
    """What a DataLoader worker runs. An expected error travels as a value: raised there, it would lose its sentence."""

    def __init__(self, batches: JointBatches) -> None:
        self._batches = batches

    def __getitem__(self, step: int) -> _Arrays | Exception:
        try:
            return self._batches.arrays(step)
        except (BuildError, ShardError, OSError) as error:
            return error


def _unchanged(item: Any) -> Any:
    return item


def _target(
    boxes: np.ndarray, visible: np.ndarray, labels: np.ndarray, ignore: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes after the crop as (kept, their labels, ignored): see Target."""
    sides = boxes[:, 2:] - boxes[:, :2]
    inside = (sides > 0).all(axis=1)
    good = ~ignore & (sides >= MIN_SIDE).all(axis=1) & (visible >= MIN_VISIBLE)
    return boxes[good], labels[good].astype(np.int64), boxes[inside & ~good]


@lru_cache(maxsize=8)
def _order(seed: int, stream: int, epoch: int, length: int) -> np.ndarray:
    """The order in which a stream's images are seen in an epoch."""
    return _generator(seed, stream, 0, epoch).permutation(length)


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))

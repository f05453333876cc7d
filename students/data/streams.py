"""What a training reads images from: labelled sets, and versions in the store or on the Hub, each in an order that is a
pure function of (data, seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import numpy as np

from builder.errors import BuildError, brief
from builder.rules.class_names import compare_names, listed
from builder.store.labels import parse_label
from builder.store.shards import BLOCK, NAME, Member, Sample, ShardError, ShardRecord
from builder.store.version import Version
from builder.truth.records import Truth, read_pixels
from students.tasks.base import Task
from teachers.images import ImageError, decode_rgb

_ADVICE = "verify the version, or get it again from where it came"
WINDOW = 4
"""Shards whose images are mixed, where shards are fetched one after the other."""


class LoaderError(BuildError):
    """Data that cannot be trained on. The message is one sentence for the user."""


@dataclass(frozen=True)
class Scene:
    """pixels: uint8 (H, W, 3); marks: what is said of them, as the task has it."""

    pixels: np.ndarray
    marks: Any


class Stream(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Scene: ...

    def order(self, seed: int, stream: int, epoch: int) -> np.ndarray:
        """int64 (len,): the order in which the images of stream number `stream` are seen in an epoch."""

    def look_ahead(self, seed: int, stream: int, epoch: int, place: int) -> None:
        """Begin to fetch what comes after this place of the order, where that takes its time."""


class Labelled:
    """The human images."""

    def __init__(self, truth: Truth, task: Task) -> None:
        self._images, self._classes, self._task = truth.images, len(truth.classes), task

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Scene:
        image = self._images[index]
        return Scene(read_pixels(image), self._task.human(image, self._classes))

    def order(self, seed: int, stream: int, epoch: int) -> np.ndarray:
        return _order(seed, stream, epoch, len(self))

    def look_ahead(self, seed: int, stream: int, epoch: int, place: int) -> None: ...


class Pseudo:
    """The images of some versions, found by offset in their shards. Only the offsets are held in memory.

    Of a version on the Hub a shard is fetched when its first image is asked for, or by `look_ahead` before that, so the
    order goes through a few shards at a time (WINDOW); until then the manifest's count stands for it.
    """

    def __init__(self, versions: Sequence[Version], classes: Sequence[str], task: Task) -> None:
        self._classes, self._task = len(classes), task
        self._shards: list[_Shard] = []
        self._rows: list[np.ndarray | None] = []
        for version in versions:
            shards = list(_shards(version, classes, task))
            self._shards += shards
            if shards and shards[0].is_later:
                self._rows += [None] * len(shards)
            else:
                self._rows += [
                    shard.rows(samples) for shard, (_, samples) in zip(shards, version.shards(), strict=True)
                ]
        counts = [
            shard.samples if rows is None else len(rows) for shard, rows in zip(self._shards, self._rows, strict=True)
        ]
        self._starts = np.cumsum([0, *counts])
        if not len(self):
            refs = ", ".join(version.ref for version in versions)
            raise LoaderError(f"{refs} holds no images: there is nothing to train on")
        self._streamed = any(shard.version.is_remote for shard in self._shards)
        self._last: tuple[tuple[int, int, int], np.ndarray] | None = None
        self._ahead = (0, 0)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def order(self, seed: int, stream: int, epoch: int) -> np.ndarray:
        if not self._streamed:
            return _order(seed, stream, epoch, len(self))
        if self._last is None or self._last[0] != (seed, stream, epoch):
            self._last = (seed, stream, epoch), _windowed(generator(seed, stream, 0, epoch), self._starts)
        return self._last[1]

    def look_ahead(self, seed: int, stream: int, epoch: int, place: int) -> None:
        """Begin to fetch the shards of the window after the one that this place of the order is in."""
        if not self._streamed:
            return
        shards = _shard_order(seed, stream, epoch, len(self._shards))
        ends = np.cumsum(np.diff(self._starts)[shards])[WINDOW - 1 :: WINDOW]
        window = int(np.searchsorted(ends, place, "right")) + 1
        if (epoch, window) != self._ahead:
            self._ahead = epoch, window
            wanted = (self._shards[number] for number in shards[window * WINDOW : (window + 1) * WINDOW].tolist())
            later = [shard for shard in wanted if not shard.is_here]
            if later:
                Thread(target=_fetch, args=(later,), daemon=True).start()  # a daemon: nobody waits for it at the end

    def seen(self, seed: int, stream: int, positions: int) -> list[tuple[Version, ShardRecord]]:
        """The fetched shards that the first `positions` images are in."""
        drawn = self.order(seed, stream, 0)[:positions]  # from the second epoch on: all
        touched = np.unique(np.searchsorted(self._starts, drawn, "right") - 1)
        shards = [self._shards[number] for number in touched.tolist()]
        return [(shard.version, shard.record) for shard in shards if shard.version.is_remote]

    def __getitem__(self, index: int) -> Scene:
        sample = self._sample(index)
        record = sample.record
        with sample.usable():
            pixels = decode_rgb(sample.members[0].read(), record["width"] * record["height"])
            marks = self._marks(sample)
        sample.check_size(*pixels.shape[:2])
        return Scene(pixels, marks)

    def record(self, index: int) -> Mapping[str, Any]:
        """An image's label JSON."""
        return self._sample(index).record

    def marks(self, index: int, height: int, width: int) -> Any:
        """What is said of an image of this size, which is not read."""
        sample = self._sample(index)
        sample.check_size(height, width)
        with sample.usable():
            return self._marks(sample)

    def _marks(self, sample: _Sample) -> Any:
        members = [member.read() for member in sample.members[2:]]
        return self._task.pseudo(sample.record, members, sample.shard.positions, self._classes)

    def _sample(self, index: int) -> _Sample:
        number = int(np.searchsorted(self._starts, index, "right")) - 1
        shard, rows = self._shards[number], self._rows[number]
        if rows is None:
            rows = self._rows[number] = shard.rows(shard.version.samples(shard.record))
        places = rows[index - self._starts[number]].tolist()
        files = shard.version.files(shard.record, {file for file, _, _ in places})
        return _Sample(shard, [Member(files[file], "", offset, size) for file, offset, size in places])


@dataclass(frozen=True)
class _Sample:
    """An image of a version. members: the image, its label and those that the task reads; none has its name."""

    shard: _Shard
    members: list[Member]

    @property
    def path(self) -> Path:
        """The file in which its label lies."""
        return self.members[1].file

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """Its label JSON."""
        label = self.members[1]
        return parse_label(label.read(), label.file, _key(label), self.shard.version.manifest)

    def check_size(self, height: int, width: int) -> None:
        """Raises LoaderError unless this is the size that the label states."""
        if (height, width) != (self.record["height"], self.record["width"]):
            key = self.record["key"]
            raise LoaderError(f"{self.path}: image {key} has not the size its label states: verify the version")

    @contextmanager
    def usable(self) -> Iterator[None]:
        """A block that reads the sample: what is wrong with it is a LoaderError."""
        try:
            yield
        except ImageError as error:
            key = self.record["key"]
            raise LoaderError(f"{self.path}: image {key} cannot be used: {error}: verify the version") from error
        except (KeyError, TypeError, ValueError, IndexError) as error:  # hashes may fit what is no label
            said = brief(repr(error))
            raise LoaderError(f"{self.path}: a label JSON is damaged ({said}): verify the version") from error


@dataclass(frozen=True)
class _Shard:
    """A shard of a version. positions: in the labelled set's classes, of each of the version's. members: what is read
    of a sample, beside image and label. removed: keys of samples that are to be skipped. is_later: whether it need not
    be read before an image of it is wanted."""

    version: Version
    record: ShardRecord
    positions: np.ndarray
    members: tuple[str, ...]
    removed: frozenset[str]
    is_later: bool

    @property
    def samples(self) -> int:
        """Images that are not to be skipped, as the manifest states."""
        return self.record.samples - self.record.tombstones

    @property
    def is_here(self) -> bool:
        return (self.version.folder / "data" / self.record.name).is_file()

    def rows(self, samples: Iterable[Sample]) -> np.ndarray:
        """int64 (N, M, 3): of the image, of its label and of each of `members` the file, as its number among
        Version.files, offset and size. Raises LoaderError for samples that are not those of the manifest."""
        features, rows, stored = self.version.manifest.features, [], 0
        files = self.version.files(self.record)
        path, number = files[0], {file: n for n, file in enumerate(files)}
        try:
            for sample in samples:
                stored += 1
                if [*sample.members] != features:
                    held = ", ".join(sample.members)
                    raise LoaderError(f"{path}: sample {sample.key} has {held}, not {', '.join(features)}: {_ADVICE}")
                if sample.key not in self.removed:
                    members = (sample.members[extension] for extension in (features[0], "json", *self.members))
                    rows.append([(number[member.file], member.offset, member.size) for member in members])
        except ShardError as error:
            raise LoaderError(f"{path} is damaged ({error}): {_ADVICE}") from None
        if stored != self.record.samples or (self.is_later and len(rows) != self.samples):
            stated = f"{self.record.samples} samples, {self.record.tombstones} of them to be skipped"
            raise LoaderError(f"{path} has not the {stated}, that its manifest states: {_ADVICE}")
        return np.array(rows, np.int64).reshape(-1, 2 + len(self.members), 3)


def _key(member: Member) -> str:
    """The key of the sample that has this member, from the header before it."""
    return (
        replace(member, offset=member.offset - BLOCK, size=NAME).read().rstrip(b"\0").decode("ascii").partition(".")[0]
    )


def _shards(version: Version, classes: Sequence[str], task: Task) -> Iterator[_Shard]:
    manifest = version.manifest
    ref = f"{manifest.name}@{manifest.version}"
    if manifest.kind not in task.versions:
        raise LoaderError(f"version {ref} holds {manifest.kind} labels: to learn {task.kind} takes another version")
    unknown = [name for name in manifest.classes if name not in classes]
    if unknown:
        names = compare_names(manifest.classes, classes)
        asked = ", ".join(f"{name!r} (did you mean {other!r}?)" for name, other in names.partners)
        raise LoaderError(
            f"version {ref} has class {asked or listed(map(repr, names.ours))}, unknown to the labelled set: map it in "
            "its recipe, with keep.classes.map"
        )
    positions = np.array([classes.index(name) for name in manifest.classes], np.int64)
    removed = frozenset(manifest.tombstones)
    # whether each shard says how many of its images are removed; else its images are to be counted
    counted = sum(record.tombstones for record in manifest.shards) == len(removed)
    is_later = version.is_remote and counted
    return (_Shard(version, record, positions, task.members, removed, is_later) for record in manifest.shards)


def _fetch(shards: Sequence[_Shard]) -> None:
    """In the background. What goes wrong here goes wrong again, and is told, when the shard is wanted."""
    with suppress(Exception):
        for shard in shards:
            shard.version.shard(shard.record)


@lru_cache(maxsize=8)
def _order(seed: int, stream: int, epoch: int, length: int) -> np.ndarray:
    """The order in which a stream's images are seen in an epoch."""
    return generator(seed, stream, 0, epoch).permutation(length)


@lru_cache(maxsize=8)
def _shard_order(seed: int, stream: int, epoch: int, shards: int) -> np.ndarray:
    """The order in which `_windowed` takes a stream's shards, which is the first that it draws."""
    return generator(seed, stream, 0, epoch).permutation(shards)


def _windowed(rng: np.random.Generator, starts: np.ndarray) -> np.ndarray:
    """The shards in a random order, and the images of every WINDOW of them mixed. starts: int64 (shards + 1,), the
    first image of each shard and the end of the last."""
    shards = rng.permutation(len(starts) - 1)
    windows = [shards[first : first + WINDOW] for first in range(0, len(shards), WINDOW)]
    rows = [np.concatenate([np.arange(starts[n], starts[n + 1]) for n in window]) for window in windows]
    return np.concatenate([rng.permutation(window) for window in rows])


def generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))

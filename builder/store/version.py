"""A complete version as one value: its folder, its manifest, and where its files lie."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Thread

from builder.engine import in_order
from builder.errors import BuildError, brief
from builder.store.files import sha256_file
from builder.store.index import read_index, read_keys
from builder.store.manifest import CLAIM as CLAIM
from builder.store.manifest import MANIFEST, Manifest, read_manifest
from builder.store.manifest import REPORT as REPORT
from builder.store.shards import Sample, SampleRow, ShardRecord, read_samples
from builder.store.shared.joined import joined_samples
from builder.store.shared.tars import IMAGES, ImageTars
from builder.store.trust import THREADS, Trust, Wrong, memory_of, survey
from teachers.errors import warn

DATA, LABELS, CARD, CHART = "data", "labels.parquet", "README.md", "report/classes.svg"
INDEX, OVERRIDES, LEFT_OUT = "index.parquet", "overrides.json", "left_out.csv"
DATASETS = "datasets"
"""The folder of a store's versions: DATASETS/NAME/vN."""
WORK = ".work"
"""What an unfinished build has made of its version."""


@dataclass(frozen=True, repr=False)
class Version:
    """A version that is complete, with the places of its files. One on the Hub, whose files are fetched when they are
    first needed, is a builder.hub.remote.RemoteVersion: there `shard` and `file` raise HubError.

    Whoever asks for one of its files to read gets it as the manifest says, or BuildError: it is hashed when it is first
    asked for (builder.store.trust). `place` is where it lies, for those who write it, or hash it themselves.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        trust: how its files are checked; None for one that is being made.
        tars: where the images lie of one that shares them, where that is not its own store.
    """

    folder: Path
    manifest: Manifest
    trust: Trust | None = field(default=None, kw_only=True, compare=False)
    tars: ImageTars | None = field(default=None, kw_only=True, compare=False)

    @staticmethod
    def open(folder: Path | str, *, claimed: bool = True, trust: bool = False) -> Version:
        """The version in a folder. claimed: whether the claim beside its manifest must be right. trust: take its files
        as they are, with a warning, and hash none. Raises BuildError if there is none, or its manifest is damaged."""
        folder = Path(folder)
        version = Version(folder, read_manifest(folder, claimed=claimed))
        if trust:
            warn(f"the files of {version.ref} are taken as they are: none is checked against its manifest")
        memory = memory_of(folder) if version.is_in_store else None
        return replace(version, trust=Trust(memory, hashing=not trust))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(folder={str(self.folder)!r}, ref={self.ref!r}, id={self.manifest.id[:12]!r})"

    def absolute(self) -> Version:
        """The same by absolute paths, for processes that work in other folders."""
        trust = self.trust
        if trust and trust.memory:
            trust = replace(trust, memory=trust.memory.absolute())
        return replace(self, folder=self.folder.absolute(), trust=trust)

    @property
    def dataset(self) -> str:
        """The dataset that it belongs to in its store, which may have pulled it under another name than its own."""
        return self.folder.resolve().parent.name if self.is_in_store else self.manifest.name

    @property
    def is_in_store(self) -> bool:
        """Whether its folder is that of a version of some store."""
        folder = self.folder.resolve()
        return folder.parent.parent.name == DATASETS and folder.name == self.manifest.version

    @property
    def ref(self) -> str:
        """What it is called in its store: NAME@vN."""
        return f"{self.dataset}@{self.manifest.version}"

    @property
    def is_remote(self) -> bool:
        """Whether its files are fetched when they are first needed."""
        return False

    @property
    def data(self) -> Path:
        """The folder of its shards."""
        return self.folder / DATA

    @property
    def labels(self) -> Path:
        """Every object, with what became of it and why (builder.cut.label_table)."""
        return self._place(LABELS)

    @property
    def sample_index(self) -> Path:
        """Every sample: where it lies, and the hashes of its members (builder.store.index); not in every version."""
        return self._place(INDEX)

    @property
    def card(self) -> Path:
        return self._place(CARD)

    @property
    def chart(self) -> Path:
        """The card's picture: objects of each class."""
        return self._place(CHART)

    @property
    def report(self) -> Path:
        return self._place(REPORT)

    @property
    def overrides(self) -> Path:
        """What people said of its objects, with what became of each (builder.rules.overrides); not in every version."""
        return self._place(OVERRIDES)

    @property
    def left_out(self) -> Path:
        """Images that may not be used, and why (builder.cut.left_out); not in every version."""
        return self._place(LEFT_OUT)

    def _place(self, name: str) -> Path:
        """One of its files, checked; where it would be, if the version has none."""
        return self.file(name) if self.has(name) else self.place(name)

    def place(self, name: str) -> Path:
        """Where a file of this name below the version lies, or would; unchecked."""
        return self.folder / name

    def shard(self, record: ShardRecord) -> Path:
        """The file of one of the manifest's shards. Raises BuildError if it is missing or damaged, and for a version
        that holds labels only."""
        if record.labels:
            raise BuildError(f"{self.ref} holds labels only: run `tutelage materialize {self.ref} DIR` for its tars")
        return self._checked(f"{DATA}/{record.name}", record.sha256)

    def files(self, record: ShardRecord, only: Collection[int] = ()) -> tuple[Path, ...]:
        """The files in which the members of a shard's samples lie. only: numbers of those that are to be checked, where
        not all are wanted. Raises BuildError if one is missing or damaged."""
        if not record.labels:
            return (self.shard(record),)
        labels = self._checked(f"{DATA}/{record.labels.name}", record.labels.sha256)
        tars = self.image_tars
        for number, tar in enumerate(record.images, 1):
            if (not only or number in only) and not tars.is_sound(tar, self.trust):
                raise BuildError(
                    f"{tars.path(tar.name)} is missing, or not the file of the manifest of {self.ref}: run `tutelage "
                    f"verify --repair {self.ref}`, or restore it from a copy"
                )
        return (labels, *(tars.path(tar.name) for tar in record.images))

    @property
    def image_tars(self) -> ImageTars:
        """Those of its store. Raises BuildError for a version that lies in none."""
        if self.tars:
            return self.tars
        if not self.is_in_store:
            raise BuildError(
                f"{self.folder} holds labels only, and lies in no store with its images: take it from the store it "
                "was built in, or have it written with `tutelage materialize`"
            )
        at, home = self.folder.absolute(), self.folder.resolve()
        if at.name == home.name and at.parent.parent.name == DATASETS and (at.parents[2] / IMAGES).is_dir():
            return ImageTars(at.parents[2])  # its datasets may be a link to another disk
        return ImageTars(home.parents[2])

    def rows(self, record: ShardRecord) -> list[SampleRow]:
        """What the index says of a shard's samples. Raises BuildError if it cannot be read, or says nothing of it."""
        return read_index(self.sample_index, self.manifest, self._numbers[record.name], self.ref)

    def keys(self, record: ShardRecord) -> list[str]:
        """The keys of a shard's samples in order: from the index, where there is one, or the shard's headers. Raises
        BuildError if neither can be read."""
        if not self.has(INDEX):
            return [sample.key for sample in self.samples(record)]
        return read_keys(self.sample_index, self.manifest, self._numbers[record.name], self.ref)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {record.name: number for number, record in enumerate(self.manifest.shards)}

    def samples(self, record: ShardRecord) -> Iterator[Sample]:
        """The samples of a shard in order. Raises as `files`, and ShardError for what is no shard."""
        return self._samples(record, self.files(record))

    def _samples(self, record: ShardRecord, files: tuple[Path, ...]) -> Iterator[Sample]:
        if not record.labels:
            return read_samples(files[0])
        found = [self.image_tars.find(tar.name) for tar in record.images]
        return joined_samples(self.rows(record), files[0], [tar for tar in found if tar])

    def shards(self) -> Iterator[tuple[ShardRecord, Iterator[Sample]]]:
        """All shards with their samples, in order; the files of the next ones are checked while one is in use. Raises
        as `samples`."""
        records = self.manifest.shards
        files = in_order(self.files, records, THREADS, THREADS)
        return ((record, self._samples(record, each)) for record, each in zip(records, files, strict=True))

    def check_ahead(self) -> None:
        """Begin to check the shards, so that whoever asks for one soon need not wait. What is wrong with one is told to
        those."""
        Thread(target=self._check_all, daemon=True).start()  # a daemon: nobody waits for it at the end

    def _check_all(self) -> None:
        with suppress(Exception):
            for _ in self.shards():
                pass

    def file(self, name: str) -> Path:
        """Another file by its name in `manifest.files`. Raises BuildError if it has no such file, or a damaged one."""
        if not self.has(name):
            raise BuildError(f"{self.ref} has no {name}: it has {', '.join(self.manifest.files) or 'shards only'}")
        return self._checked(name, self.manifest.files[name])

    def has(self, name: str) -> bool:
        """Whether the version has a file of this name, beside its shards."""
        return name in self.manifest.files

    def is_intact(self, name: str) -> bool:
        """Whether a file is as the manifest says, or one that the version does not have."""
        path = self.place(name)
        return not self.has(name) or (path.is_file() and sha256_file(path) == self.manifest.files[name])

    def check_files(self) -> None:
        """Raise BuildError for a version in whose folder a file is missing, of another size, or no part of it, without
        reading one."""
        shards = {f"{DATA}/{tar.name}": tar.bytes for _, tar in self.manifest.tars}
        # a report may have been written after all else (builder.versions.repair), and its manifest a moment later
        others = frozenset((MANIFEST, CLAIM, REPORT))
        if wrong := survey(self.folder, dict.fromkeys(self.manifest.files) | shards, others):
            raise self._damaged(wrong)

    def _checked(self, name: str, sha256: str) -> Path:
        """The file of this name, which has this SHA-256 (hex) if it is to be checked."""
        path = self.place(name)
        if self.trust is not None and self._surveyed and not self.trust.holds(self.folder, name, sha256):
            raise self._damaged(Wrong(f"{name} is not the file of its manifest"))
        return path

    @cached_property
    def _surveyed(self) -> bool:
        self.check_files()
        return True

    def _damaged(self, wrong: Wrong) -> BuildError:
        if wrong.stray:
            return BuildError(f"{self.folder} cannot be used, {wrong.what}: move that elsewhere")
        named = self.ref if self.is_in_store else self.folder
        advice = f"run `tutelage verify --repair {named}`, or remove its folder and build or pull it again"
        return BuildError(f"{self.folder} is damaged, {wrong.what}: {advice}")


def check_here(version: Version) -> None:
    """Raise BuildError for a version that lies elsewhere, where every file of one is needed."""
    if version.is_remote:
        raise elsewhere(version.ref)


def elsewhere(ref: str) -> BuildError:
    """For a version that is to be in the store, and lies on the Hub or in an object store."""
    where = "on the Hub" if ref.startswith("hf://") else "in an object store"
    return BuildError(f"{ref} lies {where}: run `tutelage pull {ref.removeprefix('hf://')}` first")


def check_version(value: object) -> None:
    """Raise TypeError for anything but a version, such as its name."""
    if not isinstance(value, Version):
        raise TypeError(f"{brief(repr(value))} is no Version: open it with open_version(REF, store)")

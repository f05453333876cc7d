"""A complete version as one value: its folder, its manifest, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError, brief
from builder.store.files import sha256_file
from builder.store.manifest import CLAIM as CLAIM
from builder.store.manifest import REPORT as REPORT
from builder.store.manifest import Manifest, ShardRecord, read_manifest

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

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
    """

    folder: Path
    manifest: Manifest

    @staticmethod
    def open(folder: Path | str, *, claimed: bool = True) -> Version:
        """The version in a folder. claimed: whether the claim beside its manifest must be right. Raises BuildError if
        there is none, or its manifest is damaged."""
        folder = Path(folder)
        return Version(folder, read_manifest(folder, claimed=claimed))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(folder={str(self.folder)!r}, ref={self.ref!r}, id={self.manifest.id[:12]!r})"

    @property
    def dataset(self) -> str:
        """The dataset that it belongs to in its store, which may have pulled it under another name than its own."""
        folder = self.folder.resolve()
        in_store = folder.parent.parent.name == DATASETS and folder.name == self.manifest.version
        return folder.parent.name if in_store else self.manifest.name

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
        """Where one of its files lies, or would, if the version has none."""
        return self.folder / name

    def shard(self, record: ShardRecord) -> Path:
        """The file of one of the manifest's shards."""
        return self.data / record.name

    def file(self, name: str) -> Path:
        """Another file by its name in `manifest.files`. Raises BuildError if it has no such file."""
        if not self.has(name):
            raise BuildError(f"{self.ref} has no {name}: it has {', '.join(self.manifest.files) or 'shards only'}")
        return self.folder / name

    def has(self, name: str) -> bool:
        """Whether the version has a file of this name, beside its shards."""
        return name in self.manifest.files

    def is_intact(self, name: str) -> bool:
        """Whether a file is as the manifest says, or one that the version does not have."""
        path = self._place(name)
        return not self.has(name) or (path.is_file() and sha256_file(path) == self.manifest.files[name])


def check_here(version: Version) -> None:
    """Raise BuildError for a version on the Hub, where every file of one is needed."""
    if version.is_remote:
        name = version.ref.removeprefix("hf://")
        raise BuildError(f"{version.ref} lies on the Hub: run `tutelage pull {name}` first")


def check_version(value: object) -> None:
    """Raise TypeError for anything but a version, such as its name."""
    if not isinstance(value, Version):
        raise TypeError(f"{brief(repr(value))} is no Version: open it with open_version(REF, store)")

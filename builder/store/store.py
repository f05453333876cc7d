"""Where pools, predictions, versions and tags lie on disk, and how they are named."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from builder.buckets.address import is_remote
from builder.errors import BuildError, brief
from builder.store.files import (
    canonical_json,
    digest,
    locked,
    make_folder,
    new_folder,
    read_stored,
    seal,
    sync_folder,
    unseal,
    write_file,
)
from builder.store.history import HISTORY, read_history
from builder.store.locks import sign, take_lock
from builder.store.manifest import MANIFEST, other_claim, read_manifest
from builder.store.manifest import NAME as NAME
from builder.store.manifest import VERSION as VERSION
from builder.store.shared.tars import IMAGES
from builder.store.version import CLAIM, DATASETS, Version, elsewhere

TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LATEST = "latest"
OURS = {
    "pools",
    "predictions",
    DATASETS,
    "tags",
    "reviews",
    "certify",
    "remote",
    "cache",
    IMAGES,
    "fiftyone",
    HISTORY,
    "lost+found",
}
"""What lies directly in a store; the last is of the file system, where one is mounted there."""


@dataclass(frozen=True)
class Tag:
    """A name for a version. id, manifest: the version's, and its Manifest.pin, when it was tagged, so that a tag never
    comes to mean other contents; the latter is "" in tags of older tools."""

    name: str
    version: str
    id: str
    manifest: str = ""


class Store:
    """A store: `pools/ID`, `predictions/FINGERPRINT`, `datasets/NAME/vN`, `tags/NAME/TAG` below one folder.

    Args:
        root: the folder. It is made when something is first put into it.
        trust: take versions as they are, without a look at their hashes (builder.store.trust).
    """

    def __init__(self, root: Path | str, *, trust: bool = False) -> None:
        self.root, self.trust = Path(root), trust
        self.pools = self.root / "pools"
        self.predictions = self.root / "predictions"
        self.datasets = self.root / DATASETS
        self.tagged = self.root / "tags"
        self.lock = self.root / ".lock"

    def check_root(self) -> None:
        """Raise BuildError for a folder that holds other things and nothing of a store: nothing is to be written there.
        One that is empty, absent or holds only what stores hold is a store to be."""
        try:
            names = {name for name in os.listdir(self.root) if not name.startswith(".")}
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise BuildError(f"{self.root} is a file, no store: give --store a folder") from None
        is_store = (
            names <= OURS
            or (self.pools / "sources").is_dir()
            or any((self.ids(self.pools), self.ids(self.predictions), self.names()))
        )
        if not is_store:
            other = brief(min(names - OURS))
            raise BuildError(
                f"{self.root} is no store, since it holds {other} and nothing of a store: give --store a store, or an "
                "empty or new folder"
            )

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While this is open, `gc` removes nothing: the stages of a build need what others of it have finished. Any
        number of processes may have it open; the kernel frees it when one dies."""
        make_folder(self.root)
        with open(self.lock, "ab+") as file:
            take_lock(file, shared=True, wait=True)
            sign(file)
            yield

    @staticmethod
    def ids(folder: Path) -> list[str]:
        """The full ids (64 hex digits) in `pools` or `predictions`."""
        return sorted(n for n in os.listdir(folder) if re.fullmatch("[0-9a-f]{64}", n)) if folder.is_dir() else []

    def match(self, folder: Path, prefix: str) -> list[str]:
        """The full ids in `folder` that begin with `prefix`, which is at least 4 hex digits."""
        return (
            [id for id in self.ids(folder) if id.startswith(prefix)] if re.fullmatch("[0-9a-f]{4,64}", prefix) else []
        )

    def names(self) -> list[str]:
        """The datasets of which there is a version, finished or not."""
        names = sorted(os.listdir(self.datasets)) if self.datasets.is_dir() else []
        return [name for name in names if NAME.fullmatch(name) and self.versions(name)]

    def versions(self, name: str) -> list[Path]:
        """Folders of all versions of a dataset, finished or not, oldest first."""
        folder = self.datasets / name
        names = [n for n in os.listdir(folder) if VERSION.fullmatch(n)] if folder.is_dir() else []
        return [folder / n for n in sorted(names, key=lambda n: int(n[1:]))]

    def claim(self, name: str, inputs: str, serves: Callable[[Path], bool] = lambda folder: True) -> Path:
        """The version folder for this digest of inputs: the one that was claimed for it before and still `serves`, else
        the next number.

        The claim is a file inside a folder that is renamed into place, so it is there whole or not at all.
        """
        if not NAME.fullmatch(name):
            raise BuildError(
                f"dataset name {name!r} must be 1 to 64 letters, digits, - or _, and begin with a letter or digit"
            )
        folder = self.datasets / name
        with locked(folder / ".lock", f"dataset {name}", sweep=[folder]):
            versions = self.versions(name)
            for version in versions:
                claim = version / CLAIM
                if claim.is_file() and claim.read_bytes() == inputs.encode() and serves(version):
                    return version
            for version in versions:  # whose claim is damaged: who opens it is told, instead of getting a second one
                if _is_damaged_claim(version, inputs) and serves(version):
                    return version
            known = [ref.partition("@v") for ref in read_history(self.root)]  # of removed versions, too
            used = [int(number) for dataset, _, number in known if dataset == name]
            number = max([*used, *(int(version.name[1:]) for version in versions)], default=0) + 1
            with new_folder(folder / f"v{number}") as temporary:
                (temporary / CLAIM).write_text(inputs)
            return folder / f"v{number}"

    def version(self, ref: Path | str, *, claimed: bool = True) -> Version:
        """A complete version: `NAME` or `NAME@latest` (its latest), `NAME@v3`, `NAME@TAG`, or a path to
        a folder with a manifest. claimed: whether the claim beside the manifest must be right.

        Raises BuildError, saying which versions and tags there are, if there is none such, if it is unfinished, or if
        the tag's version is gone or no longer has the id it was tagged with.
        """
        if isinstance(ref, Path) or (Path(ref) / MANIFEST).is_file():
            return Version.open(ref, claimed=claimed, trust=self.trust)
        if is_remote(ref):
            raise elsewhere(ref)
        name, _, wanted = ref.partition("@")
        versions = self.versions(name) if NAME.fullmatch(name) else []
        complete = [folder for folder in versions if (folder / MANIFEST).is_file()]
        if wanted in ("", LATEST) and complete:
            return self._known(complete[-1], claimed)
        for folder in versions:
            if folder.name == wanted and folder in complete:
                return self._known(folder, claimed)
            if folder.name == wanted:
                raise BuildError(f"no version {ref!r} yet: its build has not finished; run that build again to go on")
        tags = self.tags(name) if complete else []
        for tag in tags:
            if tag.name == wanted:
                return self._tagged(name, tag, claimed)
        if complete:
            known = [folder.name for folder in complete] + [tag.name for tag in tags]
            raise BuildError(f"no version {ref!r} in {self.root}: {name} has {', '.join(known)}")
        if versions:
            raise BuildError(f"no version {ref!r} in {self.root}: no build of {name} has finished; run it again")
        known = self.names()
        held = f"it holds {', '.join(known)}" if known else "it holds no dataset yet: run `tutelage build` first"
        raise BuildError(f"no version {ref!r} in {self.root}: {held}")

    def _known(self, folder: Path, claimed: bool) -> Version:
        """A complete version of this store. Raises BuildError if it is not what the history says was put there."""
        version, ref = Version.open(folder, claimed=claimed, trust=self.trust), f"{folder.parent.name}@{folder.name}"
        event = read_history(self.root).get(ref)
        if event and event.manifest and event.what != "removed" and not event.is_of(version.manifest):
            raise BuildError(
                f"{folder / MANIFEST} is not the one that was {event.what} as {ref}, as {self.root / HISTORY} knows: "
                "it was edited or replaced, so restore it from a copy, or remove its folder and build or pull it again"
            )
        return version

    def _tagged(self, name: str, tag: Tag, claimed: bool) -> Version:
        folder = self.datasets / name / tag.version
        change = f"tag it again with `tutelage tag --force {name}@VERSION {tag.name}`"
        if not (folder / MANIFEST).is_file():
            raise BuildError(f"tag {name}@{tag.name} stands for {tag.version}, which is no longer there: {change}")
        version = self._known(folder, claimed)
        if version.manifest.id == tag.id and tag.manifest not in ("", version.manifest.pin):
            raise BuildError(
                f"tag {name}@{tag.name} was given to {tag.version} with another manifest than it has now: {change} if "
                "that is what you mean"
            )
        if version.manifest.id != tag.id:
            raise BuildError(
                f"tag {name}@{tag.name} was given to {tag.version} with id {tag.id[:12]}, which now has "
                f"{version.manifest.id[:12]}: {change} if that is what you mean"
            )
        return version

    def tags(self, name: str) -> list[Tag]:
        """The tags of a dataset by name. Raises BuildError for a damaged one."""
        folder = self.tagged / name
        names = sorted(n for n in os.listdir(folder) if TAG.fullmatch(n)) if folder.is_dir() else []
        return [_read_tag(folder / n) for n in names]

    def tag(self, ref: str, tag: str, *, move: bool = False) -> Tag:
        """Give a version a tag. Raises BuildError for a name that no tag may have, and, unless it is to `move`, for a
        tag that another version has."""
        check_tag(tag)
        version = self.version(ref)
        folder = version.folder
        new = Tag(tag, folder.name, version.manifest.id, version.manifest.pin)
        name = folder.resolve().parent.name  # one may be pulled under another
        if folder.resolve() != (self.datasets / name / folder.name).resolve():
            raise BuildError(f"{ref} does not lie in {self.root}: only a store's own versions can be tagged")
        path = self.tagged / name / tag
        with locked(path.parent / ".lock", f"the tags of {name}", sweep=[path.parent], wait=True):
            old = _read_tag(path) if path.exists() and not move else None
            if old and old not in (new, replace(new, manifest="")):
                raise BuildError(f"tag {name}@{tag} stands for {old.version} ({old.id[:12]}): --force moves it")
            value = {"version": new.version, "id": new.id, "manifest": new.manifest}
            write_file(path, canonical_json(seal(value)))
        return new

    def untag(self, name: str, tag: str) -> None:
        """Remove a tag; the version stays. Raises BuildError if there is no such tag."""
        path = self.tagged / name / tag
        if not (NAME.fullmatch(name) and TAG.fullmatch(tag) and path.is_file()):
            known = ", ".join(t.name for t in self.tags(name)) if NAME.fullmatch(name) else ""
            raise BuildError(f"no tag {name}@{tag} in {self.root}: {f'{name} has {known}' if known else 'it has none'}")
        with locked(path.parent / ".lock", f"the tags of {name}", sweep=[path.parent], wait=True):
            path.unlink(missing_ok=True)
            sync_folder(path.parent)


def check_store(value: object) -> None:
    """Raise TypeError for anything but a store, such as its folder."""
    if not isinstance(value, Store):
        raise TypeError(f"{brief(repr(value))} is no Store: give Store(FOLDER)")


def check_tag(tag: str) -> None:
    """Raise BuildError for a tag that is no plain name, or that reads like a version number or `latest`."""
    if not TAG.fullmatch(tag) or re.fullmatch("[vV][0-9]+", tag) or tag.lower() == LATEST:
        raise BuildError(
            f"tag {tag!r} must be 1 to 64 letters, digits, . - or _, begin with a letter or digit, and be neither "
            f"a version number nor {LATEST!r}"
        )


def tags_of(tags: Sequence[Tag], version: str, id: str) -> list[str]:
    """The names of the tags that stand for this version; one whose id is another's is marked as stale."""
    return [tag.name if tag.id == id else f"{tag.name} (stale)" for tag in tags if tag.version == version]


def _is_damaged_claim(folder: Path, inputs: str) -> bool:
    """Whether a complete version is of this digest of inputs, though the claim beside its manifest says another one."""
    try:
        manifest = read_manifest(folder, claimed=False)
    except BuildError:  # unfinished, or damaged itself: whoever asks for it is told
        return False
    return digest(manifest.provenance.inputs.claimed()) == inputs and other_claim(folder, manifest) != ""


def _read_tag(path: Path) -> Tag:
    mend = "remove it and tag the version again"
    try:
        value = unseal(read_stored(path, 1 << 16), path, mend)
        return Tag(path.name, str(value["version"]), str(value["id"]), str(value.get("manifest", "")))
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise BuildError(f"{path} is damaged ({reason}): {mend}") from None

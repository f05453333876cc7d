"""Where pools, predictions and versions lie on disk, and how they are named."""

from __future__ import annotations

import os
import re
from pathlib import Path

from builder import BuildError
from builder.files import locked, new_folder
from builder.manifest import FILE

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
CLAIM = "claim"
VERSION = re.compile(r"v[1-9][0-9]*")


class Store:
    """The folders of a store: `pools/ID`, `predictions/FINGERPRINT`, `datasets/NAME/vN`."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.pools = self.root / "pools"
        self.predictions = self.root / "predictions"
        self.datasets = self.root / "datasets"

    @staticmethod
    def ids(folder: Path) -> list[str]:
        """The full ids (64 hex digits) in `pools` or `predictions`."""
        return sorted(n for n in os.listdir(folder) if re.fullmatch("[0-9a-f]{64}", n)) if folder.is_dir() else []

    def match(self, folder: Path, prefix: str) -> list[str]:
        """The full ids in `folder` that begin with `prefix`, which is at least 4 hex digits."""
        return (
            [id for id in self.ids(folder) if id.startswith(prefix)] if re.fullmatch("[0-9a-f]{4,64}", prefix) else []
        )

    def versions(self, name: str) -> list[Path]:
        """Folders of all versions of a dataset, finished or not, oldest first."""
        folder = self.datasets / name
        names = [n for n in os.listdir(folder) if VERSION.fullmatch(n)] if folder.is_dir() else []
        return [folder / n for n in sorted(names, key=lambda n: int(n[1:]))]

    def claim(self, name: str, inputs: str) -> Path:
        """The version folder for this digest of inputs: the one that was claimed for it before, else the next number.

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
                if (version / CLAIM).is_file() and (version / CLAIM).read_text() == inputs:
                    return version
            number = int(versions[-1].name[1:]) + 1 if versions else 1
            with new_folder(folder / f"v{number}") as temporary:
                (temporary / CLAIM).write_text(inputs)
            return folder / f"v{number}"

    def version(self, ref: str) -> Path:
        """The folder of a version: `NAME` (its latest complete one), `NAME@v3`, or a path to a folder with a manifest.

        Raises BuildError, saying which versions there are, if there is none such.
        """
        if (Path(ref) / FILE).is_file():
            return Path(ref)
        name, _, number = ref.partition("@")
        complete = (
            [folder for folder in self.versions(name) if (folder / FILE).is_file()] if NAME.fullmatch(name) else []
        )
        wanted = [folder for folder in complete if not number or folder.name == number]
        if wanted:
            return wanted[-1]
        if complete:
            raise BuildError(f"no version {ref!r} in {self.root}: {name} has {', '.join(f.name for f in complete)}")
        datasets = sorted(os.listdir(self.datasets)) if self.datasets.is_dir() else []
        known = f"it holds {', '.join(datasets)}" if datasets else "it holds no dataset yet: run `tutelage build` first"
        raise BuildError(f"no version {ref!r} in {self.root}: {known}")

"""What a dataset repository on the Hub is called, and what one may hear of it. The calls are builder.hub's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder import BuildError

PREFIX = "hf://"
MAIN = "main"
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,127}", re.ASCII)


class HubError(BuildError):
    """The Hub cannot be used as asked. The message is one sentence for the user."""


class Outdated(HubError):
    """Somebody else committed meanwhile."""


@dataclass(frozen=True)
class Ref:
    """A dataset repository and a tag, branch or commit of it; "" for the newest on the main branch."""

    repo: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def parse_ref(text: str) -> Ref:
    """`org/name` or `org/name@v3`, maybe after `hf://` or `hf://datasets/`. Raises HubError for any other text."""
    bare = text.removeprefix(PREFIX).removeprefix("datasets/")
    repo, at, revision = bare.partition("@")
    if not REPO.fullmatch(repo) or (at and not REVISION.fullmatch(revision)):
        raise HubError(f"{text!r} is no dataset on the Hub: write ORG/NAME, or ORG/NAME@VERSION")
    return Ref(repo, revision)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. sha256: of its contents where they are stored as a large file, else ""; blob: git's
    SHA-1 of a small file's contents (of a large one's: of its pointer)."""

    bytes: int
    sha256: str
    blob: str


@dataclass(frozen=True)
class Refs:
    """branches: name -> commit; tags: name -> object, by which alone nothing is read."""

    branches: dict[str, str]
    tags: dict[str, str]

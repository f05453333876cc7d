"""What a dataset repository on the Hub is called, and what one may hear of it. The calls are builder.hub.client's."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from builder.errors import BuildError

PREFIX = "hf://"
MAIN = "main"
REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,127}", re.ASCII)
COMMIT = re.compile("[0-9a-f]{40,64}")


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


def check_branch(name: str) -> None:
    """Raise HubError for a branch that no version may go to: one that reads like a version number would be taken for
    that version's tag, and the Hub keeps `refs/` to itself."""
    if not REVISION.fullmatch(name) or re.fullmatch("[vV][0-9]+", name) or name.startswith("refs/"):
        raise HubError(
            f"{name!r} cannot be the branch of a version: give --revision a plain name that is no version number"
        )


def endpoint() -> str | None:
    """`HF_ENDPOINT` without a slash at its end; None for the public Hub. Raises HubError, which repeats no password, if
    it is no address."""
    address = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if "@" in address:  # it would be sent in the place of the token
        raise HubError("HF_ENDPOINT holds a user or password: write https://HOST there, and the token in HF_TOKEN")
    if address and not usable:
        raise HubError(f"HF_ENDPOINT {address!r} is no address: write https://HOST there, or unset it")
    return address or None


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

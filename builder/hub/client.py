"""The Hugging Face Hub: the only place that knows huggingface_hub.

What goes wrong there becomes one sentence for the user (builder.hub.failures); how long and how much it may take:
builder.hub.line. The library's own log, which names signed addresses, is silent meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeVar

from builder.engine import Advance
from builder.errors import brief
from builder.hub import line
from builder.hub.failures import cause_of, is_closed, is_silent, is_transient, retry_after, sentence
from builder.hub.repository import COMMIT, MAIN, REVISION, HubError, Refs, RemoteFile, endpoint

Result = TypeVar("Result")

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further try of a call that huggingface_hub does not repeat by itself."""
TOGETHER = 16
"""Files that are announced and sent together; the bar moves after them."""


class Hub:
    """One dataset repository, at `HF_ENDPOINT` or the public Hub, with the token that huggingface_hub finds.

    Calls are repeated a few times where the Hub or the line fails for a moment. Every method raises HubError.
    """

    def __init__(self, repo: str) -> None:
        from huggingface_hub import HfApi

        _use_our_line()
        self.repo = repo
        self._api = HfApi(endpoint=endpoint(), library_name="tutelage")

    @property
    def address(self) -> str:
        """Of the repository's page."""
        return f"{self._api.endpoint}/datasets/{self.repo}"

    def need_token(self) -> None:
        """Raises HubError if nobody is logged in."""
        from huggingface_hub import get_token

        if not self._call(get_token):
            raise HubError("you are not logged in to the Hub: run `hf auth login`, or set HF_TOKEN")

    def private(self) -> bool | None:
        """Whether the repository is private; None if there is none that this token may see."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def look() -> bool | None:
            try:
                return bool(self._api.dataset_info(self.repo).private)
            except RepositoryNotFoundError:
                return None

        return self._call(look)

    def create(self, private: bool) -> None:
        """Make the repository; that another process just did is no error."""
        self._call(lambda: self._api.create_repo(self.repo, repo_type="dataset", private=private, exist_ok=True))

    def refs(self) -> Refs:
        """Its branches and tags; names that none of ours may have are nobody's business."""
        refs = self._call(lambda: self._api.list_repo_refs(self.repo, repo_type="dataset"))
        branches, tags = (
            {ref.name: ref.target_commit for ref in named if REVISION.fullmatch(ref.name)}
            for named in (refs.branches, refs.tags)
        )
        for commit in (*branches.values(), *tags.values()):
            self._check_commit(commit)
        return Refs(branches, tags)

    def _check_commit(self, commit: object) -> str:
        if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
            raise HubError(f"the Hub names {brief(repr(commit))} as a commit of {self.repo}: look at HF_ENDPOINT")
        return commit

    def resolve(self, revision: str) -> str:
        """The commit of a tag, branch or commit, "" for main. Raises HubError, saying what there is, for no such."""
        from huggingface_hub.errors import RevisionNotFoundError

        def look() -> str | None:
            try:
                return self._api.dataset_info(self.repo, revision=revision or MAIN).sha
            except RevisionNotFoundError:
                return None

        commit = self._call(look)
        if commit:
            return self._check_commit(commit)
        refs = self.refs()
        known = brief(", ".join([*refs.tags, *refs.branches]) or "nothing yet")
        raise HubError(f"{self.repo} has no version, tag or branch {revision or MAIN!r}: it has {known}")

    def create_branch(self, branch: str, commit: str) -> None:
        api = self._api
        self._call(
            lambda: api.create_branch(self.repo, branch=branch, revision=commit, repo_type="dataset", exist_ok=True)
        )

    def commits(self, revision: str) -> Iterator[tuple[str, str]]:
        """Commit and title, newest first."""
        commits = self._call(
            lambda: self._api.list_repo_commits(self.repo, repo_type="dataset", revision=revision), repeated=True
        )
        return ((self._check_commit(commit.commit_id), str(commit.title)) for commit in commits)

    def tree(self, revision: str) -> dict[str, RemoteFile]:
        """Every file by its path."""
        from huggingface_hub.hf_api import RepoFile

        def look() -> dict[str, RemoteFile]:
            entries = self._api.list_repo_tree(self.repo, recursive=True, revision=revision, repo_type="dataset")
            return {
                str(entry.path): RemoteFile(
                    int(entry.size), str(entry.lfs.sha256 if entry.lfs else ""), str(entry.blob_id)
                )
                for entry in entries
                if isinstance(entry, RepoFile)
            }

        return self._call(look, repeated=True)

    def download(self, commit: str, path: str, folder: Path, most: int = line.MOST_FILE) -> Path:
        """The file as `folder/path`, its length checked; `folder` is to be the caller's alone. A line that is cut is
        taken up where it broke; no hash is checked. most: bytes that it may have."""
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        def fetch() -> Path | None:
            try:
                api = self._api
                return Path(
                    api.hf_hub_download(self.repo, path, repo_type="dataset", revision=commit, local_dir=folder)
                )
            except LocalEntryNotFoundError:  # it could not be asked for
                raise
            except EntryNotFoundError:
                return None

        local = self._call(fetch, most=most)
        if local is None:
            raise HubError(f"{self.repo} at {commit[:12]} has no {path}: it is no version that Tutelage published")
        return local

    def additions(self, files: Sequence[tuple[str, Path | bytes | BinaryIO, str]]) -> list[Any]:
        """What `upload` and `commit` take, from (path in the repository, file or contents, their SHA-256, which is
        trusted)."""
        from huggingface_hub import CommitOperationAdd

        made = [CommitOperationAdd(path, file) for path, file, _ in files]
        for addition, (_, _, sha256) in zip(made, files, strict=True):
            addition.upload_info.sha256 = bytes.fromhex(sha256)
        return made

    def upload(self, additions: Sequence[Any], branch: str, advance: Advance) -> None:
        """Send the contents of all large files, which no reader sees before a commit names them. What the Hub has
        already is not sent again. advance: called with bytes."""
        for first in range(0, len(additions), TOGETHER):
            batch = additions[first : first + TOGETHER]
            self._call(
                lambda batch=batch: self._api.preupload_lfs_files(  # type: ignore[misc]
                    self.repo, batch, repo_type="dataset", revision=branch, free_memory=False
                ),
                repeated=True,
                sends=True,
            )
            advance(sum(addition.upload_info.size for addition in batch))

    def commit(
        self, additions: Sequence[Any], deletions: Sequence[str], *, title: str, branch: str, parent: str
    ) -> str:
        """One commit on top of `parent`; returns it. Raises Outdated if the branch has moved on from there."""
        from huggingface_hub import CommitOperationDelete

        operations = [*additions, *(CommitOperationDelete(path) for path in deletions)]
        made = self._call(
            lambda: self._api.create_commit(
                self.repo, operations, commit_message=title, repo_type="dataset", revision=branch, parent_commit=parent
            ),
            sends=True,
        )
        return str(made.oid)

    def tag(self, name: str, commit: str) -> bool:
        """Give a commit a tag; False if the tag is another's already, or came to be this moment."""
        from huggingface_hub.errors import HfHubHTTPError

        def make() -> bool:
            try:
                self._api.create_tag(self.repo, tag=name, revision=commit, repo_type="dataset")
            except HfHubHTTPError as error:
                if error.response.status_code == 409:
                    return False
                raise
            return True

        return self._call(make)

    def _call(
        self,
        call: Callable[[], Result],
        *,
        repeated: bool = False,
        most: int = line.MOST_FILE,
        sends: bool = False,
    ) -> Result:
        """repeated: huggingface_hub repeats the request itself where the Hub or the line fails. most, sends: see
        builder.hub.line.call."""
        for number, wait in enumerate((*WAITS, None)):
            try:
                with _quiet(), line.call(self._api.endpoint, self.repo, most=most, sends=sends):
                    return call()
            except Exception as error:
                cause = cause_of(error)
                if isinstance(cause, HubError):
                    raise cause from None
                asked = retry_after(cause)
                hope = is_closed(cause) or (is_transient(cause) and not repeated and not (number and is_silent(cause)))
                if wait is None or not hope or asked > line.LONGEST_WAIT:
                    raise sentence(self.repo, cause, asked) from None
                time.sleep(max(wait, asked))
        raise AssertionError("the last try returns or raises")


@cache
def _use_our_line() -> None:
    """Let huggingface_hub make its clients as builder.hub.line does, from now on."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import hf_request_event_hook

    heard = "HF_HUB_DOWNLOAD_TIMEOUT" in os.environ
    silence = float(constants.HF_HUB_DOWNLOAD_TIMEOUT) if heard else line.SILENCE
    set_client_factory(partial(line.client, silence, hf_request_event_hook))


_quiet_calls: list[tuple[int, bool]] = []
"""One entry for each call under way, in any thread: huggingface_hub's verbosity, and whether its bars were off."""
_quiet_lock = Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """huggingface_hub without its bars, which are not ours, and its warnings, which name signed addresses."""
    from huggingface_hub import constants
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    fixed = constants.HF_HUB_DISABLE_PROGRESS_BARS is not None  # by the user's environment
    with _quiet_lock:
        before = _quiet_calls[0] if _quiet_calls else (logging.get_verbosity(), are_progress_bars_disabled())
        _quiet_calls.append(before)
        logging.set_verbosity_error()
        if not fixed:
            disable_progress_bars()
    try:
        yield
    finally:
        with _quiet_lock:
            verbosity, hidden = _quiet_calls.pop()
            if not _quiet_calls:  # the last one puts things back
                logging.set_verbosity(verbosity)
                if not (fixed or hidden):
                    enable_progress_bars()

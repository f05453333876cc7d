"""The Hugging Face Hub: the only place that knows huggingface_hub.

What goes wrong there becomes one sentence for the user. No token is in any: sentences quote the server only with what
looks like a token taken out, and the library's own log, which names signed addresses, is silent meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

from builder.engine import Advance
from builder.errors import brief
from builder.hub.repository import MAIN, HubError, Outdated, Refs, RemoteFile, endpoint

Result = TypeVar("Result")

AGAIN = "run the same command again: what was sent or fetched is kept"
TRANSIENT = (408, 429, 500, 502, 503, 504)
WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further try of a call that huggingface_hub does not repeat by itself."""
LONGEST_WAIT = 60.0
"""Seconds: who is to wait longer is told, and may come back."""
TOGETHER = 16
"""Files that are announced and sent together; the bar moves after them."""
TOKEN = re.compile(r"(hf_|Bearer\s+)[A-Za-z0-9._-]{6,}")


class Hub:
    """One dataset repository, at `HF_ENDPOINT` or the public Hub, with the token that huggingface_hub finds.

    Calls are repeated a few times where the Hub or the line fails for a moment. Every method raises HubError.
    """

    def __init__(self, repo: str) -> None:
        from huggingface_hub import HfApi

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
        refs = self._call(lambda: self._api.list_repo_refs(self.repo, repo_type="dataset"))
        return Refs(
            {ref.name: ref.target_commit for ref in refs.branches}, {ref.name: ref.target_commit for ref in refs.tags}
        )

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
            return commit
        refs = self.refs()
        known = ", ".join([*refs.tags, *refs.branches]) or "nothing yet"
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
        return ((commit.commit_id, commit.title) for commit in commits)

    def tree(self, revision: str) -> dict[str, RemoteFile]:
        """Every file by its path."""
        from huggingface_hub.hf_api import RepoFile

        def look() -> dict[str, RemoteFile]:
            entries = self._api.list_repo_tree(self.repo, recursive=True, revision=revision, repo_type="dataset")
            return {
                entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
                for entry in entries
                if isinstance(entry, RepoFile)
            }

        return self._call(look, repeated=True)

    def download(self, commit: str, path: str, folder: Path) -> Path:
        """The file as `folder/path`, its length checked; `folder` is to be the caller's alone. A line that is cut is
        taken up where it broke; no hash is checked."""
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

        local = self._call(fetch)
        if local is None:
            raise HubError(f"{self.repo} at {commit[:12]} has no {path}: it is no version that Tutelage published")
        return local

    def additions(self, files: Sequence[tuple[str, Path, str]]) -> list[Any]:
        """What `upload` and `commit` take, from (path in the repository, file, its SHA-256, which is trusted)."""
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
            )
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

    def _call(self, call: Callable[[], Result], *, repeated: bool = False) -> Result:
        """repeated: huggingface_hub repeats the request itself where the Hub or the line fails."""
        for wait in (*WAITS, None):
            try:
                with _quiet():
                    return call()
            except Exception as error:
                cause = _cause(error)
                if cause is None:
                    raise
                asked = _retry_after(cause)
                hope = _is_closed(cause) or (_is_transient(cause) and not repeated)
                if wait is None or not hope or asked > LONGEST_WAIT:
                    raise _sentence(self.repo, cause, asked) from None
                time.sleep(max(wait, asked))
        raise AssertionError("the last try returns or raises")


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


def _cause(error: BaseException) -> Exception | None:
    """The answer of the Hub, or the failure to get one, behind an error; None for a fault of ours. Raises the error of
    the disk where that is behind it."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import OfflineModeIsEnabled, XetDownloadError

    chain: list[BaseException] = [error]
    while (link := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(link)
    for link in chain:
        if isinstance(link, (HTTPError, OfflineModeIsEnabled)):
            return link
        if isinstance(link, OSError) and link.errno is not None:
            raise link from None
    known = (ValueError, RuntimeError, OSError, XetDownloadError)
    return next((link for link in reversed(chain) if isinstance(link, known)), None)


def _status(cause: Exception) -> int:
    """Of an answer; 0 without one."""
    response = getattr(cause, "response", None)
    return int(response.status_code) if response is not None else 0


def _is_transient(cause: Exception) -> bool:
    from httpx2 import HTTPError

    status = _status(cause)
    return status in TRANSIENT if status else isinstance(cause, HTTPError)


def _is_closed(cause: Exception) -> bool:
    """Whether another thread, on a broken line, closed the client that all threads of huggingface_hub share."""
    return isinstance(cause, RuntimeError) and "client has been closed" in str(cause)


def _retry_after(cause: Exception) -> float:
    """Seconds that the Hub asks to wait; 0 if it does not say."""
    response = getattr(cause, "response", None)
    if response is None:
        return 0.0
    header = re.fullmatch("[0-9]{1,6}", response.headers.get("Retry-After", ""))
    window = re.search(r";\s*r=0\s*;\s*t=([0-9]{1,6})", response.headers.get("RateLimit", ""))  # none are left in it
    return float(header[0]) if header else float(window[1]) if window and response.status_code == 429 else 0.0


def _sentence(repo: str, cause: Exception, asked: float) -> HubError:
    from httpx2 import HTTPError
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    if isinstance(cause, OfflineModeIsEnabled):
        return HubError(f"{repo} cannot be reached, since HF_HUB_OFFLINE is set: unset it")
    if isinstance(cause, UnicodeEncodeError):  # of a header; everything else that is sent may hold any character
        return HubError("your token holds characters that no token has: run `hf auth login`, or set HF_TOKEN")
    status = _status(cause)
    if not status:
        if not isinstance(cause, HTTPError) and not _is_closed(cause):
            xet = "; or set HF_HUB_DISABLE_XET=1, if this Hub has no Xet" if isinstance(cause, ConnectionError) else ""
            return HubError(f"the Hub cannot be used for {repo} ({_plain(str(cause))}): {AGAIN}{xet}")
        return HubError(f"the Hub cannot be reached for {repo} ({type(cause).__name__}{_host(cause)}): {AGAIN}")
    message = _plain(getattr(cause, "server_message", None) or "")
    because = f" ({status}: {message})" if message else f" ({status})"
    if isinstance(cause, GatedRepoError):
        return HubError(f"{repo} is gated{because}: ask for access on its page, then log in")
    if isinstance(cause, RepositoryNotFoundError):
        return HubError(f"no dataset {repo} on the Hub that you may see{because}: check its name, or log in")
    match status:
        case 401:
            return HubError(
                f"the Hub does not take your token for {repo}{because}: run `hf auth login`, or set HF_TOKEN"
            )
        case 403:
            return HubError(f"your token may not do this to {repo}{because}: use one with write access to it")
        case 404:
            return HubError(f"{repo} does not hold what was asked for{because}: check the version's name")
        case 409:
            return HubError(f"{repo} is being changed by somebody else{because}: {AGAIN}")
        case 412:
            return Outdated(f"somebody else published to {repo} meanwhile{because}: look at it, then {AGAIN}")
        case 429:
            when = f"in {asked:.0f} s " if asked else "later "
            return HubError(f"the Hub asks to slow down for {repo}{because}: {when}{AGAIN}")
        case _ if status in TRANSIENT or status >= 500:
            return HubError(f"the Hub failed for {repo}{because}: {AGAIN}")
        case _:
            return HubError(f"the Hub refused what was asked of {repo}{because}")


def _host(cause: Exception) -> str:
    request = getattr(cause, "_request", None)
    return f" at {urlsplit(str(request.url)).hostname}" if request is not None else ""


def _plain(text: str) -> str:
    """What the server said, on one line, without anything that looks like a token."""
    from huggingface_hub import get_token

    token = get_token()
    text = text.replace(token, "…") if token else text
    return brief(TOKEN.sub("…", text))

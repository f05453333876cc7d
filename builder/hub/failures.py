"""What goes wrong between us and the Hub, as one sentence. No token is in any: they quote the server only with what
looks like a token taken out."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from builder.errors import brief
from builder.hub.line import AGAIN, wait_of
from builder.hub.repository import HubError, Outdated

TRANSIENT = (408, 429, 500, 502, 503, 504)
TOKEN = re.compile(r"(hf_|Bearer\s+)[A-Za-z0-9._-]{6,}")


def cause_of(error: Exception) -> Exception:
    """The answer of the Hub, or the failure to get one or to make sense of it, behind an error. Raises the error of the
    disk where that is behind it."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import OfflineModeIsEnabled, XetDownloadError

    chain: list[BaseException] = [error]
    while (link := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(link)
    for link in chain:
        if isinstance(link, (HTTPError, OfflineModeIsEnabled, HubError)):
            return link
        if isinstance(link, OSError) and link.errno is not None:
            raise link from None
    known = (ValueError, RuntimeError, OSError, XetDownloadError)
    return next((link for link in reversed(chain) if isinstance(link, known)), error)


def _status(cause: Exception) -> int:
    """Of an answer; 0 without one."""
    response = getattr(cause, "response", None)
    return int(response.status_code) if response is not None else 0


def is_transient(cause: Exception) -> bool:
    from httpx2 import HTTPError

    status = _status(cause)
    return status in TRANSIENT if status else isinstance(cause, HTTPError)


def is_closed(cause: Exception) -> bool:
    """Whether another thread, on a broken line, closed the client that all threads of huggingface_hub share."""
    return isinstance(cause, RuntimeError) and "client has been closed" in str(cause)


def is_silent(cause: Exception) -> bool:
    """Whether nothing came for as long as may be."""
    from httpx2 import TimeoutException

    return isinstance(cause, TimeoutException)


def retry_after(cause: Exception) -> float:
    """Seconds that the Hub asks to wait; 0 if it does not say."""
    response = getattr(cause, "response", None)
    return 0.0 if response is None else wait_of(response.status_code, response.headers)


def sentence(repo: str, cause: Exception, asked: float) -> HubError:
    from httpx2 import HTTPError
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    if isinstance(cause, OfflineModeIsEnabled):
        return HubError(f"{repo} cannot be reached, since HF_HUB_OFFLINE is set: unset it")
    if isinstance(cause, UnicodeEncodeError):  # of a header; everything else that is sent may hold any character
        return HubError("your token holds characters that no token has: run `hf auth login`, or set HF_TOKEN")
    status = _status(cause)
    if not status:
        if not isinstance(cause, HTTPError) and not is_closed(cause):
            xet = "; or set HF_HUB_DISABLE_XET=1, if this Hub has no Xet" if isinstance(cause, ConnectionError) else ""
            what = str(cause) if isinstance(cause, (RuntimeError, OSError)) else f"its answer makes no sense: {cause!r}"
            return HubError(f"the Hub cannot be used for {repo} ({_plain(what)}): {AGAIN}{xet}")
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

"""The line to the Hub: how long it may be silent or slow, how much may come over it, and who gets to see the token.

huggingface_hub waits for ever, reads whatever comes, and shows the token to the address that a list of pages names. So
its client is one of ours while a call of ours is under way, in whatever thread.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from builder.hub.repository import HubError

AGAIN = "run the same command again: what was sent or fetched is kept"
SILENCE = 60.0
"""Seconds in which nothing comes or goes, after which the Hub is taken for gone; HF_HUB_DOWNLOAD_TIMEOUT is heard."""
PATIENCE = 5
"""So many times SILENCE a call may take whatever comes; longer only one that brings SLOWEST on."""
SLOWEST = 1 << 10
"""Bytes a second."""
LONGEST_WAIT = 60.0
"""Seconds that the Hub may ask us to wait: who is to wait longer is told, and may come back."""
MOST_ANSWER = 64 << 20
"""Bytes of an answer that is no file: a list of files comes in pages of a thousand."""
MOST_REQUESTS = 5_000
"""Of one call: pages of a list of some million entries."""
MOST_FILE = 1 << 40
"""Bytes of a file of which nothing says how large it is."""


@dataclass
class Call:
    """What a call of this thread has done: requests and bytes received so far.

    most: bytes of a file that it fetches. sends: whether it brings files there, which takes its time."""

    repo: str
    most: int
    sends: bool
    since: float
    requests: int = 0
    received: int = 0

    def check(self, silence: float) -> None:
        """Raise HubError for a call that gets nowhere."""
        patience = PATIENCE * silence + self.received / SLOWEST
        if self.requests > MOST_REQUESTS:
            raise HubError(f"the Hub answers about {self.repo} in more than {MOST_REQUESTS} parts: look at HF_ENDPOINT")
        if not self.sends and (took := time.monotonic() - self.since) > patience:
            raise HubError(
                f"the Hub has brought {self.received} bytes of {self.repo} in {took:.0f} s, less than {SLOWEST} a "
                f"second: later {AGAIN}"
            )


class _Calls(threading.local):
    """The call of each thread that is in one."""

    now: Call | None = None


_calls = _Calls()
_hosts: list[tuple[str, str | None, int | None]] = []
"""The Hub of each call under way, in any thread; others may use huggingface_hub for another before and after."""


@contextmanager
def call(address: str, repo: str, *, most: int = MOST_FILE, sends: bool = False) -> Iterator[None]:
    """A call of the Hub at this address, within the limits above. The others: see Call."""
    before, _calls.now = _calls.now, Call(repo, most, sends, time.monotonic())
    host = _host(address)
    _hosts.append(host)
    try:
        yield
    finally:
        _hosts.remove(host)
        _calls.now = before


def _about() -> str:
    return f" for {_calls.now.repo}" if _calls.now else ""


def client(silence: float, hook: Callable[[Any], object]) -> Any:
    """An HTTP client for huggingface_hub. silence: seconds; hook: what huggingface_hub does with each request."""
    import httpx2

    def ask(request: Any) -> None:
        if _hosts and _host(str(request.url)) not in _hosts:
            request.headers.pop("authorization", None)
        if _hosts:  # lists of pages are asked for without a limit
            request.extensions["timeout"] = {
                name: seconds or silence for name, seconds in request.extensions.get("timeout", {}).items()
            }
        if now := _calls.now:
            now.requests += 1
            now.check(silence)

    def answer(response: Any) -> None:
        if not _hosts:
            return
        if (asked := wait_of(response.status_code, response.headers)) > LONGEST_WAIT:
            raise HubError(f"the Hub asks to slow down{_about()} ({response.status_code}): in {asked:.0f} s {AGAIN}")
        for name in ("Retry-After", "RateLimit"):
            if not asked:
                response.headers.pop(name, None)  # a date, or no number at all
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise HubError(f"the Hub packs its answers{_about()}, which nobody asked for: look at HF_ENDPOINT")
        path, gets = urlsplit(str(response.url)).path, response.request.method == "GET"
        is_answer = response.status_code >= 300 or not gets or path.startswith("/api/")
        response.stream = _Watched(response.stream, _calls.now, MOST_ANSWER if is_answer else None, silence)

    class _Watched(httpx2.SyncByteStream):
        """The body of an answer, which ends where it is too long or too slow."""

        def __init__(self, stream: Any, now: Call | None, most: int | None, silence: float) -> None:
            self._stream, self._now, self._silence = stream, now, silence
            self._most = most if most is not None else now.most if now else MOST_FILE
            self._until = time.monotonic() + PATIENCE * silence if most is not None else math.inf

        def __iter__(self) -> Iterator[bytes]:
            received = 0
            for part in self._stream:
                received += len(part)
                if received > self._most:
                    raise HubError(f"the Hub sends more{_about()} than the {self._most} bytes that may come: {AGAIN}")
                if time.monotonic() > self._until:  # also where files are sent, which may take longer as a whole
                    raise HubError(
                        f"the Hub takes more than {PATIENCE * self._silence:g} s to answer{_about()}: {AGAIN}"
                    )
                if self._now:
                    self._now.received += len(part)
                    self._now.check(self._silence)
                yield part

        def close(self) -> None:
            self._stream.close()

    return httpx2.Client(
        event_hooks={"request": [hook, ask], "response": [answer]},
        follow_redirects=True,
        timeout=silence,
        headers={"Accept-Encoding": "identity"},
    )


def _host(address: str) -> tuple[str, str | None, int | None]:
    """What an address must share with the Hub's to be shown the token."""
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def wait_of(status: int, headers: Any) -> float:
    """Seconds that an answer asks to wait; 0 if it does not say."""
    header = re.fullmatch("[0-9]{1,12}", headers.get("Retry-After", ""))
    window = re.search(r";\s*r=0\s*;\s*t=([0-9]{1,12})", headers.get("RateLimit", ""))  # none are left in it
    return float(header[0]) if header else float(window[1]) if window and status == 429 else 0.0

"""The line to an object store: tried again while it may help, and one sentence, without a secret, when it does not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from builder.buckets.address import scheme_of
from builder.errors import BuildError

Result = TypeVar("Result")

WAITS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try, up to half as long again: many readers are not to come back at once."""
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
SLOWER = ("SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "ThrottlingException")
"""Codes that S3 and its kin answer, whatever the status."""
NETWORK = frozenset(
    "HTTPClientError ResponseParserError ClientConnectionError ClientPayloadError TransportError FSTimeoutError "
    "IncompleteRead TimeoutError ConnectionError Cut".split()
)
"""Types of errors, by the names of their own and those they are derived from, behind which the line is."""


class RemoteError(BuildError):
    """An object store or web server cannot be used as asked: one sentence, without a password or signature."""


class Cut(Exception):
    """Fewer bytes came than were promised."""


class PastEnd(Exception):
    """There is nothing from that byte on."""


def repeated(uri: str, doing: str, call: Callable[[], Result]) -> Result:
    """What `call` returns, tried again while the line or the store fails for a moment.

    Args:
        uri: that it is about.
        doing: a participle, for the message: `read`, `written`, `listed`.
        call: does it, once.

    Returns:
        Its result.

    Raises:
        FileNotFoundError: there is no such object.
        PastEnd: it ends before the bytes that were asked for.
        FileExistsError: it is there already, and was to be new.
        RemoteError: all else, when there is no hope, or no further try.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except (BuildError, PastEnd, FileExistsError, KeyboardInterrupt):
            raise
        except Exception as error:
            status, code = _answer(error)
            if status == 416:
                raise PastEnd from None
            if status == 412 and code == "PreconditionFailed":
                raise FileExistsError(17, "it is there already", uri) from None
            hope = status in TRANSIENT or code in SLOWER or (not status and _is_line(error))
            if not hope and (status == 404 or (not status and isinstance(error, FileNotFoundError))):
                raise FileNotFoundError(2, "there is no such object", uri) from None
            if not hope or wait is None:
                raise _sentence(uri, doing, error, tried=len(WAITS) + 1 if hope else 1) from None
        time.sleep(wait * random.uniform(1, 1.5))
    raise AssertionError("the last try returns or raises")


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _answer(error: BaseException) -> tuple[int, str]:
    """The HTTP status and the store's own code of the answer behind an error; 0 and "" without one."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):  # botocore's
            code = str(response.get("Error", {}).get("Code", ""))
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return int(status or (code if code.isdecimal() else 0)), code
        for status in (getattr(response, "status_code", None), getattr(link, "status", None)):
            if isinstance(status, int):
                return status, ""
        if isinstance(number := getattr(link, "code", None), int) and not _is_line(error):  # gcsfs'
            return number, ""
    return 0, ""


def _is_line(error: BaseException) -> bool:
    return any(NETWORK.intersection(base.__name__ for base in type(link).__mro__) for link in _chain(error))


def _sentence(uri: str, doing: str, error: Exception, tried: int) -> RemoteError:
    status, code = _answer(error)
    names = " ".join(type(link).__name__ for link in _chain(error))
    times = f" in {tried} tries" if tried > 1 else ""
    if status in (401, 403) or "Credential" in names or code in ("ExpiredToken", "InvalidToken", "400"):
        why = " ".join(part for part in (str(status or ""), code if not code.isdecimal() else "") if part) or "no login"
        return RemoteError(f"{uri} cannot be {doing} ({why}): {_login(scheme_of(uri))}")
    if status:
        why = f"{status} {code}".strip() if code != str(status) else str(status)
    else:
        why = _in_words(names, error)
    again = "run the same command again" if tried > 1 else "correct the address, or ask who keeps that place"
    return RemoteError(f"{uri} cannot be {doing}{times} ({why}): {again}")


def _login(scheme: str) -> str:
    if scheme == "s3":
        return (
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, to a login that may do that; for a "
            "public bucket FSSPEC_S3_ANON=true"
        )
    return "log in as that store's own tools do, with a login that may do that"


def _in_words(names: str, error: Exception) -> str:
    """Of errors without an answer: their own words may quote addresses with signatures in them."""
    for part, words in (
        ("Timeout", "no answer in time"),
        ("Cut", "its answers are cut"),
        ("Payload", "its answers are cut"),
        ("Incomplete", "its answers are cut"),
        ("Streaming", "its answers are cut"),
        ("Conn", "it cannot be reached"),
        ("Permission", "it is not allowed"),
        ("Disconnected", "it hangs up"),
    ):
        if part in names:
            return words
    return type(error).__name__

"""The clients of object stores and web servers: fsspec's, made when first needed, one for each process.

Many threads may use one: it has a thread of its own, in which all its requests are under way at once. A process that
forks leaves its clients alone, since none works in the child, which makes its own.
"""

from __future__ import annotations

import os
from threading import Lock
from typing import Any

from builder.buckets.address import SCHEMES, scheme_of
from builder.buckets.line import RemoteError

CONNECTIONS = 64
"""At most to one store."""
SILENCE = 60.0
"""Seconds in which nothing comes, after which a request has failed."""
TRIES_OF_A_PART = 8
"""How often the client itself sends each part of a file before the whole file is sent again."""

_made: dict[tuple[int, str, bool, str], Any] = {}
_lock = Lock()


def _forked() -> None:
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


def system(uri: str, *, writing: bool = False) -> Any:
    """The fsspec file system that an address is of. Raises RemoteError, naming what to install, where it is missing."""
    scheme = scheme_of(uri)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    key = (os.getpid(), scheme, writing, endpoint if scheme == "s3" else "")
    if key not in _made:
        with _lock:
            if key not in _made:
                _made[key] = _new(scheme, writing)
    return _made[key]


def _new(scheme: str, writing: bool) -> Any:
    extra = SCHEMES[scheme]
    try:
        import fsspec

        fs = fsspec.filesystem(scheme, **_options(scheme, writing), skip_instance_cache=True, use_listings_cache=False)
        if not writing:
            fs.retries = 1  # of s3fs: else each of our tries would be five
        return fs
    except ImportError as error:
        more = {"gs": " gcsfs", "az": " adlfs"}.get(scheme, "")
        raise RemoteError(
            f"{scheme}:// needs {error.name or 'fsspec'}, which is not installed: pip install 'tutelage[{extra}]'{more}"
        ) from None


def _options(scheme: str, writing: bool) -> dict[str, Any]:
    if scheme == "s3":
        tries = {"total_max_attempts": TRIES_OF_A_PART if writing else 1, "mode": "standard"}
        config = {"max_pool_connections": CONNECTIONS, "retries": tries, "read_timeout": SILENCE, "connect_timeout": 10}
        return {"config_kwargs": config}
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        waits = ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE)
        return {"client_kwargs": {"timeout": waits, "trust_env": True, "headers": {"Accept-Encoding": "identity"}}}
    if scheme == "hf":
        return {"endpoint": os.environ.get("HF_ENDPOINT") or None}
    return {}

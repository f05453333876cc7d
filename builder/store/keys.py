"""The key of a sample: a safe, stable name of an image, and of its copies."""

from __future__ import annotations

import hashlib
import re

from builder.store.names import canonical

COPY = re.compile(r"-r[1-9][0-9]{0,2}$")
"""How the key of a copy ends; no other key does, since all end with twelve hexadecimal digits."""


def copy_key(key: str, number: int) -> str:
    """Of a sample's copies, counted from 1; 0 is the sample itself."""
    return f"{key}-r{number}" if number else key


def original(key: str) -> str:
    """The key of the image that a sample shows."""
    return COPY.sub("", key)


def is_copy(key: str) -> bool:
    return COPY.search(key) is not None


def make_key(name: str) -> str:
    """The shard key of an image: a slug of its relative path, `-`, 12 hex of the SHA-256 of that path (NFC).

    Only `[A-Za-z0-9_/-]`, at most 90 characters, no doubled `_` or `/` (webdataset skips members named `__x__/…`).
    """
    name = canonical(name)
    suffix = hashlib.sha256(name.encode()).hexdigest()[:12]
    stem = name.rpartition(".")[0] or name
    slug = re.sub(r"_*/[_/]*", "/", re.sub(r"[^A-Za-z0-9/-]+", "_", stem))[-77:].strip("/-_")
    return f"{slug or 'image'}-{suffix}"

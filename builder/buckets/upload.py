"""Bringing files to object stores. A store shows a file whole or not at all; the SHA-256 that it is to have lies beside
it in the store's own notes, so that who comes again knows what is complete.

Everything here is a plain function of plain values, for workers on other machines too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from builder.buckets.address import WRITTEN, scheme_of
from builder.buckets.line import Cut, RemoteError, repeated
from builder.buckets.systems import system

PART = 16 << 20
"""Bytes of a part of a file that is sent, and of memory that each file under way takes."""
NOTE = "sha256"
NOTES = {"s3": "Metadata", "gs": "metadata", "az": "metadata"}
"""What each client calls the notes of a file."""
CHECKED = {"s3": {"ChecksumAlgorithm": "SHA256"}}
"""What has a store refuse bytes that were damaged on their way."""


def check_written(uri: str) -> None:
    """Raise RemoteError for an address to which nothing can be brought."""
    if scheme_of(uri) not in WRITTEN:
        known = ", ".join(f"{scheme}://" for scheme in WRITTEN)
        raise RemoteError(f"nothing is written to {scheme_of(uri)}:// here: give an address of {known}")


def upload_file(path: Path | str, uri: str, bytes: int, sha256: str) -> bool:
    """Bring a local file to an address, unless it is there: whether it was sent. It is to have so many bytes and this
    SHA-256 (hex). Raises as `upload`, and OSError."""
    return upload(lambda: _pieces(Path(path)), uri, bytes, sha256)


def upload(pieces: Callable[[], Iterable[bytes]], uri: str, bytes: int, sha256: str) -> bool:
    """Bring what comes in pieces to an address, unless it is there already: whether it was sent.

    Args:
        pieces: gives them, from the first one, each time it is called.
        uri: where they are to lie, as one file.
        bytes, sha256: of all of them; sha256 in hex.

    Returns:
        Whether it was sent now.

    Raises:
        RemoteError: the store cannot be used, or the pieces are not what was said; it then shows nothing of them.
    """
    if has(uri, bytes, sha256):
        return False

    def send() -> None:
        _send(pieces(), uri, bytes, sha256)
        if not has(uri, bytes, sha256):
            raise Cut

    try:
        repeated(uri, "written", send)
    except FileNotFoundError:
        raise RemoteError(f"{uri} cannot be written, since there is no such bucket: make it first") from None
    return True


def has(uri: str, bytes: int, sha256: str) -> bool:
    """Whether a file is there, with this size, and was written by `upload` as one of this SHA-256 (hex). Raises
    RemoteError."""
    fs, scheme = system(uri), scheme_of(uri)

    def look() -> tuple[int, Any]:
        if scheme == "s3":
            bucket, key, _ = fs.split_path(uri)
            head = fs.call_s3("head_object", Bucket=bucket, Key=key)
            return head["ContentLength"], head.get("Metadata")
        info = fs.info(uri)
        return info["size"], info.get("metadata")

    try:
        size, notes = repeated(uri, "read", look)
    except FileNotFoundError:
        return False
    return bool(size == bytes and notes and notes.get(NOTE) == sha256)


def put_new(uri: str, data: bytes) -> bool:
    """Bring a small file to an address where there is none: False if there is one. Of two who try, one does, where the
    store can tell them apart (S3). Raises RemoteError."""
    fs, scheme = system(uri, writing=True), scheme_of(uri)
    how = {NOTES[scheme]: {NOTE: hashlib.sha256(data).hexdigest()}}
    try:
        repeated(uri, "written", lambda: fs.pipe_file(uri, data, mode="create", **how))
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise RemoteError(f"{uri} cannot be written, since there is no such bucket: make it first") from None
    return True


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def _send(pieces: Iterable[bytes], uri: str, size: int, sha256: str) -> None:
    scheme, hashed, sent = scheme_of(uri), hashlib.sha256(), 0
    notes = {NOTES[scheme]: {NOTE: sha256}, **CHECKED.get(scheme, {})}
    file = system(uri, writing=True).open(uri, "wb", block_size=PART, **notes)
    try:
        for piece in pieces:
            hashed.update(piece)
            sent += len(piece)
            file.write(piece)
        if sent != size or hashed.hexdigest() != sha256:
            raise RemoteError(f"what was to be {uri} changed while it was sent: run `tutelage verify` on its version")
        file.close()
    finally:
        if not file.closed:  # closing it would bring the half of it there
            file.discard()
            file.closed = True

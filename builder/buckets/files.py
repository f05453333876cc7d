"""Reading and listing files in object stores and on web servers: every byte from there comes through here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

from builder.buckets.address import scheme_of
from builder.buckets.line import Cut, PastEnd, RemoteError, repeated
from builder.buckets.systems import system
from builder.engine import in_order

IN_FLIGHT = 32
"""Requests under way at once, whatever the number of cores: they wait for the network."""
TAGS = ("ETag", "etag", "md5Hash", "blob_id", "Content-MD5", "Digest")
"""What stores say of contents that changes with them, the best first."""
TIMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated")
PAGE = 1 << 24
"""Bytes that are asked for at once of a file that is fetched."""


class Remote(NamedTuple):
    """A file as its store describes it. stamp: see `stamp_of`."""

    uri: str
    bytes: int
    stamp: int


def in_flight(workers: int | None) -> int:
    """Requests at once where someone asked for so many workers."""
    return IN_FLIGHT if workers is None else workers


def read_range(uri: str, offset: int, bytes: int) -> bytes:
    """So many bytes of a file from `offset` on; fewer only where the file ends. Raises FileNotFoundError, and
    RemoteError when the store cannot be used, or answers otherwise than asked."""
    if not bytes:
        return b""
    fs = system(uri)

    def get() -> Any:
        data = fs.cat_file(uri, start=offset, end=offset + bytes)
        if len(data) > bytes and offset == 0:
            return data[:bytes]  # of a server that knows no ranges
        if len(data) > bytes:
            raise RemoteError(f"{uri} comes whole where a part is asked for: its server knows no ranges, so fetch it")
        return data

    try:
        return _bytes(repeated(uri, "read", get))
    except PastEnd:
        return b""


def _bytes(data: Any) -> bytes:
    return data if isinstance(data, bytes) else bytes(data)


def read_whole(uri: str, most: int) -> bytes:
    """All of a file. Raises RemoteError for one of more than `most` bytes, and as `read_range`."""
    data = read_range(uri, 0, most + 1)
    if len(data) > most:
        raise RemoteError(f"{uri} has more than {most} bytes, which is none that can be meant: look at it")
    return data


def fetch(uri: str, size: int) -> Iterator[bytes]:
    """A file of `size` bytes, in pieces. Raises as `read_range`, and RemoteError for one that is shorter."""
    for place in range(0, size, PAGE):
        wanted = min(PAGE, size - place)

        def get(place: int = place, wanted: int = wanted) -> bytes:
            data = read_range(uri, place, wanted)
            if len(data) < wanted:
                raise Cut
            return data

        yield repeated(uri, "read", get)


def stat(uri: str) -> Remote:
    """Size and stamp of a file. Raises FileNotFoundError, also for a folder, and RemoteError."""
    fs = system(uri)

    def look() -> Any:
        if scheme_of(uri) == "s3":
            bucket, key, _ = fs.split_path(uri)
            head = fs.call_s3("head_object", Bucket=bucket, Key=key)
            return {**head, "size": head["ContentLength"], "type": "file"}
        return fs.info(uri)

    info = repeated(uri, "read", look)
    if info.get("type") == "directory":
        raise FileNotFoundError(2, "it is a folder", uri)
    return _described(uri, info)


def _described(uri: str, info: dict[str, Any]) -> Remote:
    if info.get("size") is None:
        raise RemoteError(f"{uri} has no known size, since its server states none: fetch it")
    return Remote(uri, int(info["size"]), stamp_of(info))


def stamp_of(info: dict[str, Any]) -> int:
    """64 bits, with a sign, that change with a file, in the place of the time when a local one was changed: the first
    eight bytes of the SHA-256 of its ETag, or of what else tells contents apart; else of its time. 0 where the store
    says neither: such a file is known by its size alone."""
    for name in (*TAGS, *TIMES):
        if value := str(info.get(name) or "").strip('"'):
            return int.from_bytes(hashlib.sha256(value.encode()).digest()[:8], "big", signed=True)
    return 0


def list_files(folder: str, start: str = "") -> Iterator[Remote]:
    """Every file below a folder, at any depth, in no order, as the store lists them: a page, or a folder, at a time.
    None where there is no such folder. start: what their names below it begin with. Raises RemoteError."""
    fs = system(folder)
    if scheme_of(folder) == "s3":
        yield from _s3_pages(fs, folder, start)
        return
    waiting, seen, is_page = [folder], {folder}, scheme_of(folder) in ("http", "https")
    while waiting:
        place = waiting.pop()
        try:
            entries = repeated(place, "listed", partial(fs.ls, _as_folder(place), detail=True))
        except FileNotFoundError:
            continue
        unknown = list[str]()
        for info in entries:
            uri = _uri(folder, str(info["name"]))
            if not uri.startswith(f"{place}/") or (is_page and not _is_below(uri[len(place) + 1 :])):
                continue  # the folder itself, or a link that leads out of it
            if info["type"] == "directory":
                if (below := uri.rstrip("/")) not in seen:
                    seen.add(below)
                    waiting.append(below)
            elif info.get("size") is not None and stamp_of(info):
                yield _described(uri, info)
            else:
                unknown.append(uri)
        yield from in_order(stat, unknown, IN_FLIGHT, 4 * IN_FLIGHT)


def _is_below(link: str) -> bool:
    """Whether a page's link names a file or folder below it, and not the page in another order, or a place in it."""
    return not re.search("[?#]", link) and not {"", ".", ".."}.intersection(link.removesuffix("/").split("/"))


def _as_folder(uri: str) -> str:
    return f"{uri}/" if scheme_of(uri) in ("http", "https") else uri


def _uri(like: str, name: str) -> str:
    """The address of what a listing names, which leaves out the scheme."""
    return name if "://" in name else f"{scheme_of(like)}://{name.lstrip('/')}"


def _s3_pages(fs: Any, folder: str, start: str) -> Iterator[Remote]:
    bucket, key, _ = fs.split_path(folder)
    ask = {"Bucket": bucket, "Prefix": (f"{key}/" if key else "") + start}
    while True:
        try:
            page = repeated(folder, "listed", partial(fs.call_s3, "list_objects_v2", **ask))
        except FileNotFoundError:
            raise RemoteError(f"there is no bucket {bucket}: correct {folder}") from None
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):  # what stands for an empty folder
                yield Remote(f"s3://{bucket}/{found['Key']}", int(found["Size"]), stamp_of(found))
        if not page.get("IsTruncated"):
            return
        ask["ContinuationToken"] = page["NextContinuationToken"]


def folders_in(folder: str) -> list[str]:
    """The names of the folders directly in one. Raises RemoteError."""
    fs = system(folder)
    try:
        entries = repeated(folder, "listed", lambda: fs.ls(_as_folder(folder), detail=True))
    except FileNotFoundError:
        return []
    return [str(info["name"]).rstrip("/").rpartition("/")[2] for info in entries if info["type"] == "directory"]


def exists(uri: str) -> bool:
    """Whether there is a file. Raises RemoteError."""
    try:
        stat(uri)
    except FileNotFoundError:
        return False
    return True

"""Sources in object stores and on web servers: folders, globs, lists, COCO JSON and tars, as those on a disk are.

The same files have the same names here and there, and so the same pool. A folder is listed as the store lists it; files
that a list or a COCO JSON names are asked for one by one, many at once.
"""

from __future__ import annotations

import glob
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TextIO

from builder.buckets.address import checked_address, is_remote, join, name_of, parent, scheme_of
from builder.buckets.files import IN_FLIGHT, Remote, exists, fetch, list_files, read_whole, stat
from builder.engine import in_order
from builder.errors import BuildError, brief
from builder.scan.entries import COMPRESSED, Entry, Listing, checked_text, is_image
from builder.scan.tars import remote_tar_images
from builder.store.text import as_ours, lines
from teachers.text import JSON_BYTES, codec_of, parse_json

TARS = 8
"""Tars whose headers are read at once."""


def list_remote(source: str, images: str | None, listing: Listing) -> Iterator[Entry]:
    """All images of a source at an address, in no order. Raises BuildError for one that is missing or of no known kind,
    and RemoteError."""
    address = checked_address(source)
    if glob.has_magic(source) and scheme_of(source) not in ("http", "https") and not _is_literal(address):
        return _glob(address, listing)
    kind = "/" if source.endswith("/") else address.lower().rpartition("/")[2].rpartition(".")[2]
    if images is not None and kind != "json":
        raise BuildError(f"images is the folder of a COCO JSON's files, and {source} is no COCO JSON: leave it out")
    if address.lower().endswith(COMPRESSED):
        raise BuildError(f"source {source} is compressed, and its images are byte ranges of no file: unpack it first")
    if kind in ("txt", "json", "tar") or is_image(address):
        try:
            file = stat(address)
        except FileNotFoundError:
            if kind in ("txt", "json"):
                raise BuildError(f"source {source} does not exist: correct its address") from None
        else:
            if kind == "txt":
                return _list(file, listing)
            if kind == "json":
                return _coco(address, images and checked_address(images), listing)
            return _entries([(name_of(address, parent(address)), file)], listing)
    return _entries(((name_of(file.uri, address), file) for file in list_files(address)), listing)


def _is_literal(address: str) -> bool:
    """Whether something is called just so, of what reads as a pattern, too: `image[1].jpg`."""
    bucket, _, below = address.partition("://")[2].partition("/")
    if not below or glob.has_magic(bucket):
        return False
    return exists(address) or next(iter(list_files(address)), None) is not None


def _entries(found: Iterable[tuple[str, Remote]], listing: Listing, *, named: bool = False) -> Iterator[Entry]:
    """Entries of whole files, and of the images in tars. Hidden files, what lies in hidden folders and what is called
    as no image are left out, unless someone `named` them."""
    tars: list[Entry] = []
    for name, file in found:
        if not named and any(part.startswith(".") for part in name.split("/")):
            continue
        entry = Entry(checked_text(name), file.uri, 0, file.bytes, file.stamp)
        if name.endswith(".tar") and file != _absent(file.uri):
            tars.append(entry)
        elif named or is_image(name):
            yield entry
        else:
            listing.pass_over(name)

    def read(tar: Entry) -> tuple[list[Entry], Listing]:
        inside = Listing(listing.member)
        return list(remote_tar_images(tar, inside)), inside

    for entries, inside in in_order(read, tars, TARS, 2 * TARS):
        listing.passed_over.update(inside.passed_over)
        yield from entries


def _glob(pattern: str, listing: Listing) -> Iterator[Entry]:
    """Files and tars that match, hidden ones left out; names are relative to the part of the pattern before its first
    wildcard."""
    scheme, _, rest = pattern.partition("://")
    parts = rest.split("/")
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    if not fixed:
        raise BuildError(f"{pattern} has a wildcard in the name of its bucket: write {scheme}://BUCKET/…")
    base = f"{scheme}://{'/'.join(parts[:fixed])}"
    start = re.split(r"[*?[]", parts[fixed])[0]
    found = ((name_of(file.uri, base), file) for file in list_files(base, start))
    matching = ((name, file) for name, file in found if _matches(name.split("/"), parts[fixed:]))
    yield from _entries(matching, listing)


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a name are those of a glob, in which `**` stands for any folders, or none."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_matches(name[first:], pattern[1:]) for first in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def listed(text: Iterable[str], *, remote: bool) -> Iterator[str]:
    """The paths, or the addresses, in the lines of a list."""
    for line in map(str.strip, text):
        if line and not line.startswith("#") and is_remote(line) == remote:
            yield checked_address(line) if remote else line


def remote_entries(named: Iterable[tuple[str, str]], listing: Listing) -> Iterator[Entry]:
    """The entries of files by their names and addresses. One that is not there stays, and fails when it is read."""
    yield from _entries(_looked_at(named), listing, named=True)


def _looked_at(named: Iterable[tuple[str, str]]) -> Iterator[tuple[str, Remote]]:
    def look(one: tuple[str, str]) -> tuple[str, Remote]:
        name, address = one
        try:
            return name, stat(address)
        except FileNotFoundError:
            return name, _absent(address)

    yield from in_order(look, named, IN_FLIGHT, 4 * IN_FLIGHT)


def _absent(address: str) -> Remote:
    return Remote(address, 0, 0)


def _list(file: Remote, listing: Listing) -> Iterator[Entry]:
    """One address a line, or path relative to the list's folder; see builder.scan.sources."""
    folder = parent(file.uri)
    with _text(file) as text:
        names = map(os.path.normpath, listed(lines(text, file.uri), remote=False))
        yield from remote_entries(((upwards(name), join(folder, name)) for name in names), listing)
    with _text(file) as text:
        addresses = listed(lines(text, file.uri), remote=True)
        yield from remote_entries(((name_of(address, folder), address) for address in addresses), listing)


def upwards(path: str) -> str:
    """The name of an image by its path in a list: one that leads nowhere else."""
    return path.lstrip("/").replace("../", "up/")


@contextmanager
def _text(file: Remote) -> Iterator[TextIO]:
    with tempfile.TemporaryFile() as copy:
        for piece in fetch(file.uri, file.bytes):
            copy.write(piece)
        copy.seek(0)
        codec = codec_of(copy.read(3))
        copy.seek(0)
        with as_ours():
            yield io.TextIOWrapper(copy, encoding=codec)


def _coco(address: str, images: str | None, listing: Listing) -> Iterator[Entry]:
    """The images that a COCO JSON names, all below one folder, of which builder.scan.sources.find_images knows more."""
    with as_ours():
        content = parse_json(read_whole(address, JSON_BYTES), address)
    names = coco_names(content, address)
    folder = _folder_of(names[0], address, images) if names else ""
    found = list(_looked_at((name, join(folder, name)) for name in names))
    missing = [name for name, file in found if file == _absent(file.uri)]
    if missing:
        raise BuildError(
            f"{address}: {len(missing)} of {len(names)} images, {brief(repr(missing[0]))} first, are not in {folder}: "
            "bring them there, or say where they are with --images"
        )
    return _entries(found, listing, named=True)


def _folder_of(name: str, address: str, images: str | None) -> str:
    """The folder in which a COCO JSON's first image lies; every look is a request."""
    here = parent(address)
    folders = [images] if images else [here, join(here, "images"), join(here, "data")]
    if not images and here.endswith("/annotations"):
        root, part = parent(here), address.rpartition("/")[2].rpartition(".")[0].rpartition("_")[2]
        folders += [join(root, f"images/{part}"), join(root, part), join(root, "images")]
    for folder in folders:
        if exists(join(folder, name)):
            return folder
    raise BuildError(
        f"{address}: {brief(repr(name))} is not in {' nor in '.join(folders[:2])}: say where the images are with "
        "--images, or `images` in a recipe"
    )


def coco_names(content: object, path: object) -> list[str]:
    """The `file_name`s of a COCO JSON's images. Raises BuildError for what is none."""
    records = content.get("images") if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise BuildError(f"{path} is no COCO JSON with a list of images: give another file, or a folder")
    names = []
    for number, record in enumerate(records):
        name = record.get("file_name") if isinstance(record, dict) else None
        if not isinstance(name, str) or not name or "\0" in name:
            raise BuildError(f"{path}: images[{number}] has the file_name {brief(repr(name))}: give it a path")
        names.append(name)
    return names

"""Where a pool's images lie: folders, globs, lists, COCO JSON and tars, all as byte ranges of files."""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from builder.buckets.address import is_remote, name_of
from builder.errors import BuildError, brief
from builder.scan.entries import COMPRESSED, Entry, Listing, checked_text, is_hidden, is_image, mtime_of
from builder.scan.remote import coco_names, list_remote, listed, remote_entries, upwards
from builder.scan.tars import tar_images
from builder.store.names import Folder
from builder.store.text import lines, open_text, read_json


def list_source(
    source: str, images: Path | str | None = None, store: Path | None = None, listing: Listing | None = None
) -> Iterator[Entry]:
    """All images of a source, in no order; a `store` inside a folder is no part of it. listing: how tars are listed,
    and what gets the count of what is passed over. Raises BuildError for a source that is missing or of no known kind,
    and where the listing names a member of tars and there are none.
    """
    listing = listing or Listing()
    entries = _listed(source, images, store, listing)
    return entries if listing.member is None else _of_tars(entries, source, listing.member)


def _of_tars(entries: Iterator[Entry], source: str, member: str) -> Iterator[Entry]:
    """The entries, of which some must lie in a tar."""
    found = 0
    for entry in entries:
        found += entry.offset > 0  # behind a header
        yield entry
    if not found:
        raise BuildError(f"member {brief(member)} is about images in tars, and {source} has none: leave it out")


def _listed(source: str, images: Path | str | None, store: Path | None, listing: Listing) -> Iterator[Entry]:
    path, is_address = Path(source), is_remote(source)
    if images is not None and is_address != is_remote(images):
        raise BuildError(f"images {images} and the COCO JSON {source} are not both remote: bring one to the other")
    if is_address:
        return list_remote(source, None if images is None else str(images), listing)
    images = None if images is None else Path(images)
    if images is not None and (path.is_dir() or path.suffix != ".json"):
        raise BuildError(f"images is the folder of a COCO JSON's files, and {source} is no COCO JSON: leave it out")
    if path.is_dir():
        return _folder(path, store, listing)
    if not path.exists():
        if not glob.has_magic(source):
            raise BuildError(
                f"source {source} does not exist: give a folder, a glob, a list (.txt), a COCO JSON or tars"
            )
        return _glob(source, listing)
    if path.suffix == ".txt":
        return _list(path, listing)
    if path.suffix == ".json":
        return _coco(path, images, listing)
    if path.suffix == ".tar" or is_image(path.name):
        return _files([(path.name, path)], listing)
    if path.name.lower().endswith(COMPRESSED):
        raise BuildError(f"source {source} is compressed, and its images are byte ranges of no file: unpack it first")
    raise BuildError(f"source {source} is no folder, image, list (.txt), COCO JSON (.json) or tar (.tar)")


def _files(named: Iterable[tuple[str, Path]], listing: Listing) -> Iterator[Entry]:
    """Entries of whole files, and of the images in tars."""
    for name, path in named:
        if path.suffix == ".tar" and not is_image(name) and path.is_file():
            yield from tar_images(path, name, listing)
        else:
            yield from _entry(name, str(path.absolute()), listing)


def _entry(name: str, path: str, listing: Listing) -> Iterator[Entry]:
    """The entry of a whole file. One that cannot be looked at (a broken link) stays, and fails when it is read; pipes
    and devices are passed over: nobody may be at the other end."""
    checked_text(path)
    try:
        status = os.stat(path)
        size, mtime = status.st_size, mtime_of(status)
        if not stat.S_ISREG(status.st_mode):
            listing.passed_over["pipes and devices"] += 1
            return
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BuildError(f"{brief(repr(name))} is longer than a file's name can be: correct the list") from None
        size, mtime = 0, 0
    yield Entry(checked_text(name), path, 0, size, mtime)


def _folder(folder: Path, store: Path | None, listing: Listing) -> Iterator[Entry]:
    """All images below a folder, and all images inside tars below it; hidden files and folders are left out, and no
    folder is walked twice, however links lead there."""
    seen = {(s.st_dev, s.st_ino) for s in [os.stat(store)]} if store and store.exists() else set()
    waiting = [(str(folder.absolute()), "")]
    while waiting:
        place, prefix = waiting.pop()
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        below: list[tuple[str, str]] = []
        try:
            with os.scandir(place) as inside:
                for entry in inside:  # a folder of a million images is never a list
                    if is_hidden(entry.name):
                        continue
                    if _is_folder(entry):
                        below.append((entry.path, f"{prefix}{entry.name}/"))
                    elif is_image(entry.name):
                        yield from _entry(prefix + entry.name, entry.path, listing)
                    elif entry.name.endswith(".tar"):
                        yield from _files([(prefix + entry.name, Path(entry.path))], listing)
                    else:
                        listing.pass_over(entry.name)
        except OSError as error:
            raise BuildError(f"folder {place} cannot be read ({error.strerror}): allow it, or move it away") from None
        waiting += sorted(below, reverse=True)  # which of two links to a folder names its images: the first by name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _glob(pattern: str, listing: Listing) -> Iterator[Entry]:
    """Files and tars that match; names are relative to the part of the pattern before its first wildcard."""
    parts = Path(pattern).parts
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    for match in glob.iglob(pattern, recursive=True):
        path = Path(match)
        if is_image(match) or (match.endswith(".tar") and path.is_file()):
            if not path.is_dir():
                yield from _files([(path.relative_to(base).as_posix(), path)], listing)
        elif path.is_file() and not is_hidden(match):
            listing.pass_over(match)


def _list(path: Path, listing: Listing) -> Iterator[Entry]:
    """One path or address a line, paths relative to the list's folder; empty lines and lines that begin with # are left
    out. An image's name is its line as a relative path (`../` becomes `up/`), and of an absolute one below the list's
    folder the part from there."""
    folder, here = Folder(path.parent), f"{path.absolute().parent}/"
    with open_text(path) as file:
        paths = (os.path.normpath(line).removeprefix(here) for line in listed(lines(file, path), remote=False))
        yield from _files(
            ((upwards(name), folder.find(name) or path.parent / name) for name in paths),
            listing,
        )
    with open_text(path) as file:
        addresses = listed(lines(file, path), remote=True)
        yield from remote_entries(((name_of(address), address) for address in addresses), listing)


def _coco(path: Path, images: Path | None, listing: Listing) -> Iterator[Entry]:
    names = coco_names(read_json(path), path)
    places = dict(zip(names, find_images(path, names, images), strict=True))
    return _files(places.items(), listing)


def find_images(path: Path, file_names: Sequence[str], images: Path | None = None) -> list[Path]:
    """Where the `file_names` of the label file `path` lie, all in one folder: `images` where told, else the file's own,
    else `images/` beside it, or `data/` (FiftyOne); of `annotations/instances_val.json` also `images/val/`, `val/` or
    `images/` beside `annotations/` (COCO, CVAT, Datumaro). Raises BuildError if none has all."""
    candidates = [images] if images else [path.parent, path.parent / "images", path.parent / "data"]
    if not images and path.parent.name == "annotations":
        root, part = path.parent.parent, path.stem.rpartition("_")[2]
        candidates += [root / "images" / part, root / part, root / "images"]
    missing: list[str] = []
    for folder in map(Folder, candidates):
        places = [folder.find(name) for name in file_names]
        absent = [name for name, place in zip(file_names, places, strict=True) if place is None]
        if not absent:
            return [place for place in places if place is not None]
        if not missing or len(absent) < len(missing):
            missing = absent
    where = " nor in ".join(map(str, candidates[:2]))
    raise BuildError(
        f"{path}: {len(missing)} of {len(file_names)} images, {brief(repr(missing[0]))} first, are not in {where}: "
        "say where they are with --images DIR, or `images` in a recipe"
    )

"""Where a pool's images lie: folders, globs, lists, COCO JSON and tars, all as byte ranges of files."""

from __future__ import annotations

import glob
import os
import tarfile
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import orjson

from builder import BuildError

EXTENSIONS = frozenset("jpg jpeg jpe jfif png webp bmp tif tiff gif ppm pgm pbm pnm".split())


@dataclass(frozen=True, order=True)
class Entry:
    """An image as a byte range of a file. name: path relative to the source, NFC, `/` between its parts."""

    name: str
    uri: str
    offset: int
    bytes: int
    mtime_ns: int


def read_entry(entry: Entry) -> bytes:
    """The bytes of an image. Raises OSError, also when the file is shorter than when it was scanned."""
    with open(entry.uri, "rb") as file:
        file.seek(entry.offset)
        data = file.read(entry.bytes)
    if len(data) < entry.bytes:
        raise OSError(f"{entry.uri} is shorter than when it was scanned")
    return data


def list_source(source: str, images: Path | None = None, store: Path | None = None) -> list[Entry]:
    """All images of a source, sorted by name; a `store` inside a folder is no part of it. Raises BuildError for a
    source that is missing or of no known kind, or in which two images share a name."""
    if "://" in source:
        raise BuildError(f"source {source!r} is remote: give a local folder, glob, list, COCO JSON or tars")
    path = Path(source)
    if path.is_dir():
        entries = list(_folder(path, store))
    elif not path.exists():
        if not glob.has_magic(source):
            raise BuildError(
                f"source {source} does not exist: give a folder, a glob, a list (.txt), a COCO JSON or tars"
            )
        entries = list(_glob(source))
    elif path.suffix == ".txt":
        entries = list(_list(path))
    elif path.suffix == ".json":
        entries = list(_coco(path, images))
    elif path.suffix == ".tar":
        entries = list(_tar(path, path.name))
    elif _is_image(path.name):
        entries = list(_files([(path.name, path)]))
    else:
        raise BuildError(f"source {source} is no folder, image, list (.txt), COCO JSON (.json) or tar (.tar)")
    entries.sort()
    for one, other in pairwise(entries):
        if one.name == other.name:
            raise BuildError(f"two images of {source} are named {one.name!r}: rename one of {one.uri} and {other.uri}")
    return entries


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in EXTENSIONS and not os.path.basename(name).startswith(".")


def _files(named: Iterable[tuple[str, Path]]) -> Iterator[Entry]:
    """Entries of whole files; one that cannot be looked at (a broken link) stays, and fails when it is read."""
    for name, path in named:
        if _is_image(name) or path.suffix != ".tar":
            _text(str(path.absolute()))
            try:
                stat = path.stat()
                size, mtime = stat.st_size, stat.st_mtime_ns
            except OSError:
                size, mtime = 0, 0
            yield Entry(_text(name), str(path.absolute()), 0, size, mtime)
        else:
            yield from _tar(path, name)


def _folder(folder: Path, store: Path | None) -> Iterator[Entry]:
    """All images below a folder, and all images inside tars below it; hidden files and folders are left out, and no
    folder is walked twice, however links lead there."""
    found: list[tuple[str, Path]] = []
    seen = {(s.st_dev, s.st_ino) for s in [os.stat(store)]} if store and store.exists() else set()
    for root, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders[:] = []
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(root)
        found += (
            (below.joinpath(n).relative_to(folder).as_posix(), below / n)
            for n in names
            if _is_image(n) or (n.endswith(".tar") and not n.startswith("."))
        )
    return _files(found)


def _glob(pattern: str) -> Iterator[Entry]:
    """Files and tars that match; names are relative to the part of the pattern before its first wildcard."""
    parts = Path(pattern).parts
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    matches = [Path(m) for m in glob.glob(pattern, recursive=True) if _is_image(m) or m.endswith(".tar")]
    return _files((path.relative_to(base).as_posix(), path) for path in matches if path.is_file())


def _list(path: Path) -> Iterator[Entry]:
    """One path a line, relative to the list's folder; empty lines and lines that begin with # are left out. An image's
    name is its line as a relative path (`../` becomes `up/`)."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise BuildError(f"list {path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    unique = dict.fromkeys(os.path.normpath(line) for line in lines if line and not line.startswith("#"))
    return _files((name.lstrip("/").replace("../", "up/"), path.parent / name) for name in unique)


def _coco(path: Path, images: Path | None) -> Iterator[Entry]:
    from builder.truth import find_image_root

    try:
        names = [str(image["file_name"]) for image in orjson.loads(path.read_bytes())["images"]]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise BuildError(f"{path} is no COCO JSON with images and file names ({error})") from None
    root = find_image_root(path, names, images)
    return _files((name, root / name) for name in dict.fromkeys(names))


def _tar(path: Path, name: str) -> Iterator[Entry]:
    """The images inside an uncompressed tar, as byte ranges of it."""
    try:
        with tarfile.open(path, "r:") as tar:
            mtime = path.stat().st_mtime_ns
            for member in tar:
                if member.isfile() and _is_image(member.name):
                    inside = f"{name.removesuffix('.tar')}/{member.name.removeprefix('./')}"
                    yield Entry(_text(inside), str(path.absolute()), member.offset_data, member.size, mtime)
            if not _ends_well(path, tar.offset):
                raise tarfile.ReadError(f"damaged at byte {tar.offset}")
    except (tarfile.TarError, OSError) as error:
        raise BuildError(f"{path} cannot be read as an uncompressed tar ({error})") from None


def _ends_well(path: Path, offset: int) -> bool:
    """Whether the archive ends at `offset`: tarfile takes a damaged header for the end, and images would be missing."""
    with open(path, "rb") as file:
        file.seek(offset)
        return not file.read(512).strip(b"\0")


def _text(name: str) -> str:
    """A name as NFC. Raises BuildError if its bytes are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BuildError(f"image name {os.fsencode(name)!r} is not UTF-8: rename it") from None
    return unicodedata.normalize("NFC", name)

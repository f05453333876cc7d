"""Where a pool's images lie: folders, globs, lists, COCO JSON and tars, all as byte ranges of files."""

from __future__ import annotations

import errno
import glob
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError, brief
from builder.store.names import Folder, canonical
from builder.store.text import open_text, read_json

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


def list_source(source: str, images: Path | None = None, store: Path | None = None) -> Iterator[Entry]:
    """All images of a source, in no order; a `store` inside a folder is no part of it. Raises BuildError for a source
    that is missing or of no known kind."""
    if "://" in source:
        raise BuildError(f"source {source!r} is remote: give a local folder, glob, list, COCO JSON or tars")
    path = Path(source)
    if path.is_dir():
        return _folder(path, store)
    if not path.exists():
        if not glob.has_magic(source):
            raise BuildError(
                f"source {source} does not exist: give a folder, a glob, a list (.txt), a COCO JSON or tars"
            )
        return _glob(source)
    if path.suffix == ".txt":
        return _list(path)
    if path.suffix == ".json":
        return _coco(path, images)
    if path.suffix == ".tar":
        return _tar(path, path.name)
    if _is_image(path.name):
        return _files([(path.name, path)])
    raise BuildError(f"source {source} is no folder, image, list (.txt), COCO JSON (.json) or tar (.tar)")


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in EXTENSIONS and not os.path.basename(name).startswith(".")


def _files(named: Iterable[tuple[str, Path]]) -> Iterator[Entry]:
    """Entries of whole files; one that cannot be looked at (a broken link) stays, and fails when it is read."""
    for name, path in named:
        if _is_image(name) or path.suffix != ".tar":
            yield _entry(name, str(path.absolute()))
        else:
            yield from _tar(path, name)


def _entry(name: str, path: str) -> Entry:
    _text(path)
    try:
        status = os.stat(path)
        size, mtime = status.st_size, status.st_mtime_ns
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BuildError(f"{brief(repr(name))} is longer than a file's name can be: correct the list") from None
        size, mtime = 0, 0
    return Entry(_text(name), path, 0, size, mtime)


def _folder(folder: Path, store: Path | None) -> Iterator[Entry]:
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
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        below.append((entry.path, f"{prefix}{entry.name}/"))
                    elif _is_image(entry.name):
                        yield _entry(prefix + entry.name, entry.path)
                    elif entry.name.endswith(".tar"):
                        yield from _tar(Path(entry.path), prefix + entry.name)
        except OSError as error:
            raise BuildError(f"folder {place} cannot be read ({error.strerror}): allow it, or move it away") from None
        waiting += sorted(below, reverse=True)  # which of two links to a folder names its images: the first by name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _glob(pattern: str) -> Iterator[Entry]:
    """Files and tars that match; names are relative to the part of the pattern before its first wildcard."""
    parts = Path(pattern).parts
    fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
    base = Path(*parts[:fixed])
    matches = (Path(m) for m in glob.iglob(pattern, recursive=True) if _is_image(m) or m.endswith(".tar"))
    return _files((path.relative_to(base).as_posix(), path) for path in matches if path.is_file())


def _list(path: Path) -> Iterator[Entry]:
    """One path a line, relative to the list's folder; empty lines and lines that begin with # are left out. An image's
    name is its line as a relative path (`../` becomes `up/`)."""
    folder = Folder(path.parent)
    with open_text(path) as file:
        stripped = (line.strip() for line in file)
        lines = (os.path.normpath(line) for line in stripped if line and not line.startswith("#"))
        yield from _files(
            (name.lstrip("/").replace("../", "up/"), folder.find(name) or path.parent / name) for name in lines
        )


def _coco(path: Path, images: Path | None) -> Iterator[Entry]:
    content = read_json(path)
    try:
        names = [str(image["file_name"]) for image in content["images"]]
    except (KeyError, TypeError) as error:
        raise BuildError(f"{path} is no COCO JSON with images and file names ({error})") from None
    places = dict(zip(names, find_images(path, names, images), strict=True))
    return _files(places.items())


def find_images(path: Path, file_names: Sequence[str], images: Path | None = None) -> list[Path]:
    """Where the `file_names` of the label file `path` lie, all in one folder: `images` where told, else the file's own,
    else `images/` beside it. Raises BuildError if none has all."""
    candidates = [images] if images else [path.parent, path.parent / "images"]
    missing: list[str] = []
    for folder in map(Folder, candidates):
        places = [folder.find(name) for name in file_names]
        absent = [name for name, place in zip(file_names, places, strict=True) if place is None]
        if not absent:
            return [place for place in places if place is not None]
        if not missing or len(absent) < len(missing):
            missing = absent
    where = " nor in ".join(map(str, candidates))
    raise BuildError(
        f"{path}: {len(missing)} of {len(file_names)} images, {brief(repr(missing[0]))} first, are not in {where}: "
        "say where they are with --images DIR, or `images` in a recipe"
    )


def _tar(path: Path, name: str) -> Iterator[Entry]:
    """The images inside an uncompressed tar, as byte ranges of it."""
    try:
        with tarfile.open(path, "r:") as tar:
            place, mtime = _text_of(path), path.stat().st_mtime_ns
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every member it has passed
                if member.isfile() and _is_image(member.name):
                    inside = f"{name.removesuffix('.tar')}/{member.name.removeprefix('./')}"
                    yield Entry(_text(inside), place, member.offset_data, member.size, mtime)
            if not _ends_well(path, tar.offset):
                raise tarfile.ReadError(f"damaged at byte {tar.offset}")
    except (tarfile.TarError, OSError) as error:
        raise BuildError(f"{path} cannot be read as an uncompressed tar ({error})") from None


def _text_of(path: Path) -> str:
    """The absolute path as text. Raises BuildError if its bytes are not UTF-8."""
    _text(str(path.absolute()))
    return str(path.absolute())


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
    return canonical(name)

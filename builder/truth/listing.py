"""Images and lines of text in the folders of labels, whatever their format."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.errors import BuildError
from builder.scan.entries import Listing
from builder.scan.sources import list_source
from builder.store.text import lines, open_text
from builder.truth.records import TruthError
from teachers.files import read_regular
from teachers.images import ImageError, read_header
from teachers.limits import MAX_BYTES

READERS = 4
"""Threads that read files."""


def list_images(folder: Path) -> dict[str, Path]:
    """Every image below a folder, by its name: its path relative to the folder, NFC; sorted, hidden ones left out."""
    if not folder.is_dir():
        raise TruthError(f"{folder} is no folder of images: check its path")
    paths: dict[str, Path] = {}
    listing = Listing()
    for entry in sorted(list_source(str(folder), listing=listing)):
        if entry.offset:
            continue  # inside a tar
        if entry.name in paths:
            raise TruthError(f"{paths[entry.name]} and {entry.uri} have the same name in Unicode's NFC: rename one")
        paths[entry.name] = Path(entry.uri)
    if devices := listing.passed_over["pipes and devices"]:
        raise TruthError(f"{folder} holds {devices} pipes or devices that are named like images: take them out")
    return paths


def by_stem(names: Sequence[str]) -> dict[str, list[str]]:
    """Names of images by their path without extension."""
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(name.rpartition(".")[0], []).append(name)
    return stems


def upright_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Width and height of each image, pixels, after its EXIF rotation. Raises TruthError for one that is none."""
    with ThreadPoolExecutor(READERS) as threads:
        return list(threads.map(_upright_size, paths))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without the spaces around them, empty ones left out. Raises TruthError."""
    try:
        with open_text(path) as file:
            return [stripped for line in lines(file, path) if (stripped := line.strip())]
    except BuildError as error:
        raise TruthError(str(error)) from None


def _upright_size(path: Path) -> tuple[int, int]:
    try:
        header = read_header(read_regular(path, MAX_BYTES))
    except (OSError, ImageError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise TruthError(f"labelled image {path} cannot be used: {reason}: replace it or take it out") from error
    return header.width, header.height

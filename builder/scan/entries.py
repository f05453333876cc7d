"""An image of a source as a byte range of a file, and what a listing takes for one."""

from __future__ import annotations

import builtins
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from builder.buckets.address import is_remote
from builder.buckets.files import read_range
from builder.errors import BuildError
from builder.store.names import canonical
from teachers.files import open_regular
from teachers.images import file_extensions

COMPRESSED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tgz", ".tbz2", ".txz", ".zip", ".gz", ".7z", ".rar")
"""What holds images only after it was unpacked."""
ADVICE = {
    "unpack the archives": (*COMPRESSED, ".tar"),
    "pack files, not links": ("links in tars",),
    "nothing that is no file is opened": ("pipes and devices",),
    "for HEIC: pip install pillow-heif": (".heic", ".heif", ".hif"),
    "convert the images among them": tuple(
        ".avif .jp2 .j2k .jxl .dng .cr2 .cr3 .nef .arw .orf .raf .rw2 .pef .srw .psd .exr .hdr .tga .dds .pcx .svg "
        ".dcm .nii .npy .ico .eps .raw .webm .mp4 .mov .avi .mkv".split()
    ),
}
"""What to do about files that hold images, or frames, and are not read."""
LONGEST, SHOWN = 8, 8
"""Characters of a file extension that is counted as such; extensions that are named."""


@dataclass(frozen=True, order=True)
class Entry:
    """An image as a byte range of a file. name: path relative to the source, NFC, `/` between its parts. uri: an
    absolute path, or the address of a remote file. mtime_ns: when it was changed; of a remote one its stamp
    (builder.buckets.files.stamp_of)."""

    name: str
    uri: str
    offset: int
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """How a source is listed, and what is passed over on the way.

    member: the extension of the images of samples in tars, such as `jpg` or `image.png`; `all` for every image in them;
    None to recognise it. passed_over: files, and members of tars, that are not taken for images, by what their names
    end in; it fills as entries are taken.
    """

    member: str | None = None
    passed_over: Counter[str] = field(default_factory=Counter)

    def pass_over(self, name: str) -> None:
        """Count a file that is left out."""
        self.passed_over[_ending(os.path.basename(name).lower())] += 1


def read_entry(entry: Entry) -> bytes:
    """The bytes of an image. Raises OSError, also when the file is shorter than when it was scanned, and RemoteError
    when its object store cannot be used."""
    if is_remote(entry.uri):
        return read_remote(entry.uri, entry.offset, entry.bytes)
    with open_regular(entry.uri) as file:
        file.seek(entry.offset)
        data = file.read(entry.bytes)
    if len(data) < entry.bytes:
        raise OSError(f"{entry.uri} is shorter than when it was scanned")
    return data


def read_remote(uri: str, offset: int, bytes: int) -> builtins.bytes:
    """The bytes of an image in an object store. Raises OSError for one that is gone, or of another size by now, and
    RemoteError when the store cannot be used."""
    whole = offset == 0  # a tar's members start behind a header
    data = read_range(uri, offset, bytes + whole)
    if len(data) != bytes:
        raise OSError(f"{uri} is {'longer' if len(data) > bytes else 'shorter'} than when it was scanned")
    return data


def mtime_of(status: os.stat_result) -> int:
    """When a file was changed, in ns, as 64 bits can hold it: those of after the year 2262 come round again."""
    return (status.st_mtime_ns + 2**63) % 2**64 - 2**63


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden ones are not."""
    return name.rpartition(".")[2].lower() in file_extensions() and not is_hidden(name)


def is_hidden(name: str) -> bool:
    return os.path.basename(name).startswith(".")


def checked_text(name: str) -> str:
    """A name as NFC. Raises BuildError if its bytes are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BuildError(f"image name {os.fsencode(name)!r} is not UTF-8: rename it") from None
    return canonical(name)


def passed_over_text(passed_over: Mapping[str, int]) -> str:
    """How many files were passed over, by what their names end in, and what makes images of them: one line."""
    most = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{ending} {count}" for ending, count in most[:SHOWN]) + (", …" if len(most) > SHOWN else "")
    advice = [what for what, endings in ADVICE.items() if any(passed_over.get(ending) for ending in endings)]
    total = sum(passed_over.values())
    text = f"{total} file{'s' if total > 1 else ''} of other kinds: {listed}"
    return f"{text} ({'; '.join(advice)})" if advice else text


def hides_images(passed_over: Mapping[str, int]) -> bool:
    """Whether images may be among the files that were passed over."""
    return any(passed_over.get(ending) for endings in ADVICE.values() for ending in endings)


def _ending(name: str) -> str:
    for ending in COMPRESSED:
        if name.endswith(ending):
            return ending
    stem, dot, extension = name.rpartition(".")
    return f".{extension}" if stem and dot and len(extension) <= LONGEST and extension.isalnum() else "other names"

"""XML of other tools, by itself or in a ZIP: streamed, without a DOCTYPE (so that there are no entities, and nothing
else is fetched), and within limits."""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from builder.errors import BuildError, brief
from teachers.files import open_regular

XML_BYTES = 1 << 30
"""Bytes of an XML file, unpacked: a CVAT export of a million images has fewer."""
TREE_BYTES = 16 << 20
"""Bytes of an XML file that is read whole: the labels of one image."""
XML_PIECE = 4 << 20
"""Bytes of one tag, comment or text: an outline of 200,000 points has them."""
XML_ELEMENTS = 20_000_000
"""Elements of an XML file: as many are read in a quarter of a minute, and half a million images of CVAT have them."""
XML_DEPTH = 100
"""Elements in one another: CVAT and Pascal VOC have at most 6."""
ZIP_DIRECTORY = 256 << 20
"""Bytes of a ZIP's list of members: that of a million has half of them."""
ZIP_HEAD = b"PK\x03\x04"
"""What a ZIP begins with."""
CHUNK = 1 << 16
"""Bytes of XML that are parsed at a time."""
_END, _END_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_LOCATOR = 20
"""A ZIP's two records of where its list lies (APPNOTE.TXT 4.3.16 and 4.3.14), and the bytes between them (4.3.15)."""


def xml_tree(path: Path) -> Element:
    """The root of an XML file. Raises BuildError for one that is missing, broken or above the limits."""
    builder = TreeBuilder()
    try:
        with open_regular(path) as file:
            for _ in parse_xml(file, path, builder.start, builder.end, builder.data, TREE_BYTES):
                pass
    except OSError as error:
        raise BuildError(f"{path} cannot be read ({error.strerror}): check its path") from None
    return builder.close()


def parse_xml(
    file: IO[bytes],
    path: Path,
    start: Callable[[str, dict[str, str]], object],
    end: Callable[[str], object],
    text: Callable[[str], object],
    most: int = XML_BYTES,
) -> Iterator[None]:
    """Call `start`, `end` and `text` with what comes in an XML file, and yield after each CHUNK of it.

    Raises BuildError, naming `path`, for what is not well formed, a DOCTYPE, an encoding that is not known, and above
    the limits: `most` bytes, XML_PIECE, XML_DEPTH and XML_ELEMENTS.
    """
    limits = _Limits(path, start, end, text)
    taken = 0
    try:
        while chunk := file.read(CHUNK):
            taken += len(chunk)
            if taken > most:
                raise BuildError(f"{path} has more than {most >> 20} MiB of XML, the most that is read: divide it")
            limits.feed(chunk)
            yield
        limits.parser.Parse(b"", True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the latter two: of its encoding
        raise BuildError(f"{path} is not XML that can be read ({error}): save it as UTF-8, and whole") from None
    yield


class _Limits:
    """expat, which alone tells of a DOCTYPE before what is in it can do harm, and its handlers."""

    def __init__(
        self,
        path: Path,
        start: Callable[[str, dict[str, str]], object],
        end: Callable[[str], object],
        text: Callable[[str], object],
    ) -> None:
        self._path, self._start, self._end, self._text = path, start, end, text
        self._depth = self._piece = self._characters = self._elements = 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._on_doctype
        self.parser.StartElementHandler = self._on_start
        self.parser.EndElementHandler = self._on_end
        self.parser.CharacterDataHandler = self._on_text

    def feed(self, chunk: bytes) -> None:
        self._piece += len(chunk)
        self.parser.Parse(chunk, False)
        self._check(self._piece)

    def _check(self, size: int) -> None:
        if size > XML_PIECE:
            raise BuildError(
                f"{self._path} has a tag, comment or text of more than {XML_PIECE >> 20} MiB: export it again"
            )

    def _on_doctype(self, *declaration: object) -> None:
        raise BuildError(f"{self._path} has a DOCTYPE, which no tool writes that is read here: export it again")

    def _on_start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        self._piece = self._characters = 0
        if self._depth > XML_DEPTH:
            raise BuildError(f"{self._path} is deeper than {XML_DEPTH} elements in one another: export it again")
        if self._elements > XML_ELEMENTS:
            raise BuildError(f"{self._path} has more than {XML_ELEMENTS:,} elements: divide it")
        self._start(tag, attributes)

    def _on_end(self, tag: str) -> None:
        self._depth -= 1
        self._piece = self._characters = 0
        self._end(tag)

    def _on_text(self, text: str) -> None:
        self._piece = 0
        self._characters += len(text)
        self._check(self._characters)
        self._text(text)


@contextmanager
def open_packed(path: Path, name: str) -> Iterator[IO[bytes]]:
    """The only member of a ZIP that is called `name`, in whatever folder, or the file itself where it is no ZIP.
    Nothing is unpacked to the disk. Raises BuildError for a ZIP that is damaged, encrypted, holds none or two of the
    name, or whose list of members is above ZIP_DIRECTORY."""
    try:
        with open_regular(path) as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                if file.read(len(ZIP_HEAD)) == ZIP_HEAD:
                    raise zipfile.BadZipFile("it is cut, or has no list of members")
                file.seek(0)
                yield file
                return
            if (size := _directory(file)) > ZIP_DIRECTORY:
                raise BuildError(f"{path} has a list of members of {size:,} bytes: give the {name} in it")
            with zipfile.ZipFile(file) as archive:
                members = [member for member in archive.infolist() if PurePosixPath(member.filename).name == name]
                if len(members) != 1:
                    raise BuildError(f"{path} holds {len(members)} files {name}: export one task")
                if members[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise BuildError(f"{path} is packed in a way that is not read: give the {name} in it")
                with archive.open(members[0]) as inside:
                    yield inside
    except OSError as error:
        raise BuildError(f"{path} cannot be read ({error.strerror or error}): check its path") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise BuildError(f"{path} is a damaged ZIP ({brief(error)}): export the task again") from None
    except RuntimeError as error:  # encrypted
        raise BuildError(f"{path} cannot be unpacked ({brief(error)}): give the {name} in it") from None


def _directory(file: IO[bytes]) -> int:
    """Bytes of a ZIP's list of members, which zipfile would read whole, as its end says."""
    length = file.seek(0, os.SEEK_END)
    begins = max(0, length - _END.size - (1 << 16))
    file.seek(begins)
    tail, sizes = file.read(), [0]
    for match in re.finditer(rb"PK\x05\x06", tail):
        if match.start() + _END.size <= len(tail):
            sizes.append(int(_END.unpack_from(tail, match.start())[5]))
        place = begins + match.start() - _LOCATOR - _END_64.size  # where zipfile looks for the larger record
        if place >= 0:
            file.seek(place)
            record = file.read(_END_64.size)
            sizes += [int(_END_64.unpack(record)[8])] if record.startswith(b"PK\6\6") else []
    return max(sizes)

"""What is done to a valid file: a table of faults for each of its formats, and one for files of any."""

from __future__ import annotations

import copy
import io
import json
import os
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

LINES = ("txt", "names", "data", "csv")
"""What files of lines end in."""
Change = Callable[[Path], None]
"""What does it, to the file at a path."""
DIGITS = "9" * 5000
RAW = {"NaN": "NaN", "Infinity": "-Infinity", "5,000 digits": DIGITS, "1e999": "1e999", "half a pair": '"\\ud83d"'}
"""Values of JSON that Python's own writer has no name for, by what the fault is called."""
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "-1": -1,
    "1e308": 1e308,
    "2^80": 2**80,
    "half": 0.5,
    "empty text": "",
    "list": [],
    "mapping": {},
    "lists": [[1]],
    "text of a number": "7",
    "long text": "x" * 100_000,
    "ESC": "\x1b[2J\u202e",
    "outside": "../../../../etc/passwd",
    "absolute": "/etc/hostname",
    "NUL": "a\0b",
    "deep": json.loads("[" * 200 + "]" * 200),
}
BOMB = "\n".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True))
YAML = {
    "bomb of aliases": f"a: &a [x, x, x, x, x, x, x, x, x, x]\n{BOMB}\n",
    "bomb of merges": "a: &a {x: 1}\n" + re.sub(r"\[(.*?)\]", r"{<<: [\1]}", BOMB) + "\n",
    "no such date": "x: 2026-02-30\n",
    "5,000 digits": f"x: {DIGITS}\n",
    "3,000 brackets": "x: " + "[" * 3000 + "\n",
    "a tag": "x: !!python/object/apply:os.system [true]\n",
    "a key twice": "names: [a, b]\nnames: [b, a]\n",
    "100,000 names": "names: [" + ", ".join(f"c{n}" for n in range(100_000)) + "]\n",
    "a tab": "x:\n\ty: 1\n",
    "itself": "x: &x [*x]\n",
    "half a pair": 'x: "\\ud83d"\n',
    "0x_": "x: 0x_\n",
}
CELLS = (
    "",
    "nan",
    "inf",
    "-1",
    "1e308",
    DIGITS,
    "x",
    "0x1",
    "1_0",
    "a\0b",
    "\x1b[2J",
    "=1+1",
    "y" * 200_000,
)
MEANT_OF_ROWS = ("cells more", "a line less")
MEANT_OF_LISTS = ("''", "lacks", "a line less")
"""Faults of rows and of lists that somebody may have meant: a polygon, and an object or an image less."""
NAMES = ("../../../../etc/passwd", "/etc/hostname", "a\0b", "\x1b[2J", "y" * 200_000, "no such", ".", "")


def changes(file: str) -> Iterator[tuple[str, Change]]:
    """The faults of a file of this name, each by its name."""
    suffix = file.rpartition(".")[2]
    rows = suffix == "txt" and "image_" in file
    for name, change in _of_any(suffix in ("png", "jpg", "zip")):
        # Rows and lines have no end that could be missing, and an image without rows has no objects
        if not (name in ("empty", "half", "gone") and (rows or (name == "half" and suffix in LINES))):
            yield name, change
    match suffix:
        case "yaml":
            for name, text in YAML.items():
                yield name, _around(text)
        case "xml":
            yield from _of_xml()
        case "zip":
            yield from _of_zip()
        case "png":
            yield from _of_png()
        case "csv":
            yield from _of_cells(",")
        case _ if file.endswith(("obj.names", "classes.txt")):
            yield "a name less", _bytes(lambda data: data.split(b"\n", 1)[1])
            yield "a name twice", _bytes(lambda data: data.split(b"\n", 1)[0] + b"\n" + data)
            yield "an empty line", _bytes(lambda data: b"\n" + data)
            yield "a million names", _bytes(lambda data: b"".join(b"c%d\n" % n for n in range(1_000_000)))
        case _ if suffix in LINES:
            for name, change in _of_cells(" "):
                if not any(part in name for part in (MEANT_OF_ROWS if rows else MEANT_OF_LISTS)):
                    yield name, change


def _of_any(binary: bool) -> Iterator[tuple[str, Change]]:
    def replaced(make: Callable[[Path], object]) -> Change:
        def change(path: Path) -> None:
            path.unlink()
            make(path)

        return change

    def sparse(path: Path) -> None:
        with open(path, "wb") as file:
            file.truncate(6 << 30)

    yield "empty", replaced(Path.touch)
    yield "half", _bytes(lambda data: data[: len(data) // 2])
    yield "a byte is left", _bytes(lambda data: data[:1])
    yield "NUL inside", _bytes(lambda data: data[: len(data) // 2] + b"\0" + data[len(data) // 2 :])
    yield "no UTF-8", _bytes(lambda data: data[: len(data) // 2] + b"\xff\xfe" + data[len(data) // 2 :])
    yield "NULs", _bytes(lambda data: bytes(1 << 20))
    yield "6 GiB of holes", replaced(sparse)
    yield "a pipe", replaced(os.mkfifo)
    yield "a folder", replaced(Path.mkdir)
    yield "gone", replaced(lambda path: None)
    for name, target in {
        "itself": "",
        "nowhere": "nowhere",
        "a device": "/dev/zero",
        "a secret": "/etc/passwd",
    }.items():
        yield f"a link to {name}", replaced(lambda path, to=target: path.symlink_to(to or path.name))  # type: ignore[misc]
    yield "a link to a pipe", replaced(lambda path: (os.mkfifo(f"{path}.pipe"), path.symlink_to(f"{path.name}.pipe")))
    if not binary:
        yield "UTF-16", _bytes(lambda data: data.decode().encode("utf-16"))
        yield "a mark in front", _bytes(lambda data: b"\xef\xbb\xbf" + data)
        yield "lines of Windows", _bytes(lambda data: data.replace(b"\n", b"\r\n"))
        yield "brackets", _bytes(lambda data: b"[" * 1_000_000)
        yield "braces", _bytes(lambda data: b'{"a":' * 500_000)
        yield "one long line", _bytes(lambda data: b"0.5 " * 8_000_000)


def _bytes(change: Callable[[bytes], bytes]) -> Change:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


def _around(text: str) -> Change:
    """A text before that of the file."""
    return _bytes(lambda data: text.encode() + data)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of a JSON value and of all in it; of a list, those of its first."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, each in inside:
        yield from _places(each, (*path, key))


def of_content(file: Path) -> Iterator[tuple[str, Change]]:
    """The faults of a JSON file that depend on what is in it: each place without its value, and with each other."""
    whole = json.loads(file.read_text())
    for place in list(_places(whole)):
        named = ".".join(map(str, place)) or "all"
        if place and isinstance(place[-1], str):
            yield f"{named} is missing", _put(place, gone=True)
        for what, value in VALUES.items():
            yield f"{named} is {what}", _put(place, value)
        for what, text in RAW.items():
            yield f"{named} is {what}", _put(place, "@RAW@", text)
    yield "a key twice", _bytes(lambda data: re.sub(rb'"(\w+)"', rb'"\1": null, "\1"', data, count=1))
    yield "a comma more", _bytes(lambda data: data[:-1] + b"," + data[-1:])
    yield "bomb of lists", _bytes(lambda data: b"[" + b"[]," * (60 << 20) + b"[]]")


def _put(place: tuple[Any, ...], value: Any = None, raw: str = "", *, gone: bool = False) -> Change:
    def change(path: Path) -> None:
        content = {"": copy.deepcopy(json.loads(path.read_text()))}
        inside: Any = content
        keys = ("", *place)
        for key in keys[:-1]:
            inside = inside[key]
        if gone:
            del inside[keys[-1]]
        else:
            inside[keys[-1]] = value
        path.write_text(json.dumps(content[""]).replace('"@RAW@"', raw))

    return change


def _of_cells(separator: str) -> Iterator[tuple[str, Change]]:
    """Of lines of cells: the first, and the second, with another cell at each place, one less, or one more."""

    def put(line: int, place: int, cell: str | None) -> Change:
        def change(path: Path) -> None:
            rows = [row.split(separator) for row in path.read_text().splitlines()]
            row = rows[min(line, len(rows) - 1)]
            at = min(place, len(row) - 1)
            row[at : at + 1] = [] if cell is None else [cell]
            path.write_text("\n".join(separator.join(row) for row in rows) + "\n")

        return change

    for line in (0, 1):
        for place in (0, 1, 99):
            for n, cell in enumerate(CELLS):
                yield f"line {line + 1}, cell {place + 1} is {cell[:8]!r} ({n})", put(line, place, cell)
            yield f"line {line + 1} lacks cell {place + 1}", put(line, place, None)
        for n, name in enumerate(NAMES):
            yield f"line {line + 1} is {name[:8]!r} ({n})", put(line, 0, name)
        yield f"line {line + 1} has a quote", put(line, 0, '"a')
        yield f"line {line + 1} has cells more", put(line, 99, separator.join(["0.5"] * 7))
    yield "lines twice", _bytes(lambda data: data + data)
    yield "a line less", _bytes(lambda data: b"".join(data.splitlines(keepends=True)[:-1]))
    yield "a row of a million", _around(f"0 {'0.5 ' * 1_000_000}\n")


def _of_xml() -> Iterator[tuple[str, Change]]:
    head = '<?xml version="1.0" encoding="{}"?>'
    body = re.compile(rb"^<\?xml.*?\?>")
    for encoding in ("utf-7", "no-such", "utf-32", "zlib", "idna"):
        yield f"encoding {encoding}", _bytes(lambda data, e=encoding: head.format(e).encode() + body.sub(b"", data))  # type: ignore[misc]
    inner = '<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for name, doctype in {
        "bomb": f"[{inner}]",
        "secret": '[<!ENTITY i SYSTEM "file:///etc/passwd">]',
        "remote": 'SYSTEM "http://localhost:1/x"',
    }.items():
        yield (
            f"DOCTYPE: {name}",
            _bytes(lambda data, d=doctype: f"<!DOCTYPE annotation {d}>".encode() + body.sub(b"", data)),
        )  # type: ignore[misc]
    yield "an attribute of 300 MB", _bytes(lambda data: b'<annotations a="' + b"x" * (300 << 20) + b'"/>')
    yield "a comment of 300 MB", _bytes(lambda data: b"<!--" + b"x" * (300 << 20) + b"-->" + data)
    yield "a text of 300 MB", _bytes(lambda data: b"<annotations>" + b"x" * (300 << 20) + b"</annotations>")
    yield "deep", _bytes(lambda data: b"<annotations>" + b"<a>" * 1_000_000)
    yield "another root", _bytes(lambda data: b"<svg/>")
    for n in range(24):
        yield f"element {n + 1} is gone", _element(n, None, "")
        for what, text in {
            "empty": "",
            "nan": "nan",
            "1e999": "1e999",
            "-1": "-1",
            "digits": DIGITS,
            "x": "x",
            "ESC": "&#27;",
            "outside": "../../../etc/passwd",
        }.items():
            yield f"element {n + 1} is {what}", _element(n, text, what)


def _element(number: int, text: str | None, what: str) -> Change:
    """Another text and other attributes of the n-th element below the root, or none of it."""

    def change(path: Path) -> None:
        root = ElementTree.fromstring(path.read_bytes())
        parents = {child: parent for parent in root.iter() for child in parent}
        below = list(parents)
        element = below[number % len(below)]
        if text is None:
            parents[element].remove(element)
        elif len(element) == 0 and not element.attrib:
            element.text = text
        else:
            for name in element.attrib:
                element.set(name, text)
        data = ElementTree.tostring(root)
        path.write_bytes(data.replace(b"&amp;#27;", b"\x1b") if what == "ESC" else data)

    return change


def _of_zip() -> Iterator[tuple[str, Change]]:
    def packed(*members: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Change:
        def change(path: Path) -> None:
            with zipfile.ZipFile(path) as archive:
                real = archive.read("annotations.xml")
            with zipfile.ZipFile(path, "w", kind) as archive:
                for name, data in members:
                    archive.writestr(name, data or real)

        return change

    yield "none inside", packed(("other.xml", b""))
    yield "two inside", packed(("a/annotations.xml", b""), ("annotations.xml", b""))
    yield "names outside", packed(("../../../../annotations.xml", b""), ("/etc/x", b"y"))
    yield "LZMA", packed(("annotations.xml", b""), kind=zipfile.ZIP_LZMA)
    yield "bzip2", packed(("annotations.xml", b""), kind=zipfile.ZIP_BZIP2)
    yield "an attribute of 300 MB", packed(("annotations.xml", b'<annotations a="' + b"x" * (300 << 20) + b'"/>'))
    yield "25 million elements", packed(("annotations.xml", b"<annotations>" + b"<a/>" * 25_000_000))
    yield "100,000 members", packed(*((f"{n}", b"x") for n in range(100_000)))
    for name, pattern, place, value in (
        ("encrypted", b"PK\1\2", 8, b"\1"),
        ("another checksum", b"PK\1\2", 16, b"abcd"),
        ("another size", b"PK\1\2", 24, b"\xff\xff\xff\x7f"),
        ("an offset outside", b"PK\1\2", 42, b"\xff\xff\xff\x7f"),
        ("a list of 4 GB", b"PK\5\6", 12, b"\xf0\xff\xff\xff"),
        ("another count", b"PK\5\6", 10, b"\xff\x7f"),
    ):
        yield (
            name,
            _bytes(lambda d, p=pattern, at=place, v=value: d[: d.rfind(p) + at] + v + d[d.rfind(p) + at + len(v) :]),
        )  # type: ignore[misc]
    for n in range(0, 100, 5):
        yield f"a byte at {n} %", _bytes(lambda d, n=n: d[: len(d) * n // 100] + b"\xaa" + d[len(d) * n // 100 + 1 :])  # type: ignore[misc]


def _of_png() -> Iterator[tuple[str, Change]]:
    def drawn(mode: str, size: tuple[int, int], value: Any = 1, format: str = "PNG") -> Change:
        def change(path: Path) -> None:
            file = io.BytesIO()
            Image.new(mode, size, value).save(file, format)
            path.write_bytes(file.getvalue())

        return change

    for mode, value in (("RGB", (1, 1, 1)), ("RGBA", (1, 1, 1, 1)), ("I;16", 1), ("1", 1), ("LA", (1, 1))):
        yield f"mode {mode}", drawn(mode, (80, 60), value)
    yield "another size", drawn("L", (60, 80))
    yield "no such class", drawn("L", (80, 60), 77)
    yield "a JPEG", drawn("L", (80, 60), format="JPEG")
    yield "a header of 65,500 x 65,500", _bytes(lambda d: d[:16] + b"\0\0\xff\xdc\0\0\xff\xdc" + d[24:])
    yield "no checksum", _bytes(lambda d: d[:29] + b"abcd" + d[33:])
    yield "the data's middle", _bytes(lambda d: d[: d.find(b"IDAT") + 8] + b"\0\0" + d[d.find(b"IDAT") + 10 :])

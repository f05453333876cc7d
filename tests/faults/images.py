"""Hostile images, names, times, special files and tars in a source: scanned and labelled beside good images, of which
none may be lost."""

from __future__ import annotations

import io
import os
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from builder.scan.pool import find_pool
from builder.store.store import Store
from teachers.images import ImageError, decode_rgb
from tests.faults.commands import run
from tests.faults.verdict import Verdict, judge
from tests.helpers.headers import END, NEGATIVE, header, pax, summed
from tests.helpers.pools import write_images, write_results

ROW = "hostile images, names, tars"
SMALL = 0.015
GOOD = 2
NOTHING = frozenset({"sparse tar of 6 GB", "a name '.png'", "a name '...png'", "tar: only an end", "tar: type 5"})
"""Faults that bring no image, and nothing to count: hidden files, empty tars, a folder in a tar."""
FORMATS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "GIF": "gif",
    "PPM": "ppm",
    "JPEG2000": "jp2",
    "AVIF": "avif",
}
Make = Callable[[Path], None]


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Each fault in a folder of its own beside GOOD images: scan, then label by stored predictions, which decodes."""
    faults = [*_files(), *_bombs(), *_deep(), *_special(), *_names(), *_times(), *_tars()]
    for n, (fault, make) in enumerate(faults[:: max(1, round(1 / share))]):
        place = folder / str(n)
        names = write_images(place / "pool", GOOD)
        write_results(place, names)
        try:
            make(place / "pool")
        except (OSError, ValueError) as error:  # a name or a time that this file system does not have
            yield fault, Verdict.HARMLESS, f"cannot be made here: {error}"
            continue
        yield fault, *_verdict(place, GOOD + (fault not in NOTHING))


def _verdict(place: Path, files: int) -> tuple[Verdict, str]:
    scan = run("scan", "pool", cwd=place)
    verdict = judge(scan, lambda: _all_there(place, files))
    if verdict is not Verdict.SURVIVED:
        return verdict, scan.stderr
    spec = ("--teacher", "replay:results.json", "--set", "images=listing.json", "--max-failure-rate", "1")
    label = run("label", "pool", *spec, cwd=place)
    return judge(label, lambda: _counted(place)), label.stderr or label.stdout


def _all_there(place: Path, files: int) -> bool:
    """Whether the good images are in the pool, and everything else is a row of it or is counted as passed over."""
    pool = find_pool(Store(place / "store"), str(place / "pool"))
    ok = {image.name for image in pool.images() if image.state == "ok"}
    rows = len(pool) + sum(pool.passed_over.values())
    return ok >= {f"image_{n:05d}.jpg" for n in range(GOOD)} and rows >= files


def _counted(place: Path) -> bool:
    """Whether each image of the pool whose bytes cannot become pixels is a row with a reason."""
    pool = find_pool(Store(place / "store"), str(place / "pool"))
    return all(image.error for image in pool.images() if image.state == "unreadable") and all(map(_same, pool.images()))


def _same(image: object) -> bool:
    """Whether what is decoded of an image has the size that the scan states."""
    if image.state != "ok":  # type: ignore[attr-defined]
        return True
    try:
        pixels = decode_rgb(image.read())  # type: ignore[attr-defined]
    except ImageError:
        return True
    return pixels.shape[:2] == (image.height, image.width)  # type: ignore[attr-defined]


def _writes(name: str | bytes, data: bytes) -> Make:
    return lambda pool: Path(os.fsdecode(os.path.join(os.fsencode(pool), os.fsencode(name)))).write_bytes(data) and None


def _encoded(format: str, pixels: np.ndarray | None = None, **options: object) -> bytes:
    out = io.BytesIO()
    values = np.random.default_rng(3).integers(0, 256, (24, 40, 3), np.uint8) if pixels is None else pixels
    Image.fromarray(values).save(out, format, **options)
    return out.getvalue()


def _files() -> Iterator[tuple[str, Make]]:
    """Of each format: cut, flipped in its head, emptied, repeated, under another name. 23 of each."""
    for format, extension in FORMATS.items():
        data = _encoded(format)
        for part in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            yield f"{extension} cut at {part:.0%}", _writes(f"x.{extension}", data[: int(part * len(data))])
        for place in range(0, 44, 4):
            flipped = bytearray(data)
            flipped[min(place, len(data) - 1)] ^= 1 << place % 7
            yield f"{extension} flipped at {place}", _writes(f"x.{extension}", bytes(flipped))
        half = len(data) // 2
        yield f"{extension} of zeros inside", _writes(f"x.{extension}", data[:half] + bytes(99) + data[half + 99 :])
        yield f"{extension} empty", _writes(f"x.{extension}", b"")
        yield f"{extension} twice", _writes(f"x.{extension}", 2 * data)
        yield f"{extension} as another", _writes("x.jpg" if extension != "jpg" else "x.png", data)
        yield f"{extension} of text", _writes(f"x.{extension}", b"<html>\x1b[2J</html>")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, depth: int = 1, colours: int = 0, rows: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _bombs() -> Iterator[tuple[str, Make]]:
    """Small files that say they are large, and large files that hold nothing."""
    jpeg = bytearray(_encoded("JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    for height, width in ((65500, 65500), (65535, 65535), (40000, 40000), (9459, 9459), (65500, 1), (1, 65500), (0, 9)):
        jpeg[place : place + 4] = struct.pack(">HH", height, width)
        yield f"jpg of {width}x{height}", _writes("x.jpg", bytes(jpeg))
    for width, height in ((100_000, 1), (1, 100_000), (2**31 - 1, 2**31 - 1), (50_000, 50_000), (0, 0), (9000, 9000)):
        yield f"png of {width}x{height}", _writes("x.png", _png(width, height, rows=bytes(1 << 20)))
    for side in (13_000, 16_383, 9_400):
        webp = bytearray(_encoded("WEBP", lossless=True))
        bits = (side - 1) | (side - 1) << 14 | int.from_bytes(webp[24:25]) >> 4 << 28
        webp[21:25] = struct.pack("<I", bits & 0xFFFFFFFF)
        yield f"webp of {side}x{side}", _writes("x.webp", bytes(webp))
    for text in (b"P6 99999 99999 255\n", b"P5 1 100000 255\n", b"P6 -4 4 255\n", b"P5 4 4 65536\n", b"P2 4 4 0\n1"):
        yield f"ppm {text[:12].decode()}", _writes("x.ppm", text)
    bmp = bytearray(_encoded("BMP"))
    for width, height in ((2**31 - 1, 2**31 - 1), (-5, -5), (100_000, 1000)):
        bmp[18:26] = struct.pack("<ii", width, height)
        yield f"bmp of {width}x{height}", _writes("x.bmp", bytes(bmp))
    gif = bytearray(_encoded("GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    yield "gif of 65535x65535", _writes("x.gif", bytes(gif))
    for extension in ("jpg", "png", "tif", "tar"):
        yield (
            f"sparse {extension} of 6 GB",
            lambda pool, extension=extension: os.truncate(_touched(pool, extension), 6 << 30),
        )


def _touched(pool: Path, extension: str) -> Path:
    path = pool / f"x.{extension}"
    path.touch()
    return path


def _deep() -> Iterator[tuple[str, Make]]:
    ramp = np.arange(24 * 40).reshape(24, 40)
    for name, values in {
        "12 bits": (ramp * 4).astype(np.uint16),
        "16 bits": (ramp * 68).astype(np.uint16),
        "32 bits": ramp.astype(np.int32),
        "below 0": (ramp - 99).astype(np.int32),
        "floats": (ramp / 960).astype(np.float32),
        "NaN": np.full((24, 40), np.nan, np.float32),
    }.items():
        yield f"tif of {name}", _writes("x.tif", _encoded("TIFF", values))
    yield "png of 12 bits", _writes("x.png", _encoded("PNG", (ramp * 4).astype(np.uint16)))
    yield "png of 1 bit", _writes("x.png", _encoded("PNG", ramp % 3 == 0))
    for mode in ("LA", "P", "RGBA", "1"):
        image, out = Image.fromarray(ramp.astype(np.uint8)).convert(mode), io.BytesIO()
        image.save(out, "PNG", **({"transparency": 3} if mode == "P" else {}))
        yield f"png of {mode}", _writes("x.png", out.getvalue())
    for mode in ("CMYK", "LAB", "YCbCr"):
        image, out = Image.fromarray(np.stack(3 * [ramp.astype(np.uint8)], axis=-1)), io.BytesIO()
        (image.convert(mode) if mode != "LAB" else Image.frombytes("LAB", image.size, image.tobytes())).save(
            out, "TIFF"
        )
        yield f"tif of {mode}", _writes("x.tif", out.getvalue())
    rows = b"".join(b"\0" + (ramp[:8, :24] * 4).astype(">u2")[row].tobytes() for row in range(8))
    yield "png of 16-bit colours", _writes("x.png", _png(8, 8, 16, 2, rows))


def _special() -> Iterator[tuple[str, Make]]:
    for name in ("x.jpg", "x.png", "x.tar", "x.TAR", "x.txt", "x.json"):
        yield f"a pipe {name}", lambda pool, name=name: os.mkfifo(pool / name)
        yield f"a link to a pipe {name}", lambda pool, name=name: _linked(pool, name, "pipe")
        yield f"a link to /dev/zero {name}", lambda pool, name=name: (pool / name).symlink_to("/dev/zero")
        yield f"a link to itself {name}", lambda pool, name=name: (pool / name).symlink_to(name)
        yield f"a link to nothing {name}", lambda pool, name=name: (pool / name).symlink_to("nowhere")
        yield f"a folder {name}", lambda pool, name=name: _folder(pool / name)
    yield "a socket", _socket
    yield "a folder that holds itself", lambda pool: _folder(pool / "in", (pool / "in" / "in", pool))


def _linked(pool: Path, name: str, target: str) -> None:
    os.mkfifo(pool / target)
    (pool / name).symlink_to(target)


def _folder(path: Path, link: tuple[Path, Path] | None = None) -> None:
    path.mkdir()
    (path / "y.png").write_bytes(_encoded("PNG"))
    if link:
        link[0].symlink_to(link[1])


def _socket(pool: Path) -> None:
    here = os.getcwd()
    os.chdir(pool)
    try:
        with socket.socket(socket.AF_UNIX) as there:
            there.bind("x.jpg")
    finally:
        os.chdir(here)


def _names() -> Iterator[tuple[str, Make]]:
    names: list[str | bytes] = [
        *("a\nb.png", "a\x1b[2Jb.png", "a\x07.png", "'a'.png", '"a".png', "`a`.png", "$(a).png", "a;b.png", "-a.png"),
        *("--help.png", "__x__.png", "__x__", "CON.png", "aux.png", "a:b.png", "a\\b.png", "a*.png", "a?.png", " .png"),
        *(" a.png", "a .png", "a..png", "...png", ".png", "\u202egnp.exe.png", "\u200b.png", "<script>1<b>.png"),
        *(
            "a|b.png",
            "a%00.png",
            "%2e%2e.png",
            "&amp;.png",
            "a\tb.png",
            "a\rb.png",
            "\ufeffa.png",
            "é.png",
            "e\u0301.png",
        ),
        *(
            "日本.png",
            "🦉.png",
            "a" * 251 + ".png",
            "é" * 125 + ".png",
            "a.PNG",
            "a.png.png",
            "a.jpg.png",
            "0.png",
            "#a.png",
        ),
        *(
            b"\xff\xfe.png",
            b"a\x80.png",
            "\ud7ff.png",
            "a\u2028b.png",
            "{a}.png",
            "[a].png",
            "~.png",
            "=1+1.png",
            ",.png",
        ),
    ]
    data = _encoded("PNG")
    for name in names:
        yield f"a name {name!r}"[:60], _writes(name, data)


def _times() -> Iterator[tuple[str, Make]]:
    for year, seconds in {
        "1901": -(2**31),
        "1970": 0,
        "2262": 9_223_372_036,
        "2500": 16_725_225_600,
        "1700": -(2**33),
    }.items():
        yield f"a file of {year}", lambda pool, seconds=seconds: _timed(pool, "x.png", _encoded("PNG"), seconds)
        yield f"a tar of {year}", lambda pool, seconds=seconds: _timed(pool, "x.tar", _packed(), seconds)


def _timed(pool: Path, name: str, data: bytes, seconds: int) -> None:
    (pool / name).write_bytes(data)
    os.utime(pool / name, (seconds, seconds))


def _packed(format: int = tarfile.PAX_FORMAT, end: bool = True) -> bytes:
    out, data = io.BytesIO(), _encoded("PNG")
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name in ("a.png", "long/" * 30 + "b.png" if format != tarfile.USTAR_FORMAT else "b.png"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    packed = out.getvalue().rstrip(b"\0")
    packed += bytes(-len(packed) % 512)
    return packed + bytes(1024) if end else packed


def _tars() -> Iterator[tuple[str, Make]]:
    body = b"abc".ljust(512, b"\0")
    crafted = {
        "pax size -512": pax(b"size=-512") + header(b"a.jpg", b"00000000003") + body + END,
        "pax size 2^80": pax(b"size=%d" % 2**80) + header(b"a.jpg", b"00000000003") + body + END,
        "negative size": header(b"a.jpg", NEGATIVE) + END,
        "negative size, unknown type": header(b"a.jpg", NEGATIVE, b"Q") + END,
        "size of 2^88": header(b"a.jpg", b"\x80" + b"\xff" * 11) + END,
        "sparse map without end": header(b"a.jpg", b"00000000003", b"S", bytes(123) + b"\1") + body + END,
        "sparse map of words": pax(b"GNU.sparse.map=1,x") + header(b"a.jpg", b"00000000003") + body + END,
        "a name of 8 GB": header(b"L", b"77777777777", b"L") + END,
        "3,000 names": b"".join(header(b"L", b"00000000001", b"L") + body for _ in range(3000)) + END,
        "no end": _packed(end=False),
        "two archives": 2 * _packed(),
        "empty": b"",
        "only an end": END,
        "in it a tar": header(b"in.tar", b"%011o" % len(_packed())) + _packed() + END,
        "a name of no UTF-8": header(b"a\xff.jpg", b"00000000003") + body + END,
        "an absolute name": header(b"/etc/a.jpg", b"00000000003") + body + END,
        "a name above": header(b"../../a.jpg", b"00000000003") + body + END,
        "twice a name": 2 * (header(b"a.jpg", b"00000000003") + body) + END,
        **{f"type {type}": header(b"a.jpg", b"00000000000", b"%d" % type) + END for type in range(1, 8)},
    }
    for name, data in crafted.items():
        yield f"tar: {name}", _writes("x.tar", data)
    for ending in ("tar.gz", "tgz", "zip", "TAR"):
        yield f"an archive .{ending}", _writes(f"x.{ending}", zlib.compress(_packed()))
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        whole = _packed(format)
        yield f"a whole tar of dialect {format}", _writes("x.tar", whole)
        for place in range(0, 512, 16):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 7
            yield f"tar of dialect {format} flipped at {place}", _writes("x.tar", bytes(flipped))
            if place % 48 == 0:
                yield f"tar of dialect {format} changed at {place}", _writes("x.tar", summed(bytes(flipped)))

"""Headers of tars as no tool writes them."""

from __future__ import annotations


def summed(data: bytes) -> bytes:
    """With the check sum of every block that is a header right again, so that its fields are believed."""
    blocks = [data[place : place + 512] for place in range(0, len(data), 512)]
    for n, block in enumerate(blocks):
        if block[257:262] == b"ustar":
            total = sum(block[:148]) + 8 * 32 + sum(block[156:])
            blocks[n] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)


def header(name: bytes, size: bytes, type: bytes = b"0", rest: bytes = b"") -> bytes:
    block = name.ljust(100, b"\0") + b"0000644\0" + 2 * b"0000000\0" + size.ljust(12, b"\0") + b"00000000000\0"
    block += bytes(8) + type + bytes(100) + b"ustar\x0000" + rest
    return summed(block.ljust(512, b"\0"))


def pax(*records: bytes) -> bytes:
    lines = b"".join(b"%03d %s\n" % (len(record) + 5, record) for record in records)
    return header(b"pax", b"%011o" % len(lines), b"x") + lines.ljust(512, b"\0")


END = bytes(1024)
NEGATIVE = b"\xff" * 10 + b"\xfe\x00"  # -512

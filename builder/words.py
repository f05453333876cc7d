"""Numbers as text for people, and names of others as a terminal may show them."""

from __future__ import annotations

import math
import re

HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""What is not seen but acts: control characters, of which ESC moves the cursor and sets titles, marks that turn the
direction of what follows, and half surrogate pairs, which nothing can write. Line ends and tabs are not among them."""


def size_text(size: int) -> str:
    """Bytes in the largest unit of which there is one or more: 12.3 MB."""
    for unit, value in (("GB", size / 1e9), ("MB", size / 1e6)):
        if value >= 1:
            return f"{value:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def count(n: float) -> str:
    """1234567 as 1,234,567."""
    return f"{n:,.0f}"


def short(n: float) -> str:
    """1234567 as 1.23 M, and numbers below 100,000 in full: for where there is little room."""
    for unit, value in ((" G", n / 1e9), (" M", n / 1e6), (" k", n / 1e3)):
        if value >= (1 if unit != " k" else 100):
            return f"{value:.3g}{unit}"
    return count(n)


def percent(share: float) -> str:
    """A share in per cent with two figures; never 0 % of something, never 100 % of less than all."""
    if math.isnan(share):
        return "-"
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    whole = 0.1 <= share < 0.995 or share in (0, 1)
    return f"{100 * share:.0f} %" if whole or share > 1 else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """12 s, 7 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def visible(text: str) -> str:
    """A text of others, in which what would act unseen (HIDDEN) stands as `\u001b`, as in JSON and Python."""
    return HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def visible_line(text: str) -> str:
    """`visible`, line ends and tabs too: for a name that stands in a line or a cell."""
    return visible(text).replace("\n", "\\u000a").replace("\t", "\\u0009")

"""The picture in a dataset card: what became of each class's boxes. Made from the manifest alone, as the card is."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from builder.kinds import kind_of
from builder.report.colours import DROPPED, HATCH, IGNORED, INK, KEPT
from builder.report.quality import limits
from builder.store.manifest import Manifest

MOST = 12
"""Classes shown, those with the most boxes."""
WIDTH, LEFT, RIGHT, ROW, TOP = 720, 150, 190, 24, 44
"""Pixels: of the picture, its columns of names and figures, a class, and what stands above them."""
LONGEST = 20
"""Characters of a class's name."""
FILLS = {"kept": KEPT, "ignored": "url(#hatch)", "dropped": DROPPED}
PATTERN = (
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="6" height="6" fill="{IGNORED}"/><rect width="2" height="6" fill="{HATCH}"/></pattern></defs>'
)


def classes_chart(manifest: Manifest) -> bytes:
    """SVG: for the classes with the most predicted boxes, how many are kept, ignored and dropped, and from which score
    on boxes are kept. The same manifest gives the same bytes."""
    counts = manifest.per_class
    order = sorted(range(len(manifest.classes)), key=lambda n: -counts[manifest.classes[n]]["predicted"])[:MOST]
    shown = [counts[manifest.classes[n]] for n in order]
    most = max((max(c["predicted"], c["kept"] + c["ignored"]) for c in shown), default=0)  # people add boxes
    height = TOP + ROW * len(order) + 8
    keep = limits(manifest)[0]
    rows = [part for place, n in enumerate(order) for part in _row(manifest, n, place, most, keep[n])]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">{PATTERN}'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    )
    return "\n".join([head, *_legend(kind_of(manifest.kind).overlaps), *rows, "</svg>\n"]).encode()


def _legend(overlaps: bool) -> Iterator[str]:
    names = {"ignored": "ignore region" if overlaps else "nearly kept"}
    for place, (outcome, fill) in enumerate(FILLS.items()):
        x, name = LEFT + 120 * place, names.get(outcome, outcome)
        yield f'<rect x="{x}" y="14" width="14" height="12" fill="{fill}"/><text x="{x + 20}" y="24">{name}</text>'


def _row(manifest: Manifest, n: int, place: int, most: int, keep: float) -> Iterator[str]:
    name = manifest.classes[n]
    told = manifest.per_class[name]
    y, scale = TOP + ROW * place, (WIDTH - LEFT - RIGHT) / max(1, most)
    short = "".join(c if c.isprintable() else " " for c in name)  # XML has no way to write a control character
    short = short if len(short) <= LONGEST else short[: LONGEST - 1] + "…"
    yield f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(short)}</text>'
    x = float(LEFT)
    values = told | {"dropped": told["predicted"] - told["kept"] - told["ignored"]}
    for outcome, fill in FILLS.items():
        value = values[outcome]
        if value > 0:
            yield f'<rect x="{x:.1f}" y="{y}" width="{value * scale:.1f}" height="{ROW - 6}" fill="{fill}"/>'
            x += value * scale
    limit = f"from {keep:.3g}" if np.isfinite(keep) else "none by score"
    yield f'<text x="{x + 8:.1f}" y="{y + 13}">{told["kept"]} of {told["predicted"]} kept, {limit}</text>'

"""The picture in a dataset card: what became of each class's boxes. Made from the manifest alone, as the card is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from markupsafe import Markup

from builder.kinds import kind_of
from builder.report.colours import DROPPED, HATCH, IGNORED, INK, KEPT
from builder.report.quality import thresholds
from builder.store.manifest import Manifest

MOST = 12
"""Classes shown, those with the most boxes."""
WIDTH, LEFT, RIGHT, ROW, TOP = 720, 150, 190, 24, 44
"""Pixels: of the picture, its columns of names and figures, a class, and what stands above them."""
LONGEST = 20
"""Characters of a class's name."""
FILLS = {"kept": KEPT, "ignored": "url(#hatch)", "dropped": DROPPED}
PATTERN = Markup(
    '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="6" height="6" fill="{}"/><rect width="2" height="6" fill="{}"/></pattern></defs>'
).format(IGNORED, HATCH)


def classes_chart(manifest: Manifest) -> bytes:
    """SVG: for the classes with the most predicted boxes, how many are kept, ignored and dropped, and from which score
    on boxes are kept. The same manifest gives the same bytes."""
    counts = manifest.per_class
    order = sorted(range(len(manifest.classes)), key=lambda n: -counts[manifest.classes[n]]["predicted"])[:MOST]
    shown = [counts[manifest.classes[n]] for n in order]
    most = max((max(c["predicted"], c["kept"] + c["ignored"]) for c in shown), default=0)  # people add boxes
    height = TOP + ROW * len(order) + 8
    keep = thresholds(manifest).kept_from
    rows = [part for place, n in enumerate(order) for part in _row(manifest, n, place, most, keep[n])]
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="{ink}">{pattern}'
        '<rect width="{width}" height="{height}" fill="white"/>'
    ).format(width=WIDTH, height=height, ink=INK, pattern=PATTERN)
    return Markup("\n").join([head, *_legend(kind_of(manifest.kind).overlaps), *rows, Markup("</svg>\n")]).encode()


def _legend(overlaps: bool) -> Iterator[Markup]:
    names = {"ignored": "ignore region" if overlaps else "nearly kept"}
    entry = Markup('<rect x="{}" y="14" width="14" height="12" fill="{}"/><text x="{}" y="24">{}</text>')
    for place, (outcome, fill) in enumerate(FILLS.items()):
        x = LEFT + 120 * place
        yield entry.format(x, fill, x + 20, names.get(outcome, outcome))


def _row(manifest: Manifest, n: int, place: int, most: int, keep: float) -> Iterator[Markup]:
    name = manifest.classes[n]
    counts = manifest.per_class[name]
    y, scale = TOP + ROW * place, (WIDTH - LEFT - RIGHT) / max(1, most)
    short = "".join(c if c.isprintable() else " " for c in name)  # XML has no way to write a control character
    short = short if len(short) <= LONGEST else short[: LONGEST - 1] + "…"
    yield Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(LEFT - 8, y + 13, short)
    x = float(LEFT)
    values = counts | {"dropped": counts["predicted"] - counts["kept"] - counts["ignored"]}
    bar = Markup('<rect x="{:.1f}" y="{}" width="{:.1f}" height="{}" fill="{}"/>')
    for outcome, fill in FILLS.items():
        if values[outcome] > 0:
            yield bar.format(x, y, values[outcome] * scale, ROW - 6, fill)
            x += values[outcome] * scale
    limit = f"from {keep:.3g}" if np.isfinite(keep) else "none by score"
    text = f"{counts['kept']} of {counts['predicted']} kept, {limit}"
    yield Markup('<text x="{:.1f}" y="{}">{}</text>').format(x + 8, y + 13, text)

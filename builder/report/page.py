"""Pieces of a self-contained HTML page: no scripts, no fonts or pictures from elsewhere.

Text is escaped wherever it is put into HTML, which is Markup: no f-strings, a test sees to it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from builder.report.colours import BACKDROP, DROPPED, FAINT, HATCH, HUMAN, IGNORED, INK, KEPT
from builder.words import visible

CSS = (
    f"\n:root{{--ink:{INK};--faint:{FAINT};--line:#dfe4ea;--soft:#f5f7f9;--kept:{KEPT};--ignored:{IGNORED};"
    f"--hatch:{HATCH};--dropped:{DROPPED};\n--human:{HUMAN};--backdrop:{BACKDROP};--link:#0b5c8f}}"
    """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--soft);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif}
main{max-width:1160px;margin:0 auto;padding:36px 24px 60px}
h1{font-size:32px;line-height:1.2;letter-spacing:-.015em;margin:2px 0 6px;overflow-wrap:anywhere}
h2{font-size:20px;letter-spacing:-.005em;margin:0 0 4px}
h3{font-size:15px;margin:0 0 2px}
p{margin:0 0 10px;max-width:86ch}
.note{color:var(--faint);margin-bottom:14px}
.below{margin:14px 0 0}
.eyebrow{font-size:12.5px;font-weight:600;letter-spacing:.08em;text-transform:uppercase;color:var(--faint)}
.pill{display:inline-block;font-size:17px;font-weight:600;vertical-align:5px;margin-left:6px;padding:1px 11px;
border-radius:99px;background:#e3e8ee;letter-spacing:0}
code,.id{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
.card{background:#fff;border:1px solid var(--line);border-radius:12px;padding:22px 24px;margin-top:18px}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:14px 0 0;font-size:14px}
.facts dt{color:var(--faint)}.facts dd{margin:0;min-width:0;overflow-wrap:anywhere}
.verdict{border-left-width:7px;display:grid;grid-template-columns:40px 1fr;gap:0 16px}
.verdict .sign{width:40px;height:40px;border-radius:50%;font-size:22px;font-weight:700;line-height:40px;
text-align:center}
.verdict .sign{grid-row:span 2;align-self:start;margin-top:6px}
.verdict h2{font-size:22px;line-height:1.3;margin:0 0 10px}
.verdict .body{grid-column:2;min-width:0}
.verdict p:last-child{margin:0}
.certified{border-left-color:var(--kept)}.certified .sign{background:#d4f0e6;color:#00543d}
.partly,.adaptive{border-left-color:var(--ignored)}.partly .sign,.adaptive .sign{background:#fdeec9;color:#6b4a00}
.unknown{border-left-color:#7b8794}.unknown .sign{background:#e6eaee;color:#323f4b}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:18px}
.tile{background:#fff;border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.tile b{display:block;font-size:27px;line-height:1.2;letter-spacing:-.015em;font-variant-numeric:tabular-nums}
.tile span{display:block;font-size:13.5px;font-weight:600}.tile small{font-size:13px;color:var(--faint)}
.stack{display:flex;height:20px;border-radius:6px;overflow:hidden;margin:18px 0 6px;background:var(--dropped)}
.stack i{display:block;min-width:2px;border-right:1px solid #fff}
.k{background:var(--kept)}.d{background:var(--dropped)}
.g{background:repeating-linear-gradient(135deg,var(--ignored) 0 5px,var(--hatch) 5px 7px)}
.sheet+h3{margin-top:18px}h3+.sheet{margin-top:6px}
.legend+.charts,.legend+.pairs{margin-top:14px}
.legend{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:13.5px;margin:0 0 4px;padding:0;list-style:none}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:7px;vertical-align:-1px}
.scroll{overflow-x:auto;margin:0 -4px;padding:0 4px}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th{font-size:12.5px;font-weight:600;color:var(--faint);text-align:left;border-bottom:1px solid #c5ccd4}
th,td{padding:6px 14px 6px 0;vertical-align:top}
td{border-bottom:1px solid #edf0f3}
tr:last-child td{border-bottom:0}
.num{text-align:right;white-space:nowrap}
.wide{min-width:170px}.bars{width:42%;min-width:150px}
.bar{position:relative;height:12px;margin-top:5px;background:#eef1f4;border-radius:3px}
.bar i{position:absolute;left:0;top:0;bottom:0;border-radius:3px}
.bar u{position:absolute;top:-3px;bottom:-3px;width:3px;margin-left:-1px;background:var(--human)}
.status{font-weight:600;white-space:nowrap}
.status i{display:inline-block;width:20px;height:20px;border-radius:50%;margin-right:8px;text-align:center;
font:700 13px/20px system-ui,sans-serif}
.ok i{background:#d4f0e6;color:#00543d}.warn i{background:#fdeec9;color:#6b4a00}
.fail i{background:#fbdccb;color:#7a2e00}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,235px),1fr));gap:20px 24px}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,470px),1fr));gap:22px 30px}
figure{margin:0;min-width:0;max-width:560px}
figure img{display:block;width:100%;height:auto}
figcaption{font-size:13.5px;color:var(--faint);margin-bottom:4px}
figcaption b{color:var(--ink);font-size:14.5px}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(29%,152px),1fr));gap:14px 12px;margin-bottom:8px}
.sheet img{border-radius:6px;background:var(--backdrop);aspect-ratio:1}
.sheet figcaption{margin:5px 0 0;line-height:1.35;font-size:13px}
.sheet figcaption b{font-size:13.5px;overflow-wrap:anywhere}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:18px}
details{margin-top:14px}
summary{cursor:pointer;color:var(--link);font-weight:600;font-size:14px}
summary+*{margin-top:10px}
pre{background:var(--soft);border:1px solid var(--line);border-radius:8px;padding:12px 14px;overflow-x:auto}
@media(max-width:640px){main{padding:22px 14px 40px}.card{padding:17px 16px}h1{font-size:26px}
.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:7px}
.verdict{grid-template-columns:34px 1fr;gap:0 12px}
.verdict .sign{width:34px;height:34px;line-height:34px;font-size:19px}
.verdict h2{font-size:19px}.verdict .body{grid-column:1/3}
.tiles{grid-template-columns:1fr 1fr;gap:10px}.tile b{font-size:23px}}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
"""
)


def page(title: str, body: Iterable[str]) -> bytes:
    """A whole HTML document, in which what would act unseen (builder.words.HIDDEN) is written out."""
    whole = Markup(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n{}\n</main>\n</body>\n</html>\n"
    ).format(title, Markup(CSS), Markup("\n").join(body))
    return visible(whole).encode()


def section(title: str, note: str, body: Iterable[str]) -> Markup:
    """A card with a heading and a line that says how to read it."""
    how = Markup('<p class="note">{}</p>').format(note) if note else ""
    card = Markup('<section class="card">\n<h2>{}</h2>{}\n{}\n</section>')
    return card.format(title, how, Markup("\n").join(body))


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> Markup:
    """columns: name and CSS class (`num`: right-aligned)."""
    heads = (Markup('<th scope="col" class="{}">{}</th>').format(kind, name) for name, kind in columns)
    head = Markup("<thead><tr>{}</tr></thead>").format(joined(heads)) if any(name for name, _ in columns) else ""
    cell = Markup('<td class="{}">{}</td>')
    body = (
        Markup("<tr>{}</tr>").format(
            joined(cell.format(kind, value) for value, (_, kind) in zip(row, columns, strict=True))
        )
        for row in rows
    )
    whole = Markup('<div class="scroll"><table>{}<tbody>\n{}\n</tbody></table></div>')
    return whole.format(head, Markup("\n").join(body))


def more(summary: str, body: str) -> Markup:
    """What is shown only when asked for."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, body)


def bar(share: float, kind: str, mark: float = float("nan")) -> Markup:
    """A bar of this share of its column's width, in the colour of `kind`, and a mark (NaN: none) at another."""
    tick = Markup("") if math.isnan(mark) else Markup('<u style="left:{:.1f}%"></u>').format(100 * min(mark, 1))
    fill = Markup('<i class="{}" style="width:{:.1f}%"></i>').format(kind, 100 * min(share, 1))
    return Markup('<div class="bar" aria-hidden="true">{}{}</div>').format(fill, tick)


def picture(data: bytes, kind: str, alt: str) -> Markup:
    """An image of the media type `kind`, inside of the page."""
    return Markup('<img src="data:{};base64,{}" alt="{}">').format(kind, base64.b64encode(data).decode(), alt)


def joined(parts: Iterable[str]) -> Markup:
    """One after the other."""
    return Markup("").join(parts)

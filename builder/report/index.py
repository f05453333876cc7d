"""The report of a version: one HTML page that shows what is in it, why, and how good it may be said to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import yaml

from builder.evidence.matching import Matches
from builder.kinds import kind_of
from builder.report.figures import balance_section, curves_section, scores_section
from builder.report.kinds import report_kind
from builder.report.page import more, page, section, table
from builder.report.quality import (
    certificate,
    certified_share,
    expected_quality,
    groups,
    licences,
    measured,
    short_members,
    used,
    uses,
)
from builder.rules.scores import PoolScores
from builder.store.files import write_file
from builder.store.manifest import Manifest
from builder.store.provenance import UNKNOWN
from builder.store.version import Version
from builder.words import count, percent

WHY = {
    "below_threshold": "score below the threshold",
    "ignore_band": "score between the ignore and the keep threshold",
    "nms": "overlaps a better box of its class",
    "cap": "the image has better boxes enough",
    "where_false": "the recipe's condition says no",
    "where_null": "the recipe's condition cannot be computed",
    "size": "smaller than the recipe's least size",
    "uncertain": "the teacher is unsure of its place",
    "thinned": "the class has more images than the balance asks for",
    "class_ignored": "of a class that is ignored",
    "class_dropped": "of a class that is dropped",
}
IMAGES = {
    "written": "in the shards",
    "tombstone": "in the shards, to be skipped: left the pool after an earlier version",
    "empty": "left out: nothing is kept on them",
    "duplicate": "equal to another one, byte for byte",
    "near_duplicate": "nearly equal to another one",
    "unreadable": "cannot be decoded",
    "leak": "left out: also in labelled, truth or test",
    "removed": "left the pool",
}
SIGNS = {"ok": "✓", "warn": "!", "fail": "✗"}


def write_report(version: Version, scores: PoolScores, tune: Matches | None) -> None:
    """Write `report/index.html` into the folder of a version, whose shards and labels.parquet are complete.

    scores: of the pool, what the thresholds act on. tune: predictions on the half of the labels that certifies nothing,
    with the same scores; None without labels. The same inputs give the same bytes; nothing outside is loaded.
    """
    manifest = version.manifest
    curves = [] if tune is None else [curves_section(manifest, tune)]
    body = [
        _header(manifest),
        _verdict(manifest),
        _tiles(manifest, tune),
        *_gates(manifest),
        scores_section(manifest, scores),
        *curves,
        _evidence(manifest),
        balance_section(manifest, tune),
        _fates(manifest),
        *report_kind(manifest.kind).examples(version),
        _provenance(manifest),
    ]
    write_file(version.report, page(f"{manifest.name} {manifest.version}: report", body))


def _header(manifest: Manifest) -> str:
    provenance = manifest.provenance
    told = licences(manifest)
    facts = [
        ("Version id", f'<span class="id">{manifest.id}</span>'),
        ("Teacher", f"<code>{escape(provenance.teacher.spec)}</code>"),
        ("Predictions", f'<span class="id">{provenance.inputs.predictions[:12]}</span>'),
    ]
    if parent := provenance.parent:
        facts.append(("Parent", f'{escape(parent.version)}, id <span class="id">{parent.id[:12]}</span>'))
    if manifest.tombstones:
        facts.append(("Removed since", f"{count(len(manifest.tombstones))} images; readers must skip their keys"))
    licence = [
        f"{name} <b>{escape(told[what])}</b>" + (", ask before you share" if told[what] == UNKNOWN else "")
        for what, name in (("source", "images"), ("teacher", "teacher"))
    ]
    facts.append(("Licences", "; ".join(licence)))
    labels = kind_of(manifest.kind).labels
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return (
        '<header><div class="eyebrow">Tutelage · report of a version</div>'
        f'<h1>{escape(manifest.name)} <span class="pill">{escape(manifest.version)}</span></h1>'
        f"<p>{labels[:1].upper()}{labels[1:]} on {count(manifest.distinct)} images, not a person.</p>"
        f'<dl class="facts">{rows}</dl></header>'
    )


def _verdict(manifest: Manifest) -> str:
    certified = [group for group in groups(manifest) if group.certified]
    target = min((group.target for group in certified if group.target is not None), default=0.0)
    kind, sign, title = "unknown", "?", "Precision unknown"
    if measured(manifest):
        sign, title = "≈", "Precision not certified"
    if certified:
        classes, share = sum(len(group.classes) for group in certified), certified_share(manifest)
        kind, sign = ("certified", "✓") if share == 1 else ("partly", "◐")
        title = f"Precision of at least {target:g} certified for {classes} of {len(manifest.classes)} classes"
        title += "" if share == 1 else f", {percent(share)} of the kept {kind_of(manifest.kind).noun}"
        if uses(manifest) > 1:
            kind, sign, title = "adaptive", "!", "Adaptive, no guarantee"
    paragraphs = [paragraph.removeprefix(f"{title}: ") for paragraph in expected_quality(manifest)]
    said = "".join(f"<p>{escape(one[:1].upper() + one[1:])}</p>" for one in paragraphs)
    return (
        f'<section class="card verdict {kind}"><div class="sign" aria-hidden="true">{sign}</div>'
        f'<div><div class="eyebrow">Expected quality</div><h2>{escape(title)}</h2></div>'
        f'<div class="body">{said}</div></section>'
    )


def _tiles(manifest: Manifest, tune: Matches | None) -> str:
    kind = kind_of(manifest.kind)
    predicted = max(1, manifest.objects.get("predicted", 0))
    dropped = manifest.objects.get("predicted", 0) - manifest.kept - manifest.ignored
    with_labels = sum(counts["kept"] > 0 for counts in manifest.per_class.values())
    ignored = "ignore regions" if kind.overlaps else f"{kind.noun} nearly kept"
    tiles = [
        (count(manifest.distinct), "images", f"of {count(_pool(manifest))} in the pool"),
        (count(manifest.kept), f"{kind.noun} kept", f"{percent(manifest.kept / predicted)} of predicted"),
        (count(manifest.ignored), ignored, percent(manifest.ignored / predicted)),
        (count(dropped), f"{kind.noun} dropped", percent(dropped / predicted)),
        *([_density(manifest, tune)] if kind.overlaps else []),
        *([(count(manifest.samples), "samples", "with copies")] if manifest.samples > manifest.distinct else []),
        (f"{with_labels}", "classes kept", f"of {len(manifest.classes)}"),
    ]
    shown = "".join(
        f'<div class="tile"><b>{figure}</b><span>{name}</span><small>{note}</small></div>'
        for figure, name, note in tiles
    )
    return f'<div class="tiles">{shown}</div>'


def _density(manifest: Manifest, tune: Matches | None) -> tuple[str, str, str]:
    expected = ""
    if tune is not None and tune.images:
        expected = f"labels have {(tune.object_counts & (tune.object_label >= 0)).sum() / tune.images:.2f}"
    return f"{manifest.kept / max(1, manifest.samples):.2f}", "kept per image", expected


def _pool(manifest: Manifest) -> int:
    return manifest.images.get("pool") or sum(manifest.images.values())


def _gates(manifest: Manifest) -> Iterator[str]:
    findings = manifest.provenance.gates
    if findings:
        rows = [[_status(one.status), escape(one.name.replace("_", " ")), escape(one.message)] for one in findings]
        columns = [("status", ""), ("gate", ""), ("what it found", "")]
        yield section("Gates", "What had to hold before anything was written.", [table(columns, rows)])


def _status(status: str, said: str = "") -> str:
    sign = f'<i aria-hidden="true">{SIGNS.get(status, "?")}</i>'
    return f'<span class="status {escape(status)}">{sign}{escape(said or status)}</span>'


def _evidence(manifest: Manifest) -> str:
    every, kind = groups(manifest), kind_of(manifest.kind)
    noun, support = kind.noun, "images" if kind.pixels else kind.noun
    figures = [
        ("expected support", [_number(group.support) for group in every]),
        ("n", [_number(group.units) for group in every]),
        ("K", [_number(group.kept) for group in every]),
        ("C", [_number(group.correct) for group in every]),
        ("n*", [_number(group.effective) for group in every]),
        ("p", [_number(group.p_value) for group in every]),
        ("lower bound", [_number(group.lower) for group in every]),
    ]
    shown = [(name, column) for name, column in figures if any(column)]
    columns = [("classes", "wide"), ("rule", ""), ("keep from", "num"), ("certified", "wide")]
    columns += [(name, "num") for name, _ in shown]
    rows = []
    for n, group in enumerate(every):
        named = f'<span title="{escape(", ".join(group.classes))}">{escape(short_members(group.classes))}</span>'
        said = _status("ok", certificate(manifest, group)) if group.certified else "no"
        said += f"<br><small>{escape(group.reason)}</small>" if group.reason else ""
        cells = [
            named,
            escape(group.rule.replace("_", " ")),
            "nothing kept" if group.threshold is None else f"{group.threshold:.4g}",
            said,
        ]
        rows.append([*cells, *(column[n] for _, column in shown)])
    body = [table(columns, rows)]
    if shown:
        body.append(
            f'<p class="note below">Expected support: labelled {support} to expect by the scores of the pool. n: '
            f"labelled images or units; K and C: {noun} kept and right on them; n*: how many independent ones they are "
            f"worth; p and lower bound: of the certified step. Uses of the certify half: <b>{uses(manifest)}</b>.</p>"
        )
    return section(
        "Thresholds and their evidence",
        f"From which score on {kind_of(manifest.kind).noun} are kept, and what says so.",
        body,
    )


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return count(value) if isinstance(value, int) or value >= 100 else f"{value:.3g}"


def _fates(manifest: Manifest) -> str:
    """Why labels, and what became of images: two cards side by side."""
    predicted = max(1, manifest.objects.get("predicted", 0))
    dropped = manifest.objects.get("predicted", 0) - manifest.kept - manifest.ignored
    parts = (("k", "kept", manifest.kept), ("g", "ignored", manifest.ignored), ("d", "dropped", dropped))
    stack = "".join(f'<i class="{kind}" style="flex:{n}"></i>' for kind, _, n in parts if n)
    legend = "".join(
        f'<li><i class="{kind}"></i>{name} {count(n)} ({percent(n / predicted)})</li>' for kind, name, n in parts
    )
    bars = f'<div class="stack" aria-hidden="true">{stack}</div><ul class="legend">{legend}</ul>'
    reasons = [(r, n) for r, n in manifest.objects.items() if n and r not in ("predicted", "kept")]
    noun = kind_of(manifest.kind).noun
    columns = [("reason", ""), (noun, "num"), ("share", "num")]
    rows = (
        [escape(WHY.get(r, r.replace("_", " "))), count(n), percent(n / predicted)]
        for r, n in sorted(reasons, key=lambda item: (-item[1], item[0]))
    )
    boxes = section(f"Why {noun} are not kept", "", [bars, table(columns, rows)])
    states = [(s, n) for s, n in manifest.images.items() if n and s != "pool"]
    total = max(1, _pool(manifest))
    images = table(
        [("images", ""), ("", ""), ("count", "num"), ("share", "num")],
        (
            [escape(s), escape(IMAGES.get(s, "")), count(n), percent(n / total)]
            for s, n in sorted(states, key=lambda item: (-item[1], item[0]))
        ),
    )
    return f'<div class="two">{boxes}{section("What became of the images", "", [images])}</div>'


def _provenance(manifest: Manifest) -> str:
    provenance = manifest.provenance
    rows: list[Sequence[str]] = [("made with", escape(provenance.tool))]
    rows.append(("pool", f'<span class="id">{provenance.inputs.pool}</span>'))
    rows.append(("predictions", f'<span class="id">{provenance.inputs.predictions}</span>'))
    if truth := provenance.truth:
        halves = f"{truth.tune} to tune, {truth.certify} to certify"
        rows.append(("labels", f"{truth.images} images: {halves}; certify half {used(manifest)}"))
    if provenance.calibration:
        rows.append(("calibration", "thresholds act on scores calibrated on the labels"))
    size = sum(shard.bytes for shard in manifest.shards)
    rows.append(("shards", f"{len(manifest.shards)}, {size / 1e6:.1f} MB"))
    body = [table([("", ""), ("", "")], rows)]
    if recipe := provenance.recipe:
        body.append(more("The recipe", f"<pre><code>{escape(yaml.safe_dump(recipe, sort_keys=False))}</code></pre>"))
    return section("Provenance", "The same inputs give the same version, byte for byte.", body)

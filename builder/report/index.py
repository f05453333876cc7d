"""The report of a version: one HTML page that shows what is in it, why, and how good it may be said to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml
from markupsafe import Markup

from builder.evidence.claims import Claims, ClassClaim, claims, groups
from builder.evidence.matching import Matches
from builder.kinds import kind_of
from builder.report.figures import balance_section, curves_section, scores_section
from builder.report.headline import (
    certificate,
    class_certificate,
    class_note,
    headline,
    interval_text,
    short_members,
)
from builder.report.kinds import report_kind
from builder.report.page import joined, more, page, section, table
from builder.report.quality import expected_quality, licences, used
from builder.rules.reasons import BY_KEY, Reason
from builder.rules.scores import PoolScores
from builder.store.files import write_file
from builder.store.manifest import Manifest
from builder.store.provenance import UNKNOWN, Group
from builder.store.version import Version
from builder.words import count, percent

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
ID = Markup('<span class="id">{}</span>')
LOOKS = {
    "certified": ("certified", "✓"),
    "partly": ("partly", "◐"),
    "adaptive": ("adaptive", "!"),
    "measured": ("unknown", "≈"),
    "unknown": ("unknown", "?"),
}
"""Of a version's standing (builder.evidence.claims.Standing): the style of its card, and its sign."""
CLASSES = 20
"""Rows of the table of classes; those below the target are all shown, and the rest is folded away."""
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
        *_classes(manifest),
        scores_section(manifest, scores),
        *curves,
        _evidence(manifest),
        balance_section(manifest, tune),
        _fates(manifest),
        *report_kind(manifest.kind).examples(version),
        _provenance(manifest),
    ]
    write_file(version.report, page(f"{manifest.name} {manifest.version}: report", body))


def _header(manifest: Manifest) -> Markup:
    provenance = manifest.provenance
    terms = licences(manifest)
    facts: list[tuple[str, str]] = [
        ("Version id", ID.format(manifest.id)),
        ("Teacher", Markup("<code>{}</code>").format(provenance.teacher.spec)),
        ("Predictions", ID.format(provenance.inputs.predictions[:12])),
    ]
    if parent := provenance.parent:
        facts.append(("Parent", Markup("{}, id {}").format(parent.version, ID.format(parent.id[:12]))))
    if manifest.tombstones:
        facts.append(("Removed since", f"{count(len(manifest.tombstones))} images; readers must skip their keys"))
    licence = [
        Markup("{} <b>{}</b>{}").format(name, terms[what], ", ask before you share" if terms[what] == UNKNOWN else "")
        for what, name in (("source", "images"), ("teacher", "teacher"))
    ]
    facts.append(("Licences", Markup("; ").join(licence)))
    labels = kind_of(manifest.kind).labels
    return Markup(
        '<header><div class="eyebrow">Tutelage · report of a version</div>'
        '<h1>{} <span class="pill">{}</span></h1><p>{} on {} images, not a person.</p>'
        '<dl class="facts">{}</dl></header>'
    ).format(
        manifest.name,
        manifest.version,
        labels[:1].upper() + labels[1:],
        count(manifest.distinct),
        joined(Markup("<dt>{}</dt><dd>{}</dd>").format(name, value) for name, value in facts),
    )


def _verdict(manifest: Manifest) -> Markup:
    every, title = claims(manifest), headline(manifest)
    look, sign = LOOKS[every.standing]
    paragraphs = [paragraph.removeprefix(f"{title}: ") for paragraph in expected_quality(manifest)]
    body = joined(Markup("<p>{}</p>").format(text[:1].upper() + text[1:]) for text in paragraphs)
    return Markup(
        '<section class="card verdict {}"><div class="sign" aria-hidden="true">{}</div>'
        '<div><div class="eyebrow">Expected quality</div><h2>{}</h2></div><div class="body">{}</div></section>'
    ).format(look, sign, title, body)


def _classes(manifest: Manifest) -> Iterator[Markup]:
    """Each class by itself, those below the target first."""
    every = claims(manifest)
    if every.level is None:
        return
    order = sorted(every.classes, key=lambda claim: (not claim.flagged, -claim.kept, claim.name))
    columns = [("class", ""), ("kept", "num"), ("certified", ""), ("precision", "num"), ("recall", "num")]
    columns += [("labelled", "num"), ("", "")]
    first = max(CLASSES, len(every.flagged))
    body = [table(columns, map(_class_row, order[:first]))]
    if order[first:]:
        body.append(more(f"{len(order) - first} more classes", table(columns, map(_class_row, order[first:]))))
    yield section("Each class by itself", class_note(manifest), body)


def _class_row(claim: ClassClaim) -> list[str]:
    cells = [claim.name, count(claim.kept), class_certificate(claim)]
    if (found := claim.estimate) is None:
        return [*cells, "-", "-", "-", "no labels"]
    mark = _status("warn", f"below {claim.target:g}") if claim.flagged else ""
    precision = interval_text(found.precision, found.low, found.high)
    recall = interval_text(found.recall, found.recall_low, found.recall_high)
    return [*cells, precision, recall, count(found.objects), mark]


def _tiles(manifest: Manifest, tune: Matches | None) -> Markup:
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
    tile = Markup('<div class="tile"><b>{}</b><span>{}</span><small>{}</small></div>')
    return Markup('<div class="tiles">{}</div>').format(joined(tile.format(*texts) for texts in tiles))


def _density(manifest: Manifest, tune: Matches | None) -> tuple[str, str, str]:
    expected = ""
    if tune is not None and tune.images:
        expected = f"labels have {(tune.object_counts & (tune.object_label >= 0)).sum() / tune.images:.2f}"
    return f"{manifest.kept / max(1, manifest.samples):.2f}", "kept per image", expected


def _pool(manifest: Manifest) -> int:
    return manifest.images.get("pool") or sum(manifest.images.values())


def _gates(manifest: Manifest) -> Iterator[Markup]:
    findings = manifest.provenance.gates
    if findings:
        rows = [[_status(gate.status), gate.name.replace("_", " "), gate.message] for gate in findings]
        columns = [("status", ""), ("gate", ""), ("what it found", "")]
        yield section("Gates", "What had to hold before anything was written.", [table(columns, rows)])


def _status(status: str, text: str = "") -> Markup:
    shown = Markup('<span class="status {}"><i aria-hidden="true">{}</i>{}</span>')
    return shown.format(status, SIGNS.get(status, "?"), text or status)


def _evidence(manifest: Manifest) -> Markup:
    every, judged, kind = groups(manifest), claims(manifest), kind_of(manifest.kind)
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
        members = Markup('<span title="{}">{}</span>').format(", ".join(group.classes), short_members(group.classes))
        verdict = _group_verdict(manifest, judged, group)
        verdict += Markup("<br><small>{}</small>").format(group.reason) if group.reason else ""
        cells = [
            members,
            group.rule.replace("_", " "),
            "nothing kept" if group.threshold is None else f"{group.threshold:.4g}",
            verdict,
        ]
        rows.append([*cells, *(column[n] for _, column in shown)])
    body = [table(columns, rows)]
    if shown:
        body.append(
            Markup(
                '<p class="note below">Expected support: labelled {} to expect by the scores of the pool. n: '
                "labelled images or units; K and C: {} kept and right on them; n*: how many independent ones they are "
                "worth; p and lower bound: of the certified step. Uses of the certify half: <b>{}</b>.</p>"
            ).format(support, noun, judged.uses)
        )
    return section(
        "Thresholds and their evidence",
        f"From which score on {kind_of(manifest.kind).noun} are kept, and what says so.",
        body,
    )


def _group_verdict(manifest: Manifest, judged: Claims, group: Group) -> Markup:
    words = certificate(manifest, judged, group)
    if judged.certificate(group):
        return _status("ok", words)
    return _status("warn", words) if words != "no" else Markup("no")


def _number(value: float | int | None) -> str:
    if value is None:
        return ""
    return count(value) if isinstance(value, int) or value >= 100 else f"{value:.3g}"


def _fates(manifest: Manifest) -> Markup:
    """Why labels, and what became of images: two cards side by side."""
    predicted = max(1, manifest.objects.get("predicted", 0))
    dropped = manifest.objects.get("predicted", 0) - manifest.kept - manifest.ignored
    parts = (("k", "kept", manifest.kept), ("g", "ignored", manifest.ignored), ("d", "dropped", dropped))
    stack = joined(Markup('<i class="{}" style="flex:{}"></i>').format(kind, n) for kind, _, n in parts if n)
    line = Markup('<li><i class="{}"></i>{} {} ({})</li>')
    legend = joined(line.format(kind, name, count(n), percent(n / predicted)) for kind, name, n in parts)
    bars = Markup('<div class="stack" aria-hidden="true">{}</div><ul class="legend">{}</ul>').format(stack, legend)
    reasons = [(key, n) for key, n in manifest.objects.items() if n and key not in ("predicted", Reason.KEPT.key)]
    noun = kind_of(manifest.kind).noun
    columns = [("reason", ""), (noun, "num"), ("share", "num")]
    rows = (
        [BY_KEY[key].words if key in BY_KEY else key.replace("_", " "), count(n), percent(n / predicted)]
        for key, n in sorted(reasons, key=lambda item: (-item[1], item[0]))
    )
    boxes = section(f"Why {noun} are not kept", "", [bars, table(columns, rows)])
    states = [(s, n) for s, n in manifest.images.items() if n and s != "pool"]
    total = max(1, _pool(manifest))
    images = table(
        [("images", ""), ("", ""), ("count", "num"), ("share", "num")],
        (
            [s, IMAGES.get(s, ""), count(n), percent(n / total)]
            for s, n in sorted(states, key=lambda item: (-item[1], item[0]))
        ),
    )
    fates = section("What became of the images", "", [images])
    return Markup('<div class="two">{}{}</div>').format(boxes, fates)


def _provenance(manifest: Manifest) -> Markup:
    provenance = manifest.provenance
    rows: list[Sequence[str]] = [("made with", provenance.tool)]
    rows.append(("pool", ID.format(provenance.inputs.pool)))
    rows.append(("predictions", ID.format(provenance.inputs.predictions)))
    if truth := provenance.truth:
        halves = f"{truth.tune} to tune, {truth.certify} to certify"
        rows.append(("labels", f"{truth.images} images: {halves}; certify half {used(manifest)}"))
    if provenance.calibration:
        rows.append(("calibration", "thresholds act on scores calibrated on the labels"))
    size = sum(shard.bytes for shard in manifest.shards)
    rows.append(("shards", f"{len(manifest.shards)}, {size / 1e6:.1f} MB"))
    body = [table([("", ""), ("", "")], rows)]
    if recipe := provenance.recipe:
        text = yaml.safe_dump(recipe, sort_keys=False)
        body.append(more("The recipe", Markup("<pre><code>{}</code></pre>").format(text)))
    return section("Provenance", "The same inputs give the same version, byte for byte.", body)

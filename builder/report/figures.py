"""The sections of a report that are pictures: scores, curves, class balance, borderline boxes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from markupsafe import Markup

from builder.evidence.calibrate import curve, outcomes, reliability
from builder.evidence.claims import keep_section
from builder.evidence.matching import Matches
from builder.kinds import kind_of
from builder.report.borderline import Close, Tile, closest, crops
from builder.report.charts import histogram, quality
from builder.report.page import bar, joined, more, picture, section, table
from builder.report.paint import map_legend, map_pictures
from builder.report.quality import thresholds
from builder.rules.scores import PoolScores, counted
from builder.store.manifest import Manifest
from builder.store.version import Version
from builder.words import count, percent, short

CHARTS = 12
"""Classes with a histogram of scores, those with the most boxes."""
CURVES = 7
"""Classes with curves of their own, those with the most labelled objects."""
BALANCE = 20
"""Classes in the table of class balance; the rest is folded away."""
FIGURE = Markup("<figure><figcaption><b>{}</b> · {}</figcaption>{}</figure>")
PAIRS = Markup('<div class="pairs">{}</div>')


def scores_section(manifest: Manifest, scores: PoolScores) -> Markup:
    solved = thresholds(manifest)
    keep, ignore = solved.kept_from, solved.ignored_from
    kind, noun = kind_of(manifest.kind), kind_of(manifest.kind).noun
    order = [n for n in _ranked(manifest) if scores.objects[n].any()]
    charts = []
    for n in order[:CHARTS]:
        name, counts = manifest.classes[n], manifest.per_class[manifest.classes[n]]
        caption = f"{short(counts['kept'])} kept, {short(counts['ignored'])} ignored"
        alt = (
            f"Histogram of the scores of {name}: {caption}; {_limit('kept', keep[n])}, {_limit('ignored', ignore[n])}."
        )
        chart = picture(histogram(scores.objects[n], keep[n], ignore[n], noun), "image/svg+xml", alt)
        charts.append(FIGURE.format(name, caption, chart))
    legend = Markup(
        '<ul class="legend"><li><i class="k"></i>kept, from the solid line on</li>'
        '<li><i class="g"></i>{}, from the dashed line on</li><li><i class="d"></i>dropped</li></ul>'
    ).format("ignore region" if kind.overlaps else "nearly kept")
    body = [legend, Markup('<div class="charts">{}</div>').format(joined(charts))]
    if rest := order[CHARTS:]:
        columns = [("class", "")] + [(c, "num") for c in ("predicted", "keep from", "ignore from", "kept", "ignored")]
        body.append(
            more(f"{len(rest)} more classes", table(columns, (_class_row(manifest, n, keep, ignore) for n in rest)))
        )
    note = "What the teacher predicted, class by class, and where the thresholds cut."
    note += " Counted after NMS and cap." if kind.overlaps else ""
    return section("Scores and thresholds", note, body)


def _limit(what: str, at: float) -> str:
    return f"{what} from {at:.3g} on" if np.isfinite(at) else f"none is {what} by score"


def _class_row(manifest: Manifest, n: int, keep: np.ndarray, ignore: np.ndarray) -> list[str]:
    counts = manifest.per_class[manifest.classes[n]]
    cuts = [f"{limit[n]:.3g}" if np.isfinite(limit[n]) else "-" for limit in (keep, ignore)]
    return [
        manifest.classes[n],
        count(counts["predicted"]),
        *cuts,
        count(counts["kept"]),
        count(counts["ignored"]),
    ]


def curves_section(manifest: Manifest, tune: Matches) -> Markup:
    options = keep_section(manifest).get("precision")
    options = options if isinstance(options, dict) else {}
    iou = options["iou"] if options.get("iou") in tune.ious else tune.ious[0]
    kind, objects = kind_of(manifest.kind), _labelled(tune)
    order = sorted(np.flatnonzero(tune.shared & (objects > 0)), key=lambda n: (-objects[n], n))[:CURVES]
    keep = thresholds(manifest).kept_from
    same = keep[0] if len(keep) and bool((keep == keep[0]).all()) else float("nan")
    figures = []
    for name, labels, at in [("All classes", None, same), *((tune.classes[n], [int(n)], keep[n]) for n in order)]:
        points = curve(tune, iou, labels)
        score, right, rows = outcomes(tune, iou, labels)
        weight = tune.weights(rows)
        if not len(score):
            continue
        trust = reliability(score, right, bins=int(np.clip(len(score) // 10, 1, 10)), weight=weight)
        predicted = f"{count(len(score))} predictions" if weight is None else f"{short(weight.sum())} predicted"
        labelled = "objects" if kind.overlaps else f"labelled {kind.noun}"
        summary = f"{short(points.objects)} {labelled}, {predicted}, calibration error {trust.error:.3f}"
        alt = f"Precision over recall and share right over score of {name}: {summary}."
        chart = picture(quality(points, trust, float(at), options.get("target")), "image/svg+xml", alt)
        figures.append(FIGURE.format(name, summary, chart))
    at = f", at IoU {iou:g}" if kind.overlaps else ""
    note = (
        f"Predictions matched with the {count(tune.images)} labelled images of the half that certifies nothing{at}"
        f". Dots: where the thresholds lie (left), scores as they came true, on the dashed line if they can be "
        "taken at their word (right, the line is the threshold). Estimates to look at, no promise: few objects scatter."
    )
    return section("Precision, recall and reliability", note, [PAIRS.format(joined(figures))])


def _labelled_noun(manifest: Manifest) -> str:
    return "objects" if kind_of(manifest.kind).overlaps else kind_of(manifest.kind).noun


def _labelled(tune: Matches) -> np.ndarray:
    """Labelled objects of each class, of maps pixels; int64 (C,)."""
    known = tune.object_counts & (tune.object_label >= 0)
    return counted(tune.object_label[known], tune.object_weights(known), len(tune.classes))


def balance_section(manifest: Manifest, tune: Matches | None) -> Markup:
    kept = np.array([manifest.per_class[name]["kept"] for name in manifest.classes], np.float64)
    share = kept / max(1.0, kept.sum())
    truth = np.full(len(kept), np.nan)
    if tune is not None:
        objects = _labelled(tune).astype(np.float64)
        truth[tune.shared] = (objects / max(1.0, objects.sum()))[tune.shared]
    widest = max(float(share.max(initial=0)), float(np.nanmax(truth, initial=0)), 1e-9)
    columns = [("class", ""), ("kept", "num"), ("share", "num")]
    columns += [("in labels", "num")] if tune is not None else []
    columns += [("", "bars")]

    def row(n: int) -> list[str]:
        cells = [manifest.classes[n], count(kept[n]), percent(share[n])]
        cells += [percent(truth[n])] if tune is not None else []
        return [*cells, bar(share[n] / widest, "k", truth[n] / widest)]

    order = [n for n in _ranked(manifest) if kept[n] or truth[n] > 0]
    body = [table(columns, map(row, order[:BALANCE]))]
    if order[BALANCE:]:
        body.append(more(f"{len(order) - BALANCE} more classes", table(columns, map(row, order[BALANCE:]))))
    missing = len(kept) - len(order)
    noun, labelled = kind_of(manifest.kind).noun, _labelled_noun(manifest)
    note = f"Which classes the kept {noun} are of" + (
        f"; the blue mark is their share among labelled {labelled}." if tune is not None else "."
    )
    note += f" Nothing is kept of the other {missing} classes." if missing else ""
    return section("Class balance", note, body)


def borderline_section(version: Version, tile: Tile | None = None) -> Iterator[Markup]:
    """The labels closest to their thresholds; tile: see `crops`."""
    manifest, boxes = version.manifest, closest(version)
    tiles = list(zip(boxes, crops(version, boxes, tile), strict=True))
    parts = []
    kind = kind_of(manifest.kind)
    for outcome, title in (("kept", "Just kept"), ("ignored", "Just not kept: ignore regions")):
        shown = [_tile(manifest, box, data) for box, data in tiles if box.outcome == outcome and data is not None]
        if shown:
            parts.append(Markup('<h3>{}</h3><div class="sheet">{}</div>').format(title, joined(shown)))
    if parts:
        note = (
            f"The {kind.noun} closest to their threshold, spread over the classes. They were picked by score, not at "
            "random: how many of them are right says nothing of the version."
        )
        yield section(f"Borderline {kind.noun}", note, parts)


MAPS = 6
"""Images that are shown with their maps."""


def maps_section(version: Version) -> Iterator[Markup]:
    """Some images beside their maps, spread evenly over the version."""
    figures = []
    for key, data in map_pictures(version, MAPS):
        shown = picture(data, "image/jpeg", f"Image {key}, and its map in the colours of the legend, void pixels grey")
        figures.append(Markup('<figure class="map" title="{}">{}</figure>').format(key, shown))
    if figures:
        line = Markup('<li><i style="background:{}"></i>{}</li>')
        legend = joined(line.format(colour, name) for name, colour in map_legend(version.manifest))
        note = "Images spread evenly over the version, and what is taught of them; grey pixels are void."
        body = [Markup('<ul class="legend">{}</ul>').format(legend), PAIRS.format(joined(figures))]
        yield section("Maps", note, body)


def _tile(manifest: Manifest, box: Close, data: bytes) -> Markup:
    name = manifest.classes[box.label]
    alt = f"Part of image {box.key} with a box {box.outcome} as {name}, score {box.confidence:.3f}"
    gap = f"{box.confidence - box.threshold:+.4f}"
    caption = Markup("<b>{}</b><br>{:.4f} <small>({})</small>").format(name, box.confidence, gap)
    shown = picture(data, "image/jpeg", alt)
    return Markup('<figure title="{}">{}<figcaption>{}</figcaption></figure>').format(box.key, shown, caption)


def _ranked(manifest: Manifest) -> list[int]:
    """Classes by kept boxes, then by predictions, the most first."""
    counts = [manifest.per_class[name] for name in manifest.classes]
    return sorted(range(len(counts)), key=lambda n: (-counts[n]["kept"], -counts[n]["predicted"], n))

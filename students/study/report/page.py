"""What a study leaves for its readers: results.parquet, tables.md, the plots, and one page with all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from markupsafe import Markup

from builder.errors import BuildError
from builder.report.page import more, page, picture, section, table
from builder.store.files import write_file
from builder.words import count
from students.study.axes import Axes, Cells, Setting, axes, index, shares
from students.study.compare import DRAWS, LEAST, Comparison, arms_compared, compare_all, image_interval, redraw
from students.study.declared import changed
from students.study.grid import cells as planned_cells
from students.study.recipe import StudyRecipe
from students.study.report.answers import Answer, answers, columns, controls, headline
from students.study.report.budget import budget_table, missing_table
from students.study.report.claims import Claim, Starts, claims
from students.study.report.gain import ELSEWHERE, gain
from students.study.report.plots import NAMES, Plot, plots
from students.study.report.tables import Table, contrast_table, html, markdown, tables
from students.study.results import RESULTS, CellResult, write_results

LOOKS = {
    "holds here": "certified",
    "holds in part": "partly",
    "does not hold": "adaptive",
    "not shown": "unknown",
    "direction only": "unknown",
}
"""Verdict on a claim -> how its card looks."""
TRENDS = {1: "↑", 0: "≈", -1: "↓"}
"""Of a result: higher, neither, lower."""
RULE = (
    "By one rule, from networks of the same seed: a claim holds here if every comparison has the claimed sign with "
    "p < .05 (t-test over seeds, Holm over the claim's comparisons and their average), in part if some have, or their "
    "average; it does not hold if one has the other sign with p < .05; else it is not shown, which does not refute it. "
    f"With fewer than {LEAST} seeds there is a direction only."
)
IMAGES = (
    "p: paired t-test over seeds. Over images: 95 % of "
    f"{DRAWS} draws of test images, the same for both sides, for these very networks; it says nothing of other seeds."
)
COLUMNS = {
    "ceiling": "Ceiling: the pool with its true labels, less the same arm.",
    "of it": "Of it: the difference as a share of the ceiling's.",
    "placebo": "Placebo: the labelled images in the pool's place, less the same arm.",
}
"""Of the controls of primary contrasts, and what they say."""
BRACKETS = f"In brackets: 95 % intervals over seeds, or below {LEAST} seeds the least and the most."
SHOWN = 5
"""Images that look like test ones that are named; the others are counted."""


def write_report(results: Sequence[CellResult], study: StudyRecipe, out: Path, alike: Sequence[str] = ()) -> None:
    """Write `results.parquet`, `tables.md`, the plots (students.study.report.plots.NAMES) as SVG and PNG, and
    `index.html`, which loads nothing from elsewhere, into the folder `out`, where the cells' outcomes of test images
    lie. What the study asked comes first. alike: sentences of students.study.data.likenesses.

    The same results, in any order, give the same bytes. Raises BuildError without results, for results of several
    studies, and for outcomes that do not fit them.
    """
    if not results:
        raise BuildError(f"study {study.name} has no cells yet: run `tutelage study` first")
    planned = planned_cells(study)
    cells = index(results, [Setting(c.arm, c.augment, c.init, c.fraction, c.alpha, c.round) for c in planned])
    grid = axes(cells, tuple(study.grid.augment), tuple(study.grid.init), study.measure)
    grid = replace(grid, seeds=tuple(study.replicates))
    drawn = redraw(results, out)
    judged = claims(cells, grid, starts(study))
    details = {claim.subject.name: _details(claim, cells, drawn) for claim in judged if claim.comparisons}
    asked = answers(_primary(cells, study), cells, grid.metric)
    when = _declared(changed(study, out), len(asked), _unfinished(results, len(planned)))
    primary = [_answered(asked, cells, drawn, when)] if asked else []
    caution = _caution(results, len(planned), grid, alike)
    lost = missing_table(cells, grid)
    rest = [*tables(cells, grid), budget_table(cells, grid), *([lost] if lost.rows else [])]
    picture_of, lead = gain(cells, grid), _lead(results, len(planned), grid, study)
    first, others = ([picture_of], plots(cells, grid, ELSEWHERE)) if picture_of else ([], plots(cells, grid))
    body = [
        Markup('<header><div class="eyebrow">Tutelage · study</div><h1>{}</h1>\n<p>{}</p></header>').format(
            study.name, lead
        ),
        *([_answers(asked, when)] if asked else []),
        *map(_figure, first),
        *(_card(claim, details[claim.subject.name]) for claim in judged if claim.verdict != "not tested"),
        _untested([claim for claim in judged if claim.verdict == "not tested"]),
        *(Markup('<p class="note below">{}</p>').format(text) for text in (RULE, *caution)),
        *map(_table, primary),
        *map(_figure, others),
        *map(_table, rest),
    ]
    write_results(out / RESULTS, results)
    for name in NAMES:  # of an earlier report with more axes
        for end in ("svg", "png"):
            (out / f"{name}.{end}").unlink(missing_ok=True)
    write_file(
        out / "tables.md",
        _markdown(study.name, _first(asked, first), [lead, *caution], judged, [*primary, *rest, *details.values()]),
    )
    for plot in (*first, *others):
        write_file(out / f"{plot.name}.svg", plot.svg)
        write_file(out / f"{plot.name}.png", plot.png)
    write_file(out / "index.html", page(f"{study.name}: study", body))


def starts(study: StudyRecipe) -> Starts:
    """Which starts of the grid are random, and which pre-trained on labels or without: by `pretrain`, or a name that
    begins with `simclr`. A start from a `checkpoint` is neither."""
    random, labelled, unlabelled = [], [], []
    for name, start in study.grid.init.items():
        if start.pretrain is not None or name.lower().startswith("simclr"):
            unlabelled.append(name)
        elif start.pretrained is not None:
            labelled.append(name)
        elif start.checkpoint is None:
            random.append(name)
    return Starts(random[0] if random else None, tuple(labelled), tuple(unlabelled))


def _primary(cells: Cells, study: StudyRecipe) -> list[Comparison]:
    """The declared contrasts, one family."""
    declared = chain.from_iterable(
        arms_compared(cells, contrast.arm, contrast.against, {"round": 1, **contrast.where})
        for contrast in study.primary
    )
    return compare_all(list({contrast.terms: contrast for contrast in declared}.values()), cells)


def _declared(changed: Sequence[str], family: int, unfinished: bool) -> str:
    """Whether the primary contrasts are what was declared, and what their p-values are adjusted over."""
    when = "Declared in the study's recipe before its first figure"
    if changed:
        words = {"primary": "these contrasts", "seeds": "the number of seeds"}
        what = " and ".join(words[key] for key in changed)
        when = f"Not as declared: {what} changed after the first figures, so that p-values here are no evidence"
    when += f"; p (Holm) is adjusted over all {family}" if family > 1 else ""
    return f"{when}.{' Not finished: provisional.' if unfinished else ''}"


def _answered(asked: Sequence[Answer], cells: Cells, drawn: Mapping[str, np.ndarray], when: str) -> Table:
    compared = [(answer.comparison, image_interval(answer.comparison, cells, drawn)) for answer in asked]
    beside = columns(asked)
    more = "".join(f" {COLUMNS[name]}" for name in beside)
    return contrast_table("Primary contrasts", f"{when} {IMAGES}{more}", compared, beside)


def _answers(asked: Sequence[Answer], when: str) -> Markup:
    """The primary contrasts in words, with an arrow each."""
    line = Markup(
        '<div class="verdict {}" style="margin-top:{}px"><div class="sign" aria-hidden="true">{}</div><div>{}'
        '<h2{}>{} <span style="font-weight:400">{}</span></h2></div>{}</div>'
    )
    many = len(asked) > 1
    body = [
        line.format(
            {1: "certified", -1: "adaptive", 0: "unknown"}[answer.comparison.sign],
            14 if many else 10,
            TRENDS[answer.trend],
            Markup('<div class="eyebrow">{}</div>').format(answer.where) if answer.where else "",
            Markup(' style="font-size:17px"') if many else "",
            *map(_tied, headline(answer)),
            Markup('<div class="body"><p>{}</p></div>').format(_tied(" ".join(said)))
            if (said := controls(answer))
            else "",
        )
        for answer in asked
    ]
    title = "What the study asked"
    when += f" {BRACKETS}" if any(map(controls, asked)) else ""
    whole = Markup('<section class="card"><div class="eyebrow">{}</div>{}<p class="note below">{}</p></section>')
    return whole.format(title, Markup("").join(body), when)


def _tied(text: str) -> str:
    """No line begins with a percent sign."""
    return text.replace(" %", "\u00a0%")


def _details(claim: Claim, cells: Cells, drawn: Mapping[str, np.ndarray]) -> Table:
    compared = [(comparison, image_interval(comparison, cells, drawn)) for comparison in claim.comparisons]
    note = f"What its verdict rests on; p (Holm) is adjusted over these {len(compared)}. {IMAGES}"
    return contrast_table(claim.subject.name, note, compared)


def _lead(results: Sequence[CellResult], planned: int, grid: Axes, study: StudyRecipe) -> str:
    """What was run, in two or three sentences."""
    done, failed = sum(result.done for result in results), sum(bool(result.error) for result in results)
    text = f"{count(done)} networks" if done == planned else f"{count(done)} of {count(planned)} networks"
    text += f" ({count(failed)} failed)" if failed else ""
    seeds = "1 seed" if len(grid.seeds) == 1 else f"{len(grid.seeds)} seeds"
    text += (
        f", measured by {grid.metric} on the {grid.images} images: {seeds}; augmentation {', '.join(grid.augments)}; "
        f"{', '.join(grid.inits)} init; {shares(grid.fractions)}; arms {', '.join(grid.arms)}."
    )
    if augment := study.teacher.augment:
        own = augment if isinstance(augment, str) else ", ".join(f"{key} {value}" for key, value in augment.items())
        text += f" All teachers learn with {own}."
    if grid.images == "val":
        text += " Measured on val, to choose settings by: no figure here is a result."
    return f"{text} What holds here holds for this data, these networks and this budget."


def _unfinished(results: Sequence[CellResult], planned: int) -> bool:
    return sum(result.done or bool(result.error) for result in results) < planned


def _caution(results: Sequence[CellResult], planned: int, grid: Axes, alike: Sequence[str]) -> list[str]:
    """What limits all that the report says: paragraphs."""
    same = "All seeds share the test images, the pool, and the labelled set that their subsets are drawn from"
    if grid.fractions[-1] == 1:
        same += "; with 100 % of the labels they learn from the same images, and differ in starts and orders alone"
    paragraphs = [f"{same}."]
    if _unfinished(results, planned):
        paragraphs.append(
            "Not finished: verdicts and p-values are provisional, and a study stopped as soon as one likes them errs "
            "far more often than 5 %."
        )
    if alike:
        listed = "; ".join(alike[:SHOWN]) + (f"; and {count(len(alike) - SHOWN)} more" if len(alike) > SHOWN else "")
        paragraphs.append(
            f"Images to learn from that look like one of {grid.images}, so that figures may flatter, "
            f"{count(len(alike))}: {listed}. Where they show the same thing, take them out and run the study again."
        )
    return paragraphs


def _card(claim: Claim, details: Table) -> Markup:
    """What was found, large, and below it, small, what the paper claims and how that stands here."""
    shown = more("What this rests on", Markup('<p class="note">{}</p>{}').format(details.note, html(details)))
    return Markup(
        '<section class="card verdict {}"><div class="sign" aria-hidden="true">{}</div>'
        '<div><div class="eyebrow">{}</div><h2>{}</h2></div><div class="body"><p>{}</p>'
        '<p class="note"><small>The paper\'s claim: “{}” <b>{}</b></small></p>{}</div></section>'
    ).format(
        LOOKS[claim.verdict],
        TRENDS[claim.trend],
        claim.subject.name,
        claim.result,
        claim.why,
        claim.subject.claim,
        f"{claim.verdict.capitalize()}.",
        shown,
    )


def _untested(rest: Sequence[Claim]) -> Markup:
    rows = [[claim.subject.claim, claim.why] for claim in rest]
    return section("Claims not tested", "", [table([("", ""), ("", "")], rows)]) if rows else Markup("")


def _table(content: Table) -> Markup:
    return section(content.title, content.note, [html(content)])


def _figure(plot: Plot) -> Markup:
    """As wide as it can be read, and never blown up."""
    shown = picture(plot.svg, "image/svg+xml", plot.says)
    figure = Markup(
        '<figure style="max-width:{:.0f}px;overflow-x:auto"><div style="min-width:{:.0f}px">{}</div></figure>'
    )
    return section(plot.title, plot.note, [figure.format(135 * plot.width, min(608, 61 * plot.width), shown)])


def _first(asked: Sequence[Answer], pictures: Sequence[Plot]) -> list[str]:
    """The primary contrasts in words, and the picture of the study, as lines of Markdown."""
    lines = []
    for answer in asked:
        found, sure = headline(answer)
        where = f"{answer.where}: " if answer.where else ""
        lines.append(" ".join([f"- {where}**{found}**{f' {sure}' if sure else ''}.", *controls(answer)]))
    lines += [""] * bool(lines)
    for plot in pictures:
        lines += [f"![{plot.says}]({plot.name}.png)", "", plot.note, ""]
    return lines


def _markdown(
    name: str, first: Sequence[str], lead: Sequence[str], judged: Sequence[Claim], every: Sequence[Table]
) -> bytes:
    verdicts = [
        f"- **{claim.result}**. {claim.subject.name}. {claim.why} The paper's claim, “{claim.subject.claim}”: "
        f"{claim.verdict}."
        for claim in judged
        if claim.result
    ]
    verdicts += [f"- **Not tested**: “{claim.subject.claim}” {claim.why}" for claim in judged if not claim.result]
    head = [
        f"# {name}",
        "",
        *first,
        "\n\n".join(lead),
        "",
        "## The paper's claims",
        "",
        *verdicts,
        "",
        RULE,
        "",
        "## Tables",
        "",
    ]
    return "\n".join([*head, *map(markdown, every)]).encode()

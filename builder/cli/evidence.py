"""`tutelage calibrate` and `tutelage sweep`: what human labels say of a teacher's predictions, before any cut."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.options import allow_code_option, json_option, sentences, store_option, workers_option
from builder.cli.output import bar, rows

if TYPE_CHECKING:
    from builder.evidence.sweep import Point
    from builder.measure import TuneHalf


TABLES = 10
"""Classes of which `sweep` prints a table of their own, those with the most objects."""
SHOWN = (0.3, 0.5, 0.7, 0.9)
"""Thresholds of the table of `calibrate`."""


def evidence_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands take."""
    path = click.Path(path_type=Path)
    options = [
        click.argument("ref", metavar="PREDICTIONS"),
        click.option("--truth", metavar="LABELS", help="Held-out human labels.  [default: the recipe's truth]"),
        click.option("--truth-images", "--images", type=path, help="Where their image files lie, if not beside them."),
        click.option(
            "--format",
            "format_",
            type=click.Choice(["coco", "voc", "yolo", "classes", "masks"]),
            help="Of the labels, where it cannot be recognised.",
        ),
        click.option(
            "--group",
            metavar="folder|REGEX",
            help="Which images belong together: by folder, or by a group in the name.",
        ),
        click.option("--teacher", "spec", help="The teacher of PREDICTIONS, to label the truth where it is not yet."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="An option of that teacher."),
        allow_code_option,
        click.option(
            "--iou",
            type=click.FloatRange(0, 1, min_open=True),
            default=0.5,
            show_default=True,
            help="Overlap that makes a box or mask right.",
        ),
        click.option("--per-class", is_flag=True, help="Also every class for itself."),
        click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write a PNG of the curves."),
        store_option,
        workers_option,
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@evidence_options
def calibrate(
    ref: str,
    truth: str | None,
    truth_images: Path | None,
    format_: str | None,
    group: str | None,
    spec: str | None,
    overrides: tuple[str, ...],
    allow_code: bool,
    iou: float,
    per_class: bool,
    plot: Path | None,
    store_root: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Say how far the scores of PREDICTIONS can be believed.

    PREDICTIONS is an id prefix or a RECIPE.yaml. Prints precision and recall by threshold and by size of object, and
    how often predictions of each score are right: raw, and after temperature scaling and isotonic regression, both
    measured on images that they were not fitted on. Only the tune half of the labels is looked at: a recipe chosen by
    these figures is chosen on that half, which then no longer measures it without bias; the certify half still does.
    """
    with sentences():
        from builder.evidence.calibrate import describe, reliabilities
        from builder.kinds import kind_of

        found = gather(ref, (truth, truth_images, format_, group), (spec, overrides), store_root, workers, allow_code)
        by_size = {name: found.match(iou, area) for name, area in found.sizes.items()}
        value = found.describe(by_size["all"], iou) | describe(by_size, iou, per_class)
        if plot:
            from builder.report.evidence_charts import plot_calibration

            plot_calibration(plot, by_size, reliabilities(by_size["all"], iou), iou, kind_of(value["kind"]))
        if as_json:
            click.echo(json.dumps(value))
            return
        click.echo(rows(*_heading(value)))
        _show_groups([group for group in value["groups"] if group["class"] is None], "size", value["of"])
        if per_class:
            own = [group for group in value["groups"] if group["class"] and group["size"] == "all"]
            _show_groups(own, "class", value["of"])
        _show_reliability(value)


@click.command()
@evidence_options
@click.option("--pool", metavar="POOL", help="The pool to sweep over, where PREDICTIONS are of several.")
def sweep(
    ref: str,
    truth: str | None,
    truth_images: Path | None,
    format_: str | None,
    group: str | None,
    spec: str | None,
    overrides: tuple[str, ...],
    allow_code: bool,
    iou: float,
    per_class: bool,
    plot: Path | None,
    store_root: str,
    workers: int | None,
    as_json: bool,
    pool: str | None,
) -> None:
    """Say what each threshold would keep of the pool of PREDICTIONS, and how good it is. No shards are written.

    PREDICTIONS is an id prefix or a RECIPE.yaml, whose NMS, cap and calibration are then used. Only the tune half of
    the labels is looked at: a recipe chosen by these figures is chosen on that half, which then no longer measures it
    without bias; the certify half still does. The row marked = is the score at which an image of the pool keeps as
    much as the labels show on one.
    """
    with sentences():
        from dataclasses import asdict

        from builder.evidence.calibrate import occurring
        from builder.evidence.sweep import LEVEL
        from builder.evidence.sweep import sweep as run_sweep
        from builder.rules.labelled import LabelledPool, pool_scores

        found = gather(ref, (truth, truth_images, format_, group), (spec, overrides), store_root, workers, allow_code)
        swept = found.pool(pool, workers, bar)
        tune, calibration = found.calibrated(found.match(iou), iou)
        labelled = LabelledPool(swept, found.folder, tune.classes, found.keep, calibration)
        scores = pool_scores(labelled, workers, bar)
        chosen: dict[str, list[int] | None] = {"all classes": None}
        if per_class:
            chosen |= {tune.classes[n]: [n] for n in occurring(tune, iou)}
        points = {name: run_sweep(tune, scores, labels, iou=iou) for name, labels in chosen.items()}
        if plot:
            from builder.report.evidence_charts import plot_sweep

            plot_sweep(plot, points["all classes"], LEVEL)
        value = found.describe(tune, iou) | {
            "pool": swept.id,
            "pool_images": scores.images,
            "calibration": found.keep.calibration,
            "level": LEVEL,
        }
        if as_json:
            listed = {name: [asdict(point) for point in some] for name, some in points.items()}
            click.echo(json.dumps(value | {"points": listed}))
            return
        _show_sweep(value, points)


def gather(
    ref: str,
    labels: tuple[str | None, Path | None, str | None, str | None],
    teacher: tuple[str | None, tuple[str, ...]],
    store_root: str,
    workers: int | None,
    allow_code: bool,
) -> TuneHalf:
    """What the options ask for; labels: source, images, format and group."""
    from builder.measure import of_predictions, of_recipe
    from builder.store.store import Store
    from builder.truth.options import LabelOptions

    source, images, format_, group = labels
    if teacher[1] and not teacher[0]:
        raise click.UsageError("--set belongs to --teacher SPEC: give that too")
    given = source and LabelOptions.model_validate(
        {"source": source, "images": images and str(images), "format": format_, "group": group}
    )
    if not given and (images or format_ or group):
        raise click.UsageError("--truth-images, --format and --group belong to --truth LABELS: give that too")
    if Path(ref).suffix in (".yaml", ".yml"):
        if teacher[0]:
            raise click.UsageError(f"--teacher: {ref} names the teacher: leave it out")
        return of_recipe(Path(ref), given or None, Store(store_root), workers, bar, allow_code)
    if not given:
        raise click.UsageError("--truth LABELS is missing: only a RECIPE.yaml can name them")
    return of_predictions(ref, given, teacher, Store(store_root), workers, bar, allow_code)


def _heading(value: dict[str, Any]) -> Iterable[tuple[str, object]]:
    from builder.kinds import kind_of

    images = value["images"]
    left_out = f"; {images['left_out']} left out (unreadable or twice there)" if images["left_out"] else ""
    half = f"{images['tune']} of {images['all']} images; the certify half is not touched{left_out}"
    count = value["units"]
    grouped = f" in {count} unit{'' if count == 1 else 's'}" if count != images["tune"] else ""
    yield "predictions", value["predictions"][:12]
    yield "truth", value["truth"]
    yield "tune half", half.replace(" images;", f" images{grouped};", 1)
    at = f" at IoU {value['iou']:g}" if kind_of(value["kind"]).overlaps else ""
    yield "matched", f"{value['predicted']} {value['of']}{at}, {value['right']} right"


def _print(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _count(value: float) -> str:
    """Of an image: two decimals, but for the pixels of maps, which are many."""
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _show_groups(groups: Sequence[dict[str, Any]], by: str, noun: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    columns = [f"P / R at {threshold:g}" for threshold in SHOWN]
    table = Table(by, "objects", noun, "right", *columns)
    ranked = sorted(groups, key=lambda group: -group["objects"]) if by == "class" else groups
    for group in ranked[:20]:
        places = [group["threshold"].index(threshold) for threshold in SHOWN]
        figures = [f"{_figure(group['precision'][n])} / {_figure(group['recall'][n])}" for n in places]
        counts = (str(group[name]) for name in ("objects", "predictions", "right"))
        table.add_row(escape(str(group[by])), *counts, *figures)
    _print(table)
    if len(ranked) > 20:
        click.echo(f"and {len(ranked) - 20} more classes: --json shows all")


def _show_reliability(value: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("score", value["of"], "right", title="raw scores", title_justify="left")
    raw = value["reliability"]["raw"]
    for confidence, count, right in zip(raw["confidence"], raw["count"], raw["right"], strict=True):
        table.add_row(f"{confidence:.3f}", str(count), f"{right:.3f}")
    _print(table)
    errors = value["expected_calibration_error"]
    text = ", ".join(f"{name} {'-' if error is None else format(error, '.3f')}" for name, error in errors.items())
    click.echo(f"expected calibration error  {text}  (calibrated: on images not fitted on)")
    for kind, fitted in value["calibrators"].items():
        if fitted:
            click.echo(f"{kind:<26}  classes with enough {value['of']} for a map of their own: {len(fitted['own'])}")


def _show_sweep(value: dict[str, Any], points: dict[str, list[Point]]) -> None:
    lines = [*_heading(value), ("pool", f"{value['pool'][:12]}  {value['pool_images']} labelled images")]
    if value["calibration"] != "none":
        lines.append(("scores", f"calibrated, {value['calibration']}, on the tune half itself"))
    click.echo(rows(*lines))
    for name, some in islice(points.items(), TABLES + 1):
        _show_points(name, some, value["level"])
    if len(points) > TABLES + 1:
        click.echo(f"and {len(points) - TABLES - 1} more classes: --json shows all")
    if any(point.is_density for some in points.values() for point in some):
        click.echo(f"= as many {value['of']} for an image of the pool as true ones on a labelled one")


def _show_points(name: str, points: Sequence[Point], level: float) -> None:
    from rich.markup import escape
    from rich.table import Table

    interval = f"{level:.0%} interval"
    table = Table(title=escape(name), title_justify="left")
    some_iou = ["mIoU"] if any(p.miou is not None for p in points) else []
    for column in (
        "score",
        "kept in pool",
        "an image",
        "(truth)",
        "precision",
        interval,
        "recall",
        interval,
        *some_iou,
    ):
        table.add_column(column, justify="right")
    for p in points:
        table.add_row(
            f"{'= ' if p.is_density else ''}{p.threshold:.3f}",
            str(p.pool_boxes),
            _count(p.per_image),
            _count(p.objects_per_image),
            _figure(p.precision),
            f"{p.precision_low:.2f} - {p.precision_high:.2f}",
            _figure(p.recall),
            f"{p.recall_low:.2f} - {p.recall_high:.2f}",
            *([_figure(p.miou)] if some_iou else []),
        )
    _print(table)

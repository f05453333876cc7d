"""`tutelage calibrate` and `tutelage sweep`: measure a teacher's predictions on human labels before anything is cut."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.options import (
    allow_code_option,
    counted_first,
    counted_from_option,
    json_option,
    open_store,
    sentences,
    store_option,
    workers_option,
)
from builder.cli.output import bar, class_table, rows, say, table

if TYPE_CHECKING:
    from builder.evidence.planning import Need
    from builder.evidence.sweep import Point
    from builder.measure import MeasureOptions


TABLES = 10
"""Classes of which `sweep` prints a table of their own, those with the most objects."""
PLANNED = 12
"""Rows of the plan that `sweep` prints."""
SHOWN = (0.3, 0.5, 0.7, 0.9)
"""Thresholds of the table of `calibrate`."""
WIDTH = 110
"""Characters of a table that goes to a file or pipe."""


MEASURED = (
    click.argument("predictions", metavar="PREDICTIONS"),
    click.option("--truth", metavar="LABELS", help="Held-out human labels.  [default: the recipe's truth]"),
    click.option(
        "--truth-images",
        "--images",
        type=click.Path(path_type=Path),
        help="Folder of their images, if they are not beside them.",
    ),
    click.option(
        "--format",
        type=click.Choice(["coco", "voc", "yolo", "classes", "masks"]),
        help="Format of the labels, if it cannot be recognised.",
    ),
    counted_from_option,
    click.option(
        "--group",
        metavar="folder|REGEX",
        help="Images that belong together: by folder, or by a group in their names.",
    ),
    click.option("--teacher", help="Teacher of PREDICTIONS, to label truth images that are not labelled yet."),
    click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Option of that teacher, e.g. nms_iou=0.6."
    ),
    allow_code_option,
    click.option(
        "--iou",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.5,
        show_default=True,
        help="Overlap at which a box or mask counts as right.",
    ),
    click.option("--per-class", is_flag=True, help="Also measure each class by itself."),
    click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write a PNG of the curves."),
    store_option,
    workers_option,
    json_option,
)
"""The argument and the options of both commands."""


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command PREDICTIONS and the options that say what they are measured on, which reach it as one record,
    `options`."""

    @wraps(command)
    def with_record(
        *,
        predictions: str,
        truth: str | None,
        truth_images: Path | None,
        format: str | None,
        counted_from: str | None,
        group: str | None,
        teacher: str | None,
        overrides: tuple[str, ...],
        allow_code: bool,
        iou: float,
        per_class: bool,
        **others: Any,
    ) -> None:
        if overrides and not teacher:
            raise click.UsageError("--set belongs to --teacher SPEC: give that too")
        if not truth and (truth_images or format or counted_from or group):
            raise click.UsageError(
                "--truth-images, --format, --counted-from and --group belong to --truth LABELS: give that too"
            )
        is_recipe = Path(predictions).suffix in (".yaml", ".yml")
        if is_recipe and teacher:
            raise click.UsageError(f"--teacher: {predictions} names the teacher: leave it out")
        if not is_recipe and not truth:
            raise click.UsageError("--truth LABELS is missing: only a RECIPE.yaml can name them")
        with sentences():
            from builder.measure import MeasureOptions
            from builder.truth.options import LabelOptions

            images = truth_images and str(truth_images)
            first = counted_first(counted_from)
            labels = {"source": truth, "images": images, "format": format, "group": group, "counted_from": first}
            options = MeasureOptions(
                truth=LabelOptions.model_validate(labels) if truth else None,
                teacher=teacher,
                teacher_options=overrides,
                iou=iou,
                per_class=per_class,
                allow_code=allow_code,
            )
            command(predictions=predictions, options=options, **others)

    decorated: Callable[..., None] = with_record
    for decorator in reversed(MEASURED):
        decorated = decorator(decorated)
    return decorated


@click.command()
@measuring
def calibrate(
    predictions: str,
    options: MeasureOptions,
    plot: Path | None,
    store_root: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Measure how reliable the scores of predictions are.

    PREDICTIONS is an id prefix or a RECIPE.yaml. Prints precision and recall by threshold and by size of object, and
    how often predictions of each score are right: raw, and after temperature scaling and isotonic regression, both
    measured on images that they were not fitted on. Only the tune half of the labels is used: a recipe chosen by
    these figures is chosen on that half, which then no longer measures it without bias; the certify half still does.
    """
    from builder.measure import calibrate as measure_scores

    calibration = measure_scores(predictions, open_store(store_root), options, workers=workers, track=bar)
    _warn_of_names(calibration.figures)
    if plot:
        calibration.plot(plot)
    if as_json:
        say(json.dumps(calibration.figures))
    else:
        _show_calibration(calibration.figures, options.per_class)


@click.command()
@measuring
@click.option("--pool", metavar="POOL", help="Pool to sweep over, if PREDICTIONS are of several.")
def sweep(
    predictions: str,
    options: MeasureOptions,
    plot: Path | None,
    store_root: str,
    workers: int | None,
    as_json: bool,
    pool: str | None,
) -> None:
    """Measure what each threshold would keep of a pool.

    Prints what is kept, its precision and its recall by threshold. PREDICTIONS is an id prefix or a RECIPE.yaml, whose
    NMS, cap and calibration are then used. No shards are written. Only the tune half of the labels is used: a recipe
    chosen by these figures is chosen on that half, which then no longer measures it without bias; the certify half
    still does. The row marked = is the score at which an image of the pool keeps as many as the labels have on one.
    """
    from builder.measure import sweep as measure_thresholds

    swept = measure_thresholds(predictions, open_store(store_root), options, pool=pool, workers=workers, track=bar)
    _warn_of_names(swept.figures)
    if plot:
        swept.plot(plot)
    if as_json:
        points = {name: [asdict(point) for point in points] for name, points in swept.points.items()}
        needs = [asdict(need) for need in swept.needs]
        say(json.dumps({**swept.figures, "points": points, "plan": needs}))
    else:
        _show_sweep(swept.figures, swept.points)
        _show_plan(swept.figures, swept.needs)


def _warn_of_names(figures: Mapping[str, Any]) -> None:
    if figures["class_names"]:
        say(f"warning: {figures['class_names']}", err=True)


def _heading(value: Mapping[str, Any]) -> Iterable[tuple[str, object]]:
    from builder.kinds import kind_of

    images = value["images"]
    left_out = f"; {images['left_out']} left out (unreadable or duplicates)" if images["left_out"] else ""
    half = f"{images['tune']} of {images['all']} images; the certify half is not used{left_out}"
    count = value["units"]
    grouped = f" in {count} unit{'' if count == 1 else 's'}" if count != images["tune"] else ""
    yield "predictions", value["predictions"][:12]
    yield "truth", value["truth"]
    yield "tune half", half.replace(" images;", f" images{grouped};", 1)
    both, only = len(value["classes"]), [len(value[name]) for name in ("only_in_teacher", "only_in_labels")]
    yield "classes", f"{both} of the teacher's {both + only[0]} and of the labels' {both + only[1]}"
    at = f" at IoU {value['iou']:g}" if kind_of(value["kind"]).overlaps else ""
    yield "matched", f"{value['predicted']} {value['of']}{at}, {value['right']} right"


def _count(value: float) -> str:
    """A number per image: two decimals, but for the pixels of maps, which are many."""
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _show_calibration(figures: Mapping[str, Any], per_class: bool) -> None:
    say(rows(*_heading(figures)))
    _show_groups([group for group in figures["groups"] if group["class"] is None], "size", figures["of"])
    if per_class:
        of_classes = [group for group in figures["groups"] if group["class"] and group["size"] == "all"]
        _show_groups(of_classes, "class", figures["of"])
    _show_reliability(figures)


def _show_groups(groups: Sequence[Mapping[str, Any]], by: str, noun: str) -> None:
    columns = (by, "objects", noun, "right", *(f"P / R at {threshold:g}" for threshold in SHOWN))
    lines = []
    for group in sorted(groups, key=lambda group: -group["objects"]) if by == "class" else groups:
        places = [group["threshold"].index(threshold) for threshold in SHOWN]
        figures = [f"{_figure(group['precision'][n])} / {_figure(group['recall'][n])}" for n in places]
        lines.append((group[by], *(group[name] for name in ("objects", "predictions", "right")), *figures))
    class_table(columns, lines, width=WIDTH)


def _show_reliability(figures: Mapping[str, Any]) -> None:
    raw = figures["reliability"]["raw"]
    lines = [
        (f"{confidence:.3f}", count, f"{right:.3f}")
        for confidence, count, right in zip(raw["confidence"], raw["count"], raw["right"], strict=True)
    ]
    table(("score", figures["of"], "right"), lines, title="raw scores", width=WIDTH)
    errors = figures["expected_calibration_error"]
    text = ", ".join(f"{name} {'-' if error is None else format(error, '.3f')}" for name, error in errors.items())
    say(f"expected calibration error  {text}  (calibrated: on images not fitted on)")
    for kind, fitted in figures["calibrators"].items():
        if fitted:
            say(f"{kind:<26}  classes with enough {figures['of']} for their own map: {len(fitted['own'])}")


def _show_sweep(figures: Mapping[str, Any], points: Mapping[str, Sequence[Point]]) -> None:
    lines = [*_heading(figures), ("pool", f"{figures['pool'][:12]}  {figures['pool_images']} labelled images")]
    if figures["calibration"] != "none":
        lines.append(("scores", f"calibrated, {figures['calibration']}, on the tune half itself"))
    say(rows(*lines))
    for name, of_class in islice(points.items(), TABLES + 1):
        _show_points(name, of_class, figures["level"])
    if len(points) > TABLES + 1:
        say(f"and {len(points) - TABLES - 1} more classes: --json shows all")
    if any(point.is_density for of_class in points.values() for point in of_class):
        say(f"= as many {figures['of']} per image of the pool as the labels have per image")


def _show_plan(figures: Mapping[str, Any], needs: Sequence[Need]) -> None:
    """What the labels of the recipe can be expected to certify."""
    if not needs:
        return
    from builder.evidence.planning import LIKELY

    columns = ("to be certified", "chance", "images to certify on", "more", f"more {figures['of']}")
    told = [need for need in needs if need.images is not None or need.sure]
    told.sort(key=lambda need: (need.own, need.images or math.inf))
    lines = []
    for need in told[:PLANNED]:
        names = ", ".join(need.classes[:3]) + (f" and {len(need.classes) - 3} more" if len(need.classes) > 3 else "")
        enough = ("enough", "-", "-") if need.likely else ("hardly any", "-", "-")
        if need.images is not None and not need.likely:
            objects = "-" if need.more_objects is None else str(need.more_objects)
            enough = (str(need.images), str(need.more_images), objects)
        lines.append((f"{names} by itself" if need.own else names, f"{need.chance:.0%}", *enough))
    title = f"what the labels can be expected to certify at {figures['target']:g}"
    table(columns, lines, title=title, numbers=columns[1:], width=WIDTH)
    say(
        f"from tune and the pool's scores: with so many labelled images to certify on, in place of "
        f"{figures['certify_images']}, the chance is {LIKELY:.0%}"
    )
    if few := len(needs) - len(told):
        say(f"of {few} more classes tune holds too few {figures['of']} to say")
    if len(told) > PLANNED:
        say(f"and {len(told) - PLANNED} more classes: --json shows all")


def _as_given(threshold: float) -> str:
    """A threshold with the digits that give the same in a recipe: the fewest that are this float32."""
    import numpy as np

    return str(np.format_float_positional(np.float32(threshold), min_digits=3))


def _show_points(name: str, points: Sequence[Point], level: float) -> None:
    interval = f"{level:.0%} interval"
    miou = ["mIoU"] if any(point.miou is not None for point in points) else []
    columns = ("score", "kept in pool", "per image", "(truth)", "precision", interval, "recall", interval, *miou)
    lines = [
        (
            f"{'= ' if point.is_density else ''}{_as_given(point.threshold)}",
            point.pool_boxes,
            _count(point.per_image),
            _count(point.objects_per_image),
            _figure(point.precision),
            f"{point.precision_low:.2f} - {point.precision_high:.2f}",
            _figure(point.recall),
            f"{point.recall_low:.2f} - {point.recall_high:.2f}",
            *([_figure(point.miou)] if miou else []),
        )
        for point in points
    ]
    table(columns, lines, title=name, numbers=columns, width=WIDTH)

"""`tutelage scan`, `label` and `build` (the same as `build-pseudo`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from builder.cli.options import (
    address_option,
    allow_code_option,
    cluster_of,
    engine_option,
    json_option,
    message_option,
    no_alarm_option,
    open_store,
    profile_option,
    sentences,
    store_option,
    workers_option,
)
from builder.cli.output import bar, emit
from builder.cli.show import (
    build_text,
    describe_built,
    describe_label,
    foreseen_text,
    pool_text,
    profile_value,
    show_profile,
)


@click.command()
@click.argument("source")
@click.option("--images", help="Folder of the files of a COCO JSON, if they are not beside it.")
@click.option("--limit", type=click.IntRange(1), help="Scan only N images: a smaller pool with its own id.")
@click.option("--member", help="Extension of a sample's image in tars (jpg, image.png), or all; recognised by default.")
@click.option("--max-pixels", type=click.IntRange(1), help="Do not read images with more pixels (default 89478485).")
@store_option
@workers_option
@engine_option
@address_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only count the images that would be scanned.")
def scan(
    source: str,
    images: str | None,
    limit: int | None,
    member: str | None,
    max_pixels: int | None,
    store_root: str,
    workers: int | None,
    engine: str,
    address: str | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Scan images into a pool.

    SOURCE is a folder, a glob, a list (.txt), a COCO JSON or tars, here or at s3://BUCKET/PREFIX (gs://, az://, hf://,
    https://), which is read in parts and not copied. A second scan reads only what changed; new images go
    into new chunks, so nothing is labelled twice.
    """
    with sentences():
        from builder.scan.entries import Listing, passed_over_text
        from builder.scan.pool import describe
        from builder.scan.scanner import list_size, scan_pool
        from teachers.limits import MAX_PIXELS

        if dry_run:
            listing = Listing(member)
            count, size = list_size(source, open_store(store_root), images, limit, listing)
            others = dict(sorted(listing.passed_over.items()))
            text = f"{count} images, {size / 1e6:.1f} MB; nothing written"
            text += f"\npassed over {passed_over_text(others)}" if others else ""
            emit(as_json, {"images": count, "bytes": size, "passed_over": others}, text)
            return
        with cluster_of(engine, address) as cluster:
            pool = scan_pool(
                source,
                open_store(store_root),
                images=images,
                limit=limit,
                member=member,
                max_pixels=max_pixels or MAX_PIXELS,
                workers=workers,
                track=bar,
                cluster=cluster,
            )
        emit(as_json, value := describe(pool), pool_text(value))


@click.command()
@click.argument("pool")
@click.option(
    "--teacher",
    "spec",
    required=True,
    help="torchvision:NAME, onnx:MODEL.onnx, transformers:DIR_OR_ID, checkpoint:RUN, python:MODULE:FACTORY or "
    "replay:RESULTS.",
)
@click.option("--floor", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Lowest score to store.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other teacher option of a recipe, e.g. nms_iou=0.6.",
)
@click.option(
    "--damaged",
    type=click.Choice(["drop", "keep"]),
    default="drop",
    show_default=True,
    help="Leave out JPEGs of which libjpeg had to guess pixels, or keep them (a recipe's images.damaged).",
)
@click.option(
    "--range",
    "white",
    metavar="type|data|NUMBER",
    help="What is white in pixels of more than 8 bits, e.g. 4095 (a recipe's images.range).",
)
@allow_code_option
@no_alarm_option
@click.option(
    "--max-failure-rate",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Exit with 1 if a larger share of the images is unreadable.",
)
@click.option("--retry-failures", is_flag=True, help="Label chunks with unreadable images again.")
@profile_option
@store_option
@workers_option
@engine_option
@address_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only count the images that would be labelled.")
def label(
    pool: str,
    spec: str,
    floor: float,
    overrides: tuple[str, ...],
    damaged: str,
    white: str | None,
    allow_code: bool,
    no_alarm: bool,
    max_failure_rate: float,
    retry_failures: bool,
    profile: bool,
    store_root: str,
    workers: int | None,
    engine: str,
    address: str | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Label a pool with a teacher.

    POOL is an id prefix or a scanned source. Chunks that are labelled already are skipped.
    """
    with sentences():
        from builder.engine import worker_count
        from builder.label.labelling import check_failures, count_pending, label_pool
        from builder.label.load import load_labeller
        from builder.label.profile import Profile
        from builder.recipe.recipe import parse_images, parse_teacher
        from builder.scan.pool import find_pool

        reading = parse_images({"damaged": damaged, "range": white}).reading
        store = open_store(store_root)
        scanned = find_pool(store, pool)
        section = parse_teacher(spec, (f"floor={floor}", *overrides)).without_alarm(no_alarm)
        measured = Profile(worker_count(workers)) if profile else None
        with cluster_of(engine, address, dry_run) as cluster:
            labeller = load_labeller(section, workers, allow_code, reading, measured, cluster)
            if dry_run:
                pending = count_pending(scanned, labeller, store, retry_failures)
                text = f"{pending.images} images in {pending.chunks} chunks would be labelled; nothing written"
                emit(as_json, vars(pending), text)
                return
            named, again = {"spec": spec, "license": section.license}, retry_failures
            done = label_pool(scanned, labeller, store, **named, retry_failures=again, track=bar, profile=measured)
        emit(as_json, vars(done) | profile_value(measured), describe_label(done))
        show_profile(measured)
        check_failures(done, max_failure_rate)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the recipe, e.g. --set keep.score=0.6.",
)
@click.option(
    "--only",
    type=click.Choice(["scan", "label", "cut"]),
    help="Stop after scan or label; cut: cut a version and never call the teacher.",
)
@click.option("--limit", type=click.IntRange(1), help="Use only N images of the pool.")
@click.option("--retry-failures", is_flag=True, help="Label chunks with unreadable images again.")
@click.option("--max-failure-rate", type=click.FloatRange(0, 1), help="Override max_failure_rate of the recipe.")
@click.option("--allow-empty", is_flag=True, help="Write a version in which the rules keep nothing, too.")
@click.option(
    "--allow-partial",
    is_flag=True,
    help="Build also where classes that cannot be certified hold most labelled objects.",
)
@click.option("--report/--no-report", default=True, show_default=True, help="Write report/index.html into the version.")
@allow_code_option
@no_alarm_option
@profile_option
@message_option
@store_option
@workers_option
@engine_option
@address_option
@json_option
@click.option(
    "--dry-run", is_flag=True, help="Look at pool, labels and teacher, and estimate time and disk; write nothing."
)
def build(
    recipe: Path,
    overrides: tuple[str, ...],
    only: Literal["scan", "label", "cut"] | None,
    limit: int | None,
    retry_failures: bool,
    max_failure_rate: float | None,
    allow_empty: bool,
    allow_partial: bool,
    report: bool,
    allow_code: bool,
    no_alarm: bool,
    profile: bool,
    message: str,
    store_root: str,
    workers: int | None,
    engine: str,
    address: str | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Run every stage of a recipe that is not yet done.

    The stages are scan, label and cut; `build-pseudo RECIPE` is the same command. If it is interrupted, run it again:
    it continues where it stopped. New rules never call the teacher again.
    """
    with sentences():
        from builder.build import build_pseudo
        from builder.engine import worker_count
        from builder.label.profile import Profile
        from builder.recipe.recipe import load_recipe

        extra = [f"pool.limit={limit}"] if limit else []
        extra += [f"max_failure_rate={max_failure_rate}"] if max_failure_rate is not None else []
        loaded = load_recipe(recipe, (*overrides, *extra))
        loaded = loaded.model_copy(update={"teacher": loaded.teacher.without_alarm(no_alarm)})
        if dry_run:
            from builder.foresee import foresee

            seen = foresee(loaded, open_store(store_root), root=recipe.parent, workers=workers, allow_code=allow_code)
            emit(as_json, {"recipe": loaded.model_dump(mode="json"), **vars(seen)}, foreseen_text(loaded.name, seen))
            return
        measured = Profile(worker_count(workers)) if profile else None
        with cluster_of(engine, address) as cluster:
            built = build_pseudo(
                loaded,
                open_store(store_root),
                root=recipe.parent,
                only=only,
                retry_failures=retry_failures,
                workers=workers,
                report=report,
                allow_empty=allow_empty,
                allow_partial=allow_partial,
                allow_code=allow_code,
                message=message,
                track=bar,
                profile=measured,
                cluster=cluster,
            )
        emit(as_json, describe_built(built) | profile_value(measured), build_text(built))
        show_profile(measured)

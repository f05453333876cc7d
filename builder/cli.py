"""The command line: parse, call, print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from builder.cli_browse import browse
from builder.cli_data import export, report
from builder.cli_evidence import calibrate, sweep
from builder.cli_hub import publish, pull
from builder.cli_review import review
from builder.cli_study import study
from builder.cli_train import evaluate, pretrain, preview_augment, train
from builder.cli_versions import diff, explain, gc, log, tag, verify
from builder.console import (
    allow_code_option,
    bar,
    build_text,
    describe_built,
    describe_label,
    emit,
    json_option,
    rows,
    sentences,
    show_version,
    store_option,
    workers_option,
)

if TYPE_CHECKING:
    from builder.store import Store

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class PipelineOrder(click.Group):
    """Lists commands in the order of the pipeline, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def open_store(root: str) -> Store:
    from builder.store import Store

    return Store(root)


@click.group(cls=PipelineOrder, context_settings=CONTEXT)
@click.version_option(package_name="tutelage", prog_name="tutelage")
def main() -> None:
    """Turn a teacher model's outputs into pseudo-label datasets one can trust.

    \b
    images --scan--> pool --label--> predictions --rules--> version (WebDataset shards) --train--> student

    Start with `tutelage build RECIPE.yaml`, which runs every stage that is not already done.
    """
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\..*")


@click.command()
@click.argument("source")
@click.option("--images", type=click.Path(path_type=Path), help="Where the files of a COCO JSON lie, if not beside it.")
@click.option("--limit", type=click.IntRange(1), help="Scan only N images: a smaller pool with an id of its own.")
@store_option
@workers_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only count what would be scanned.")
def scan(
    source: str,
    images: Path | None,
    limit: int | None,
    store_root: str,
    workers: int | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Scan SOURCE into a pool: a folder, a glob, a list (.txt), a COCO JSON or tars.

    A second scan reads only what changed; images that are new go into new chunks, so nothing is labelled twice.
    """
    with sentences():
        if dry_run:
            from builder.pool import list_size

            count, size = list_size(source, open_store(store_root), images, limit)
            emit(as_json, {"images": count, "bytes": size}, f"{count} images, {size / 1e6:.1f} MB; nothing written")
            return
        from builder.pool import describe
        from builder.pool import scan as scan_pool

        pool = scan_pool(source, open_store(store_root), images=images, limit=limit, workers=workers, track=bar)
        emit(as_json, value := describe(pool), rows(*value.items()))


def teacher_options(command: Callable[..., Any]) -> Callable[..., Any]:
    options: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option(
            "--teacher",
            "spec",
            required=True,
            help="torchvision:NAME, onnx:MODEL.onnx, transformers:DIR_OR_ID, checkpoint:RUN, python:MODULE:FACTORY or "
            "replay:RESULTS.",
        ),
        click.option(
            "--floor", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="Lowest score stored."
        ),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any other teacher option of a recipe, e.g. nms_iou=0.6.",
        ),
        allow_code_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def teacher_section(spec: str, floor: float, overrides: tuple[str, ...]) -> Any:
    from builder.recipe import parse_teacher

    return parse_teacher(spec, (f"floor={floor}", *overrides))


@click.command()
@click.argument("pool")
@teacher_options
@click.option(
    "--max-failure-rate",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of unreadable images above which the exit code is 1.",
)
@click.option("--retry-failures", is_flag=True, help="Label again the chunks that hold images which could not be read.")
@store_option
@workers_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only count what would be labelled.")
def label(
    pool: str,
    spec: str,
    floor: float,
    overrides: tuple[str, ...],
    allow_code: bool,
    max_failure_rate: float,
    retry_failures: bool,
    store_root: str,
    workers: int | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Let a teacher label POOL (an id prefix or a scanned source). Chunks that are labelled are not labelled again."""
    with sentences():
        from builder.build import check_failures, load_labeller
        from builder.label import label as label_pool
        from builder.label import pending_chunks
        from builder.pool import find_pool

        store = open_store(store_root)
        found = find_pool(store, pool)
        section = teacher_section(spec, floor, overrides)
        labeller = load_labeller(section, workers, allow_code)
        if dry_run:
            pending = pending_chunks(found, labeller, store, retry_failures)
            count = {"chunks": len(pending), "images": sum(found.index[n].images for n in pending)}
            emit(
                as_json,
                count,
                f"{count['images']} images in {count['chunks']} chunks would be labelled; nothing written",
            )
            return
        done = label_pool(
            found, labeller, store, spec=spec, license=section.license, retry_failures=retry_failures, track=bar
        )
        emit(as_json, vars(done), describe_label(done))
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
    "--only", type=click.Choice(["scan", "label", "cut"]), help="Stop after scan or label; cut: never call the teacher."
)
@click.option("--limit", type=click.IntRange(1), help="Use only N images of the pool.")
@click.option("--retry-failures", is_flag=True, help="Label again what holds images that could not be read.")
@click.option("--max-failure-rate", type=click.FloatRange(0, 1), help="Override the recipe's.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write report/index.html into the version.")
@allow_code_option
@store_option
@workers_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only check the recipe.")
def build(
    recipe: Path,
    overrides: tuple[str, ...],
    only: Literal["scan", "label", "cut"] | None,
    limit: int | None,
    retry_failures: bool,
    max_failure_rate: float | None,
    report: bool,
    allow_code: bool,
    store_root: str,
    workers: int | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Run every stage of RECIPE that is not already done: scan, label, cut. (The same as `build-pseudo RECIPE`.)

    Interrupted in any way, the same command goes on where it stopped. New rules never call the teacher again.
    """
    with sentences():
        from builder.build import build as build_pseudo
        from builder.recipe import load_recipe

        extra = [f"pool.limit={limit}"] if limit else []
        extra += [f"max_failure_rate={max_failure_rate}"] if max_failure_rate is not None else []
        loaded = load_recipe(recipe, (*overrides, *extra))
        if dry_run:
            emit(as_json, {"recipe": loaded.model_dump(mode="json")}, f"recipe {loaded.name} is valid; nothing written")
            return
        built = build_pseudo(
            loaded,
            open_store(store_root),
            root=recipe.parent,
            only=only,
            retry_failures=retry_failures,
            workers=workers,
            report=report,
            allow_code=allow_code,
            track=bar,
        )
        emit(as_json, describe_built(built), build_text(built))


@click.command()
@click.argument("ref", metavar="VERSION|PREDICTIONS|POOL")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a PNG with kept, ignored and dropped boxes of some images.",
)
@store_option
@json_option
def show(ref: str, picture: Path | None, store_root: str, as_json: bool) -> None:
    """Say what is in a version (NAME, NAME@v3 or a folder), in predictions or in a pool (id prefixes)."""
    with sentences():
        store = open_store(store_root)
        if store.match(store.predictions, ref):
            from builder.predictions import describe, find_predictions

            emit(as_json, value := describe(store, find_predictions(store, ref)), rows(*value.items()))
            return
        if store.match(store.pools, ref):
            from builder.pool import describe as describe_pool
            from builder.pool import find_pool

            emit(as_json, value := describe_pool(find_pool(store, ref)), rows(*value.items()))
            return
        from builder.manifest import read_manifest

        folder = store.version(ref)
        manifest = read_manifest(folder)
        if picture:
            from builder.pictures import contact_sheet

            contact_sheet(folder, manifest, picture)
        if as_json:
            click.echo(manifest.model_dump_json())
            return
        from builder import audits

        audited = audits.latest(store, manifest)
        show_version(folder, manifest, [("audit", audits.sentence(audited, manifest.kind))] if audited else [])


for command in (scan, label, calibrate, sweep, build):
    main.add_command(command)
main.add_command(build, "build-pseudo")
for command in (log, show, diff, explain, verify, tag, gc, report, export):
    main.add_command(command)
for command in (pretrain, train, evaluate, study, preview_augment, browse, review, publish, pull):
    main.add_command(command)


def build_pseudo_main() -> None:
    """`build-pseudo RECIPE`: the same as `tutelage build RECIPE`."""
    build.main(prog_name="build-pseudo")


if __name__ == "__main__":
    main()

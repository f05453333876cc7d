"""The commands that train a student and measure it: train, evaluate."""

from __future__ import annotations

from pathlib import Path

import click

from builder.console import (
    allow_code_option,
    bar,
    emit,
    json_option,
    rows,
    sentences,
    show_metrics,
    step_bar,
    store_option,
)


@click.command()
@click.argument("recipe", metavar="TRAIN.yaml", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder.  [default: runs/TRAIN]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. --set steps=2000.")
@click.option("--seed", type=click.IntRange(0), help="Override the recipe's seed.")
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only check the recipe.")
def train(
    recipe: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    store_root: str,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Train a student, supervised or jointly with pseudo-labelled versions.

    The run folder gets the weights (safetensors), meta.json and a log; use it as the next teacher with
    `--teacher checkpoint:RUN`. An interrupted run goes on from its last save. On several GPUs start it with
    `accelerate launch -m builder.cli train TRAIN.yaml`.
    """
    with sentences():
        from builder.store import Store
        from students.recipe import load_train_recipe
        from students.train import train as run_training

        loaded = load_train_recipe(recipe, (*overrides, *([f"seed={seed}"] if seed is not None else [])))
        if dry_run:
            emit(as_json, {"recipe": loaded.model_dump(mode="json")}, f"{recipe} is valid; nothing written")
            return
        out = out or Path("runs") / recipe.stem
        with step_bar(loaded.steps) as progress:
            run_training(loaded, out, Store(store_root), progress)
        emit(as_json, {"run": str(out), "steps": loaded.steps}, rows(("run", out), ("steps", loaded.steps)))


@click.command()
@click.argument("ref", metavar="RUN|TEACHER")
@click.option(
    "--truth",
    required=True,
    help="Labels: COCO JSON, VOC, YOLO, folders of classes or of masks, or a version (NAME@v3, hf://ORG/NAME@v3).",
)
@click.option("--images", type=click.Path(path_type=Path), help="Where its files lie, if not beside it.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A teacher option, e.g. nms_iou=0.6.")
@click.option(
    "--results", type=click.Path(path_type=Path, dir_okay=False), help="Write the detections as COCO results."
)
@click.option("--masks", is_flag=True, help="Measure the masks, too, of a teacher and COCO labels that have them.")
@allow_code_option
@store_option
@json_option
def evaluate(
    ref: str,
    truth: str,
    images: Path | None,
    overrides: tuple[str, ...],
    results: Path | None,
    masks: bool,
    allow_code: bool,
    store_root: str,
    as_json: bool,
) -> None:
    """How well a run folder or any teacher (onnx:…, torchvision:…) does on labelled images.

    Boxes and masks: COCO's figures (pycocotools). Maps: mean intersection over union and the share of right pixels.
    Classes of images: accuracy and expected calibration error.
    """
    with sentences():
        from builder import BuildError
        from builder.build import load_model
        from builder.files import canonical_json, write_file
        from builder.pseudo_truth import read_labels
        from builder.recipe import parse_teacher
        from builder.store import Store
        from students.evaluate import measure

        labelled = read_labels(truth, images, Store(store_root), bar, outlines=masks)
        floor = ("floor=0.01",) if labelled.kind == "detection" else ()  # else all is measured
        section = parse_teacher(ref if ":" in ref else f"checkpoint:{ref}", (*floor, *overrides))
        if results and labelled.kind != "detection":
            raise BuildError(f"--results are boxes, but {truth} holds {labelled.kind} labels: leave it out")
        teacher = load_model(section, allow_code)
        with bar("evaluate", len(labelled.images)) as advance:
            metrics, found = measure(teacher, labelled, progress=advance)
        if results:
            from builder.coco import write_results

            write_file(results, canonical_json(write_results(labelled, found)))
        if as_json:
            emit(True, dict(metrics), "")
        else:
            show_metrics(metrics, {"detection": "AP", "semantic": "IoU", "classification": "accuracy"}[labelled.kind])

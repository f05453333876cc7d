"""The commands that train a student and measure it: pretrain, train, evaluate."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli.options import (
    allow_code_option,
    counted_first,
    counted_from_option,
    json_option,
    open_store,
    sentences,
    store_option,
    trust_option,
)
from builder.cli.output import ROOMY, bar, emit, rows, say, show_evaluation, step_bar, table

if TYPE_CHECKING:
    from builder.store.store import Store
    from students.train.facts import Facts
    from students.train.recipe import TrainRecipe


@click.command()
@click.argument("recipe", metavar="TRAIN.yaml", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder.  [default: runs/TRAIN]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. --set steps=2000.")
@click.option("--seed", type=click.IntRange(0), help="Override the recipe's seed.")
@allow_code_option
@trust_option
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Read all that it needs and time a few steps; write nothing.")
def train(
    recipe: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    allow_code: bool,
    trust: bool,
    store_root: str,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Train a student, with or without pseudo-labels.

    Training is supervised, or joint with pseudo-labelled versions. The run folder gets the weights (safetensors),
    meta.json and a log; use it as the next teacher with `--teacher checkpoint:RUN`. An interrupted run continues from
    its last save. With `val` in the recipe it shows how the network does on these labels as it goes. On several GPUs
    start it with `accelerate launch -m builder.cli train TRAIN.yaml`. With `rounds` in the recipe each student labels
    the pool for the next one; OUT then holds a run folder for each round and rounds.html.
    """
    with sentences():
        from accelerate import PartialState

        from students.train.loop import train as run_training
        from students.train.recipe import load_train_recipe
        from students.train.run import clip_rate

        loaded = load_train_recipe(recipe, (*overrides, *([f"seed={seed}"] if seed is not None else [])))
        out, store = out or Path("runs") / recipe.stem, open_store(store_root, trust)
        if dry_run:
            _look(loaded, recipe, store, as_json)
            return
        if loaded.rounds:
            _train_rounds(loaded, out, store, allow_code, as_json)
            return
        speaks = PartialState().is_main_process  # of several that `accelerate launch` starts
        with step_bar(loaded.steps) if speaks else nullcontext() as progress:
            run_training(loaded, out, store, progress, announce=_announce)
        if speaks:
            if (share := clip_rate(out)) > 0.5:
                say(
                    f"warning: the ratio of the two losses was clipped in {share:.0%} of the steps: the pseudo-labels "
                    f"are much easier or harder than the human labels; try an alpha below {loaded.alpha:g}",
                    err=True,
                )
            emit(as_json, {"run": str(out), "steps": loaded.steps}, rows(("run", out), ("steps", loaded.steps)))


def _announce(facts: Facts) -> None:
    say(rows(*facts.rows()), err=True)


def _look(recipe: TrainRecipe, path: Path, store: Store, as_json: bool) -> None:
    """What a training would do, without doing it."""
    from students.train.loop import look

    facts = look(recipe.model_copy(update={"rounds": None}), store)
    pairs = facts.rows()
    if recipe.rounds:
        from builder.recipe.recipe import load_recipe

        version = load_recipe(recipe.rounds.build).name
        words = (
            f"up to {recipe.rounds.count}, each such a training, on the labels and a new version of {version} beside"
        )
        pairs.append(("rounds", words))
    text = f"{rows(*pairs)}\n{path} can be carried out; nothing written"
    emit(as_json, {"recipe": recipe.model_dump(mode="json"), "facts": facts.stored()}, text)


def _train_rounds(recipe: TrainRecipe, out: Path, store: Store, allow_code: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from students.rounds.loop import run_rounds
    from students.rounds.page import COLUMNS, conclusion, rounds_rows

    outcome = run_rounds(recipe, out, store, track=bar, steps=step_bar, allow_code=allow_code)
    best = out / f"round-{outcome.best}"
    if as_json:
        emit(True, {"run": str(best), **asdict(outcome)}, "")
        return
    table(COLUMNS, rounds_rows(outcome), width=ROOMY)
    say(rows(("best", best), ("why", conclusion(outcome)), ("page", out / "rounds.html")))


@click.command()
@click.argument("recipe", metavar="PRETRAIN.yaml", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Run folder.  [default: runs/PRETRAIN]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. --set steps=2000.")
@click.option("--seed", type=click.IntRange(0), help="Override the recipe's seed.")
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only check the recipe.")
def pretrain(
    recipe: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    seed: int | None,
    store_root: str,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Train a backbone on a pool without labels (SimCLR).

    The run folder gets backbone.safetensors, meta.json and a log. A training starts from the backbone with
    `network.pretrained: RUN/backbone.safetensors`. An interrupted run continues from its last save.
    """
    with sentences():
        from students.pretrain.loop import load_pretrain_recipe
        from students.pretrain.loop import pretrain as run_pretraining

        loaded = load_pretrain_recipe(recipe, (*overrides, *([f"seed={seed}"] if seed is not None else [])))
        if dry_run:
            emit(as_json, {"recipe": loaded.model_dump(mode="json")}, f"{recipe} is valid; nothing written")
            return
        out = out or Path("runs") / recipe.stem
        with step_bar(loaded.steps) as progress:
            run_pretraining(loaded, out, open_store(store_root), progress)
        weights = out / "backbone.safetensors"
        value = {"run": str(out), "steps": loaded.steps, "backbone": str(weights)}
        emit(as_json, value, rows(("run", out), ("steps", loaded.steps), ("backbone", weights)))


@click.command()
@click.argument("ref", metavar="RUN|TEACHER|RECIPE.yaml")
@click.option(
    "--truth",
    required=True,
    help="Labels: COCO JSON, VOC, YOLO, folders of classes or of masks, or a version (NAME@v3, hf://ORG/NAME@v3).",
)
@click.option(
    "--images", type=click.Path(path_type=Path), help="Folder of the images, if they are not beside the labels."
)
@counted_from_option
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the teacher (nms_iou=0.6), or key of the recipe.",
)
@click.option(
    "--results", type=click.Path(path_type=Path, dir_okay=False), help="Write the detections as COCO results."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the figures, the confusion matrix and the precision-recall curves (CSV and PNG).",
)
@click.option(
    "--score",
    type=click.FloatRange(0, 1),
    help="Work out precision and recall from this score on.  [default: of boxes the best F1's, else 0]",
)
@click.option("--masks", is_flag=True, help="Measure masks, too; the teacher and the COCO labels must have them.")
@allow_code_option
@trust_option
@store_option
@json_option
def evaluate(
    ref: str,
    truth: str,
    images: Path | None,
    counted_from: str | None,
    overrides: tuple[str, ...],
    results: Path | None,
    out: Path | None,
    score: float | None,
    masks: bool,
    allow_code: bool,
    trust: bool,
    store_root: str,
    as_json: bool,
) -> None:
    """Evaluate a run or any teacher on labelled images.

    Give a run folder, the spec of a teacher (onnx:…), predictions of another tool (replay:…) or the recipe of an
    ensemble. Boxes and masks: COCO's metrics (pycocotools) from a score of .01 on (--set floor=0: of all), boxes cut at
    their images' edges, and precision, recall and F1 at an IoU of .5. Maps: mean intersection over union and pixel
    accuracy. Classes of images: accuracy and expected calibration error. It warns of images that a run was trained on.
    """
    with sentences():
        from students.evaluate.measure import evaluate as evaluate_teacher
        from students.evaluate.pictures import write_evaluation

        evaluation = evaluate_teacher(
            ref, truth, images, counted_from=counted_first(counted_from), options=overrides, masks=masks,
            results=results, score=score,
            allow_code=allow_code, store=open_store(store_root, trust), track=bar,
        )  # fmt: skip
        if out:
            write_evaluation(evaluation, out)
        if as_json:
            emit(True, evaluation.stored(), "")
        else:
            show_evaluation(evaluation)
            if out:
                say(f"confusion matrix and curves: {out}")


@click.command("preview-augment")
@click.argument("sources", metavar="TRAIN.yaml|IMAGES...", nargs=-1, required=True)
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(["S1", "S2", "S3", "S4"]),
    help="Policy of the paper; may be repeated.  [default: the recipe's; for images all four]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="augment.png",
    show_default=True,
    help="PNG to write; several policies get one each, with their name added.",
)
@click.option("--count", type=click.IntRange(1, 64), default=8, show_default=True, help="Number of images, a row each.")
@click.option(
    "--size",
    type=click.IntRange(8, 4096),
    default=512,
    show_default=True,
    help="Input size of the network, for IMAGES.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random draws.")
@json_option
def preview_augment(
    sources: tuple[str, ...],
    policies: tuple[str, ...],
    out: Path,
    count: int,
    size: int,
    seed: int,
    as_json: bool,
) -> None:
    """Draw what an augmentation does to images and labels.

    Give a training recipe to see its labelled images with the targets that the network would learn, or images (files,
    folders or globs) to see them without labels.
    """
    with sentences():
        from students.augment.preview import write_previews

        if out.suffix.lower() != ".png":
            raise click.UsageError(f"--out {out} must be a PNG: give it a name that ends in .png")
        if Path(sources[0]).suffix in (".yaml", ".yml") and len(sources) > 1:
            raise click.UsageError(f"{sources[0]} is a recipe, which names its images: leave out {sources[1]}")
        pictures = write_previews(sources, out, policies, count=count, size=size, seed=seed)
        written = {name: str(path) for name, path in pictures.items()}
        emit(as_json, {"pictures": written}, rows(*written.items()))

"""What every command shares: its options, its bars, its tables, and errors as sentences."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from builder.build import Built
    from builder.engine import Advance
    from builder.label import Labelled
    from builder.manifest import Manifest


EXTRAS = dict.fromkeys(("torch", "torchvision", "timm", "accelerate", "safetensors"), "torch") | {
    "onnxruntime": "onnx",
    "transformers": "transformers",
    "pycocotools": "coco",
    "huggingface_hub": "hub",
    "fiftyone": "fiftyone",
    "bson": "fiftyone",
    "pymongo": "fiftyone",
}
"""Import name -> the extra of this package that brings it."""


class Failed(click.ClickException):
    """The work or a gate failed: exit code 1."""

    exit_code = 1


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what a user can mend into one sentence and exit code 1; what they cannot stays a traceback."""
    from builder import BuildError
    from teachers.base import TeacherError

    try:
        yield
    except (BuildError, TeacherError) as error:
        raise Failed(" ".join(str(error).split())) from None
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise Failed(f"this needs {error.name}, which is not installed: pip install 'tutelage[{extra}]'") from None
    except BrokenPipeError:
        raise  # the reader of our output went away (`| head`): click ends quietly
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise Failed(
            f"{error.strerror or error}{where}: what is finished is kept; mend that and run the same command again"
        ) from None
    except KeyboardInterrupt:
        raise Failed("interrupted: what is finished is kept; run the same command again to go on") from None


store_option = click.option(
    "--store",
    "store_root",
    default="./store",
    envvar="TUTELAGE_STORE",
    show_default=True,
    show_envvar=True,
    help="Folder of pools, predictions and versions.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
workers_option = click.option(
    "--workers", type=click.IntRange(1), default=None, help="Threads that read, decode and write.  [default: all cores]"
)

allow_code_option = click.option("--allow-code", is_flag=True, help="Let a teacher python:MODULE:FACTORY run its code.")


@contextmanager
def bar(description: str, total: int) -> Iterator[Advance]:
    """A progress bar with rate and time left on a terminal's stderr; nothing elsewhere, and nothing for no work."""
    if not sys.stderr.isatty() or not total:
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, rate="")

        def advance(n: int) -> None:
            progress.advance(task, n)
            speed = progress.tasks[task].speed
            progress.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


def emit(as_json: bool, value: dict[str, Any], text: str) -> None:
    """The result on stdout: JSON for machines, or text for people."""
    click.echo(json.dumps(value) if as_json else text)


def rows(*pairs: tuple[str, object]) -> str:
    """Aligned `name  value` lines."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs)


def describe_label(done: Labelled) -> str:
    did = (
        f"{done.images_labelled} of {done.images} images labelled now"
        if done.images_labelled
        else f"nothing to do: all {done.images} images are labelled"
    )
    return rows(("predictions", done.predictions), ("labelled", did), ("unreadable", done.failed))


def describe_built(built: Built) -> dict[str, Any]:
    value: dict[str, Any] = {"pool": built.pool.id, "images": len(built.pool)}
    if built.labelled:
        value |= {
            "predictions": built.labelled.predictions,
            "images_labelled": built.labelled.images_labelled,
            "failures": list(built.labelled.failures),
        }
    if built.cut:
        manifest = built.cut.manifest
        value |= {
            "version": f"{manifest.name}@{manifest.version}",
            "id": manifest.id,
            "path": str(built.cut.folder),
            "shards_written": built.cut.shards_written,
            "samples": manifest.samples,
            "objects": manifest.objects,
            "overrides": manifest.provenance.get("overrides"),
            "image_states": manifest.images,
            "kept": manifest.kept,
            "ignored": manifest.ignored,
        }
    return value


def build_text(built: Built) -> str:
    lines: list[tuple[str, object]] = [("pool", f"{built.pool.id[:12]}  {len(built.pool)} images")]
    if built.labelled:
        done = built.labelled
        now = f"{done.images_labelled or 'none'} labelled now, {done.failed} unreadable"
        lines.append(("label", f"{done.predictions[:12]}  {now}"))
    if built.cut:
        manifest, wrote = built.cut.manifest, built.cut.shards_written
        lines += version_lines(manifest)
        lines.append(("folder", built.cut.folder))
        did = (
            f"{wrote} of {len(manifest.shards)} shards written now"
            if wrote
            else "nothing to do: this version was already complete"
        )
        lines.append(("done", did))
    return rows(*lines)


def version_lines(manifest: Manifest) -> list[tuple[str, object]]:
    from builder.overrides import describe
    from builder.quality import expected_quality

    told = [gate for gate in manifest.provenance.get("gates", []) if gate["status"] != "ok"]
    told_apart = ("written", "pool", "tombstone")
    left_out = [f"{n} {state}" for state, n in manifest.images.items() if n and state not in told_apart]
    if manifest.tombstones:
        left_out.append(f"{manifest.stored} in the shards, {len(manifest.tombstones)} of them to be skipped")
    why = ", ".join(
        f"{n} {reason}" for reason, n in manifest.objects.items() if n and reason not in ("kept", "predicted")
    )
    return [
        ("version", f"{manifest.name}@{manifest.version}  id {manifest.id[:12]}"),
        ("images", f"{manifest.samples} written" + "".join(f", {text}" for text in left_out)),
        (
            "objects",
            f"{manifest.kept} kept, {manifest.ignored} ignored of {manifest.objects['predicted']} predicted"
            + (f" ({why})" if why else ""),
        ),
        *([("review", describe(overrides))] if (overrides := manifest.provenance.get("overrides")) else []),
        ("quality", expected_quality(manifest)[0]),
        *((gate["name"], f"{gate['status']}: {gate['message']}") for gate in told),
    ]


def show_version(folder: Path, manifest: Manifest, more: Sequence[tuple[str, object]] = ()) -> None:
    """A version's facts, `more` of them after its own, and its classes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    size = sum(shard.bytes for shard in manifest.shards)
    lines = version_lines(manifest)
    lines += [
        ("shards", f"{len(manifest.shards)}, {size / 1e6:.1f} MB"),
        ("teacher", manifest.provenance["teacher"]["spec"]),
        ("folder", folder),
    ]
    if parent := manifest.provenance.get("parent"):
        removed = f", {len(manifest.tombstones)} images removed since" if manifest.tombstones else ""
        lines.append(("parent", f"{parent['version']}  id {parent['id'][:12]}{removed}"))
    click.echo(rows(*lines, *more))
    table = Table("class", "predicted", "kept", "ignored")
    ranked = sorted(manifest.per_class.items(), key=lambda item: -item[1]["kept"])
    for name, counts in ranked[:20]:
        table.add_row(escape(name), *(str(counts[column]) for column in ("predicted", "kept", "ignored")))
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    if len(ranked) > 20:
        click.echo(f"and {len(ranked) - 20} more classes: --json shows all")


def show_metrics(metrics: Mapping[str, Any], of_class: str = "AP") -> None:
    """The summary figures, then the classes from best to worst by what `of_class` names; -1, pycocotools' "no such
    object", as a dash."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    def figure(value: float) -> str:
        return f"{value:.3f}" if value >= 0 else "-"

    click.echo("  ".join(f"{name} {figure(value)}" for name, value in metrics.items() if name != "per_class"))
    ranked = sorted(((v, name) for name, v in metrics["per_class"].items() if v >= 0), reverse=True)
    table = Table("class", of_class)
    for value, name in ranked[:20]:
        table.add_row(escape(name), figure(value))
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    if len(ranked) > 20:
        click.echo(f"and {len(ranked) - 20} more classes: --json shows all")


@contextmanager
def step_bar(steps: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar with loss and rate over training steps; without a terminal a line every tenth of the way."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("   train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
        left = (TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, *left, console=Console(stderr=True)) as progress:
            task = progress.add_task("train", total=steps, figures="")
            yield lambda record: progress.update(task, completed=record["step"], figures=_figures(record))
        return

    def line(record: Mapping[str, Any]) -> None:
        if record["step"] % max(1, steps // 10) == 0 or record["step"] == steps:
            click.echo(f"step {record['step']}/{steps}  {_figures(record)}", err=True)

    yield line


def _figures(record: Mapping[str, Any]) -> str:
    if "accuracy" in record:  # of a pre-training
        return f"loss {record['loss']:.3f}  accuracy {record['accuracy']:.2f}  {record['images_per_s']:.0f} images/s"
    pseudo = f" pseudo {record['pseudo']:.3f}" if record["pseudo_positives"] else ""
    return f"loss {record['human']:.3f}{pseudo}  {record['images_per_s']:.0f} images/s"

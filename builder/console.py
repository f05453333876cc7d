"""What the command line prints: bars, tables and the text of each result."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from builder.build import Built
    from builder.engine import Advance
    from builder.label import Labelled
    from builder.manifest import Manifest


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
    return rows(("predictions", done.predictions), ("labelled", did), ("unreadable", done.failures))


def describe_built(built: Built) -> dict[str, Any]:
    value: dict[str, Any] = {"pool": built.pool.id, "images": len(built.pool.images)}
    if built.labelled:
        value |= {
            "predictions": built.labelled.predictions,
            "images_labelled": built.labelled.images_labelled,
            "failures": built.labelled.failures,
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
            "image_states": manifest.images,
            "kept": manifest.kept,
            "ignored": manifest.ignored,
        }
    return value


def build_text(built: Built) -> str:
    lines: list[tuple[str, object]] = [("pool", f"{built.pool.id[:12]}  {len(built.pool.images)} images")]
    if built.labelled:
        done = built.labelled
        lines.append(
            (
                "label",
                f"{done.predictions[:12]}  {done.images_labelled or 'none'} labelled now, {done.failures} unreadable",
            )
        )
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
    left_out = [f"{n} {state}" for state, n in manifest.images.items() if n and state not in ("written", "pool")]
    why = ", ".join(
        f"{n} {reason}" for reason, n in manifest.objects.items() if n and reason not in ("kept", "predicted")
    )
    return [
        ("version", f"{manifest.name}@{manifest.version}  id {manifest.id[:12]}"),
        ("images", f"{manifest.samples} written" + "".join(f", {text}" for text in left_out)),
        (
            "objects",
            f"{manifest.kept} kept, {manifest.ignored} ignored of {manifest.objects['predicted']} predicted ({why or 'none refused'})",
        ),
    ]


def show_version(folder: Path, manifest: Manifest) -> None:
    from rich.console import Console
    from rich.table import Table

    size = sum(shard.bytes for shard in manifest.shards)
    lines = version_lines(manifest)
    lines += [
        ("shards", f"{len(manifest.shards)}, {size / 1e6:.1f} MB"),
        ("teacher", manifest.provenance["teacher"]["spec"]),
        ("folder", folder),
    ]
    click.echo(rows(*lines))
    table = Table("class", "predicted", "kept", "ignored")
    ranked = sorted(manifest.per_class.items(), key=lambda item: -item[1]["kept"])
    for name, counts in ranked[:20]:
        table.add_row(name, *(str(counts[column]) for column in ("predicted", "kept", "ignored")))
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    if len(ranked) > 20:
        click.echo(f"and {len(ranked) - 20} more classes: --json shows all")

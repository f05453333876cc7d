"""The commands that hand a version to people and to other tools."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import click

from builder.cli.options import (
    address_option,
    cluster_of,
    engine_option,
    json_option,
    open_store,
    sentences,
    store_option,
    trust_option,
    workers_option,
)
from builder.cli.output import bar, emit, rows, say
from builder.words import size_text

BROKEN_PIPE = 141
"""Exit status of a program whose reader has gone: what a shell says of one that was ended by SIGPIPE."""


@click.command()
@click.argument("version")
@click.option("--open", "show", is_flag=True, help="Open the page in the browser.")
@store_option
@workers_option
@json_option
def report(version: str, show: bool, store_root: str, workers: int | None, as_json: bool) -> None:
    """Print the path of a version's report page.

    The page shows what is in VERSION, why, and how good it is. It is written now if it was left out.
    """
    with sentences():
        from builder.versions.repair import report_page

        store = open_store(store_root)
        page = report_page(store.version(version), store, workers=workers, track=bar)
        emit(as_json, {"report": str(page)}, str(page))
        if show:
            click.launch(str(page))


@click.command()
@click.argument("version")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--format", type=click.Choice(["coco", "yolo", "voc", "masks", "classes"]), required=True, help="Format to write."
)
@click.option("--no-images", is_flag=True, help="Write labels only, which name images as the pool's source does.")
@click.option(
    "--ignored",
    type=click.Choice(["mark", "paint", "crop", "drop", "background"]),
    help="What becomes of ignored regions.  [default: paint in yolo, mark in coco and voc]",
)
@click.option("--with", "labels", help="Human labels to write beside the version's (yolo).")
@click.option("--val", help="Human labels to measure on, where those of --with have no val of their own.")
@trust_option
@store_option
@json_option
def export(
    version: str,
    out: Path,
    format: Literal["coco", "yolo", "voc", "masks", "classes"],
    no_images: bool,
    ignored: Literal["mark", "paint", "crop", "drop", "background"] | None,
    labels: str | None,
    val: str | None,
    trust: bool,
    store_root: str,
    as_json: bool,
) -> None:
    """Export a version as COCO, YOLO, VOC, masks or classes.

    Writes the images and labels of VERSION into the new folder OUT. Scores are kept: `score` in COCO and VOC, a folder
    `predictions` beside YOLO's `labels`. Masks are run lengths in COCO and polygons in YOLO. Maps go into a folder of
    masks, image classes into a folder for each class.

    Ignored regions are neither objects nor background. COCO marks them as crowds and VOC as difficult; YOLO has no
    mark, so they are painted over with what surrounds them, but for what lies under kept boxes. crop cuts images to
    what holds the kept boxes and no ignored region, drop leaves their images out, background lets trainers learn them
    as background.

    With human labels, a YOLO folder can be trained on at once: data.yaml names the images of both to train on and the
    labels' `val` to measure on, and classes stand in the order of the human labels.
    """
    with sentences():
        from builder.export.export import export_version as run_export
        from builder.hub.remote import open_version
        from builder.kinds import kind_of

        made = open_version(version, open_store(store_root, trust))
        done = run_export(
            made,
            out,
            format,
            images=not no_images,
            ignored=ignored,
            labels=labels,
            val=val,
            track=bar,
            note=lambda sentence: say(sentence, err=True),
        )
        if format == "voc" and kind_of(made.manifest.kind).outlines:
            say("voc holds only the boxes of masks: use --format coco or yolo for the masks", err=True)
        value = {"out": str(out), "format": format, **vars(done)}
        always = ("out", "format", "images", "kept", "ignored")
        shown = {name: figure for name, figure in value.items() if figure or name in always}
        emit(as_json, value, rows(*((name.replace("_", " "), figure) for name, figure in shown.items())))


@click.command()
@click.argument("version")
@click.argument("shard")
@trust_option
@store_option
def cat(version: str, shard: str, trust: bool, store_root: str) -> None:
    """Write a shard of a version to the standard output.

    SHARD is its number or name: 12, 000012, train-000012.tar. It comes as a plain tar, with its images, whether VERSION
    shares them or not; readers of WebDataset take it through a pipe:

    \b
      webdataset.WebDataset("pipe:tutelage cat cells@v2 {000000..000012}")

    What is damaged ends the command with an error before the tar's end mark, and within a file of the tar, so that its
    reader fails, too, and sees no shorter set; also when the command is killed.
    """
    with sentences():
        from builder.store.shared.joined import for_a_pipe
        from builder.store.shared.materialize import shard_named, tar_of

        made = open_store(store_root, trust).version(version)
        try:
            for piece in for_a_pipe(tar_of(made, shard_named(made, shard))):
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
        except BrokenPipeError:  # the reader has enough
            os._exit(BROKEN_PIPE)


@click.command()
@click.argument("version")
@click.argument("out")
@store_option
@workers_option
@engine_option
@address_option
@json_option
def materialize(
    version: str, out: str, store_root: str, workers: int | None, engine: str, address: str | None, as_json: bool
) -> None:
    """Write a version with its images as plain tars.

    Of a VERSION built with `shards.images: shared` this writes, into the new folder OUT, the files that it would have
    with its images inside, byte for byte, with the same id. OUT may be s3://BUCKET/PREFIX (gs://, az://): the manifest
    is then written last, and the same command goes on where it was interrupted.
    """
    with sentences():
        from builder.hub.remote import open_version
        from builder.store.shared.materialize import materialize as write

        made = open_version(version, open_store(store_root))
        with cluster_of(engine, address) as cluster:
            manifest = write(made, out, workers, bar, cluster)
        size = sum(shard.bytes for shard in manifest.shards)
        value = {"out": str(out), "id": manifest.id, "shards": len(manifest.shards), "bytes": size}
        text = rows(
            ("folder", out), ("id", manifest.id[:12]), ("shards", len(manifest.shards)), ("bytes", size_text(size))
        )
        emit(as_json, value, text)

"""The commands about versions elsewhere: publish, pull."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from builder.cli.options import (
    address_option,
    cluster_of,
    engine_option,
    json_option,
    open_store,
    sentences,
    store_option,
    workers_option,
)
from builder.cli.output import bar, emit, rows, say
from builder.words import size_text

if TYPE_CHECKING:
    from builder.hub.files import Published
    from builder.hub.pull import Pulled


@click.command()
@click.argument("version")
@click.argument("repo", metavar="ORG/NAME|URI")
@click.option("--private", is_flag=True, help="Make the repository private, if it is created now.")
@click.option("--revision", "branch", default="main", show_default=True, help="Branch to commit the version to.")
@click.option("--allow-private", is_flag=True, help="Publish although paths or names of this machine stand in it.")
@click.option("--allow-gps", is_flag=True, help="Publish images with a GPS position.")
@store_option
@workers_option
@engine_option
@address_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only list what would be sent and deleted.")
def publish(
    version: str,
    repo: str,
    private: bool,
    branch: str,
    allow_private: bool,
    allow_gps: bool,
    store_root: str,
    workers: int | None,
    engine: str,
    address: str | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Publish a version on the Hub or in a bucket.

    VERSION becomes the dataset ORG/NAME. All files are uploaded first, then one commit adds them, then a tag named like
    the version (v3) makes it citable: no reader ever sees half of it. Files that the Hub has are not sent again. You
    need a token with write access (`hf auth login`).

    With s3://BUCKET/PREFIX (gs://, az://) the files come to lie in BUCKET/PREFIX/NAME/vN/ as plain tars, each checked
    there, and the manifest last: before that there is no version, and the same command goes on. Everywhere a version
    is read, s3://BUCKET/PREFIX/NAME@vN then names it. Logins are those of AWS's own tools.
    """
    with sentences():
        from builder.hub.publish import publish as send

        made = open_store(store_root).version(version)
        with cluster_of(engine, address, dry_run) as cluster:
            done = send(
                made,
                repo,
                private=private,
                branch=branch,
                allow_private=allow_private,
                allow_gps=allow_gps,
                dry_run=dry_run,
                workers=workers,
                track=bar,
                cluster=cluster,
            )
        for warning in done.warnings:
            say(f"warning: {warning}", err=True)
        emit(as_json, asdict(done), _published(done))


def _published(done: Published) -> str:
    done_text = {
        "published": f"published as {done.repo}@{done.tag}",
        "finished": f"was committed before; the tag {done.repo}@{done.tag} was added now",
        "there": f"nothing to do: {done.repo}@{done.tag} is this version",
        "would": "nothing sent: this is what would be sent",
    }
    lines: list[tuple[str, object]] = [
        ("version", f"{done.version}  id {done.id[:12]}"),
        ("done", done_text[done.state]),
    ]
    if done.state in ("published", "would"):
        lines.append(("sent", f"{len(done.sent)} files, {size_text(done.bytes)}; {done.unchanged} were there already"))
    if done.state == "would":
        lines += [("send", name) for name in done.sent]
    lines += [("delete", name) for name in done.deleted]
    lines.append(("address", done.address if "://" in done.repo else f"{done.address}/tree/{done.tag}"))
    return rows(*lines)


@click.command()
@click.argument("ref", metavar="ORG/NAME[@VERSION]|URI[@VERSION]")
@click.option("--name", help="Name of the dataset in the store, if another than its own.")
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only list what would be fetched.")
def pull(ref: str, name: str | None, store_root: str, as_json: bool, dry_run: bool) -> None:
    """Pull a published version into the store.

    Every file is checked against the manifest. ORG/NAME@v3 names a version; @TAG, @BRANCH and @COMMIT work, too.
    Without any of them the newest version on main is pulled. s3://BUCKET/PREFIX/NAME@v3 names one in a bucket.
    """
    with sentences():
        from builder.hub.pull import pull as fetch

        done = fetch(ref, open_store(store_root), name=name, dry_run=dry_run, track=bar)
        emit(as_json, asdict(done) | {"folder": str(done.folder)}, _pulled(done))


def _pulled(done: Pulled) -> str:
    files = f"{done.fetched} files, {size_text(done.bytes)} of shards"
    done_text = {
        "pulled": f"{files} fetched now",
        "there": "nothing to do: the store has this version",
        "would": f"nothing fetched: {files} would be fetched",
    }
    version = f"{done.version}  id {done.id[:12]}"
    return rows(("version", version), ("folder", done.folder), ("done", done_text[done.state]))


COMMANDS = (publish, pull)

"""`tutelage review`: queue images for people, and pull their corrections."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from builder.cli.options import Failed, json_option, message_option, open_store, sentences, store_option, workers_option
from builder.cli.output import WIDE, bar, emit, rows, say, table

if TYPE_CHECKING:
    from builder.review.audits import Audited
    from builder.review.pull import TakenOver
    from builder.review.queues import Queue, ToolFiles


@click.group()
def review() -> None:
    """Review a version: queue images, pull corrections.

    People accept, reject, relabel, move and add labels in the App, in Label Studio or in CVAT.
    """


@review.command()
@click.argument("version")
@click.option("--budget", type=click.IntRange(1), default=200, show_default=True, help="Images to queue.")
@click.option("--again", is_flag=True, help="Also queue images that people reviewed already.")
@click.option(
    "--audit", type=click.IntRange(2), metavar="N", help="Draw N kept labels at random instead, to estimate precision."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the audit.")
@click.option(
    "--to",
    type=click.Choice(["list", "app", "labelstudio", "cvat"]),
    default="list",
    show_default=True,
    help="Print the images, tag them in the App, or write files for an annotation tool.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write for labelstudio or cvat.")
@click.option("--url-prefix", metavar="URL", help="Address of the images for Label Studio, if not OUT.images.")
@click.option("--ignored", is_flag=True, help="Also write ignored boxes; they count once they are accepted.")
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only list the images that would be queued.")
def queue(
    version: str,
    budget: int,
    again: bool,
    audit: int | None,
    seed: int,
    to: Literal["list", "app", "labelstudio", "cvat"],
    out: Path | None,
    url_prefix: str | None,
    ignored: bool,
    store_root: str,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Queue the images most worth reviewing, or draw an audit.

    Images are ranked by boxes near their threshold, rare classes, disagreement with the version before, and diversity.
    Such a queue does not estimate precision; an audit, drawn at random within score bins, does once every label it drew
    has a verdict.
    """
    tool = to in ("labelstudio", "cvat")
    if tool and not out and not dry_run:
        raise click.UsageError(f"--to {to} needs --out FILE")
    if (out or ignored) and not tool:
        raise click.UsageError("--out and --ignored belong to --to labelstudio or cvat: give that too")
    if url_prefix and to != "labelstudio":
        raise click.UsageError("--url-prefix belongs to --to labelstudio: give that too")
    with sentences():
        from builder.review import queues

        store = open_store(store_root)
        reviewed = store.version(version)
        if audit:
            queued = queues.queue_audit(reviewed, audit, store, seed=seed, dry_run=dry_run)
        else:
            queued = queues.queue(reviewed, store, budget=budget, again=again, unkept=to == "app")
            if to == "list" and not as_json and queued.candidates:
                _print_candidates(queued)
        if queued.remark:
            say(queued.remark, err=True)
        value, lines = _queue_value(queued), _queue_lines(queued)
        if not dry_run and to != "list" and queued.keys:
            if to == "app" or out is None:
                next_step = _tagged(store_root, queued)
            else:
                files = queues.write_queue(queued, to, out, url_prefix=url_prefix, ignored=ignored)
                next_step = _cvat_steps(queued, files) if to == "cvat" else _label_studio_steps(queued, files)
            value |= {"next": next_step}
            lines.append(next_step)
        why = f": {queued.why_none}" if queued.why_none else ""
        lines.append(f"{len(queued.keys)} images{'; nothing written' if dry_run and not why else ''}{why}")
        emit(as_json, value, "\n".join(lines))


def _queue_value(queued: Queue) -> dict[str, Any]:
    if queued.audit:
        return queued.audit.model_dump(mode="json")
    value = {"images": [asdict(candidate) for candidate in queued.candidates], "left_out": queued.left_out}
    return value | ({"why_none": queued.why_none} if queued.why_none else {})


def _queue_lines(queued: Queue) -> list[str]:
    """The lines below the table of candidates."""
    from builder.kinds import kind_of

    if queued.audit is None:
        reviewed = f"{queued.left_out} images that people reviewed already are left out: --again queues them too"
        return [reviewed] if queued.left_out and queued.keys else []
    audit, noun = queued.audit, kind_of(queued.version.manifest.kind).noun
    lines = [("audit", f"{len(audit.items)} {noun} of {audit.version}, seed {audit.seed}")]
    lines += [(f"score {stratum.name}", f"{stratum.drawn} of {stratum.objects} kept {noun}") for stratum in audit.bins]
    return [rows(*lines, *([("saved", str(queued.saved))] if queued.saved else []))]


def _print_candidates(queued: Queue) -> None:
    figures = ("gain", "near", "rare", "disagreement", "novelty")
    lines = [
        (candidate.key, *(f"{getattr(candidate, figure):.2f}" for figure in figures)) for candidate in queued.candidates
    ]
    table(("image", *figures), lines, numbers=figures, framed=False, width=WIDE)


def _tagged(store_root: str, queued: Queue) -> str:
    from builder.browse.tags import tag_in_app

    tag = "audit" if queued.audit else "queue"
    count = tag_in_app(open_store(store_root), queued.version, queued.keys, tag)
    return f"{count} images have the tag {tag!r} in the App: `tutelage browse {queued.version.ref}`"


def _cvat_steps(queued: Queue, files: ToolFiles) -> str:
    return (
        f"In CVAT: create a task with {files.settings} as its raw labels and the files of {files.images}, then upload "
        f"{files.tasks} as CVAT for images 1.1.\nTag finished images `reviewed`, export as CVAT for images 1.1, and "
        f"run `tutelage review pull {queued.version.ref} --from FILE`."
    )


def _label_studio_steps(queued: Queue, files: ToolFiles) -> str:
    serve = ""
    if files.images:
        serve = (
            " (started with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT="
            f"{files.images.parent.resolve()}, with {files.images.resolve()} as a local source storage that is not "
            "synced)"
        )
    return (
        f"In Label Studio{serve}: paste {files.settings} as the labelling interface, then import {files.tasks}.\n"
        f"Submit, export as JSON, and run `tutelage review pull {queued.version.ref} --from FILE`."
    )


@review.command()
@click.argument("version")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Label Studio's JSON, or CVAT's XML or ZIP.  [default: the App]",
)
@click.option(
    "--author",
    envvar="TUTELAGE_AUTHOR",
    show_envvar=True,
    help="Name of the reviewer, which is published with the version.  [default: none]",
)
@click.option("--dry-run", is_flag=True, help="Only show what was changed.")
@click.option("--no-build", is_flag=True, help="Keep the corrections, and build no version yet.")
@message_option
@store_option
@workers_option
@json_option
def pull(
    version: str,
    source: Path | None,
    author: str | None,
    dry_run: bool,
    no_build: bool,
    message: str,
    store_root: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Pull corrections and build a new version with them.

    VERSION is the one that was reviewed. Corrections are kept for later builds of the same dataset, whatever their
    thresholds and teacher.
    """
    with sentences():
        from builder.review.pull import read_answers, take_over

        store = open_store(store_root)
        reviewed = store.version(version)
        if source is not None:
            returned = read_answers(source, reviewed, author)
        else:
            from builder.browse.answers import read_app_answers

            returned = read_app_answers(reviewed, store, author)
        taken = take_over(
            returned,
            reviewed,
            store,
            build=not no_build,
            dry_run=dry_run,
            message=message,
            workers=workers,
            track=bar,
            note=lambda sentence: say(sentence, err=True),
        )
        text = rows(*_taken_lines(taken, build=not no_build and not dry_run))
        emit(as_json, _taken_value(taken), text + ("\nnothing written" if dry_run else ""))
        for name, why in taken.refused.items():
            say(f"not taken over: image {name}: {why}", err=True)
        if taken.refused:
            count, total = len(taken.refused), len(taken.refused) + taken.images
            raise Failed(f"{count} of {total} images that came back {'was' if count == 1 else 'were'} not taken over")


def _taken_value(taken: TakenOver) -> dict[str, Any]:
    value: dict[str, Any] = {
        "version": taken.version.ref,
        "images": taken.images,
        "changed_images": taken.changed_images,
        "actions": dict(taken.actions),
    }
    if taken.overrides:
        value["overrides"] = asdict(taken.overrides)
    if taken.refused:
        value["refused"] = dict(taken.refused)
    value["audits"] = [_audit_value(audited) for audited in taken.audits]
    if taken.cut:
        made = taken.cut.manifest
        value |= {"new_version": f"{made.name}@{made.version}", "id": made.id, "path": str(taken.cut.folder)}
    return value


def _taken_lines(taken: TakenOver, build: bool) -> list[tuple[str, object]]:
    lines: list[tuple[str, object]] = [
        ("came back", f"{taken.images} images of {taken.version.ref}, {taken.changed_images} with changes"),
        ("changes", ", ".join(f"{count} {action}" for action, count in taken.actions.items() if count) or "none"),
    ]
    if added := taken.overrides:
        lines.append(("overrides", f"{added.added} new, {added.changed} changed, {added.total} in force"))
    lines += [("audit", _audit_text(audited, taken.version.manifest.kind)) for audited in taken.audits]
    if taken.cut:
        made = taken.cut.manifest
        lines.append(("version", f"{made.name}@{made.version}  id {made.id[:12]}"))
    elif build:
        lines.append(("version", "none built: this one has all corrections"))
    return lines


def _audit_text(audited: Audited, kind: str) -> str:
    from builder.kinds import kind_of
    from builder.review.audits import sentence

    if audited.estimate:
        return sentence(audited, kind)
    number, noun = len(audited.audit.items), kind_of(kind).noun
    return f"{audited.missing} of its {number} {noun} have no verdict yet: no estimate until they do"


def _audit_value(audited: Audited) -> dict[str, Any]:
    from builder.review.audits import estimate_value

    value = {"name": audited.audit.name, "boxes": len(audited.audit.items), "missing": audited.missing}
    return value | {"estimate": estimate_value(audited)}

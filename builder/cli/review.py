"""`tutelage review`: which images a person should look at, and what they said of them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.options import json_option, sentences, store_option, workers_option
from builder.cli.output import bar, emit, rows

if TYPE_CHECKING:
    from builder.review.audits import Audited
    from builder.review.exchange import Returned
    from builder.review.ranking import Candidate
    from builder.rules.overrides import Action, Override
    from builder.store.manifest import Manifest
    from builder.store.store import Store


WIDTH = 140
"""Characters of a table that goes to a file or pipe."""
ACTIONS: tuple[Action, ...] = ("accept", "reject", "relabel", "move", "add")


@click.group()
def review() -> None:
    """Let people correct a version: queue images for them, pull back what they said."""


@review.command()
@click.argument("version")
@click.option("--budget", type=click.IntRange(1), default=200, show_default=True, help="Images to queue.")
@click.option("--again", is_flag=True, help="Also queue images that people went through already.")
@click.option(
    "--audit", type=click.IntRange(2), metavar="N", help="Draw N kept labels at random instead, to estimate precision."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the audit.")
@click.option(
    "--to",
    type=click.Choice(["list", "app", "labelstudio", "cvat"]),
    default="list",
    show_default=True,
    help="Print them, tag them in the App, or write what an annotation tool imports.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File for labelstudio or cvat.")
@click.option("--url-prefix", metavar="URL", help="Where Label Studio finds the images, if not in OUT.images.")
@click.option("--ignored", is_flag=True, help="Also show ignored boxes there; they count once they are accepted.")
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only list what would be queued.")
def queue(
    version: str,
    budget: int,
    again: bool,
    audit: int | None,
    seed: int,
    to: str,
    out: Path | None,
    url_prefix: str | None,
    ignored: bool,
    store_root: str,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Rank the images of VERSION by what a review is likely to change, or draw an audit of it.

    Ranked are boxes near their threshold, rare classes, disagreement with the version before, and diversity. Such a
    queue says nothing of precision; an audit, drawn at random over scores, does once all it drew has a verdict.
    """
    tool = to in ("labelstudio", "cvat")
    if tool and not out and not dry_run:
        raise click.UsageError(f"--to {to} needs --out FILE")
    if (out or ignored) and not tool:
        raise click.UsageError("--out and --ignored belong to --to labelstudio or cvat: give that too")
    if url_prefix and to != "labelstudio":
        raise click.UsageError("--url-prefix belongs to --to labelstudio: give that too")
    with sentences():
        from builder.review.objects import check_reviewable
        from builder.review.ranking import gone_through
        from builder.store.manifest import read_manifest
        from builder.store.store import Store

        store = Store(store_root)
        folder = store.version(version)
        manifest = read_manifest(folder)
        check_reviewable(manifest)
        if audit:
            keys, ids, value, text = _draw(store, folder, manifest, audit, seed, dry_run)
        else:
            skip = set() if again else gone_through(store, folder, manifest)
            asked = budget, skip, to == "app"
            keys, ids, value, text = _rank(store, folder, manifest, asked, show=to == "list" and not as_json)
        if to != "list" and not dry_run:
            said = _hand_over(store, folder, manifest, (keys, ids), (to, out, url_prefix, ignored))
            value |= {"next": said}
            text = f"{text}\n{said}".strip()
        count = f"{len(keys)} images{'; nothing written' if dry_run else ''}"
        emit(as_json, value, f"{text}\n{count}".strip())


Queued = tuple[list[str], list[str], dict[str, Any], str]
"""Keys, ids of audited objects, what --json prints, what people read."""


def _draw(store: Store, folder: Path, manifest: Manifest, count: int, seed: int, dry_run: bool) -> Queued:
    from builder.kinds import kind_of
    from builder.review import audits

    drawn = audits.draw(folder, manifest, count, seed)
    noun = kind_of(manifest.kind).noun
    lines = [("audit", f"{len(drawn.items)} {noun} of {drawn.version}, seed {drawn.seed}")]
    lines += [(f"score {one.name}", f"{one.drawn} of {one.objects} kept {noun}") for one in drawn.bins]
    if not dry_run:
        lines.append(("saved", str(audits.save(store, drawn))))
    return drawn.keys, [item.id for item in drawn.items], drawn.model_dump(mode="json"), rows(*lines)


def _rank(store: Store, folder: Path, manifest: Manifest, asked: tuple[int, set[str], bool], show: bool) -> Queued:
    """asked: the budget, the keys that are not queued, and whether images that are in no shard are."""
    from builder.review.ranking import queue as rank

    budget, skip, left_out = asked
    found = rank(store, folder, manifest, budget, skip, left_out=left_out)
    if show and found:
        _print_queue(found)
    text = f"{len(skip)} that people went through already are left out: --again queues them too" if skip else ""
    return [one.key for one in found], [], {"images": [asdict(one) for one in found], "left_out": len(skip)}, text


def _print_queue(found: Sequence[Candidate]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    names = ("gain", "near", "rare", "disagreement", "novelty")
    table.add_column("image", overflow="fold")
    for name in names:
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(one.key, *(f"{getattr(one, name):.2f}" for name in names))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)


def _hand_over(
    store: Store,
    folder: Path,
    manifest: Manifest,
    queued: tuple[Sequence[str], Sequence[str]],
    target: tuple[str, Path | None, str | None, bool],
) -> str:
    """Tag the images in the App, or write them for an annotation tool; how to go on, in two lines. queued: keys, and
    ids of audited objects; target: as the options to, out, url_prefix, ignored."""
    from builder.errors import BuildError
    from builder.review import cvat, label_studio
    from builder.review.exchange import images_folder, tasks, write_out

    (keys, audited), (to, out, url_prefix, ignored) = queued, target
    ref = f"{manifest.name}@{manifest.version}"
    if out is None:
        from builder.browse.tags import tag_in_app

        tag = "audit" if audited else "queue"
        count = tag_in_app(store, manifest, keys, tag)
        return f"{count} of them have the tag {tag!r} in the App: `tutelage browse {ref}`"
    images, extension = images_folder(out), manifest.features[0]
    shown = tasks(folder, manifest, keys, ("kept", "ignored") if ignored else ("kept",), audited)
    if to == "cvat":
        if manifest.kind == "classification":
            raise BuildError(f"{ref} holds classes of images, and CVAT is given boxes: use --to labelstudio or app")
        beside = out.with_name(f"{out.name}.labels.json")
        settings = beside, cvat.labels(manifest.classes)
        write_out(out, shown, extension, cvat.writer(manifest, len(keys)), settings, images=True)
        return (
            f"In CVAT: create a task with {beside} as its raw labels and the files of {images}, then upload {out} as "
            "CVAT for images 1.1.\nTag finished images `reviewed`, export as CVAT for images 1.1, and run `tutelage "
            f"review pull {ref} --from FILE`."
        )
    address = label_studio.prefixed(url_prefix) if url_prefix else label_studio.local_files(images.name)
    beside = out.with_name(f"{out.name}.config.xml")
    settings = beside, label_studio.config(manifest.classes, manifest.kind).encode()
    write_out(out, shown, extension, label_studio.writer(manifest, address), settings, images=not url_prefix)
    serve = (
        f" (started with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT="
        f"{images.parent.resolve()}, with {images.resolve()} as a local source storage that is not synced)"
    )
    return (
        f"In Label Studio{'' if url_prefix else serve}: paste {beside} as the labelling interface, then import {out}.\n"
        f"Submit, export as JSON, and run `tutelage review pull {ref} --from FILE`."
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
    help="Who reviewed, where no file says so; it is published with the version.  [default: your login name]",
)
@click.option("--dry-run", is_flag=True, help="Only say what was found.")
@click.option("--no-build", is_flag=True, help="Keep what was said, and make no version of it yet.")
@store_option
@workers_option
@json_option
def pull(
    version: str,
    source: Path | None,
    author: str | None,
    dry_run: bool,
    no_build: bool,
    store_root: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Take over what people said of VERSION, and make a new version of it.

    VERSION is the one they looked at. What they said is kept for later builds of the same dataset, whatever their
    thresholds and teacher.
    """
    with sentences():
        from builder.cut.recall import new_version
        from builder.review.objects import check_reviewable, overrides_of
        from builder.review.ranking import remember
        from builder.rules.overrides import OVERRIDES, add_overrides, check_labels, load_overrides, read_overrides
        from builder.store.manifest import read_manifest
        from builder.store.store import Store

        store = Store(store_root)
        folder = store.version(version)
        manifest = read_manifest(folder)
        check_reviewable(manifest)
        author = author or login_name()
        returned = _returned(store, folder, manifest, source, author)
        known = load_overrides(folder / OVERRIDES) if OVERRIDES in manifest.files else []
        new = overrides_of(returned.shown, returned.edited, returned.images, returned.authors)
        value, lines = _said(manifest, returned, new)
        if manifest.kind == "instance" and (drawn := sum(one.action in ("move", "add") for one in new)):
            said = f"{drawn} mask is" if drawn == 1 else f"{drawn} masks are"
            click.echo(f"{said} lost: a box that people moved or drew has none, and is an ignore region", err=True)
        if dry_run:
            check_labels(new, manifest.classes, "correct it where it was given, then pull again")
        else:
            added = add_overrides(store, manifest.name, new, manifest.classes, known)
            remember(store, manifest.name, [returned.images[key] for key in returned.touched])
            value["overrides"] = asdict(added)
            lines.append(("overrides", f"{added.added} new, {added.changed} changed, {added.total} in force"))
            if added.changed:
                click.echo(f"{added.changed} verdicts differ from earlier ones: the later ones hold", err=True)
        audited = _audited(store, manifest, returned, write=not dry_run)
        value["audits"] = [_audit_value(one) for one in audited]
        lines += [("audit", _audit_text(one, manifest.kind)) for one in audited]
        if not dry_run and not no_build:
            if _is_news(manifest, read_overrides(store, manifest.name)):
                cut = new_version(store, folder, workers, bar)
                made = cut.manifest
                value |= {"new_version": f"{made.name}@{made.version}", "id": made.id, "path": str(cut.folder)}
                lines.append(("version", f"{made.name}@{made.version}  id {made.id[:12]}"))
            else:
                lines.append(("version", "none made: this one has all that was said"))
        emit(as_json, value, rows(*lines) + ("\nnothing written" if dry_run else ""))


def _said(
    manifest: Manifest, returned: Returned, new: Sequence[Override]
) -> tuple[dict[str, Any], list[tuple[str, object]]]:
    """How much came back, for machines and for people."""
    actions = Counter(one.action for one in new)
    version, changed = f"{manifest.name}@{manifest.version}", len({one.sha256 for one in new})
    counted = {name: actions[name] for name in ACTIONS}
    value = {"version": version, "images": len(returned.images), "changed_images": changed, "actions": counted}
    return value, [
        ("came back", f"{len(returned.images)} images of {version}, {changed} with changes"),
        ("changes", ", ".join(f"{n} {name}" for name, n in counted.items() if n) or "none"),
    ]


def login_name() -> str:
    """Of the user; `unknown` where the system has none."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _returned(store: Store, folder: Path, manifest: Manifest, source: Path | None, author: str) -> Returned:
    from builder.review.exchange import Returned, collect
    from builder.review.objects import shown_objects
    from builder.review.read import read_annotations

    if source is not None:
        return collect(read_annotations(source, author), folder, manifest)
    from builder.browse.app import read_edits

    edited, hashes = read_edits(store, folder, manifest, author)
    shown = [one for some in shown_objects(folder, hashes, elsewhere=hashes) for one in some]
    return Returned(edited, hashes, (), shown, dict.fromkeys(hashes, author), touched=hashes)


def _audited(store: Store, manifest: Manifest, returned: Returned, write: bool) -> list[Audited]:
    """The audits of the version that this review says something of, with what it says."""
    from builder.review import audits

    found = []
    for one in audits.read(store, manifest):
        said = audits.judge(one.audit, returned.edited, returned.images, returned.looked_at)
        if said:
            who = {id: returned.authors[id.partition("#")[0]] for id in said}
            found.append(audits.record(store, one, said, who) if write else audits.joined(one, said, who))
    return found


def _audit_text(audited: Audited, kind: str) -> str:
    from builder.kinds import kind_of
    from builder.review.audits import sentence

    if audited.estimate:
        return sentence(audited, kind)
    number, noun = len(audited.audit.items), kind_of(kind).noun
    return f"{audited.missing} of its {number} {noun} have no verdict yet: no estimate before they have"


def _audit_value(audited: Audited) -> dict[str, Any]:
    from builder.review.audits import estimate_value

    value = {"name": audited.audit.name, "boxes": len(audited.audit.items), "missing": audited.missing}
    return value | {"estimate": estimate_value(audited)}


def _is_news(manifest: Manifest, overrides: Sequence[Override]) -> bool:
    """Whether a version lacks some of the overrides that are in force."""
    from builder.rules.overrides import overrides_digest

    applied = manifest.provenance.overrides
    return overrides_digest(overrides) != (applied.digest if applied else None)

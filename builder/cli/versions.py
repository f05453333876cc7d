"""The commands about what is in a store: explain, recut, verify, fsck, tag, rm, gc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.options import (
    Failed,
    allow_code_option,
    json_option,
    message_option,
    open_store,
    sentences,
    store_option,
    workers_option,
)
from builder.cli.output import bar, emit, rows, say
from builder.words import size_text

if TYPE_CHECKING:
    from builder.versions.explain import Explanation, Reason
    from builder.versions.garbage import Found
    from builder.versions.health import Verified
    from builder.versions.walk import Fault


@click.command()
@click.argument("version")
@click.argument("key")
@click.option(
    "--picture", type=click.Path(path_type=Path, dir_okay=False), help="Write a PNG of the image with its boxes."
)
@store_option
@json_option
def explain(version: str, key: str, picture: Path | None, store_root: str, as_json: bool) -> None:
    """Explain what became of an image and its labels.

    Prints the outcome of the image in VERSION and of every label predicted on it, with the reasons. KEY is the image's
    key or its name in the source, or the beginning of its key or SHA-256.
    """
    with sentences():
        from builder.hub.remote import open_version
        from builder.versions.explain import explain as find_reasons

        store = open_store(store_root)
        opened = open_version(version, store)
        explanation = find_reasons(opened, key, store)
        if picture:
            from builder.report.pictures import draw_image

            draw_image(opened, explanation.key, picture)
        emit(as_json, asdict(explanation), "" if as_json else _explanation_text(explanation))


def _explanation_text(explanation: Explanation) -> str:
    head = rows(
        ("version", explanation.version),
        ("image", explanation.key),
        ("name", explanation.name or "unknown"),
        ("sha256", explanation.sha256 or "unknown"),
        ("state", f"{explanation.state}: {explanation.why}"),
    )
    lines = [f"\n{reason.outcome}: {reason.label}{_where(reason)}\n  {reason.why}" for reason in explanation.objects]
    return "\n".join([head, *lines, *(f"\n{sentence}" for sentence in explanation.unmet)])


def _where(reason: Reason) -> str:
    """Score and place of a label, which tell it apart from the others of its image."""
    if reason.pixels is not None:
        return f", {reason.pixels} pixels of mean score {reason.score:.2f}"
    at = reason.box and " at x {:.1f} to {:.1f}, y {:.1f} to {:.1f}".format(*reason.box[::2], *reason.box[1::2])
    return f" {reason.score:.4g}{at or ''}"


NOTHING = {False: "no problems", True: "every file has its hash"}


@click.command()
@click.argument("version")
@click.option("--repair", is_flag=True, help="Rebuild damaged shards and files from the pool and the predictions.")
@click.option("--quick", is_flag=True, help="Compare the hashes of its files alone; decode no image, read no label.")
@store_option
@workers_option
@json_option
def verify(version: str, repair: bool, quick: bool, store_root: str, workers: int | None, as_json: bool) -> None:
    """Check every byte of a version.

    Reads all files of VERSION, decodes its images, holds every label against the shards, the index and labels.parquet,
    counts again what the manifest counts, and prints what is wrong. Exits with 1 if anything is. A version that was
    whole once is damaged by nothing that --quick does not find.
    """
    with sentences():
        from builder.versions.health import verify as check

        store = open_store(store_root)
        made = store.version(version, claimed=False)
        checked = check(made, store, repair=repair, quick=quick, workers=workers, track=bar)
        wrong, repaired = ([problem.what for problem in part] for part in (checked.problems, checked.repaired))
        text = [f"repaired: {what}" for what in repaired] + (wrong or [f"{checked.version.folder}: {NOTHING[quick]}"])
        value = {"version": str(checked.version.folder), "problems": wrong, "repaired": repaired}
        emit(as_json, value, "\n".join(text))
        if wrong:
            count = f"{len(wrong)} problem{'' if len(wrong) == 1 else 's'}"
            raise Failed(f"{count} in {version}: {_advice(version, repair, checked)}")


def _advice(version: str, repair: bool, checked: Verified) -> str:
    if checked.only_strays:
        return "move files that are not part of it elsewhere, and restore what was edited"
    if repair:
        return "they remain after the repair: build it again into another store and compare"
    return f"`tutelage verify --repair {version}` rebuilds what is damaged"


@click.command()
@click.option("--repair", is_flag=True, help="Scan, label or build again what is bad, and sweep leftovers.")
@click.option("--adopt", is_flag=True, help="Give what was written before digests existed its digest.")
@allow_code_option
@store_option
@workers_option
@json_option
def fsck(repair: bool, adopt: bool, allow_code: bool, store_root: str, workers: int | None, as_json: bool) -> None:
    """Check every byte of a store.

    Reads pools, predictions, versions, tags, reviews, history and caches, and lists what is bad and how it can be made
    again, what has no digest to check it by, and what killed commands left. Exits with 1 if anything is bad.

    --repair replaces a thing only by what is proved to be the same as before: run it where the images and the teacher
    of the recipes are. --adopt trusts what is there now; its digests are marked as unverified before today.
    """
    with sentences():
        from builder.versions.fsck import fsck as check

        store = open_store(store_root)
        checked = check(store, repair=repair, adopt=adopt, allow_code=allow_code, workers=workers, track=bar)

        def lines(faults: Sequence[Fault]) -> list[dict[str, str]]:
            return [{**asdict(fault), "path": relpath(fault.path, store.root)} for fault in faults]

        adopted = [relpath(path, store.root) for path in checked.adopted]
        value = {"faults": lines(checked.faults), "repaired": lines(checked.repaired), "adopted": adopted}
        emit(as_json, {"store": store_root, **value}, "" if as_json else _state_text(store_root, value))
        if checked.bad:
            count = f"{len(checked.bad)} thing{'' if len(checked.bad) == 1 else 's'} in {store_root}"
            advice = "what remains needs you" if repair else "`tutelage fsck --repair` makes again what it can"
            raise Failed(f"{count} {'is' if len(checked.bad) == 1 else 'are'} bad: {advice}")


def _state_text(store_root: str, value: dict[str, Any]) -> str:
    repaired = [f"repaired: {fault['path']}: {fault['what']}" for fault in value["repaired"]]
    adopted = [f"adopted: {path}" for path in value["adopted"]]
    left = [
        f"{fault['state']}: {fault['path']}: {fault['what']}" + (f"; {fault['again']}" if fault["again"] else "")
        for fault in value["faults"]
    ]
    return "\n".join([*repaired, *adopted, *(left or [f"{store_root}: no problems"])])


@click.command()
@click.argument("ref", metavar="VERSION|NAME")
@click.argument("tag", required=False)
@click.option("--delete", is_flag=True, help="Remove the tag: NAME TAG, or NAME@TAG.")
@click.option("--force", is_flag=True, help="Move the tag if another version has it.")
@store_option
@json_option
def tag(ref: str, tag: str | None, delete: bool, force: bool, store_root: str, as_json: bool) -> None:
    """Tag a version, or list the tags of a dataset.

    VERSION can then be named NAME@TAG. Without TAG the tags of dataset NAME are listed.
    """
    name, _, rest = ref.partition("@")
    if delete and bool(tag) == bool(rest):
        raise click.UsageError("--delete needs NAME TAG, or NAME@TAG")
    with sentences():
        store = open_store(store_root)
        if delete:
            store.untag(name, deleted := tag or rest)
            emit(as_json, {"deleted": f"{name}@{deleted}"}, f"tag {name}@{deleted} is deleted")
            return
        if tag:
            new = store.tag(ref, tag, move=force)
            emit(as_json, asdict(new), f"{name}@{new.name} stands for {new.version}, id {new.id[:12]}")
            return
        store.version(name)
        tags = store.tags(name)
        text = (
            rows(*((f"{name}@{t.name}", f"{t.version}  id {t.id[:12]}") for t in tags))
            if tags
            else f"{name} has no tags"
        )
        emit(as_json, {"tags": [asdict(t) for t in tags]}, text)


@click.command()
@click.argument("version")
@click.option("--set", "settings", multiple=True, required=True, metavar="KEY=VALUE", help="A rule: keep.score=0.6.")
@click.option("--allow-empty", is_flag=True, help="Write a version in which the rules keep nothing, too.")
@message_option
@store_option
@workers_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only check the rules.")
def recut(
    version: str,
    settings: tuple[str, ...],
    allow_empty: bool,
    message: str,
    store_root: str,
    workers: int | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Cut a version again with other rules.

    The new version is a child of VERSION, from the pool and the predictions in the store, or from a pulled version's
    own shards. No teacher is called.
    """
    with sentences():
        from builder.cut import recall

        store = open_store(store_root)
        before = store.version(version)
        keep = recall.changed_rules(before, settings)
        recall.check_cut_again(store, before)
        if remark := recall.lacks(store, before):
            say(remark, err=True)
        if dry_run:
            emit(as_json, {"keep": keep.model_dump(mode="json")}, f"{before.ref} can be cut again so; nothing written")
            return
        made = recall.recut(
            before, store, settings, workers=workers, allow_empty=allow_empty, message=message, track=bar
        )
        value = {"version": made.ref, "id": made.manifest.id, "path": str(made.folder)}
        kept = f"{made.manifest.kept} kept, {made.manifest.ignored} ignored on {made.manifest.samples} images"
        emit(as_json, value, rows(("version", f"{made.ref}  id {made.manifest.id[:12]}"), ("objects", kept)))


@click.command()
@click.argument("version")
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
def rm(version: str, store_root: str, as_json: bool, dry_run: bool) -> None:
    """Remove a version.

    VERSION stays while it has a tag, or while a version that was made from it is there. Its number is not used again.
    Its pool and predictions stay until `tutelage gc`; reviews stay.
    """
    with sentences():
        from builder.versions.removal import remove

        store = open_store(store_root)
        opened = store.version(version)
        if version == opened.dataset:
            raise click.UsageError(f"say which version of {version} to remove, such as its newest, {opened.ref}")
        removed = remove(opened, store, dry_run=dry_run)
        shared = f"; {size_text(removed.shared)} stay, which other versions share" if removed.shared else ""
        did = "would be removed; nothing was" if dry_run else "removed"
        text = f"{removed.version}, id {removed.id[:12]}, {did}: {size_text(removed.bytes)} freed{shared}"
        emit(as_json, {**asdict(removed), "removed": not dry_run}, text)


@click.command()
@click.option("--predictions", is_flag=True, help="Also remove predictions of images that are in no pool any more.")
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
def gc(predictions: bool, store_root: str, as_json: bool, dry_run: bool) -> None:
    """Remove what nothing in the store refers to.

    Removes unfinished versions, leftovers of killed runs and pools that no version needs. Complete versions stay.
    Predictions took a teacher's time: they stay unless you give --predictions. Nothing is removed while a scan, label
    or build is running, which may need it.
    """
    with sentences():
        from builder.versions.garbage import collect, find

        unused = (find if dry_run else collect)(open_store(store_root), predictions=predictions)
        garbage = [{"path": str(g.path), "kind": g.kind, "why": g.why, "bytes": g.bytes} for g in unused.garbage]
        value = {"removed": not dry_run, "bytes": sum(g.bytes for g in unused.garbage), "garbage": garbage}
        emit(as_json, {**value, "busy": unused.busy}, _garbage_text(unused, dry_run))


def _garbage_text(unused: Found, dry_run: bool) -> str:
    total = size_text(sum(g.bytes for g in unused.garbage))
    lines = [f"{g.path}  {size_text(g.bytes)}  {g.kind}: {g.why}" for g in unused.garbage]
    did = "would be removed; nothing was" if dry_run else "removed"
    count = f"{len(unused.garbage)} item{'' if len(unused.garbage) == 1 else 's'}"
    lines.append(f"{count}, {total}, {did}" if unused.garbage else "nothing to remove")
    if unused.busy:
        lines.append(f"in use, so nothing of it was removed, and no pools or predictions: {', '.join(unused.busy)}")
    return "\n".join(lines)


COMMANDS = (explain, recut, verify, fsck, tag, rm, gc)

"""The commands about versions that are there: log, diff, explain, verify, tag, gc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli.options import Failed, json_option, open_store, sentences, store_option, workers_option
from builder.cli.output import WIDE, bar, emit, rows, table
from builder.words import size_text

if TYPE_CHECKING:
    from builder.versions.changes import Changes, Diff
    from builder.versions.explain import Explanation, Reason
    from builder.versions.garbage import Found
    from builder.versions.health import Verified
    from builder.versions.history import Entry


@click.command()
@click.argument("name", required=False)
@store_option
@json_option
def log(name: str | None, store_root: str, as_json: bool) -> None:
    """List all versions, or those of dataset NAME, with where each came from and how precise it is certified to be."""
    with sentences():
        from builder.versions.history import log as read_log

        entries = read_log(open_store(store_root), name)
        if as_json:
            emit(True, {"versions": [asdict(entry) for entry in entries]}, "")
        elif entries:
            _print_log(entries)
        else:
            click.echo(f"no versions in {store_root} yet: run `tutelage build` first")


def _print_log(entries: Sequence[Entry]) -> None:
    columns = ("version", "id", "parent", "pool", "teacher", "samples", "kept", "certified", "tags", "size")
    lines = [
        (
            f"{entry.dataset}@{entry.version}",
            entry.id[:12] or entry.state,
            entry.parent or "-",
            entry.pool[:12] or "-",
            entry.teacher or "-",
            "-" if entry.samples is None else entry.samples,
            "-" if entry.kept is None else entry.kept,
            _certified(entry),
            ", ".join(entry.tags) or "-",
            size_text(entry.bytes),
        )
        for entry in entries
    ]
    table(columns, lines, numbers=("samples", "kept", "size"), framed=False, width=WIDE)
    for entry in entries:
        if entry.note:
            click.echo(entry.note)


def _certified(entry: Entry) -> str:
    if entry.certified is None:
        return "unknown" if entry.id else "-"
    some = "" if entry.certified_groups == entry.groups else f" ({entry.certified_groups} of {entry.groups} groups)"
    return f"{entry.certified:g}{some}"


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--limit", type=click.IntRange(0), default=10, show_default=True, help="Images to list.")
@store_option
@json_option
def diff(a: str, b: str, limit: int, store_root: str, as_json: bool) -> None:
    """Say what version B has otherwise than version A, by class and by image."""
    with sentences():
        from builder.versions.diff import diff as compare

        store = open_store(store_root)
        found = compare(store.version(a), store.version(b), limit=limit)
        if as_json:
            emit(True, {"a": a, "b": b, "empty": found.empty, **asdict(found)}, "")
        else:
            _print_diff(found, a, b)


def _print_diff(found: Diff, a: str, b: str) -> None:
    images = found.images
    if found.empty:
        click.echo(f"{a} and {b} hold the same objects on the same {images['common']} images")
        return
    click.echo(
        rows(
            ("images", f"{images['added']} added, {images['removed']} removed, {images['common']} in both"),
            ("changed", f"{images['changed']} of those in both"),
        )
    )
    if found.people:
        told = ", ".join(f"{a} → {b} {reason}" for reason, (a, b) in found.people.items())
        click.echo(f"by people: {told}")
    if found.classes:
        lines = sorted(found.classes.items(), key=lambda item: (*(-n for n in item[1].weight), item[0]))
        _print_changes("class", [("all", found.total), *lines])
    if found.most_changed:
        _print_changes("image", list(found.most_changed.items()))
    for what, keys in (("added", found.added_images), ("removed", found.removed_images)):
        if keys:
            more = f" and {images[what] - len(keys)} more" if images[what] > len(keys) else ""
            click.echo(f"images {what}: {', '.join(keys)}{more}")


def _print_changes(first: str, lines: Sequence[tuple[str, Changes]]) -> None:
    columns = ("added", "removed", "moved", "re-scored", "kept→ignored", "ignored→kept")
    fields = ("added", "removed", "moved", "rescored", "kept_to_ignored", "ignored_to_kept")
    counts = [(name, *(getattr(changes, field) for field in fields)) for name, changes in lines]
    table((first, *columns), counts, numbers=columns, framed=False, width=WIDE)


@click.command()
@click.argument("version")
@click.argument("key")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Write a PNG of it with its boxes.")
@store_option
@json_option
def explain(version: str, key: str, picture: Path | None, store_root: str, as_json: bool) -> None:
    """Say what became of an image in VERSION and why, and of every label predicted on it.

    KEY is the image's key or its name in the source, or the beginning of its key or SHA-256.
    """
    with sentences():
        from builder.versions.explain import explain as find_reasons

        store = open_store(store_root)
        made = store.version(version)
        found = find_reasons(store, made, key)
        if picture:
            from builder.report.pictures import draw_image

            draw_image(made, found.key, picture)
        emit(as_json, asdict(found), "" if as_json else _explanation(found))


def _explanation(found: Explanation) -> str:
    head = rows(
        ("version", found.version),
        ("image", found.key),
        ("name", found.name or "unknown"),
        ("sha256", found.sha256 or "unknown"),
        ("state", f"{found.state}: {found.why}"),
    )
    lines = [f"\n{one.outcome}: {one.label}{_where(one)}\n  {one.why}" for one in found.objects]
    return "\n".join([head, *lines, *(f"\n{sentence}" for sentence in found.unmet)])


def _where(one: Reason) -> str:
    """Which of an image's labels it is."""
    if one.pixels is not None:
        return f", {one.pixels} pixels of mean score {one.score:.2f}"
    at = one.box and " at x {:.1f} to {:.1f}, y {:.1f} to {:.1f}".format(*one.box[::2], *one.box[1::2])
    return f" {one.score:.4g}{at or ''}"


@click.command()
@click.argument("version")
@click.option("--repair", is_flag=True, help="Build bad shards and files again, from the pool and the predictions.")
@store_option
@workers_option
@json_option
def verify(version: str, repair: bool, store_root: str, workers: int | None, as_json: bool) -> None:
    """Re-read every byte of VERSION and say what is wrong. Exit code 1 if anything is."""
    with sentences():
        from builder.versions.health import verify as check

        checked = check(open_store(store_root), version, repair=repair, workers=workers, track=bar)
        wrong, repaired = ([problem.what for problem in part] for part in (checked.problems, checked.repaired))
        text = [f"repaired: {what}" for what in repaired] + (wrong or [f"{checked.folder}: all is well"])
        value = {"version": str(checked.folder), "problems": wrong, "repaired": repaired}
        emit(as_json, value, "\n".join(text))
        if wrong:
            raise Failed(f"{len(wrong)} problems in {version}: {_advice(version, repair, checked)}")


def _advice(version: str, repair: bool, checked: Verified) -> str:
    if checked.only_strays:
        return "move what is not part of it elsewhere"
    if repair:
        return "they are left after a repair: build it again into another store and compare"
    return f"`tutelage verify --repair {version}` builds again what is bad"


@click.command()
@click.argument("ref", metavar="VERSION|NAME")
@click.argument("tag", required=False)
@click.option("--delete", is_flag=True, help="Remove the tag: NAME TAG, or NAME@TAG.")
@click.option("--force", is_flag=True, help="Move a tag that another version has.")
@store_option
@json_option
def tag(ref: str, tag: str | None, delete: bool, force: bool, store_root: str, as_json: bool) -> None:
    """Give VERSION a TAG, which then stands for it as NAME@TAG; without TAG list those of dataset NAME."""
    name, _, rest = ref.partition("@")
    if delete and bool(tag) == bool(rest):
        raise click.UsageError("--delete needs NAME TAG, or NAME@TAG")
    with sentences():
        store = open_store(store_root)
        if delete:
            store.untag(name, gone := tag or rest)
            emit(as_json, {"deleted": f"{name}@{gone}"}, f"{name}@{gone} is no longer a tag")
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
@click.option("--predictions", is_flag=True, help="Also predictions of images that are in no pool any more.")
@store_option
@json_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def gc(predictions: bool, store_root: str, as_json: bool, dry_run: bool) -> None:
    """Remove what nothing refers to: unfinished versions, leftovers of killed runs, pools that no version needs.

    Complete versions stay. Predictions cost a teacher's time: they stay unless you say --predictions. While a scan,
    label or build runs, which may need it, nothing goes.
    """
    with sentences():
        from builder.versions.garbage import collect, find

        found = (find if dry_run else collect)(open_store(store_root), predictions=predictions)
        garbage = [{"path": str(g.path), "kind": g.kind, "why": g.why, "bytes": g.bytes} for g in found.garbage]
        value = {"removed": not dry_run, "bytes": sum(g.bytes for g in found.garbage), "garbage": garbage}
        emit(as_json, {**value, "busy": found.busy}, _garbage_text(found, dry_run))


def _garbage_text(found: Found, dry_run: bool) -> str:
    total = size_text(sum(g.bytes for g in found.garbage))
    lines = [f"{g.path}  {size_text(g.bytes)}  {g.kind}: {g.why}" for g in found.garbage]
    did = "would be removed; nothing was" if dry_run else "removed"
    count = f"{len(found.garbage)} thing{'' if len(found.garbage) == 1 else 's'}"
    lines.append(f"{count}, {total}, {did}" if found.garbage else "nothing to remove")
    if found.busy:
        lines.append(f"in use, so left alone with all pools and predictions: {', '.join(found.busy)}")
    return "\n".join(lines)


COMMANDS = (log, diff, explain, verify, tag, gc)

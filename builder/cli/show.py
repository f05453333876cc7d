"""`tutelage show`, and a version's facts as lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.options import json_option, open_store, sentences, store_option
from builder.cli.output import WIDE, class_table, emit, rows, say

if TYPE_CHECKING:
    from builder.build import Built
    from builder.foresee import Foresight
    from builder.label.labelling import Labelled
    from builder.label.profile import Profile
    from builder.store.manifest import Manifest
    from builder.store.version import Version


@click.command()
@click.argument("ref", metavar="VERSION|PREDICTIONS|POOL")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a PNG of some images with their kept, ignored and dropped boxes.",
)
@store_option
@json_option
def show(ref: str, picture: Path | None, store_root: str, as_json: bool) -> None:
    """Show what is in a version, predictions or a pool.

    A version is NAME, NAME@v3, NAME@TAG or a folder; predictions and pools are id prefixes.
    """
    with sentences():
        from builder.versions.show import show as look_up

        store = open_store(store_root)
        shown = look_up(ref, store)
        if shown.version is None:
            emit(as_json, dict(shown.facts), pool_text(shown.facts))
            return
        if picture:
            from builder.report.pictures import contact_sheet

            contact_sheet(shown.version, picture)
        if as_json:
            say(shown.version.manifest.model_dump_json())
            return
        from builder.review import audits

        manifest = shown.version.manifest
        audited = audits.latest(store, manifest)
        audit = [("audit", audits.sentence(audited, manifest.kind))] if audited else []
        show_version(shown.version, audit)


def pool_text(facts: Mapping[str, Any]) -> str:
    """What a pool, or predictions, say of themselves, as lines."""
    from builder.scan.entries import passed_over_text

    shown = dict(facts)
    if others := shown.pop("passed_over", None):
        shown["passed over"] = passed_over_text(others)
    return rows(*shown.items())


def describe_label(done: Labelled) -> str:
    did = (
        f"{done.images_labelled} of {done.images} images labelled now"
        if done.images_labelled
        else f"nothing to do: all {done.images} images are labelled already"
    )
    return rows(("predictions", done.predictions), ("labelled", did), ("unreadable", done.failed))


def profile_value(profile: Profile | None) -> dict[str, Any]:
    """What --json has of a profile, if there is one."""
    return {"profile": profile.describe()} if profile else {}


def show_profile(profile: Profile | None) -> None:
    """Where the time of labelling went, on stderr."""
    from builder.label.profile import AHEAD

    if profile is None:
        return
    value, ahead = profile.describe(), f"of {profile.workers} threads"
    say(f"{value['images']} images in {value['seconds']:.1f} s, {value['images_per_second']:.1f} images/s", err=True)
    for part, took in value["parts"].items():
        rate = f"{value['images'] / took['seconds']:10.0f}/s" if took["seconds"] else ""
        note = f"  {ahead}" if part in AHEAD else ""
        say(f"{part:<13}{took['seconds']:8.1f} s{took['share']:7.1%}{rate:>13}{note}", err=True)
    say(value["reading"], err=True)


def foreseen_text(name: str, seen: Foresight) -> str:
    """What a build would find and take."""
    from builder.words import count, duration, size_text

    labels = ", ".join(f"{part} {count(images)} images" for part, images in seen.labels.items())
    shown = ", ".join(seen.classes[:12]) + (", …" if len(seen.classes) > 12 else "")
    new = f", {count(seen.new)} of them not scanned yet" if seen.new else ""
    work = f"would label {count(seen.unlabelled)} images, in about {duration(seen.seconds)}"
    facts = [
        ("pool", f"{count(seen.images)} images ({size_text(seen.bytes)}){new}"),
        *([("labels", labels)] if labels else []),
        ("classes", f"{len(seen.classes)} of {seen.kind} labels: {shown}"),
        ("teacher", work if seen.unlabelled else "nothing to do: all images are labelled"),
        ("disk", f"a version needs about {size_text(seen.needed)}; {size_text(seen.free)} are free"),
    ]
    return rows(*facts) + f"\nrecipe {name} is valid; nothing written"


def describe_built(built: Built) -> dict[str, Any]:
    from builder.evidence.claims import claims
    from builder.report.headline import headline

    value: dict[str, Any] = {"pool": built.pool.id, "images": len(built.pool)}
    if built.pool.passed_over:
        value["passed_over"] = dict(built.pool.passed_over)
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
            "overrides": overrides.stored() if (overrides := manifest.provenance.overrides) else None,
            "image_states": manifest.images,
            "kept": manifest.kept,
            "ignored": manifest.ignored,
            "standing": claims(manifest).standing,
            "quality": headline(manifest),
            "not_certified": [
                {"classes": group.classes, "threshold": group.threshold, "reason": group.reason}
                for group in manifest.provenance.thresholds
                if group.rule == "precision" and not group.certified
            ],
        }
    return value


def build_text(built: Built) -> str:
    from builder.scan.entries import hides_images, passed_over_text

    lines: list[tuple[str, object]] = [("pool", f"{built.pool.id[:12]}  {len(built.pool)} images")]
    if hides_images(built.pool.passed_over):
        lines.append(("passed over", passed_over_text(built.pool.passed_over)))
    if built.labelled:
        done = built.labelled
        now = f"{done.images_labelled or 'none'} labelled now, {done.failed} unreadable"
        lines.append(("label", f"{done.predictions[:12]}  {now}"))
    if built.cut:
        manifest, wrote = built.cut.manifest, built.cut.shards_written
        lines += version_lines(manifest, f"{manifest.name}@{manifest.version}")
        lines.append(("folder", built.cut.folder))
        did = (
            f"{wrote} of {len(manifest.shards)} shards written now"
            if wrote
            else "nothing to do: this version was complete already"
        )
        lines.append(("done", did))
    return rows(*lines)


def version_lines(manifest: Manifest, ref: str) -> list[tuple[str, object]]:
    """ref: what the version is called in its store, which may have pulled it under another name."""
    from builder.evidence.claims import claims
    from builder.report.headline import headline, uncertified
    from builder.report.quality import expected_quality
    from builder.rules.fates import describe

    findings = [finding for finding in manifest.provenance.gates if finding.status != "ok"]
    in_shards = ("written", "pool", "tombstone")
    left_out = [f"{n} {state}" for state, n in manifest.images.items() if n and state not in in_shards]
    if manifest.tombstones:
        left_out.append(f"{manifest.stored} in the shards, {len(manifest.tombstones)} of them to be skipped")
    why = ", ".join(
        f"{n} {reason}" for reason, n in manifest.objects.items() if n and reason not in ("kept", "predicted")
    )
    quality = headline(manifest)
    quality = quality if claims(manifest).holding else expected_quality(manifest)[0]
    return [
        ("version", f"{ref}  id {manifest.id[:12]}"),
        ("images", f"{manifest.samples} written" + "".join(f", {text}" for text in left_out)),
        (
            "objects",
            f"{manifest.kept} kept, {manifest.ignored} ignored of {manifest.objects['predicted']} predicted"
            + (f" ({why})" if why else ""),
        ),
        *([("review", describe(overrides))] if (overrides := manifest.provenance.overrides) else []),
        ("quality", quality),
        *(("not certified", text) for text in uncertified(manifest)),
        *((finding.name, f"{finding.status}: {finding.message}") for finding in findings),
    ]


def show_version(version: Version, more: Sequence[tuple[str, object]] = ()) -> None:
    """A version's facts, `more` of them after its own, and its classes."""
    from builder.report.headline import class_cells, class_note

    manifest = version.manifest
    size = sum(shard.bytes for shard in manifest.shards)
    lines = version_lines(manifest, version.ref)
    lines += [
        ("shards", f"{len(manifest.shards)}, {size / 1e6:.1f} MB"),
        ("teacher", manifest.provenance.teacher.spec),
        ("folder", version.folder),
    ]
    if parent := manifest.provenance.parent:
        removed = f", {len(manifest.tombstones)} images removed since" if manifest.tombstones else ""
        lines.append(("parent", f"{parent.version}  id {parent.id[:12]}{removed}"))
    say(rows(*lines, *more))
    ranked = sorted(manifest.per_class.items(), key=lambda item: -item[1]["kept"])
    counted = ("predicted", "kept", "ignored")
    classes = [(name, *(str(counts[column]) for column in counted)) for name, counts in ranked]
    by_itself = class_cells(manifest)
    if not by_itself:
        class_table(("class", *counted), classes)
        return
    class_table(
        ("class", *counted, "certified", "precision on tune", "recall on tune"),
        [(*line, *by_itself[line[0]]) for line in classes],
        width=WIDE,
    )
    say(class_note(manifest))

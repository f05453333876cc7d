"""Queues of images for people to review: the ones most worth a look, or an audit; and the files that annotation tools
import."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.cut.recall import check_cut_again, lacks
from builder.errors import BuildError
from builder.kinds import kind_of
from builder.review import audits, cvat, label_studio
from builder.review.audits import Audit
from builder.review.exchange import images_folder, tasks, write_out
from builder.review.objects import check_reviewable
from builder.review.ranking import Candidate, gone_through, rank
from builder.store.store import Store, check_store
from builder.store.version import Version, check_version

Tool = Literal["labelstudio", "cvat"]


@dataclass(frozen=True)
class Queue:
    """Images of a version that people are to look at.

    keys: of the images, the most worth a look first; of an audit in order. candidates: why each is worth it; empty for
    an audit. audit: the sample that was drawn; saved: its file in the store. left_out: how many images people went
    through already, which are not queued again. remark: what of the version nobody can correct here, "" for nothing
    (builder.cut.recall.lacks). why_none: why no image is queued, "" where some are.
    """

    version: Version
    keys: tuple[str, ...]
    candidates: tuple[Candidate, ...] = ()
    audit: Audit | None = None
    saved: Path | None = None
    left_out: int = 0
    remark: str = ""
    why_none: str = ""


def queue(version: Version, store: Store, *, budget: int = 200, again: bool = False, unkept: bool = False) -> Queue:
    """Rank the images of a version by what a review is likely to change (builder.review.ranking). Nothing is written,
    and nothing about precision may be estimated from such a queue.

    Args:
        version: the one to review.
        store: knows what people reviewed already, and the version before.
        budget: at most so many images.
        again: also images that people went through already.
        unkept: also images that are in no shard, since nothing on them is kept; the App alone can show them.

    Returns:
        The images, the most worth a look first.

    Raises:
        BuildError: the version holds maps, its labels cannot be read, or no version could be cut with the corrections
            here; for a budget below 1.
    """
    check_version(version)
    check_store(store)
    if budget < 1:
        raise BuildError(f"budget = {budget}: give at least 1")
    check_reviewable(version.manifest)
    check_cut_again(store, version)
    skip = set() if again else gone_through(store, version)
    candidates = rank(store, version, budget, skip, left_out=unkept)
    keys = tuple(candidate.key for candidate in candidates)
    why_none = "" if keys else _why_none(store, version, skip, unkept)
    return Queue(version, keys, tuple(candidates), left_out=len(skip), remark=lacks(store, version), why_none=why_none)


def _why_none(store: Store, version: Version, skip: Collection[str], unkept: bool) -> str:
    """Why there is no image to queue, and what to do about it."""
    manifest, noun = version.manifest, kind_of(version.manifest.kind).noun
    if skip and rank(store, version, 1, left_out=unkept):
        return f"people went through all images of {version.ref} that are worth a look: --again queues them once more"
    if not manifest.objects.get("predicted"):
        return f"the teacher predicted nothing on the images of {version.ref}: look at its pool, classes and floor"
    if not manifest.kept:
        return f"nothing is kept in {version.ref}: build it with lower thresholds first"
    return (
        f"on no image of {version.ref} are {noun} near their threshold, of a rare class, or other than in the version "
        f"before: --audit N draws some of its {manifest.kept} kept {noun} at random"
    )


def queue_audit(version: Version, count: int, store: Store, *, seed: int = 0, dry_run: bool = False) -> Queue:
    """Draw kept labels of a version at random, to estimate its precision once all of them have a verdict.

    Args:
        version: the one to audit.
        count: labels to draw, at least 2.
        store: gets the audit.
        seed: the same one draws the same labels.
        dry_run: write nothing.

    Returns:
        The images that the labels are on.

    Raises:
        BuildError: the version holds maps, nothing is kept in it, its labels cannot be read, or no version could be cut
            with the corrections here.
    """
    check_version(version)
    check_store(store)
    check_reviewable(version.manifest)
    check_cut_again(store, version)
    audit = audits.draw(version, count, seed)
    saved = None if dry_run else audits.save(store, audit)
    return Queue(version, tuple(audit.keys), audit=audit, saved=saved, remark=lacks(store, version))


@dataclass(frozen=True)
class ToolFiles:
    """What an annotation tool imports. tasks: the images with their labels; settings: the tool's labelling interface or
    labels; images: the folder of image files, None where the tool finds them by their address."""

    tasks: Path
    settings: Path
    images: Path | None


def write_queue(
    queued: Queue, tool: Tool, out: Path | str, *, url_prefix: str | None = None, ignored: bool = False
) -> ToolFiles:
    """Write a queue for an annotation tool: all of its files or none.

    Args:
        queued: what `queue` or `queue_audit` returned.
        tool: labelstudio or cvat.
        out: the file of the tasks; the others are named after it.
        url_prefix: of Label Studio, where it finds the images; None writes them into the folder OUT.images.
        ignored: show ignored boxes, too; they count once a person accepts them.

    Returns:
        The files.

    Raises:
        BuildError: a file is there already, the tool cannot hold these labels, or the version cannot be read.
    """
    manifest = queued.version.manifest
    extension = manifest.features[0]
    out = Path(out)
    images = None if url_prefix else images_folder(out)
    audited = [item.id for item in queued.audit.items] if queued.audit else []
    outcomes = ("kept", "ignored") if ignored else ("kept",)
    shown = tasks(queued.version, queued.keys, outcomes, audited)
    if out.suffix.lower() == ".zip":
        wanted = out.with_suffix(".xml" if tool == "cvat" else ".json")
        raise BuildError(f"{out} would be no ZIP archive: what {tool} reads is one file, such as {wanted}")
    match tool:
        case "cvat":
            if kind_of(manifest.kind).single:
                raise BuildError(
                    f"{queued.version.ref} holds classes of images, and CVAT is given boxes: use --to labelstudio or "
                    "app"
                )
            settings = out.with_name(f"{out.name}.labels.json")
            labels, writer = cvat.labels(manifest.classes), cvat.writer(manifest, len(queued.keys))
        case "labelstudio":
            settings = out.with_name(f"{out.name}.config.xml")
            local = label_studio.local_files(images_folder(out).name)
            address = label_studio.prefixed(url_prefix) if url_prefix else local
            labels = label_studio.config(manifest.classes, single=kind_of(manifest.kind).single).encode()
            writer = label_studio.writer(manifest, address)
        case _:
            raise BuildError(f"tool {tool!r}: give labelstudio or cvat")
    write_out(out, shown, extension, writer, (settings, labels), images=images is not None)
    return ToolFiles(out, settings, images)

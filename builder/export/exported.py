"""What came of an export: counts, and what people should know of it in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from builder.export.ignored import CHANGED, Ignored
from builder.kinds import Format, kind_of
from builder.store.manifest import Manifest
from builder.words import count


@dataclass(frozen=True)
class Exported:
    """What was written.

    images: of the version; kept: objects, of maps pixels, of classes images; ignored: regions (or pixels) that are
    marked as such; left_out: boxes that are not there: those that the format cannot say, and all of dropped images;
    removed: images of the version's tombstones, skipped. painted: ignored regions that were painted over; covered:
    those that were not, lying for the most part under kept boxes; changed: images whose pixels are not the original's;
    dropped: images left out for their ignored regions; twins: images left out for being human-labelled, too. labelled,
    val: images with human labels to train and to measure on, and human_objects their objects; both: images of val
    that are among the labelled ones.
    """

    images: int
    kept: int
    ignored: int
    left_out: int
    removed: int
    painted: int = 0
    covered: int = 0
    changed: int = 0
    dropped: int = 0
    twins: int = 0
    labelled: int = 0
    val: int = 0
    human_objects: int = 0
    both: int = 0


def remarks(done: Exported, format: Format, how: Ignored, images: bool) -> Iterator[str]:
    """A sentence for each thing that people should know before they train on it. how: what became of ignored regions.
    images: whether image files were written."""
    if done.painted:
        yield (
            f"ignored regions painted over with what surrounds them: {count(done.painted)}, which trainers would else "
            f"learn as background; pixels differ from the originals' in {count(done.changed)} of "
            f"{count(done.images + done.labelled)} images ({CHANGED})"
        )
    if done.covered:
        yield (
            f"ignored regions left as they are for lying mostly under kept boxes: {count(done.covered)}; nothing of a "
            "kept box is painted over"
        )
    if how == "crop" and (done.changed or done.dropped):
        yield (
            f"images cut to what holds their kept boxes and no ignored region: {count(done.changed)} ({CHANGED}); left "
            f"out, since they cannot be: {count(done.dropped)}"
        )
    if how == "drop" and done.dropped:
        yield f"images left out for their ignored regions: {count(done.dropped)}"
    if how == "background" and done.left_out:
        yield f"ignored regions without a mark: {count(done.left_out)}, which trainers learn as background"
    if done.twins:
        yield f"images that people labelled, too: {count(done.twins)}, each written once, with the human labels"
    if done.both:
        yield (
            f"images to measure on that are trained on, too: {count(done.both)} of {count(done.val)}, which flatters "
            "every figure: keep each in one"
        )
    if format == "yolo" and not images:
        yield "data.yaml names no images, since none were written: add train and val, the folders where they lie"
    elif format == "yolo" and not done.val:
        yield (
            "val in data.yaml names the pseudo-labelled images themselves, which measures nothing: let it name images "
            "with human labels (--with LABELS writes them beside)"
        )


MARKS = {
    "coco": "Ignored regions are marked as crowds (`iscrowd` and `ignore` 1). pycocotools counts them neither way; a "
    "trainer that merely leaves crowds out learns them as background (`--ignored paint` helps there).",
    "voc": "Ignored regions are marked as `difficult`. A trainer that leaves these out learns them as background, one "
    "that keeps them learns them as objects (`--ignored paint` helps there).",
    "masks": "255 in a mask is void: neither a class nor background.",
}
"""What the README of an export says of ignored regions that are marked."""


README = "README.md"


def title(manifest: Manifest, format: Format) -> str:
    """The first line of what lies beside the files."""
    return f"# {manifest.name}@{manifest.version} as {format}\n"


def readme(manifest: Manifest, format: Format, how: Ignored, done: Exported, told: Sequence[str]) -> str:
    """Markdown that lies beside the files. told: `remarks`."""
    noun = kind_of(manifest.kind).noun
    human = (
        f" Beside them lie {count(done.labelled)} images with human labels to train on and {count(done.val)} to "
        f"measure on, with {count(done.human_objects)} objects."
        if done.val
        else ""
    )
    notes = [*told, *([MARKS[format]] if how == "mark" and done.ignored and format in MARKS else [])]
    return (
        f"{title(manifest, format)}\n"
        f"{count(done.images)} images with pseudo-labels, {count(done.kept)} {noun}.{human}\n"
        f"Version id: `{manifest.id}`.\n" + "".join(f"\n- {note.rstrip('.')}.\n" for note in notes)
    )

"""What tells versions of boxes, masks, maps and classes apart: one record of facts and words for each kind of label.

How samples of a kind are written and checked: builder.cut.kinds; how they are shown: builder.report.kinds and
builder.browse.kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from builder.errors import BuildError
from teachers.base import Kind

Format = Literal["coco", "yolo", "voc", "masks", "classes"]
"""Of an export."""


@dataclass(frozen=True)
class LabelKind:
    """name: as a teacher's description says. member: what a sample has beside its image and its JSON, "" for nothing.
    column: of labels.parquet, beyond those of every kind. fields: of the label JSON that hold the labels. truth: the
    kind of human labels that it is compared with. task: the Hub's name of it. formats: of an export. outlines: objects
    have a mask each. pixels: pixels are counted, which nobody can correct one by one. single: an image has one label;
    it is in no sample without one, and may be in several.

    Words: noun, what is counted, in the plural, and one of them; human, what human labels of it hold, and what to give
    for them; labels, what a version holds of its images; ignored, what becomes of those between two thresholds; missed,
    what labels say nothing of; limits, what is to be known of them; right, when one of them is right; read, what the
    fields of a sample mean, in Markdown.
    """

    name: Kind
    member: str
    column: pa.Field | None
    fields: tuple[str, ...]
    truth: Literal["detection", "classification", "semantic"]
    task: str
    formats: tuple[Format, ...]
    noun: str
    singular: str
    human: tuple[str, str]
    labels: str
    ignored: str
    missed: str
    limits: tuple[str, ...]
    right: str
    read: str
    outlines: bool = False
    pixels: bool = False
    single: bool = False

    @property
    def overlaps(self) -> bool:
        """Whether its labels are right by how much they overlap."""
        return self.fields == ("objects",)


_OBJECTS = """\
`objects.bbox` is COCO `[x, y, width, height]` in pixels of the upright image, `category` a position in the class list,
`ignore: true` a region that is neither object nor background, `source` who decided on it: `teacher` or `human`.
"""
_UNMARKED = "Objects that the teacher missed are not marked; only ignore regions say where something may be."

DETECTION = LabelKind(
    name="detection",
    member="",
    column=None,
    fields=("objects",),
    truth="detection",
    task="object-detection",
    formats=("coco", "yolo", "voc"),
    noun="boxes",
    singular="box",
    human=("boxes", "COCO, VOC or YOLO labels"),
    labels="boxes that a teacher model drew",
    ignored="ignore regions (likely objects, too uncertain to teach)",
    missed="objects that are missed",
    limits=(
        "Boxes come from a model: its mistakes repeat, and a class it does not know is background here.",
        _UNMARKED,
    ),
    right="overlaps an object of its class by an IoU of at least",
    read=_OBJECTS,
)
INSTANCE = LabelKind(
    name="instance",
    member="",
    column=pa.field("rle", pa.binary()),
    fields=("objects",),
    truth="detection",
    task="image-segmentation",
    formats=("coco", "yolo", "voc"),
    noun="masks",
    singular="mask",
    human=("masks", "a COCO JSON with segmentation"),
    labels="masks that a teacher model drew",
    ignored="ignore regions (likely objects, too uncertain to teach)",
    missed="objects that are missed",
    limits=(
        "Masks come from a model: its mistakes repeat, and a class it does not know is background here.",
        _UNMARKED,
    ),
    right="overlaps the mask of an object of its class by an IoU of at least",
    read=_OBJECTS
    + """\
`segmentation` holds the mask of each object as the `counts` of COCO's compressed run-length code, of the size of the
image: `pycocotools.mask.decode({"size": [height, width], "counts": counts})`. `area` is the mask's, in pixels.
""",
    outlines=True,
)
SEMANTIC = LabelKind(
    name="semantic",
    member="seg.png",
    column=pa.field("pixels", pa.int32()),
    fields=("pixels",),
    truth="semantic",
    task="image-segmentation",
    formats=("masks",),
    noun="pixels",
    singular="pixel",
    human=("maps", "a folder of images/, masks/ and classes.txt"),
    labels="maps of classes that a teacher model drew",
    ignored="nearly sure, and void like all others",
    missed="pixels that are void",
    limits=(
        "Maps come from a model: its mistakes repeat, and a class it does not know is given another name or void.",
        "Void pixels (255) are no background: leave them out of every loss and every measure.",
    ),
    right="has the class that people gave it",
    read="""\
`seg.png` is an 8-bit grey PNG of the size of the image: a position in the class list, and 255 (void) where the teacher
is not sure enough. Read it as it is: webdataset's `decode("pil")` makes three equal channels of it. Resize it by
nearest neighbour only. `pixels` counts them by class: kept, ignored and dropped (both void).
""",
    pixels=True,
)
CLASSIFICATION = LabelKind(
    name="classification",
    member="cls",
    column=None,
    fields=("label", "score", "source"),
    truth="classification",
    task="image-classification",
    formats=("classes",),
    noun="images",
    singular="image",
    human=("image classes", "a folder for each class"),
    labels="classes that a teacher model named",
    ignored="nearly sure, and left out like all others",
    missed="images that are left out",
    limits=(
        "Classes come from a model: its mistakes repeat, and a class it does not know is given another name.",
        "An image has one class here, though it may show several; those of unsure class are left out.",
    ),
    right="has the class that people gave it",
    read="""\
`cls`, the same as `label`, is a position in the class list (a hard label), `score` its probability; the soft label
stands beside it, the teacher's probability of each class. `source` says who decided: `teacher` or `human`. An image may
stand in several samples, so that rare classes are seen more often: `copy` counts them, and the key of a copy ends in
`-r1`, `-r2`, …
""",
    single=True,
)

KINDS = (DETECTION, INSTANCE, SEMANTIC, CLASSIFICATION)


def kind_of(name: str) -> LabelKind:
    """The kind of this name. Raises BuildError for one that this Tutelage does not know."""
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise BuildError(f"labels of kind {name!r} are unknown here: update tutelage")
